"""What an attack costs while it runs: the images that it sends through the network, and the share that is done."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn

from dynat.config import AttackConfig, registry
from dynat.config.attack_cost import GRADIENT, part_cost
from dynat.runtime.progress import Progress


class BatchProgress:
    """Shows how far the attack on one batch is: the part that runs, and the images that are still correct."""

    def __init__(self, progress: Progress, attack: AttackConfig, images: int) -> None:
        self._progress, self._attack, self._images = progress, attack, images
        self._kinds = registry.attack_parts(attack.kind)
        self._finished = self._part = self._expected = self._spent = 0.0

    def begin(self, number: int, remaining: int) -> None:
        """This part begins, on so many images; the parts before it are finished, whatever they cost."""
        costs = [part_cost(kind, self._attack) for kind in self._kinds[: number + 1]]
        self._finished, self._part = sum(costs[:-1]) * self._images, costs[-1] * self._images
        self._expected, self._spent = costs[-1] * max(1, remaining), 0.0
        name = self._kinds[number]
        self._progress.describe(lambda: f"{name}, {remaining} of the batch's {self._images} images still correct")

    def passed(self, images: int, gradient: bool) -> None:
        """So many images went through the network."""
        self._spent += images * (GRADIENT if gradient else 1)
        share = min(1.0, self._spent / self._expected) if self._expected else 0.0
        self._progress.tick(self._finished + share * self._part)


@contextlib.contextmanager
def count_passes(*models: nn.Module, passed: Callable[[int, bool], None]) -> Iterator[dict[str, int]]:
    """Counts images sent forward and backward through the network or its surrogate meanwhile; `passed` is called after
    every forward pass."""
    passes = {"forward_passes": 0, "backward_passes": 0}

    def backward(gradient: Tensor) -> None:
        passes["backward_passes"] += len(gradient)

    def forward(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        passes["forward_passes"] += len(output)
        if output.requires_grad:
            output.register_hook(backward)  # type: ignore[no-untyped-call]
        passed(len(output), output.requires_grad)

    handles = [model.register_forward_hook(forward) for model in dict.fromkeys(models)]
    try:
        yield passes
    finally:
        for handle in handles:
            handle.remove()
