"""An atomic write leaves the old file or the new one, never a part of either; a damaged file is never read."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dynat.runtime import files
from dynat.runtime.errors import UserError
from dynat.runtime.files import (
    DRAFT,
    atomic_text,
    atomic_write,
    check_readable,
    check_writable,
    read_with_checksum,
    write_with_checksum,
)


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


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_the_mode_follows_the_umask_whoever_writes(umask: int, mode: int, tmp_path: Path) -> None:
    old = os.umask(umask)
    try:
        atomic_text(tmp_path / "text", "text")
        # safetensors' own writer makes files of mode 0600.
        atomic_write(tmp_path / "x.safetensors", lambda draft: save_file({"x": torch.zeros(2)}, draft))
    finally:
        os.umask(old)
    assert [file.stat().st_mode & 0o777 for file in tmp_path.iterdir()] == [mode, mode]


# --- what a killed process leaves -----------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from pathlib import Path
from dynat.runtime.files import atomic_write

def write(draft):
    draft.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)

atomic_write(Path(sys.argv[1]), write)
"""


def test_the_draft_of_a_killed_process_is_deleted_by_the_next_write(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "table.csv")], check=False)
    assert done.returncode == -signal.SIGKILL
    (draft,) = tmp_path.iterdir()
    assert DRAFT.fullmatch(draft.name) and draft.suffix == ".csv"
    atomic_text(tmp_path / "other.csv", "text")
    assert [file.name for file in tmp_path.iterdir()] == ["other.csv"]


def test_only_abandoned_drafts_are_deleted(tmp_path: Path) -> None:
    kept: list[str] = []

    def write(draft: Path) -> None:
        draft.write_text("new")
        found = re.fullmatch(r"\.dynat-(\w{8})-(\d+)-\w{8}\.csv", draft.name)
        assert found is not None
        host, pid = found[1], int(found[2])
        foreign = "0" * 8 if host != "0" * 8 else "1" * 8
        kept.extend([f".dynat-{host}-{pid}-01234567.csv", f".dynat-{foreign}-{2**22 + 1}-01234567.csv"])
        kept.extend([".dynat-notes", ".0123abcd-table.csv", f".dynat-{host}-{2**22 + 1}.csv"])
        for name in kept:
            (tmp_path / name).write_text("not mine")
        old = tmp_path / f".dynat-{foreign}-{pid}-89abcdef.csv"
        old.write_text("of a day ago")
        os.utime(old, (time.time() - 90000,) * 2)
        (tmp_path / f".dynat-{host}-{2**22 + 1}-01234567.csv").write_text("of a process that is gone")
        atomic_text(tmp_path / "inner.csv", "text")

    atomic_write(tmp_path / "outer.csv", write)
    assert {file.name for file in tmp_path.iterdir()} == {"inner.csv", "outer.csv", *kept}


def test_a_machine_is_more_than_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two nodes that are both called localhost share a folder."""
    monkeypatch.setattr("platform.node", lambda: "localhost")
    texts = {"/proc/sys/kernel/random/boot_id": "one"}
    monkeypatch.setattr(Path, "read_text", lambda file: texts[str(file)])
    monkeypatch.setattr(Path, "readlink", lambda file: Path("pid:[4026531836]"))
    one = files._host()
    assert files._host() == one
    texts["/proc/sys/kernel/random/boot_id"] = "other"
    assert files._host() != one


# --- full disks -----------------------------------------------------------------------------------------------------

FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from dynat.runtime.files import write_with_checksum
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_with_checksum(Path(sys.argv[1]), bytes(10**6))
except OSError as error:
    print(error)
"""


def test_a_full_disk_names_the_file(tmp_path: Path) -> None:
    file = tmp_path / "state.pt"
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(file)], check=True, capture_output=True, text=True)
    assert done.stdout == f"[Errno 27] File too large: '{file}'\n"
    assert not any(tmp_path.iterdir())


# --- checksums ------------------------------------------------------------------------------------------------------

CONTENT = bytes(range(256)) * 3


def test_what_is_written_with_a_checksum_is_read(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "state.pt"
    assert read_with_checksum(file) is None
    for content in (CONTENT, b""):
        write_with_checksum(file, content)
        assert read_with_checksum(file) == content
    assert [entry.name for entry in file.parent.iterdir()] == ["state.pt"]


def assert_set_aside(file: Path, damaged: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_bytes(damaged)
    assert read_with_checksum(file) is None
    assert [entry.name for entry in file.parent.iterdir()] == [f"{file.name}.damaged"], "only the newest"
    assert (file.parent / f"{file.name}.damaged").read_bytes() == damaged
    assert f"dynat: {file} is damaged" in capsys.readouterr().err


def test_every_flipped_bit_is_noticed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "state.pt"
    write_with_checksum(file, CONTENT)
    whole = file.read_bytes()
    assert len(whole) < 1000
    bits = random.Random(0)
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << bits.randrange(8)
        assert_set_aside(file, bytes(damaged), capsys)


def test_every_truncation_and_extension_is_noticed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "state.pt"
    write_with_checksum(file, CONTENT)
    whole = file.read_bytes()
    for kept in range(len(whole)):
        assert_set_aside(file, whole[:kept], capsys)
    for damaged in (b"", whole + b"\0", whole[1:], CONTENT):
        assert_set_aside(file, damaged, capsys)


# --- files to read --------------------------------------------------------------------------------------------------


def test_what_is_no_file_is_refused_without_opening_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").touch()
    check_readable(tmp_path / "file", "checkpoint")
    for name, message in {
        "none": "none: no such checkpoint",
        "fifo": "fifo: is not a regular file but a FIFO",
        "/dev/null": "/dev/null: is not a regular file",
        "folder": "folder: is a folder; name the checkpoint itself",
        "loop": r"loop: cannot be read \(Too many levels of symbolic links\)",
        "x" * 300: r"cannot be read \(File name too long\)",
        "file/x": r"cannot be read \(Not a directory\)",
    }.items():
        with pytest.raises(UserError, match=message):
            check_readable(tmp_path / name, "checkpoint")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_not_missing(tmp_path: Path) -> None:
    (tmp_path / "secret").touch(mode=0)
    with pytest.raises(UserError, match="secret: permission denied; make the checkpoint readable"):
        check_readable(tmp_path / "secret", "checkpoint")


def test_a_folder_that_cannot_be_written_is_found_before_any_work(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "folder")
    assert not list(tmp_path.iterdir()), "nothing is left"
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=f"{tmp_path}/file/results: cannot be written .*nothing was started"):
        check_writable(tmp_path / "file" / "results")
