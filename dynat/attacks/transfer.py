"""Transfer attacks: adversarial images made on one network, classified by another."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dynat.attacks.evaluation import batch_seed
from dynat.config import AttackConfig
from dynat.data import LabeledImages, to_pixels
from dynat.nn.losses import cross_entropy
from dynat.nn.modes import evaluating
from dynat.nn.seeded import seeded
from dynat.pgd import Ball, pgd, starting_point
from dynat.runtime.progress import HIDDEN, Progress


def transfer_verdicts(
    source: nn.Module,
    targets: dict[str, nn.Module],
    image_set: LabeledImages,
    attack: AttackConfig,
    progress: Progress = HIDDEN,
) -> dict[str, Tensor]:
    """Which images each target still classifies correctly after all steps of PGD on `source`.

    PGD does not stop when the source is fooled: an image that only just fools its source seldom fools another network.
    `progress` counts sources.
    """
    assert attack.norm and attack.eps is not None and attack.steps and attack.step_size is not None and attack.start
    correct: dict[str, list[Tensor]] = {name: [] for name in targets}
    for number, (images, labels) in enumerate(image_set.batches(attack.batch)):
        ball, pixels = Ball(attack.norm, attack.eps), to_pixels(images)
        seed = batch_seed(attack, number)
        generator = torch.Generator(images.device).manual_seed(seed)
        with seeded(seed, images.device):
            adversarial = pgd(
                source,
                pixels,
                starting_point(pixels, ball, attack.start, generator),
                objective=lambda logits, labels=labels: cross_entropy(logits, labels),  # type: ignore[misc]
                ball=ball,
                steps=attack.steps,
                step_size=attack.step_size,
            )
        progress.advance(len(labels) / len(image_set))
        for name, target in targets.items():
            with torch.no_grad(), evaluating(target), seeded(seed, images.device):
                correct[name].append((target(adversarial).argmax(1) == labels).cpu())
    return {name: torch.cat(verdicts) for name, verdicts in correct.items()}
