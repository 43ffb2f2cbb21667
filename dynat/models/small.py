"""The network of the `digits` preset: two convolutions, made for 8x8 images on one CPU core.

At that size a layer costs its overhead, not its arithmetic, so it is as shallow as still withstands PGD at eps 0.15.
It has 9,988 weights.

BatchNorm follows the linear layer too, which holds half of the weights: the network's output then does not depend on
the scale of any convolution or linear weight. For SGD, a factor of the loss, such as beta, is a factor of the learning
rate; with such weights their length adapts to it. Without it, training at beta 6 fails where beta 1 is good.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

CELLS = 4
"""Rows and columns that the linear layer sees: it reads where a stroke is, not only that there is one."""


def small(*, classes: int, channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(inplace=True),
        nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(inplace=True),
        Cells(),
        nn.Flatten(),
        nn.Linear(32 * CELLS * CELLS, classes, bias=False),
        nn.BatchNorm1d(classes),
    )


class Cells(nn.Module):
    """Average pooling to CELLS x CELLS, for images of any size; nothing to do for 8x8 ones.

    Pooling 4x4 cells to 4x4 is no change, but torch computes it, and it was two fifths of the forward.
    """

    def forward(self, features: Tensor) -> Tensor:
        if features.shape[-2:] == (CELLS, CELLS):
            return features
        return F.adaptive_avg_pool2d(features, CELLS)
