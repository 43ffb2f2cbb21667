"""The overhead of the pipeline beside its jobs: a small experiment, one job at a time, in a copy of the project.

    python benchmarks/dag.py

Three numbers: seconds of the whole call, seconds that Snakemake recorded inside jobs, and seconds of a second
call with nothing to do.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from common import machine, table, write

ROOT = Path(__file__).parents[1]
EXPERIMENT = ("preset=digits", "select=[at,dynat]", "seeds=[0]", "training={epochs: 2}", "attacks=[clean,pgd-5]")


def copy_project(to: Path) -> None:
    """Copies tracked files and untracked ones that git does not ignore, so no old result is used."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            (to / name).write_bytes((ROOT / name).read_bytes())


def call(folder: Path) -> float:
    """Seconds of one call of the pipeline."""
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "all"]
    command += ["--config", *EXPERIMENT, "headline=pgd-5"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    started = time.perf_counter()
    process = subprocess.run(command, cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True)
    if process.returncode:
        raise RuntimeError(f"the pipeline failed:\n{process.stderr[-2000:]}")
    return time.perf_counter() - started


def recorded_jobs(folder: Path) -> tuple[int, float]:
    """How many jobs Snakemake recorded, and their seconds; a job has a record per output, all with its log."""
    jobs: dict[str, list[float]] = {}
    for file in (folder / ".snakemake" / "metadata").rglob("*"):
        if file.is_file():
            record = json.loads(file.read_text())
            jobs.setdefault(str(record["log"]), []).extend([record["starttime"], record["endtime"]])
    return len(jobs), sum(max(times) - min(times) for times in jobs.values())


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--json", type=Path, default=Path("benchmarks/out/dag.json"))
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        copy_project(folder)
        whole = call(folder)
        jobs, inside = recorded_jobs(folder)
        idle = sorted(call(folder) for _ in range(3))[1]
    row = {
        "jobs": jobs,
        "whole call s": whole,
        "inside jobs s": inside,
        "overhead s": whole - inside,
        "overhead share": f"{(whole - inside) / whole:.0%}",
        "nothing to do s": idle,
    }
    about = {**machine(torch.device("cpu")), "n": "one call; nothing to do: median of 3"}
    write(chosen.json, {**about, "row": row})
    print("\n" + "\n".join(f"{key}: {value}" for key, value in about.items()) + "\n\n" + table([row]))


if __name__ == "__main__":
    main()
