"""The networks of a training: target, guide, and the moving average of the target."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, get_swa_multi_avg_fn

from dynat import models
from dynat.config import Run
from dynat.nn.mixed_precision import MixedPrecision, mixed_precision
from dynat.training.distributed import SINGLE_PROCESS, Distributed

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Networks:
    """The target, the guide that trains beside it, if any, and the average of the target, if the run keeps one."""

    target: nn.Module
    guide: nn.Module | None
    ema: AveragedModel | None = None
    swa: AveragedModel | None = None
    """The mean of the target's weights over the last epochs; not of any before the first of these."""

    @property
    def trained(self) -> list[nn.Module]:
        """The target, and the guide if there is one."""
        return [self.target] if self.guide is None else [self.target, self.guide]

    def parameters(self) -> list[nn.Parameter]:
        """All that the optimizer trains."""
        return [parameter for network in self.trained for parameter in network.parameters()]

    def train(self) -> None:
        for network in self.trained:
            network.train()

    @property
    def evaluated(self) -> nn.Module:
        """The target that is validated and saved: the average where there is one."""
        average = self.ema if self.swa is None else self.swa
        if average is None or average.n_averaged == 0:
            return self.target
        network: nn.Module = average.module
        return network


def build_networks(
    run: Run,
    *,
    classes: int,
    channels: int,
    size: tuple[int, int] | None = None,
    seed: int,
    device: torch.device,
    distributed: Distributed = SINGLE_PROCESS,
    init: Mapping[str, Weights] | None = None,
) -> Networks:
    """Fresh networks, or those that start from the weights in `init` by `target` and `guide`; others stay random.

    The target comes first, so that it starts alike in every run with this seed.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        built = {
            role: models.build(name, classes=classes, channels=channels, size=size)
            for role, name in (("target", run.target), ("guide", run.guide))
            if name is not None
        }
    for role, weights in (init or {}).items():
        unexpected = built[role].load_state_dict(weights, strict=False).unexpected_keys
        assert not unexpected, unexpected
    target, *guides = [
        mixed_precision(
            distributed.sync_batchnorm(network.to(device), device), run.precision, device, compiled=run.compile
        )
        for network in built.values()
    ]
    return Networks(
        target,
        guides[0] if guides else None,
        moving_average(target, run.ema) if run.ema else None,
        None if run.swa is None else weight_average(target),
    )


def moving_average(network: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of the weights; BatchNorm's statistics are copied. Starts at today's weights."""
    average = _averaged(network, get_ema_multi_avg_fn(decay))  # type: ignore[no-untyped-call]
    average.n_averaged += 1  # otherwise the first update would copy the weights instead of averaging
    return average


def weight_average(network: nn.Module) -> AveragedModel:
    """The plain mean of all weights that it is updated with; BatchNorm's statistics are copied from the last."""
    return _averaged(network, get_swa_multi_avg_fn())  # type: ignore[no-untyped-call]


def _averaged(network: nn.Module, function: Callable[..., None]) -> AveragedModel:
    average = AveragedModel(network, multi_avg_fn=function)
    average.requires_grad_(False)
    if isinstance(average.module, MixedPrecision):
        average.module.run_eagerly()  # it is only validated, which is not worth a compilation
    return average


def weights_of(model: nn.Module) -> Weights:
    """A copy of the network's weights under its own names, without those of wrappers."""
    return {
        name.removeprefix("net."): value.detach().clone(memory_format=torch.contiguous_format)
        for name, value in model.state_dict().items()
    }
