"""Settings that one method alone reads, under `options:` of a run. Defaults are the papers' or the releases'."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dynat.config.strict import Real, Strict

Share = Annotated[Real, Field(ge=0, le=1)]


class NoOptions(Strict):
    """A method without settings of its own."""


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
