"""From files to an Experiment: a preset, params.yaml merged over it, `--config` over that.

A preset is a whole experiment. A `null` in params.yaml means "the preset's value".
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from dynat.config import plugin_modules
from dynat.config.attacks import AttackConfig
from dynat.config.base import ConfigError, nearest
from dynat.config.experiment import Experiment
from dynat.config.init import initial_files
from dynat.config.merging import ChosenRows, Layer, LayerRows, merge
from dynat.config.preset_input import PresetInput
from dynat.config.renamed import ALIASES
from dynat.config.resolve import checked, resolve
from dynat.config.yaml_input import parsed, read_yaml

PRESETS = Path("config/presets")
PARAMS = Path("params.yaml")

Notice = Callable[[str], None]


def _ignore(text: str) -> None:
    """What is done with notices by default."""


def load(
    params: Mapping[str, Any] | Path = PARAMS,
    *,
    over: Mapping[str, Any] | None = None,
    presets: Path = PRESETS,
    notice: Notice = _ignore,
) -> Experiment:
    """The experiment that params describe; `ConfigError` says where and why it cannot be run.

    `over` is the content of the command line. `notice` gets a sentence for each old name that is still accepted.
    """
    where = str(params) if isinstance(params, Path) else PARAMS.name
    where += " or the command line" if over else ""
    content = read_yaml(params) if isinstance(params, Path) else params
    given = _read(merge_params(content, over or {}), where, notice)
    if given.extends is not None:
        raise ConfigError(f"{where}: extends is for presets; here write preset: {given.extends}")
    name = given.preset or "digits"
    experiment = resolve(name, _preset(name, presets, notice), given)
    files = {f"checkpoints.{row}.file": checkpoint.file for row, checkpoint in experiment.checkpoints.items()}
    if experiment.dataset.extra is not None:
        files["dataset.extra.path"] = experiment.dataset.extra.path
    if experiment.corruptions is not None and experiment.corruptions.path is not None:
        files["corruptions.path"] = experiment.corruptions.path
    files |= initial_files(experiment.runs)
    for key, file in files.items():
        if set("{}") & set(file):
            raise ConfigError(f"{key}: {file}: Snakemake reads braces as a wildcard: rename it")
    return experiment


def merge_params(params: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Content of the command line merged over that of params.yaml, before it is checked."""
    merged = merge(params, over, Layer(PresetInput))
    below, above = (parsed(layer.get("attacks")) for layer in (params, over))
    if above is not None and below is not None:
        merged["attacks"] = _merged_attacks(below, above)
    return merged


def _merged_attacks(below: Any, above: Any) -> Any:
    """A list chooses among the rows below it, and a mapping changes them and adds to them."""
    rows = LayerRows(AttackConfig)
    if _is_choice(above) and isinstance(below, Mapping):
        return ChosenRows({name: below.get(name) or {} for name in above})
    if isinstance(above, Mapping) and _is_choice(below):
        return ChosenRows(merge({name: {} for name in below}, above, rows))
    if isinstance(above, Mapping) and isinstance(below, Mapping):
        merged = merge(below, above, rows)
        return ChosenRows(merged) if isinstance(below, ChosenRows) else merged
    return below if isinstance(above, Mapping) else above  # a list with a mistake must be seen


def _is_choice(section: Any) -> bool:
    """A list of names without a mistake; one with a mistake is refused when it is checked."""
    return isinstance(section, list) and all(isinstance(name, str) and section.count(name) == 1 for name in section)


def of_content(content: Mapping[str, Any], name: str) -> Experiment:
    """An experiment that is in no file: `content` is what a preset would hold, `name` its name."""
    return resolve(name, _read(content, name, _ignore), PresetInput())


def of_file(file: Path) -> Experiment:
    """The resolved experiment that a folder of results holds. Plug-ins that it names are not imported unasked."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{file}: not valid JSON ({error}); delete {file.parent} and evaluate again") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{file}: expected a JSON object, found {type(content).__name__}")
    plugin_modules.require_plugins(content.get("plugins"), str(file))
    return checked(Experiment, content, f"{file}: ")


def _read(content: Mapping[str, Any], where: str, notice: Notice) -> PresetInput:
    """One file's content, checked at the top level."""
    given = {key: parsed(value) for key, value in content.items() if value is not None}
    for old, new in ALIASES.items():
        if old in given and new in given:
            raise ConfigError(
                f"{where}: {old} and {new} are both given, and {old} is the old name of {new}: remove one"
            )
        if old in given:
            notice(f"{where}: {old}: is now {new}: (the old name still works)")
            given[new] = given.pop(old)
    return checked(PresetInput, given, f"{where}: ")


def _preset(name: str, presets: Path, notice: Notice, above: tuple[str, ...] = ()) -> PresetInput:
    """A preset's content, merged over that of the one it extends, if any."""
    file = presets / f"{name}.yaml"
    if not file.exists():
        shipped = [path.stem for path in presets.glob("*.yaml")]
        raise ConfigError(f"preset: there is no {file}: {nearest(name, shipped)}")
    if name in above:
        raise ConfigError(f"{file}: extends itself: {' -> '.join((*above, name))}")
    written = read_yaml(file)
    if not written:
        raise ConfigError(f"{file}: is empty; see config/README.md for what a preset holds")
    content = _read(written, str(file), notice)
    if content.preset is not None:
        raise ConfigError(f"{file}: preset is for params.yaml; here write extends: {content.preset}")
    if content.extends is None:
        return content
    return _preset(content.extends, presets, notice, (*above, name)).with_layer(content)


def digest(*parts: Any) -> str:
    """A short name for a value: equal values have equal names; any difference gives another name."""
    plain = [part.model_dump(mode="json") if isinstance(part, BaseModel) else part for part in parts]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]
