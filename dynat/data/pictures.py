"""What every source of pictures becomes: uint8 tensors in three splits, with one format on disk.

A data set is a folder with `pictures.safetensors` (`train.images`, `train.labels`, `validation.images`, ...)
and `info.json` (what it is, in words and counts). Pixels stay bytes until a batch is made of them.
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

from dynat.files import atomic_text, atomic_write

PICTURES, INFO = "pictures.safetensors", "info.json"
SPLITS = ("train", "validation", "test")


class DataError(ValueError):
    """Pictures that cannot be had as asked. Its text says what to do about it."""


@dataclass(frozen=True, eq=False)
class Pictures:
    """Images (uint8, NCHW) and their labels (int64)."""

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        assert self.images.dtype == torch.uint8 and self.images.ndim == 4
        assert self.labels.dtype == torch.int64 and self.labels.shape == self.images.shape[:1]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, chosen: Tensor | slice) -> Pictures:
        return Pictures(self.images[chosen], self.labels[chosen])

    def to(self, device: torch.device | str) -> Pictures:
        return Pictures(self.images.to(device), self.labels.to(device))

    def first(self, count: int | None) -> Pictures:
        """The first `count`, or all where that is None or more than there are."""
        return self[:count]

    def batches(self, size: int, order: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Images and labels, `size` at a time, in the given order; the last batch may be smaller."""
        for start in range(0, len(self) if order is None else len(order), size):
            here: slice | Tensor = slice(start, start + size)
            if order is not None:
                here = order[here].to(self.labels.device)
            yield self.images[here], self.labels[here]


@dataclass(frozen=True, eq=False)
class Dataset:
    """A classification task, its pictures split once and for all."""

    name: str
    classes: tuple[str, ...]
    train: Pictures
    validation: Pictures
    test: Pictures
    digest: str
    """SHA-256 of all pictures and labels: two data sets with the same digest have the same content."""
    about: Mapping[str, str | int] = field(default_factory=dict)
    """What else `info.json` says: source, split_seed, citation."""

    @classmethod
    def of(
        cls,
        *,
        name: str,
        classes: tuple[str, ...],
        about: Mapping[str, str | int],
        train: Pictures,
        validation: Pictures,
        test: Pictures,
    ) -> Dataset:
        """A data set of new content, whose digest is computed here."""
        return cls(name, classes, train, validation, test, _digest(train, validation, test), about)

    @property
    def splits(self) -> dict[str, Pictures]:
        return {"train": self.train, "validation": self.validation, "test": self.test}

    @property
    def channels(self) -> int:
        return self.train.images.shape[1]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.train.images.shape[2], self.train.images.shape[3]

    def to(self, device: torch.device | str) -> Dataset:
        train, validation, test = (pictures.to(device) for pictures in self.splits.values())
        return replace(self, train=train, validation=validation, test=test)


def to_pixels(images: Tensor) -> Tensor:
    """Bytes 0..255 to float32 in [0,1]."""
    assert images.dtype == torch.uint8
    return images.to(torch.float32) / 255


def split(labels: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Two disjoint sets of indices, (kept, held out), each ascending, that hold out `share` of every class.

    At least one picture of each class is on either side. The same labels and seed give the same split with
    every version of torch and numpy: it ranks raw PCG64 words, a stream that numpy guarantees (it does not
    guarantee `permutation`).
    """
    truth = labels.cpu().numpy()
    key = np.random.PCG64(seed).random_raw(len(truth))
    held_out = np.zeros(len(truth), dtype=bool)
    for label in np.unique(truth):
        members = np.flatnonzero(truth == label)
        if len(members) < 2:
            raise DataError(f"class {label} has {len(members)} picture: too few to hold one out of them")
        count = min(max(round(share * len(members)), 1), len(members) - 1)
        held_out[members[np.argsort(key[members], kind="stable")[:count]]] = True
    return torch.from_numpy(np.flatnonzero(~held_out)), torch.from_numpy(np.flatnonzero(held_out))


def save(dataset: Dataset, folder: Path) -> None:
    """Write the data set's two files; the same content gives the same bytes."""
    tensors = {
        f"{name}.{part}": tensor.cpu().contiguous()
        for name, pictures in dataset.splits.items()
        for part, tensor in (("images", pictures.images), ("labels", pictures.labels))
    }
    info = {
        "name": dataset.name,
        **dataset.about,
        "shape": [dataset.channels, *dataset.size],
        "pictures": {name: len(pictures) for name, pictures in dataset.splits.items()},
        "classes": list(dataset.classes),
        "per_class": {
            name: torch.bincount(pictures.labels, minlength=len(dataset.classes)).tolist()
            for name, pictures in dataset.splits.items()
        },
        "sha256": dataset.digest,
    }
    atomic_write(folder / PICTURES, lambda draft: save_file(tensors, draft, metadata={"sha256": dataset.digest}))
    atomic_text(folder / INFO, json.dumps(info, indent=2) + "\n")


def load(folder: Path) -> Dataset:
    """Read what `save` wrote. Checks that both files are whole and belong together, not every byte."""
    again = f"make it again: dynat data, or snakemake data ({folder})"
    try:
        info = json.loads((folder / INFO).read_text(encoding="utf-8"))
        with safe_open(folder / PICTURES, framework="pt", device="cpu") as file:
            stamp = (file.metadata() or {}).get("sha256")
            splits = {
                name: Pictures(file.get_tensor(f"{name}.images"), file.get_tensor(f"{name}.labels")) for name in SPLITS
            }
        known = ("name", "classes", "shape", "pictures", "per_class", "sha256")
        name, classes, _, _, _, digest = (info.pop(key) for key in known)
    except FileNotFoundError as error:
        missing = PICTURES if (folder / INFO).exists() else INFO
        raise DataError(f"{folder / missing}: no such file; run `dynat data` or `snakemake data` first") from error
    except (SafetensorError, json.JSONDecodeError, KeyError) as error:
        raise DataError(f"{folder}: damaged or cut short ({error}); {again}") from error
    if stamp != digest:
        raise DataError(f"{folder}: {PICTURES} and {INFO} are of two different data sets; {again}")
    return Dataset(name=name, classes=tuple(classes), digest=digest, about=info, **splits)


def _digest(*splits: Pictures) -> str:
    content = hashlib.sha256()
    for pictures in splits:
        content.update(str(tuple(pictures.images.shape)).encode())
        content.update(pictures.images.cpu().contiguous().numpy().data)
        content.update(pictures.labels.cpu().contiguous().numpy().data)
    return content.hexdigest()
