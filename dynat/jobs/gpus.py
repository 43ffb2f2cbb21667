"""Which of a machine's GPUs a job takes, so that jobs side by side do not all sit on the first one.

Whoever starts jobs (Snakemake on one machine) counts GPUs and does not say which is whose. So a job locks a file per
GPU for as long as it lives; the lock goes with the process, however that ends.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from pathlib import Path

import torch

_held: dict[int, int | None] = {}
"""GPUs of this job, and the open file of each: closing it would give the GPU back."""


def take(count: int = 1) -> list[int]:
    """Numbers of `count` GPUs that no other job holds; where too few are free, some that others hold too."""
    seen = range(torch.cuda.device_count())
    for number in seen:
        if len(_held) < count:
            hold(number)
    mine = list(_held)[:count]
    # Jobs that share spread over all, rather than meet on the first.
    others = [number for number in seen if number not in mine]
    first = os.getpid() % len(others) if others else 0
    return [*mine, *(others[first:] + others[:first])[: count - len(mine)]]


def hold(number: int) -> None:
    """Lock this GPU for this job, unless another job has."""
    if number in _held:
        return
    # By what the card is, since CUDA_VISIBLE_DEVICES may number cards differently in each job.
    card = getattr(torch.cuda.get_device_properties(number), "uuid", number)
    path = Path(tempfile.gettempdir()) / f"dynat-{os.getuid()}-gpu-{card}.lock"
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError:  # no place for a lock: then jobs cannot know of each other, and work all the same
        _held[number] = None
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(file)
    else:
        _held[number] = file
