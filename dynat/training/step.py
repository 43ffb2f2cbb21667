"""One training step: the paper's Algorithm 1, for DYNAT and for every method it is compared with.

  1. the guide looks at the clean pictures          z = g(x)
  2. its decisions are the labels                   l = argmax z        (dynamic; or l = y, static)
  3. adversarial pictures are searched with them    x' = max L_inner(f(x'), l) in the ball
  4. both networks learn in one step                CE(z, y) + beta * L_target(f, x', l)

The released script recomputes z in each of the ten inner steps although nothing changes between them; here
the one train-mode forward serves the labels and the guide's gradient.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dynat.config import Run
from dynat.losses import cross_entropy
from dynat.methods import LABEL_SOURCES, Lesson, Method, objective_for
from dynat.models.state import evaluating
from dynat.training.precision import searched


@dataclass(frozen=True)
class Pair:
    """The target and the guide that learns beside it, if any."""

    target: nn.Module
    guide: nn.Module | None

    def parameters(self) -> list[nn.Parameter]:
        networks = [self.target] if self.guide is None else [self.target, self.guide]
        return [parameter for network in networks for parameter in network.parameters()]

    def train(self) -> None:
        self.target.train()
        if self.guide is not None:
            self.guide.train()


def joint_step(
    pair: Pair,
    method: Method,
    run: Run,
    pictures: Tensor,
    truth: Tensor,
    *,
    progress: float,
    generator: torch.Generator,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss to be minimised, and what a person wants to see of it. Runs backward for nobody."""
    guide_logits = None if pair.guide is None else pair.guide(pictures)
    labels = LABEL_SOURCES[run.labels](_labelling(pair, run, pictures, guide_logits), truth)

    asked = searched(pair.target)
    found = method.search(
        asked,
        pictures,
        labels=labels,
        objective=objective_for(method, asked, pictures, labels=labels, truth=truth),
        progress=progress,
        generator=generator,
    )

    parts = method.loss(Lesson(pair.target, pictures, labels, found, guide_logits, progress))
    means = {name: part.mean() for name, part in parts.items()}
    loss = torch.stack(list(means.values())).sum()
    seen = {f"loss_{name}": mean.detach() for name, mean in means.items()}
    if guide_logits is not None:
        guide_loss = cross_entropy(guide_logits, truth).mean()
        loss = guide_loss + (1.0 if run.beta is None else run.beta) * loss
        seen["loss_guide"] = guide_loss.detach()
        decisions = labels if run.labels == "dynamic" else guide_logits.detach().argmax(1)
        seen["label_accuracy"] = (decisions == truth).float().mean()
    return loss, {"loss": loss.detach(), **seen}


def _labelling(pair: Pair, run: Run, pictures: Tensor, guide_logits: Tensor | None) -> Tensor | None:
    """The logits that label: those of the training forward, or of the guide in evaluation mode."""
    if pair.guide is None or run.guide_mode == "train":
        return guide_logits
    with torch.no_grad(), evaluating(pair.guide):
        logits: Tensor = pair.guide(pictures)
    return logits
