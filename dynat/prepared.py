"""A prepared data set on disk, read and checked in full without torch, so that Snakemake can check it before any job.

A data set is a folder with `images.safetensors` (`train.images`, `train.labels`, `validation.images`, ...) and
`info.json` (`PreparedInfo`). `dynat.data.images` writes both.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from safetensors import SafetensorError, safe_open

from dynat.runtime.errors import UserError
from dynat.runtime.files import check_readable

IMAGES, INFO = "images.safetensors", "info.json"
SPLITS = ("train", "validation", "test")
FORMAT = 2
"""Raised whenever the same source gives other files; 2: test images of a source without an official order are
stratified."""

EXTRA_FORMAT = 1

LabeledArrays = tuple[NDArray[np.uint8], NDArray[np.int64]]


class DataError(UserError):
    """A data set that cannot be read or prepared. Its text says what to do about it."""


class PreparedInfo(BaseModel):
    """The content of `info.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int
    name: str
    source: str | None = None
    split_seed: int | None = None
    train_images: int | None = None
    """The number that was chosen from a larger training set; the others are in no split."""
    citation: str | None = None
    path: str | None = None
    test_order: str
    """How the test images are ordered, and so which ones `images: n` of an attack are."""
    test_in_train: int
    """Test images that are also training or validation images, pixel for pixel."""
    shape: tuple[int, int, int]
    """Channels, height, width."""
    images: dict[str, int]
    """By split."""
    classes: tuple[str, ...]
    per_class: dict[str, tuple[int, ...]]
    sha256: str
    """`content_digest` of the images and labels."""

    @model_validator(mode="before")
    @classmethod
    def _version(cls, content: Any) -> Any:
        version = content.get("format", 1) if isinstance(content, dict) else FORMAT
        if version != FORMAT:
            raise ValueError(f"prepared by another version of dynat: format {version}, this one reads {FORMAT}")
        return content


class ExtraInfo(BaseModel):
    """What a checked file of extra images holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int
    path: str
    images: int
    unlabeled: int
    """Images without a label."""
    per_class: tuple[int, ...]
    test_images: int
    """Images that are test images of the data set, pixel for pixel."""
    sha256: str
    """Of all images and labels."""


def read_extra(folder: Path) -> ExtraInfo:
    """What `dynat.data.extra` wrote of a file of extra images."""
    file = folder / INFO
    try:
        info = ExtraInfo.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{file}: no such file; run `dynat data` first") from None
    except (OSError, ValidationError) as error:
        raise DataError(f"{file}: cannot be read ({str(error).splitlines()[0]}); make it again: dynat data") from None
    if info.format != EXTRA_FORMAT:
        raise DataError(f"{file}: written by another version of dynat; make it again: dynat data")
    return info


def extra_warnings(info: ExtraInfo, dataset: PreparedInfo) -> list[str]:
    """What a user should know about extra images before training with them."""
    warnings = []
    if info.test_images:
        warnings.append(
            f"{info.path}: {info.test_images} of {info.images} extra images are test images of {dataset.name}, pixel "
            "for pixel: accuracies on them are not test accuracies"
        )
    labeled = info.images - info.unlabeled
    if absent := [name for name, count in zip(dataset.classes, info.per_class, strict=True) if labeled and not count]:
        more = ", ..." if len(absent) > 5 else ""
        warnings.append(f"{info.path}: no image has the label {', '.join(absent[:5])}{more}")
    return warnings


def read_info(folder: Path) -> PreparedInfo:
    """The content of `info.json`, or a `DataError` that says what is wrong with it."""
    try:
        return PreparedInfo.model_validate_json(_readable(folder, INFO).read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        reason = first["msg"].removeprefix("Value error, ")
        if "another version" in reason:
            raise DataError(f"{folder / INFO}: {reason}; {remedy(folder)}") from None
        raise _damaged(folder, INFO, f"{place}: {reason}" if place else reason) from None


def read(folder: Path) -> tuple[PreparedInfo, dict[str, LabeledArrays]]:
    """Info and arrays of a data set, every byte compared with its digest."""
    info = read_info(folder)
    file = _readable(folder, IMAGES)
    try:
        with safe_open(file, framework="np") as tensors:
            stamp = (tensors.metadata() or {}).get("sha256")
            arrays = {
                name: (_array(file, tensors, f"{name}.images"), _array(file, tensors, f"{name}.labels"))
                for name in SPLITS
            }
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        raise _damaged(folder, IMAGES, str(error)) from None
    if stamp != info.sha256:
        raise DataError(f"{folder}: {IMAGES} and {INFO} are of two different data sets; {remedy(folder)}")
    for name, (images, labels) in arrays.items():
        if problem := _problem(images, labels, info):
            raise _damaged(folder, IMAGES, f"{name}: {problem}")
    if content_digest(arrays.values()) != info.sha256:
        raise _damaged(folder, IMAGES, "its images or labels are not those that were prepared: the SHA-256 differs")
    return info, arrays


def _array(file: Path, tensors: Any, name: str) -> NDArray[Any]:
    """An array of a file that safetensors has checked. Bytes, the images, stay in the file and are read when they are
    used; writing into them does not change the file."""
    array = tensors.get_slice(name)
    if array.get_dtype() != "U8" or 0 in array.get_shape():
        read: NDArray[Any] = tensors.get_tensor(name)
        return read
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        begin = json.loads(opened.read(length))[name]["data_offsets"][0]
    return np.memmap(file, np.uint8, "c", 8 + length + begin, tuple(array.get_shape()))


def shared_images(info: PreparedInfo) -> str | None:
    """A warning if test images were trained on."""
    count, total = info.test_in_train, info.images["test"]
    if not count:
        return None
    return (
        f"{info.name}: {count} of {total} test images are also training or validation images, pixel for pixel: "
        "accuracies on them are not test accuracies"
    )


def content_digest(splits: Iterable[LabeledArrays]) -> str:
    """SHA-256 of all images and labels."""
    content = hashlib.sha256()
    for images, labels in splits:
        content.update(str(tuple(images.shape)).encode())
        content.update(np.ascontiguousarray(images).data)
        content.update(np.ascontiguousarray(labels).data)
    return content.hexdigest()


def remedy(folder: Path) -> str:
    """What really makes a prepared data set again: `snakemake data` takes a damaged file as up to date."""
    return (
        f"make it again: dynat data (with the settings of this experiment), which keeps finished results; or, if "
        f"{folder.name} was made by `dynat evaluate --dataset FOLDER`, repeat that command"
    )


def _problem(images: NDArray[Any], labels: NDArray[Any], info: PreparedInfo) -> str | None:
    if images.dtype != np.uint8 or images.shape[1:] != info.shape:
        return f"images are {images.dtype} of shape {images.shape[1:]}, not uint8 of shape {info.shape}"
    if labels.dtype != np.int64 or labels.shape != images.shape[:1]:
        return f"{len(images)} images, but labels are {labels.dtype} of shape {labels.shape}"
    wrong = labels[(labels < 0) | (labels >= len(info.classes))]
    if len(wrong):
        return f"label {wrong[0]} is not one of {len(info.classes)} classes"
    return None


def _readable(folder: Path, name: str) -> Path:
    """The file, which must exist and be readable (safetensors says of a forbidden file that it does not exist)."""
    file = folder / name
    try:
        file.stat()
    except FileNotFoundError:
        raise DataError(f"{file}: no such file; run `dynat data` or `snakemake data` first") from None
    except OSError:
        pass
    check_readable(file, "file")
    return file


def _damaged(folder: Path, name: str, reason: str) -> DataError:
    return DataError(f"{folder / name}: damaged or cut short ({reason}); {remedy(folder)}")
