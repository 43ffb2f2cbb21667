"""Pictures made against one network, shown to another."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dynat.attacks.examine import batch_seed
from dynat.config import Attack
from dynat.data import Pictures, to_pixels
from dynat.inner import Ball, maximise
from dynat.losses import cross_entropy
from dynat.models.state import evaluating


def transferred(
    source: nn.Module, targets: dict[str, nn.Module], pictures: Pictures, attack: Attack
) -> dict[str, Tensor]:
    """Which pictures each target still gets right after all steps of PGD against `source`.

    It goes on after the source is fooled: a picture that only just fools its source seldom fools another.
    """
    assert attack.norm and attack.eps is not None and attack.steps and attack.step_size is not None and attack.start
    right: dict[str, list[Tensor]] = {name: [] for name in targets}
    for number, (images, labels) in enumerate(pictures.batches(attack.batch)):
        found = maximise(
            source,
            to_pixels(images),
            objective=lambda logits, labels=labels: cross_entropy(logits, labels),  # type: ignore[misc]
            ball=Ball(attack.norm, attack.eps),
            steps=attack.steps,
            step_size=attack.step_size,
            start=attack.start,
            generator=torch.Generator(images.device).manual_seed(batch_seed(attack, number)),
        )
        for name, target in targets.items():
            with torch.no_grad(), evaluating(target):
                right[name].append((target(found).argmax(1) == labels).cpu())
    return {name: torch.cat(verdicts) for name, verdicts in right.items()}
