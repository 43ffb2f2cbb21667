"""One AutoAttack shared between two jobs: wall time and processor time against one job, and whether files are equal.

    python benchmarks/shards.py --images 200 --rounds 3

Each round attacks a small network, adversarially trained on the digits, once in one process and once in two that run
at the same time, each with one thread; what Snakemake starts is the same. Then `dynat attack` joins the batches. The
table says how much longer one process took: the median over rounds of the ratio within a round.
"""

from __future__ import annotations

import argparse
import filecmp
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from common import Row, machine, table, write

ROOT = Path(__file__).parents[1]
TRAINING = ("training.epochs=12", "seeds=0")


def dynat(folder: Path, *words: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "dynat", *words, "--threads", "1", "--device", "cpu"]
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL)


def finish(*processes: subprocess.Popen[bytes]) -> None:
    for process in processes:
        if process.wait():
            raise RuntimeError(f"failed: {process.args!r}")


def attack(folder: Path, state: str, jobs: int, settings: list[str]) -> Row:
    """Seconds and processor seconds of one attack that so many processes share, with the job that joins them."""
    words = ["attack", "at", "autoattack", "--state", state, *settings]
    began, spent = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    if jobs > 1:
        finish(*(dynat(folder, *words, "--shard", f"{number}-of-{jobs}") for number in range(1, jobs + 1)))
    finish(dynat(folder, *words))
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = used.ru_utime + used.ru_stime - spent.ru_utime - spent.ru_stime
    return {"jobs": jobs, "s": time.perf_counter() - began, "processor s": processor}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=200, help="test images")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks/out/shards.json")
    options = parser.parse_args()
    batch = max(1, options.images // (4 * options.jobs))
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "config").symlink_to(ROOT / "config")
        (folder / "params.yaml").write_text("preset: digits\n")
        attacks = f"attacks={{clean: {{}}, autoattack: {{images: {options.images}, batch: {batch}}}}}"
        settings = [word for value in (*TRAINING, attacks) for word in ("--set", value)]
        subprocess.run(
            [sys.executable, "-m", "dynat", "data"],
            cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        finish(dynat(folder, "train", "at", *settings))
        outcome = folder / "results/digits/at/outcomes/autoattack.csv"
        for number in range(options.rounds):
            for jobs in (1, options.jobs):
                rows.append({"round": number, **attack(folder, f"state-{number}-{jobs}", jobs, settings)})
                copy = folder / f"{number}-{jobs}.csv"
                outcome.rename(copy)
                if not filecmp.cmp(folder / "0-1.csv", copy, shallow=False):
                    raise AssertionError(f"{jobs} jobs gave other verdicts than one")
                print(table(rows[-1:]).splitlines()[1], flush=True)
    pairs = list(zip(rows[::2], rows[1::2], strict=True))
    summary = {
        "one job, s": statistics.median(one["s"] for one, _ in pairs),
        f"{options.jobs} jobs, s": statistics.median(more["s"] for _, more in pairs),
        "speedup": statistics.median(one["s"] / more["s"] for one, more in pairs),
        "processor time": statistics.median(more["processor s"] / one["processor s"] for one, more in pairs),
    }
    print(f"{options.images} images in batches of {batch}, {options.rounds} rounds; the same file from every call")
    print(table([summary]))
    write(options.json, {**machine(torch.device("cpu")), "rows": rows, **summary})


if __name__ == "__main__":
    main()
