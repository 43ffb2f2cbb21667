"""Where a network gives an attack nothing to follow."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dynat.data import Pictures, to_pixels
from dynat.losses import cross_entropy
from dynat.models.state import evaluating, frozen


def without_gradient(model: nn.Module, pictures: Pictures, batch: int = 250) -> tuple[int, int]:
    """Of the pictures that are classified rightly: how many have a gradient of zero in every pixel, and how many
    there are."""
    zero = right = 0
    with evaluating(model), frozen(model):
        for images, labels in pictures.batches(batch):
            pixels = to_pixels(images).requires_grad_()
            with torch.enable_grad():
                logits: Tensor = model(pixels)
                loss = cross_entropy(logits, labels).sum()
                # A network that is constant by design is not connected to its pictures at all.
                (gradient,) = torch.autograd.grad(loss, pixels, allow_unused=True)
            correct = logits.argmax(1) == labels
            flat = torch.ones_like(correct) if gradient is None else (gradient == 0).flatten(1).all(1)
            zero, right = zero + int((flat & correct).sum()), right + int(correct.sum())
    return zero, right
