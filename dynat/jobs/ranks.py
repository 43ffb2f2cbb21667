"""A training in several processes: started by torchrun, which stops the others when one of them ends badly."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist

from dynat.jobs import gpus
from dynat.training.world import World


class Lost(RuntimeError):
    """One of a training's processes ended badly."""


def world() -> World:
    """What torchrun says of this process; alone where it says nothing."""
    return World(int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))


def launch(count: int, arguments: Sequence[str]) -> None:
    """Run `dynat` with these arguments in `count` processes that know of each other."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    os.environ.setdefault("OMP_NUM_THREADS", "1")  # else torchrun sets it with a warning; each process sets its own
    if (seen := torch.cuda.device_count()) >= count:
        names = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(seen)))).split(",")
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(names[number] for number in gpus.take(count))
    try:
        torchrun(["--standalone", f"--nproc-per-node={count}", "--module", "dynat", *arguments])
    except ChildFailedError as error:
        rank, first = error.get_first_failure()
        ended = f"was killed by signal {-first.exitcode}" if first.exitcode < 0 else f"ended with code {first.exitcode}"
        raise Lost(
            f"process {rank} of {count} {ended}, so the others were stopped; what it said is above. "
            "The same command goes on from the last finished epoch"
        ) from None


@contextmanager
def joined(world: World, device: torch.device) -> Iterator[torch.device]:
    """The device of this process, connected to the others inside."""
    if world.size == 1:
        yield device
        return
    cuda = device.type == "cuda"
    if cuda:
        if (count := torch.cuda.device_count()) < world.size:
            raise ValueError(f"gpus: {world.size} was asked for, but torch sees {count}")
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if cuda else "gloo")
    try:
        yield device
    finally:
        dist.destroy_process_group()
