"""Attacks that follow a gradient, all through the one inner maximisation.

A picture that is fooled stays as it is: a success is never undone by a later step or restart.
`cw` is, as in this literature, PGD on the logit margin within the ball; the L2 attack of 2017 is `cw-l2`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from dynat.config import Attack
from dynat.inner import Ball, maximise
from dynat.losses import cross_entropy, margin

Loss = Callable[[Tensor, Tensor], Tensor]


def clean(model: nn.Module, pictures: Tensor, labels: Tensor, attack: Attack, seed: int) -> Tensor:  # noqa: ARG001
    """No attack: the pictures as they are."""
    return pictures


def fgsm(model: nn.Module, pictures: Tensor, labels: Tensor, attack: Attack, seed: int) -> Tensor:
    """One step of eps from the picture itself (Goodfellow et al. 2015); `start: uniform` makes it R+FGSM."""
    return _ascend(model, pictures, labels, attack, seed, loss=cross_entropy, steps=1)


def pgd(model: nn.Module, pictures: Tensor, labels: Tensor, attack: Attack, seed: int) -> Tensor:
    return _ascend(model, pictures, labels, attack, seed, loss=cross_entropy, steps=attack.steps or 0)


def cw(model: nn.Module, pictures: Tensor, labels: Tensor, attack: Attack, seed: int) -> Tensor:
    return _ascend(model, pictures, labels, attack, seed, loss=margin, steps=attack.steps or 0)


def _ascend(
    model: nn.Module, pictures: Tensor, labels: Tensor, attack: Attack, seed: int, *, loss: Loss, steps: int
) -> Tensor:
    assert attack.norm and attack.eps is not None and attack.step_size is not None and attack.start and steps > 0, (
        "the config resolves them"
    )
    generator = torch.Generator(pictures.device).manual_seed(seed)
    found = pictures.clone()
    open_ = torch.ones(len(pictures), dtype=torch.bool, device=pictures.device)
    for _ in range(attack.restarts):
        tried = maximise(
            model,
            pictures,
            objective=lambda logits: loss(logits, labels),
            ball=Ball(attack.norm, attack.eps),
            steps=steps,
            step_size=attack.step_size,
            start=attack.start,
            generator=generator,
            stop=lambda logits: logits.argmax(1) != labels,
        )
        found = torch.where(open_.view(-1, 1, 1, 1), tried, found)
        with torch.no_grad():
            open_ = open_ & (model(tried).argmax(1) == labels)
        if not open_.any():
            break
    return found
