"""The networks of timm, by its names: `timm/resnet50`, or `timm/resnet50.tv_in1k` for the pixels of those weights.

Nothing is downloaded: weights are random, or come from a file of the user's. A network that is built for one size of
images is built for the size given.
"""

from __future__ import annotations

from typing import Any

import timm
from torch import nn


def names() -> list[str]:
    """All names, with and without the tag of a set of weights."""
    return sorted({*timm.list_models(), *timm.list_pretrained()})


def build(*, name: str, classes: int, channels: int, size: tuple[int, int] | None = None) -> nn.Module:
    fixed: Any = {}
    if size is not None and timm.get_pretrained_cfg(name).fixed_input_size:
        fixed = {"img_size": size}
    network: nn.Module = timm.create_model(name, pretrained=False, num_classes=classes, in_chans=channels, **fixed)
    return network


def normalization(*, name: str, classes: int, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:  # noqa: ARG001
    """That of the published weights; of gray images, the mean of its channels."""
    config = timm.get_pretrained_cfg(name)
    return _of_channels(config.mean, channels), _of_channels(config.std, channels)


def _of_channels(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    return tuple(values) if len(values) == channels else (sum(values) / len(values),)
