"""The parts of AutoAttack (Croce & Hein 2020; for L1: 2021) through pyautoattack.

AutoAttack itself is some of these in order, each on the images that are still classified correctly: four in the
standard version, six in `plus`, two in `rand`, which is for networks that answer differently each time. `evaluate` runs
them in that order; each part is also an attack of its own.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dynat.config import AttackConfig
from dynat.nn.folded import FoldedModel
from dynat.pgd import Ball

NORMS = {"linf": "Linf", "l2": "L2", "l1": "L1"}
VERSIONS = {"autoattack-plus": "plus", "autoattack-rand": "rand"}
"""Kind of attack to the version whose restarts and steps its parts have; the others have those of the standard one."""
DLR_CLASSES = {"apgd-dlr": 3, "apgd-t": 4}
"""Fewest classes for which the loss of a part is defined."""


def apgd_ce(model: nn.Module, images: Tensor, labels: Tensor, attack: AttackConfig, seed: int) -> Tensor:
    """Auto-PGD on the cross-entropy: 100 iterations with an adaptive step size."""
    return _run_part("apgd-ce", model, images, labels, attack, seed)


def apgd_dlr(model: nn.Module, images: Tensor, labels: Tensor, attack: AttackConfig, seed: int) -> Tensor:
    """Auto-PGD on the difference of logits ratio."""
    return _run_part("apgd-dlr", model, images, labels, attack, seed)


def apgd_t(model: nn.Module, images: Tensor, labels: Tensor, attack: AttackConfig, seed: int) -> Tensor:
    """Auto-PGD on the targeted difference of logits ratio, for up to nine target classes."""
    return _run_part("apgd-t", model, images, labels, attack, seed)


def fab(model: nn.Module, images: Tensor, labels: Tensor, attack: AttackConfig, seed: int) -> Tensor:
    """FAB: the nearest decision boundary to any other class."""
    return _run_part("fab", model, images, labels, attack, seed)


def fab_t(model: nn.Module, images: Tensor, labels: Tensor, attack: AttackConfig, seed: int) -> Tensor:
    """Targeted FAB: the nearest decision boundary, for up to nine target classes."""
    return _run_part("fab-t", model, images, labels, attack, seed)


def square(model: nn.Module, images: Tensor, labels: Tensor, attack: AttackConfig, seed: int) -> Tensor:
    """Square: a random search that reads logits and no gradient; `steps` is its number of queries."""
    return _run_part("square", model, images, labels, attack, seed)


@contextlib.contextmanager
def collect_warnings() -> Iterator[set[str]]:
    """AutoAttack's own warnings about a defense, kept as data instead of lost in a log."""
    warnings: set[str] = set()

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage().startswith("with only "):  # about losses that are replaced below, with a message
                return
            # Without its count, which differs from batch to batch.
            warnings.add(re.sub(r"^there are \d+ points", "there are points", record.getMessage()))

    logger, handler = logging.getLogger("auto-attack"), Collector(logging.WARNING)
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield warnings
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate


def _run_part(name: str, model: nn.Module, images: Tensor, labels: Tensor, attack: AttackConfig, seed: int) -> Tensor:
    from pyautoattack import AutoAttack, checks  # not needed where only training happens

    ball = Ball(attack.norm or "linf", attack.eps or 0.0)
    with torch.no_grad():
        classes = model(images[:1]).shape[1]
    with torch.random.fork_rng(devices=[images.device] if images.is_cuda else []):
        autoattack = AutoAttack(
            model,
            norm=NORMS[ball.norm],
            eps=ball.eps,
            seed=seed,
            version=VERSIONS.get(attack.kind, "standard"),
            device=images.device,
        )
        autoattack.attacks_to_run = [name]
        if isinstance(model, FoldedModel):  # AutoAttack's checks of the defense must see the network itself
            checks.check_randomized(model.network, images, labels, logger=autoattack.logger)
            checks.check_range_output(model.network, images, logger=autoattack.logger)
            checks.check_dynamic(model.network, images, logger=autoattack.logger)
        apgd, targeted, fab = autoattack.apgd, autoattack.apgd_targeted, autoattack.fab
        apgd.eot_iter = attack.eot or 1
        # As many target classes as published, fewer where there are fewer other classes.
        targeted.n_target_classes = min(targeted.n_target_classes, classes - 1)
        fab.n_target_classes = min(fab.n_target_classes, classes - 1)
        apgd.use_largereps = targeted.use_largereps = ball.norm == "l1"  # the L1 form of APGD, in every version
        if classes < DLR_CLASSES.get(name, 0):
            apgd.dlr_loss = targeted.dlr_loss_targeted = partial(_margin_loss, targeted)
            autoattack.logger.warning(
                f"{name}: its loss, the difference of logits ratio, needs {DLR_CLASSES[name]} classes, and the network "
                f"has {classes}: it maximizes the difference of the logits instead"
            )
        if name == "square" and attack.steps is not None:
            autoattack.square.n_queries = attack.steps
        adversarial: Tensor = autoattack.run_standard_evaluation(images, labels, batch_size=len(images))[0]
    # Its projections are in float32, and in L1 and L2 they leave images outside the ball by what that rounds.
    return adversarial.detach() if ball.norm == "linf" else ball.project(adversarial.detach(), images)


def _margin_loss(targeted: Any, logits: Tensor, labels: Tensor) -> Tensor:
    """The DLR loss without its denominator: a target's logit, or the largest other one, minus that of the label."""
    own = logits.gather(1, labels[:, None])[:, 0]
    if targeted.y_target is not None:
        return logits.gather(1, targeted.y_target[:, None])[:, 0] - own
    return logits.scatter(1, labels[:, None], -torch.inf).amax(1) - own
