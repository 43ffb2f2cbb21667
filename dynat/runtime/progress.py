"""Progress bars: shown in a terminal, left out where the output goes to a log."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from tqdm import tqdm


def track(steps: Iterator[Any], total: int, title: str) -> Iterator[Any]:
    """`steps` with a progress bar if standard error is a terminal; otherwise unchanged."""
    if not sys.stderr.isatty():
        return steps
    return iter(tqdm(steps, total=total, desc=title, leave=False, unit="step"))
