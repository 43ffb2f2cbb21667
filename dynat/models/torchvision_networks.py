"""The classifiers of torchvision, by its names: `torchvision/resnet50`.

Nothing is downloaded: weights are random, or come from a file of the user's. A network that is built for one size of
images is built for the size given. Auxiliary classifiers, which only a training on ImageNet reads, are left out.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from torchvision import models

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet: what all published weights of its classifiers expect."""


def names() -> list[str]:
    listed: list[str] = models.list_models(module=models)
    return listed


def build(*, name: str, classes: int, channels: int, size: tuple[int, int] | None = None) -> nn.Module:
    if channels != 3:
        raise ValueError(f"images with {channels} channel; torchvision's networks take color images only")
    options: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):
        options = {"aux_logits": False, "init_weights": True}
    elif size is not None and name.startswith("maxvit"):
        options = {"input_size": size}
    elif size is not None and name.startswith("vit"):
        if size[0] != size[1]:
            raise ValueError("images that are not square")
        options = {"image_size": size[0]}
    network: nn.Module = models.get_model(name, weights=None, num_classes=classes, **options)
    return network


def normalization(**_: object) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return MEAN, STD
