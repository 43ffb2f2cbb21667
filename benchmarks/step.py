"""Training steps side by side in one process: the authors' restated step against ours, alternating.

    python benchmarks/step.py --device cuda            # minutes on a GPU; prints its table last
    python benchmarks/step.py --device cpu --pairs resnet18:resnet18 --batch 32 --rounds 3

FLOPs are counted by formula: 2 per multiply-add, forwards and backwards of methods' minimum (24 F + 3 G for
DYNAT, with its clean BatchNorm forward); the ceiling is a large bfloat16 matrix product on random data.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from authors_step import authors_step

from dynat import models
from dynat.config import Run, Threat
from dynat.config.parts import Inner
from dynat.data import Dataset, Pictures
from dynat.training.trainer import Trainer

CLASSES, SIDE = 10, 32


def multiply_adds(name: str) -> float:
    """Multiply-adds of one forward on one 32x32 picture, counted on a network without storage."""
    with torch.device("meta"):
        network = models.build(name, classes=CLASSES, channels=3)
        total = 0

        def count(module: torch.nn.Module, _: object, output: torch.Tensor) -> None:
            nonlocal total
            if isinstance(module, torch.nn.Conv2d):
                total += output.numel() * module.weight[0].numel()
            elif isinstance(module, torch.nn.Linear):
                total += module.weight.numel()

        for module in network.modules():
            module.register_forward_hook(count)
        network.eval()(torch.empty(1, 3, SIDE, SIDE))
    return float(total)


def noise_data(pictures: int) -> Dataset:
    """Random pictures: convolutions of zeros would be faster than those of real ones."""
    generator = torch.Generator().manual_seed(0)

    def some(count: int) -> Pictures:
        images = torch.randint(0, 256, (count, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator)
        return Pictures(images, torch.randint(CLASSES, (count,), generator=generator))

    classes = tuple(map(str, range(CLASSES)))
    return Dataset("noise", classes, some(pictures), some(100), some(10), "none")


def our_trainer(pair: str, batch: int, device: torch.device, **changes: object) -> Trainer:
    target, guide = pair.split(":")
    run = Run.model_validate(
        {
            "method": "at",
            "labels": "dynamic",
            "target": target,
            "guide": guide,
            "beta": 1.0,
            "clean_forward": True,
            "batch": batch,
            "inner": Inner(eps=0.031, steps=10, step_size=0.007),
            **changes,
        }
    )
    return Trainer(run, Threat(eps=0.031), noise_data(2 * batch), seed=0, device=device)


def ceiling(device: torch.device) -> float:
    """FLOP/s of a large bfloat16 matrix product on random data."""
    side = 8192 if device.type == "cuda" else 1024
    a = torch.randn(side, side, device=device, dtype=torch.bfloat16)
    b = torch.randn(side, side, device=device, dtype=torch.bfloat16)
    seconds = timed(lambda: torch.mm(a, b), device, repeats=10)
    return 2 * side**3 / statistics.median(seconds)


def timed(work: Callable[[], object], device: torch.device, repeats: int, warm_up: int = 3) -> list[float]:
    def finish() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    for _ in range(warm_up):
        work()
    seconds = []
    for _ in range(repeats):
        finish()
        began = time.perf_counter()
        work()
        finish()
        seconds.append(time.perf_counter() - began)
    return seconds


def variants(pair: str, batch: int, device: torch.device, wanted: list[str]) -> dict[str, Callable[[], object]]:
    """The steps to compare, by name, each on networks of its own and the same pictures."""
    pictures = noise_data(2 * batch).train.to(device)
    x, y = pictures.images[:batch].float() / 255, pictures.labels[:batch]
    made: dict[str, Callable[[], object]] = {}
    if "authors" in wanted:
        names = pair.split(":")
        target, guide = (models.build(name, classes=CLASSES, channels=3).to(device) for name in names)
        optimiser = torch.optim.SGD(
            [*target.parameters(), *guide.parameters()], lr=0.1, momentum=0.9, weight_decay=2e-4
        )
        made["authors"] = lambda: authors_step(target, guide, optimiser, x, y)
    for precision in ("float32", "bfloat16"):
        if precision in wanted:
            trainer = our_trainer(pair, batch, device, precision=precision)
            trainer.pair.train()
            made[precision] = lambda trainer=trainer: trainer._step(x, y)
    return made


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options.add_argument(
        "--pairs",
        nargs="+",
        default=["resnet18:resnet18", "resnet18:resnet18-heavy", "wrn34-10:resnet18-heavy"],
    )
    options.add_argument("--batch", type=int, default=128)
    options.add_argument("--rounds", type=int, default=7, help="rounds in which every variant is timed once")
    options.add_argument("--steps", type=int, default=5, help="steps per timing")
    options.add_argument("--variants", nargs="+", default=["authors", "float32", "bfloat16"])
    options.add_argument("--json", type=Path, help="also write the numbers here")
    chosen = options.parse_args()
    device = torch.device(chosen.device)
    top = ceiling(device)
    machine = (
        torch.cuda.get_device_name()
        if device.type == "cuda"
        else f"{platform.machine()}, {torch.get_num_threads()} threads"
    )
    rows = []
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
    for pair in chosen.pairs:
        f, g = map(multiply_adds, pair.split(":"))
        work = 2 * (24 * f + 3 * g) * chosen.batch
        made = variants(pair, chosen.batch, device, chosen.variants)
        seconds: dict[str, list[float]] = {name: [] for name in made}
        for name, step in list(made.items()):
            began = time.perf_counter()
            try:
                timed(step, device, repeats=1, warm_up=5)
            except Exception as error:  # one variant that fails must not cost the others
                print(f"{pair} {name}: FAILED: {type(error).__name__}: {str(error)[:800]}", flush=True)
                del made[name], seconds[name]
                continue
            print(f"{pair} {name}: warm after {time.perf_counter() - began:.1f} s", flush=True)
        for _ in range(chosen.rounds):
            for name, step in made.items():
                once = timed(lambda step=step: [step() for _ in range(chosen.steps)], device, 1, warm_up=0)
                seconds[name].append(once[0] / chosen.steps)
        slowest = statistics.median(next(iter(seconds.values())))
        for name, values in seconds.items():
            median = statistics.median(values)
            rows.append(
                {
                    "pair": pair,
                    "step": name,
                    "ms": 1e3 * median,
                    "spread_ms": 1e3 * (max(values) - min(values)),
                    "pictures_per_s": chosen.batch / median,
                    "ratio": slowest / median,
                    "tflops": work / median / 1e12,
                    "of_ceiling": work / median / top,
                }
            )
        del made
        if device.type == "cuda":
            print(f"{pair}: peak memory {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")
            torch.cuda.empty_cache()
    print(f"\n{machine}, torch {torch.__version__}, batch {chosen.batch}")
    print(f"median of {chosen.rounds} rounds of {chosen.steps} steps")
    print(f"bfloat16 matrix product: {top / 1e12:.1f} TFLOP/s")
    print(f"{'target:guide':26}{'step':10}{'ms':>9}{'+-':>7}{'pict/s':>9}{'ratio':>7}{'TFLOP/s':>9}{'of top':>8}")
    for row in rows:
        print(
            f"{row['pair']:26}{row['step']:10}{row['ms']:9.2f}{row['spread_ms']:7.2f}{row['pictures_per_s']:9.0f}"
            f"{row['ratio']:7.2f}{row['tflops']:9.1f}{row['of_ceiling']:8.1%}"
        )
    if chosen.json:
        about = {
            "machine": machine,
            "torch": torch.__version__,
            "batch": chosen.batch,
            "ceiling_tflops": top / 1e12,
        }
        chosen.json.write_text(
            json.dumps({**about, "rounds": chosen.rounds, "steps": chosen.steps, "rows": rows}, indent=2)
        )


if __name__ == "__main__":
    main()
