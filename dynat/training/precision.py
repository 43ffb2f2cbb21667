"""Arithmetic of a network as a wrapper: bfloat16 inside, float32 weights and float32 logits outside.

Each forward is its own autocast region. One region around a whole step would keep weights cast under
no_grad in its cache, and the training forward after it would silently get no gradient for them.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class Precise(nn.Module):
    """`net`, computing in `dtype`."""

    def __init__(self, net: nn.Module, dtype: torch.dtype, memory_format: torch.memory_format) -> None:
        super().__init__()
        self.net = net.to(memory_format=memory_format)  # type: ignore[call-overload]
        self.dtype = dtype
        self.memory_format = memory_format
        # In a list, so that it is no submodule: it has no weights of its own to save.
        self._searched: list[Searched] = []

    def forward(self, pictures: Tensor) -> Tensor:
        pictures = pictures.contiguous(memory_format=self.memory_format)
        with torch.autocast(pictures.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32):
            logits: Tensor = self.net(pictures)
        return logits.float()

    def searched(self) -> nn.Module:
        """The network as the inner search sees it now: same weights, cast once rather than per forward."""
        if self.dtype == torch.float32:
            return self
        if not self._searched:
            self._searched.append(Searched(self))
        self._searched[0].refresh(self.net)
        return self._searched[0]


class Searched(nn.Module):
    """A frozen copy in evaluation mode whose convolutions and linear layers are stored in low precision."""

    def __init__(self, source: Precise) -> None:
        super().__init__()
        self.dtype, self.memory_format = source.dtype, source.memory_format
        self.net = copy.deepcopy(source.net).eval().requires_grad_(False)
        for module in self.net.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.to(self.dtype)
        self.eval()

    @torch.no_grad()
    def refresh(self, net: nn.Module) -> None:
        torch._foreach_copy_(list(self.net.parameters()), list(net.parameters()))
        for kept, current in zip(self.net.buffers(), net.buffers(), strict=True):
            kept.copy_(current)

    def forward(self, pictures: Tensor) -> Tensor:
        pictures = pictures.to(self.dtype).contiguous(memory_format=self.memory_format)
        logits: Tensor = self.net(pictures)
        return logits.float()


def precise(net: nn.Module, precision: str, device: torch.device) -> Precise:
    """`auto` is bfloat16 and channels-last on a GPU that has them, float32 elsewhere."""
    cuda = device.type == "cuda"
    low = precision == "bfloat16" or (precision == "auto" and cuda and torch.cuda.is_bf16_supported())
    return Precise(
        net,
        torch.bfloat16 if low else torch.float32,
        torch.channels_last if cuda or low else torch.contiguous_format,
    )


def searched(network: nn.Module) -> nn.Module:
    """The network that an inner search should ask; itself, unless it has a cheaper view of itself."""
    return network.searched() if isinstance(network, Precise) else network
