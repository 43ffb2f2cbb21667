"""The tensors and the model that a caller gives, checked."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dynat import provenance
from dynat.api.identity import model_digest
from dynat.data import LabeledImages, to_pixels
from dynat.jobs.evaluation import package_version
from dynat.nn.modes import evaluating
from dynat.runtime.device import choose_device
from dynat.runtime.errors import UserError

Images = Tensor | NDArray[Any]
"""NCHW: bytes 0 to 255, or real numbers in [0,1]."""
Labels = Tensor | NDArray[Any] | Sequence[int]


def labeled(images: Images, labels: Labels) -> LabeledImages:
    """The images and labels, checked. Real numbers that are bytes divided by 255 become these bytes."""
    pixels, classes = torch.as_tensor(images).detach(), torch.as_tensor(np.asarray(labels))
    if pixels.ndim != 4 or not len(pixels):
        raise UserError(
            f"images: expected a batch N x C x H x W, not {' x '.join(map(str, pixels.shape)) or 'a number'}"
        )
    if classes.shape != pixels.shape[:1] or classes.is_floating_point() or classes.is_complex():
        raise UserError(f"labels: expected {len(pixels)} class numbers, one per image, not {tuple(classes.shape)} "
                        f"of {str(classes.dtype).removeprefix('torch.')}")  # fmt: skip
    if pixels.dtype != torch.uint8:
        if not pixels.is_floating_point():
            raise UserError(f"images: expected bytes (uint8) or real numbers in [0,1], not {pixels.dtype}")
        pixels = pixels.float()
        if not torch.isfinite(pixels).all() or pixels.min() < 0 or pixels.max() > 1:
            raise UserError(
                f"images: values from {float(pixels.min()):g} to {float(pixels.max()):g}; expected pixels in [0,1]: "
                "put a normalization into the model, as its first layer"
            )
        as_bytes = (pixels * 255).round().to(torch.uint8)
        if torch.equal(to_pixels(as_bytes), pixels):
            pixels = as_bytes
    return LabeledImages(pixels, classes.to(torch.int64))


def together(
    model: nn.Module, images: LabeledImages, device: str | torch.device | None
) -> tuple[nn.Module, LabeledImages]:
    """Model and images on one device."""
    if device is None:
        first = next(iter([*model.parameters(), *model.buffers()]), None)
        chosen = torch.device("cpu") if first is None else first.device
    else:
        chosen = choose_device(str(device))
        model = model.to(chosen)
    return model, images.to(chosen)


def classes(model: nn.Module, images: LabeledImages) -> int:
    """How many classes the model distinguishes, after a look at what it returns."""
    with torch.no_grad(), evaluating(model):
        logits = model(to_pixels(images.images[:1]))
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != 1:
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise UserError(f"model: expected logits N x classes for images N x C x H x W, not {found}")
    low, high = int(images.labels.min()), int(images.labels.max())
    if low < 0 or high >= logits.shape[1]:
        raise UserError(
            f"labels: from {low} to {high}, and the model has {logits.shape[1]} classes, 0 to {logits.shape[1] - 1}"
        )
    return logits.shape[1]


def digests(model: nn.Module, images: LabeledImages) -> tuple[str, ...]:
    """All that verdicts depend on, beside the attack: the network's code and values, the images, the code of the
    attacks, their packages, and the kind of device, by which the precision of a surrogate is chosen."""
    code = provenance.code_digest(provenance.evaluation_sources())
    packages = (torch.__version__, package_version("pyautoattack"))
    return model_digest(model), image_digest(images), code, *packages, images.images.device.type


def image_digest(images: LabeledImages) -> str:
    content = hashlib.sha256()
    for array in images.arrays():
        content.update(f"{array.dtype} {array.shape} ".encode() + array.tobytes())
    return content.hexdigest()
