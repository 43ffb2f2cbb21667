"""The transfer matrix: verdicts on images made against one run and classified by another, in transfer.csv."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dynat.results.csv_files import read_table, write_table
from dynat.results.paths import ExperimentFiles
from dynat.results.reading import made_again
from dynat.results.records import TransferRecord, read_record, write_record
from dynat.runtime.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("source", "target", "index", "label", "correct")


def write_transfer(
    files: ExperimentFiles,
    record: TransferRecord,
    labels: Sequence[int],
    correct: Mapping[tuple[str, str], Sequence[int]],
) -> Path:
    """Write the table of verdicts by source and target, then the record; the file of the table."""
    rows = [
        (source, target, index, label, verdict)
        for (source, target), verdicts in correct.items()
        for index, (label, verdict) in enumerate(zip(labels, verdicts, strict=True))
    ]
    table = write_table(files.transfer, COLUMNS, rows)
    write_record(files.transfer_record, record.model_copy(update={"table": table}))
    return files.transfer


def read_transfer(files: ExperimentFiles, runs: Sequence[str]) -> tuple[pd.DataFrame, TransferRecord] | None:
    """Accuracy by source (row) and target (column) of `runs`, and the record; None where there is no such file."""
    import pandas as pd

    if not files.transfer.exists():
        return None
    record = read_record(files.transfer_record, TransferRecord)
    text = read_table(files.transfer, record.table, files.transfer_record, COLUMNS)
    names = {"source": str, "target": str}  # a run may be called 0.1 or nan
    table = pd.read_csv(io.StringIO(text), dtype=names, keep_default_na=False)
    matrix = table.pivot_table(index="source", columns="target", values="correct")
    absent = [run for run in runs if run not in matrix.index]
    if absent:
        raise UserError(f"{files.transfer}: has no run '{absent[0]}'; {made_again(files.transfer)}")
    return matrix.loc[list(runs), list(runs)], record
