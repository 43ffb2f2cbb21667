"""Image files to bytes: decoded once, in threads, into a file that is mapped into memory."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from dynat.config import DatasetConfig
from dynat.data.images import LabeledImages, empty_images, split
from dynat.prepared import DataError
from dynat.runtime.progress import Progress

FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF", "PPM")
"""PIL's names for them. Without this list PIL guesses, and hands a PostScript file named .png to Ghostscript."""
DEEP_MODES = ("I", "I;16", "I;16L", "I;16B", "I;16N", "F")
"""PIL's modes with more than 8 bits per channel; PIL would clip them to white without a warning."""

MOST_PIXELS = 2**26
"""Of one image; decoded, it takes three bytes for each, in every thread."""


class ImageFile(Protocol):
    """A file, or an entry of an archive; as text, its name in messages."""

    def open(self, mode: str, /) -> IO[bytes]: ...


@dataclass(frozen=True)
class Listed:
    """Image files and their labels, in order, before they are read."""

    files: Sequence[ImageFile]
    labels: Tensor

    @classmethod
    def of(cls, by_class: Mapping[str, Sequence[ImageFile]]) -> Listed:
        files = [file for members in by_class.values() for file in members]
        labels = [label for label, members in enumerate(by_class.values()) for _ in members]
        return cls(files, torch.tensor(labels, dtype=torch.int64))

    def __getitem__(self, index: Tensor) -> Listed:
        return Listed([self.files[number] for number in index.tolist()], self.labels[index])


def read_images(listed: Listed, size: int, part: str, folder: Path) -> LabeledImages:
    """Decode in threads (PIL releases the interpreter's lock) into an unnamed file in `folder`; one error names all
    files that cannot be read."""
    count = len(listed.files)
    _check_room(count, size, part, folder)
    images = empty_images(count, (3, size, size), folder)
    failures: list[str] = []
    decode = partial(_decode, size=size, into=images.numpy())
    with ThreadPoolExecutor(os.cpu_count()) as pool, Progress(f"data: {part} images", count) as progress:
        for failure in pool.map(decode, range(count), listed.files):
            progress.advance()
            if failure is not None:
                failures.append(failure)
    if failures:
        raise DataError(f"{len(failures)} of {count} {part} images cannot be read: {join_names(failures)}")
    return LabeledImages(images, listed.labels)


def read_with_held_out(
    parts: Mapping[str, Listed], config: DatasetConfig, classes: Sequence[str], folder: Path
) -> dict[str, LabeledImages]:
    """The splits of a source with `train` and `test`: a stratified share of train is held out."""
    assert config.size is not None
    listed = parts["train"]
    kept, held_out = split(listed.labels, config.validation, config.split_seed, classes)
    train = read_images(listed[torch.cat([kept, held_out])], config.size, "train", folder)
    test = read_images(parts["test"], config.size, "test", folder)
    return {"train": train[: len(kept)], "validation": train[len(kept) :], "test": test}


def _check_room(count: int, size: int, part: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    needed, free = 2 * count * size * size * 3, shutil.disk_usage(folder).free
    if needed > free:
        raise DataError(
            f"dataset.size: {count} {part} images of {size} x {size} pixels need {needed / 1e9:.1f} GB while they are "
            f"prepared, and {folder} has {free / 1e9:.1f} GB of free disk; choose a smaller size"
        )


def _decode(number: int, file: ImageFile, size: int, into: NDArray[np.uint8]) -> str | None:
    """Write the image as bytes to `into[number]`; a message says why it cannot be read."""
    try:
        with file.open("rb") as stream, Image.open(stream, formats=FORMATS) as opened:
            if opened.mode in DEEP_MODES:
                return f"{file} (more than 8 bits per channel, mode {opened.mode}: convert it first)"
            if opened.width * opened.height > MOST_PIXELS:
                return f"{file} ({opened.width} x {opened.height} pixels: reduce it first)"
            upright = ImageOps.exif_transpose(opened).convert("RGB")
    except UnidentifiedImageError:
        return f"{file} (not an image of {', '.join(FORMATS)})"
    except Exception as error:  # PIL's decoders raise many types of exceptions on damaged input
        return f"{file} ({error})"
    if upright.size != (size, size):
        upright = upright.resize((size, size), Image.Resampling.BILINEAR)  # PIL's filter is antialiased
    into[number] = np.asarray(upright).transpose(2, 0, 1)
    return None


def join_names(names: list[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
