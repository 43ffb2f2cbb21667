"""Which of a machine's GPUs a job uses, so that jobs that run at the same time do not all use the first one.

Snakemake on one machine counts GPUs but does not assign them. So each job locks a file per GPU while it runs; the
operating system releases the lock when the process ends, however it ends.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from pathlib import Path

import torch

_lock_files: dict[int, int | None] = {}
"""The GPUs that this job has locked, each with its open file (None: no file could be made). Closing it unlocks."""


def choose_gpus(count: int = 1) -> list[int]:
    """Numbers of `count` GPUs that no other job has locked; if too few are free, some that other jobs use too."""
    gpus = range(torch.cuda.device_count())
    for number in gpus:
        if len(_lock_files) < count:
            lock_gpu(number)
    locked = list(_lock_files)[:count]
    # Jobs that share GPUs are spread over all of them.
    others = [number for number in gpus if number not in locked]
    first = os.getpid() % len(others) if others else 0
    return [*locked, *(others[first:] + others[:first])[: count - len(locked)]]


def lock_gpu(number: int) -> None:
    """Lock this GPU for this job, unless another job has locked it."""
    if number in _lock_files:
        return
    # By the card's own identifier, since CUDA_VISIBLE_DEVICES may number cards differently in each job.
    card = getattr(torch.cuda.get_device_properties(number), "uuid", number)
    path = Path(tempfile.gettempdir()) / f"dynat-{os.getuid()}-gpu-{card}.lock"
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError:  # no lock file can be made: jobs then do not know of each other, and run all the same
        _lock_files[number] = None
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(file)
    else:
        _lock_files[number] = file
