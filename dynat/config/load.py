"""From files to an Experiment: a preset, params.yaml over it, `--config` over that.

A preset is a whole experiment. A `null` in params.yaml means "as the preset says". A run starts from the
preset's `training:` and changes what its row names; the same holds for attacks and their defaults.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from dynat.config import names
from dynat.config.attacks import Attack, Probing
from dynat.config.layers import merge, parsed, read_yaml
from dynat.config.parts import Dataset, Threat
from dynat.config.schema import Experiment, Run
from dynat.config.strict import ConfigError, nearest

PRESETS = Path("config/presets")
PARAMS = Path("params.yaml")
FAR = 4
"""A training's radius may be so many times the threat's or as small a share; beyond, one of them was forgotten."""


Model = TypeVar("Model", bound=BaseModel)

# What a preset or params.yaml may hold at the top, and the sections merged key by key.
SECTIONS = ("dataset", "threat", "training", "runs", "external", "attacks", "probing")
TOP_LEVEL = (*SECTIONS, "preset", "beta", "seeds", "methods", "threads", "headline", "plugins", "extends")


def load(params: Mapping[str, Any] | Path = PARAMS, *, presets: Path = PRESETS) -> Experiment:
    """The experiment that params describe; `ConfigError` says where and why it cannot be run."""
    if isinstance(params, Path):
        params = read_yaml(params)
    given = {key: parsed(value) for key, value in params.items() if value is not None}
    _known_top_level(given, "params.yaml")
    preset_name = str(given.get("preset", "digits"))
    return _resolve(preset_name, _preset(preset_name, presets), given)


def of_content(content: Mapping[str, Any], name: str) -> Experiment:
    """An experiment that lies in no file: `content` is what a preset would hold, `name` what it is called."""
    _known_top_level(content, name)
    return _resolve(name, dict(content), {})


def _preset(name: str, presets: Path, above: tuple[str, ...] = ()) -> dict[str, Any]:
    """A preset's content, laid over that of the one it extends, if any. Its `methods` chooses among all runs."""
    file = presets / f"{name}.yaml"
    if not file.exists():
        shipped = [path.stem for path in presets.glob("*.yaml")]
        raise ConfigError(f"preset: there is no {file}: {nearest(name, shipped)}")
    if name in above:
        raise ConfigError(f"{file}: extends itself: {' -> '.join((*above, name))}")
    content = {key: value for key, value in read_yaml(file).items() if value is not None}
    _known_top_level(content, str(file))
    base = content.pop("extends", None)
    return content if base is None else merge(_preset(str(base), presets, (*above, name)), content)


def _folder_name(name: str, where: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ConfigError(
            f"{where}: '{name}' becomes the name of a folder or file: letters, digits, '.', '-', '_' only"
        )


def _known_top_level(content: Mapping[str, Any], where: str) -> None:
    for key in content:
        if key not in TOP_LEVEL:
            raise ConfigError(f"{where}: unknown key '{key}': {nearest(str(key), TOP_LEVEL)}")
    for section in SECTIONS:
        if section == "attacks" and isinstance(content.get(section), list):
            continue
        if not isinstance(content.get(section, {}), Mapping):
            raise ConfigError(f"{where}: {section}: expected 'key: value' lines")


def _resolve(preset_name: str, preset: dict[str, Any], given: dict[str, Any]) -> Experiment:
    top = {**preset, **{key: value for key, value in given.items() if key not in SECTIONS}}
    section = {name: merge(_mapping(preset.get(name)), _mapping(given.get(name))) for name in SECTIONS}
    if isinstance(given.get("attacks"), list):  # a list chooses, a mapping changes and adds
        section["attacks"] = {name: section["attacks"][name] for name in map(str, given["attacks"])}
    named = top.get("plugins", ())
    plugins = (named,) if isinstance(named, str) else tuple(named)
    names.import_plugins(plugins)

    rows = _selected(section["runs"], top.get("methods"), section["external"]) | _external(
        section["external"], section["runs"]
    )
    threat = _checked(Threat, section["threat"], "threat")
    attacks = {name: _attack(name, row, threat) for name, row in section["attacks"].items()}
    if not attacks:
        raise ConfigError(f"attacks: name at least one: {', '.join(sorted(names.ATTACKS))}, pgd-20, cw-20")
    headline = top.get("headline")
    chosen = isinstance(given.get("attacks"), list) and "headline" not in given
    if headline is None or (chosen and headline not in attacks):  # a preset's goes with the attack that nobody chose
        headline = list(attacks)[-1]
    return _checked(
        Experiment,
        {
            "plugins": plugins,
            "preset": preset_name,
            "dataset": _checked(Dataset, section["dataset"], "dataset"),
            "threat": threat,
            "runs": {name: _run(name, row, section["training"], top, threat) for name, row in rows.items()},
            "seeds": {name: _seeds(name, row, top, given) for name, row in rows.items()},
            "attacks": attacks,
            "probing": _checked(Probing, section["probing"], "probing"),
            "threads": top.get("threads", 1),
            "headline": headline,
        },
        "",
    )


def _mapping(value: Any) -> dict[str, Any]:
    """A section; `attacks` may be a plain list of names."""
    if isinstance(value, list):
        return {str(name): {} for name in value}
    return dict(value or {})


def _selected(rows: dict[str, Any], methods: Any, external: Mapping[str, Any]) -> dict[str, Any]:
    """The runs that `methods` chooses; those of `external` are rows in any case, and may be named."""
    if methods in (None, "all"):
        return rows
    wanted = [methods] if isinstance(methods, str) else list(methods)
    if not wanted:
        raise ConfigError(f"methods: choose at least one: {', '.join(rows)}")
    for name in wanted:
        if name not in rows and name not in external:
            raise ConfigError(f"methods: unknown run '{name}': {nearest(str(name), rows)}")
    return {name: row for name, row in rows.items() if name in wanted}


def _external(section: dict[str, Any], runs: dict[str, Any]) -> dict[str, Any]:
    """Rows for networks that others trained: {name: {checkpoint: FILE, network: NAME}}, and what it does to pixels."""
    rows = {}
    for name, given in section.items():
        where = f"external.{name}"
        row = _row(given, where)
        if not {"checkpoint", "network"} <= set(row) <= {"checkpoint", "network", "mean", "std"}:
            raise ConfigError(
                f"{where}: give checkpoint (a file) and network (such as wrn34-10), mean and std where it wants "
                "standardised pixels, and nothing else"
            )
        if name in runs:
            raise ConfigError(f"{where}: a run has this name already")
        options = {key: row[key] for key in ("mean", "std") if row.get(key) is not None}
        rows[name] = {
            "method": "external",
            "target": row["network"],
            "checkpoint": row["checkpoint"],
            "options": options,
        }
    return rows


def _run(name: str, row: Any, training: dict[str, Any], top: dict[str, Any], threat: Threat) -> Run:
    where = f"runs.{name}"
    _folder_name(name, where)
    row = _row(row, where)
    fields = dict(row) if row.get("method") == "external" else merge(training, row)
    if isinstance(fields.get("inner", {}), Mapping):
        inner = dict(fields.get("inner", {}))
        inner["eps"] = threat.eps if inner.get("eps") is None else inner["eps"]
        fields["inner"] = inner
    # A default guide, beta or clean forward is for the runs that read them; on the others it is absent,
    # so that changing it touches nothing else.
    dynamic = fields.get("labels") == "dynamic"
    facts = names.METHODS.get(str(fields.get("method")))
    guided = dynamic or (facts is not None and facts.guide == "always")
    if not guided and "guide" not in row:
        fields.pop("guide", None)
    if dynamic and fields.get("beta") is None:
        fields["beta"] = top.get("beta", 1.0)
    elif not dynamic and "beta" not in row:
        fields.pop("beta", None)
    if fields.get("clean_forward") is None:
        fields["clean_forward"] = guided and not (facts is not None and facts.forwards_clean)
    fields.pop("seeds", None)
    run = _checked(Run, fields, where)
    if threat.norm == "linf" and run.inner.eps is not None and run.inner.eps >= 1:
        raise ConfigError(f"{where}.inner.eps: {run.inner.eps:g} is outside (0,1): write 8/255 rather than 8")
    if run.inner.eps is not None and not threat.eps / FAR <= run.inner.eps <= threat.eps * FAR:
        raise ConfigError(
            f"{where}.inner.eps: {run.inner.eps:g} is far from the threat's {threat.norm} eps {threat.eps:g}: "
            f"set training.inner.eps={threat.eps:g} and training.inner.step_size={threat.eps / 4:g} too"
        )
    if run.inner.step_size is None and run.inner.eps is not None:
        run = run.model_copy(update={"inner": run.inner.model_copy(update={"step_size": run.inner.eps / 4})})
    return run


def _seeds(name: str, row: Any, top: dict[str, Any], given: dict[str, Any]) -> Any:
    """Seeds that a person asks for hold for every run; else a row's own come before the preset's."""
    row = _mapping(row)
    if row.get("method") == "external":
        return [0]
    seeds = given["seeds"] if "seeds" in given else row.get("seeds", top.get("seeds", [0]))
    seeds = [seeds] if isinstance(seeds, int) else seeds
    if seeds == []:
        raise ConfigError("seeds: name at least one, such as [0]")
    if isinstance(seeds, list) and len(set(map(str, seeds))) < len(seeds):
        raise ConfigError(f"runs.{name}.seeds: {seeds} names a seed twice")
    return seeds


def _attack(name: str, row: Any, threat: Threat) -> Attack:
    where = f"attacks.{name}"
    _folder_name(name, where)
    fields = {**names.attack_from_name(name), **_row(row, where)}
    if "kind" not in fields:
        catalogue = [*names.ATTACKS, "pgd-20", "cw-20"]
        raise ConfigError(f"{where}: unknown attack '{name}': {nearest(name, catalogue)}; or give it a kind")
    attack = _checked(Attack, fields, where)
    facts = names.ATTACKS[attack.kind]
    norm = attack.norm or threat.norm
    if norm not in facts.norms:
        raise ConfigError(
            f"{where}: attack '{attack.kind}' measures in {facts.norms[0]} and the threat model in {norm}: "
            f"set norm: {facts.norms[0]} and an eps of its own"
        )
    eps = threat.eps if attack.eps is None else attack.eps
    if norm == "linf" and eps >= 1:
        raise ConfigError(f"{where}.eps: {eps:g} is outside (0,1): write 8/255 rather than 8")
    defaults: dict[str, Any] = {
        "steps": facts.steps,
        "step_size": 0.01 if attack.kind == "cw-l2" else eps if attack.kind == "fgsm" else eps / 4,
        "start": "none" if attack.kind == "fgsm" else "uniform",
        "searches": 9,
    }
    chosen = {name: value for name, value in defaults.items() if name in facts.reads and getattr(attack, name) is None}
    return attack.model_copy(update={"eps": eps, "norm": norm, **chosen})


def _row(row: Any, where: str) -> dict[str, Any]:
    if row is None:
        return {}
    if not isinstance(row, Mapping):
        raise ConfigError(f"{where}: expected 'key: value' lines, found {row!r}")
    return dict(row)


def _checked(model: type[Model], fields: Mapping[str, Any], where: str) -> Model:
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise ConfigError("\n".join(_said(problem, where) for problem in error.errors())) from None


def _said(problem: Any, where: str) -> str:
    """One line a person can act on: the field, the reason, what was given."""
    field = ".".join(part for part in (where, *map(str, problem["loc"])) if part and part != "[key]")
    reason = problem["msg"].removeprefix("Value error, ")
    given = problem.get("input")
    shown = f" (given: {given!r})" if isinstance(given, str | int | float | bool) else ""
    return f"{field}: {reason}{shown}" if field else f"{reason}{shown}"


def digest(*parts: Any) -> str:
    """A short name for a value: equal values, equal names; any difference, another name."""
    plain = [part.model_dump(mode="json") if isinstance(part, BaseModel) else part for part in parts]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]
