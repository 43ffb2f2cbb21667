"""The network that a row's weights belong to: a trained run's target, or a checkpoint's architecture."""

from __future__ import annotations

from torch import nn

from dynat import models
from dynat.config import Checkpoint, Run
from dynat.nn.normalize import normalized


def build_network(config: Run | Checkpoint, *, classes: int, channels: int) -> nn.Module:
    """A network whose names and shapes are those of the row's weight file; its weights are still random."""
    if isinstance(config, Run):
        return models.build(config.target, classes=classes, channels=channels)
    network = models.build(config.arch, classes=classes, channels=channels)
    if config.mean is None or config.std is None:
        return network
    return normalized(network, mean=config.mean, std=config.std)
