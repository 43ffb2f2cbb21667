"""What one job of the pipeline reads, resolved: the rules pass it to `dynat job KIND --spec JSON`."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import model_validator

from dynat.config import plugin_modules
from dynat.config.attacks import AttackConfig
from dynat.config.base import Seed, Seeds, StrictModel, WrittenIfSet
from dynat.config.checkpoint import Checkpoint
from dynat.config.corruptions import CorruptionsConfig
from dynat.config.dataset import DatasetName, ExtraImagesConfig, ThreatModel
from dynat.config.names import AttackName, PresetName, RunName, refuse_false_name
from dynat.config.run import Run


class WithPlugins(StrictModel):
    """A value that names methods or attacks. What defines them must be imported before the names are read."""

    plugins: tuple[str, ...] = ()
    """Python modules that add methods, networks or attacks."""

    @model_validator(mode="before")
    @classmethod
    def _know_plugins(cls, value: Any) -> Any:
        if isinstance(value, dict):
            plugin_modules.require_plugins(value.get("plugins"), "plugins")
        return value


class JobSpec(WithPlugins):
    """What every job reads beside its own part."""

    preset: PresetName
    """The experiment, and the folder of its results."""
    data: DatasetName
    """The data set's folder under data/."""


class TrainingSpec(JobSpec):
    """All that one training reads beside its seed and its images. Equal specs are equal trainings."""

    name: RunName
    """The name of the run."""
    threat: ThreatModel
    run: Run
    extra: Annotated[str | None, WrittenIfSet()] = None
    """The folder under data/<data>/extra/ that describes its extra images."""


class ExtraSpec(StrictModel):
    """A file of extra images, to be checked against a data set."""

    data: DatasetName
    """The data set's folder under data/."""
    images: ExtraImagesConfig


class ImportSpec(JobSpec):
    """All that the import of a third-party checkpoint reads beside the file of weights."""

    name: RunName
    """The name of the row."""
    threat: ThreatModel
    checkpoint: Checkpoint


class EvaluationSpec(JobSpec):
    """All that one evaluation reads beside the weights and the images."""

    name: RunName
    """The name of the row."""
    seeds: Seeds
    attack_name: AttackName
    attack: AttackConfig

    @model_validator(mode="after")
    def _name_is_true(self) -> EvaluationSpec:
        refuse_false_name(self.attack_name, self.attack.kind, self.attack.steps)
        return self


class SanitySpec(JobSpec):
    """All that the sanity checks of a row read."""

    name: RunName
    """The name of the row."""
    seeds: Seeds
    attacks: dict[str, AttackConfig]


class CorruptionsSpec(JobSpec):
    """All that the evaluation of a row on corrupted images reads."""

    name: RunName
    """The name of the row."""
    seeds: Seeds
    corruptions: CorruptionsConfig


class TransferSpec(JobSpec):
    """All that the transfer matrix reads: the adversarial images of every row, evaluated on every row."""

    runs: dict[RunName, Seed]
    """The rows, each with the seed that represents it."""
    attack: AttackConfig
