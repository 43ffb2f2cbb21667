"""Images: one module per source, one format on disk, two tensors per split in memory.

To add a source: a module with `prepare(config, root) -> Dataset`, and an entry in
`dynat.config.registry.SOURCES`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from dynat import prepared
from dynat.config import DatasetConfig
from dynat.config.registry import SOURCES, known, locate
from dynat.data.augmentation import augment
from dynat.data.image_files import load, save
from dynat.data.images import Dataset, LabeledImages, split, to_pixels
from dynat.prepared import INFO, DataError
from dynat.runtime.errors import UserError

__all__ = ["INFO", "DataError", "Dataset", "LabeledImages", "augment", "load", "prepare", "save", "split", "to_pixels"]


def prepare(config: DatasetConfig, root: Path) -> Path:
    """Fetch or build what `config` names, write it to `root/<name>` and return that folder."""
    if (root / config.name / prepared.INFO).exists():
        old = prepared.read_info(root / config.name).source
        if old not in (None, config.source):
            raise UserError(
                f"{root / config.name}: holds the images of the source '{old}'; give this data set another name "
                "(dataset.name), or delete that folder"
            )
    dataset: Dataset = locate(SOURCES[known("source", config.source, SOURCES)])(config, root)
    if config.classes is not None:
        dataset = dataset.with_classes(config.classes)
    if config.train_images is not None:
        dataset = dataset.with_train_images(config.train_images, config.split_seed)
    folder = root / config.name
    save(dataset, folder)
    if warning := prepared.shared_images(prepared.read_info(folder)):
        print(f"dynat: warning: {warning}", file=sys.stderr)
    return folder
