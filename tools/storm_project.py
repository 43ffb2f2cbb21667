"""A small project in a folder, for tools/storm.py: handwritten digits, a small network, one run, two attacks."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PARAMS = """
preset: digits
select: [at]
seeds: [0]
training: {target: small, epochs: 12, batch: 64, validation: {steps: 2}}
attacks: {clean: {}, pgd-20: {batch: 32}}
headline: pgd-20
sanity: {images: 20, queries: 20}
"""
PRESET, RUN, ATTACK = "digits", "at", "pgd-20"
SHORTEST_LIMIT = 300.0
SLOWDOWN = 10
"""A command counts as hanging after this many times the seconds of the undisturbed pipeline, of which each is a part:
other programs of the machine may slow it down."""


class Project:
    """A copy of the project in a folder, and commands in it."""

    def __init__(self, folder: Path, limit: float = 3600.0) -> None:
        self.folder = folder
        self.limit = limit
        """Seconds after which a command counts as hanging."""

    @classmethod
    def create(cls, folder: Path) -> Project:
        for part in ("workflow", "config", "dynat"):
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        (folder / "params.yaml").write_text(PARAMS)
        return cls(folder)

    def copied_to(self, folder: Path) -> Project:
        shutil.copytree(self.folder, folder, symlinks=True)
        return Project(folder, self.limit)

    def run_undisturbed(self) -> None:
        """Run the whole pipeline. Its time gives the limit of all later commands."""
        began = time.monotonic()
        code, output = self.snakemake("all")
        if code:
            sys.exit(f"the undisturbed pipeline failed:\n{output[-3000:]}")
        self.limit = max(SHORTEST_LIMIT, SLOWDOWN * (time.monotonic() - began))

    def start(self, *words: str) -> subprocess.Popen[str]:
        """A command in a process group of its own. Its output goes to output.txt."""
        environment = {**os.environ, "PYTHONPATH": str(self.folder), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
        with (self.folder / "output.txt").open("w") as output:
            return subprocess.Popen(
                words,
                cwd=self.folder,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )

    def call(self, *words: str) -> tuple[int, str]:
        """Exit code and output of a command; one that hangs is killed and has the code -9."""
        process = self.start(*words)
        try:
            process.wait(self.limit)
        except subprocess.TimeoutExpired:
            kill(process)
            return process.returncode, f"{self.output()}\nkilled: had not ended after {self.limit:.0f} s"
        return process.returncode, self.output()

    def output(self) -> str:
        """What the last command wrote."""
        return (self.folder / "output.txt").read_text()

    def dynat(self, *words: str) -> tuple[int, str]:
        return self.call(*dynat(*words))

    def snakemake(self, *words: str) -> tuple[int, str]:
        return self.call(*snakemake(*words))


def dynat(*words: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "dynat", *words)


def snakemake(*words: str) -> tuple[str, ...]:
    return (str(Path(sys.executable).with_name("snakemake")), "--cores", "1", *words)


def kill(process: subprocess.Popen[str]) -> None:
    """SIGKILL for the process and all that it started, which are in its process group."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
