"""Adversarial weight perturbation (Wu et al. 2020): a step's loss and gradient are taken at worse weights.

    v = gamma * |w| * g / |g|  per weight tensor of the target,   g = gradient of the loss at w

Inside the context the target has the weights w + v: the loss, its gradient, momentum and weight decay are those
there (as released). Afterwards v is subtracted again. Convolutions and linear weights are perturbed; BatchNorm, biases
and the guide are not. BatchNorm's running statistics are not touched by the forward that finds v.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace

import torch
from torch import Tensor, nn

from dynat.config import Run
from dynat.methods import Method, StepInputs
from dynat.nn.losses import cross_entropy, kl

RELEASED_PROXY_WEIGHT = 6.0
"""beta of the TRADES loss against which the released DYNAT-AWP perturbs the weights."""


def weight_perturbation(run: Run, method: Method, inputs: StepInputs, truth: Tensor) -> AbstractContextManager[None]:
    """The weights at which a step's loss is taken: the target's own, or perturbed ones under AWP."""
    awp = run.awp
    if awp is None or inputs.progress < awp.warm_up:
        return nullcontext()
    guide_logits = None if inputs.guide_logits is None else inputs.guide_logits.detach()
    target_only = replace(inputs, guide_logits=guide_logits)

    def proxy() -> Tensor:
        if awp.proxy == "trades":
            clean, adversarial = inputs.target(inputs.clean), inputs.target(inputs.adversarial)
            natural = cross_entropy(clean, truth, run.label_smoothing)
            return (natural + RELEASED_PROXY_WEIGHT * kl(clean, adversarial)).mean()
        return torch.stack([term.mean() for term in method.loss(target_only).values()]).sum()

    return perturbed(inputs.target, awp.gamma, proxy, inputs.average)


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
    """BatchNorm by batch statistics that do not change the running ones."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    try:
        for norm in norms:
            norm.track_running_stats = False
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
