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
RESULTS = ROOT / "results" / "digits"
MARK = "<!-- table:digits -->"


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


if __name__ == "__main__":
    for page in (ROOT / "README.md", ROOT / "config" / "README.md"):
        page.write_text(answered(page.read_text()))
    table = f"{MARK}\n\n{(RESULTS / 'tables' / 'main.md').read_text().strip()}\n\n{MARK}"
    text = (ROOT / "README.md").read_text()
    (ROOT / "README.md").write_text(re.sub(f"{MARK}.*{MARK}", lambda _: table, text, flags=re.DOTALL))
    for name in ("tradeoff", "epochs"):
        shutil.copyfile(RESULTS / "figures" / f"{name}.png", ROOT / "docs" / "images" / f"{name}.png")
