"""What the pipeline costs beside its jobs: a small experiment, one job at a time, in a copy of the project.

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
EXPERIMENT = ("preset=digits", "methods=[at,dynat]", "seeds=[0]", "training={epochs: 2}", "attacks=[clean,pgd-5]")


def copy_of_the_project(to: Path) -> None:
    """What git knows or would take, so that nothing here is touched and no old result is found."""
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
    words = [sys.executable, "-m", "snakemake", "--cores", "1", "all"]
    words += ["--config", *EXPERIMENT, "headline=pgd-5"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    began = time.perf_counter()
    done = subprocess.run(words, cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the pipeline failed:\n{done.stderr[-2000:]}")
    return time.perf_counter() - began


def recorded(folder: Path) -> tuple[int, float]:
    """Jobs that Snakemake recorded, and their seconds; a job leaves a record per output, all with its log."""
    jobs: dict[str, list[float]] = {}
    for file in (folder / ".snakemake" / "metadata").rglob("*"):
        if file.is_file():
            said = json.loads(file.read_text())
            jobs.setdefault(str(said["log"]), []).extend([said["starttime"], said["endtime"]])
    return len(jobs), sum(max(times) - min(times) for times in jobs.values())


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--json", type=Path, default=Path("benchmarks/out/dag.json"))
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        copy_of_the_project(folder)
        whole = call(folder)
        jobs, inside = recorded(folder)
        idle = sorted(call(folder) for _ in range(3))[1]
    row = {
        "jobs": jobs,
        "whole call s": whole,
        "inside jobs s": inside,
        "beside them s": whole - inside,
        "share": f"{(whole - inside) / whole:.0%}",
        "nothing to do s": idle,
    }
    about = {**machine(torch.device("cpu")), "n": "one call; nothing to do: median of 3"}
    write(chosen.json, {**about, "row": row})
    print("\n" + "\n".join(f"{key}: {value}" for key, value in about.items()) + "\n\n" + table([row]))


if __name__ == "__main__":
    main()
