"""The attack of Carlini & Wagner (2017) in L2: not the worst picture of a ball but the nearest wrong one.

It minimises |x' - x|^2 + c * max(margin, 0) over w, where x' = (tanh w + 1) / 2 is always inside [0,1], by
Adam; c is searched anew several times: lower after a success, higher after a failure. A picture falls if the
nearest wrong picture found is inside the ball.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dynat.config import Attack
from dynat.losses import margin
from dynat.models.state import evaluating, frozen

FIRST_WEIGHT = 1e-3
MOST_WEIGHT = 1e10


def cw_l2(model: nn.Module, pictures: Tensor, labels: Tensor, attack: Attack, seed: int) -> Tensor:  # noqa: ARG001
    """The nearest wrong pictures, where they are within eps; the pictures themselves elsewhere. No chance in it."""
    assert attack.eps is not None and attack.steps and attack.step_size and attack.searches, "the config resolves them"
    nearest, distance = nearest_wrong(
        model, pictures, labels, steps=attack.steps, rate=attack.step_size, searches=attack.searches
    )
    return torch.where((distance <= attack.eps).view(-1, 1, 1, 1), nearest, pictures)


def nearest_wrong(
    model: nn.Module, pictures: Tensor, labels: Tensor, *, steps: int, rate: float, searches: int
) -> tuple[Tensor, Tensor]:
    """The nearest picture found that the model gets wrong, and its distance: infinite where none was found."""
    weight = torch.full((len(pictures),), FIRST_WEIGHT, device=pictures.device)
    low, high = torch.zeros_like(weight), torch.full_like(weight, MOST_WEIGHT)
    best, distance = pictures.clone(), torch.full_like(weight, torch.inf)
    with frozen(model), evaluating(model):
        for _ in range(searches):
            tried, reached = _descend(model, pictures, labels, weight, steps, rate)
            nearer = reached < distance
            best = torch.where(nearer.view(-1, 1, 1, 1), tried, best)
            distance = torch.where(nearer, reached, distance)
            wrong = reached.isfinite()
            high = torch.where(wrong, torch.minimum(high, weight), high)
            low = torch.where(wrong, low, torch.maximum(low, weight))
            # Ten times as much until the first success, halfway between afterwards.
            weight = torch.where(high < MOST_WEIGHT, (low + high) / 2, weight * 10)
    return best, distance


def _descend(
    model: nn.Module, pictures: Tensor, labels: Tensor, weight: Tensor, steps: int, rate: float
) -> tuple[Tensor, Tensor]:
    """One search with a fixed weight per picture: the nearest wrong iterate and its distance."""
    # Black and white pixels lie at infinity in w; the original implementation, too, starts just short of it.
    variable = torch.atanh((pictures * 2 - 1) * 0.999999).requires_grad_()
    optimiser = torch.optim.Adam([variable], lr=rate)
    best, distance = pictures.clone(), torch.full_like(weight, torch.inf)
    for step in range(steps + 1):
        with torch.enable_grad():
            candidate = (variable.tanh() + 1) / 2
            logits = model(candidate)
            square = (candidate - pictures).square().flatten(1).sum(1)
            loss = (square + weight * (-margin(logits, labels)).clamp(min=0)).sum()
        with torch.no_grad():
            length = square.sqrt()
            nearer = (logits.argmax(1) != labels) & (length < distance)
            best = torch.where(nearer.view(-1, 1, 1, 1), candidate, best)
            distance = torch.where(nearer, length, distance)
        if step < steps:
            (variable.grad,) = torch.autograd.grad(loss, variable)
            optimiser.step()
    return best.detach(), distance
