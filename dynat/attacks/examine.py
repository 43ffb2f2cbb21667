"""An examination: one attack on one network, picture by picture, every claim checked again.

Only what is classified correctly is attacked. The search may ask a cheaper view of the network (asked.py), but a
claimed adversarial picture counts if the plain float32 network errs on it, inside the ball and inside [0,1]; what is
outside counts as not broken and is counted itself. Where the view was fooled alone, or got lost, the network itself is
attacked. Finished batches are kept, so a killed examination goes on where it was.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import pickle
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dynat.attacks.asked import MOST, asked
from dynat.config import Attack, names
from dynat.data import Pictures, to_pixels
from dynat.files import atomic_write
from dynat.inner import Ball
from dynat.losses import margin
from dynat.models.state import evaluating, frozen

TOLERANCE = 1e-6
"""How far outside the ball float32 rounding may put a picture that is on its surface."""

STANDS, WRONG_BEFORE = -1, -2
"""In the column `fell_to`; other values count the parts of the attack."""

SHOWN = 8
"""Pictures kept for the gallery."""


@dataclass
class Examination:
    """Verdicts, a tensor entry per picture, and what they cost."""

    columns: dict[str, Tensor]
    examples: dict[str, Tensor]
    seconds: float = 0.0
    forward_passes: int = 0
    backward_passes: int = 0
    refuted_claims: int = 0
    attacked_again: int = 0
    """Pictures attacked once more, on the network: they had fooled the view alone, or the view had got lost."""
    asked: str = "network"
    """Whom the search asked."""
    flags: tuple[str, ...] = ()


def examine(
    model: nn.Module,
    pictures: Pictures,
    attack: Attack,
    *,
    state: Path | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> Examination:
    """Attack `pictures` (those that the attack asks for) batch by batch, each batch with its own seed."""
    pictures = pictures if attack.pictures is None else pictures.first(attack.pictures)
    done: list[dict[str, Any]] = []
    whom: tuple[nn.Module, str] | None = None
    for number, (images, labels) in enumerate(pictures.batches(attack.batch)):
        file = None if state is None else state / f"batch-{number:05d}.pt"
        batch = None if file is None else _finished(file, labels)
        if batch is None:
            whom = whom or asked(model, to_pixels(pictures.first(MOST).images), attack.view)
            batch = _batch(model, whom[0], to_pixels(images), labels, attack, batch_seed(attack, number))
            batch["asked"] = whom[1]
            if number > 0:
                batch["examples"] = {}
            if file is not None:
                atomic_write(file, lambda path, content=batch: torch.save(content, path))  # type: ignore[misc]
        done.append(batch)
        progress(len(labels))
    return Examination(
        columns={name: torch.cat([batch["columns"][name] for batch in done]) for name in done[0]["columns"]},
        examples=done[0]["examples"],
        asked=", ".join(sorted({batch["asked"] for batch in done})),
        flags=tuple(sorted({flag for batch in done for flag in batch["flags"]})),
        **{name: sum(batch[name] for batch in done) for name in COSTS},
    )


def _finished(file: Path, labels: Tensor) -> dict[str, Any] | None:
    """A batch that was examined before; one that cannot be read or is about other pictures is examined again."""
    try:
        batch: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    except (FileNotFoundError, RuntimeError, EOFError, pickle.UnpicklingError):
        return None
    return batch if torch.equal(batch["columns"]["label"], labels.cpu()) else None


COSTS = ("seconds", "forward_passes", "backward_passes", "refuted_claims", "attacked_again")


def batch_seed(attack: Attack, number: int) -> int:
    text = f"{attack.seed}/{number}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:4], "big") & 0x7FFFFFFF


def _batch(
    model: nn.Module, ask: nn.Module, pixels: Tensor, labels: Tensor, attack: Attack, seed: int
) -> dict[str, Any]:
    began = time.perf_counter()
    found, refuted, again = pixels.clone(), 0, 0
    with evaluating(model), frozen(model), _counted(model, ask) as passes, _warnings() as flags:
        with torch.no_grad():
            logits = model(pixels)
        clean = logits.argmax(1)
        fell_to = torch.where(clean == labels, STANDS, WRONG_BEFORE)
        for number, part in enumerate(names.attack_parts(attack.kind)):
            run = names.locate(names.ATTACKS[part].where)
            here = (fell_to == STANDS).nonzero()[:, 0]
            for whom in dict.fromkeys((ask, model)):
                if not len(here):
                    break
                claimed = run(whom, pixels[here], labels[here], attack, seed)
                sound, said = verify(model, pixels[here], claimed, attack)
                # What stands is kept as the last part left it.
                found[here[sound]], logits[here[sound]] = claimed[sound], said[sound]
                fell = sound & (said.argmax(1) != labels[here])
                fell_to[here[fell]] = number
                if whom is model:
                    refuted += int((~sound).sum())
                    break
                lost = ~sound
                lost[~fell] |= _lost(ask, claimed[~fell], labels[here[~fell]])
                here = here[lost]
                again += len(here)
    correct = fell_to == STANDS
    columns = {
        "label": labels,
        "clean": clean,
        "prediction": logits.argmax(1),
        "correct": correct,
        "margin": -margin(logits, labels),
        "distance": Ball(attack.norm or "linf", attack.eps or 0.0).distance(found, pixels),
        "fell_to": fell_to,
    }
    pick = _worth_showing(clean == labels, correct)
    shown = {
        "clean": pixels[pick],
        "adversarial": found[pick],
        "label": labels[pick],
        "clean_prediction": clean[pick],
        "prediction": columns["prediction"][pick],
    }
    return {
        "columns": {name: value.cpu() for name, value in columns.items()},
        "examples": {name: value.detach().cpu().contiguous() for name, value in shown.items()},
        "seconds": time.perf_counter() - began,
        "refuted_claims": refuted,
        "attacked_again": again,
        "flags": sorted(flags),
        **passes,
    }


def _worth_showing(right: Tensor, correct: Tensor) -> Tensor:
    """Up to half of the gallery for pictures that were broken, the rest for pictures that stood, in order."""
    broken, stood = (right & ~correct).nonzero()[:, 0], correct.nonzero()[:, 0]
    kept = broken[: max(SHOWN // 2, SHOWN - len(stood))]
    return torch.cat([kept, stood[: SHOWN - len(kept)]]).sort().values


@torch.no_grad()
def _lost(view: nn.Module, pixels: Tensor, labels: Tensor) -> Tensor:
    """Where a search had no reason to go on: the view was fooled, or says nothing that can be read."""
    logits: Tensor = view(pixels)
    return (logits.argmax(1) != labels) | ~torch.isfinite(logits).all(1)


@torch.no_grad()
def verify(model: nn.Module, pixels: Tensor, claimed: Tensor, attack: Attack) -> tuple[Tensor, Tensor]:
    """Which claimed pictures keep to the rules, and what the plain network says of those."""
    ball = Ball(attack.norm or "linf", attack.eps or 0.0)
    sound = ball.distance(claimed, pixels) <= ball.eps + TOLERANCE
    sound &= torch.isfinite(claimed).flatten(1).all(1)
    sound &= (claimed.flatten(1).amin(1) >= 0) & (claimed.flatten(1).amax(1) <= 1)
    with evaluating(model):  # whatever mode the attack left behind
        logits: Tensor = model(torch.where(sound.view(-1, 1, 1, 1), claimed, pixels))
    return sound, logits


@contextlib.contextmanager
def _counted(*models: nn.Module) -> Iterator[dict[str, int]]:
    """Pictures sent forward and backward through the network or its view meanwhile."""
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
def _warnings() -> Iterator[set[str]]:
    """AutoAttack's own warnings about a defence, kept as data rather than lost in a log."""
    flags: set[str] = set()

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            # Without its count, which differs from batch to batch.
            flags.add(re.sub(r"^there are \d+ points", "there are points", record.getMessage()))

    logger, handler = logging.getLogger("auto-attack"), Keep(logging.WARNING)
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield flags
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate
