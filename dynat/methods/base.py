"""What a method is: an inner attack and a loss on the target, given images and labels.

The code of a method does not depend on whether its labels are true or dynamic, and its loss has no access to the true
labels. That makes DYNAT + GAIRAT a line in a config instead of new code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from dynat.config import Run
from dynat.nn.losses import cross_entropy, kl, label_class
from dynat.nn.modes import evaluating
from dynat.pgd import Ball, Objective, pgd, starting_point

LossTerms = dict[str, Tensor]
"""The terms of a loss by name, each already weighted, a value per image."""


@dataclass(frozen=True)
class AttackResult:
    """What the inner attack returns."""

    images: Tensor
    correct_steps: Tensor | None = None
    """The number of iterates that were still classified as labeled, for methods that count them."""


@dataclass(frozen=True)
class StepInputs:
    """All inputs of a method's loss in one training step."""

    target: nn.Module
    clean: Tensor
    labels: Tensor
    """A class per image (N); or of mixed images, the share of each class (N, C)."""
    attack: AttackResult
    guide_logits: Tensor | None
    progress: float
    """Finished share of the training, in [0,1)."""
    average: Callable[[Sequence[Tensor]], None] = lambda tensors: None
    """Replaces tensors by their means over all processes of this batch; for losses normalized over the batch."""
    label_smoothing: float = 0.0
    """Read by `cross_entropy`."""

    @property
    def adversarial(self) -> Tensor:
        return self.attack.images

    @property
    def label_class(self) -> Tensor:
        """A class per image, for what needs one: of a mixed image (CutMix, MixUp), the one with the largest share."""
        return label_class(self.labels)

    def cross_entropy(self, logits: Tensor) -> Tensor:
        """With the labels of the run, which may be mixed, smoothed as the run says."""
        return cross_entropy(logits, self.labels, self.label_smoothing)


class Method:
    """Base of all methods. A subclass states its loss; PGD on its objective is shared."""

    default_objective: ClassVar[str] = "ce"
    """What the inner attack maximizes where the run's `inner.objective` is `method`."""

    def __init__(self, run: Run, ball: Ball) -> None:
        self.run = run
        self.ball = ball
        self.steps = run.inner.steps
        self.step_size = run.inner.step_size or ball.eps / 4

    def starting_point(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        """Where the inner attack of a step begins; nothing after it is random."""
        return starting_point(clean, self.ball, self.run.inner.start, generator)

    def objective(self, target: nn.Module, clean: Tensor, *, labels: Tensor, truth: Tensor) -> Objective:
        """What the inner attack maximizes: the method's own objective or the run's choice."""
        chosen: str = self.run.inner.objective
        if chosen == "method":
            chosen = self.default_objective
        if chosen == "kl":
            with torch.no_grad(), evaluating(target):
                clean_logits = target(clean)
            return lambda logits: kl(clean_logits, logits)
        if chosen == "ce-true":
            return lambda logits: cross_entropy(logits, truth)
        return lambda logits: cross_entropy(logits, labels)

    def attack(
        self,
        target: nn.Module,
        clean: Tensor,
        start: Tensor,
        *,
        labels: Tensor,  # noqa: ARG002 - for methods that observe the iterates
        objective: Objective,
        progress: float,  # noqa: ARG002 - for methods whose attack changes over training
    ) -> AttackResult:
        """The adversarial images of one step, found by PGD from `start`."""
        return AttackResult(
            pgd(target, clean, start, objective=objective, ball=self.ball, steps=self.steps, step_size=self.step_size)
        )

    def loss(self, inputs: StepInputs) -> LossTerms:
        raise NotImplementedError

    def add_clean_forward(self, terms: LossTerms, inputs: StepInputs, adversarial_logits: Tensor) -> LossTerms:
        """`terms` after a forward of the clean batch: with a consistency term, or for BatchNorm's statistics alone.

        The DYNAT and LBGAT releases run a clean forward that no loss reads. It has an effect: it moves the target's
        running statistics halfway to clean images, which changes the accuracy at test time.
        """
        if self.run.consistency:
            clean_logits = inputs.target(inputs.clean)
            return {**terms, "consistency": self.run.consistency * kl(clean_logits, adversarial_logits)}
        if self.run.clean_forward:
            with torch.no_grad():
                inputs.target(inputs.clean)
        return terms
