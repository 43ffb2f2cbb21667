"""How many images have a gradient of zero, which leaves a first-order attack without a direction."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dynat.data import LabeledImages, to_pixels
from dynat.nn.losses import cross_entropy
from dynat.nn.modes import evaluating, frozen
from dynat.nn.seeded import seeded


def count_zero_gradients(model: nn.Module, image_set: LabeledImages, batch: int = 250) -> tuple[int, int]:
    """Among correctly classified images: how many have a gradient of zero in every pixel, and how many there are."""
    zero = total = 0
    with evaluating(model), frozen(model):
        for number, (images, labels) in enumerate(image_set.batches(batch)):
            pixels = to_pixels(images).requires_grad_()
            with torch.enable_grad(), seeded(number, images.device):
                logits: Tensor = model(pixels)
                loss = cross_entropy(logits, labels).sum()
                # A network that is constant by design is not connected to its images at all.
                (gradient,) = torch.autograd.grad(loss, pixels, allow_unused=True)
            correct = logits.argmax(1) == labels
            flat = torch.ones_like(correct) if gradient is None else (gradient == 0).flatten(1).all(1)
            zero, total = zero + int((flat & correct).sum()), total + int(correct.sum())
    return zero, total
