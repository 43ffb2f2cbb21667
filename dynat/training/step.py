"""One training step: the paper's Algorithm 1, for DYNAT and for every method it is compared with.

  1. the guide classifies the clean images         z = g(x)
  2. its predictions are the labels                l = argmax z        (dynamic; or l = y, true)
  3. PGD finds adversarial images for them         x' = argmax L_inner(f(x'), l) in the ball
  4. one optimizer step updates both networks      CE(z, y) + beta * L_target(f, x', l)

The released script recomputes z in each of the ten inner steps although nothing changes between them; here
the one train-mode forward serves the labels and the guide's gradient.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from dynat.config import Run
from dynat.methods import Method, StepInputs
from dynat.nn.losses import cross_entropy, label_class
from dynat.nn.mixed_precision import surrogate_of
from dynat.nn.modes import evaluating
from dynat.training.awp import weight_perturbation
from dynat.training.distributed import SINGLE_PROCESS, Distributed
from dynat.training.networks import Networks


def training_step(
    networks: Networks,
    method: Method,
    run: Run,
    images: Tensor,
    truth: Tensor,
    start: Tensor,
    *,
    progress: float,
    update: Callable[[Tensor], object],
    distributed: Distributed = SINGLE_PROCESS,
) -> dict[str, Tensor]:
    """Compute the loss of target and guide and pass it to `update`; the inner attack starts at `start`.

    Returns the values to log. Nothing in it is random, synchronizes with the device or branches on a tensor value:
    it can be recorded as a CUDA graph.
    """
    target, guide = networks.target, networks.guide

    guide_logits = None if guide is None else guide(images)
    dynamic = run.labels == "dynamic"
    labels = _guide_labels(guide, run, images, guide_logits) if dynamic else truth
    known = None if run.extra is None else label_class(truth) >= 0
    if known is not None and dynamic:  # the label of an image without one is the guide's
        truth = torch.where(known, truth, labels)

    surrogate = surrogate_of(target)
    objective = method.objective(surrogate, images, labels=labels, truth=truth)
    attack = method.attack(surrogate, images, start, labels=labels, objective=objective, progress=progress)

    smoothing = run.label_smoothing
    inputs = StepInputs(target, images, labels, attack, guide_logits, progress, distributed.average, smoothing)
    with weight_perturbation(run, method, inputs, truth):
        terms = {name: values.mean() for name, values in method.loss(inputs).items()}
        target_loss = torch.stack(list(terms.values())).sum()
        guide_loss = None
        if guide_logits is not None:
            guide_loss = _mean(cross_entropy(guide_logits, truth, smoothing), known, distributed)
        beta = 1.0 if run.beta is None else run.beta
        loss = target_loss if guide_loss is None else guide_loss + beta * target_loss
        update(loss)
    if networks.ema is not None:  # only now: under AWP the update happens at perturbed weights
        networks.ema.update_parameters(target)

    values = {"loss": loss.detach(), **{f"loss_{name}": term.detach() for name, term in terms.items()}}
    if guide_loss is not None and guide_logits is not None:
        decided = labels if dynamic else guide_logits.detach().argmax(1)
        values["loss_guide"] = guide_loss.detach()
        values["label_accuracy"] = _mean((decided == label_class(truth)).float(), known, distributed)
    return values


def _guide_labels(guide: nn.Module | None, run: Run, images: Tensor, guide_logits: Tensor | None) -> Tensor:
    """The classes that the guide predicts; no gradient passes through the argmax."""
    assert guide is not None and guide_logits is not None, "the config refuses dynamic labels without a guide"
    if run.guide_mode == "eval":
        with torch.no_grad(), evaluating(guide):
            guide_logits = guide(images)
    return guide_logits.detach().argmax(1)


def _mean(values: Tensor, known: Tensor | None, distributed: Distributed) -> Tensor:
    """The mean over the images whose true label is known, in the batch of all processes."""
    if known is None:
        return values.mean()
    share = known.float().mean()
    distributed.average([share])
    return (values * known).mean() / share
