"""Small networks for tests, each for one property: known gradients, or behavior that an attack must not trust."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class TwoLayers(nn.Module):
    """In float64 and small enough to restate by hand, with BatchNorm because that is where silent errors occur."""

    def __init__(self, seed: int, classes: int = 4, pixels: int = 12) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.first = nn.Linear(pixels, 8)
            self.norm = nn.BatchNorm1d(8)
            self.second = nn.Linear(8, classes)
        self.double()

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.second(torch.tanh(self.norm(self.first(images.flatten(1)))))
        return logits
