"""The networks of a training: target, guide, and the moving average of the target."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from dynat import models
from dynat.config import Run
from dynat.nn.mixed_precision import MixedPrecision, mixed_precision
from dynat.training.distributed import SINGLE_PROCESS, Distributed

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Networks:
    """The target, the guide that trains beside it, if any, and the target's moving average, if the run keeps one."""

    target: nn.Module
    guide: nn.Module | None
    ema: AveragedModel | None = None

    def parameters(self) -> list[nn.Parameter]:
        """All that the optimizer trains."""
        networks = [self.target] if self.guide is None else [self.target, self.guide]
        return [parameter for network in networks for parameter in network.parameters()]

    def train(self) -> None:
        self.target.train()
        if self.guide is not None:
            self.guide.train()

    @property
    def evaluated(self) -> nn.Module:
        """The target that is validated and saved: the average where the run keeps one."""
        if self.ema is None:
            return self.target
        average: nn.Module = self.ema.module
        return average


def build_networks(
    run: Run,
    *,
    classes: int,
    channels: int,
    size: tuple[int, int] | None = None,
    seed: int,
    device: torch.device,
    distributed: Distributed = SINGLE_PROCESS,
) -> Networks:
    """Fresh networks. The target comes first, so that it starts alike in every run with this seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        networks = [
            models.build(name, classes=classes, channels=channels, size=size).to(device)
            for name in (run.target, run.guide)
            if name is not None
        ]
    target, *guides = [
        mixed_precision(distributed.sync_batchnorm(network, device), run.precision, device, compiled=run.compile)
        for network in networks
    ]
    return Networks(target, guides[0] if guides else None, moving_average(target, run.ema) if run.ema else None)


def moving_average(network: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of the weights; BatchNorm's statistics are copied. Starts at today's weights."""
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay))  # type: ignore[no-untyped-call]
    average.requires_grad_(False)
    average.n_averaged += 1  # otherwise the first update would copy the weights instead of averaging
    if isinstance(average.module, MixedPrecision):
        average.module.run_eagerly()  # it is only validated, which is not worth a compilation
    return average


def weights_of(model: nn.Module) -> Weights:
    """A copy of the network's weights under its own names, without those of wrappers."""
    return {
        name.removeprefix("net."): value.detach().clone(memory_format=torch.contiguous_format)
        for name, value in model.state_dict().items()
    }
