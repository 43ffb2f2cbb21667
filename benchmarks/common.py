"""What every benchmark shares: a description of the machine, alternating timings, a printed table and a JSON file."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in the pipeline's jobs; read when torch is loaded

import torch

from dynat import models
from dynat.data import Dataset, LabeledImages
from dynat.runtime.device import describe

CLASSES, SIDE = 10, 32
Row = dict[str, Any]


def machine(device: torch.device) -> dict[str, Any]:
    """The machine and the versions with which a number was measured."""
    versions: dict[str, Any] = {"torch": torch.__version__, "python": platform.python_version()}
    if device.type == "cuda":
        return {"machine": describe(device), "cuda": torch.version.cuda, **versions}
    return {"machine": describe(device), "threads": torch.get_num_threads(), **versions}


def multiply_adds(name: str) -> float:
    """Multiply-adds of one forward on one 32x32 image, counted on a network without weights."""
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


def step_flops(pair: str, batch: int) -> float:
    """Operations of a DYNAT step at its minimum, 24 F + 3 G, two per multiply-add."""
    f, g = map(multiply_adds, pair.split(":"))
    return 2 * (24 * f + 3 * g) * batch


def noise_data(images: int) -> Dataset:
    """Random images: convolutions of zeros would be faster than those of real ones."""
    generator = torch.Generator().manual_seed(0)

    def noise(count: int) -> LabeledImages:
        images = torch.randint(0, 256, (count, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator)
        return LabeledImages(images, torch.randint(CLASSES, (count,), generator=generator))

    classes = tuple(map(str, range(CLASSES)))
    return Dataset("noise", classes, noise(images), noise(100), noise(10), "none")


def finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def alternating(
    work: Mapping[str, Callable[[], object]],
    device: torch.device,
    *,
    rounds: int,
    repeats: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds per call; every round times each once, so that other load on the machine affects all of them.

    With `clock=time.process_time`, of one thread, time in which other programs run does not count.
    """
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds):
        for name, call in work.items():
            finish(device)
            started = clock()
            for _ in range(repeats):
                call()
            finish(device)
            seconds[name].append((clock() - started) / repeats)
    return seconds


def ratios(seconds: Mapping[str, list[float]], reference: str) -> dict[str, float]:
    """How many times faster than the reference: the median over rounds of the ratio within a round."""
    return {
        name: statistics.median(a / b for a, b in zip(seconds[reference], values, strict=True))
        for name, values in seconds.items()
    }


def matrix_rate(device: torch.device, dtype: torch.dtype, side: int) -> float:
    """FLOP/s of a large matrix product on random data: the ceiling for the rate of a step."""
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    seconds = alternating({"mm": lambda: torch.mm(a, b)}, device, rounds=10)["mm"][3:]
    return 2 * side**3 / statistics.median(seconds)


def table(rows: Iterable[Row]) -> str:
    """Rows as aligned text, columns in order of appearance."""
    rows = list(rows)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [columns, *([_cell(row.get(column, "")) for column in columns] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in cells)


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def write(path: Path | None, content: Mapping[str, Any]) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=2, default=str) + "\n")
