"""Settings that only one method reads, under `options:` of a run. Defaults are those of the papers or releases."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dynat.config.base import NotNegative, Real, Share, StrictModel


class NoOptions(StrictModel):
    """A method without settings of its own."""


class Gairat(StrictModel):
    """GAIRAT weights each image by the number of PGD steps (kappa of K) that it takes to misclassify it."""

    tightness: Annotated[Real, Field(ge=-4)] = -1.0  # below, every weight of a batch may round to zero
    """lambda in the weight (1 + tanh(lambda + 5(1 - 2 kappa/K))) / 2; large is plain adversarial training."""
    weighting: Literal["tanh", "sigmoid", "discrete"] = "tanh"
    """The function from kappa to the weight."""
    burn_in: Share = 59 / 120
    """Share of the training that is plain adversarial training (released: 59 of 120 epochs, or 29 of 100)."""


class Mail(StrictModel):
    """MAIL weights each image by the sigmoid of its probability margin."""

    slope: Real
    """How sharply the weight follows the margin."""
    bias: Real
    """Added to the margin, which is a difference of probabilities."""
    burn_in: Share = 76 / 120
    """Share of the training in which all weights are 1 (released: 76 of 120 epochs)."""


class MailAt(Mail):
    """MAIL on the cross-entropy of adversarial training."""

    slope: Real = 10.0
    """How sharply the weight follows the margin."""
    bias: Real = -0.5
    """Added to the margin, which is a difference of probabilities."""


class MailTrades(Mail):
    """MAIL on the KL term of TRADES."""

    slope: Real = 2.0
    """How sharply the weight follows the margin."""
    bias: Real = 0.0
    """Added to the margin, which is a difference of probabilities."""


class Sat(StrictModel):
    """The curriculum of SAT: the search stops at an image when its probability gap reaches a limit that rises."""

    easy: Annotated[Real, Field(ge=-1, le=1)] = 0.0
    """The probability gap max p_j - p_y, over the classes j other than y, at which the search for an image stops in the
    first epoch."""
    ramp: Share = 0.5
    """Share of the training over which that gap rises to 1, where no search stops early."""


class AdaGat(StrictModel):
    """AdaGAT adds a term that pulls the guide towards the target."""

    pull: NotNegative = 2.5
    """Weight of the additional term that pulls the guide towards the target; 0 is as released and equals LBGAT0."""
