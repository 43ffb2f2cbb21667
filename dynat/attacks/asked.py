"""Whom an attack asks: the network itself, or a cheaper view of it that says the same.

The view is a help to the search and nothing else: every claim is put to the network. It is not used where it
differs from the network by more than its precision explains: a defence that draws chance, or rounds what
it sees, is attacked as it is.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dynat.models.state import evaluating, frozen
from dynat.models.view import View

MOST = 32
"""Pictures on which the two are compared."""

APART = {torch.float32: (1e-4, 0.02), torch.float16: (0.01, 0.4), torch.bfloat16: (0.05, 0.8)}
"""How far logits and gradients may be from the network's, as a share of their length.

Rounding turns a few ReLUs on or off, which moves gradients much more than logits.
"""


def asked(network: nn.Module, pixels: Tensor, wanted: str) -> tuple[nn.Module, str]:
    """Whom to ask about pictures like `pixels`, and that in words."""
    if wanted == "none":
        return network, "network"
    precision = wanted if wanted != "auto" else "float16" if pixels.is_cuda else "float32"
    dtype: torch.dtype = getattr(torch, precision)
    try:
        view = View(network, dtype).refresh(network)
        apart = _apart(view, network, pixels[:MOST])
    except Exception as error:
        # A network that cannot be copied, or not computed so, is no mistake of its owner's.
        return network, f"network ({precision} view: {type(error).__name__})"
    most = APART[dtype]
    if all(found <= allowed for found, allowed in zip(apart, most, strict=True)):  # not so for nan
        return view, f"{precision} view"
    return network, f"network ({precision} view: logits {apart[0]:.2g}, gradients {apart[1]:.2g} apart)"


def _apart(view: nn.Module, network: nn.Module, pixels: Tensor) -> tuple[float, float]:
    """How far the view's logits and gradients are from the network's."""
    with evaluating(network), frozen(network):
        (logits, gradient), (reference, wanted) = _looked_at(view, pixels), _looked_at(network, pixels)
    return _share(logits - reference, reference), _share(gradient - wanted, wanted)


def _looked_at(network: nn.Module, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Logits, and the gradient of their sum with alternating signs."""
    pixels = pixels.detach().requires_grad_()
    with torch.enable_grad():
        logits: Tensor = network(pixels)
        signs = 1 - 2.0 * (torch.arange(logits.shape[1], device=pixels.device) % 2)
        (gradient,) = torch.autograd.grad((logits * signs).sum(), pixels)
    return logits.detach(), gradient


def _share(difference: Tensor, reference: Tensor) -> float:
    return float(difference.norm() / reference.norm().clamp(min=1e-30))
