"""What every source of images becomes: uint8 tensors in three splits (on disk: `dynat.data.image_files`).

Pixels stay bytes until a batch is made of them.
"""

from __future__ import annotations

import hashlib
import math
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dynat import prepared
from dynat.config.base import nearest
from dynat.prepared import DataError, LabeledArrays

OFFICIAL = "official"
"""The order of the test images as published: others compare with "the first 1,000"."""
ORDER_SEED = 0
STRATIFIED = f"stratified, seed {ORDER_SEED}"


@dataclass(frozen=True, eq=False)
class LabeledImages:
    """Images (NCHW) and their labels (int64): bytes, or pixels in [0,1] that are no bytes."""

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        assert self.images.dtype in (torch.uint8, torch.float32) and self.images.ndim == 4
        assert self.labels.dtype == torch.int64 and self.labels.shape == self.images.shape[:1]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Tensor | slice) -> LabeledImages:
        return LabeledImages(self.images[index], self.labels[index])

    def to(self, device: torch.device | str) -> LabeledImages:
        return LabeledImages(self.images.to(device), self.labels.to(device))

    def near(self, device: torch.device) -> LabeledImages:
        """On the device, or where they are if they would take more than half of its free memory."""
        if device.type == "cuda" and self.images.nbytes > torch.cuda.mem_get_info(device)[0] / 2:
            return self
        return self.to(device)

    def take(self, index: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        """These images and labels, on the device."""
        index = index.to(self.labels.device)
        return self.images[index].to(device), self.labels[index].to(device)

    def arrays(self) -> LabeledArrays:
        return self.images.cpu().contiguous().numpy(), self.labels.cpu().contiguous().numpy()

    def first(self, count: int | None) -> LabeledImages:
        """The first `count`, or all where that is None or more than there are."""
        return self[:count]

    def batches(self, size: int, order: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Images and labels, `size` at a time, in the given order; the last batch may be smaller."""
        for start in range(0, len(self) if order is None else len(order), size):
            index: slice | Tensor = slice(start, start + size)
            if order is not None:
                index = order[index].to(self.labels.device)
            yield self.images[index], self.labels[index]


@dataclass(frozen=True, eq=False)
class Dataset:
    """A classification task with fixed splits of its images."""

    name: str
    classes: tuple[str, ...]
    train: LabeledImages
    validation: LabeledImages
    test: LabeledImages
    digest: str
    """SHA-256 of all images and labels: two data sets with the same digest have the same content."""
    origin: Mapping[str, str | int] = field(default_factory=dict)
    """Where the images come from, as `info.json` records it: source, split_seed, train_images, citation or path."""
    test_order: str = "as given"
    """Which images the first n of `test` are: OFFICIAL or STRATIFIED."""
    test_in_train: int = 0
    """Test images that are also training or validation images, pixel for pixel."""

    @classmethod
    def from_splits(
        cls,
        *,
        name: str,
        classes: tuple[str, ...],
        origin: Mapping[str, str | int],
        train: LabeledImages,
        validation: LabeledImages,
        test: LabeledImages,
        test_order: str = "as given",
    ) -> Dataset:
        """A new data set; computes its digest."""
        digest = prepared.content_digest(part.arrays() for part in (train, validation, test))
        known = {*_image_digests(train), *_image_digests(validation)}
        shared = sum(image in known for image in _image_digests(test))
        return cls(name, classes, train, validation, test, digest, origin, test_order, shared)

    def with_train_images(self, count: int, seed: int) -> Dataset:
        """The same task with `count` of its training images, in equal shares of every class."""
        if count > len(self.train):
            raise DataError(
                f"dataset.train_images: {count}, and {self.name} has {len(self.train)} training images beside the "
                "held-out ones"
            )
        train = self.train[stratified_order(self.train.labels, seed)[:count]]
        if missing := set(range(len(self.classes))) - set(train.labels.tolist()):
            raise DataError(
                f"dataset.train_images: {count} are too few: class '{self.classes[min(missing)]}' has none of them"
            )
        return Dataset.from_splits(
            name=self.name,
            classes=self.classes,
            origin={**self.origin, "train_images": count},
            train=train,
            validation=self.validation,
            test=self.test,
            test_order=self.test_order,
        )

    def with_classes(self, names: Sequence[str]) -> Dataset:
        """The task of telling these classes apart, in this order: the same splits without the images of the others."""
        if chosen_classes(names, self.classes) == self.classes:
            return self
        new_label = torch.full((len(self.classes),), -1)
        for label, name in enumerate(names):
            new_label[self.classes.index(name)] = label

        def chosen(part: LabeledImages) -> LabeledImages:
            labels = new_label[part.labels]
            return LabeledImages(part.images[labels >= 0], labels[labels >= 0])

        return Dataset.from_splits(
            name=self.name,
            classes=tuple(names),
            origin=self.origin,
            train=chosen(self.train),
            validation=chosen(self.validation),
            test=chosen(self.test),
            test_order=self.test_order,
        )

    @property
    def splits(self) -> dict[str, LabeledImages]:
        return {"train": self.train, "validation": self.validation, "test": self.test}

    @property
    def channels(self) -> int:
        return self.train.images.shape[1]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.train.images.shape[2], self.train.images.shape[3]

    def to(self, device: torch.device | str) -> Dataset:
        train, validation, test = (image_set.to(device) for image_set in self.splits.values())
        return replace(self, train=train, validation=validation, test=test)


def chosen_classes(names: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """The names, if there are classes of these names."""
    if unknown := next((name for name in names if name not in known), None):
        raise DataError(f"dataset.classes: unknown class '{unknown}': {nearest(unknown, known)}")
    return tuple(names)


def to_pixels(images: Tensor) -> Tensor:
    """Bytes 0..255 to float32 in [0,1]; float32 is in [0,1] already."""
    return images.to(torch.float32) / 255 if images.dtype == torch.uint8 else images


def split(labels: Tensor, share: float, seed: int, classes: Sequence[str] = ()) -> tuple[Tensor, Tensor]:
    """Two disjoint sets of indices, (kept, held out), each ascending, that hold out `share` of every class.

    Both sides get at least one image of each class. The same labels and seed give the same split with every version
    of torch and numpy: images are ranked by raw PCG64 numbers, a stream that numpy guarantees (it does not guarantee
    `permutation`).
    """
    class_of = labels.cpu().numpy()
    key = np.random.PCG64(seed).random_raw(len(class_of))
    held_out = np.zeros(len(class_of), dtype=bool)
    for label in np.unique(class_of):
        members = np.flatnonzero(class_of == label)
        if len(members) < 2:
            name = f"'{classes[label]}'" if classes else label
            raise DataError(f"class {name} has {len(members)} image: too few to hold one out")
        count = min(max(round(share * len(members)), 1), len(members) - 1)
        held_out[members[np.argsort(key[members], kind="stable")[:count]]] = True
    return torch.from_numpy(np.flatnonzero(~held_out)), torch.from_numpy(np.flatnonzero(held_out))


def stratified(images: LabeledImages, seed: int = ORDER_SEED) -> LabeledImages:
    """The same images in `stratified_order`."""
    return images[stratified_order(images.labels, seed)]


def stratified_order(labels: Tensor, seed: int = ORDER_SEED) -> Tensor:
    """A seeded random order of images of which every first n hold each class in its share of the whole.

    Image j of the m images of a class is placed at (j + 1/2) / m of the way. An evaluation on the first n images of
    a folder that was read class by class would be an evaluation of its first class.
    """
    class_of = labels.cpu().numpy()
    key = np.random.PCG64(seed).random_raw(len(class_of))
    position = np.empty(len(class_of))
    for label in np.unique(class_of):
        members = np.flatnonzero(class_of == label)
        ranked = members[np.argsort(key[members], kind="stable")]
        position[ranked] = (2 * np.arange(len(ranked)) + 1) / (2 * len(ranked))
    return torch.from_numpy(np.lexsort((key, position)))


def empty_images(count: int, shape: tuple[int, int, int], folder: Path) -> Tensor:
    """Room for so many images of channels x height x width in a file without a name in `folder`, not in memory.

    The file takes its space at once and disappears with the tensor.
    """
    if not count:
        return torch.empty((0, *shape), dtype=torch.uint8)
    size = count * math.prod(shape)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            raise DataError(f"{folder}: no room for {size / 1e9:.1f} GB of images ({error.strerror})") from None
        return torch.from_numpy(np.memmap(file, np.uint8, "r+", shape=(count, *shape)))


def _image_digests(images: LabeledImages) -> list[bytes]:
    """A digest of each image's pixels."""
    pixels = images.arrays()[0]
    return [hashlib.blake2b(image.data, digest_size=16).digest() for image in pixels]
