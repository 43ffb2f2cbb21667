"""Normalization of pixels as the first layer, so that the network is a function of pixels in [0,1].

Black pixels around the image come before it, for the few networks whose authors padded smaller images.

An attack on the whole differentiates through this layer: radii, steps and checks are those of [0,1]. The names in
its state are RobustBench's: `normalize.mean`, `normalize.std`, `model.` and the network's own.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Normalize(nn.Module):
    """(x - mean) / std, channel by channel."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        return (pixels - self.mean) / self.std


def normalized(network: nn.Module, *, mean: Sequence[float], std: Sequence[float], padding: int = 0) -> nn.Sequential:
    """`network` with its normalization as the first layer, after `padding` black pixels on each side."""
    layers: list[tuple[str, nn.Module]] = [("normalize", Normalize(mean, std)), ("model", network)]
    return nn.Sequential(OrderedDict([("pad", nn.ZeroPad2d(padding)), *layers] if padding else layers))
