"""What the documents show, made anew: commands and their answers, the table and figures of results/digits.

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

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
TABLE = re.compile(r"(<!-- table:(\S+)/(\S+) -->).*?(<!-- end -->)", flags=re.DOTALL)
FIGURE = re.compile(r"\(images/(\S+?)/(\S+?\.png)\)|\(docs/images/(\S+?)/(\S+?\.png)\)")


def answered(page: str) -> str:
    """The page with what `$ dynat ...` really answers in its console blocks."""
    return re.sub(r"(?<=```console\n).*?(?=```)", lambda block: _answers(block[0]), page, flags=re.DOTALL)


def _answers(block: str) -> str:
    commands = [line for line in block.splitlines() if line.startswith("$ dynat ")]
    return "\n\n".join(f"{command}\n{_said(command)}" for command in commands) + "\n"


def _said(command: str) -> str:
    call = [sys.executable, "-m", *shlex.split(command.removeprefix("$ "))]
    environment = {**os.environ, "COLUMNS": "100"}
    done = subprocess.run(call, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    return "\n".join(line.rstrip() for line in (done.stdout + done.stderr).splitlines()).strip("\n")


def tabled(page: str) -> str:
    """The page with the tables that its marks name, as they are in results/ now."""

    def table(mark: re.Match[str]) -> str:
        file = RESULTS / mark[2] / "tables" / f"{mark[3]}.md"
        return f"{mark[1]}\n\n{file.read_text().strip()}\n\n{mark[4]}" if file.exists() else mark[0]

    return TABLE.sub(table, page)


def copy_figures(page: str) -> None:
    """The pictures that a page shows (images/<preset>/<figure>.png), where their preset has been run."""
    for first, name, other, same in FIGURE.findall(page):
        preset, file = first or other, name or same
        source = RESULTS / preset / "figures" / file
        if source.exists():
            place = ROOT / "docs" / "images" / preset / file
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, place)


if __name__ == "__main__":
    for page in map(ROOT.joinpath, ("README.md", "config/README.md", "docs/digits-full.md", "docs/examination.md")):
        page.write_text(tabled(answered(page.read_text())))
        copy_figures(page.read_text())
