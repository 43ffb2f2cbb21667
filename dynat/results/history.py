"""The history of a training: a row per epoch, in history.csv."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dynat.results.csv_files import csv_text
from dynat.results.paths import SeedFiles
from dynat.results.records import required
from dynat.runtime.files import atomic_text

if TYPE_CHECKING:
    import pandas as pd

Row = Mapping[str, float]
"""A measured value by its name: epoch, learning_rate, loss, seconds; in epochs with a validation clean and pgd too."""


def write_history(file: Path, rows: Sequence[Row]) -> None:
    """`seconds` is the last column; what was not measured in an epoch is an empty cell."""
    names = dict.fromkeys(name for row in rows for name in row if name != "seconds")
    columns = [*names, "seconds"]
    atomic_text(file, csv_text(columns, ([row.get(name, "") for name in columns] for row in rows)))


def read_history(file: Path) -> list[dict[str, float]]:
    """A row per epoch; what was not measured is not in the row."""
    with required(file).open(newline="", encoding="utf-8") as lines:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(lines)]


def history_of(seeds: Mapping[int, SeedFiles]) -> pd.DataFrame:
    """The epochs of several seeds as one table with a column `seed`; what was not measured is NaN."""
    import pandas as pd

    tables = [pd.read_csv(required(files.history)).assign(seed=seed) for seed, files in seeds.items()]
    return pd.concat(tables, ignore_index=True)
