"""What one job of the pipeline reads, resolved: the rules pass it to `dynat job KIND --spec JSON`."""

from __future__ import annotations

from typing import Any

from pydantic import model_validator

from dynat.config import registry
from dynat.config.attacks import AttackConfig
from dynat.config.base import Seeds, StrictModel, Whole
from dynat.config.checkpoint import Checkpoint
from dynat.config.dataset import ThreatModel
from dynat.config.run import Run


class WithPlugins(StrictModel):
    """A value that names methods or attacks: what defines them is imported before the names are read."""

    plugins: tuple[str, ...] = ()
    """Python modules that add methods, networks or attacks."""

    @model_validator(mode="before")
    @classmethod
    def _import_plugins(cls, value: Any) -> Any:
        if isinstance(value, dict):
            registry.import_plugins(tuple(value.get("plugins", ())))
        return value


class JobSpec(WithPlugins):
    """What every job reads beside its own part."""

    preset: str
    """The experiment, and the folder of its results."""
    data: str
    """The data set's folder under data/."""


class TrainingSpec(JobSpec):
    """All that one training reads beside its seed and its images. Equal specs are equal trainings."""

    name: str
    """The name of the run."""
    threat: ThreatModel
    run: Run


class ImportSpec(JobSpec):
    """All that the import of a third-party checkpoint reads beside the file of weights."""

    name: str
    """The name of the row."""
    threat: ThreatModel
    checkpoint: Checkpoint


class EvaluationSpec(JobSpec):
    """All that one evaluation reads beside the weights and the images."""

    name: str
    """The name of the row."""
    seeds: Seeds
    attack_name: str
    attack: AttackConfig


class SanitySpec(JobSpec):
    """All that the sanity checks of a row read."""

    name: str
    """The name of the row."""
    seeds: Seeds
    attacks: dict[str, AttackConfig]


class TransferSpec(JobSpec):
    """All that the transfer matrix reads: the adversarial images of every row, evaluated on every row."""

    runs: dict[str, Whole]
    """The rows, each with the seed that represents it."""
    attack: AttackConfig
