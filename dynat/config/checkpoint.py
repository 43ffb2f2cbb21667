"""A third-party checkpoint as a row of the table: a file of weights, the network they belong to, its normalization."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field, field_validator, model_validator

from dynat.config import registry
from dynat.config.base import Real, StrictModel, Whole, WrittenIfSet


def _one_or_several(value: object) -> object:
    """A gray image has one channel: `mean: 0.5` is enough."""
    return value if value is None or isinstance(value, list | tuple) else (value,)


PerChannel = Annotated[tuple[Real, ...], BeforeValidator(_one_or_several)]


class Normalization(StrictModel):
    """What a network does to pixels in [0,1] before its first layer: (x - mean) / std."""

    mean: PerChannel | None = None
    """Mean per channel, of pixels in [0,1]; given together with `std`. Without both, pixels are normalized as
    the file or the published weights of the network say, if they do."""
    std: PerChannel | None = None
    """Standard deviation per channel, of pixels in [0,1]; given together with `mean`."""
    padding: Annotated[Whole, Field(ge=0, le=256), WrittenIfSet()] = 0
    """Black pixels on each side of the image before that: `padding` of DeepMind's and RobustBench's networks."""

    @model_validator(mode="after")
    def _of_pixels(self) -> Normalization:
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std are given together: a network sees (x - mean) / std")
        if self.mean is None or self.std is None:
            return self
        if len(self.mean) != len(self.std):
            raise ValueError(f"mean has {len(self.mean)} channels and std has {len(self.std)}")
        for name, values, sound in (
            ("mean", self.mean, all(0 <= value <= 1 for value in self.mean)),
            ("std", self.std, all(0 < value <= 1 for value in self.std)),
        ):
            if not sound:
                shown = ", ".join(f"{value:g}" for value in values)
                raise ValueError(f"{name} {shown} is not of pixels in [0,1]: divide values meant for 0..255 by 255")
        return self

    def __str__(self) -> str:
        mean, std = (", ".join(f"{value:.4g}" for value in values or ()) for values in (self.mean, self.std))
        return f"mean {mean}, std {std}" if self.mean else "nothing"


class Checkpoint(Normalization):
    """A network that was trained elsewhere: a row of the table that is evaluated but not trained."""

    file: str
    """Path of the weights (safetensors or a torch file). The file is read without running code in it, and
    refused unless every name and shape fits."""
    arch: str
    """Name of the network that the weights belong to, such as `resnet18`, `wrn28-10-swish` or `timm/resnet50`."""

    @field_validator("arch")
    @classmethod
    def _network(cls, value: str) -> str:
        registry.network_entry(value)
        return value
