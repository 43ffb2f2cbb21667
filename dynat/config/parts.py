"""What a run is made of, as frozen, typed values. Every field says what it is, in its unit."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from dynat.config import names
from dynat.config.strict import Real, Strict, Whole

Positive = Annotated[Real, Field(gt=0)]
NotNegative = Annotated[Real, Field(ge=0)]
Count = Annotated[Whole, Field(ge=1)]
Radius = Annotated[Real, Field(gt=0, lt=1)]
Seeds = Annotated[tuple[Annotated[Whole, Field(ge=0)], ...], Field(min_length=1)]


class Dataset(Strict):
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
    """The folder under data/ and the name in every caption."""
    source: str
    """Where the pictures come from: digits, cifar10, cifar100, or folder (an ImageFolder tree)."""
    path: str | None = None
    """folder: the tree with train/ and test/. CIFAR: a folder that already holds the archive."""
    mirror: str | None = None
    """CIFAR: a URL of a folder that serves the archive instead of the official place."""
    size: Count | None = None
    """folder: the side in pixels to which every picture is resized."""
    validation: Annotated[Real, Field(gt=0, lt=0.5)] = 0.04
    """The share of the training pictures held out, stratified, to choose `best` on."""
    split_seed: Annotated[Whole, Field(ge=0)] = 0
    """The seed of that split (and of train/test where the source has none)."""

    @field_validator("source")
    @classmethod
    def _source(cls, value: str) -> str:
        return names.known("source", value, names.SOURCES)

    @model_validator(mode="after")
    def _folder(self) -> Dataset:
        if self.source == "folder" and (self.path is None or self.size is None):
            raise ValueError("a 'folder' data set needs path (a tree with train/ and test/) and size (pixels)")
        if self.source != "folder" and self.size is not None:
            raise ValueError(f"size is read by source 'folder' only, not by '{self.source}'")
        return self


class Threat(Strict):
    norm: Literal["linf", "l2"] = "linf"
    eps: Annotated[Real, Field(gt=0)]
    """The radius of the ball in [0,1] pixels; below 1 under linf."""

    @model_validator(mode="after")
    def _inside(self) -> Threat:
        if self.norm == "linf" and self.eps >= 1:
            raise ValueError(f"eps {self.eps:g} is outside (0,1): pixels are in [0,1], write 8/255 rather than 8")
        return self


class Inner(Strict):
    """The search for the adversarial pictures that a training step learns from."""

    objective: Literal["own", "ce", "ce-true", "kl"] = "own"
    """What it maximises: the method's own, CE on the run's labels, CE on true labels, or KL to clean."""
    eps: Positive | None = None
    """Radius; the threat model's where not given."""
    steps: Count = 10
    step_size: Positive | None = None
    """Pixels per step; a quarter of eps where not given."""
    start: Literal["gauss", "uniform", "none"] = "gauss"
    """x + 0.001 N(0,1), uniform in the ball, or x itself."""


class WeightPerturbation(Strict):
    """Adversarial weight perturbation (Wu et al. 2020) around a run's loss, on the target alone."""

    gamma: Annotated[Real, Field(gt=0, lt=1)] = 0.005
    """Size of the perturbation relative to each layer's weights (0.01 with AT, 0.005 with TRADES)."""
    warm_up: Annotated[Real, Field(ge=0, le=1)] = 0.09
    """Share of the training before it begins (9 of 100 epochs as released; 0 with AT)."""
    proxy: Literal["own", "trades"] = "own"
    """The loss that the weights are moved against: the run's own, or TRADES on true labels (released)."""


class Schedule(Strict):
    """The learning rate as data; `dynat.training.schedule` holds the one function that reads it."""

    shape: Literal["steps", "one-cycle"] = "steps"
    lr: Positive = 0.1
    """The peak learning rate."""
    of: Count = 100
    """steps: the number of epochs that `factors` is written for; scaled to the run's epochs."""
    factors: dict[Whole, NotNegative] = Field(default_factory=lambda: {0: 0.2, 1: 1.0, 75: 0.1, 90: 0.01})
    """steps: from how many finished epochs on which factor of lr holds (the paper's, by default)."""
    peak: Annotated[Real, Field(gt=0, lt=1)] = 0.3
    """one-cycle: the share of training after which the peak is reached."""

    @model_validator(mode="after")
    def _starts_at_zero(self) -> Schedule:
        if 0 not in self.factors:
            raise ValueError("factors must say the factor of epoch 0, as in {0: 0.2, 1: 1.0, 75: 0.1, 90: 0.01}")
        late = [epoch for epoch in self.factors if not 0 <= epoch < self.of]
        if late:
            raise ValueError(f"factors: epoch {late[0]} is not within the {self.of} epochs of the schedule")
        return self


class Optimiser(Strict):
    """Stochastic gradient descent over target and guide together."""

    momentum: Annotated[Real, Field(ge=0, lt=1)] = 0.9
    weight_decay: NotNegative = 2e-4
    nesterov: bool = False


class Augmentation(Strict):
    padding: Annotated[Whole, Field(ge=0)] = 4
    """Pixels of zero padding before the random crop; 0 is no crop."""
    flip: bool = True
    """Mirror half of the pictures left to right (wrong for digits and letters)."""


class Validation(Strict):
    """What the held-out pictures are asked after an epoch; chooses `best`, never sees a test picture."""

    every: Count = 1
    """Epochs between two validations; the last epoch always has one."""
    steps: Count = 10
    """Steps of the PGD that chooses `best`."""
    select: Literal["pgd", "clean"] = "pgd"
    """Which accuracy chooses `best`."""
