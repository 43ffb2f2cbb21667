"""Start the processes of one training, one per GPU, with torchrun, which stops all when one of them fails."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch

from dynat.runtime import gpu_locks
from dynat.runtime.errors import JobError


class WorkerFailed(JobError):
    """One of a training's processes failed."""


def launch(count: int, arguments: Sequence[str]) -> None:
    """Run `dynat` with these arguments in `count` processes of one process group."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    os.environ.setdefault("OMP_NUM_THREADS", "1")  # else torchrun sets it with a warning; each process sets its own
    if (seen := torch.cuda.device_count()) >= count:
        names = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(seen)))).split(",")
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(names[number] for number in gpu_locks.choose_gpus(count))
    try:
        torchrun(["--standalone", f"--nproc-per-node={count}", "--module", "dynat", *arguments])
    except ChildFailedError as error:
        rank, first = error.get_first_failure()
        ended = f"was killed by signal {-first.exitcode}" if first.exitcode < 0 else f"ended with code {first.exitcode}"
        raise WorkerFailed(
            f"process {rank} of {count} {ended}, so the others were stopped; its output is above. "
            "The same command resumes from the last finished epoch"
        ) from None
