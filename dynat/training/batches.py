"""The batches of an epoch: a fresh order, extra images, crops and mirrors, CutMix or MixUp.

All of it follows from seeds, so a training that is resumed sees the batches that it would have seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from dynat.config import Run
from dynat.data import LabeledImages, augment, to_pixels
from dynat.data.extra import ExtraImages
from dynat.runtime.errors import UserError
from dynat.training.extra import ExtraBatches

Batch = tuple[Tensor, Tensor]
"""Pixels, and a class per image (N) or, of mixed images, the share of each class (N, C)."""


class Batches:
    """What a run makes of its training images in an epoch."""

    def __init__(
        self,
        images: LabeledImages,
        run: Run,
        device: torch.device,
        *,
        classes: int,
        extra: ExtraImages | None = None,
    ) -> None:
        self.images, self.run, self.device = images, run, device
        self.extra = None if run.extra is None else ExtraBatches(run.extra, extra)
        self.mix = mixing(run, classes)

    def epoch(self, seed: Callable[[str], int]) -> tuple[int, Iterator[Batch]]:
        """How many batches, and the batches; `seed` gives the seed for each purpose."""
        order = list(epoch_batches(self.images, self.run.batch, self._generator(seed("order"))))
        raw: Iterator[Batch] = (self.images.take(index, self.device) for index in order)
        if self.extra is not None:
            raw = self.extra.mixed_in(raw, len(order), len(order[0]), seed("extra"))
        return len(order), self._changed(raw, self._generator(seed("crops")), seed("mix"))

    def _changed(self, raw: Iterator[Batch], crops: torch.Generator, mix_seed: int) -> Iterator[Batch]:
        padding, flip = self.run.augmentation.padding, self.run.augmentation.flip
        for number, (images, labels) in enumerate(raw):
            pixels = to_pixels(augment(images, padding=padding, flip=flip, generator=crops))
            yield (pixels, labels) if self.mix is None else mixed(self.mix, pixels, labels, mix_seed + number)

    def _generator(self, seed: int) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(seed)


def epoch_batches(image_set: LabeledImages, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Indices of full batches in a fresh order; what does not fill a batch waits for the next epoch."""
    order = torch.randperm(len(image_set), generator=generator, device=generator.device)
    size = min(size, len(image_set))
    yield from order[: len(image_set) // size * size].view(-1, size)


def mixing(run: Run, classes: int) -> Any:
    """torchvision's CutMix or MixUp, or a choice between them for each batch; None without them."""
    alphas = {"CutMix": run.augmentation.cutmix, "MixUp": run.augmentation.mixup}
    chosen = {name: alpha for name, alpha in alphas.items() if alpha}
    if not chosen:
        return None
    try:
        from torchvision.transforms import v2
    except ModuleNotFoundError:
        field = next(iter(chosen)).lower()
        raise UserError(
            f"augmentation.{field}: the package torchvision is not installed here: pip install torchvision, or set "
            f"{field}: 0"
        ) from None
    transforms = [getattr(v2, name)(alpha=alpha, num_classes=classes) for name, alpha in chosen.items()]
    return transforms[0] if len(transforms) == 1 else v2.RandomChoice(transforms)


def mixed(transform: Callable[[Tensor, Tensor], Batch], pixels: Tensor, labels: Tensor, seed: int) -> Batch:
    """The batch after `transform`, which draws from torch's global generator: here from `seed`, and it is restored."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return transform(pixels, labels)
