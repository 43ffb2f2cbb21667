"""Attacks that follow a gradient, all through `dynat.pgd.pgd`.

An image that is misclassified stays as it is: no later step or restart undoes a success.
`cw` is, as in the literature on adversarial training, PGD on the logit margin within the ball; the L2 attack of 2017 is
`cw-l2`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from dynat.config import AttackConfig
from dynat.nn.losses import cross_entropy, margin
from dynat.pgd import Ball, starting_point
from dynat.pgd import pgd as projected_ascent

Loss = Callable[[Tensor, Tensor], Tensor]

CHECK_EVERY = 5
"""Steps after which images already misclassified are removed from the batch: a check waits for the device."""


def clean(model: nn.Module, images: Tensor, labels: Tensor, attack: AttackConfig, seed: int) -> Tensor:  # noqa: ARG001
    """No attack: the images as they are."""
    return images


def fgsm(model: nn.Module, images: Tensor, labels: Tensor, attack: AttackConfig, seed: int) -> Tensor:
    """One step of eps from the image itself (Goodfellow et al. 2015); `start: uniform` makes it R+FGSM."""
    return _ascend(model, images, labels, attack, seed, loss=cross_entropy, steps=1)


def pgd(model: nn.Module, images: Tensor, labels: Tensor, attack: AttackConfig, seed: int) -> Tensor:
    """Projected gradient ascent on the cross-entropy (Madry et al. 2018)."""
    return _ascend(model, images, labels, attack, seed, loss=cross_entropy, steps=attack.steps or 0)


def cw(model: nn.Module, images: Tensor, labels: Tensor, attack: AttackConfig, seed: int) -> Tensor:
    """Projected gradient ascent on the margin of the logits."""
    return _ascend(model, images, labels, attack, seed, loss=margin, steps=attack.steps or 0)


def _ascend(
    model: nn.Module, images: Tensor, labels: Tensor, attack: AttackConfig, seed: int, *, loss: Loss, steps: int
) -> Tensor:
    assert attack.norm and attack.eps is not None and attack.step_size is not None and attack.start and steps > 0, (
        "the config resolves them"
    )
    ball, generator = Ball(attack.norm, attack.eps), torch.Generator(images.device).manual_seed(seed)
    adversarial = images.clone()
    remaining = torch.arange(len(images), device=images.device)
    for _ in range(attack.restarts):
        # Drawn for all images, so that a starting point does not depend on which images are already misclassified.
        start = starting_point(images, ball, attack.start, generator)
        adversarial[remaining] = _pgd_from(
            model, images[remaining], start[remaining], labels[remaining],
            loss=loss, ball=ball, steps=steps, step_size=attack.step_size,
        )  # fmt: skip
        with torch.no_grad():
            remaining = remaining[model(adversarial[remaining]).argmax(1) == labels[remaining]]
        if not len(remaining):
            break
    return adversarial


def _pgd_from(
    model: nn.Module,
    images: Tensor,
    start: Tensor,
    labels: Tensor,
    *,
    loss: Loss,
    ball: Ball,
    steps: int,
    step_size: float,
) -> Tensor:
    """PGD from `start`; every few steps, images already misclassified are removed from the batch."""
    adversarial, remaining = start.clone(), torch.arange(len(images), device=images.device)
    for finished_steps in range(0, steps, CHECK_EVERY):
        current_labels, misclassified = labels[remaining], torch.zeros_like(remaining, dtype=torch.bool)

        def stop(logits: Tensor, labels: Tensor = current_labels, misclassified: Tensor = misclassified) -> Tensor:
            misclassified |= logits.argmax(1) != labels
            return misclassified

        adversarial[remaining] = projected_ascent(
            model,
            images[remaining],
            adversarial[remaining],
            objective=lambda logits, labels=current_labels: loss(logits, labels),  # type: ignore[misc]
            ball=ball,
            steps=min(CHECK_EVERY, steps - finished_steps),
            step_size=step_size,
            stop=stop,
        )
        remaining = remaining[~misclassified]
        if not len(remaining):
            break
    return adversarial
