"""Extra images in the batches of a training: how many, which ones, and with whose labels.

As published by Carmon et al. 2019, Gowal et al. 2021 and Wang et al. 2023: a batch has a fixed number of extra images,
drawn with replacement from all of them, and an epoch has as many steps as without them, so that it reads only a share
of the original images. Here the order of the original images is that of the same training without extra images.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable

import torch
from torch import Tensor

from dynat.config import ExtraUse
from dynat.data.extra import ExtraImages

Batch = tuple[Tensor, Tensor]
"""Images and labels."""


class ExtraBatches:
    def __init__(self, use: ExtraUse, images: ExtraImages | None) -> None:
        assert images is not None, "the job loads them for a run that uses them"
        self.use = use
        self.images = images.unlabeled() if use.labels == "guide" else images

    def mixed_in(self, originals: Iterable[Batch], steps: int, size: int, seed: int) -> Generator[Batch]:
        """`steps` batches of `size` original images, with extra images in place of the last ones of each."""
        count, random = self.use.count(size), torch.Generator().manual_seed(seed)
        rows = torch.randint(len(self.images), (steps, count), generator=random)
        for (images, labels), extra in zip(originals, self.images.batches(rows), strict=True):
            more, kept = extra.to(images.device), size - count
            yield torch.cat([images[:kept], more.images]), torch.cat([labels[:kept], more.labels])
