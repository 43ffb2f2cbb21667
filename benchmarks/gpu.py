"""Everything that only a GPU can tell, in one unattended call of less than ten minutes; the answers come last.

    python benchmarks/gpu.py --json gpu.json
    python benchmarks/gpu.py --tiny            # the same parts on small networks, on a CPU: does it run at all?

The parts, each guarded: one that fails or finds no time left says so and costs no other.
  correct    fast steps against the plain float32 step: logits, losses at equal weights, one update
  ceiling    matrix products in bfloat16 and float32 on random data
  steps      the authors' restated step and ours, part by part, for each pair of networks; memory
  projected  minutes of DYNAT with ResNet-18 over 100 epochs of CIFAR-10, from the fastest step
  exam       AutoAttack through views in several precisions, beside the plain one; verdicts compared
"""

from __future__ import annotations

import argparse
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from common import Row, machine, matrix_rate, noise_data, table, write
from step import VARIANTS, as_named, measure, our_trainer

from dynat import data
from dynat.training.trainer import Trainer

PAIRS = ("resnet18:resnet18", "resnet18:resnet18-heavy", "wrn34-10:resnet18-heavy")
TRAINING_PICTURES, EPOCHS = 48_000, 100
# How far losses at equal weights, and then one update, may lie apart, as a share. Signs of tiny gradients turn on
# rounding: on a CPU, weights moved by 1e-7 of themselves moved losses by up to 5e-4 and the update by 0.24 (ResNet-18
# beside ResNet-18, batch 16, float32; larger batches are calmer). A lost update is 1 apart, one the wrong way 2.
TOLERANCE = {"float32": (5e-3, 0.5), "bfloat16": (0.05, 0.9)}


@dataclass
class Session:
    """What the parts share: where they run, how long they may, and what they found."""

    device: torch.device
    tiny: bool
    ends: float
    json: Path | None = None
    answers: dict[str, Any] = field(default_factory=dict)

    def time_left(self) -> float:
        return self.ends - time.perf_counter()

    def run(self, name: str, part: Callable[[Session], Any]) -> None:
        if self.time_left() < 15:
            self.answers[name] = "skipped: no time left"
            return
        began = time.perf_counter()
        try:
            self.answers[name] = part(self)
        except Exception as error:
            traceback.print_exc()
            self.answers[name] = f"FAILED: {type(error).__name__}: {str(error)[:500]}"
        print(f"{name}: done after {time.perf_counter() - began:.0f} s", flush=True)


def correct(session: Session) -> list[Row]:
    """Losses of the first steps, each kind of step from the same weights, pictures and starting points."""
    pair, batch = ("small:small", 8) if session.tiny else ("resnet18:resnet18", 128)
    torch.backends.cudnn.allow_tf32 = False
    try:
        return [view_row(session), *loss_rows(session, pair, batch)]
    finally:
        torch.backends.cudnn.allow_tf32 = True  # torch's default, and so the yardstick's


def loss_rows(session: Session, pair: str, batch: int) -> list[Row]:
    plain, plain_update = losses(session, pair, batch, precision="float32")
    rows: list[Row] = []
    for name, changes in {
        "again": {"precision": "float32"},
        "captured": {"precision": "float32", "captured": True},
        "compiled": {"precision": "float32", "compiled": True},
        "bfloat16": {"precision": "bfloat16"},
        "all of it": {"precision": "bfloat16", "compiled": True, "captured": True},
    }.items():
        if session.tiny and changes.get("compiled"):
            continue
        try:
            found, update = losses(session, pair, batch, **changes)
        except Exception as error:
            rows.append({"step": name, "verdict": f"FAILED: {type(error).__name__}: {str(error)[:300]}"})
            continue
        apart = max(abs(a - b) / abs(b) for a, b in zip(found, plain, strict=True))
        turned = float((update - plain_update).norm() / plain_update.norm())
        most, most_turned = TOLERANCE[str(changes["precision"])]
        agrees = apart < most and turned < most_turned  # false for nan
        verdict = "agrees" if agrees else "DIFFERS"
        rows.append({"step": name, "all apart": apart, "update apart": turned, "verdict": verdict})
    return rows


def losses(session: Session, pair: str, batch: int, **changes: object) -> tuple[list[float], torch.Tensor]:
    """Losses of some steps at a rate of zero, so that no difference grows, and what one more step at a rate changes.
    The steps before a recording, the recording and its replays are among them."""
    count = 5 if session.tiny else 9
    trainer = our_trainer(pair, batch, session.device, **changes)
    trainer._set_rate(0.0)
    batches = list(noise_data(count * batch).train.to(session.device).batches(batch))
    seen = [trainer._step(data.to_pixels(images), labels)["loss"].clone() for images, labels in batches]
    before = flat(trainer)
    trainer._set_rate(0.01)
    trainer._step(data.to_pixels(batches[0][0]), batches[0][1])
    as_named(trainer)
    return torch.stack(seen).tolist(), flat(trainer) - before


def flat(trainer: Trainer) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in trainer.pair.parameters()])


def view_row(session: Session) -> Row:
    """The folded view against the network it is a view of."""
    trainer = our_trainer(
        "small:small" if session.tiny else "resnet18:resnet18", 8, session.device, precision="float32"
    )
    target: Any = trainer.pair.target
    pictures = torch.rand(64, 3, 32, 32, device=session.device)
    with torch.no_grad():
        target(pictures)  # in training mode: moves the running statistics
        seen = target.searched()(pictures)
        reference = target.eval()(pictures)
    apart = float((seen - reference).norm() / reference.norm())
    return {"step": "folded view, logits", "all apart": apart, "verdict": "agrees" if apart < 1e-3 else "DIFFERS"}


def ceiling(session: Session) -> Row:
    side = 256 if session.tiny else 8192
    return {
        f"{name} TFLOP/s": matrix_rate(session.device, dtype, side) / 1e12
        for name, dtype in {"bfloat16": torch.bfloat16, "float32": torch.float32}.items()
    }


def steps(session: Session) -> list[Row]:
    """Pair by pair, so that a short session still has the first; without compilation where time runs short."""
    found = session.answers.get("ceiling")
    top = 1e12 * found["bfloat16 TFLOP/s"] if isinstance(found, dict) else float("nan")
    rows: list[Row] = []
    session.answers["steps"] = rows  # as they come, for whoever reads what a call left that was cut off
    for pair in ("small:small",) if session.tiny else PAIRS:
        names = [name for name in VARIANTS if not (session.tiny and "compiled" in name)]
        if not session.tiny and (session.time_left() < 150 or pair.startswith("wrn")):
            names = [name for name in names if "compiled" not in name]  # WRN takes minutes to compile
        if not session.tiny and session.time_left() < 45:
            rows.append({"pair": pair, "error": "skipped: no time left"})
            continue
        rounds, repeats = (2, 1) if session.tiny else (5, 2 if pair.startswith("wrn") else 5)
        rows += measure(
            pair, 8 if session.tiny else 128, session.device, names, rounds=rounds, repeats=repeats, top=top
        )
        write(session.json, session.answers)
    return rows


def projected(session: Session) -> Row:
    """Steps alone: validation (4 % of the pictures, 10 steps of PGD) and saving come on top."""
    found = session.answers.get("steps")
    rows = [row for row in found if "ms" in row] if isinstance(found, list) else []
    if not rows:
        raise RuntimeError("no step was timed")
    pair = rows[0]["pair"]
    best = min((row for row in rows if row["pair"] == pair and row["step"] != "authors"), key=lambda row: row["ms"])
    slow = next(row for row in rows if row["pair"] == pair and row["step"] == "authors")
    minutes = EPOCHS * (TRAINING_PICTURES // 128) / 60_000
    return {
        "pair": pair,
        "step": best["step"],
        "minutes": minutes * best["ms"],
        "minutes by the authors' step": minutes * slow["ms"],
    }


def exam(session: Session) -> list[Row]:
    from exam import compare  # here, because it needs more packages than the other parts

    return compare(session.device, session.tiny, session.time_left)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--tiny", action="store_true", help="small networks, few steps, any device")
    options.add_argument("--seconds", type=float, default=450, help="what all parts together may take")
    options.add_argument("--json", type=Path, help="also write the answers here")
    chosen = options.parse_args()
    if not chosen.tiny and not torch.cuda.is_available():
        raise SystemExit("no GPU here; --tiny shows on a CPU that every part runs")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.benchmark = True
    if chosen.tiny:
        torch.set_num_threads(1)  # at this size a second thread only waits
    session = Session(device, chosen.tiny, time.perf_counter() + chosen.seconds, chosen.json)
    for part in (correct, ceiling, steps, projected, exam):
        session.run(part.__name__, part)
        write(chosen.json, {**machine(device), **session.answers})  # what is known so far, should the call be cut off
    print("\n" + "\n".join(f"{key}: {value}" for key, value in machine(device).items()))
    for name, answer in session.answers.items():
        rows = [answer] if isinstance(answer, dict) else answer
        print(f"\n{name}\n" + (table(rows) if isinstance(rows, list) else str(rows)))


if __name__ == "__main__":
    main()
