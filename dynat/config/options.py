"""Settings that one method alone reads, under `options:` of a run. Defaults are the papers' or the releases'."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from dynat.config.strict import Real, Strict

Share = Annotated[Real, Field(ge=0, le=1)]


class NoOptions(Strict):
    """A method without settings of its own."""


def _one_or_several(value: object) -> object:
    """A grey picture has one channel: `mean: 0.5` is enough."""
    return value if isinstance(value, list | tuple) else (value,)


PerChannel = Annotated[tuple[Real, ...], BeforeValidator(_one_or_several)]


class External(Strict):
    """What a checkpoint's network wants to be done with pixels in [0,1] first: (x - mean) / std."""

    mean: PerChannel | None = None
    """Per channel, of pixels in [0,1]; with `std`, for a network that was trained on standardised pixels."""
    std: PerChannel | None = None
    """Per channel, of pixels in [0,1]."""

    @model_validator(mode="after")
    def _of_pixels(self) -> External:
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
                said = ", ".join(f"{value:g}" for value in values)
                raise ValueError(f"{name} {said} is not of pixels in [0,1]: divide what is meant for 0..255 by 255")
        return self

    def __str__(self) -> str:
        mean, std = (", ".join(f"{value:.4g}" for value in values or ()) for values in (self.mean, self.std))
        return f"mean {mean}, std {std}" if self.mean else "nothing"


class Gairat(Strict):
    tightness: Real = -1.0
    """lambda of the weight (1 + tanh(lambda + 5(1 - 2 kappa/K))) / 2; large is plain adversarial training."""
    weighting: Literal["tanh", "sigmoid", "discrete"] = "tanh"
    """The function from kappa to the weight."""
    burn_in: Share = 59 / 120
    """Share of the training that is plain adversarial training (released: 59 of 120 epochs, 29 of 100)."""


class Mail(Strict):
    slope: Real
    """How sharply a weight follows the margin."""
    bias: Real
    """Added to the margin, in probabilities."""
    burn_in: Share = 76 / 120
    """Share of the training with all weights 1 (released: 76 of 120 epochs)."""


class MailAt(Mail):
    slope: Real = 10.0
    bias: Real = -0.5


class MailTrades(Mail):
    slope: Real = 2.0
    bias: Real = 0.0


class Sat(Strict):
    easy: Annotated[Real, Field(ge=-1, le=1)] = 0.0
    """The probability gap max_j p_j - p_y at which a picture's search stops in the first epoch."""
    ramp: Share = 0.5
    """Share of the training over which that gap rises to 1, where nothing stops any more."""


class AdaGat(Strict):
    pull: Annotated[Real, Field(ge=0)] = 2.5
    """Weight of the extra pull of the guide towards the target; 0 is what was released, and is LBGAT0."""
