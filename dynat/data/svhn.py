"""SVHN (Netzer et al. 2011), cropped house numbers of 32 x 32 pixels: torchvision's files, checked against their MD5.

They come from the official server, from `mirror:`, or from a folder that already holds them, `path:`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torchvision.datasets import SVHN

from dynat.config import DatasetConfig
from dynat.data.images import OFFICIAL, Dataset, LabeledImages, split
from dynat.data.published import downloaded, existing

CITATION = (
    "Y. Netzer, T. Wang, A. Coates, A. Bissacco, B. Wu and A. Y. Ng (2011). Reading Digits in Natural Images with "
    "Unsupervised Feature Learning. NIPS Workshop on Deep Learning and Unsupervised Feature Learning."
)
CLASSES = tuple("0123456789")


def prepare(config: DatasetConfig, root: Path) -> Dataset:
    """The official test set; `config.validation` of the official training set is held out, stratified. The additional
    training images (`extra_32x32.mat`) are not used."""
    train_and_validation, test = (_read(part, config, root / "downloads") for part in ("train", "test"))
    train, validation = split(train_and_validation.labels, config.validation, config.split_seed, CLASSES)
    return Dataset.from_splits(
        name=config.name,
        classes=CLASSES,
        origin={"source": "svhn", "split_seed": config.split_seed, "citation": CITATION},
        train=train_and_validation[train],
        validation=train_and_validation[validation],
        test=test,
        test_order=OFFICIAL,
    )


def _read(part: str, config: DatasetConfig, downloads: Path) -> LabeledImages:
    url, name, md5 = SVHN.split_list[part]
    if config.path is None:
        file = downloaded(url, md5, config.mirror, downloads)
    else:
        file = existing(Path(config.path).expanduser(), name, md5)
    official = SVHN(file.parent, split=part)
    images = np.ascontiguousarray(official.data)
    return LabeledImages(torch.from_numpy(images), torch.from_numpy(np.asarray(official.labels, dtype=np.int64)))
