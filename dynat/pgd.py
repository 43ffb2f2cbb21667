"""Projected gradient descent (Madry et al. 2018), for the inner attack of every method and for first-order attacks.

It maximizes an objective of the logits, and stays in the ball and in [0,1]. Projection to the ball comes first, then
the clamp, as in TRADES, LBGAT and the DYNAT release.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dynat import l1_ball
from dynat.nn.modes import evaluating, frozen

ROUNDING = 1e-7
"""More than the length of an image changes when each of its values is rounded to float32, up or down."""

Objective = Callable[[Tensor], Tensor]
"""Maps logits to one loss per image; PGD maximizes it."""


@dataclass(frozen=True)
class Ball:
    """The images within `eps` of a clean one, under a norm over all its pixels and channels."""

    norm: str
    eps: float

    def project(self, candidate: Tensor, center: Tensor) -> Tensor:
        """The nearest image in the ball, then clamped to [0,1]; for L1 the nearest that is in both."""
        if self.norm == "l1":
            return l1_ball.project(candidate, center, self.eps)
        if self.norm == "linf":
            return (candidate - center).clamp_(-self.eps, self.eps).add_(center).clamp_(0.0, 1.0)
        # In double precision: in float32, the length of a large image rounds by so much that one on the surface of the
        # ball is outside.
        middle = center.double()
        offset = candidate.double() - middle
        offset.mul_((self.eps / _length(offset)).clamp(max=1.0))
        nearest = (middle + offset).to(candidate.dtype)
        rounded = nearest.double() - middle
        # An image just outside, each value of which was rounded back to what it was, is rounded towards the center.
        outside = (_length(rounded) > self.eps + ROUNDING) & (rounded.abs() > offset.abs())
        return torch.where(outside, torch.nextafter(nearest, center), nearest).clamp_(0.0, 1.0)

    def ascend(self, point: Tensor, gradient: Tensor, step_size: float) -> Tensor:
        """One step of steepest ascent for this norm: the sign, the normalized gradient, or (L1) its largest values."""
        if self.norm == "l1":
            return point + step_size * l1_ball.direction(point, gradient)
        direction = gradient.sign() if self.norm == "linf" else gradient / _length(gradient)
        return point + step_size * direction

    def sample(self, center: Tensor, generator: torch.Generator) -> Tensor:
        """A random image of the ball, uniform in volume, clamped to [0,1]."""
        if self.norm == "l1":
            offset = l1_ball.sample(center, self.eps, generator)
        elif self.norm == "linf":
            offset = (2 * _uniform(center, generator) - 1) * self.eps
        else:
            direction = torch.empty_like(center).normal_(generator=generator)
            share = torch.rand(len(center), generator=generator, device=center.device)
            radius = share.pow(1.0 / center[0].numel()).view(-1, 1, 1, 1)
            offset = direction / _length(direction) * radius * self.eps
        return (center + offset).clamp(0.0, 1.0)

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """How far apart two batches are, image by image."""
        if self.norm == "l1":
            return l1_ball.distance(a, b)
        if self.norm == "linf":
            return (a - b).flatten(1).abs().amax(1)
        length: Tensor = torch.linalg.vector_norm((a.double() - b.double()).flatten(1), dim=1)
        return length


def starting_point(images: Tensor, ball: Ball, start: str, generator: torch.Generator) -> Tensor:
    """The starting point of PGD, its only random part."""
    if start == "gauss":  # as in TRADES: tiny, and not clamped before the first forward
        return images + 0.001 * torch.empty_like(images).normal_(generator=generator)
    return ball.sample(images, generator) if start == "uniform" else images.clone()


def pgd(
    model: nn.Module,
    images: Tensor,
    start: Tensor,
    *,
    objective: Objective,
    ball: Ball,
    steps: int,
    step_size: float,
    observe: Callable[[Tensor], None] | None = None,
    stop: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Images in the ball around `images` on which the objective is large, by gradient ascent from `start`.

    During the attack the model is in evaluation mode, and gradients are computed for the images only. `observe` is
    called with the logits of every iterate before its update; an image for which `stop` has returned true once is not
    moved any more.
    """
    adversarial = start
    finished = torch.zeros(len(images), dtype=torch.bool, device=images.device)
    with frozen(model), evaluating(model):
        for _ in range(steps):
            adversarial = adversarial.detach().requires_grad_()
            with torch.enable_grad():
                logits = model(adversarial)
                (gradient,) = torch.autograd.grad(objective(logits).sum(), adversarial)
            with torch.no_grad():
                if observe is not None:
                    observe(logits)
                moved = ball.project(ball.ascend(adversarial, gradient, step_size), images)
                if stop is not None:
                    finished = finished | stop(logits)
                    moved = torch.where(finished.view(-1, 1, 1, 1), adversarial, moved)
                adversarial = moved
    return adversarial.detach()


def _uniform(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.empty_like(like).uniform_(generator=generator)


def _length(batch: Tensor) -> Tensor:
    """The euclidean length of each image's tensor, shaped to divide it, never zero."""
    length: Tensor = torch.linalg.vector_norm(batch.flatten(1), dim=1)
    return length.clamp(min=1e-12).view(-1, 1, 1, 1)
