"""The one writer and reader of CSV files: a heading, then rows; None is an empty cell, and lines end as on Linux.

A record beside each table holds its number of rows and its checksum, because a table that was cut at the end of a line
is a valid table. The table is written first: a record without its table, or of another one, is refused.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from dynat.results.reading import made_again, required
from dynat.runtime.errors import UserError
from dynat.runtime.files import atomic_text


class TableContent(BaseModel):
    """What a record knows of the table beside it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: int
    """Number of rows below the heading."""
    sha256: str
    """Of the bytes of the file."""

    @classmethod
    def of(cls, content: bytes) -> TableContent:
        return cls(rows=max(0, len(content.splitlines()) - 1), sha256=hashlib.sha256(content).hexdigest())


def csv_text(columns: Sequence[str], rows: Iterable[Iterable[object]]) -> str:
    """A table as text. Floats are written so that they read back as the same bits; None is an empty cell."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return out.getvalue()


def write_table(file: Path, columns: Sequence[str], rows: Iterable[Iterable[object]]) -> TableContent:
    """Write a table; its record must keep what this returns."""
    text = csv_text(columns, rows)
    atomic_text(file, text)
    return TableContent.of(text.encode())


def read_table(file: Path, recorded: TableContent | None, record: Path, columns: Sequence[str] = ()) -> str:
    """The text of a table that has these columns and is the one that the file `record` knows."""
    content = required(file).read_bytes()
    found = TableContent.of(content)
    heading = content.partition(b"\n")[0].decode(errors="replace").split(",")
    missing = [column for column in columns if column not in heading]
    if missing and content:
        raise UserError(f"{file}: no column '{missing[0]}'; {made_again(file)}")
    if found != recorded:
        rows = recorded.rows if recorded else "no number of"
        reason = f"{found.rows:,} rows, and {rows} rows in {record.name}"
        if recorded and found.rows == recorded.rows:
            reason = f"not the content that {record.name} describes (another SHA-256)"
        raise UserError(f"{file}: cut or changed after it was written: {reason}; {made_again(file)}")
    return content.decode()
