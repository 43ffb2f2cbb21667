"""Peak memory of a training step on a CPU: each variant in a process of its own, less what imports take.

    python benchmarks/memory.py --batch 128

(On a GPU, benchmarks/step.py and benchmarks/gpu.py report the allocator's peak.)
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
from pathlib import Path

import torch
from common import machine, table, write
from step import variant


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def one(name: str, pair: str, batch: int) -> None:
    """In a process of its own: two steps, then the peak above what was there before them."""
    before = peak_mib()
    step = variant(name, pair, batch, torch.device("cpu"))
    step()
    step()
    print(peak_mib() - before)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--pair", default="resnet18:resnet18")
    options.add_argument("--batch", type=int, default=128)
    options.add_argument("--variants", nargs="+", default=["authors", "ours"])
    options.add_argument("--one", help=argparse.SUPPRESS)
    options.add_argument("--json", type=Path, default=Path("benchmarks/out/memory.json"))
    chosen = options.parse_args()
    if chosen.one:
        one(chosen.one, chosen.pair, chosen.batch)
        return
    rows = []
    for name in chosen.variants:
        words = [sys.executable, __file__, "--one", name, "--pair", chosen.pair, "--batch", str(chosen.batch)]
        said = subprocess.run(words, check=True, capture_output=True, text=True).stdout.split()
        rows.append({"pair": chosen.pair, "step": name, "peak MiB": round(float(said[-1]))})
    about = {**machine(torch.device("cpu")), "batch": chosen.batch, "n": "two steps in one process each"}
    write(chosen.json, {**about, "rows": rows})
    print("\n" + "\n".join(f"{key}: {value}" for key, value in about.items()) + "\n\n" + table(rows))


if __name__ == "__main__":
    main()
