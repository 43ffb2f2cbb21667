"""An atomic write leaves the old file or the new one, never a part of either."""

from __future__ import annotations

from pathlib import Path

import pytest

from dynat.runtime.files import atomic_text, atomic_write


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "table.csv"
    atomic_text(file, "old – kept")

    def fail(draft: Path) -> None:
        assert draft.parent == file.parent, "a rename is atomic within one file system only"
        assert draft.suffix == ".csv"
        draft.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        atomic_write(file, fail)
    assert file.read_text(encoding="utf-8") == "old – kept"
    assert list(file.parent.iterdir()) == [file]


def test_the_old_file_is_kept_until_the_new_one_is_complete(tmp_path: Path) -> None:
    file = tmp_path / "table.csv"
    atomic_text(file, "old")

    def write(draft: Path) -> None:
        draft.write_text("new")
        assert file.read_text() == "old"

    atomic_write(file, write)
    assert file.read_text() == "new"
    assert list(tmp_path.iterdir()) == [file]
