"""An image folder to evaluate on: a whole ImageFolder tree, or test images only.

Test images may lie in `<path>/test/<class>/` or in `<path>/<class>/`. Then the splits for training are empty.
"""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

from dynat.config import DatasetConfig
from dynat.data import folder
from dynat.data.decode import FORMATS, Listed, read_images
from dynat.data.images import STRATIFIED, Dataset, LabeledImages, stratified_order
from dynat.prepared import DataError

EXPECTED = (
    "expected a folder per class with its images, in <path>/<class>/ or <path>/test/<class>/, or a whole data set in "
    "<path>/train/<class>/ and <path>/test/<class>/"
)


def prepare(config: DatasetConfig, root: Path) -> Dataset:
    """The images of `config.path`, resized to `config.size` squared where they are not of that size."""
    assert config.path is not None and config.size is not None, "the config requires path and size of a folder"
    path = Path(config.path)
    if (path / "train").is_dir():
        return folder.prepare(config, root)
    by_class = test_files(path)
    listed = Listed.of(by_class)
    test = read_images(listed[stratified_order(listed.labels)], config.size, "test", root)
    none = LabeledImages(test.images[:0], torch.empty(0, dtype=torch.int64))
    return Dataset.from_splits(
        name=config.name,
        classes=tuple(by_class),
        origin={"source": "folder", "path": config.path},
        train=none,
        validation=none,
        test=test,
        test_order=STRATIFIED,
    )


def common_size(path: Path) -> int:
    """The side in pixels of all test images, if they are squares of one size; an error says to give it otherwise."""
    sizes = set()
    for files in test_files(path).values():
        for file in files:
            try:
                with Image.open(file, formats=FORMATS) as image:
                    sizes.add(image.size)
            except OSError as error:
                raise DataError(f"{file}: cannot be read ({error})") from None
    if len(sizes) != 1 or len(set(next(iter(sizes)))) != 1:
        shown = ", ".join(f"{width}x{height}" for width, height in sorted(sizes)[:3])
        more = ", ..." if len(sizes) > 3 else ""
        raise DataError(
            f"{path}: the images are not squares of one size ({shown}{more}); say with --size to how many pixels they "
            "are resized"
        )
    width, _ = sizes.pop()
    return int(width)


def test_files(path: Path) -> dict[str, list[Path]]:
    """Class name to its test images."""
    return folder.class_files(_test_folder(path))


def _test_folder(path: Path) -> Path:
    if (path / "test").is_dir():
        return path / "test"
    folders = [entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
    if (path / "train").is_dir() or len(folders) < 2:
        raise DataError(f"{path}: {EXPECTED}")
    return path
