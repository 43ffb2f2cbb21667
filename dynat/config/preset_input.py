"""What a preset or params.yaml may hold at the top level. Sections are layers: other files hold the rest of them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, PlainValidator

from dynat.config.attacks import AttackConfig, SanityConfig
from dynat.config.base import NotNegative, Seeds, Shards, StrictModel, Threads, shortened
from dynat.config.checkpoint import Checkpoint
from dynat.config.corruptions import CorruptionsConfig
from dynat.config.dataset import DatasetConfig, ThreatModel
from dynat.config.merging import Layer, LayerRows, merge
from dynat.config.names import PresetName
from dynat.config.report import ReportConfig
from dynat.config.run import Run


def _lines(value: Any) -> Any:
    if not isinstance(value, dict):
        raise ValueError("expected 'key: value' lines")
    for key in value:
        if not isinstance(key, str):
            raise ValueError(f"YAML reads the name {key!r} as a {type(key).__name__}: write it in quotes")
    return value


def _names(value: Any) -> Any:
    """One name is a list of one; anything but text, or the same name twice, is a mistake."""
    given = (value,) if isinstance(value, str) else value
    if not isinstance(given, list | tuple):
        raise ValueError("expected a list of names, such as [at, dynat]")
    for name in given:
        if not isinstance(name, str):
            raise ValueError(f"{shortened(repr(name))} is not a name; YAML needs quotes around numbers, yes and no")
        if given.count(name) > 1:
            raise ValueError(f"'{shortened(name)}' is named twice")
    return tuple(given)


def _groups(value: Any) -> dict[str, list[str] | None]:
    """Names by title; no name has two titles."""
    groups: dict[str, list[str] | None] = {}
    for title, names in _lines(value).items():
        if not title.strip() or "\n" in title or len(title) > MAX_TITLE:
            raise ValueError(f"the title '{shortened(title)}' should be one line of at most {MAX_TITLE} characters")
        groups[title] = None if names is None else list(_names(names))
    return groups


def _attacks(value: Any) -> dict[str, Any] | list[str]:
    if isinstance(value, dict):
        section: dict[str, Any] = _lines(value)
        return section
    if not isinstance(value, list):
        raise ValueError("expected a list of names or 'key: value' lines")
    return list(_names(value))


MAX_TITLE = 60
"""Characters of a group's title, which is a line of the table."""

Section = Annotated[dict[str, Any], BeforeValidator(_lines)]
Groups = Annotated[dict[str, list[str] | None], PlainValidator(_groups)]
Names = Annotated[tuple[str, ...], BeforeValidator(_names)]
Attacks = Annotated[dict[str, Any] | list[str], PlainValidator(_attacks)]


class PresetInput(StrictModel):
    """An experiment as it is written down, or a part of one; `null` is the same as not given."""

    preset: PresetName | None = None
    """In `params.yaml` or on the command line: the experiment to start from, a file in
    `config/presets/`; by default `digits`."""
    extends: PresetName | None = None
    """In presets only: the preset that this one changes."""
    beta: NotNegative | None = None
    """Weight of the target's loss against the guide's, `L = CE(guide, y) + beta * L_target`, in every run with dynamic
    labels whose row has no `beta`; by default 1.0."""
    select: Names | None = None
    """Names of the runs to use, or `all`; by default all. Checkpoints are always used and need not be named. The old
    name `methods` is still accepted."""
    seeds: Seeds | None = None
    """Seeds of the trainings, by default `[0]`. In `params.yaml` they are those of every run; in a preset, of the runs
    without `seeds` of their own."""
    dataset: Annotated[Section | None, Layer(DatasetConfig)] = None
    """The images; see [dataset](#dataset)."""
    threat: Annotated[Section | None, Layer(ThreatModel)] = None
    """What the attacker may do; see [threat](#threat)."""
    training: Annotated[Section | None, Layer(Run)] = None
    """The settings that all runs start from; see [training and runs](#training-and-runs)."""
    runs: Annotated[Section | None, LayerRows(Run)] = None
    """The trained rows of the table by name; see [training and runs](#training-and-runs)."""
    groups: Groups | None = None
    """Titles under which tables and the report list the runs, as in `Ablations: [dynat-kl-inner, dynat-beta-6]`; runs
    without a title come last. With more than 12 runs, figures compare those of the first group. No effect on any
    training."""
    checkpoints: Annotated[Section | None, LayerRows(Checkpoint)] = None
    """Third-party checkpoints as rows of the table by name; see [checkpoints](#checkpoints)."""
    attacks: Annotated[Attacks | None, LayerRows(AttackConfig)] = None
    """The columns of the table by name, or a list that chooses among them; see [attacks](#attacks)."""
    corruptions: Annotated[Section | None, Layer(CorruptionsConfig)] = None
    """The evaluation of every row on corrupted test images; see [corruptions](#corruptions). Off by default; `{}`
    switches it on with its defaults."""
    sanity: Annotated[Section | None, Layer(SanityConfig)] = None
    """The sanity checks; see [sanity](#sanity)."""
    report: Annotated[Section | None, Layer(ReportConfig)] = None
    """The report; see [report](#report)."""
    threads: Threads | None = None
    """CPU threads of one training or attack; by default 1."""
    shards: Shards | None = None
    """Jobs that share one attack on one run, by default 1: each attacks some of its batches. With `auto`, more than one
    job, but only for long attacks on many images. The verdicts are the same, bit for bit; see
    [docs/cluster.md](../docs/cluster.md#share-one-attack-among-many-jobs)."""
    headline: str | None = None
    """The attack that figures and the report sort and compare by; by default the last one."""
    plugins: Names | None = None
    """Python modules that are imported before any name is looked up: they are code and run with your rights; see
    [docs/add-a-method.md](../docs/add-a-method.md#plug-ins-are-code)."""

    def given(self) -> dict[str, Any]:
        """The keys that have a value."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: value for name, value in values.items() if value is not None}

    def with_layer(self, over: PresetInput) -> PresetInput:
        """`over` merged into this one."""
        return PresetInput.model_validate(merge(self.given(), over.given(), Layer(PresetInput)))
