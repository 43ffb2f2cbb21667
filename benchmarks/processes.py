"""Trainings of small networks: one process with all cores, or a process per core? Images per second of both.

    python benchmarks/processes.py
    python benchmarks/processes.py --pairs resnet8-32:resnet8-32 --processes 4 --rounds 5

In each round, one process with N threads trains alone, then N processes with one thread each train at the same time,
each with its own networks and images. All of them start their steps together, and the images per second are those of
all processes together. The pipeline chooses between the two with --cores and `threads` in params.yaml.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.synchronize import Barrier
from pathlib import Path

import torch
from common import Row, machine, table, write
from step import PAIRS, variant

from dynat.runtime.device import set_up_cpu

SMALL = PAIRS[1:]


together: Barrier
"""In a worker: where all of them wait before the first step that is timed."""


def set_up(barrier: Barrier, threads: int) -> None:
    global together
    together = barrier
    set_up_cpu(threads)


def train(pair: str, batch: int, steps: int) -> tuple[float, float]:
    """Some steps of a training; when they began and ended, by a clock that all processes share."""
    step = variant("ours", pair, batch, torch.device("cpu"))
    step()
    together.wait(timeout=600)
    began = time.monotonic()
    for _ in range(steps):
        step()
    return began, time.monotonic()


def images_per_second(pair: str, batch: int, steps: int, *, processes: int, threads: int) -> float:
    """All images of all processes, over the time from the first step of any of them to the last."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(processes)
    with ProcessPoolExecutor(processes, context, set_up, (barrier, threads)) as pool:
        jobs = [pool.submit(train, pair, batch, steps) for _ in range(processes)]
        times = [job.result() for job in jobs]
    return processes * steps * batch / (max(end for _, end in times) - min(began for began, _ in times))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--pairs", nargs="+", default=SMALL, help="target:guide")
    options.add_argument("--processes", type=int, default=os.cpu_count(), help="by default, the cores of this machine")
    options.add_argument("--batch", type=int, default=128)
    options.add_argument("--steps", type=int, default=5, help="per process and round")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--json", type=Path, default=Path("benchmarks/out/processes.json"))
    chosen = options.parse_args()
    many = chosen.processes
    rows: list[Row] = []
    for pair in chosen.pairs:
        rounds = []
        for _ in range(chosen.rounds):
            one = images_per_second(pair, chosen.batch, chosen.steps, processes=1, threads=many)
            several = images_per_second(pair, chosen.batch, chosen.steps, processes=many, threads=1)
            rounds.append((one, several))
        rows.append(
            {
                "pair": pair,
                f"one process, {many} threads, images/s": statistics.median(one for one, _ in rounds),
                f"{many} processes, images/s": statistics.median(several for _, several in rounds),
                "ratio": statistics.median(several / one for one, several in rounds),
                "ratios of the rounds": ", ".join(f"{several / one:.2f}" for one, several in rounds),
            }
        )
        print(table(rows[-1:]), flush=True)
    about = {**machine(torch.device("cpu")), "batch": chosen.batch, "steps": chosen.steps, "rounds": chosen.rounds}
    write(chosen.json, {**about, "rows": rows})


if __name__ == "__main__":
    main()
