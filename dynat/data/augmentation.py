"""Random crop and mirror of a whole batch at once, as pure functions of a generator, on any device."""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from torch.nn import functional


def augment(images: Tensor, *, padding: int, flip: bool, generator: Generator) -> Tensor:
    """Each image shifted by up to `padding` pixels over a black border and, if `flip`, mirrored with probability 1/2.

    Random numbers are drawn on the generator's device: a CPU generator gives the same crops on every device.
    """
    if not padding and not flip:
        return images
    count, device = len(images), generator.device
    corner = torch.randint(2 * padding + 1, (count, 2), generator=generator, device=device)
    mirrored = torch.randint(2, (count,), generator=generator, device=device).bool() & flip
    return crop(images, padding, corner.to(images.device), mirrored.to(images.device))


def crop(images: Tensor, padding: int, corner: Tensor, mirrored: Tensor) -> Tensor:
    """Cut from each padded image the window at its own top left `corner` (N, 2); mirror where `mirrored`."""
    count, channels, height, width = images.shape
    device = images.device
    rows = corner[:, :1] + torch.arange(height, device=device)
    columns = corner[:, 1:] + torch.arange(width, device=device)
    columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    padded = functional.pad(images, (padding,) * 4)
    image = torch.arange(count, device=device)[:, None, None, None]
    channel = torch.arange(channels, device=device)[None, :, None, None]
    return padded[image, channel, rows[:, None, :, None], columns[:, None, None, :]]
