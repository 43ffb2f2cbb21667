"""Whom an attack asks: the network itself, or a cheaper view of it that says the same.

The view is a help to the search and nothing else: every claim is put to the network. It is not used where it
differs from the network, on any picture, by more than its precision explains, nor for a network that answers
differently each time: a defence that draws chance or works with float32's last digits is attacked as it is.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dynat.models.state import evaluating, frozen
from dynat.models.view import View

MOST = 32
"""Pictures on which the two are compared."""

APART = {torch.float32: (1e-3, 0.05), torch.float16: (0.03, 0.4), torch.bfloat16: (0.2, 0.8)}
"""How far a picture's logits, and the direction of its gradient, may be from the network's, as a share of their length.

Rounding turns a few ReLUs on or off, which moves gradients much more than logits.
"""

SAME = 1e-5
"""How far two answers of the network itself may be apart."""


def asked(network: nn.Module, pixels: Tensor, wanted: str) -> tuple[nn.Module, str]:
    """Whom to ask about pictures like `pixels`, and that in words."""
    if wanted == "none":
        return network, "network"
    precision = wanted if wanted != "auto" else "float16" if pixels.is_cuda else "float32"
    try:
        view = View(network, getattr(torch, precision)).refresh(network)
        with evaluating(network), frozen(network):
            objection = _objection(view, network, pixels[:MOST])
    except Exception as error:
        # A network that cannot be copied, or not computed so, is no mistake of its owner's.
        objection = type(error).__name__
    return (network, f"network ({precision} view: {objection})") if objection else (view, f"{precision} view")


def _objection(view: View, network: nn.Module, pixels: Tensor) -> str | None:
    """Why the view must not stand in for the network."""
    logits, gradients = _looked_at(network, pixels)
    with torch.no_grad():
        again, glance = network(pixels), view(pixels)
    if not _apart(again, logits) <= SAME:  # `not` for nan
        return "the network answers differently each time"
    seen, followed = _looked_at(view, pixels)
    most, most_turned = APART[view.dtype]
    # One tensor, because the larger of two Python numbers may hide a nan.
    apart, turned = _apart(torch.cat([seen, glance]), torch.cat([logits, logits])), _turned(followed, gradients)
    if not (apart <= most and turned <= most_turned):
        return f"logits {apart:.2g}, gradients {turned:.2g} apart"
    return None


def _looked_at(network: nn.Module, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Logits, and the gradient of their sum with alternating signs.

    Pictures weigh differently, by powers of ten: as in a cross-entropy, and so that a picture whose gradient another
    picture's runs into is noticed.
    """
    pixels = pixels.detach().requires_grad_()
    with torch.enable_grad():
        logits: Tensor = network(pixels)
        signs = 1 - 2.0 * (torch.arange(logits.shape[1], device=pixels.device) % 2)
        weights = 10.0 ** -(torch.arange(len(pixels), device=pixels.device) % 7)
        (gradient,) = torch.autograd.grad((logits * signs).sum(1) @ weights, pixels)
    return logits.detach(), gradient.flatten(1)


def _apart(logits: Tensor, reference: Tensor) -> float:
    """The largest distance of a picture's logits; what is added to all of them decides nothing."""
    logits, reference = (values - values.mean(1, keepdim=True) for values in (logits.float(), reference.float()))
    return float(((logits - reference).norm(dim=1) / reference.norm(dim=1).clamp(min=1e-30)).max())


def _turned(gradients: Tensor, reference: Tensor) -> float:
    """The largest distance between directions; where the network has no gradient, there is nothing to lose."""
    lengths = reference.norm(dim=1, keepdim=True)
    directions = gradients / gradients.norm(dim=1, keepdim=True).clamp(min=1e-37)
    distance = (directions - reference / lengths.clamp(min=1e-37)).norm(dim=1)
    return float(torch.where(lengths[:, 0] > 0, distance, 0.0).max())
