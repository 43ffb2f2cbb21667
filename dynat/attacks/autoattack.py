"""The parts of AutoAttack's standard version (Croce & Hein 2020) through pyautoattack.

AutoAttack itself is these four in order, each on the images that are still classified correctly. `evaluate` runs them
in that order; each part is also an attack of its own.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from dynat.config import AttackConfig, registry
from dynat.nn.folded import FoldedModel
from dynat.runtime.errors import UserError

NORMS = {"linf": "Linf", "l2": "L2"}


def apgd_ce(model: nn.Module, images: Tensor, labels: Tensor, attack: AttackConfig, seed: int) -> Tensor:
    """Auto-PGD on the cross-entropy: 100 iterations with an adaptive step size."""
    return _run_part("apgd-ce", model, images, labels, attack, seed)


def apgd_t(model: nn.Module, images: Tensor, labels: Tensor, attack: AttackConfig, seed: int) -> Tensor:
    """Auto-PGD on the targeted difference of logits ratio, for up to nine target classes."""
    return _run_part("apgd-t", model, images, labels, attack, seed)


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

    with torch.no_grad():
        classes = model(images[:1]).shape[1]
    if classes < 4 and "apgd-t" in (name, *registry.attack_parts(attack.kind)):
        raise UserError(
            f"AutoAttack's targeted DLR loss needs at least 4 classes and this network has {classes}: "
            "use pgd and cw with restarts instead"
        )
    with torch.random.fork_rng(devices=[images.device] if images.is_cuda else []):
        autoattack = AutoAttack(
            model,
            norm=NORMS[attack.norm or "linf"],
            eps=attack.eps,
            seed=seed,
            version="standard",
            device=images.device,
        )
        autoattack.attacks_to_run = [name]
        if isinstance(model, FoldedModel):  # AutoAttack's checks of the defense must see the network itself
            checks.check_randomized(model.network, images, labels, logger=autoattack.logger)
            checks.check_range_output(model.network, images, logger=autoattack.logger)
            checks.check_dynamic(model.network, images, logger=autoattack.logger)
        # Nine target classes as published, fewer where there are fewer other classes.
        autoattack.apgd_targeted.n_target_classes = min(9, classes - 1)
        autoattack.fab.n_target_classes = min(9, classes - 1)
        if name == "square" and attack.steps is not None:
            autoattack.square.n_queries = attack.steps
        adversarial: Tensor = autoattack.run_standard_evaluation(images, labels, batch_size=len(images))[0]
    return adversarial.detach()
