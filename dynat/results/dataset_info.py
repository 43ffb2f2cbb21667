"""The images that a network was trained and evaluated on, as results describe them."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Part(BaseModel):
    """A part of a record: frozen, without unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ExtraImagesInfo(Part):
    """Extra images that a network was trained on too."""

    file: str
    """The name of the file."""
    digest: str
    """SHA-256 of images and labels."""
    images: int
    unlabeled: int
    """Those without a label, which the guide labeled."""
    test_images: int
    """Those that are test images, pixel for pixel."""


class DatasetInfo(Part):
    """The data set that a network was trained and evaluated on."""

    name: str
    digest: str
    """SHA-256 of images and labels."""
    classes: tuple[str, ...]
    channels: int
    size: tuple[int, int]
    train: int
    """Number of training images; likewise the two below."""
    validation: int
    test: int
    test_order: str = "as given"
    """Which images the first n of them are: official, or stratified with a seed."""
    test_in_train: int = 0
    """Test images that are also training or validation images, pixel for pixel."""
    largest_class: float = 0.0
    """Share of the most frequent class among the training or the held-out images, whichever is larger; 0 if unknown."""
    extra: ExtraImagesInfo | None = None
