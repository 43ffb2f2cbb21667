"""Random crop and mirror of a whole batch at once, as pure functions of a generator, on any device."""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from torch.nn import functional


def augment(images: Tensor, *, padding: int, flip: bool, generator: Generator) -> Tensor:
    """Each picture shifted by up to `padding` pixels over a black border and, if `flip`, mirrored by a coin.

    The draws are made on the generator's device: a CPU generator gives the same crops wherever the pictures
    are.
    """
    if not padding and not flip:
        return images
    count, place = len(images), generator.device
    corner = torch.randint(2 * padding + 1, (count, 2), generator=generator, device=place)
    mirrored = torch.randint(2, (count,), generator=generator, device=place).bool() & flip
    return crop(images, padding, corner.to(images.device), mirrored.to(images.device))


def crop(images: Tensor, padding: int, corner: Tensor, mirrored: Tensor) -> Tensor:
    """Cut from each padded picture the window at its own top left `corner` (N, 2); mirror where told."""
    count, channels, height, width = images.shape
    device = images.device
    rows = corner[:, :1] + torch.arange(height, device=device)
    columns = corner[:, 1:] + torch.arange(width, device=device)
    columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    padded = functional.pad(images, (padding,) * 4)
    picture = torch.arange(count, device=device)[:, None, None, None]
    channel = torch.arange(channels, device=device)[None, :, None, None]
    return padded[picture, channel, rows[:, None, :, None], columns[:, None, None, :]]
