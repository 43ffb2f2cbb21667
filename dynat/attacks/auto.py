"""The parts of AutoAttack's standard version (Croce & Hein 2020) through pyautoattack.

AutoAttack itself is these four in order, each on the pictures still standing; `examine` runs them so, and
each is an attack on its own.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dynat.config import Attack, names
from dynat.models.view import View

NORMS = {"linf": "Linf", "l2": "L2"}


def apgd_ce(model: nn.Module, pictures: Tensor, labels: Tensor, attack: Attack, seed: int) -> Tensor:
    """Auto-PGD on the cross-entropy: 100 iterations, its step size adapts."""
    return _part("apgd-ce", model, pictures, labels, attack, seed)


def apgd_t(model: nn.Module, pictures: Tensor, labels: Tensor, attack: Attack, seed: int) -> Tensor:
    """Auto-PGD on the targeted difference of logits ratio, for up to nine target classes."""
    return _part("apgd-t", model, pictures, labels, attack, seed)


def fab_t(model: nn.Module, pictures: Tensor, labels: Tensor, attack: Attack, seed: int) -> Tensor:
    """Targeted FAB: the nearest decision boundary, for up to nine target classes."""
    return _part("fab-t", model, pictures, labels, attack, seed)


def square(model: nn.Module, pictures: Tensor, labels: Tensor, attack: Attack, seed: int) -> Tensor:
    """Square: a random search that sees logits and no gradient; `steps` is its number of queries."""
    return _part("square", model, pictures, labels, attack, seed)


def _part(name: str, model: nn.Module, pictures: Tensor, labels: Tensor, attack: Attack, seed: int) -> Tensor:
    from pyautoattack import AutoAttack, checks  # not needed where only training happens

    with torch.no_grad():
        classes = model(pictures[:1]).shape[1]
    if classes < 4 and "apgd-t" in (name, *names.attack_parts(attack.kind)):
        raise ValueError(
            f"AutoAttack's targeted DLR loss needs at least 4 classes and this network has {classes}: "
            "use pgd and cw with restarts instead"
        )
    with torch.random.fork_rng(devices=[pictures.device] if pictures.is_cuda else []):
        examiner = AutoAttack(
            model,
            norm=NORMS[attack.norm or "linf"],
            eps=attack.eps,
            seed=seed,
            version="standard",
            device=pictures.device,
        )
        examiner.attacks_to_run = [name]
        if isinstance(model, View):  # what AutoAttack warns of must be seen of the network itself
            checks.check_randomized(model.network, pictures, labels, logger=examiner.logger)
            checks.check_range_output(model.network, pictures, logger=examiner.logger)
            checks.check_dynamic(model.network, pictures, logger=examiner.logger)
        # Nine targets as published, fewer where there are fewer other classes.
        examiner.apgd_targeted.n_target_classes = min(9, classes - 1)
        examiner.fab.n_target_classes = min(9, classes - 1)
        if name == "square" and attack.steps is not None:
            examiner.square.n_queries = attack.steps
        found: Tensor = examiner.run_standard_evaluation(pictures, labels, batch_size=len(pictures))[0]
    return found.detach()
