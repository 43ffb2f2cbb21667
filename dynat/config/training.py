"""The parts of a training, as frozen, typed values. Every field says what it is, in its unit."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from dynat.config.base import Count, NotNegative, Positive, Real, Share, StrictModel, Whole, WrittenIfSet
from dynat.config.merging import Replaced
from dynat.config.renamed import current_value


class InnerAttack(StrictModel):
    """The attack that makes the adversarial images of a training step."""

    objective: Annotated[Literal["method", "ce", "ce-true", "kl"], BeforeValidator(current_value)] = "method"
    """What it maximizes: the method's own objective; cross-entropy (CE) on the run's labels; CE on the true
    labels (with dynamic labels only); or KL to the clean prediction."""
    eps: Positive | None = None
    """Radius in pixels of [0,1]; by default that of the threat model."""
    steps: Count = 10
    """Number of PGD steps."""
    step_size: Positive | None = None
    """Pixels of [0,1] per step; by default a quarter of `eps`."""
    start: Literal["gauss", "uniform", "none"] = "gauss"
    """Where it starts: x + 0.001 N(0,1), uniformly in the ball, or x itself."""


class AWPConfig(StrictModel):
    """Adversarial weight perturbation (Wu et al. 2020) around the loss of a run, on the target only."""

    gamma: Annotated[Real, Field(gt=0, lt=1)] = 0.005
    """Size of the perturbation relative to the weights of each layer; 0.01 is usual with AT, 0.005 with TRADES."""
    warm_up: Share = 0.09
    """Share of the training before the perturbation begins (released: 9 of 100 epochs in
    DYNAT-AWP, 9 of 200 in TRADES-AWP, 0 in AT-AWP)."""
    proxy: Annotated[Literal["method", "trades"], BeforeValidator(current_value)] = "method"
    """The loss that the perturbation increases: the run's own loss on the target, or TRADES on true labels (as in the
    released DYNAT-AWP)."""


class ScheduleConfig(StrictModel):
    """The learning rate as data; `dynat.training.schedule` holds the one function that reads it."""

    shape: Literal["steps", "one-cycle", "cosine"] = "steps"
    """Piecewise constant; one linear rise and fall; or half a cosine, from `lr` down."""
    lr: Positive = 0.1
    """The peak learning rate."""
    reference_epochs: Annotated[Count, Field(le=100_000)] = 100
    """`steps`: the number of epochs that `factors` is written for; they are scaled to the run's `epochs`."""
    factors: Annotated[dict[Whole, NotNegative], Replaced()] = Field(
        default_factory=lambda: {0: 0.2, 1: 1.0, 75: 0.1, 90: 0.01}
    )
    """`steps`: number of finished epochs to the factor of `lr` from then on. It must name epoch 0. A later source
    replaces it as a whole."""
    peak: Annotated[Real, Field(gt=0, lt=1)] = 0.3
    """`one-cycle`: the share of the training after which the peak is reached."""

    warm_up: Annotated[Real, Field(ge=0, lt=1), WrittenIfSet()] = 0.0
    """`cosine`: the share of the training over which the rate first rises linearly from 0 to `lr`."""
    final: Annotated[Share, WrittenIfSet()] = 0.0
    """`cosine`: the rate at the end, as a share of `lr`."""

    @model_validator(mode="after")
    def _read_by_this_shape(self) -> ScheduleConfig:
        if self.shape != "steps" and self.factors != type(self).model_fields["factors"].get_default(
            call_default_factory=True
        ):
            raise ValueError("factors has an effect with shape 'steps' only")
        for name in ("warm_up", "final"):
            if self.shape != "cosine" and getattr(self, name):
                raise ValueError(f"{name} has an effect with shape 'cosine' only")
        return self

    @model_validator(mode="after")
    def _starts_at_zero(self) -> ScheduleConfig:
        if 0 not in self.factors:
            raise ValueError("factors must name the factor of epoch 0, as in {0: 0.2, 1: 1.0, 75: 0.1, 90: 0.01}")
        if not any(self.factors.values()):
            raise ValueError("factors: all are 0, so nothing would be learned")
        late = [epoch for epoch in self.factors if not 0 <= epoch < self.reference_epochs]
        if late:
            raise ValueError(
                f"factors: epoch {late[0]} is not within the {self.reference_epochs} epochs of the schedule"
            )
        return self


Decay = Annotated[Real, Field(ge=0, lt=1)]
"""The share of a running average that is kept in a step."""


class OptimizerConfig(StrictModel):
    """One optimizer over target and guide together."""

    name: Annotated[Literal["sgd", "adamw"], WrittenIfSet()] = "sgd"
    """SGD with momentum, or AdamW (Loshchilov and Hutter 2019), which needs a `schedule.lr` around 0.001."""
    momentum: Decay = 0.9
    """`sgd`: the momentum."""
    weight_decay: NotNegative = 2e-4
    """Weight decay of all weights of both networks. That of AdamW is decoupled from the gradient and acts more weakly:
    0.01 to 0.1 is usual."""
    nesterov: bool = False
    """`sgd`: whether the momentum is Nesterov's."""
    betas: Annotated[tuple[Decay, Decay], WrittenIfSet()] = (0.9, 0.999)
    """`adamw`: decay of the running averages of the gradient and of its square."""
    max_grad_norm: Annotated[Positive | None, WrittenIfSet()] = None
    """Gradient clipping: the largest euclidean norm of a network's gradient in a step; a longer one is scaled down to
    it. Target and guide are clipped separately, so that the target's loss does not slow down the guide. Off by
    default."""

    @model_validator(mode="after")
    def _read_by_this_optimizer(self) -> OptimizerConfig:
        reader = {"momentum": "sgd", "nesterov": "sgd", "betas": "adamw"}
        for setting, name in reader.items():
            if name != self.name and getattr(self, setting) != type(self).model_fields[setting].default:
                raise ValueError(f"{setting} is a setting of '{name}', and the optimizer is '{self.name}': remove it")
        return self


class AugmentationConfig(StrictModel):
    """Random changes of the training images."""

    padding: Annotated[Whole, Field(ge=0, le=256)] = 4
    """Pixels of zero padding before the random crop; 0 is no crop."""
    flip: bool = True
    """Mirror half of the images left to right; wrong for digits and letters. By default off with the source `svhn`."""
    cutmix: Annotated[NotNegative, WrittenIfSet()] = 0.0
    """CutMix (Yun et al. 2019): images of a batch exchange a rectangle, labels the same share. The share is drawn from
    Beta(a, a) with this a for every batch; 1 is usual, 0 is off. Needs true labels, and torchvision. With `mixup` too,
    each batch has one of them, chosen at random."""
    mixup: Annotated[NotNegative, WrittenIfSet()] = 0.0
    """MixUp (Zhang et al. 2018): images of a batch are averaged in pairs, labels too, with a weight from Beta(a, a);
    0.2 is usual, 0 is off. Otherwise as `cutmix`."""


class ValidationConfig(StrictModel):
    """How the held-out images choose the `best` epoch; no test image is read."""

    every: Count = 1
    """Epochs between two validations; the last epoch always has one."""
    steps: Count = 10
    """Steps of the PGD attack that chooses `best`."""
    select: Literal["pgd", "clean"] = "pgd"
    """Which accuracy on the held-out images chooses `best`; ties go to the higher clean accuracy, then to the earlier
    epoch."""
    patience: Annotated[Count | None, WrittenIfSet()] = None
    """Early stopping: the training ends after this many validations in a row without a new `best`. Off by default. The
    learning rate is that of a training of all `epochs`."""


class SWAConfig(StrictModel):
    """Stochastic weight averaging (Izmailov et al. 2018): the target's weights, averaged over the last epochs."""

    start: Annotated[Real, Field(ge=0, lt=1)] = 0.75
    """The share of the training after which the averaging begins: the weights at the end of every later epoch count
    alike."""
    bn_batches: Count = 50
    """Training batches on which BatchNorm's statistics of the average are computed before each validation. They are
    forwarded as in training, adversarial images included, so a batch costs most of a training step."""
