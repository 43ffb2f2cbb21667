"""What every reader of a result file checks first: that it is there and can be read."""

from __future__ import annotations

from pathlib import Path

from dynat.runtime.errors import UserError
from dynat.runtime.files import check_readable


def required(file: Path) -> Path:
    """`file`, which must be a file that can be read."""
    if not file.exists():
        raise UserError(f"{file}: no such file; make it with: snakemake --cores all {file}")
    check_readable(file, "file")
    return file


def made_again(file: Path) -> str:
    """The way out for a damaged file."""
    return f"delete it and make it again: snakemake --cores all {file}"
