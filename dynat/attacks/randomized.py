"""The attack for a network that answers differently each time: AutoAttack's version rand instead of the standard one.

A gradient of such a network is one draw. This version averages 20 of them in every step (expectation over
transformation, Athalye et al. 2018), and leaves out the parts that compare single answers.
"""

from __future__ import annotations

import torch
from torch import nn

from dynat.attacks.surrogate import COMPARED_IMAGES, answers_differently
from dynat.config import AttackConfig, registry
from dynat.data import LabeledImages, to_pixels
from dynat.nn.modes import evaluating


def suited_to(model: nn.Module, images: LabeledImages, attack: AttackConfig) -> tuple[AttackConfig, tuple[str, ...]]:
    """The attack, or `autoattack-rand` instead of `autoattack` where two answers of the network to the same images
    differ, with a warning that says so."""
    if attack.kind != "autoattack":
        return attack, ()
    pixels = to_pixels(images.first(COMPARED_IMAGES).images)
    with evaluating(model), torch.random.fork_rng(devices=[pixels.device] if pixels.is_cuda else []):
        torch.manual_seed(attack.seed)
        if not answers_differently(model, pixels):
            return attack, ()
    eot = registry.ATTACKS["autoattack-rand"].eot
    chosen = attack.model_copy(update={"kind": "autoattack-rand", "eot": eot})
    return chosen, (
        "the network answers differently each time to the same images: attacked with AutoAttack's version rand, "
        f"with {eot} gradients per step (kind: autoattack-rand)",
    )
