"""Arithmetic of a network as a wrapper: bfloat16 inside, float32 weights and float32 logits outside.

Each forward is its own autocast region. One region around a whole step would keep weights cast under
no_grad in its cache, and the training forward after it would silently get no gradient for them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Precise(nn.Module):
    """`net`, computing in `dtype`."""

    def __init__(self, net: nn.Module, dtype: torch.dtype, memory_format: torch.memory_format) -> None:
        super().__init__()
        self.net = net.to(memory_format=memory_format)  # type: ignore[call-overload]
        self.dtype = dtype
        self.memory_format = memory_format

    def forward(self, pictures: Tensor) -> Tensor:
        pictures = pictures.contiguous(memory_format=self.memory_format)
        enabled = self.dtype != torch.float32
        with torch.autocast(pictures.device.type, dtype=self.dtype, enabled=enabled):
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
