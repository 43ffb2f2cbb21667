"""Accuracy on corrupted test images: a row per seed, corruption and severity in corruptions.csv, and what follows."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dynat.config.corruptions import CorruptionsConfig
from dynat.results.csv_files import TableContent, read_table, write_table
from dynat.results.paths import RunFiles
from dynat.results.records import Record, read_record, write_record

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("seed", "corruption", "severity", "images", "correct")
Cell = tuple[int, str, int]
"""Seed, corruption, severity."""


class CorruptionsRecord(Record):
    """An evaluation on corrupted images. The counts lie in the table beside it."""

    run: str
    seeds: tuple[int, ...]
    corruptions: CorruptionsConfig
    made: bool
    """Whether the corruptions were made from the test images; otherwise they are those of an archive."""
    images: int
    digests: dict[str, str]
    """SHA-256 of the corrupted images, by corruption: over all severities in order."""
    seconds: float
    device: str
    table: TableContent | None = None


@dataclass(frozen=True)
class CorruptionAccuracy:
    """What the counts of one run say, over its seeds."""

    record: CorruptionsRecord
    accuracy: pd.DataFrame
    """By corruption (row) and severity (column)."""

    @property
    def mean(self) -> float:
        """The mean over corruptions and severities."""
        return float(self.accuracy.to_numpy().mean())

    @property
    def by_corruption(self) -> dict[str, float]:
        return {str(kind): float(value) for kind, value in self.accuracy.mean(axis=1).items()}

    @property
    def by_severity(self) -> dict[int, float]:
        return {int(str(severity)): float(value) for severity, value in self.accuracy.mean(axis=0).items()}

    @property
    def without_error(self) -> list[str]:
        """The corruptions under which every image is classified correctly."""
        return [kind for kind, accuracy in self.by_corruption.items() if accuracy == 1]

    def mean_corruption_error(self, reference: CorruptionAccuracy | None = None) -> float | None:
        """The mean error; or, relative to a reference, the mean over corruptions of the quotient of both errors, each
        summed over severities (Hendrycks and Dietterich 2019); None where the reference makes no error."""
        if reference is None:
            return 1 - self.mean
        if reference.without_error:
            return None
        errors, theirs = ((1 - each.accuracy).sum(axis=1) for each in (self, reference))
        return float((errors / theirs).mean())


def write_corruptions(run: RunFiles, record: CorruptionsRecord, correct: Mapping[Cell, int]) -> Path:
    """Write the counts by seed, corruption and severity, then the record; the file of the table."""
    rows: list[Sequence[object]] = [(*cell, record.images, count) for cell, count in correct.items()]
    table = write_table(run.corruptions, COLUMNS, rows)
    write_record(run.corruptions_record, record.model_copy(update={"table": table}))
    return run.corruptions


def read_corruptions(run: RunFiles) -> CorruptionAccuracy:
    import pandas as pd

    record = read_record(run.corruptions_record, CorruptionsRecord)
    frame = pd.read_csv(io.StringIO(read_table(run.corruptions, record.table, run.corruptions_record, COLUMNS)))
    frame["accuracy"] = frame["correct"] / frame["images"]
    accuracy = frame.pivot_table(index="corruption", columns="severity", values="accuracy")
    return CorruptionAccuracy(record, accuracy.loc[list(record.corruptions.chosen)])
