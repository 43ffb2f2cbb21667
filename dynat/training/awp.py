"""Adversarial weight perturbation (Wu et al. 2020): a step's loss and gradient are taken at worse weights.

    v = gamma * |w| * g / |g|  per weight tensor of the target,   g = gradient of the loss at w

Inside the context the target stands at w + v: the loss, its gradient, momentum and weight decay are those
there (as released). Afterwards v is taken off again. Convolutions and linear weights move; BatchNorm, biases
and the guide do not. BatchNorm's running statistics are not touched by the forward that finds v.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def perturbed(
    target: nn.Module,
    gamma: float,
    loss: Callable[[], Tensor],
    average: Callable[[Sequence[Tensor]], None] = lambda gradients: None,
) -> Iterator[None]:
    """The target at the weights where `loss()` grows fastest, within `gamma` of each tensor's own length.

    `average` makes the gradients those of the whole batch where this process sees a share of it.
    """
    weights: list[Tensor] = [w for name, w in target.named_parameters() if w.ndim > 1 and name.endswith("weight")]
    with _untracked(target):
        gradients = torch.autograd.grad(loss(), weights)
    average(gradients)
    with torch.no_grad():
        offsets = [
            gamma * torch.linalg.vector_norm(weight) * gradient / (torch.linalg.vector_norm(gradient) + 1e-20)
            for weight, gradient in zip(weights, gradients, strict=True)
        ]
        torch._foreach_add_(weights, offsets)
    try:
        yield
    finally:
        with torch.no_grad():
            torch._foreach_sub_(weights, offsets)


@contextmanager
def _untracked(model: nn.Module) -> Iterator[None]:
    """BatchNorm by batch statistics that leave no trace in the running ones."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    try:
        for norm in norms:
            norm.track_running_stats = False
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
