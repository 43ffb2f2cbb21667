"""The history of a training: a row per epoch, in history.csv; config.json holds its checksum."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dynat.results.csv_files import TableContent, read_table, write_table
from dynat.results.paths import SeedFiles
from dynat.results.records import TrainingRecord, read_record

if TYPE_CHECKING:
    import pandas as pd

Row = Mapping[str, float]
"""A measured value by its name: epoch, learning_rate, loss, seconds; in epochs with a validation clean and pgd too."""


def write_history(file: Path, rows: Sequence[Row]) -> TableContent:
    """`seconds` is the last column; what was not measured in an epoch is an empty cell. What its record must keep."""
    names = dict.fromkeys(name for row in rows for name in row if name != "seconds")
    columns = [*names, "seconds"]
    return write_table(file, columns, ([row.get(name, "") for name in columns] for row in rows))


def read_history(files: SeedFiles) -> list[dict[str, float]]:
    """A row per epoch; what was not measured is not in the row."""
    rows = csv.DictReader(io.StringIO(_text(files), newline=""))
    return [{name: float(value) for name, value in row.items() if value} for row in rows]


def history_of(seeds: Mapping[int, SeedFiles]) -> pd.DataFrame:
    """The epochs of several seeds as one table with a column `seed`; what was not measured is NaN."""
    import pandas as pd

    tables = [pd.read_csv(io.StringIO(_text(files))).assign(seed=seed) for seed, files in seeds.items()]
    return pd.concat(tables, ignore_index=True)


def _text(files: SeedFiles) -> str:
    return read_table(files.history, read_record(files.config, TrainingRecord).table, files.config)
