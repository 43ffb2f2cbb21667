"""The network that a row's weights belong to: a trained run's target, or a checkpoint's architecture."""

from __future__ import annotations

from torch import nn

from dynat import models
from dynat.config import Checkpoint, Normalization, Run
from dynat.nn.normalize import normalized


def build_network(
    config: Run | Checkpoint, *, classes: int, channels: int, size: tuple[int, int] | None = None
) -> nn.Module:
    """A network whose names and shapes are those of the row's weight file; its weights are still random."""
    if isinstance(config, Run):
        return models.build(config.target, classes=classes, channels=channels, size=size)
    return with_first_layer(bare_network(config, classes=classes, channels=channels, size=size), config)


def bare_network(
    checkpoint: Checkpoint, *, classes: int, channels: int, size: tuple[int, int] | None = None
) -> nn.Module:
    """The network of a checkpoint without its normalization: names are those of the releases."""
    side = 2 * checkpoint.padding
    padded = (size[0] + side, size[1] + side) if size else None
    return models.bare(checkpoint.arch, classes=classes, channels=channels, size=padded)


def with_first_layer(network: nn.Module, first: Normalization) -> nn.Module:
    """A bare network behind what its pixels go through first; itself if that is nothing."""
    if first.mean is None or first.std is None:
        return network if not first.padding else normalized(network, mean=(0.0,), std=(1.0,), padding=first.padding)
    return normalized(network, mean=first.mean, std=first.std, padding=first.padding)
