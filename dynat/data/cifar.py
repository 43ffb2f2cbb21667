"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009) through torchvision, every file checked against its published MD5.

The archive comes from the official server, from `mirror:`, or from a folder that already contains it, `path:`.
What is downloaded or unpacked stays in `<root>/downloads` and is shared by all data sets made from it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision.datasets import CIFAR10, CIFAR100
from torchvision.datasets.utils import check_integrity, extract_archive

from dynat.config import DatasetConfig
from dynat.data.images import OFFICIAL, Dataset, LabeledImages, split
from dynat.data.published import downloaded, existing
from dynat.prepared import DataError

READERS: dict[str, Any] = {"cifar10": CIFAR10, "cifar100": CIFAR100}
CITATION = "A. Krizhevsky (2009). Learning Multiple Layers of Features from Tiny Images. Technical report."


def prepare(config: DatasetConfig, root: Path) -> Dataset:
    """The official test set; `config.validation` of the official training set is held out, stratified."""
    reader, downloads = READERS[config.source], root / "downloads"
    if config.path is not None:
        folder = _existing(reader, Path(config.path).expanduser(), downloads)
    else:
        folder = _downloaded(reader, config.mirror, downloads)
    _check_batches(reader, folder)
    official = reader(folder, train=True)
    train_and_validation, test = _labeled_images(official), _labeled_images(reader(folder, train=False))
    train, validation = split(train_and_validation.labels, config.validation, config.split_seed, official.classes)
    return Dataset.from_splits(
        name=config.name,
        classes=tuple(official.classes),
        origin={"source": config.source, "split_seed": config.split_seed, "citation": CITATION},
        train=train_and_validation[train],
        validation=train_and_validation[validation],
        test=test,
        test_order=OFFICIAL,
    )


def _labeled_images(official: Any) -> LabeledImages:
    images = np.ascontiguousarray(official.data.transpose(0, 3, 1, 2))
    return LabeledImages(torch.from_numpy(images), torch.tensor(official.targets, dtype=torch.int64))


def _existing(reader: Any, path: Path, downloads: Path) -> Path:
    """The folder to read from, given the user's folder or archive; nothing is written into the user's folder."""
    if path.name == reader.base_folder:
        path = path.parent
    if (path / reader.base_folder).is_dir():
        return path
    if not (path / reader.filename).is_file():
        raise DataError(f"dataset.path: {path} holds neither {reader.filename} nor a folder {reader.base_folder}")
    return _unpacked(existing(path, reader.filename, reader.tgz_md5), downloads)


def _downloaded(reader: Any, mirror: str | None, downloads: Path) -> Path:
    """The folder with the unpacked archive; downloads and unpacks only what is missing or damaged."""
    if not _damaged_batches(reader, downloads):
        return downloads
    return _unpacked(downloaded(reader.url, reader.tgz_md5, mirror, downloads), downloads)


def _unpacked(archive: Path, downloads: Path) -> Path:
    downloads.mkdir(parents=True, exist_ok=True)
    extract_archive(archive, downloads)
    return downloads


def _damaged_batches(reader: Any, folder: Path) -> list[tuple[Path, str]]:
    """The unpacked files that are missing or differ from the published ones, with the MD5 that they should have."""
    expected = [*reader.train_list, *reader.test_list, (reader.meta["filename"], reader.meta["md5"])]
    files = [(folder / reader.base_folder / name, md5) for name, md5 in expected]
    return [(file, md5) for file, md5 in files if not check_integrity(file, md5)]


def _check_batches(reader: Any, folder: Path) -> None:
    """Name the unpacked file that differs from the published one, before anything is unpickled."""
    for file, md5 in _damaged_batches(reader, folder):
        problem = "damaged (its MD5 is not " + md5 + ")" if file.exists() else "missing"
        raise DataError(f"{file}: {problem}; delete the folder {file.parent} and unpack {reader.filename} again")
