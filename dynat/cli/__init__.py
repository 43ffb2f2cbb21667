"""The `dynat` command. Each step of the pipeline is a subcommand; heavy imports wait until a command needs them.

app.py        the app, shared options              compute.py   data, train, import, attack, sanity, transfer
configure.py  check, list                          evaluate.py  evaluate: a checkpoint file
results.py    metrics, report, export, diff        job.py       the hidden command that the pipeline's rules call
renamed.py    messages for names of earlier versions
"""

from __future__ import annotations

import errno
import sys

from dynat.cli import compute, configure, evaluate, job, results  # noqa: F401  each adds its commands to the app
from dynat.cli.app import app
from dynat.config import ConfigError
from dynat.runtime import launch
from dynat.runtime.errors import JobError, UserError
from dynat.runtime.interrupts import Interrupted, interruptible

INTERRUPTED = "interrupted; finished epochs and batches are kept: the same command resumes"
CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)
WRONG_PATH = (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP)


def main() -> None:
    """Run the command line. What the user can mend becomes a sentence; every other exception keeps its traceback."""
    try:
        with interruptible():
            app(prog_name="dynat")
    except Interrupted as interruption:
        if not launch.is_worker():  # of the processes of one training, the one that started the others says it
            print(f"dynat: {INTERRUPTED}", file=sys.stderr)
        raise SystemExit(interruption.exit_code) from None
    except ConfigError as error:
        _exit(f"config: {error}", 2)
    except UserError as error:
        _exit(str(error), 2)
    except JobError as error:
        _exit(str(error), 1)
    except OSError as error:
        if error.errno in WRONG_PATH:
            _exit(f"{error.filename}: {error.strerror}; name another path", 2)
        if error.errno not in CANNOT_WRITE:
            raise
        _exit(f"{error.strerror}: {error.filename or ''} (is the disk full or read-only?)", 1)


def _exit(message: str, code: int) -> None:
    print(f"dynat: {message}", file=sys.stderr)
    raise SystemExit(code)
