"""What every source of images becomes: uint8 tensors in three splits, with one format on disk.

A data set is a folder with `images.safetensors` (`train.images`, `train.labels`, `validation.images`, ...)
and `info.json` (name, source, classes and counts). Pixels stay bytes until a batch is made of them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dynat.runtime.errors import UserError
from dynat.runtime.files import atomic_text, atomic_write

IMAGES, INFO = "images.safetensors", "info.json"
SPLITS = ("train", "validation", "test")


class DataError(UserError):
    """A data set that cannot be read or prepared. Its text says what to do about it."""


@dataclass(frozen=True, eq=False)
class LabeledImages:
    """Images (uint8, NCHW) and their labels (int64)."""

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        assert self.images.dtype == torch.uint8 and self.images.ndim == 4
        assert self.labels.dtype == torch.int64 and self.labels.shape == self.images.shape[:1]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Tensor | slice) -> LabeledImages:
        return LabeledImages(self.images[index], self.labels[index])

    def to(self, device: torch.device | str) -> LabeledImages:
        return LabeledImages(self.images.to(device), self.labels.to(device))

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
    """Where the images come from, as `info.json` records it: source, split_seed, citation or path."""

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
    ) -> Dataset:
        """A new data set; computes its digest."""
        return cls(name, classes, train, validation, test, _digest(train, validation, test), origin)

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


def to_pixels(images: Tensor) -> Tensor:
    """Bytes 0..255 to float32 in [0,1]."""
    assert images.dtype == torch.uint8
    return images.to(torch.float32) / 255


def split(labels: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
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
            raise DataError(f"class {label} has {len(members)} image: too few to hold one out")
        count = min(max(round(share * len(members)), 1), len(members) - 1)
        held_out[members[np.argsort(key[members], kind="stable")[:count]]] = True
    return torch.from_numpy(np.flatnonzero(~held_out)), torch.from_numpy(np.flatnonzero(held_out))


def save(dataset: Dataset, folder: Path) -> None:
    """Write the data set's two files; the same content gives the same bytes."""
    tensors = {
        f"{name}.{part}": tensor.cpu().contiguous()
        for name, image_set in dataset.splits.items()
        for part, tensor in (("images", image_set.images), ("labels", image_set.labels))
    }
    info = {
        "name": dataset.name,
        **dataset.origin,
        "shape": [dataset.channels, *dataset.size],
        "images": {name: len(image_set) for name, image_set in dataset.splits.items()},
        "classes": list(dataset.classes),
        "per_class": {
            name: torch.bincount(image_set.labels, minlength=len(dataset.classes)).tolist()
            for name, image_set in dataset.splits.items()
        },
        "sha256": dataset.digest,
    }
    atomic_write(folder / IMAGES, lambda draft: save_file(tensors, draft, metadata={"sha256": dataset.digest}))
    atomic_text(folder / INFO, json.dumps(info, indent=2) + "\n")


def load(folder: Path) -> Dataset:
    """Read what `save` wrote. Checks that both files are complete and belong together, not every byte."""
    remedy = f"make it again: dynat data, or snakemake data ({folder})"
    try:
        info = json.loads((folder / INFO).read_text(encoding="utf-8"))
        with safe_open(folder / IMAGES, framework="pt", device="cpu") as file:
            image_digest = (file.metadata() or {}).get("sha256")
            splits = {
                name: LabeledImages(file.get_tensor(f"{name}.images"), file.get_tensor(f"{name}.labels"))
                for name in SPLITS
            }
        content_keys = ("name", "classes", "shape", "images", "per_class", "sha256")
        name, classes, _, _, _, digest = (info.pop(key) for key in content_keys)
    except FileNotFoundError as error:
        missing = IMAGES if (folder / INFO).exists() else INFO
        raise DataError(f"{folder / missing}: no such file; run `dynat data` or `snakemake data` first") from error
    except (SafetensorError, json.JSONDecodeError, KeyError) as error:
        raise DataError(f"{folder}: damaged or cut short ({error}); {remedy}") from error
    if image_digest != digest:
        raise DataError(f"{folder}: {IMAGES} and {INFO} are of two different data sets; {remedy}")
    return Dataset(name=name, classes=tuple(classes), digest=digest, origin=info, **splits)


def _digest(*splits: LabeledImages) -> str:
    content = hashlib.sha256()
    for image_set in splits:
        content.update(str(tuple(image_set.images.shape)).encode())
        content.update(image_set.images.cpu().contiguous().numpy().data)
        content.update(image_set.labels.cpu().contiguous().numpy().data)
    return content.hexdigest()
