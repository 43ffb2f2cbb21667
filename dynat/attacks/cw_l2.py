"""The attack of Carlini & Wagner (2017) in L2: the nearest misclassified image, not the worst one of a ball.

It minimizes |x' - x|^2 + c * max(margin, 0) over w by Adam, where x' = (tanh w + 1) / 2 is always inside [0,1]. A
binary search per image chooses c: lower after a success, higher after a failure. An image is broken if the nearest
misclassified image is inside the ball.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dynat.config import AttackConfig
from dynat.nn.losses import margin
from dynat.nn.modes import evaluating, frozen

INITIAL_WEIGHT = 1e-3
MAXIMUM_WEIGHT = 1e10


def cw_l2(model: nn.Module, images: Tensor, labels: Tensor, attack: AttackConfig, seed: int) -> Tensor:  # noqa: ARG001
    """The nearest misclassified images, where they are within eps; elsewhere the images themselves. Not random."""
    assert attack.eps is not None and attack.steps and attack.step_size, "the config resolves them"
    assert attack.binary_search_steps, "the config resolves it"
    nearest, distance = closest_adversarial(
        model,
        images,
        labels,
        steps=attack.steps,
        rate=attack.step_size,
        binary_search_steps=attack.binary_search_steps,
    )
    return torch.where((distance <= attack.eps).view(-1, 1, 1, 1), nearest, images)


def closest_adversarial(
    model: nn.Module, images: Tensor, labels: Tensor, *, steps: int, rate: float, binary_search_steps: int
) -> tuple[Tensor, Tensor]:
    """The nearest misclassified image and its distance, which is infinite where no such image was reached."""
    weight = torch.full((len(images),), INITIAL_WEIGHT, device=images.device)
    low, high = torch.zeros_like(weight), torch.full_like(weight, MAXIMUM_WEIGHT)
    nearest, nearest_distance = images.clone(), torch.full_like(weight, torch.inf)
    with frozen(model), evaluating(model):
        for _ in range(binary_search_steps):
            candidate, distance = _minimize(model, images, labels, weight, steps, rate)
            nearer = distance < nearest_distance
            nearest = torch.where(nearer.view(-1, 1, 1, 1), candidate, nearest)
            nearest_distance = torch.where(nearer, distance, nearest_distance)
            success = distance.isfinite()
            high = torch.where(success, torch.minimum(high, weight), high)
            low = torch.where(success, low, torch.maximum(low, weight))
            # Ten times as much until the first success, halfway between the bounds afterwards.
            weight = torch.where(high < MAXIMUM_WEIGHT, (low + high) / 2, weight * 10)
    return nearest, nearest_distance


def _minimize(
    model: nn.Module, images: Tensor, labels: Tensor, weight: Tensor, steps: int, rate: float
) -> tuple[Tensor, Tensor]:
    """One minimization with a fixed weight per image: the nearest misclassified iterate and its distance."""
    # Black and white pixels lie at infinity in w; the original implementation, too, starts just short of it.
    variable = torch.atanh((images * 2 - 1) * 0.999999).requires_grad_()
    optimizer = torch.optim.Adam([variable], lr=rate)
    nearest, nearest_distance = images.clone(), torch.full_like(weight, torch.inf)
    for step in range(steps + 1):
        with torch.enable_grad():
            candidate = (variable.tanh() + 1) / 2
            logits = model(candidate)
            squared_distance = (candidate - images).square().flatten(1).sum(1)
            loss = (squared_distance + weight * (-margin(logits, labels)).clamp(min=0)).sum()
        with torch.no_grad():
            distance = squared_distance.sqrt()
            nearer = (logits.argmax(1) != labels) & (distance < nearest_distance)
            nearest = torch.where(nearer.view(-1, 1, 1, 1), candidate, nearest)
            nearest_distance = torch.where(nearer, distance, nearest_distance)
        if step < steps:
            (variable.grad,) = torch.autograd.grad(loss, variable)
            optimizer.step()
    return nearest.detach(), nearest_distance
