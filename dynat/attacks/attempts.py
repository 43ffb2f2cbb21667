"""Example images for the gallery, with the strongest attempts against images that an attack does not break.

An attack that fails may return the clean image, as AutoAttack does. What it tried is known to the model that it
queries: of all queries inside an image's ball, the one with the smallest margin is the strongest attempt. Only queries
whose gradient is taken are compared: a random search makes many more, and weaker ones. No verdict depends on this.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from dynat.pgd import Ball

GALLERY_SIZE = 8
"""Number of example images."""

OBSERVED = 32
"""Number of images that attempts are kept for, the first of a batch: more than the gallery shows, as some break."""


class Attempts:
    """For each of the first images of a batch: the correctly classified query in its ball with the smallest margin."""

    def __init__(self, pixels: Tensor, labels: Tensor, ball: Ball) -> None:
        self.clean, self.labels, self.ball = pixels[:OBSERVED], labels[:OBSERVED], ball
        self.images = self.clean.clone()
        self.margins = torch.full((len(self.clean),), float("inf"), device=pixels.device)

    @contextlib.contextmanager
    def observing(self, *models: nn.Module) -> Iterator[None]:
        """Observe the queries of `models` meanwhile."""

        def forward(_module: nn.Module, inputs: tuple[Tensor, ...], logits: Tensor) -> None:
            if logits.requires_grad:
                self.observe(inputs[0], logits)

        handles = [model.register_forward_hook(forward) for model in dict.fromkeys(models)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @torch.no_grad()
    def observe(self, queries: Tensor, logits: Tensor) -> None:
        """Compare queries with every observed image, whatever image they were made for; nothing waits for the
        device."""
        if not len(queries):  # pyautoattack calls the model even when no image is left
            return
        queries, logits = queries.detach().float(), logits.detach().float()
        flat = queries.flatten(1)
        distances = torch.cdist(
            self.clean.flatten(1),
            flat,
            p={"linf": float("inf"), "l2": 2.0, "l1": 1.0}[self.ball.norm],
            compute_mode="donot_use_mm_for_euclid_dist",
        )
        top = logits.topk(2).values
        margins = top[:, 0] - top[:, 1]
        # Not below zero, and not NaN either.
        valid = (flat.amin(1) >= 0) & (flat.amax(1) <= 1) & (margins >= 0)
        failed = (distances <= self.ball.eps) & (logits.argmax(1) == self.labels[:, None]) & valid
        lowest, which = margins.expand_as(failed).masked_fill(~failed, float("inf")).min(1)
        better = lowest < self.margins
        self.margins = torch.where(better, lowest, self.margins)
        self.images = torch.where(better.view(-1, 1, 1, 1), queries[which], self.images)


def choose_examples(clean_correct: Tensor, correct: Tensor) -> Tensor:
    """Up to half of the gallery for broken images, the rest for images that are correct under attack, in order."""
    broken, robust = (clean_correct & ~correct).nonzero()[:, 0], correct.nonzero()[:, 0]
    broken = broken[: max(GALLERY_SIZE // 2, GALLERY_SIZE - len(robust))]
    return torch.cat([broken, robust[: GALLERY_SIZE - len(broken)]]).sort().values
