"""Network architectures, by name. A network is a function from pixels in [0,1] to logits.

To add one: a factory that takes `classes` and `channels`, and an entry in `dynat.config.registry.NETWORKS`.
"""

from __future__ import annotations

from torch import nn

from dynat.config.registry import locate, network_entry

__all__ = ["build", "count_parameters"]


def build(name: str, *, classes: int, channels: int) -> nn.Module:
    """A new network, its weights drawn from torch's global generator; `UserError` for an unknown name."""
    where, sizes = network_entry(name)
    network: nn.Module = locate(where)(classes=classes, channels=channels, **sizes)
    return network


def count_parameters(model: nn.Module) -> int:
    """The number of trainable values; running statistics are not among them."""
    return sum(parameter.numel() for parameter in model.parameters())
