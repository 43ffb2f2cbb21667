"""What the held-out training pictures are asked after an epoch. No test picture comes near here."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dynat.config import Run, Threat
from dynat.data import Pictures, to_pixels
from dynat.inner import Ball, maximise
from dynat.losses import cross_entropy
from dynat.models.state import evaluating
from dynat.training.precision import searched


def validate(
    target: nn.Module,
    guide: nn.Module | None,
    held_out: Pictures,
    run: Run,
    threat: Threat,
    *,
    generator: torch.Generator,
    batch: int = 1000,
) -> dict[str, float]:
    """Clean and PGD accuracy of the target, clean accuracy of the guide. The target itself has the last word."""
    ball = Ball(threat.norm, threat.eps)
    asked = searched(target)
    right: dict[str, int] = {"clean": 0, "pgd": 0} | ({} if guide is None else {"guide_clean": 0})
    for images, labels in held_out.batches(batch):
        pixels = to_pixels(images)
        adversarial = _pgd(asked, pixels, labels, ball, run.validation.steps, generator)
        right["clean"] += _correct(target, pixels, labels)
        right["pgd"] += _correct(target, adversarial, labels)
        if guide is not None:
            right["guide_clean"] += _correct(guide, pixels, labels)
    return {name: count / len(held_out) for name, count in right.items()}


def _pgd(
    target: nn.Module, pixels: Tensor, labels: Tensor, ball: Ball, steps: int, generator: torch.Generator
) -> Tensor:
    return maximise(
        target,
        pixels,
        objective=lambda logits: cross_entropy(logits, labels),
        ball=ball,
        steps=steps,
        step_size=ball.eps / 4,
        start="uniform",
        generator=generator,
        stop=lambda logits: logits.argmax(1) != labels,
    )


def _correct(model: nn.Module, pixels: Tensor, labels: Tensor) -> int:
    with torch.no_grad(), evaluating(model):
        return int((model(pixels).argmax(1) == labels).sum())
