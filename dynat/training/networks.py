"""The networks of a training: made, averaged, copied."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from dynat import models
from dynat.config import Run
from dynat.training.precision import Precise, precise
from dynat.training.step import Pair
from dynat.training.world import ALONE, World

Weights = dict[str, Tensor]


def build_pair(run: Run, *, classes: int, channels: int, seed: int, device: torch.device, world: World = ALONE) -> Pair:
    """Fresh networks. The target comes first, so that it starts alike in every run with this seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        networks = [
            models.build(name, classes=classes, channels=channels).to(device)
            for name in (run.target, run.guide)
            if name is not None
        ]
    made = [
        precise(world.joined(network, device), run.precision, device, compiled=run.compiled) for network in networks
    ]
    return Pair(made[0], made[1] if len(made) > 1 else None)


def average_of(network: nn.Module) -> nn.Module:
    """A copy that `update_average` lets follow. It is validated alone, which is not worth a compilation."""
    average = copy.deepcopy(network).requires_grad_(False)
    if isinstance(average, Precise):
        average.plain()
    return average


@torch.no_grad()
def update_average(average: nn.Module, current: nn.Module, decay: float) -> None:
    """Weights move towards the current ones; BatchNorm's statistics are taken as they are."""
    torch._foreach_lerp_(list(average.parameters()), list(current.parameters()), 1 - decay)
    torch._foreach_copy_(list(average.buffers()), list(current.buffers()))


def weights_of(model: nn.Module) -> Weights:
    """A copy of the network's weights, under its own names, whatever wraps it."""
    return {
        name.removeprefix("net."): value.detach().clone(memory_format=torch.contiguous_format)
        for name, value in model.state_dict().items()
    }
