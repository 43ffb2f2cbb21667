"""Which model the attack queries: the network itself, or a cheaper surrogate that computes the same function.

The surrogate only helps the attack: every claim is verified by the network. It is not used where it differs from the
network, on any image, by more than its precision explains, nor for a network that answers differently each time: a
defense that is random or relies on the last digits of float32 is attacked as it is.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dynat.nn.folded import FoldedModel
from dynat.nn.modes import evaluating, frozen

COMPARED_IMAGES = 32
"""Images on which the surrogate is compared with the network."""

TOLERANCES = {torch.float32: (1e-3, 0.05), torch.float16: (0.03, 0.4), torch.bfloat16: (0.2, 0.8)}
"""How far an image's logits, and the direction of its gradient, may be from the network's, as a share of their length.

Rounding turns a few ReLUs on or off, which changes gradients much more than logits.
"""

REPEAT_TOLERANCE = 1e-5
"""How far two answers of the network itself to the same images may be apart."""


def choose_queried_model(network: nn.Module, pixels: Tensor, surrogate: str) -> tuple[nn.Module, str]:
    """Which model the attack queries about images like `pixels`, and its description.

    `surrogate` is the attack's setting: none, auto or a precision.
    """
    if surrogate == "none":
        return network, "network"
    precision = surrogate if surrogate != "auto" else "float16" if pixels.is_cuda else "float32"
    try:
        folded = FoldedModel(network, getattr(torch, precision)).refresh(network)
        with evaluating(network), frozen(network):
            difference = _find_difference(folded, network, pixels[:COMPARED_IMAGES])
    except Exception as error:
        # A network that cannot be copied, or not computed in this precision, is no mistake of the user's.
        difference = type(error).__name__
    if difference is not None:
        return network, f"network ({precision} surrogate: {difference})"
    return folded, f"{precision} surrogate"


def try_gradients(network: nn.Module, pixels: Tensor, surrogate: str) -> None:
    """The gradients that an attack asks for, of half as many images again: does it fit into memory?"""
    queried, _ = choose_queried_model(network, pixels, surrogate)
    room = pixels.repeat_interleave(3, 0)[::2]
    with evaluating(queried), frozen(queried):
        _logits_and_gradients(queried, room)


@torch.no_grad()
def answers_differently(network: nn.Module, pixels: Tensor, before: Tensor | None = None) -> bool:
    """Whether two answers to the same images differ: those that were given `before`, or now, and those that are given
    next."""
    first: Tensor = network(pixels) if before is None else before
    return not _logit_distance(network(pixels), first) <= REPEAT_TOLERANCE  # `not` for nan


def _find_difference(surrogate: FoldedModel, network: nn.Module, pixels: Tensor) -> str | None:
    """Why the surrogate must not stand in for the network; None where it may."""
    logits, gradients = _logits_and_gradients(network, pixels)
    with torch.no_grad():
        without_gradient = surrogate(pixels)
    if answers_differently(network, pixels, logits):
        return "the network answers differently each time"
    surrogate_logits, surrogate_gradients = _logits_and_gradients(surrogate, pixels)
    logit_tolerance, gradient_tolerance = TOLERANCES[surrogate.dtype]
    # One tensor, because the larger of two Python numbers may hide a nan.
    logit_distance = _logit_distance(torch.cat([surrogate_logits, without_gradient]), torch.cat([logits, logits]))
    gradient_distance = _direction_distance(surrogate_gradients, gradients)
    if not (logit_distance <= logit_tolerance and gradient_distance <= gradient_tolerance):
        return f"logits {logit_distance:.2g}, gradients {gradient_distance:.2g} apart"
    return None


def _logits_and_gradients(network: nn.Module, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Logits, and the gradient of their sum with alternating signs.

    Images have weights that differ by powers of ten: as in a cross-entropy, and so that a network whose gradient for
    one image depends on another image is noticed.
    """
    pixels = pixels.detach().requires_grad_()
    with torch.enable_grad():
        logits: Tensor = network(pixels)
        signs = 1 - 2.0 * (torch.arange(logits.shape[1], device=pixels.device) % 2)
        weights = 10.0 ** -(torch.arange(len(pixels), device=pixels.device) % 7)
        (gradient,) = torch.autograd.grad((logits * signs).sum(1) @ weights, pixels)
    return logits.detach(), gradient.flatten(1)


def _logit_distance(logits: Tensor, reference: Tensor) -> float:
    """The largest relative distance of an image's logits; a constant added to all of them changes no decision."""
    logits, reference = (values - values.mean(1, keepdim=True) for values in (logits.float(), reference.float()))
    return float(((logits - reference).norm(dim=1) / reference.norm(dim=1).clamp(min=1e-30)).max())


def _direction_distance(gradients: Tensor, reference: Tensor) -> float:
    """The largest distance between directions; images on which the network has no gradient are left out."""
    lengths = reference.norm(dim=1, keepdim=True)
    directions = gradients / gradients.norm(dim=1, keepdim=True).clamp(min=1e-37)
    distance = (directions - reference / lengths.clamp(min=1e-37)).norm(dim=1)
    return float(torch.where(lengths[:, 0] > 0, distance, 0.0).max())
