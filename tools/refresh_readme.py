"""Refresh what the documents show: output of commands, tables and figures of the results in this folder.

make readme
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from dynat.results.paths import Paths

ROOT = Path(__file__).parents[1]
PATHS = Paths(results=ROOT / "results")
PAGES = ("README.md", "config/README.md", "docs/digits-full.md", "docs/evaluation.md", "docs/method.md")
TABLE = re.compile(r"(<!-- table:(\S+)/(\S+) -->).*?(<!-- end -->)", flags=re.DOTALL)
"""A table of results: preset and name."""
FIGURE = re.compile(r"\((?:docs/)?images/(\S+?)/(\S+?)\.png\)")
"""A figure of results: preset and name."""


def with_output(page: str) -> str:
    """The page with what the commands in its console blocks (`$ dynat ...`) print now."""
    return re.sub(r"(?<=```console\n).*?(?=```)", lambda block: _run_all(block[0]), page, flags=re.DOTALL)


def _run_all(block: str) -> str:
    commands = [line for line in block.splitlines() if line.startswith("$ dynat ")]
    return "\n\n".join(f"{command}\n{_output(command)}" for command in commands) + "\n"


def _output(command: str) -> str:
    call = [sys.executable, "-m", *shlex.split(command.removeprefix("$ "))]
    environment = {**os.environ, "COLUMNS": "100"}
    done = subprocess.run(call, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    return "\n".join(line.rstrip() for line in (done.stdout + done.stderr).splitlines()).strip("\n")


def with_tables(page: str) -> str:
    """The page with the tables that its marks name, as they are in results/ now."""

    def table(mark: re.Match[str]) -> str:
        file = PATHS.experiment(mark[2]).table(mark[3], "md")
        return f"{mark[1]}\n\n{file.read_text().strip()}\n\n{mark[4]}" if file.exists() else mark[0]

    return TABLE.sub(table, page)


def copy_figures(page: str) -> None:
    """Copy the figures that a page shows (images/<preset>/<figure>.png) where their preset has been run."""
    for preset, name in FIGURE.findall(page):
        source = PATHS.experiment(preset).figure(name, "png")
        if source.exists():
            target = ROOT / "docs" / "images" / preset / source.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)


if __name__ == "__main__":
    for file in map(ROOT.joinpath, PAGES):
        file.write_text(with_tables(with_output(file.read_text())))
        copy_figures(file.read_text())
