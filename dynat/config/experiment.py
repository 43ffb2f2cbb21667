"""A whole experiment, resolved: its rows, attacks and settings, and what each job of the pipeline reads of them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from dynat.config import plugin_modules, registry
from dynat.config.attacks import AttackConfig, SanityConfig
from dynat.config.base import ConfigError, Seeds, Shards, Threads, WrittenIfSet, nearest, shortened
from dynat.config.checkpoint import Checkpoint
from dynat.config.corruptions import CorruptionsConfig
from dynat.config.dataset import DatasetConfig, ThreatModel
from dynat.config.names import AttackName, PresetName, RunName, refuse_false_name
from dynat.config.report import ReportConfig
from dynat.config.run import Run
from dynat.config.shards import shard_count
from dynat.config.specs import (
    CorruptionsSpec,
    EvaluationSpec,
    ExtraSpec,
    ImportSpec,
    SanitySpec,
    TrainingSpec,
    TransferSpec,
    WithPlugins,
)

OTHER_ROWS = "Other runs"
"""The title of the rows that no group names, where there are groups."""


class Experiment(WithPlugins):
    """A preset with params.yaml merged over it: all that the DAG, a training or an attack may read."""

    preset: PresetName
    dataset: DatasetConfig
    threat: ThreatModel
    runs: dict[RunName, Run] = Field(default_factory=dict)
    """The trained rows."""
    checkpoints: dict[RunName, Checkpoint] = Field(default_factory=dict)
    """The third-party rows."""
    seeds: dict[str, Seeds]
    """The seeds of each row; (0,) for a checkpoint."""
    groups: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Rows by the title under which tables list them."""
    attacks: Annotated[dict[AttackName, AttackConfig], Field(min_length=1)]
    sanity: SanityConfig = SanityConfig()
    report: ReportConfig = ReportConfig()
    corruptions: Annotated[CorruptionsConfig | None, WrittenIfSet()] = None
    threads: Threads = 1
    """CPU threads of one training or attack."""
    shards: Shards = Field(default=1, exclude=True)
    """Jobs that share one attack. It changes no number, so no job gets it."""
    headline: str = ""
    """The attack by which the figures sort and compare."""

    @model_validator(mode="after")
    def _consistent(self) -> Experiment:
        if not self.rows:
            raise ValueError("runs: name at least one run or checkpoint")
        if self.headline not in self.attacks:
            raise ValueError(
                f"headline: unknown attack '{shortened(self.headline)}': {nearest(self.headline, self.attacks)}"
            )
        if self.corruptions is not None:
            if problem := self.corruptions.problem(self.dataset.classes is not None):
                raise ValueError(f"corruptions.{problem}")
            reference = self.corruptions.reference
            if reference is not None and reference not in self.rows:
                raise ValueError(
                    f"corruptions.reference: unknown run '{shortened(reference)}': {nearest(reference, self.rows)}; "
                    "a run that exists has to be selected too"
                )
        for name, attack in self.attacks.items():
            try:
                refuse_false_name(name, attack.kind, attack.steps)
            except ValueError as error:
                raise ValueError(f"attacks.{name}: {error}") from None
        return self

    @property
    def rows(self) -> dict[str, Run | Checkpoint]:
        """What tables, evaluations and the report show: runs first, then checkpoints."""
        return {**self.runs, **self.checkpoints}

    @property
    def grouped(self) -> dict[str, list[str]]:
        """Every row once, by title: the groups in their order, then the rows without one. Without groups the only title
        is empty."""
        groups = {title: [name for name in self.rows if name in names] for title, names in self.groups.items()}
        inside = {name for names in groups.values() for name in names}
        groups[OTHER_ROWS if inside else ""] = [name for name in self.rows if name not in inside]
        return {title: names for title, names in groups.items() if names}

    def training(self, name: str) -> TrainingSpec:
        """What the trainings of a run read."""
        run = self.runs[registry.known("run", name, self.runs)]
        run = run.model_copy(update={"tensorboard": False})  # it is passed beside: it is no part of the training
        images = self.dataset.extra
        return TrainingSpec(
            plugins=plugin_modules.plugins_of(self.plugins, run.method, run.target, run.guide),
            preset=self.preset,
            name=name,
            data=self.dataset.name,
            threat=self.threat,
            run=run,
            extra=images.name if images and run.extra else None,
        )

    def extra_images(self) -> ExtraSpec | None:
        """What the job reads that checks the extra images, if there are any."""
        images = self.dataset.extra
        return None if images is None else ExtraSpec(data=self.dataset.name, images=images)

    def checkpoint_import(self, name: str) -> ImportSpec:
        """What the import of a third-party checkpoint reads."""
        checkpoint = self.checkpoints[registry.known("checkpoint", name, self.checkpoints)]
        return ImportSpec(
            plugins=plugin_modules.plugins_of(self.plugins, checkpoint.arch),
            preset=self.preset,
            name=name,
            data=self.dataset.name,
            threat=self.threat,
            checkpoint=checkpoint,
        )

    def evaluation(self, name: str, attack: str) -> EvaluationSpec:
        """What the evaluation of a row under an attack reads."""
        kind = self.attacks[registry.known("attack", attack, self.attacks)].kind
        return EvaluationSpec(
            plugins=self._plugins(name, kind, *registry.attack_parts(kind)),
            preset=self.preset,
            name=registry.known("run", name, self.rows),
            data=self.dataset.name,
            seeds=self.seeds[name],
            attack_name=attack,
            attack=self.attacks[attack].model_copy(update={"adversarial_images": None}),  # a job of its own writes them
        )

    def shards_of(self, name: str, attack: str) -> int:
        """How many jobs share the evaluation of a row under an attack."""
        images = None if self.dataset.classes else registry.TEST_IMAGES.get(self.dataset.source)
        return shard_count(self.shards, self.attacks[attack], len(self.seeds[name]), images)

    def sanity_checks(self, name: str) -> SanitySpec:
        """What the sanity checks of a row read."""
        return SanitySpec(
            plugins=self._plugins(name),
            preset=self.preset,
            name=registry.known("run", name, self.rows),
            data=self.dataset.name,
            seeds=self.seeds[name],
            attacks=self.sanity.attacks(self.threat),
        )

    def corrupted(self, name: str) -> CorruptionsSpec:
        """What the evaluation of a row on corrupted images reads."""
        if self.corruptions is None:
            raise ConfigError("corruptions: this experiment has none; switch them on with corruptions: {}")
        return CorruptionsSpec(
            plugins=self._plugins(name),
            preset=self.preset,
            name=registry.known("run", name, self.rows),
            data=self.dataset.name,
            seeds=self.seeds[name],
            corruptions=self.corruptions.model_copy(update={"reference": None}),  # only the report reads it
        )

    def transfer(self) -> TransferSpec:
        """What the transfer matrix reads."""
        return TransferSpec(
            plugins=tuple(dict.fromkeys(module for name in self.rows for module in self._plugins(name))),
            preset=self.preset,
            data=self.dataset.name,
            runs={name: self.seeds[name][0] for name in self.rows},
            attack=self.sanity.attacks(self.threat)["steps-20"],
        )

    def _plugins(self, name: str, *attacks: str) -> tuple[str, ...]:
        """The plug-ins that read or make the weights of a row, or attack it."""
        row = self.rows[registry.known("run", name, self.rows)]
        used = (row.method, row.target, row.guide) if isinstance(row, Run) else (row.arch,)
        return plugin_modules.plugins_of(self.plugins, *used, *attacks)
