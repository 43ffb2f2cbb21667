"""The data set of an experiment, and the ball in which an attacker may change its images."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from dynat.config import registry
from dynat.config.base import Count, Positive, Real, Seed, StrictModel, WrittenIfSet, shortened

DatasetName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=100)]


def _class_names(value: Any) -> Any:
    """A class may be a number, as in the digits."""
    if not isinstance(value, list | tuple):
        raise ValueError("expected a list of classes, such as [cat, dog]")
    for name in value:
        if isinstance(name, bool) or not isinstance(name, str | int):
            raise ValueError(f"{shortened(repr(name))} is not the name of a class; YAML needs quotes around yes and no")
    names = tuple(map(str, value))
    if len(set(names)) < max(len(names), 2):
        raise ValueError("name at least two classes, each once")
    return names


ClassNames = Annotated[tuple[str, ...], BeforeValidator(_class_names)]


class ExtraUse(StrictModel):
    """How a training uses extra images."""

    ratio: Annotated[Real, Field(ge=0, lt=1)]
    """Share of extra images in every batch: of `batch` images, `ratio * batch`, rounded, are extra and the others are
    original. 0.7 is usual for generated images (papers then write an "original-to-generated ratio of 0.3") and 0.5 for
    the 500,000 pseudo-labeled ones. An epoch has as many steps as without extra images. 0 is off."""
    labels: Literal["file", "guide"] = "file"
    """`file`: the labels that the file gives. `guide`, for dynamic labels only: those are ignored, so that the guide
    learns from the original images alone and labels the extra ones. Images without a label (-1) are labeled by the
    guide in any case."""

    def count(self, batch: int) -> int:
        """The number of extra images in a batch of so many."""
        return round(self.ratio * batch)


class ExtraImagesConfig(ExtraUse):
    """Extra or synthetic training images, beside those of the data set."""

    path: str
    """An .npz file with the images as bytes, N × height × width × channels, and a label each: `image` and `label`, as
    published with generated images, or `data` and `extrapolated_targets`, as published with the 500,000 images."""

    @field_validator("path")
    @classmethod
    def _npz(cls, value: str) -> str:
        if not value.endswith(".npz"):
            raise ValueError(f"'{shortened(value)}' is not an .npz file; see docs/extra-images.md for other formats")
        return value

    @property
    def name(self) -> str:
        """The folder under `data/<name>/extra/` that describes the file."""
        slug = re.sub(r"[^a-z0-9._-]+", "-", Path(self.path).stem.lower()).strip("-._")[:60] or "images"
        return f"{slug}-{hashlib.sha256(self.path.encode(errors='surrogateescape')).hexdigest()[:8]}"


class DatasetConfig(StrictModel):
    """Where the images come from and how they are split."""

    name: DatasetName
    """The folder under `data/` and the name in every caption: lower-case letters, digits, `.`, `_`, `-`."""
    source: str
    """Where the images come from: `digits`, `cifar10`, `cifar100`, `svhn`, `tiny-imagenet`, or `folder` (one folder per
    class)."""
    path: str | None = None
    """`folder`: the folder that holds `train/` and `test/`. Other sources: a folder that already holds the published
    files."""
    mirror: str | None = None
    """The URL of a folder to download the published files from instead of the official one; checksums are verified."""
    size: Annotated[Count, Field(le=2048)] | None = None
    """The side in pixels of the square to which every image is resized: required by `folder`, 64 by default with
    `tiny-imagenet`, and not for other sources."""
    validation: Annotated[Real, Field(gt=0, lt=0.5)] = 0.04
    """Share of the training images held out, evenly over the classes, to choose the `best` epoch."""
    classes: Annotated[ClassNames | None, WrittenIfSet()] = None
    """Only these classes, in this order, as in `[cat, dog]`; by default all. The split is that of the whole data set.
    Give the smaller data set a `name` of its own."""
    train_images: Count | None = None
    """Number of training images kept after that, in equal shares of every class; by default all. Give the smaller data
    set a `name` of its own."""
    split_seed: Seed = 0
    """Seed of that split, of the choice of `train_images`, and of the split into train and test where the source has
    none."""
    extra: Annotated[ExtraImagesConfig | None, WrittenIfSet()] = None
    """Extra or synthetic training images for every run; see [extra](#extra). A run can change `ratio` and `labels` in
    its own `extra:`."""

    @field_validator("source")
    @classmethod
    def _source(cls, value: str) -> str:
        return registry.known("source", value, registry.SOURCES)

    @model_validator(mode="after")
    def _folder(self) -> DatasetConfig:
        if self.source == "folder" and (self.path is None or self.size is None):
            raise ValueError("a 'folder' data set needs path (a folder with train/ and test/) and size (pixels)")
        if self.source not in ("folder", "tiny-imagenet") and self.size is not None:
            raise ValueError(f"size is read by the sources 'folder' and 'tiny-imagenet', not by '{self.source}'")
        if self.source == "digits" and self.path is not None:
            raise ValueError("path is read by the sources that have files, not by 'digits'")
        if self.source in ("digits", "folder") and self.mirror is not None:
            raise ValueError(f"mirror is for sources that are downloaded, not for '{self.source}'")
        if self.mirror is not None and not self.mirror.startswith(("http://", "https://")):
            raise ValueError(
                f"mirror '{shortened(self.mirror)}' is not a URL that starts with http:// or https://; "
                "for a folder of this machine set path"
            )
        return self


class ThreatModel(StrictModel):
    """What an attacker may do: move an image within a ball around it."""

    norm: Literal["linf", "l2", "l1"] = "linf"
    """The norm of the ball, over all pixels and channels."""
    eps: Positive
    """The radius of the ball in pixels of [0,1]; below 1 under `linf`."""

    @model_validator(mode="after")
    def _inside(self) -> ThreatModel:
        if self.norm == "linf" and self.eps >= 1:
            raise ValueError(f"eps {self.eps:g} is outside (0,1): pixels are in [0,1], write 8/255 rather than 8")
        return self
