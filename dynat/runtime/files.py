"""Atomic files: complete or absent, whenever the process is killed. Files with a checksum: intact or set aside.

Imports neither torch nor the config.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import secrets
import stat
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from dynat.runtime.errors import UserError


def _host() -> str:
    """This machine since it started, and the container: two of them can have one name and the same process numbers."""
    parts = [platform.node()]
    with suppress(OSError):  # Linux
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text(), str(Path("/proc/self/ns/pid").readlink())]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:8]


HOST = _host()
DRAFT = re.compile(r"\.dynat-(?P<host>[0-9a-f]{8})-(?P<pid>\d+)-[0-9a-f]{8}(\..*)?")
"""Name of a file that is being written: on which machine, and by which process."""
ABANDONED_AFTER = 24 * 3600.0
"""Seconds after which a draft of another machine is taken for one that a killed process left."""

CHECKSUM = b"dynat sha256:"
"""The content of a file with a checksum is followed by this mark and the 32 bytes of the SHA-256 of the content."""


def atomic_write(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` write a hidden file beside `path`, a draft, then rename it to `path`.

    Creates the parent folders. The draft has the same suffix, by which many writers choose the format. If `write`
    fails, `path` is unchanged and the draft is deleted; drafts of killed processes in this folder are deleted too. An
    `OSError` names `path`. The file has the usual mode (0666 without the umask), whatever mode `write` chooses.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _delete_abandoned_drafts(path.parent)
    draft = path.with_name(f".dynat-{HOST}-{os.getpid()}-{secrets.token_hex(4)}{path.suffix}")
    try:
        draft.touch(0o666)
        mode = stat.S_IMODE(draft.stat().st_mode)
        write(draft)
        if stat.S_IMODE(draft.stat().st_mode) != mode:  # safetensors makes files that others cannot read
            draft.chmod(mode)
        _sync(draft)
        draft.replace(path)
    except BaseException as error:
        draft.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename in (None, str(draft)):
            error.filename = str(path)
        raise
    with suppress(OSError):  # some network file systems cannot sync a folder
        _sync(path.parent)


def atomic_text(path: Path, text: str) -> None:
    """`atomic_write` of a text, in UTF-8."""
    atomic_write(path, lambda draft: draft.write_text(text, encoding="utf-8"))


def write_with_checksum(path: Path, content: bytes | memoryview) -> None:
    """`atomic_write` of `content` for `read_with_checksum`."""

    def write(draft: Path) -> None:
        with draft.open("wb") as file:
            file.write(content)
            file.write(CHECKSUM + hashlib.sha256(content).digest())

    atomic_write(path, write)


def read_with_checksum(path: Path) -> bytes | None:
    """What `write_with_checksum` wrote; None where there is no file.

    A file with any other content, damaged or cut, is never returned: it is renamed to <name>.damaged, with a message.
    """
    try:
        stored = path.read_bytes()
    except FileNotFoundError:
        return None
    size = len(stored) - len(CHECKSUM) - 32
    if size >= 0 and stored[size:] == CHECKSUM + hashlib.sha256(memoryview(stored)[:size]).digest():
        return stored[:size]
    with suppress(FileNotFoundError):  # another process of this training was faster
        path.replace(path.with_name(f"{path.name}.damaged"))
        print(
            f"dynat: {path} is damaged (its checksum differs): renamed to {path.name}.damaged and not used",
            file=sys.stderr,
            flush=True,
        )
    return None


def check_readable(path: Path, what: str) -> None:
    """`UserError` unless `path` is a file that can be read. Does not open it: a FIFO would wait for ever."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise UserError(f"{path}: no such {what}") from None
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise UserError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if stat.S_ISDIR(mode):
        raise UserError(f"{path}: is a folder; name the {what} itself, which is a file")
    if not stat.S_ISREG(mode):
        raise UserError(f"{path}: is not a regular file but a FIFO, a socket or a device; name a {what}")
    if not os.access(path, os.R_OK):
        raise UserError(f"{path}: permission denied; make the {what} readable (chmod u+r)")


def check_writable(*folders: Path) -> None:
    """`UserError` unless files can be written in these folders, or in those where they will be made. Leaves nothing."""
    for folder in folders:
        existing = next(parent for parent in (folder, *folder.absolute().parents) if os.path.lexists(parent))
        try:
            with tempfile.TemporaryFile(dir=existing):
                pass
        except OSError as error:
            raise UserError(
                f"{folder}: cannot be written ({existing}: {error.strerror}); nothing was started: "
                "correct this, and call again"
            ) from None


def _delete_abandoned_drafts(folder: Path) -> None:
    """Delete what killed processes left: drafts of this machine whose process is gone, and any that are a day old."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if match := DRAFT.fullmatch(entry.name):
                with suppress(OSError):  # another process deletes or publishes it
                    gone = match["host"] == HOST and not _is_running(int(match["pid"]))
                    if gone or time.time() - entry.stat(follow_symlinks=False).st_mtime > ABANDONED_AFTER:
                        Path(entry.path).unlink()


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _sync(path: Path) -> None:
    """Without this, a power failure after the rename can leave an empty file under the new name."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
