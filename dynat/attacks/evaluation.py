"""An evaluation: one attack on one network, a verdict per image, every claim of the attack verified.

Only images that are classified correctly are attacked. The attack may query a cheaper surrogate of the network
(surrogate.py), but a claimed adversarial image counts only if it is inside the ball and inside [0,1] and the plain
float32 network misclassifies it. An image outside is rejected: it counts as not broken, and rejections are counted.
Where only the surrogate was fooled, or its logits were not finite, the attack is repeated on the network itself.
Finished batches are saved with a checksum, so that an interrupted evaluation resumes and a damaged batch is repeated.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Collection
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from dynat.attacks.attempts import Attempts, choose_examples
from dynat.attacks.autoattack import collect_warnings
from dynat.attacks.cost import BatchProgress, count_passes
from dynat.attacks.saved import Evaluation
from dynat.attacks.surrogate import COMPARED_IMAGES, choose_queried_model
from dynat.config import AttackConfig, registry
from dynat.config.attack_cost import expected_cost
from dynat.data import LabeledImages, to_pixels
from dynat.nn.losses import margin
from dynat.nn.modes import evaluating, frozen
from dynat.nn.seeded import seeded
from dynat.pgd import Ball
from dynat.runtime.progress import HIDDEN, Progress

TOLERANCE = 1e-6
"""How far outside the ball float32 rounding may put an image that is on its surface."""

CORRECT, MISCLASSIFIED = -1, -2
"""Values of the column `broken_by`: correct under attack, or misclassified before any attack. A value from 0 on is the
number of the attack's part that broke the image."""


def evaluate(
    model: nn.Module,
    image_set: LabeledImages,
    attack: AttackConfig,
    *,
    state: Path | None = None,
    progress: Progress = HIDDEN,
    adversarial: bool = False,
    numbers: Collection[int] | None = None,
) -> Evaluation:
    """Attack the images (the first `attack.images` of them) batch by batch, each batch with its own seed.

    With `numbers`, only the batches of these numbers.

    Finished batches are saved in the folder `state` and read from there by the next call. `progress` counts
    `expected_cost` of every image. With `adversarial`, a column of this name has what the attack made of each image.
    """
    image_set = image_set if attack.images is None else image_set.first(attack.images)
    evaluated: list[Evaluation] = []
    queried: tuple[nn.Module, str] | None = None  # chosen once, and only if a batch is left to attack
    for number, (images, labels) in enumerate(image_set.batches(attack.batch)):
        if numbers is not None and number not in numbers:
            continue
        cost = expected_cost(attack) * len(labels)
        file = None if state is None else state / f"batch-{number:05d}.pt"
        batch = None if file is None else _saved_batch(file, labels, adversarial)
        if batch is not None:
            progress.skip(cost)
        else:
            if queried is None:
                compared = to_pixels(image_set.first(COMPARED_IMAGES).images)
                queried = choose_queried_model(model, compared, attack.surrogate)
            queried_model, description = queried
            shown = BatchProgress(progress, attack, len(labels))
            seed = batch_seed(attack, number)
            with seeded(seed, images.device):
                batch = _evaluate_batch(
                    model,
                    queried_model,
                    to_pixels(images),
                    labels,
                    attack,
                    seed,
                    shown,
                    examples=number == 0,
                    adversarial=adversarial,
                )
            batch.queried_model = description
            if file is not None:
                batch.save(file)
            progress.advance(cost)
        evaluated.append(batch)
    return Evaluation.join(evaluated)


def _saved_batch(file: Path, labels: Tensor, adversarial: bool) -> Evaluation | None:
    """A batch that was evaluated before; None if there is none, it is damaged, about other images, or without the
    adversarial images that are wanted."""
    batch = Evaluation.load(file)
    if batch is None or not torch.equal(batch.columns["label"], labels.cpu()):
        return None
    images = batch.columns.pop("adversarial", None)
    if adversarial:
        if images is None:
            return None
        batch.columns["adversarial"] = images
    return batch


def batch_seed(attack: AttackConfig, number: int) -> int:
    text = f"{attack.seed}/{number}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:4], "big") & 0x7FFFFFFF


@dataclass
class _Attacked:
    """A batch under attack: each image as the last part of the attack left it."""

    adversarial: Tensor
    logits: Tensor
    """The network's logits on `adversarial`."""
    broken_by: Tensor
    rejected_examples: int = 0
    reattacked: int = 0


def _evaluate_batch(
    model: nn.Module,
    queried: nn.Module,
    pixels: Tensor,
    labels: Tensor,
    attack: AttackConfig,
    seed: int,
    shown: BatchProgress,
    *,
    examples: bool,
    adversarial: bool,
) -> Evaluation:
    started = time.perf_counter()
    ball = Ball(attack.norm or "linf", attack.eps or 0.0)
    attempts = Attempts(pixels, labels, ball) if examples else None
    with (
        evaluating(model),
        frozen(model),
        count_passes(model, queried, passed=shown.passed) as passes,
        collect_warnings() as warnings,
        nullcontext() if attempts is None else attempts.observing(queried, model),
    ):
        with torch.no_grad():
            logits = model(pixels)
        clean_prediction = logits.argmax(1)
        broken_by = torch.where(clean_prediction == labels, CORRECT, MISCLASSIFIED)
        attacked = _Attacked(pixels.clone(), logits, broken_by)
        for number in range(len(registry.attack_parts(attack.kind))):
            shown.begin(number, int((attacked.broken_by == CORRECT).sum()))
            _run_part(number, attacked, model, queried, pixels, labels, attack, seed)
    columns = {
        "label": labels,
        "clean_prediction": clean_prediction,
        "prediction": attacked.logits.argmax(1),
        "correct": attacked.broken_by == CORRECT,
        "margin": -margin(attacked.logits, labels),
        "distance": ball.distance(attacked.adversarial, pixels),
        "broken_by": attacked.broken_by,
        **({"adversarial": attacked.adversarial} if adversarial else {}),
    }
    return Evaluation(
        columns={name: values.cpu() for name, values in columns.items()},
        examples={} if attempts is None else _examples(columns, pixels, attacked.adversarial, attempts, model, attack),
        seconds=time.perf_counter() - started,
        rejected_examples=attacked.rejected_examples,
        reattacked=attacked.reattacked,
        warnings=tuple(sorted(warnings)),
        kind=attack.kind,
        forward_passes=passes["forward_passes"],
        backward_passes=passes["backward_passes"],
    )


def _run_part(
    number: int,
    attacked: _Attacked,
    model: nn.Module,
    queried: nn.Module,
    pixels: Tensor,
    labels: Tensor,
    attack: AttackConfig,
    seed: int,
) -> None:
    """Run one part of the attack on the images that are still classified correctly: on the queried model first, then on
    the network itself where that was only a surrogate and misled the attack."""
    run = registry.locate(registry.ATTACKS[registry.attack_parts(attack.kind)[number]].where)
    remaining = (attacked.broken_by == CORRECT).nonzero()[:, 0]
    for attacked_model in dict.fromkeys((queried, model)):
        if not len(remaining):
            return
        claimed = run(attacked_model, pixels[remaining], labels[remaining], attack, seed)
        valid, logits = verify(model, pixels[remaining], claimed, attack)
        # An image that is not broken is kept as the last part left it.
        attacked.adversarial[remaining[valid]] = claimed[valid]
        attacked.logits[remaining[valid]] = logits[valid]
        broken = valid & (logits.argmax(1) != labels[remaining])
        attacked.broken_by[remaining[broken]] = number
        if attacked_model is model:
            attacked.rejected_examples += int((~valid).sum())
            return
        misled = ~valid
        misled[~broken] |= _is_misled(queried, claimed[~broken], labels[remaining[~broken]])
        remaining = remaining[misled]
        attacked.reattacked += len(remaining)


def _examples(
    columns: dict[str, Tensor],
    pixels: Tensor,
    adversarial: Tensor,
    attempts: Attempts,
    model: nn.Module,
    attack: AttackConfig,
) -> dict[str, Tensor]:
    """For the gallery; where the attack failed, its strongest attempt if the network itself classifies that right."""
    count = len(attempts.images)
    valid, logits = verify(model, pixels[:count], attempts.images, attack)
    failed = valid & (logits.argmax(1) == attempts.labels) & columns["correct"][:count]
    shown = adversarial.clone()
    shown[:count][failed] = attempts.images[failed]
    chosen = choose_examples(columns["clean_prediction"] == columns["label"], columns["correct"])
    examples = {
        "clean": pixels[chosen],
        "adversarial": shown[chosen],
        **{name: columns[name][chosen] for name in ("label", "clean_prediction", "prediction")},
    }
    return {name: values.detach().cpu().contiguous() for name, values in examples.items()}


@torch.no_grad()
def _is_misled(surrogate: nn.Module, pixels: Tensor, labels: Tensor) -> Tensor:
    """Where the attack had no reason to continue: the surrogate misclassifies the image, or its logits are not
    finite."""
    logits: Tensor = surrogate(pixels)
    return (logits.argmax(1) != labels) | ~torch.isfinite(logits).all(1)


@torch.no_grad()
def verify(model: nn.Module, pixels: Tensor, claimed: Tensor, attack: AttackConfig) -> tuple[Tensor, Tensor]:
    """Which claimed images are valid (inside the ball and inside [0,1]), and the plain network's logits on those."""
    ball = Ball(attack.norm or "linf", attack.eps or 0.0)
    valid = ball.distance(claimed, pixels) <= ball.eps + TOLERANCE
    valid &= torch.isfinite(claimed).flatten(1).all(1)
    valid &= (claimed.flatten(1).amin(1) >= 0) & (claimed.flatten(1).amax(1) <= 1)
    with evaluating(model):  # whatever mode the attack left behind
        logits: Tensor = model(torch.where(valid.view(-1, 1, 1, 1), claimed, pixels))
    return valid, logits
