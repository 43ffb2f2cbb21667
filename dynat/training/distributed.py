"""The processes of one training: one, or one per GPU of a machine, each with its share of every batch.

N processes train what one process trains: they draw order, crops and starting points for the whole batch and take
their share of it, BatchNorm's statistics are those of the whole batch, gradients are averaged before the update. What
differs is the order of floating-point sums. Gradients travel in one message after the one backward pass: a step
sends several forwards through each network before it, which DistributedDataParallel is not built for.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dynat.nn.sync_batchnorm import CPUSyncBatchNorm
from dynat.runtime import launch
from dynat.runtime.errors import JobError, UserError

START_LIMIT = timedelta(minutes=5)
"""How long a process waits for the others to start."""
EXCHANGE_LIMIT = timedelta(minutes=10)
"""How long a process waits for the others in one exchange of gradients."""


@dataclass(frozen=True)
class Distributed:
    """This process among those that train together."""

    rank: int = 0
    size: int = 1

    @classmethod
    def from_environment(cls) -> Distributed:
        """What `launch` says of this process; a single process where it says nothing."""
        if not launch.is_worker():  # RANK and WORLD_SIZE alone may be those of another program
            return cls()
        return cls(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that logs and writes files."""
        return self.rank == 0

    @contextmanager
    def process_group(self, device: torch.device) -> Iterator[torch.device]:
        """The device of this process; inside, it is connected to the others."""
        if self.size == 1:
            yield device
            return
        cuda = device.type == "cuda"
        if cuda:
            if (count := torch.cuda.device_count()) < self.size:
                raise UserError(f"gpus: {self.size} was requested, but torch sees {count}")
            device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(device)
        self._connect("nccl" if cuda else "gloo")
        try:
            yield device
        finally:
            dist.destroy_process_group()

    def _connect(self, backend: str) -> None:
        """Join the process group; `JobError` if not all of its processes start in time."""
        launch.end_with_parent()
        store = dist.FileStore(os.environ[launch.RENDEZVOUS], self.size)  # type: ignore[attr-defined]
        store.set(f"started/{self.rank}", "")
        try:
            store.wait([f"started/{rank}" for rank in range(self.size)], START_LIMIT)
        except RuntimeError:
            raise JobError(
                f"process {self.rank} of {self.size} waited {START_LIMIT.total_seconds():.0f} s for the others of this "
                "training to start: is the machine overloaded? The same command starts all of them again"
            ) from None
        dist.init_process_group(backend, store=store, rank=self.rank, world_size=self.size, timeout=EXCHANGE_LIMIT)

    def shard(self, batch: Tensor) -> Tensor:
        """This process's part of a whole batch."""
        if self.size == 1:
            return batch
        each, left = divmod(len(batch), self.size)
        if left:  # the config checks run.batch; this is a data set smaller than one batch
            raise UserError(f"{len(batch)} training images cannot be shared evenly among {self.size} GPUs")
        return batch[self.rank * each : (self.rank + 1) * each]

    @torch.no_grad()
    def average(self, tensors: Sequence[Tensor]) -> None:
        """Each tensor becomes its mean over all processes, the same bits in each of them."""
        if self.size == 1:
            return
        message = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(message)
        parts = torch.split(message / self.size, [tensor.numel() for tensor in tensors])
        torch._foreach_copy_(list(tensors), [part.view(t.shape) for part, t in zip(parts, tensors, strict=True)])

    def of_main(self, numbers: dict[str, float]) -> dict[str, float]:
        """The main process's numbers. All processes decide by them: their own may differ by rounding."""
        shared = [numbers]
        if self.size > 1:
            dist.broadcast_object_list(shared, src=0)
        return shared[0]

    def sync_batchnorm(self, network: nn.Module, device: torch.device) -> nn.Module:
        """The network with BatchNorm statistics taken over the whole batch."""
        if self.size == 1:
            return network
        if device.type == "cuda":
            made: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
            return made
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.__class__ = CPUSyncBatchNorm  # same state, another forward
        return network


SINGLE_PROCESS = Distributed()
