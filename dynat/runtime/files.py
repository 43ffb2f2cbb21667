"""Atomic files: complete or absent, whenever the process is killed. Imports neither torch nor the config."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def atomic_write(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` write a hidden file beside `path`, then rename it to `path`.

    Creates the parent folders. The hidden file has the same suffix, by which many writers choose the format. If `write`
    fails, `path` is unchanged and the hidden file is deleted.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{secrets.token_hex(4)}-{path.name}")
    try:
        write(draft)
        _sync(draft)
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    with suppress(OSError):  # some network file systems cannot sync a folder
        _sync(path.parent)


def atomic_text(path: Path, text: str) -> None:
    """`atomic_write` of a text, in UTF-8."""
    atomic_write(path, lambda draft: draft.write_text(text, encoding="utf-8"))


def _sync(path: Path) -> None:
    """Without this, a power failure after the rename can leave an empty file under the new name."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
