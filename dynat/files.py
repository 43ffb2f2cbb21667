"""Files that are either whole or not there, whenever the process is killed. Knows no torch, no config."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def atomic_write(path: Path, write: Callable[[Path], object]) -> None:
    """Have `write` fill a hidden file beside `path`, then put it in the place of `path` in one step.

    Creates the parent folders. The hidden file keeps the suffix, by which many writers choose the format.
    If `write` fails, `path` is as it was and nothing else is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{secrets.token_hex(4)}-{path.name}")
    try:
        write(draft)
        _to_disk(draft)
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    with suppress(OSError):  # some network file systems cannot sync a folder
        _to_disk(path.parent)


def atomic_text(path: Path, text: str) -> None:
    """`atomic_write` of a text, in UTF-8."""
    atomic_write(path, lambda draft: draft.write_text(text, encoding="utf-8"))


def _to_disk(path: Path) -> None:
    """Without this, a power cut after the rename can leave the new name on an empty file."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
