"""AutoAttack's standard version (Croce & Hein 2020) through pyautoattack: APGD-CE, APGD-T, FAB-T, Square."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dynat.config import Attack

NORMS = {"linf": "Linf", "l2": "L2"}


def autoattack(model: nn.Module, pictures: Tensor, labels: Tensor, attack: Attack, seed: int) -> Tensor:
    """The four attacks one after the other, each on the pictures still standing."""
    from pyautoattack import AutoAttack  # not needed where only training happens

    with torch.no_grad():
        classes = model(pictures[:1]).shape[1]
    if classes < 4:
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
        # Nine targets as published, fewer where there are fewer other classes.
        examiner.apgd_targeted.n_target_classes = min(9, classes - 1)
        examiner.fab.n_target_classes = min(9, classes - 1)
        found: Tensor = examiner.run_standard_evaluation(pictures, labels, batch_size=len(pictures))[0]
    return found.detach()
