"""All measurements that need a GPU, in one unattended call of less than ten minutes; results are printed last.

    python benchmarks/gpu.py --json gpu.json
    python benchmarks/gpu.py --tiny            # the same parts on small networks, on a CPU, to test the script

The parts; one that fails or is skipped for lack of time reports that and does not stop the others:
  correct    fast steps against the plain float32 step: logits, losses at equal weights, one update
  ceiling    matrix products in bfloat16 and float32 on random data
  steps      the authors' restated step and ours, part by part, for each pair of networks; memory
  projected  minutes of DYNAT with ResNet-18 over 100 epochs of CIFAR-10, from the fastest step
  evaluation AutoAttack through surrogates in several precisions, beside the plain one; verdicts compared
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
from step import VARIANTS, check_no_fallback, measure, our_trainer

from dynat import data
from dynat.training.trainer import Trainer

PAIRS = ("resnet18:resnet18", "resnet18:resnet18-heavy", "wrn34-10:resnet18-heavy")
TRAINING_IMAGES, EPOCHS = 48_000, 100
# Relative tolerances for losses at equal weights, and for one update after them. Rounding changes signs of tiny
# gradients: on a CPU, weights changed by a relative 1e-7 changed losses by up to 5e-4 and the update by 0.24 (ResNet-18
# with a ResNet-18 guide, batch 16, float32; less for larger batches). A missing update differs by 1, a reversed one
# by 2.
TOLERANCE = {"float32": (5e-3, 0.5), "bfloat16": (0.05, 0.9)}


@dataclass
class Session:
    """What the parts share: the device, the time limit and the results."""

    device: torch.device
    tiny: bool
    ends: float
    json: Path | None = None
    results: dict[str, Any] = field(default_factory=dict)

    def time_left(self) -> float:
        return self.ends - time.perf_counter()

    def run(self, name: str, part: Callable[[Session], Any]) -> None:
        if self.time_left() < 15:
            self.results[name] = "skipped: no time left"
            return
        started = time.perf_counter()
        try:
            self.results[name] = part(self)
        except Exception as error:
            traceback.print_exc()
            self.results[name] = f"FAILED: {type(error).__name__}: {str(error)[:500]}"
        print(f"{name}: done after {time.perf_counter() - started:.0f} s", flush=True)


def correct(session: Session) -> list[Row]:
    """Losses of the first steps, each kind of step from the same weights, images and starting points."""
    pair, batch = ("small:small", 8) if session.tiny else ("resnet18:resnet18", 128)
    torch.backends.cudnn.allow_tf32 = False
    try:
        return [surrogate_row(session), *loss_rows(session, pair, batch)]
    finally:
        torch.backends.cudnn.allow_tf32 = True  # torch's default, which the authors' step uses


def loss_rows(session: Session, pair: str, batch: int) -> list[Row]:
    reference, reference_update = losses(session, pair, batch, precision="float32")
    rows: list[Row] = []
    for name, changes in {
        "again": {"precision": "float32"},
        "cuda_graph": {"precision": "float32", "cuda_graph": True},
        "compile": {"precision": "float32", "compile": True},
        "bfloat16": {"precision": "bfloat16"},
        "all of it": {"precision": "bfloat16", "compile": True, "cuda_graph": True},
    }.items():
        if session.tiny and changes.get("compile"):
            continue
        try:
            step_losses, update = losses(session, pair, batch, **changes)
        except Exception as error:
            rows.append({"step": name, "verdict": f"FAILED: {type(error).__name__}: {str(error)[:300]}"})
            continue
        loss_difference = max(abs(a - b) / abs(b) for a, b in zip(step_losses, reference, strict=True))
        update_difference = float((update - reference_update).norm() / reference_update.norm())
        loss_tolerance, update_tolerance = TOLERANCE[str(changes["precision"])]
        agrees = loss_difference < loss_tolerance and update_difference < update_tolerance  # false for nan
        verdict = "agrees" if agrees else "DIFFERS"
        rows.append(
            {"step": name, "difference": loss_difference, "update difference": update_difference, "verdict": verdict}
        )
    return rows


def losses(session: Session, pair: str, batch: int, **changes: object) -> tuple[list[float], torch.Tensor]:
    """Losses of some steps at learning rate zero, so that no difference grows, and the update of one more step at 0.01.
    The steps include those before a recording, the recording and its replays."""
    count = 5 if session.tiny else 9
    trainer = our_trainer(pair, batch, session.device, **changes)
    trainer._set_rate(0.0)
    batches = list(noise_data(count * batch).train.to(session.device).batches(batch))
    step_losses = [trainer.step(data.to_pixels(images), labels)["loss"].clone() for images, labels in batches]
    before = flat(trainer)
    trainer._set_rate(0.01)
    trainer.step(data.to_pixels(batches[0][0]), batches[0][1])
    check_no_fallback(trainer)
    return torch.stack(step_losses).tolist(), flat(trainer) - before


def flat(trainer: Trainer) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in trainer.networks.parameters()])


def surrogate_row(session: Session) -> Row:
    """The folded surrogate compared with its network."""
    trainer = our_trainer(
        "small:small" if session.tiny else "resnet18:resnet18", 8, session.device, precision="float32"
    )
    target: Any = trainer.networks.target
    images = torch.rand(64, 3, 32, 32, device=session.device)
    with torch.no_grad():
        target(images)  # in training mode: moves the running statistics
        logits = target.surrogate()(images)
        reference = target.eval()(images)
    loss_difference = float((logits - reference).norm() / reference.norm())
    return {
        "step": "folded surrogate, logits",
        "difference": loss_difference,
        "verdict": "agrees" if loss_difference < 1e-3 else "DIFFERS",
    }


def ceiling(session: Session) -> Row:
    side = 256 if session.tiny else 8192
    return {
        f"{name} TFLOP/s": matrix_rate(session.device, dtype, side) / 1e12
        for name, dtype in {"bfloat16": torch.bfloat16, "float32": torch.float32}.items()
    }


def steps(session: Session) -> list[Row]:
    """Pair by pair, so that a short session still times the first; without compilation where little time is left."""
    rates = session.results.get("ceiling")
    top = 1e12 * rates["bfloat16 TFLOP/s"] if isinstance(rates, dict) else float("nan")
    rows: list[Row] = []
    session.results["steps"] = rows  # row by row, so that an interrupted call has written some
    for pair in ("small:small",) if session.tiny else PAIRS:
        names = [name for name in VARIANTS if not (session.tiny and "compile" in name)]
        if not session.tiny and (session.time_left() < 150 or pair.startswith("wrn")):
            names = [name for name in names if "compile" not in name]  # WRN takes minutes to compile
        if not session.tiny and session.time_left() < 45:
            rows.append({"pair": pair, "error": "skipped: no time left"})
            continue
        rounds, repeats = (2, 1) if session.tiny else (5, 2 if pair.startswith("wrn") else 5)
        rows += measure(
            pair, 8 if session.tiny else 128, session.device, names, rounds=rounds, repeats=repeats, top=top
        )
        write(session.json, session.results)
    return rows


def projected(session: Session) -> Row:
    """Without validation (4 % of the images, 10 steps of PGD) and saving."""
    timed = session.results.get("steps")
    rows = [row for row in timed if "ms" in row] if isinstance(timed, list) else []
    if not rows:
        raise RuntimeError("no step was timed")
    pair = rows[0]["pair"]
    best = min((row for row in rows if row["pair"] == pair and row["step"] != "authors"), key=lambda row: row["ms"])
    slow = next(row for row in rows if row["pair"] == pair and row["step"] == "authors")
    minutes = EPOCHS * (TRAINING_IMAGES // 128) / 60_000
    return {
        "pair": pair,
        "step": best["step"],
        "minutes": minutes * best["ms"],
        "minutes with the authors' step": minutes * slow["ms"],
    }


def evaluation(session: Session) -> list[Row]:
    from evaluation import compare  # imported here: it needs more packages than the other parts

    return compare(session.device, session.tiny, session.time_left)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--tiny", action="store_true", help="small networks, few steps, any device")
    options.add_argument("--seconds", type=float, default=450, help="time limit for all parts together")
    options.add_argument("--json", type=Path, help="also write the results to this file")
    chosen = options.parse_args()
    if not chosen.tiny and not torch.cuda.is_available():
        raise SystemExit("no GPU found; --tiny runs every part on a CPU")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.benchmark = True
    if chosen.tiny:
        torch.set_num_threads(1)  # at this size a second thread only waits
    session = Session(device, chosen.tiny, time.perf_counter() + chosen.seconds, chosen.json)
    for part in (correct, ceiling, steps, projected, evaluation):
        session.run(part.__name__, part)
        write(chosen.json, {**machine(device), **session.results})  # the results so far, should the call be interrupted
    print("\n" + "\n".join(f"{key}: {value}" for key, value in machine(device).items()))
    for name, result in session.results.items():
        rows = [result] if isinstance(result, dict) else result
        print(f"\n{name}\n" + (table(rows) if isinstance(rows, list) else str(rows)))


if __name__ == "__main__":
    main()
