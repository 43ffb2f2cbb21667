"""Pictures of one's own: an ImageFolder tree, `<path>/{train,test}/<class>/<any picture>`.

A `<path>/validation` of the same shape is held out where there is one, otherwise a stratified share of train.
Classes and pictures are in natural order of their names (2 before 10), so the same tree gives the same data
set everywhere.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from tqdm import tqdm

from dynat.config import Dataset as DatasetConfig
from dynat.data.pictures import DataError, Dataset, Pictures, split

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
DEEP_MODES = ("I", "I;16", "I;16L", "I;16B", "I;16N", "F")
"""What PIL calls more than 8 bits per channel; it would clip them to white without a word."""


def prepare(config: DatasetConfig, root: Path) -> Dataset:  # noqa: ARG001 - every source is called alike
    """Every picture as RGB, resized to `config.size` squared where it is not of that size."""
    assert config.path is not None and config.size is not None, "the config asks a 'folder' for path and size"
    tree = Path(config.path).expanduser()
    files = {"train": _by_class(tree / "train"), "test": _by_class(tree / "test")}
    if (tree / "validation").is_dir():
        files["validation"] = _by_class(tree / "validation")
    classes = tuple(files["train"])
    for part, found in files.items():
        _same_classes(classes, found, tree, part)
    pictures = {part: _read(found, config.size, part) for part, found in files.items()}
    if "validation" not in pictures:
        train, validation = split(pictures["train"].labels, config.validation, config.split_seed)
        pictures["validation"] = pictures["train"][validation]
        pictures["train"] = pictures["train"][train]
    return Dataset.of(
        name=config.name,
        classes=classes,
        about={"source": "folder", "path": config.path, "split_seed": config.split_seed},
        train=pictures["train"],
        validation=pictures["validation"],
        test=pictures["test"],
    )


def natural(name: str) -> tuple[tuple[str | int, ...], str]:
    """A key that sorts '2.png' before '10.png'; the name itself settles '1' and '01'."""
    parts = re.split(r"(\d+)", name)
    return tuple(int(part) if odd % 2 else part for odd, part in enumerate(parts)), name


def _by_class(folder: Path) -> dict[str, list[Path]]:
    """Class name to its pictures, both in natural order; what is hidden or no picture is passed over."""
    if not folder.is_dir():
        raise DataError(
            f"{folder}: no such folder; a data set of your own holds its pictures in "
            "<path>/train/<class>/ and <path>/test/<class>/"
        )
    names = [entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
    if len(names) < 2:
        raise DataError(f"{folder}: needs a folder of pictures for each of at least two classes, found {len(names)}")
    found = {name: _pictures_in(folder / name) for name in sorted(names, key=natural)}
    if empty := [name for name, files in found.items() if not files]:
        raise DataError(f"{folder}: no picture ({', '.join(sorted(SUFFIXES))}) in {_listed(empty)}")
    return found


def _pictures_in(folder: Path) -> list[Path]:
    files = (
        file
        for file in folder.rglob("*")
        if file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file()
    )
    return sorted(files, key=lambda file: natural(file.relative_to(folder).as_posix()))


def _same_classes(classes: Iterable[str], found: Iterable[str], tree: Path, part: str) -> None:
    train, here = set(classes), set(found)
    differences = [
        f"{has}/ has {_listed(sorted(extra, key=natural))}, {lacks}/ does not"
        for has, lacks, extra in (("train", part, train - here), (part, "train", here - train))
        if extra
    ]
    if differences:
        raise DataError(f"{tree}: the classes differ: {'; '.join(differences)}")


def _read(found: dict[str, list[Path]], size: int, part: str) -> Pictures:
    """Decode in threads (PIL works outside the interpreter's lock); all that fails is told at once."""
    files = [file for members in found.values() for file in members]
    labels = [label for label, members in enumerate(found.values()) for _ in members]
    images = np.empty((len(files), size, size, 3), dtype=np.uint8)
    failures: list[str] = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        outcomes = pool.map(partial(_decoded, size=size), files)
        for place, outcome in enumerate(tqdm(outcomes, desc=part, total=len(files), unit="picture", disable=None)):
            if isinstance(outcome, str):
                failures.append(outcome)
            else:
                images[place] = outcome
    if failures:
        raise DataError(f"{len(failures)} of {len(files)} {part} pictures cannot be read: {_listed(failures)}")
    chw = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    return Pictures(chw, torch.tensor(labels, dtype=torch.int64))


def _decoded(file: Path, size: int) -> NDArray[np.uint8] | str:
    """The picture as (size, size, 3) bytes, or in words why there is none."""
    try:
        with Image.open(file) as opened:
            if opened.mode in DEEP_MODES:
                return f"{file} (more than 8 bits per channel, mode {opened.mode}: convert it first)"
            upright = ImageOps.exif_transpose(opened).convert("RGB")
    except Exception as error:  # each decoder of PIL raises what it likes on damaged input
        return f"{file} ({error})"
    if upright.size != (size, size):
        upright = upright.resize((size, size), Image.Resampling.BILINEAR)  # PIL's filter is antialiased
    return np.asarray(upright)


def _listed(names: list[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
