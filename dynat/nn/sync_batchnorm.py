"""BatchNorm over the batches of all processes, for processes on a CPU: what nn.SyncBatchNorm does on GPUs."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class CPUSyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """For inputs of any number of dimensions; channels are the second. Computes in float32 at least."""

    def _check_input_dim(self, input: Tensor) -> None:
        pass

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        given, size = input.dtype, dist.get_world_size()
        input = input.to(torch.promote_types(given, torch.float32))
        others = [dim for dim in range(input.dim()) if dim != 1]
        shape = [-1 if dim == 1 else 1 for dim in range(input.dim())]
        mean: Tensor = _AllReduceSum.apply(input.mean(others)) / size  # type: ignore[no-untyped-call]
        centered = input - mean.view(shape)
        variance: Tensor = _AllReduceSum.apply(centered.square().mean(others)) / size  # type: ignore[no-untyped-call]
        if self.track_running_stats:
            assert self.running_mean is not None and self.running_var is not None
            assert self.num_batches_tracked is not None
            count = size * input.numel() / input.shape[1]
            self.num_batches_tracked.add_(1)
            # As in torch: without a momentum, the plain mean over the batches so far.
            share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean.detach(), share)
            self.running_var.lerp_(variance.detach() * (count / (count - 1)), share)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return torch.addcmul(self.bias.view(shape), centered, scale.view(shape)).to(given)


class _AllReduceSum(torch.autograd.Function):
    """The sum over all processes; the gradients of all their losses flow back through it."""

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
