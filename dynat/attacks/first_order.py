"""Attacks that follow a gradient, all through the one inner maximisation.

A picture that is fooled stays as it is: a success is never undone by a later step or restart.
`cw` is, as in this literature, PGD on the logit margin within the ball; the L2 attack of 2017 is `cw-l2`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from dynat.config import Attack
from dynat.inner import Ball, climb, starting_point
from dynat.losses import cross_entropy, margin

Loss = Callable[[Tensor, Tensor], Tensor]

LOOK = 5
"""Steps between two looks at who has fallen: each look waits for the device."""


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
    ball, generator = Ball(attack.norm, attack.eps), torch.Generator(pictures.device).manual_seed(seed)
    found = pictures.clone()
    open_ = torch.arange(len(pictures), device=pictures.device)
    for _ in range(attack.restarts):
        # Drawn for all, so that where one begins does not hang on who has fallen.
        point = starting_point(pictures, ball, attack.start, generator)
        found[open_] = _climb(
            model, pictures[open_], point[open_], labels[open_],
            loss=loss, ball=ball, steps=steps, step_size=attack.step_size,
        )  # fmt: skip
        with torch.no_grad():
            open_ = open_[model(found[open_]).argmax(1) == labels[open_]]
        if not len(open_):
            break
    return found


def _climb(
    model: nn.Module,
    pictures: Tensor,
    point: Tensor,
    labels: Tensor,
    *,
    loss: Loss,
    ball: Ball,
    steps: int,
    step_size: float,
) -> Tensor:
    """The search from `point` on, which drops from the work every few steps what has fallen."""
    point, open_ = point.clone(), torch.arange(len(pictures), device=pictures.device)
    for done in range(0, steps, LOOK):
        wanted, fell = labels[open_], torch.zeros_like(open_, dtype=torch.bool)

        def stop(logits: Tensor, wanted: Tensor = wanted, fell: Tensor = fell) -> Tensor:
            fell |= logits.argmax(1) != wanted
            return fell

        point[open_] = climb(
            model,
            pictures[open_],
            point[open_],
            objective=lambda logits, wanted=wanted: loss(logits, wanted),  # type: ignore[misc]
            ball=ball,
            steps=min(LOOK, steps - done),
            step_size=step_size,
            stop=stop,
        )
        open_ = open_[~fell]
        if not len(open_):
            break
    return point
