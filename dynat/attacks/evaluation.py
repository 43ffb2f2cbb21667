"""An evaluation: one attack on one network, a verdict per image, every claim of the attack verified.

Only images that are classified correctly are attacked. The attack may query a cheaper surrogate of the network
(surrogate.py), but a claimed adversarial image counts only if it is inside the ball and inside [0,1] and the plain
float32 network misclassifies it. An image outside is rejected: it counts as not broken, and rejections are counted.
Where only the surrogate was fooled, or its logits were not finite, the attack is repeated on the network itself.
Finished batches are saved with a checksum, so that an interrupted evaluation resumes and a damaged batch is repeated.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dynat.attacks.surrogate import COMPARED_IMAGES, choose_queried_model
from dynat.config import AttackConfig, registry
from dynat.data import LabeledImages, to_pixels
from dynat.nn.losses import margin
from dynat.nn.modes import evaluating, frozen
from dynat.pgd import Ball
from dynat.runtime.files import read_with_checksum, write_with_checksum

TOLERANCE = 1e-6
"""How far outside the ball float32 rounding may put an image that is on its surface."""

CORRECT, MISCLASSIFIED = -1, -2
"""Values of the column `broken_by`: correct under attack, or misclassified before any attack. A value from 0 on is the
number of the attack's part that broke the image."""

GALLERY_SIZE = 8
"""Number of example images."""


@dataclass
class Evaluation:
    """The verdicts of one attack on one network, and what they cost; of a batch or of all images."""

    columns: dict[str, Tensor]
    """An entry per image: label, clean_prediction, prediction, correct, margin, distance, broken_by."""
    examples: dict[str, Tensor]
    """For the gallery: clean and adversarial images, label, clean_prediction, prediction."""
    seconds: float = 0.0
    forward_passes: int = 0
    backward_passes: int = 0
    rejected_examples: int = 0
    """Claimed adversarial images outside the ball or outside [0,1]."""
    reattacked: int = 0
    """Images attacked again on the network itself, because only the surrogate was fooled or its logits were not
    finite."""
    queried_model: str = "network"
    """Which model the attack queried."""
    warnings: tuple[str, ...] = ()
    """AutoAttack's warnings about the network."""

    def save(self, file: Path) -> None:
        # Through memory: a full disk is then an OSError that says so; torch's own writer raises an internal error.
        buffer = io.BytesIO()
        torch.save(vars(self), buffer)
        write_with_checksum(file, buffer.getbuffer())

    @classmethod
    def load(cls, file: Path) -> Evaluation | None:
        """What was saved; None where there is no file. A damaged one is set aside, with a message, and is None too."""
        content = read_with_checksum(file)
        return None if content is None else cls(**torch.load(io.BytesIO(content), weights_only=True))

    @classmethod
    def join(cls, batches: list[Evaluation]) -> Evaluation:
        """The evaluation of all batches together; its examples are those of the first batch."""
        return cls(
            columns={name: torch.cat([batch.columns[name] for batch in batches]) for name in batches[0].columns},
            examples=batches[0].examples,
            seconds=sum(batch.seconds for batch in batches),
            forward_passes=sum(batch.forward_passes for batch in batches),
            backward_passes=sum(batch.backward_passes for batch in batches),
            rejected_examples=sum(batch.rejected_examples for batch in batches),
            reattacked=sum(batch.reattacked for batch in batches),
            queried_model=", ".join(sorted({batch.queried_model for batch in batches})),
            warnings=tuple(sorted({warning for batch in batches for warning in batch.warnings})),
        )


def evaluate(
    model: nn.Module,
    image_set: LabeledImages,
    attack: AttackConfig,
    *,
    state: Path | None = None,
    progress: Callable[[int], None] = lambda count: None,
) -> Evaluation:
    """Attack the images (the first `attack.images` of them) batch by batch, each batch with its own seed.

    Finished batches are saved in the folder `state` and read from there by the next call.
    """
    image_set = image_set if attack.images is None else image_set.first(attack.images)
    evaluated: list[Evaluation] = []
    queried: tuple[nn.Module, str] | None = None  # chosen once, and only if a batch is left to attack
    for number, (images, labels) in enumerate(image_set.batches(attack.batch)):
        file = None if state is None else state / f"batch-{number:05d}.pt"
        batch = None if file is None else _saved_batch(file, labels)
        if batch is None:
            if queried is None:
                pixels = to_pixels(image_set.first(COMPARED_IMAGES).images)
                queried = choose_queried_model(model, pixels, attack.surrogate)
            queried_model, description = queried
            batch = _evaluate_batch(model, queried_model, to_pixels(images), labels, attack, batch_seed(attack, number))
            batch.queried_model = description
            if number > 0:
                batch.examples = {}
            if file is not None:
                batch.save(file)
        evaluated.append(batch)
        progress(len(labels))
    return Evaluation.join(evaluated)


def _saved_batch(file: Path, labels: Tensor) -> Evaluation | None:
    """A batch that was evaluated before; None if there is none, it is damaged or about other images."""
    batch = Evaluation.load(file)
    return batch if batch is not None and torch.equal(batch.columns["label"], labels.cpu()) else None


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
    model: nn.Module, queried: nn.Module, pixels: Tensor, labels: Tensor, attack: AttackConfig, seed: int
) -> Evaluation:
    started = time.perf_counter()
    with (
        evaluating(model),
        frozen(model),
        _count_passes(model, queried) as passes,
        _collect_warnings() as warnings,
    ):
        with torch.no_grad():
            logits = model(pixels)
        clean_prediction = logits.argmax(1)
        broken_by = torch.where(clean_prediction == labels, CORRECT, MISCLASSIFIED)
        attacked = _Attacked(pixels.clone(), logits, broken_by)
        for number in range(len(registry.attack_parts(attack.kind))):
            _run_part(number, attacked, model, queried, pixels, labels, attack, seed)
    columns = {
        "label": labels,
        "clean_prediction": clean_prediction,
        "prediction": attacked.logits.argmax(1),
        "correct": attacked.broken_by == CORRECT,
        "margin": -margin(attacked.logits, labels),
        "distance": Ball(attack.norm or "linf", attack.eps or 0.0).distance(attacked.adversarial, pixels),
        "broken_by": attacked.broken_by,
    }
    chosen = _choose_examples(clean_prediction == labels, columns["correct"])
    examples = {
        "clean": pixels[chosen],
        "adversarial": attacked.adversarial[chosen],
        **{name: columns[name][chosen] for name in ("label", "clean_prediction", "prediction")},
    }
    return Evaluation(
        columns={name: values.cpu() for name, values in columns.items()},
        examples={name: values.detach().cpu().contiguous() for name, values in examples.items()},
        seconds=time.perf_counter() - started,
        rejected_examples=attacked.rejected_examples,
        reattacked=attacked.reattacked,
        warnings=tuple(sorted(warnings)),
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


def _choose_examples(clean_correct: Tensor, correct: Tensor) -> Tensor:
    """Up to half of the gallery for broken images, the rest for images that are correct under attack, in order."""
    broken, robust = (clean_correct & ~correct).nonzero()[:, 0], correct.nonzero()[:, 0]
    broken = broken[: max(GALLERY_SIZE // 2, GALLERY_SIZE - len(robust))]
    return torch.cat([broken, robust[: GALLERY_SIZE - len(broken)]]).sort().values


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


@contextlib.contextmanager
def _count_passes(*models: nn.Module) -> Iterator[dict[str, int]]:
    """Counts images sent forward and backward through the network or its surrogate meanwhile."""
    passes = {"forward_passes": 0, "backward_passes": 0}

    def backward(gradient: Tensor) -> None:
        passes["backward_passes"] += len(gradient)

    def forward(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        passes["forward_passes"] += len(output)
        if output.requires_grad:
            output.register_hook(backward)  # type: ignore[no-untyped-call]

    handles = [model.register_forward_hook(forward) for model in dict.fromkeys(models)]
    try:
        yield passes
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def _collect_warnings() -> Iterator[set[str]]:
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
