"""A copy of the project in a folder of its own, and Snakemake in it: for tests of the pipeline, scheduling and DVC."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any, Self

from tests import tiny

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent

Jobs = Counter[tuple[str, str]]
"""How many jobs, by rule and run."""


class Project:
    """A copy of what the pipeline consists of, the package too, so that edits of the original do not disturb it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def create(cls, folder: Path) -> Self:
        for part in ("workflow", "config", "dynat"):
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        (folder / "config/presets/tiny.yaml").write_text(tiny.PRESET)
        project = cls(folder)
        project.params("preset: tiny\nbeta: 1.0\n")
        return project

    def copied_to(self, folder: Path) -> Self:
        shutil.copytree(self.folder, folder, symlinks=True)
        return type(self)(folder)

    def params(self, text: str) -> None:
        (self.folder / "params.yaml").write_text(text)

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(self.folder), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}

    def call(self, *words: str | Path, **environment: str) -> tuple[int, str]:
        """Exit code and output of a command."""
        done = subprocess.run(
            words,
            cwd=self.folder,
            env={**self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout

    def snakemake(self, *words: str) -> Any:
        """Exit code and output of Snakemake on one core."""
        return self.call(BIN / "snakemake", "--cores", "1", *words)

    def would_run(self, *words: str) -> Jobs:
        """The jobs of a dry run, by rule and run."""
        code, output = self.snakemake("-n", *words)
        assert code == 0, output
        jobs: Jobs = Counter()
        for rule, block in rule_blocks(output):
            run = re.search(r"wildcards: (?:.*, )?run=([^,\n]+)", block)
            jobs[rule, run[1] if run else ""] += 1
        return jobs

    def results(self, *parts: str) -> Path:
        return self.folder.joinpath("results", "tiny", *parts)


def rule_blocks(output: str) -> list[tuple[str, str]]:
    """Every job in the output of Snakemake: the name of its rule, and its lines."""
    blocks = re.split(r"\n(?=(?:local)?rule )", output)[1:]
    return [(block.partition(":")[0].rpartition(" ")[2], block) for block in blocks]
