"""torch.compile of a network, and what happens where it cannot be had."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn


class Compiled:
    """The network in one compiled piece, for the shape it meets first; otherwise the network as it is.

    No module, so that it may lie beside the network without being a part of it.
    """

    def __init__(self, net: nn.Module) -> None:
        self.net: Callable[[Tensor], Tensor] = net
        self.shape: torch.Size | None = None
        self.run: Callable[[Tensor], Tensor] = torch.compile(net, fullgraph=True, dynamic=False)

    def __call__(self, pictures: Tensor) -> Tensor:
        self.shape = self.shape or pictures.shape
        if self.run is self.net or pictures.shape != self.shape:
            return self.net(pictures)
        try:
            return self.run(pictures)
        except Exception as error:
            # An error of the network's own comes again below.
            warnings.warn(f"torch.compile failed, so this network runs plainly: {error}", stacklevel=2)
            self.run = self.net
            return self.net(pictures)
