"""From what is written down to an Experiment: rows are selected, defaults that depend on other values are filled in.

A run starts from `training:` and changes what its row names; runs and attacks take `eps` and `norm` from the threat
model where they name none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from dynat.config import plugin_modules, registry
from dynat.config.attacks import AttackConfig, SanityConfig
from dynat.config.base import ConfigError, nearest, problems, shortened
from dynat.config.checkpoint import Checkpoint
from dynat.config.corruptions import CorruptionsConfig
from dynat.config.dataset import DatasetConfig, ExtraImagesConfig, ExtraUse, ThreatModel
from dynat.config.experiment import Experiment
from dynat.config.init import check_sources
from dynat.config.merging import ChosenRows, Layer, LayerRows, merge
from dynat.config.names import attack_from_name, file_name
from dynat.config.preset_input import PresetInput
from dynat.config.report import ReportConfig
from dynat.config.run import Run

MAX_RATIO = 4
"""A training radius may differ from the threat model's by this factor; beyond, one of them was probably forgotten."""

Model = TypeVar("Model", bound=BaseModel)


def resolve(name: str, preset: PresetInput, given: PresetInput) -> Experiment:
    """The experiment that `given` (params.yaml and the command line) makes of a preset."""
    merged = preset.with_layer(given)
    plugin_modules.import_plugins(merged.plugins or ())
    threat = checked(ThreatModel, merged.threat or {}, "threat.")
    dataset = checked(DatasetConfig, merged.dataset or {}, "dataset.")
    attacks = {key: resolve_attack(key, row, threat) for key, row in _attack_rows(preset, given).items()}
    if not attacks:
        raise ConfigError(f"attacks: name at least one: {', '.join(sorted(registry.ATTACKS))}, pgd-20, cw-20")
    runs, checkpoints = merged.runs or {}, merged.checkpoints or {}
    selected = _selected(runs, merged.select, checkpoints)
    experiment = checked(
        Experiment,
        {
            "plugins": merged.plugins or (),
            "preset": name,
            "dataset": dataset,
            "threat": threat,
            "runs": {key: resolve_run(key, row, merged, threat, dataset) for key, row in selected.items()},
            "checkpoints": {key: _checkpoint(key, row, runs) for key, row in checkpoints.items()},
            "groups": _groups(merged.groups or {}, [*runs, *checkpoints], [*selected, *checkpoints]),
            "seeds": {key: _seeds(row, preset, given) for key, row in selected.items()} | dict.fromkeys(checkpoints, 0),
            "attacks": attacks,
            "corruptions": None
            if merged.corruptions is None
            else checked(CorruptionsConfig, merged.corruptions, "corruptions."),
            "sanity": checked(SanityConfig, merged.sanity or {}, "sanity."),
            "report": checked(ReportConfig, merged.report or {}, "report."),
            "threads": merged.threads or 1,
            "shards": merged.shards or 1,
            "headline": _headline(preset, given, attacks),
        },
    )
    check_sources(experiment, runs)
    return experiment


def checked(model: type[Model], fields: Mapping[str, Any], prefix: str = "") -> Model:
    """The model of these fields, or a `ConfigError` with a line for each problem that starts with `prefix`."""
    try:
        return model.model_validate(dict(fields))
    except ValidationError as error:
        raise ConfigError("\n".join(problems(error, prefix))) from None


def _selected(runs: dict[str, Any], select: tuple[str, ...] | None, checkpoints: Mapping[str, Any]) -> dict[str, Any]:
    """The runs that `select` names; checkpoints are rows in any case and may be named."""
    if select in (None, ("all",)):
        return runs
    if not select:
        raise ConfigError(f"select: choose at least one: {', '.join([*runs, *checkpoints])}")
    for name in select:
        if name not in runs and name not in checkpoints:
            raise ConfigError(f"select: unknown run '{shortened(name)}': {nearest(name, [*runs, *checkpoints])}")
    return {name: row for name, row in runs.items() if name in select}


def _groups(groups: Mapping[str, Any], known: list[str], chosen: list[str]) -> dict[str, tuple[str, ...]]:
    """The groups with those of their rows that are in the experiment."""
    title_of: dict[str, str] = {}
    for title, names in groups.items():
        for name in names or ():
            where = f"groups.{shortened(title)}"
            if name not in known:
                raise ConfigError(f"{where}: unknown run '{shortened(name)}': {nearest(name, known)}")
            if name in title_of:
                raise ConfigError(f"{where}: '{shortened(name)}' is in the group '{title_of[name]}' already")
            title_of[name] = title
    present = {title: tuple(name for name in chosen if title_of.get(name) == title) for title in groups}
    return {title: names for title, names in present.items() if names}


def resolve_run(
    name: str, row: Any, merged: PresetInput, threat: ThreatModel, dataset: DatasetConfig | None = None
) -> Run:
    """The recipe of a row of `runs:`, started from `training:`."""
    where = f"runs.{shortened(name)}"
    _file_name(name, "run", where)
    row = _row(row, where)
    fields = merge(merged.training or {}, row, Layer(Run))
    # A default guide, beta or clean forward is for the runs that read them; on the others it is absent,
    # so that changing it changes nothing else.
    dynamic = fields.get("labels") == "dynamic"
    info = registry.METHODS.get(str(fields.get("method")))
    guided = dynamic or (info is not None and info.guide == "always")
    if not guided and "guide" not in row:
        fields.pop("guide", None)
    if dynamic and fields.get("beta") is None:
        fields["beta"] = 1.0 if merged.beta is None else merged.beta
    elif not dynamic and "beta" not in row:
        fields.pop("beta", None)
    if fields.get("clean_forward") is None:
        fields["clean_forward"] = guided and not (info is not None and info.forwards_clean)
    if dataset is not None and dataset.source in registry.UNMIRRORED:
        fields["augmentation"] = {"flip": False, **_row(fields.get("augmentation"), f"{where}.augmentation")}
    fields.pop("seeds", None)
    fields["extra"] = _extra(fields.get("extra"), None if dataset is None else dataset.extra, where)
    run = checked(Run, fields, f"{where}.")
    for field in ("target", "guide"):
        if (network := getattr(run, field)) is not None:
            _check_network(network, f"{where}.{field}")
    return _with_radius(run, threat, where)


def _check_network(name: str, where: str) -> None:
    """Only of what a user writes: results name networks of packages that need not be installed to read them."""
    try:
        registry.check_network(name)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _extra(given: Any, images: ExtraImagesConfig | None, where: str) -> ExtraUse | None:
    """How a run uses the data set's extra images; None if it does not."""
    if images is None:
        if given is not None:
            raise ConfigError(f"{where}.extra: there are no extra images: set dataset.extra: {{path: ..., ratio: ...}}")
        return None
    default = {"ratio": images.ratio, "labels": images.labels}
    use = checked(ExtraUse, {**default, **_row(given, f"{where}.extra")}, f"{where}.extra.")
    return use if use.ratio else None


def _refuse_step(step_size: float, norm: str, where: str) -> None:
    if norm == "linf" and step_size >= 1:
        raise ConfigError(f"{where}.step_size: {step_size:g} is as large as all of [0,1]: write 2/255 rather than 2")


def _with_radius(run: Run, threat: ThreatModel, where: str) -> Run:
    """The run with the radius and step size of its inner attack, which by default follow the threat model."""
    eps = threat.eps if run.inner.eps is None else run.inner.eps
    if threat.norm == "linf" and eps >= 1:
        raise ConfigError(f"{where}.inner.eps: {eps:g} is outside (0,1): write 8/255 rather than 8")
    if not threat.eps / MAX_RATIO <= eps <= threat.eps * MAX_RATIO:
        raise ConfigError(
            f"{where}.inner.eps: {eps:g} is far from the threat's {threat.norm} eps {threat.eps:g}: "
            f"set training.inner={{eps: {threat.eps:g}, step_size: {threat.eps / 4:g}}} too, "
            f"and {where}.inner if the run has an eps of its own"
        )
    step_size = eps / 4 if run.inner.step_size is None else run.inner.step_size
    _refuse_step(step_size, threat.norm, f"{where}.inner")
    inner = run.inner.model_copy(update={"eps": eps, "step_size": step_size})
    return run.model_copy(update={"inner": inner})


def _checkpoint(name: str, row: Any, runs: Mapping[str, Any]) -> Checkpoint:
    where = f"checkpoints.{shortened(name)}"
    _file_name(name, "run", where)
    if name in runs:
        raise ConfigError(f"{where}: a run has this name already")
    checkpoint = checked(Checkpoint, _row(row, where), f"{where}.")
    _check_network(checkpoint.arch, f"{where}.arch")
    return checkpoint


def _seeds(row: Any, preset: PresetInput, given: PresetInput) -> Any:
    """Seeds of params.yaml or the command line are for every run; otherwise a row's own come before the preset's."""
    if given.seeds is not None:
        return given.seeds
    default = (0,) if preset.seeds is None else preset.seeds
    return (row or {}).get("seeds", default)


def _attack_rows(preset: PresetInput, given: PresetInput) -> dict[str, Any]:
    """The rows of both layers; a list in params.yaml or on the command line chooses, a mapping changes and adds."""

    def rows(section: dict[str, Any] | list[str] | None) -> dict[str, Any]:
        return {name: {} for name in section} if isinstance(section, list) else section or {}

    merged = merge(rows(preset.attacks), rows(given.attacks), LayerRows(AttackConfig))
    chosen = _chosen(given)
    return merged if chosen is None else {name: merged[name] for name in chosen}


def _chosen(given: PresetInput) -> list[str] | None:
    """The attacks that it chooses; None where it only changes and adds."""
    return list(given.attacks) if isinstance(given.attacks, list | ChosenRows) else None


def _headline(preset: PresetInput, given: PresetInput, attacks: Mapping[str, Any]) -> str:
    """The attack to compare by. A preset's is dropped where a list chooses attacks without it."""
    if given.headline is not None:
        return given.headline
    dropped = _chosen(given) is not None and preset.headline not in attacks
    return list(attacks)[-1] if preset.headline is None or dropped else preset.headline


def resolve_attack(name: str, row: Any, threat: ThreatModel) -> AttackConfig:
    """The attack of a row of `attacks:`, with the defaults that follow from its name and the threat model."""
    where = f"attacks.{shortened(name)}"
    _file_name(name, "attack", where)
    fields = {**attack_from_name(name), **_row(row, where)}
    if "kind" not in fields:
        names = [*registry.ATTACKS, "pgd-20", "cw-20"]
        raise ConfigError(f"{where}: unknown attack '{name}': {nearest(name, names)}; or give it a kind")
    attack = checked(AttackConfig, fields, f"{where}.")
    info = registry.ATTACKS[attack.kind]
    for setting in () if info.searches else ("eps", "norm", "seed"):
        if fields.get(setting) is not None:
            raise ConfigError(f"{where}: {setting} has no effect, since '{attack.kind}' changes no image: remove it")
    norm = attack.norm or threat.norm
    if norm not in info.norms:
        raise ConfigError(
            f"{where}: attack '{attack.kind}' measures in {info.norms[0]} and the threat model in {norm}: "
            f"set norm: {info.norms[0]} and an eps of its own"
        )
    eps = threat.eps if attack.eps is None else attack.eps
    if norm == "linf" and eps >= 1:
        raise ConfigError(f"{where}.eps: {eps:g} is outside (0,1): write 8/255 rather than 8")
    _refuse_step(attack.step_size or 0.0, norm, where)
    defaults: dict[str, Any] = {
        "steps": info.steps,
        "step_size": 0.01 if attack.kind == "cw-l2" else eps if attack.kind == "fgsm" else eps / 4,
        "start": "none" if attack.kind == "fgsm" else "uniform",
        "binary_search_steps": 9,
        "eot": info.eot,
    }
    chosen = {key: value for key, value in defaults.items() if key in info.reads and getattr(attack, key) is None}
    return attack.model_copy(update={"eps": eps, "norm": norm, **chosen})


def _row(row: Any, where: str) -> dict[str, Any]:
    if row is None:
        return {}
    if not isinstance(row, Mapping):
        raise ConfigError(f"{where}: expected 'key: value' lines, not {shortened(repr(row))}")
    return dict(row)


def _file_name(name: str, kind: str, where: str) -> None:
    try:
        file_name(name, kind)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None
