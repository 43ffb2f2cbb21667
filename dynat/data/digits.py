"""Handwritten digits of 8x8 pixels that ship inside scikit-learn: no download, 1,797 pictures, 10 classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from dynat.config import Dataset as DatasetConfig
from dynat.data.pictures import Dataset, Pictures, split

TEST_SHARE = 0.2
CITATION = (
    "E. Alpaydin and C. Kaynak (1998). Optical Recognition of Handwritten Digits. UCI Machine Learning "
    "Repository. CC BY 4.0. The copy that ships with scikit-learn."
)


def prepare(config: DatasetConfig, root: Path) -> Dataset:  # noqa: ARG001 - every source is called alike
    """The source has no split: a stratified fifth is test, `config.validation` of the rest is held out."""
    from sklearn.datasets import load_digits  # the training itself does without scikit-learn

    source = load_digits()
    grey = np.round(source.images * (255 / 16)).astype(np.uint8)  # 0..16 ink levels to 0..255
    everything = Pictures(torch.from_numpy(grey[:, None]), torch.from_numpy(source.target.astype(np.int64)))
    rest, test = split(everything.labels, TEST_SHARE, config.split_seed)
    learning = everything[rest]
    train, validation = split(learning.labels, config.validation, config.split_seed)
    return Dataset.of(
        name=config.name,
        classes=tuple(str(name) for name in source.target_names),
        about={"source": "digits", "split_seed": config.split_seed, "citation": CITATION},
        train=learning[train],
        validation=learning[validation],
        test=everything[test],
    )
