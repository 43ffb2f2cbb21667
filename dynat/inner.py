"""The inner maximisation: one projected gradient ascent for every method and every first-order attack.

It starts near the clean picture, follows the gradient of an objective of the logits, and stays in the ball
and in [0,1]. Projection to the ball comes first, then the clamp, as in TRADES, LBGAT and the DYNAT release.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dynat.models.state import evaluating, frozen

Objective = Callable[[Tensor], Tensor]
"""Logits to a loss per picture, to be made large."""


@dataclass(frozen=True)
class Ball:
    """The pictures within `eps` of a clean one, under a norm over all its pixels and channels."""

    norm: str
    eps: float

    def project(self, candidate: Tensor, centre: Tensor) -> Tensor:
        """The nearest picture in the ball, then clamped to [0,1]."""
        offset = candidate - centre
        if self.norm == "linf":
            offset = offset.clamp(-self.eps, self.eps)
        else:
            offset = offset * (self.eps / _length(offset)).clamp(max=1.0)
        return (centre + offset).clamp(0.0, 1.0)

    def ascend(self, point: Tensor, gradient: Tensor, step_size: float) -> Tensor:
        """One step of steepest ascent for this norm: the sign, or the normalised gradient."""
        direction = gradient.sign() if self.norm == "linf" else gradient / _length(gradient)
        return point + step_size * direction

    def sample(self, centre: Tensor, generator: torch.Generator) -> Tensor:
        """A random picture of the ball, uniform in volume, clamped to [0,1]."""
        if self.norm == "linf":
            offset = (2 * _uniform(centre, generator) - 1) * self.eps
        else:
            direction = torch.empty_like(centre).normal_(generator=generator)
            share = torch.rand(len(centre), generator=generator, device=centre.device)
            radius = share.pow(1.0 / centre[0].numel()).view(-1, 1, 1, 1)
            offset = direction / _length(direction) * radius * self.eps
        return (centre + offset).clamp(0.0, 1.0)

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """How far apart two batches are, picture by picture."""
        offset = (a - b).flatten(1)
        return offset.abs().amax(1) if self.norm == "linf" else torch.linalg.vector_norm(offset, dim=1)


def maximise(
    model: nn.Module,
    pictures: Tensor,
    *,
    objective: Objective,
    ball: Ball,
    steps: int,
    step_size: float,
    start: str,
    generator: torch.Generator,
    stop: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Pictures in the ball around `pictures` on which the objective is large."""
    point = starting_point(pictures, ball, start, generator)
    return climb(model, pictures, point, objective=objective, ball=ball, steps=steps, step_size=step_size, stop=stop)


def starting_point(pictures: Tensor, ball: Ball, start: str, generator: torch.Generator) -> Tensor:
    """Where a search begins: all that is random about it."""
    if start == "gauss":  # as in TRADES: tiny, and not clamped before the first look
        return pictures + 0.001 * torch.empty_like(pictures).normal_(generator=generator)
    return ball.sample(pictures, generator) if start == "uniform" else pictures.clone()


def climb(
    model: nn.Module,
    pictures: Tensor,
    point: Tensor,
    *,
    objective: Objective,
    ball: Ball,
    steps: int,
    step_size: float,
    watch: Callable[[Tensor], None] | None = None,
    stop: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """The search from `point` on.

    The model is in evaluation mode meanwhile and only the picture gets a gradient. `watch` sees the logits
    of every iterate before its update; a picture for which `stop` once says true stays where it is.
    """
    finished = torch.zeros(len(pictures), dtype=torch.bool, device=pictures.device)
    with frozen(model), evaluating(model):
        for _ in range(steps):
            point = point.detach().requires_grad_()
            with torch.enable_grad():
                logits = model(point)
                (gradient,) = torch.autograd.grad(objective(logits).sum(), point)
            with torch.no_grad():
                if watch is not None:
                    watch(logits)
                moved = ball.project(ball.ascend(point, gradient, step_size), pictures)
                if stop is not None:
                    finished = finished | stop(logits)
                    moved = torch.where(finished.view(-1, 1, 1, 1), point, moved)
                point = moved
    return point.detach()


def _uniform(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.empty_like(like).uniform_(generator=generator)


def _length(batch: Tensor) -> Tensor:
    """The euclidean length of each picture's tensor, shaped to divide it, never zero."""
    length: Tensor = torch.linalg.vector_norm(batch.flatten(1), dim=1)
    return length.clamp(min=1e-12).view(-1, 1, 1, 1)
