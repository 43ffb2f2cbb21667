"""Arithmetic of a network as a wrapper: bfloat16 inside, float32 weights and float32 logits outside.

Each forward is its own autocast region. One region around a whole step would keep weights cast under
no_grad in its cache, and the training forward after it would silently get no gradient for them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from dynat.training.searched import Searched


class Precise(nn.Module):
    """`net`, computing in `dtype`, its pictures and features channels-last: what convolutions are fastest on."""

    def __init__(self, net: nn.Module, dtype: torch.dtype, *, compiled: bool = False) -> None:
        super().__init__()
        self.net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.dtype = dtype
        # In lists, so that they are no submodules: they have no weights of their own to save.
        self._compiled: list[Compiled] = [Compiled(self.net)] if compiled else []
        self._searched: list[Searched] = []

    def forward(self, pictures: Tensor) -> Tensor:
        pictures = pictures.contiguous(memory_format=torch.channels_last)
        # Compiled code is for training; validation is rare and not worth another compilation.
        run = self._compiled[0] if self._compiled and self.training else self.net
        with torch.autocast(pictures.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32):
            logits: Tensor = run(pictures)
        return logits.float()

    def searched(self) -> nn.Module:
        """The network as the inner search sees it now."""
        if not self._searched:
            view = Searched(self.net, self.dtype)
            view.run = Compiled(view.net) if self._compiled else view.net
            self._searched.append(view)
        self._searched[0].refresh(self.net)
        return self._searched[0]


class Compiled:
    """torch.compile of a network, in one piece, for the shape it meets first; otherwise the network as it is."""

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


def precise(net: nn.Module, precision: str, device: torch.device, *, compiled: bool = False) -> Precise:
    """`auto` is bfloat16 on a GPU that has it, float32 elsewhere."""
    low = precision == "bfloat16" or (precision == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported())
    return Precise(net, torch.bfloat16 if low else torch.float32, compiled=compiled)


def searched(network: nn.Module) -> nn.Module:
    """The network that an inner search should ask; itself, unless it has a cheaper view of itself."""
    return network.searched() if isinstance(network, Precise) else network
