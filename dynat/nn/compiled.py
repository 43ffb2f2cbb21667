"""torch.compile of a network, with a fallback to eager execution where it fails."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn


class CompiledModel:
    """The network compiled as one graph for the first input shape it sees; other shapes run eagerly.

    Not a module, so that a network can hold it without its weights appearing twice.
    """

    def __init__(self, net: nn.Module) -> None:
        self.net: Callable[[Tensor], Tensor] = net
        self.shape: torch.Size | None = None
        self.run: Callable[[Tensor], Tensor] = torch.compile(net, fullgraph=True, dynamic=False)

    def __call__(self, images: Tensor) -> Tensor:
        self.shape = self.shape or images.shape
        if self.run is self.net or images.shape != self.shape:
            return self.net(images)
        try:
            return self.run(images)
        except Exception as error:
            # An error of the network itself is raised again below.
            warnings.warn(f"torch.compile failed, so this network runs eagerly: {error}", stacklevel=2)
            self.run = self.net
            return self.net(images)
