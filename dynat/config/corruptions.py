"""Common corruptions of the test images (Hendrycks and Dietterich 2019), as an evaluation of every row."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from dynat.config import registry
from dynat.config.base import Count, Seed, StrictModel

BENCHMARK = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
)
"""The 15 corruptions of CIFAR-10-C that a mean corruption error is about."""
ADDITIONAL = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
"""In the same archive, for choosing settings: not in the mean of published tables."""
NOT_MADE = ("motion_blur", "snow", "frost", "fog", "elastic_transform", "spatter")
"""Those that only the archive has: they need programs or photographs beside the test images."""
SEVERITIES = (1, 2, 3, 4, 5)


class CorruptionsConfig(StrictModel):
    """Corruptions of the test images: those of a published archive, or made from the test images."""

    path: str | None = None
    """The unpacked archive of CIFAR-10-C or CIFAR-100-C: a folder with `labels.npy` and a file per corruption. Without
    it, corruptions are made from the test images of the data set."""
    kinds: tuple[str, ...] = ()
    """Names of corruptions; by default the 15 of the benchmark, or those ten of them that can be made."""
    severities: Annotated[tuple[Annotated[int, Field(ge=1, le=5)], ...], Field(min_length=1)] = SEVERITIES
    """Severities from 1 to 5."""
    images: Count | None = None
    """Number of test images, the first ones; by default all."""
    reference: str | None = None
    """The row whose errors the mean corruption error (mCE) is relative to, in percent. By default it is not relative:
    the mean error over corruptions and severities."""
    seed: Seed = 0
    """Seed of the corruptions that are made: every row and every seed of a training meets the same images."""

    @field_validator("kinds", "severities")
    @classmethod
    def _once(cls, value: tuple[object, ...]) -> tuple[object, ...]:
        if len(set(value)) < len(value):
            raise ValueError("names one twice")
        return value

    @field_validator("kinds")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            registry.known("corruption", name, dict.fromkeys((*BENCHMARK, *ADDITIONAL)))
        return value

    @property
    def chosen(self) -> tuple[str, ...]:
        """The corruptions to evaluate."""
        return self.kinds or tuple(kind for kind in BENCHMARK if self.path is not None or kind not in NOT_MADE)

    def problem(self, classes: bool) -> str | None:
        """What makes it impossible; `classes`: whether the data set is a subset of its classes."""
        if self.path is None:
            if unmade := next((kind for kind in self.kinds if kind in NOT_MADE), None):
                return f"kinds: '{unmade}' cannot be made from test images: name the folder of the archive in path"
        elif classes:
            return "path: the archive holds all classes, and dataset.classes chooses some: leave out one of them"
        return None
