"""The processes of one training: one, or one per GPU of a machine, each with its share of every batch.

N processes train what one trains: they draw order, crops and starting points for the whole batch and take their
share of it, BatchNorm's statistics are those of the whole batch, gradients are averaged before the update. What
differs is the order of floating-point sums. Gradients travel in one message after the one backward pass: a
step sends several forwards through each network before it, which torch's wrapper for data parallelism is not for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class World:
    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process is the one that speaks and writes."""
        return self.rank == 0

    def share(self, batch: Tensor) -> Tensor:
        """This process's part of a whole batch."""
        if self.size == 1:
            return batch
        each, left = divmod(len(batch), self.size)
        if left:  # the config sees to run.batch; this is a data set smaller than one batch
            raise ValueError(f"{len(batch)} training pictures cannot be shared among {self.size} GPUs evenly")
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

    def joined(self, network: nn.Module, device: torch.device) -> nn.Module:
        """The network with BatchNorms that see the whole batch."""
        if self.size == 1:
            return network
        if device.type == "cuda":
            made: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
            return made
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.__class__ = WholeBatchNorm  # same state, another forward
        return network


ALONE = World()


class WholeBatchNorm(nn.BatchNorm2d):
    """What nn.SyncBatchNorm does on GPUs, for processes on a CPU."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        size = dist.get_world_size()
        mean: Tensor = _Sum.apply(input.mean((0, 2, 3))) / size  # type: ignore[no-untyped-call]
        centred = input - mean.view(1, -1, 1, 1)
        variance: Tensor = _Sum.apply(centred.square().mean((0, 2, 3))) / size  # type: ignore[no-untyped-call]
        if self.track_running_stats:
            assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
            assert self.num_batches_tracked is not None
            count = size * input.numel() / input.shape[1]
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean.detach(), self.momentum)
            self.running_var.lerp_(variance.detach() * (count / (count - 1)), self.momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return torch.addcmul(self.bias.view(1, -1, 1, 1), centred, scale.view(1, -1, 1, 1))


class _Sum(torch.autograd.Function):
    """The sum over all processes; each of their losses sends gradient back through it."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:  # noqa: ARG004
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ARG004
        total = gradient.clone()
        dist.all_reduce(total)
        return total
