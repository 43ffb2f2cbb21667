"""What several test files share and no fixture holds: an interruption, a quick fit, the command line as a function."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from dynat.config import Run
from dynat.config.training import InnerAttack
from dynat.data import LabeledImages, to_pixels

Dynat = Callable[..., tuple[int, str]]
"""The fixture `dynat`: the words of a command to its exit code and all that it printed."""


class Killed(BaseException):
    """Stands in for SIGKILL: no `except Exception` catches it."""


def fit(network: nn.Module, images: LabeledImages, *, steps: int = 40, forward: nn.Module | None = None) -> nn.Module:
    """Train `network` on all images at once, through `forward` where that wraps it; returned in evaluation mode."""
    forward = network if forward is None else forward
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    pixels = to_pixels(images.images)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(forward(pixels), images.labels).backward()
        optimizer.step()
    return network.eval()


def make_run(**fields: object) -> Run:
    """A run whose inner attack is short."""
    base = {"method": "at", "target": "small", "inner": InnerAttack(eps=0.1, step_size=0.025, steps=3)}
    return Run.model_validate({**base, **fields})
