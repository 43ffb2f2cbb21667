"""What result files hold, as typed records: one job writes a record, another reads it.

    TrainingRecord   seed<k>/config.json        OutcomeRecord   outcomes/<attack>.json
    SanityRecord     sanity.json                TransferRecord  transfer.json
    RunMetrics       metrics.json               AdversarialRecord   seed<k>/<attack>.adversarial.<format>.json

Every record carries the version of its format. A file of another version is refused: the numbers of two versions
need not mean the same. Its last entry is the SHA-256 of the others, so that no digit changes unnoticed.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import Field, ValidationError

from dynat.config import AttackConfig, Checkpoint, Run, ThreatModel, plugin_modules
from dynat.config.names import AttackName, RunName
from dynat.results.csv_files import TableContent
from dynat.results.dataset_info import DatasetInfo as DatasetInfo
from dynat.results.dataset_info import ExtraImagesInfo as ExtraImagesInfo
from dynat.results.dataset_info import Part
from dynat.results.json_files import json_text, read_json
from dynat.results.reading import made_again
from dynat.results.reading import required as required
from dynat.runtime.errors import UserError
from dynat.runtime.files import atomic_text

FORMAT_VERSION = 2
"""Raised whenever a field of a record or a column of a table changes its name or its meaning."""


class Record(Part):
    """A whole JSON file."""

    format_version: int = FORMAT_VERSION
    plugins: tuple[str, ...] = ()
    """Modules that define methods, networks or attacks named in the record; they must be imported before it is read."""


class ParameterCounts(Part):
    target: int
    guide: int | None = None


class TrainingRecord(Record):
    """The resolved config of one training, or of one imported checkpoint, and where it was made."""

    preset: str
    name: str
    data: str
    threat: ThreatModel
    config: Run | Checkpoint
    seed: int
    digest: str
    """All that the training depends on: config, seed, images, code, device and versions. Of a checkpoint: its file."""
    dataset: DatasetInfo
    best_epoch: int | None
    """None for a checkpoint."""
    training_seconds: float
    parameters: ParameterCounts
    versions: dict[str, str]
    machine: str
    compute_dtype: str | None = None
    """float32 or bfloat16; None for a checkpoint."""
    weights: dict[str, str] = Field(default_factory=dict)
    """SHA-256 of each file of weights."""
    init: dict[str, str] = Field(default_factory=dict)
    """SHA-256 of the file that the target or the guide started from, where these were not random weights."""
    table: TableContent | None = None
    """The history; likewise in the other records: the table beside it, filled in by what writes both."""


class OutcomeRecord(Record):
    """An attack on one run: its settings and its cost. The verdicts lie in the table beside it."""

    run: str
    attack_name: str
    attack: AttackConfig
    parts: tuple[str, ...]
    """The attacks that it consists of, in order."""
    seeds: tuple[int, ...]
    seconds: dict[int, float]
    """By seed."""
    forward_passes: int
    backward_passes: int
    rejected_examples: int
    """Claimed adversarial images outside the rules; they count as not broken."""
    reattacked: int
    """Images attacked once more on the network itself, because the attack on the surrogate told nothing."""
    queried_model: dict[int, str]
    """The model whose gradients the attack used, by seed."""
    warnings: tuple[str, ...]
    device: str
    digest: dict[int, str]
    """All that the verdicts depend on, by seed."""
    networks: dict[int, str] = Field(default_factory=dict)
    """The network that was attacked, by seed (`weights.network_of`)."""
    table: TableContent | None = None


class AdversarialRecord(Record):
    """The adversarial images of an attack on one network, in the file beside it."""

    run: str
    seed: int
    attack_name: str
    attack: AttackConfig
    file: str
    """The name of the file."""
    file_sha256: str
    shape: tuple[int, ...]
    """Number of images, channels, height, width."""
    correct: int
    """Images that the network classifies correctly."""
    weights: str
    """Digest of network and weights."""
    images: str
    """Digest of the data set."""


class GradientCount(Part):
    zero: int
    """Images whose loss has no gradient at all."""
    correct: int
    """Images that are classified correctly; only those are counted."""


class SanityRecord(Record):
    """The attacks behind the sanity checks of one run. The verdicts lie in the table beside it."""

    run: str
    seeds: tuple[int, ...]
    attacks: dict[str, AttackConfig]
    gradients: dict[int, GradientCount]
    networks: dict[int, str] = Field(default_factory=dict)
    seconds: float
    rejected_examples: int
    device: str
    table: TableContent | None = None


class TransferRecord(Record):
    """The attack of the transfer matrix. The verdicts lie in the table beside it."""

    runs: dict[str, int]
    """The rows, each with the seed that represents it."""
    attack: AttackConfig
    device: str
    table: TableContent | None = None


class Interval(Part):
    """An accuracy with its 95 % Wilson interval."""

    accuracy: float
    low: float
    high: float
    n: int
    """Number of images, however many seeds evaluated them."""


class RadiusPoint(Interval):
    eps: float


class StepsPoint(Interval):
    steps: int


class Summary(Interval):
    """Accuracy over all seeds, per seed and per class."""

    seeds: tuple[int, ...]
    mean: float
    std: float | None
    """Standard deviation over seeds; None with one seed."""
    per_seed: dict[int, float]
    per_class: dict[int, float]


class AttackCost(Part):
    seconds: float
    seconds_per_seed: dict[int, float]
    forward_passes: int
    backward_passes: int
    device: str


class AttackMetrics(Summary):
    """A cell of the table."""

    attack: AttackConfig
    cost: AttackCost
    accuracy_after: dict[str, float]
    """Accuracy before the attack and after each of its parts."""

    @property
    def parts(self) -> tuple[str, ...]:
        """The attacks that it consists of, in order."""
        return tuple(self.accuracy_after)[1:]

    rejected_examples: int
    warnings: tuple[str, ...]


class WorstCase(Summary):
    """Images that every one of `attacks` leaves correct."""

    attacks: tuple[str, ...]


class Check(Part):
    """A sanity check."""

    passed: bool
    detail: str
    """The numbers that decided."""


class Curves(Part):
    """Accuracy against the radius and against the steps of PGD."""

    eps: tuple[RadiusPoint, ...]
    steps: tuple[StepsPoint, ...]


class SanityMetrics(Part):
    checks: dict[str, Check]
    curves: Curves
    warnings: tuple[str, ...] = ()
    """What makes the checks doubtful; it applies to the transfer matrix too, which uses the same images."""


class TrainingMetrics(Part):
    """One seed."""

    epochs: int
    seconds: float
    best_epoch: int | None
    final_label_accuracy: float | None
    """Share of training images that the guide labeled correctly in the last epoch; None without a guide."""
    warnings: tuple[str, ...] = ()
    """Networks of the training that are not above chance at its last validation."""
    parameters: ParameterCounts
    digest: str
    network: str | None = None
    """The network of the selected epoch (`weights.network_of`)."""
    versions: dict[str, str]
    machine: str
    compute_dtype: str | None = None


class RunMetrics(Record):
    """Every number that a table or figure shows of one run."""

    preset: str
    run: RunName
    seeds: tuple[int, ...]
    dataset: DatasetInfo
    threat: ThreatModel
    config: Run | Checkpoint
    attacks: dict[AttackName, AttackMetrics]
    worst_case: WorstCase | None
    sanity: SanityMetrics | None
    training: dict[int, TrainingMetrics]

    @property
    def failed_checks(self) -> tuple[str, ...]:
        checks = {} if self.sanity is None else self.sanity.checks
        return tuple(name for name, check in checks.items() if not check.passed)


AnyRecord = TypeVar("AnyRecord", bound=Record)


def write_record(file: Path, record: Record) -> None:
    atomic_text(file, json_text(record.model_dump(mode="json")))


def read_record(file: Path, kind: type[AnyRecord]) -> AnyRecord:
    """The record in `file`; `UserError` names a missing, damaged or foreign file and what to do about it."""
    content, intact = read_json(file)
    version = content.get("format_version")
    if version != FORMAT_VERSION:
        raise UserError(
            f"{file}: written by another version of dynat (format {version or 'unknown'}, this one reads format "
            f"{FORMAT_VERSION}); delete the folder {file.parent} and run again: snakemake --cores all {file}"
        )
    plugin_modules.require_plugins(content.get("plugins"), str(file))
    try:
        record = kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise UserError(f"{file}: {place}: {first['msg']}; {made_again(file)}") from None
    if not intact:
        raise UserError(f"{file}: changed after it was written (another SHA-256); {made_again(file)}")
    return record
