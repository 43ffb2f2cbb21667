"""Images of your own: an ImageFolder tree, `<path>/{train,test}/<class>/<any image>`.

`<path>/validation`, in the same layout, is the validation set; where it is missing, a stratified share of train is held
out. Classes and images are in natural order of their names (2 before 10), so the same tree gives the same data set on
every machine.
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
from PIL import Image, ImageOps, UnidentifiedImageError

from dynat.config import DatasetConfig
from dynat.data.images import STRATIFIED, Dataset, LabeledImages, split, stratified
from dynat.prepared import DataError
from dynat.runtime.progress import Progress

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF", "PPM")
"""PIL's names for them. Without this list PIL guesses, and hands a PostScript file named .png to Ghostscript."""
DEEP_MODES = ("I", "I;16", "I;16L", "I;16B", "I;16N", "F")
"""PIL's modes with more than 8 bits per channel; PIL would clip them to white without a warning."""


def prepare(config: DatasetConfig, root: Path) -> Dataset:  # noqa: ARG001 - every source has this signature
    """Every image as RGB, resized to `config.size` squared where it is not of that size."""
    assert config.path is not None and config.size is not None, "the config requires path and size of a folder"
    tree = Path(config.path).expanduser()
    files = {"train": class_files(tree / "train"), "test": class_files(tree / "test")}
    if (tree / "validation").is_dir():
        files["validation"] = class_files(tree / "validation")
    classes = tuple(files["train"])
    for part, by_class in files.items():
        _check_classes(classes, by_class, tree, part)
    splits = {part: read_images(by_class, config.size, part) for part, by_class in files.items()}
    if "validation" not in splits:
        train, validation = split(splits["train"].labels, config.validation, config.split_seed, classes)
        splits["validation"] = splits["train"][validation]
        splits["train"] = splits["train"][train]
    return Dataset.from_splits(
        name=config.name,
        classes=classes,
        origin={"source": "folder", "path": config.path, "split_seed": config.split_seed},
        train=splits["train"],
        validation=splits["validation"],
        test=stratified(splits["test"]),
        test_order=STRATIFIED,
    )


def natural(name: str) -> tuple[tuple[str | int, ...], str]:
    """A key that sorts '2.png' before '10.png'; the name itself settles '1' and '01'."""
    parts = re.split(r"(\d+)", name)
    return tuple(int(part) if odd % 2 else part for odd, part in enumerate(parts)), name


def class_files(folder: Path) -> dict[str, list[Path]]:
    """Class name to its image files, both in natural order; hidden and other files are ignored."""
    if not folder.is_dir():
        raise DataError(
            f"{folder}: no such folder; a data set of your own holds its images in "
            "<path>/train/<class>/ and <path>/test/<class>/"
        )
    names = [entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
    if len(names) < 2:
        raise DataError(f"{folder}: needs a folder of images for each of at least two classes, found {len(names)}")
    by_class = {name: _image_files(folder / name) for name in sorted(names, key=natural)}
    if empty := [name for name, files in by_class.items() if not files]:
        raise DataError(f"{folder}: no image ({', '.join(sorted(SUFFIXES))}) in {_join_names(empty)}")
    return by_class


def _image_files(folder: Path) -> list[Path]:
    """Images in `folder` and its subfolders. Links to files and to `folder` itself are followed; what is named like an
    image and is none, and a linked subfolder, is refused: skipping it would make another data set in silence."""
    files: list[Path] = []
    for entry in folder.rglob("*"):
        inside = entry.relative_to(folder)
        if any(part.startswith(".") for part in inside.parts):
            continue
        if entry.is_symlink() and entry.is_dir():
            raise DataError(f"{entry}: a link to a folder inside a class is not followed; put its images there instead")
        if entry.suffix.lower() in SUFFIXES and not entry.is_dir():
            if not entry.is_file():
                what = "a link to nothing" if entry.is_symlink() else "not a regular file"
                raise DataError(f"{entry}: {what}, but named like an image; remove or rename it")
            files.append(entry)
    return sorted(files, key=lambda file: natural(file.relative_to(folder).as_posix()))


def _check_classes(train_classes: Iterable[str], part_classes: Iterable[str], tree: Path, part: str) -> None:
    in_train, in_part = set(train_classes), set(part_classes)
    differences = [
        f"{has}/ has {_join_names(sorted(extra, key=natural))}, {lacks}/ does not"
        for has, lacks, extra in (("train", part, in_train - in_part), (part, "train", in_part - in_train))
        if extra
    ]
    if differences:
        raise DataError(f"{tree}: the classes differ: {'; '.join(differences)}")


def read_images(by_class: dict[str, list[Path]], size: int, part: str) -> LabeledImages:
    """Decode in threads (PIL releases the interpreter's lock); one error names all files that cannot be read."""
    files = [file for members in by_class.values() for file in members]
    labels = [label for label, members in enumerate(by_class.values()) for _ in members]
    _check_memory(len(files), size, part)
    images = np.empty((len(files), size, size, 3), dtype=np.uint8)
    failures: list[str] = []
    with ThreadPoolExecutor(os.cpu_count()) as pool, Progress(f"data: {part} images", len(files)) as progress:
        for number, result in enumerate(pool.map(partial(_decode, size=size), files)):
            progress.advance()
            if isinstance(result, str):
                failures.append(result)
            else:
                images[number] = result
    if failures:
        raise DataError(f"{len(failures)} of {len(files)} {part} images cannot be read: {_join_names(failures)}")
    chw = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    return LabeledImages(chw, torch.tensor(labels, dtype=torch.int64))


def _check_memory(count: int, size: int, part: str) -> None:
    needed, memory = count * size * size * 3, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > memory:
        raise DataError(
            f"dataset.size: {count} {part} images of {size} x {size} pixels take {needed / 1e9:.0f} GB, and this "
            f"machine has {memory / 1e9:.0f} GB of memory; choose a smaller size"
        )


def _decode(file: Path, size: int) -> NDArray[np.uint8] | str:
    """The image as (size, size, 3) bytes, or a message that says why it cannot be read."""
    try:
        with Image.open(file, formats=FORMATS) as opened:
            if opened.mode in DEEP_MODES:
                return f"{file} (more than 8 bits per channel, mode {opened.mode}: convert it first)"
            upright = ImageOps.exif_transpose(opened).convert("RGB")
    except UnidentifiedImageError:
        return f"{file} (not an image of {', '.join(FORMATS)})"
    except Exception as error:  # PIL's decoders raise many types of exceptions on damaged input
        return f"{file} ({error})"
    if upright.size != (size, size):
        upright = upright.resize((size, size), Image.Resampling.BILINEAR)  # PIL's filter is antialiased
    return np.asarray(upright)


def _join_names(names: list[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
