"""The transfer matrix: verdicts on images made against one run and classified by another, in transfer.csv."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dynat.results.csv_files import csv_text
from dynat.results.paths import ExperimentFiles
from dynat.results.records import TransferRecord, read_record, write_record
from dynat.runtime.errors import UserError
from dynat.runtime.files import atomic_text

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("source", "target", "index", "label", "correct")


def write_transfer(
    files: ExperimentFiles,
    record: TransferRecord,
    labels: Sequence[int],
    correct: Mapping[tuple[str, str], Sequence[int]],
) -> Path:
    """Write the record and the table of verdicts by source and target, the table last; its file."""
    rows = [
        (source, target, index, label, verdict)
        for (source, target), verdicts in correct.items()
        for index, (label, verdict) in enumerate(zip(labels, verdicts, strict=True))
    ]
    write_record(files.transfer_record, record)
    atomic_text(files.transfer, csv_text(COLUMNS, rows))
    return files.transfer


def read_transfer(files: ExperimentFiles, runs: Sequence[str]) -> tuple[pd.DataFrame, TransferRecord] | None:
    """Accuracy by source (row) and target (column) of `runs`, and the record; None where there is no such file."""
    import pandas as pd

    if not files.transfer.exists():
        return None
    matrix = pd.read_csv(files.transfer).pivot_table(index="source", columns="target", values="correct")
    absent = [run for run in runs if run not in matrix.index]
    if absent:
        raise UserError(f"{files.transfer}: has no run '{absent[0]}'; delete it and make it again")
    return matrix.loc[list(runs), list(runs)], read_record(files.transfer_record, TransferRecord)
