"""The optimizer over target and guide, and the clipping of their gradients."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from dynat.config import Run
from dynat.training.networks import Networks


def build_optimizer(run: Run, networks: Networks, device: torch.device, *, recorded: bool) -> torch.optim.Optimizer:
    """Fused, since that kind skips a step by itself where the loss is not finite. `recorded`: in a CUDA graph."""
    config, parameters = run.optimizer, networks.parameters()
    # A tensor where steps are recorded, so that a recording reads the current rate.
    rate = torch.tensor(run.schedule.lr, device=device) if recorded else run.schedule.lr
    if config.name == "adamw":
        return torch.optim.AdamW(
            parameters, rate, config.betas, weight_decay=config.weight_decay, capturable=recorded, fused=True
        )
    return torch.optim.SGD(
        parameters, rate, config.momentum, weight_decay=config.weight_decay, nesterov=config.nesterov, fused=True
    )


def clip_gradients(networks: Iterable[nn.Module], max_norm: float) -> None:
    """Scale the gradient of each network down to this norm where it is longer."""
    for network in networks:
        torch.nn.utils.clip_grad_norm_(network.parameters(), max_norm)
