"""One training step: the paper's Algorithm 1, for DYNAT and for every method it is compared with.

  1. the guide looks at the clean pictures          z = g(x)
  2. its decisions are the labels                   l = argmax z        (dynamic; or l = y, static)
  3. adversarial pictures are searched with them    x' = max L_inner(f(x'), l) in the ball
  4. both networks learn in one step                CE(z, y) + beta * L_target(f, x', l)

The released script recomputes z in each of the ten inner steps although nothing changes between them; here
the one train-mode forward serves the labels and the guide's gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from dynat.config import Run
from dynat.losses import cross_entropy, kl
from dynat.methods import LABEL_SOURCES, Lesson, Method, objective_for
from dynat.models.state import evaluating
from dynat.training.awp import perturbed
from dynat.training.precision import searched
from dynat.training.world import ALONE, World

RELEASED_PROXY_WEIGHT = 6.0
"""beta of the TRADES loss against which the released DYNAT-AWP perturbs the weights."""


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
    start: Tensor,
    *,
    progress: float,
    update: Callable[[Tensor], object],
    world: World = ALONE,
) -> dict[str, Tensor]:
    """One step, its search from `start`: hands the loss of both networks to `update`, returns what one wants to see.

    Nothing in it is random, waits for the device or branches on a tensor's value: it can be recorded whole.
    """
    guide_logits = None if pair.guide is None else pair.guide(pictures)
    labels = LABEL_SOURCES[run.labels](_labelling(pair, run, pictures, guide_logits), truth)

    asked = searched(pair.target)
    objective = objective_for(method, asked, pictures, labels=labels, truth=truth)
    found = method.search(asked, pictures, start, labels=labels, objective=objective, progress=progress)

    lesson = Lesson(pair.target, pictures, labels, found, guide_logits, progress, world.average)
    with _weights_of(run, method, lesson, truth):
        parts = {name: part.mean() for name, part in method.loss(lesson).items()}
        loss = torch.stack(list(parts.values())).sum()
        seen = {f"loss_{name}": part.detach() for name, part in parts.items()}
        if guide_logits is not None:
            guide_loss = cross_entropy(guide_logits, truth).mean()
            loss = guide_loss + (1.0 if run.beta is None else run.beta) * loss
            decisions = labels if run.labels == "dynamic" else guide_logits.detach().argmax(1)
            seen["loss_guide"] = guide_loss.detach()
            seen["label_accuracy"] = (decisions == truth).float().mean()
        update(loss)
    return {"loss": loss.detach(), **seen}


def _weights_of(run: Run, method: Method, lesson: Lesson, truth: Tensor) -> AbstractContextManager[None]:
    """The weights at which the loss is taken: the target's own, or under AWP perturbed ones."""
    if run.awp is None or lesson.progress < run.awp.warm_up:
        return nullcontext()
    guide_logits = None if lesson.guide_logits is None else lesson.guide_logits.detach()
    apart = replace(lesson, guide_logits=guide_logits)

    def proxy() -> Tensor:
        if run.awp is not None and run.awp.proxy == "trades":
            clean, adversarial = lesson.target(lesson.clean), lesson.target(lesson.adversarial)
            return (cross_entropy(clean, truth) + RELEASED_PROXY_WEIGHT * kl(clean, adversarial)).mean()
        return torch.stack([part.mean() for part in method.loss(apart).values()]).sum()

    return perturbed(lesson.target, run.awp.gamma, proxy, lesson.average)


def _labelling(pair: Pair, run: Run, pictures: Tensor, guide_logits: Tensor | None) -> Tensor | None:
    """The logits that label: those of the training forward, or of the guide in evaluation mode."""
    if pair.guide is None or run.guide_mode == "train":
        return guide_logits
    with torch.no_grad(), evaluating(pair.guide):
        logits: Tensor = pair.guide(pictures)
    return logits
