"""Which of a machine's GPUs a job takes, so that jobs side by side do not all sit on the first one.

Whoever starts jobs (Snakemake on one machine) counts GPUs and does not say which is whose. So a job locks a file per
GPU for as long as it lives; the lock goes with the process, however that ends.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from pathlib import Path
from typing import IO

import torch

_held: dict[int, IO[str]] = {}
"""Numbers and open files: closing one would give its GPU back."""


def take(count: int = 1) -> list[int]:
    """Numbers of `count` GPUs that no other job holds; where too few are free, some that others hold too."""
    seen = torch.cuda.device_count()
    if seen <= count:
        return list(range(count))
    free = list(_held)[:count]
    for number in range(seen):
        if len(free) < count and number not in _held and _lock(number):
            free.append(number)
    # Jobs that share spread over all, rather than meet on the first.
    others = [number for number in range(seen) if number not in free]
    first = os.getpid() % len(others)
    return [*free, *(others[first:] + others[:first])[: count - len(free)]]


def _lock(number: int) -> bool:
    # By what the card is, since CUDA_VISIBLE_DEVICES may number cards differently in each job.
    card = getattr(torch.cuda.get_device_properties(number), "uuid", number)
    path = Path(tempfile.gettempdir()) / f"dynat-{os.getuid()}-gpu-{card}.lock"
    file = path.open("w", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return False
    _held[number] = file
    return True
