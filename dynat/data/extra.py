"""Extra or synthetic training images from an .npz file, mapped into memory and never copied as a whole.

    image, label                    generated images as published (Gowal et al. 2021, Wang et al. 2023), of DDPM and EDM
    data, extrapolated_targets      the 500,000 pseudo-labeled images of Carmon et al. 2019, converted from their pickle

`prepare` checks the file against a data set once and describes it in `data/<data set>/extra/<name>/info.json`; arrays
that are compressed in the file are unpacked beside it. A label of -1, or a file without labels, leaves the label to the
guide of a run with dynamic labels.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dynat import prepared
from dynat.config import ExtraSpec
from dynat.data import npz
from dynat.data.images import LabeledImages
from dynat.prepared import EXTRA_FORMAT, DataError, ExtraInfo, LabeledArrays
from dynat.runtime.files import atomic_text, atomic_write, check_readable
from dynat.runtime.progress import Progress

NAMES = {"image": "label", "data": "extrapolated_targets"}
"""The array of images in an accepted file, and the array of its labels."""
UNLABELED = -1
BLOCK = 10_000
"""Images that are checked at once."""


@dataclass(frozen=True, eq=False)
class ExtraImages:
    """Labeled images in a file. A label may be UNLABELED."""

    images: NDArray[np.uint8]
    """N × height × width × channels."""
    labels: NDArray[Any]
    info: ExtraInfo

    def __len__(self) -> int:
        return len(self.images)

    def unlabeled(self) -> ExtraImages:
        """The same images without their labels."""
        return replace(self, labels=_no_labels(len(self)))

    def take(self, index: Tensor) -> LabeledImages:
        """These images in memory."""
        rows = index.numpy()
        images, labels = torch.from_numpy(self.images[rows]), torch.from_numpy(self.labels[rows].astype(np.int64))
        return LabeledImages(images.permute(0, 3, 1, 2).contiguous(), labels)

    def batches(self, rows: Tensor) -> Iterator[LabeledImages]:
        """The images of each row of indices; those of the next row are read meanwhile."""
        with ThreadPoolExecutor(1) as reader:
            waiting = reader.submit(self.take, rows[0])
            for row in rows[1:]:
                ready, waiting = waiting, reader.submit(self.take, row)
                yield ready.result()
            yield waiting.result()


def prepare(spec: ExtraSpec, root: Path) -> Path:
    """Check the file of `spec` against its data set under `root`, and write what it is; that file."""
    file, folder = Path(spec.images.path).expanduser(), root / spec.data / "extra" / spec.images.name
    check_readable(file, "file of extra images")
    dataset, splits = prepared.read(root / spec.data)
    images, labels = _chosen(npz.arrays(file), file)
    folder.mkdir(parents=True, exist_ok=True)
    pixels = _checked_images(_channels_last(_mapped(file, images, folder, verify=True)), dataset, file)
    given = None if labels is None else _mapped(file, labels, folder, verify=True)
    numbers = _checked_labels(given, len(pixels), dataset, file)
    info = _described(pixels, numbers, dataset, splits["test"], spec)
    _note(folder, file, info)
    atomic_text(folder / prepared.INFO, info.model_dump_json(indent=2) + "\n")
    for warning in prepared.extra_warnings(info, dataset):
        print(f"dynat: warning: {warning}", file=sys.stderr)
    return folder / prepared.INFO


def load(folder: Path) -> ExtraImages:
    """What `prepare` checked; a file that has changed since is refused. It is read again only if its date changed."""
    info = prepared.read_extra(folder)
    file = Path(info.path).expanduser()
    check_readable(file, "file of extra images")
    images, labels = _chosen(npz.arrays(file), file)
    pixels = _channels_last(_mapped(file, images, folder))
    numbers = _no_labels(len(pixels)) if labels is None else _mapped(file, labels, folder)
    found = ExtraImages(pixels, numbers, info)
    if _stamp(file, info) != _noted(folder):
        if _digest(found.images, found.labels) != info.sha256:
            raise DataError(f"{file}: is not the file that was checked, it has changed; check it again: dynat data")
        _note(folder, file, info)
    return found


def _chosen(arrays: dict[str, npz.Array], file: Path) -> tuple[npz.Array, npz.Array | None]:
    """The arrays of images and of labels."""
    for images, labels in NAMES.items():
        if images in arrays:
            return arrays[images], arrays.get(labels)
    raise DataError(
        f"{file}: has no array 'image' (with 'label') or 'data' (with 'extrapolated_targets'), only: "
        f"{', '.join(arrays) or 'nothing'}"
    )


def _mapped(file: Path, array: npz.Array, folder: Path, *, verify: bool = False) -> NDArray[Any]:
    """The array, mapped from the archive, or from the folder where it is unpacked; `verify` reads all of it first."""
    if array.dtype.hasobject:
        raise DataError(f"{file}: '{array.name}' holds Python objects, which are not read: save it as numbers")
    if array.offset is not None:
        if verify:
            npz.verify(file, array)
        return npz.mapped(file, array)
    unpacked = folder / f"{array.name}.npy"
    if verify or not unpacked.exists():
        atomic_write(unpacked, lambda draft: npz.extract(file, array, draft))
    loaded: NDArray[Any] = np.load(unpacked, mmap_mode="c", allow_pickle=False)
    return loaded


def _channels_last(images: NDArray[Any]) -> NDArray[Any]:
    """Gray images may be without an axis for their channel."""
    return images[..., None] if images.ndim == 3 else images


def _no_labels(count: int) -> NDArray[np.int64]:
    return np.broadcast_to(np.int64(UNLABELED), count)


def _checked_images(images: NDArray[Any], dataset: prepared.PreparedInfo, file: Path) -> NDArray[np.uint8]:
    channels, height, width = dataset.shape
    if images.dtype != np.uint8:
        raise DataError(
            f"{file}: the images are {images.dtype}, not bytes (uint8, 0 to 255); for pixels in [0,1], save "
            "(255 * image).round().astype('uint8')"
        )
    if not len(images):
        raise DataError(f"{file}: has no images")
    if images.shape[1:] != (height, width, channels):
        shape = " x ".join(map(str, images.shape))
        raise DataError(
            f"{file}: the images are {shape}, and {dataset.name} needs N x {height} x {width} x {channels} (height, "
            "width, channels)"
        )
    if images[:BLOCK].max() <= 1:
        raise DataError(
            f"{file}: the pixels are 0 or 1: were images in [0,1] saved as bytes? Multiply by 255 and round"
        )
    return images


def _checked_labels(
    labels: NDArray[Any] | None, images: int, dataset: prepared.PreparedInfo, file: Path
) -> NDArray[Any]:
    if labels is None:
        return _no_labels(images)
    if labels.shape != (images,) or labels.dtype.kind not in "iu":
        shape = " x ".join(map(str, labels.shape))
        raise DataError(f"{file}: {images} images, but labels are {labels.dtype} of shape {shape}, not a whole "
                        "number for each")  # fmt: skip
    low, high, classes = int(labels.min()), int(labels.max()), len(dataset.classes)
    if low < UNLABELED or high >= classes:
        raise DataError(
            f"{file}: labels are from {low} to {high}, and {dataset.name} has {classes} classes, 0 to {classes - 1} "
            "(-1: no label)"
        )
    return labels


def _described(
    images: NDArray[np.uint8],
    labels: NDArray[Any],
    dataset: prepared.PreparedInfo,
    test: LabeledArrays,
    spec: ExtraSpec,
) -> ExtraInfo:
    """One pass over all images: their digest, and how many are test images."""
    known = {hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in test[0].transpose(0, 2, 3, 1)}
    found = 0
    with Progress(f"data: {spec.images.path}", len(images)) as progress:
        for start in range(0, len(images), BLOCK):
            block = np.ascontiguousarray(images[start : start + BLOCK])
            found += sum(hashlib.blake2b(image.data, digest_size=16).digest() in known for image in block)
            progress.advance(len(block))
    counted = np.bincount(labels[labels != UNLABELED], minlength=len(dataset.classes))
    return ExtraInfo(
        format=EXTRA_FORMAT,
        path=spec.images.path,
        images=len(images),
        unlabeled=len(images) - int(counted.sum()),
        per_class=tuple(counted.tolist()),
        test_images=found,
        sha256=_digest(images, labels),
    )


def _digest(images: NDArray[Any], labels: NDArray[Any]) -> str:
    content = hashlib.sha256(str(images.shape[:3]).encode())
    for array in (images, labels):
        for start in range(0, len(array), BLOCK):
            content.update(np.ascontiguousarray(array[start : start + BLOCK]).data)
    return content.hexdigest()


def _stamp(file: Path, info: ExtraInfo) -> str:
    status = file.stat()
    return f"{status.st_size} {status.st_mtime_ns} {info.sha256}"


def _noted(folder: Path) -> str:
    try:
        return (folder / "checked").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _note(folder: Path, file: Path, info: ExtraInfo) -> None:
    """Remember the size and the date of the checked file."""
    atomic_text(folder / "checked", _stamp(file, info))
