"""Arithmetic of a network as a wrapper: bfloat16 inside, float32 weights and float32 logits outside.

Each forward is its own autocast region. One region around a whole step would keep weights cast under
no_grad in its cache, and the training forward after it would silently get no gradient for them.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor, nn

from dynat.models.compiled import Compiled
from dynat.models.view import View


class Precise(nn.Module):
    """`net`, computing in `dtype`, its pictures and features channels-last: what convolutions are fastest on."""

    def __init__(self, net: nn.Module, dtype: torch.dtype, *, compiled: bool = False) -> None:
        super().__init__()
        self.net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.dtype = dtype
        # In lists, so that they are no submodules: they have no weights of their own to save.
        self._compiled: list[Compiled] = [Compiled(self.net)] if compiled else []
        self._searched: list[View] = []

    def forward(self, pictures: Tensor) -> Tensor:
        pictures = pictures.contiguous(memory_format=torch.channels_last)
        # Compiled code is for training; validation is rare and not worth another compilation.
        run = self._compiled[0] if self._compiled and self.training else self.net
        low = self.dtype != torch.float32
        with torch.autocast(pictures.device.type, dtype=self.dtype) if low else nullcontext():
            logits: Tensor = run(pictures)
        return logits.float()

    def plain(self) -> None:
        """From now on without compiled code."""
        self._compiled.clear()

    def searched(self) -> nn.Module:
        """The network as the inner search sees it now."""
        if not self._searched:
            self._searched.append(View(self.net, self.dtype, compiled=bool(self._compiled)))
        return self._searched[0].refresh(self.net)


def precise(net: nn.Module, precision: str, device: torch.device, *, compiled: bool = False) -> Precise:
    return Precise(net, arithmetic(precision, device), compiled=compiled)


def arithmetic(precision: str, device: torch.device) -> torch.dtype:
    """What networks compute in: `auto` is bfloat16 where the processor multiplies in it, float32 elsewhere."""
    if precision != "auto":
        return torch.bfloat16 if precision == "bfloat16" else torch.float32
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if native else torch.float32


def searched(network: nn.Module) -> nn.Module:
    """The network that an inner search should ask; itself, unless it has a cheaper view of itself."""
    return network.searched() if isinstance(network, Precise) else network
