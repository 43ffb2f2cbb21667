"""Handwritten digits of 8x8 pixels that ship inside scikit-learn: no download, 1,797 images, 10 classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from dynat.config import DatasetConfig
from dynat.data.images import STRATIFIED, Dataset, LabeledImages, split, stratified

TEST_SHARE = 0.2
CITATION = (
    "E. Alpaydin and C. Kaynak (1998). Optical Recognition of Handwritten Digits. UCI Machine Learning "
    "Repository. CC BY 4.0. The copy that ships with scikit-learn."
)


def prepare(config: DatasetConfig, root: Path) -> Dataset:  # noqa: ARG001 - every source has this signature
    """The source has no split: a stratified fifth is test, `config.validation` of the rest is held out."""
    from sklearn.datasets import load_digits  # training itself does not need scikit-learn

    source = load_digits()
    gray = np.round(source.images * (255 / 16)).astype(np.uint8)  # 0..16 ink levels to 0..255
    all_images = LabeledImages(torch.from_numpy(gray[:, None]), torch.from_numpy(source.target.astype(np.int64)))
    rest, test = split(all_images.labels, TEST_SHARE, config.split_seed)
    train_and_validation = all_images[rest]
    train, validation = split(train_and_validation.labels, config.validation, config.split_seed)
    return Dataset.from_splits(
        name=config.name,
        classes=tuple(str(name) for name in source.target_names),
        origin={"source": "digits", "split_seed": config.split_seed, "citation": CITATION},
        train=train_and_validation[train],
        validation=train_and_validation[validation],
        test=stratified(all_images[test]),
        test_order=STRATIFIED,
    )
