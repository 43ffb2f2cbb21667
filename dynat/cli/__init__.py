"""The `dynat` command: by hand what each rule of the DAG does. Nothing heavy is imported until it is used."""

from __future__ import annotations

import sys

from dynat.cli import computing, showing  # noqa: F401  each adds its commands to the app
from dynat.cli.common import app
from dynat.config import ConfigError


def main() -> None:
    """Run the command line; what a person did wrong is a sentence and exit code 2, not a traceback."""
    try:
        app(prog_name="dynat")
    except ConfigError as error:
        _leave(f"config: {error}", 2)
    except (ValueError, FileNotFoundError) as error:
        _leave(str(error), 2)
    except RuntimeError as error:
        if type(error).__name__ not in ("Diverged", "Lost"):
            raise
        _leave(str(error), 1)
    except OSError as error:
        _leave(f"{error.strerror or error}: {error.filename or ''} (is the disk full or read-only?)", 1)


def _leave(message: str, code: int) -> None:
    print(f"dynat: {message}", file=sys.stderr)
    raise SystemExit(code)
