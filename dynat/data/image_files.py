"""A prepared data set on disk: written without a copy in memory, and read as parts of the file (`dynat.prepared`)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from dynat import prepared
from dynat.data.images import Dataset, LabeledImages
from dynat.prepared import FORMAT, IMAGES, INFO, PreparedInfo
from dynat.runtime.files import atomic_text, atomic_write

BLOCK = 1 << 24
"""Bytes that are written or compared at once."""


def save(dataset: Dataset, folder: Path) -> None:
    """Write the data set's two files; the same content gives the same bytes.

    A file that already holds this content is not touched, and images made again get the time of their `info.json`:
    Snakemake would train again for a newer file.
    """
    text = _info(dataset).model_dump_json(indent=2, exclude_none=True) + "\n"
    content = _safetensors(dataset)
    images, info = folder / IMAGES, folder / INFO
    info_is_there = _holds(info, [text.encode()])
    if not _holds(images, content):
        atomic_write(images, lambda draft: _write(draft, content))
        if info_is_there:
            os.utime(images, ns=(info.stat().st_atime_ns, info.stat().st_mtime_ns))
    if not info_is_there:
        atomic_text(info, text)


def _safetensors(dataset: Dataset) -> list[bytes | memoryview]:
    """The parts of a file in the format of safetensors: the header, then each array, labels first.

    The package itself builds the whole file in memory, and its own writer hides that a disk is full.
    """
    arrays: dict[str, NDArray[Any]] = {}
    for part, index in (("labels", 1), ("images", 0)):
        for name, image_set in sorted(dataset.splits.items()):
            arrays[f"{name}.{part}"] = image_set.arrays()[index]
    header: dict[str, Any] = {"__metadata__": {"sha256": dataset.digest}}
    end = 0
    for name, array in arrays.items():
        begin, end = end, end + array.nbytes
        dtype = {"int64": "I64", "uint8": "U8"}[str(array.dtype)]
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return [len(text).to_bytes(8, "little") + text, *(a.data.cast("B") for a in arrays.values() if a.size)]


def _write(file: Path, content: Iterable[bytes | memoryview]) -> None:
    with file.open("wb") as opened:
        for part in content:
            for start in range(0, len(part), BLOCK):
                opened.write(part[start : start + BLOCK])


def _holds(file: Path, content: Iterable[bytes | memoryview]) -> bool:
    """Whether the file has exactly this content."""
    with suppress(OSError):
        if not file.is_file():
            return False
        with file.open("rb") as opened:
            for part in content:
                for start in range(0, len(part), BLOCK):
                    piece = part[start : start + BLOCK]
                    if opened.read(len(piece)) != piece:
                        return False
            return not opened.read(1)
    return False


def _info(dataset: Dataset) -> PreparedInfo:
    return PreparedInfo.model_validate(
        {
            "format": FORMAT,
            "name": dataset.name,
            **dataset.origin,
            "test_order": dataset.test_order,
            "test_in_train": dataset.test_in_train,
            "shape": (dataset.channels, *dataset.size),
            "images": {name: len(image_set) for name, image_set in dataset.splits.items()},
            "classes": dataset.classes,
            "per_class": {
                name: torch.bincount(image_set.labels, minlength=len(dataset.classes)).tolist()
                for name, image_set in dataset.splits.items()
            },
            "sha256": dataset.digest,
        }
    )


def load(folder: Path) -> Dataset:
    """Read what `save` wrote. Compares every byte with its digest; the images stay in the file and are read when they
    are used."""
    info, arrays = prepared.read(folder)
    splits = {
        name: LabeledImages(torch.from_numpy(images), torch.from_numpy(labels))
        for name, (images, labels) in arrays.items()
    }
    return Dataset(
        name=info.name,
        classes=info.classes,
        digest=info.sha256,
        origin=info.model_dump(include={"source", "split_seed", "train_images", "citation", "path"}, exclude_none=True),
        test_order=info.test_order,
        test_in_train=info.test_in_train,
        **splits,
    )
