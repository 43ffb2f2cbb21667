"""What a method is: a loss on the target, given pictures and labels.

A method never learns whether its labels are true or dynamic and never sees the truth beside them; that is
what makes DYNAT+GAIRAT a line in a config rather than a file of code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from dynat.config import Run
from dynat.inner import Ball, Objective, climb, starting_point
from dynat.losses import cross_entropy, kl
from dynat.models.state import evaluating

Parts = dict[str, Tensor]
"""The terms of a loss by name, each already weighted, a value per picture."""


@dataclass(frozen=True)
class Found:
    """What the inner maximisation brings back."""

    pictures: Tensor
    correct_steps: Tensor | None = None
    """How many iterates were still classified as labelled, for methods that count."""


@dataclass(frozen=True)
class Lesson:
    """All that a method may see of one training step."""

    target: nn.Module
    clean: Tensor
    labels: Tensor
    found: Found
    guide_logits: Tensor | None
    progress: float
    """Finished share of the training, in [0,1)."""
    average: Callable[[Sequence[Tensor]], None] = lambda tensors: None
    """Makes each tensor its mean over all processes that share this batch; for a loss that compares its pictures."""

    @property
    def adversarial(self) -> Tensor:
        return self.found.pictures


class Method:
    """Base of all methods. A subclass states its loss; the search for pictures is shared."""

    own_objective: ClassVar[str] = "ce"

    def __init__(self, run: Run, ball: Ball) -> None:
        self.run = run
        self.ball = ball

    def start(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        """Where the search of a step begins; nothing after it is random."""
        return starting_point(clean, self.ball, self.run.inner.start, generator)

    def search(
        self,
        target: nn.Module,
        clean: Tensor,
        start: Tensor,
        *,
        labels: Tensor,  # noqa: ARG002 - for methods that watch the search
        objective: Objective,
        progress: float,  # noqa: ARG002 - for methods whose search changes over training
    ) -> Found:
        """The adversarial pictures of one step."""
        return Found(self.climb(target, clean, start, objective))

    def climb(
        self,
        target: nn.Module,
        clean: Tensor,
        start: Tensor,
        objective: Objective,
        *,
        watch: Callable[[Tensor], None] | None = None,
        stop: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """The inner maximisation as the run sets it up."""
        inner = self.run.inner
        assert inner.step_size is not None
        return climb(
            target,
            clean,
            start,
            objective=objective,
            ball=self.ball,
            steps=inner.steps,
            step_size=inner.step_size,
            watch=watch,
            stop=stop,
        )

    def loss(self, lesson: Lesson) -> Parts:
        raise NotImplementedError

    def clean_side(self, lesson: Lesson, adversarial_logits: Tensor) -> Parts:
        """The clean batch after the adversarial one: as a KL term, or for BatchNorm's statistics alone.

        The DYNAT and LBGAT releases run a clean forward that no loss reads. It is no waste: it moves the
        target's running statistics halfway to clean pictures, which changes the accuracy at test time.
        """
        if self.run.consistency:
            clean_logits = lesson.target(lesson.clean)
            return {"consistency": self.run.consistency * kl(clean_logits, adversarial_logits)}
        if self.run.clean_forward:
            with torch.no_grad():
                lesson.target(lesson.clean)
        return {}


def objective_for(method: Method, target: nn.Module, clean: Tensor, *, labels: Tensor, truth: Tensor) -> Objective:
    """What the run's inner maximisation makes large."""
    name: str = method.run.inner.objective
    if name == "own":
        name = method.own_objective
    if name == "kl":
        with torch.no_grad(), evaluating(target):
            reference = target(clean)
        return lambda logits: kl(reference, logits)
    wanted = truth if name == "ce-true" else labels
    return lambda logits: cross_entropy(logits, wanted)
