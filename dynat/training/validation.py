"""Validation after an epoch, on held-out training images. Test images play no part in a training."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from dynat.config import Run, ThreatModel
from dynat.data import LabeledImages, to_pixels
from dynat.nn.losses import cross_entropy
from dynat.nn.mixed_precision import surrogate_of
from dynat.nn.modes import evaluating
from dynat.pgd import Ball, pgd, starting_point


def validate(
    target: nn.Module,
    guide: nn.Module | None,
    held_out: LabeledImages,
    run: Run,
    threat: ThreatModel,
    *,
    generator: torch.Generator,
    batch: int = 1000,
    tick: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Clean and PGD accuracy of the target, clean accuracy of the guide. PGD queries a surrogate of the target.

    `tick` is called after every step of PGD.
    """
    ball = Ball(threat.norm, threat.eps)
    surrogate = surrogate_of(target)
    correct: dict[str, int] = {"clean": 0, "pgd": 0} | ({} if guide is None else {"guide_clean": 0})
    for images, labels in held_out.batches(batch):
        pixels = to_pixels(images)
        adversarial = _pgd(surrogate, pixels, labels, ball, run.validation.steps, generator, tick)
        correct["clean"] += _correct(target, pixels, labels)
        correct["pgd"] += _correct(target, adversarial, labels)
        if guide is not None:
            correct["guide_clean"] += _correct(guide, pixels, labels)
    return {name: count / len(held_out) for name, count in correct.items()}


def _pgd(
    target: nn.Module,
    pixels: Tensor,
    labels: Tensor,
    ball: Ball,
    steps: int,
    generator: torch.Generator,
    tick: Callable[[], None],
) -> Tensor:
    def fooled(logits: Tensor) -> Tensor:
        tick()
        return logits.argmax(1) != labels

    return pgd(
        target,
        pixels,
        starting_point(pixels, ball, "uniform", generator),
        objective=lambda logits: cross_entropy(logits, labels),
        ball=ball,
        steps=steps,
        step_size=ball.eps / 4,
        stop=fooled,
    )


def _correct(model: nn.Module, pixels: Tensor, labels: Tensor) -> int:
    with torch.no_grad(), evaluating(model):
        return int((model(pixels).argmax(1) == labels).sum())
