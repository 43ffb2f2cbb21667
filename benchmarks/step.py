"""Times training steps in one process: the authors' restated step, then ours, one change after the other.

    python benchmarks/step.py                                        # three pairs, on the available device
    python benchmarks/step.py --pairs resnet18:resnet18-heavy --batch 128 --rounds 5
    python benchmarks/step.py --variants authors ours compile

The variants, each with the changes of the one before it:
  authors     their step, restated: 24 F + 13 G, eager, float32
  authors-strict  the same without TF32, which torch lets convolutions use on a GPU by default
  label-once  without the guide's ten repeated forwards: 24 F + 3 G
  unfolded    our step, PGD on the network itself: channels-last, fused optimizer
  ours        PGD on the folded surrogate; what `dynat train` does in float32
  bfloat16    ours in bfloat16 (default on a GPU; elsewhere only where the processor computes in it)
  compile, cuda_graph, compile+cuda_graph  the options of those names, on top of bfloat16 (float32 on a CPU)
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import torch
from authors_step import authors_step
from common import CLASSES, Row, alternating, finish, machine, matrix_rate, noise_data, ratios, step_flops, table, write

from dynat import models
from dynat.config import Run, ThreatModel
from dynat.config.training import InnerAttack
from dynat.nn.cuda_graph import CUDAGraphStep
from dynat.nn.mixed_precision import MixedPrecision, compute_dtype
from dynat.runtime.device import set_up_cpu
from dynat.training.trainer import Trainer

VARIANTS = (
    "authors",
    "authors-strict",
    "label-once",
    "unfolded",
    "ours",
    "bfloat16",
    "compile",
    "cuda_graph",
    "compile+cuda_graph",
)
PAIRS = ("resnet18:resnet18", "resnet8-32:resnet8-32", "wrn10-1:wrn10-1")
Work = Callable[[], object]


def our_trainer(pair: str, batch: int, device: torch.device, **changes: object) -> Trainer:
    """A DYNAT training as the paper sets it up, on random images."""
    target, guide = pair.split(":")
    fields: dict[str, object] = {
        "method": "at",
        "labels": "dynamic",
        "target": target,
        "guide": guide,
        "beta": 1.0,
        "clean_forward": True,
        "batch": batch,
        "inner": InnerAttack(eps=0.031, steps=10, step_size=0.007),
    }
    run = Run.model_validate({**fields, **changes})
    trainer = Trainer(run, ThreatModel(eps=0.031), noise_data(2 * batch), seed=0, device=device)
    trainer.begin_epoch()
    trainer._set_rate(0.01)
    return trainer


def variant(name: str, pair: str, batch: int, device: torch.device) -> Work:
    """One step of this kind on its own networks; all kinds get the same images."""
    image_set = noise_data(2 * batch).train.to(device)
    x, y = image_set.images[:batch].float() / 255, image_set.labels[:batch]
    if name in ("authors", "authors-strict", "label-once"):
        target, guide = (models.build(net, classes=CLASSES, channels=3).to(device) for net in pair.split(":"))
        optimizer = torch.optim.SGD([*target.parameters(), *guide.parameters()], 0.01, 0.9, weight_decay=2e-4)
        once = name == "label-once"
        with_tf32 = name != "authors-strict"

        def authors() -> None:
            with torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=with_tf32):
                authors_step(target, guide, optimizer, x, y, label_once=once)

        return authors
    bfloat16 = name == "bfloat16" or (device.type == "cuda" and name not in ("unfolded", "ours"))
    trainer = our_trainer(
        pair,
        batch,
        device,
        precision="bfloat16" if bfloat16 else "float32",
        compile="compile" in name,
        cuda_graph="cuda_graph" in name,
    )
    if name != "unfolded":

        def step() -> None:
            trainer.step(x, y)
            check_no_fallback(trainer)

        return step

    def unfolded() -> None:
        with without_surrogate():
            trainer.step(x, y)

    return unfolded


def check_no_fallback(trainer: Trainer) -> None:
    """A step that fell back to eager execution must not be timed under the name of the fast one."""
    networks = [net for net in (trainer.networks.target, trainer.networks.guide) if isinstance(net, MixedPrecision)]
    surrogates = [surrogate for net in networks for surrogate in net._surrogate]
    if any(code.run is code.net for part in (*networks, *surrogates) for code in part._compiled):
        raise RuntimeError("torch.compile failed; the warning above says why")
    if isinstance(trainer.run_step, CUDAGraphStep) and trainer.run_step.eager:
        raise RuntimeError("the step could not be recorded; the warning above says why")


@contextmanager
def without_surrogate() -> Iterator[None]:
    """For the ablation: PGD without the folded surrogate."""
    with mock.patch("dynat.training.step.surrogate_of", lambda network: network):
        yield


def usable(device: torch.device) -> list[str]:
    """The variants that are useful on this device."""
    if device.type == "cuda":
        return list(VARIANTS)
    bfloat16 = ["bfloat16"] if compute_dtype("auto", device) == torch.bfloat16 else []
    return ["authors", "label-once", "unfolded", "ours", *bfloat16]


def measure(
    pair: str, batch: int, device: torch.device, names: list[str], *, rounds: int, repeats: int, top: float
) -> list[Row]:
    """A row per variant; one that fails is a row with its error and costs no other."""
    work, rows, memory = {}, {}, {}
    for name in names:
        started = time.perf_counter()
        gc.collect()  # trainers refer to themselves, so those of another pair are not freed before
        try:
            if device.type == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
                before = torch.cuda.memory_allocated()
            step = variant(name, pair, batch, device)
            for _ in range(4 if device.type == "cuda" else 1):  # libraries choose kernels, compilers compile
                step()
            finish(device)
            work[name] = step
            if device.type == "cuda":
                memory[name] = (torch.cuda.max_memory_allocated() - before) / 2**30
        except Exception as error:
            rows[name] = {"pair": pair, "step": name, "error": f"{type(error).__name__}: {str(error)[:300]}"}
        print(f"{pair} {name}: warm after {time.perf_counter() - started:.1f} s {rows.get(name, '')}", flush=True)
    if not work:
        return list(rows.values())
    seconds = alternating(work, device, rounds=rounds, repeats=repeats)
    faster = ratios(seconds, next(iter(work)))
    for name, values in seconds.items():
        median = statistics.median(values)
        rows[name] = {
            "pair": pair,
            "step": name,
            "ms": 1e3 * median,
            "spread ms": 1e3 * (max(values) - min(values)),
            f"times {next(iter(work))}": faster[name],
            "images/s": batch / median,
            "GFLOP/s": step_flops(pair, batch) / median / 1e9,
            "share of ceiling": step_flops(pair, batch) / median / top,
            **({"peak GiB": memory[name]} if name in memory else {}),
        }
    return [rows[name] for name in names]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options.add_argument("--pairs", nargs="+", default=PAIRS, help="target:guide")
    options.add_argument("--batch", type=int, default=128)
    options.add_argument("--rounds", type=int, default=5, help="rounds in which every variant is timed once")
    options.add_argument("--repeats", type=int, default=1, help="steps per timing")
    options.add_argument("--variants", nargs="+", choices=VARIANTS, help="by default, those useful on this device")
    options.add_argument("--json", type=Path, default=Path("benchmarks/out/step.json"))
    chosen = options.parse_args()
    device = torch.device(chosen.device)
    set_up_cpu(None)
    torch.backends.cudnn.benchmark = True
    bfloat16 = device.type == "cuda"
    top = matrix_rate(device, torch.bfloat16 if bfloat16 else torch.float32, 8192 if bfloat16 else 2048)
    rows = []
    for pair in chosen.pairs:
        names = chosen.variants or usable(device)
        rows += measure(pair, chosen.batch, device, names, rounds=chosen.rounds, repeats=chosen.repeats, top=top)
    about = {**machine(device), "batch": chosen.batch, "rounds": chosen.rounds, "steps per timing": chosen.repeats}
    about["ceiling GFLOP/s (matrix product)"] = round(top / 1e9, 1)
    write(chosen.json, {**about, "rows": rows})
    print("\n" + "\n".join(f"{key}: {value}" for key, value in about.items()) + "\n\n" + table(rows))


if __name__ == "__main__":
    main()
