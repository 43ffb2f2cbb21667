"""Mixed precision as a wrapper around a network: bfloat16 inside, float32 weights and float32 logits outside.

Each forward is its own autocast region. One region around a whole step would keep weights cast under
no_grad in its cache, and the training forward after it would silently compute no gradient for them.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor, nn

from dynat.nn.compiled import CompiledModel
from dynat.nn.folded import FoldedModel


class MixedPrecision(nn.Module):
    """`net`, computing in `dtype`, with images and features channels-last, the fastest layout for convolutions."""

    def __init__(self, net: nn.Module, dtype: torch.dtype, *, compiled: bool = False) -> None:
        super().__init__()
        self.net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.dtype = dtype
        # In lists, so that they are no submodules: their weights are not saved.
        self._compiled: list[CompiledModel] = [CompiledModel(self.net)] if compiled else []
        self._surrogate: list[FoldedModel] = []

    def forward(self, images: Tensor) -> Tensor:
        images = images.contiguous(memory_format=torch.channels_last)
        # Compiled code is for training; validation is rare and not worth another compilation.
        run = self._compiled[0] if self._compiled and self.training else self.net
        autocast = self.dtype != torch.float32
        with torch.autocast(images.device.type, dtype=self.dtype) if autocast else nullcontext():
            logits: Tensor = run(images)
        return logits.float()

    def run_eagerly(self) -> None:
        """Stop using compiled code."""
        self._compiled.clear()

    def surrogate(self) -> nn.Module:
        """A frozen copy with BatchNorm folded into the layers before it, at the current weights; used by attacks."""
        if not self._surrogate:
            self._surrogate.append(FoldedModel(self.net, self.dtype, compiled=bool(self._compiled)))
        return self._surrogate[0].refresh(self.net)


def mixed_precision(net: nn.Module, precision: str, device: torch.device, *, compiled: bool = False) -> MixedPrecision:
    return MixedPrecision(net, compute_dtype(precision, device), compiled=compiled)


def compute_dtype(precision: str, device: torch.device) -> torch.dtype:
    """What networks compute in: `auto` is bfloat16 where the hardware multiplies in it, float32 elsewhere."""
    if precision != "auto":
        return torch.bfloat16 if precision == "bfloat16" else torch.float32
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if native else torch.float32


def surrogate_of(network: nn.Module) -> nn.Module:
    """The network that the inner attack queries: a folded copy of a MixedPrecision network; any other itself."""
    return network.surrogate() if isinstance(network, MixedPrecision) else network
