"""TinyImageNet (Stanford CS231n): 200 classes of ImageNet, 64 x 64 pixels, 500 training images each.

The archive comes from the official server, from `mirror:`, or from a folder that already contains it, `path:`; it is
read as it is, without being unpacked. `path:` may also be the unpacked folder. The published test images have no
labels, so that the validation images, 50 of each class, are the test set, as everywhere in the literature.

    tiny-imagenet-200/wnids.txt                           the classes, by their WordNet IDs
    tiny-imagenet-200/train/<class>/images/*.JPEG
    tiny-imagenet-200/val/images/*.JPEG
    tiny-imagenet-200/val/val_annotations.txt             name of the image, class, box
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from dynat.config import DatasetConfig
from dynat.data.decode import ImageFile, Listed, join_names, read_with_held_out
from dynat.data.images import STRATIFIED, Dataset, chosen_classes, stratified_order
from dynat.data.published import downloaded, existing
from dynat.prepared import DataError

FOLDER = "tiny-imagenet-200"
ARCHIVE = f"{FOLDER}.zip"
URL = f"http://cs231n.stanford.edu/{ARCHIVE}"
MD5 = "90528d7ca1a48142e341f4ef8d21d0de"
CITATION = "Y. Le and X. Yang (2015). Tiny ImageNet Visual Recognition Challenge. CS 231N, Stanford University."
SIZE = 64


def prepare(config: DatasetConfig, root: Path) -> Dataset:
    """All images as RGB, of 64 x 64 pixels unless `config.size` says otherwise."""
    tree = _tree(config, root / "downloads")
    classes = tuple(tree.text("wnids.txt").split())
    if config.classes is not None:  # the others are not read
        classes = chosen_classes(config.classes, classes)
    train, test = Listed.of(_train(tree, classes)), Listed.of(_validation(tree, classes))
    parts = {"train": train, "test": test[stratified_order(test.labels)]}
    config = config.model_copy(update={"size": config.size or SIZE})
    splits = read_with_held_out(parts, config, classes, root)
    return Dataset.from_splits(
        name=config.name,
        classes=classes,
        origin={"source": "tiny-imagenet", "split_seed": config.split_seed, "citation": CITATION},
        train=splits["train"],
        validation=splits["validation"],
        test=splits["test"],
        test_order=STRATIFIED,
    )


class Tree(Protocol):
    """The content of `tiny-imagenet-200/`, packed or not."""

    def names(self) -> Sequence[str]:
        """The paths of all files."""

    def file(self, name: str) -> ImageFile: ...

    def text(self, name: str) -> str: ...


@dataclass(frozen=True)
class Unpacked:
    folder: Path

    def names(self) -> Sequence[str]:
        return sorted(file.relative_to(self.folder).as_posix() for file in self.folder.rglob("*.JPEG"))

    def file(self, name: str) -> Path:
        return self.folder / name

    def text(self, name: str) -> str:
        try:
            return self.file(name).read_text(encoding="utf-8")
        except OSError as error:
            raise DataError(f"{self.file(name)}: cannot be read ({error.strerror}); unpack {ARCHIVE} again") from None


@dataclass(frozen=True)
class Packed:
    archive: zipfile.ZipFile

    def names(self) -> Sequence[str]:
        start = f"{FOLDER}/"
        return sorted(name.removeprefix(start) for name in self.archive.namelist() if name.startswith(start))

    def file(self, name: str) -> PackedFile:
        return PackedFile(self.archive, f"{FOLDER}/{name}")

    def text(self, name: str) -> str:
        with self.file(name).open() as stream:
            return stream.read().decode("utf-8")


@dataclass(frozen=True)
class PackedFile:
    """A file of the archive. Threads may read several at once; a checksum is verified by reading."""

    archive: zipfile.ZipFile
    name: str

    def open(self, mode: str = "rb", /) -> IO[bytes]:  # noqa: ARG002 - as a path is opened
        return self.archive.open(self.name)

    def __str__(self) -> str:
        return f"{self.archive.filename}: {self.name}"


def _tree(config: DatasetConfig, downloads: Path) -> Tree:
    if config.path is None:
        return Packed(zipfile.ZipFile(downloaded(URL, MD5, config.mirror, downloads)))
    path = Path(config.path).expanduser()
    for folder in (path, path / FOLDER):
        if (folder / "wnids.txt").is_file():
            return Unpacked(folder)
    if not (path / ARCHIVE).is_file():
        raise DataError(f"dataset.path: {path} holds neither {ARCHIVE} nor a folder {FOLDER}")
    return Packed(zipfile.ZipFile(existing(path, ARCHIVE, MD5)))


def _train(tree: Tree, classes: Sequence[str]) -> dict[str, list[ImageFile]]:
    found: dict[str, list[ImageFile]] = {name: [] for name in classes}
    for name in tree.names():
        top, _, inside = name.partition("/")
        label = inside.partition("/")[0]
        if top == "train" and name.endswith(".JPEG") and label in found:
            found[label].append(tree.file(name))
    return _complete(found, "training")


def _validation(tree: Tree, classes: Sequence[str]) -> dict[str, list[ImageFile]]:
    found: dict[str, list[ImageFile]] = {name: [] for name in classes}
    for number, line in enumerate(tree.text("val/val_annotations.txt").splitlines(), 1):
        image, label, *_ = [*line.split("\t"), "", ""]
        if not label:
            raise DataError(f"val_annotations.txt: line {number} is not 'image, tab, class': {line[:60]!r}")
        if label in found:
            found[label].append(tree.file(f"val/images/{image}"))
    return _complete(found, "validation")


def _complete(by_class: dict[str, list[ImageFile]], part: str) -> dict[str, list[ImageFile]]:
    if empty := [name for name, files in by_class.items() if not files]:
        raise DataError(f"{FOLDER}: no {part} image of {join_names(empty)}; is it unpacked completely?")
    return by_class
