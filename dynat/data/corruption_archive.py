"""Corrupted test images: of the published archives CIFAR-10-C and CIFAR-100-C, mapped into memory, or made here.

labels.npy              labels of 5 x n images
<corruption>.npy        5 x n images, height x width x channels: the n test images in their official order, at
                        severity 1, then at severity 2, ...
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dynat.config.corruptions import SEVERITIES, CorruptionsConfig
from dynat.data.corruptions import corrupt, possible
from dynat.data.images import LabeledImages
from dynat.prepared import DataError


class CorruptedImages:
    """Batches of the first test images under any corruption."""

    def __init__(self, config: CorruptionsConfig, test: LabeledImages) -> None:
        self.config = config
        self.labels = test.labels[: config.images].cpu()
        if config.path is None:
            self.made = test.images[: config.images].cpu().permute(0, 2, 3, 1).numpy()
            for kind in config.chosen:
                if not possible(kind, self.made.shape[3]):
                    raise DataError(f"corruptions.kinds: '{kind}' cannot be made of gray images")
        else:
            self.archive = Archive(Path(config.path).expanduser(), test)

    def __len__(self) -> int:
        return len(self.labels)

    def files(self) -> list[tuple[str, int, int]]:
        """The files of the archive: name, size and time of change."""
        if self.config.path is None:
            return []
        files = [self.archive.folder / f"{kind}.npy" for kind in self.config.chosen]
        return [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.exists()]

    def batches(self, kind: str, severity: int, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Bytes N x channels x height x width and their labels."""
        for start in range(0, len(self), size):
            end = min(start + size, len(self))
            if self.config.path is None:
                images = corrupt(self.made[start:end], kind, severity, seed=self.config.seed, first=start)
            else:
                images = self.archive.images(kind, severity, start, end)
            yield torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), self.labels[start:end]


class Archive:
    def __init__(self, folder: Path, test: LabeledImages) -> None:
        self.folder, self.count = folder, len(test)
        self.shape = (*test.images.shape[2:], test.images.shape[1])
        labels = self._array("labels")
        if labels.shape != (5 * self.count,) or not np.array_equal(labels[: self.count], test.labels.cpu().numpy()):
            raise DataError(
                f"{folder}/labels.npy: not the labels of these {self.count:,} test images, five times over: is it the "
                "archive of this data set?"
            )

    def images(self, kind: str, severity: int, start: int, end: int) -> NDArray[np.uint8]:
        found = self._array(kind)
        if found.dtype != np.uint8 or found.shape != (5 * self.count, *self.shape):
            shape = " x ".join(map(str, (5 * self.count, *self.shape)))
            raise DataError(
                f"{self.folder}/{kind}.npy: {found.dtype} of shape {' x '.join(map(str, found.shape))}, not bytes of "
                f"shape {shape}"
            )
        first = SEVERITIES.index(severity) * self.count
        return np.array(found[first + start : first + end])

    def _array(self, name: str) -> NDArray[Any]:
        file = self.folder / f"{name}.npy"
        try:
            array: NDArray[Any] = np.load(file, mmap_mode="r", allow_pickle=False)
        except FileNotFoundError:
            raise DataError(f"{file}: no such file; corruptions.path names an unpacked CIFAR-10-C or -100-C") from None
        except (OSError, ValueError) as error:
            raise DataError(f"{file}: damaged, or not an .npy file ({error})") from None
        return array
