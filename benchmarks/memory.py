"""Peak memory of a training step on a CPU: each variant in its own process, minus the memory of imports.

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


def measure_variant(name: str, pair: str, batch: int) -> None:
    """Run two steps in this process and print how much they raised its peak memory."""
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
        measure_variant(chosen.one, chosen.pair, chosen.batch)
        return
    rows = []
    for name in chosen.variants:
        command = [sys.executable, __file__, "--one", name, "--pair", chosen.pair, "--batch", str(chosen.batch)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        rows.append({"pair": chosen.pair, "step": name, "peak MiB": round(float(output[-1]))})
    about = {**machine(torch.device("cpu")), "batch": chosen.batch, "n": "two steps in one process each"}
    write(chosen.json, {**about, "rows": rows})
    print("\n" + "\n".join(f"{key}: {value}" for key, value in about.items()) + "\n\n" + table(rows))


if __name__ == "__main__":
    main()
