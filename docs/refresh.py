"""Put the table and the figures of results/digits into README.md: make readme."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results" / "digits"
FIGURES = ("tradeoff", "epochs")
MARK = "<!-- table:digits -->"


def main() -> None:
    table = (RESULTS / "tables" / "main.md").read_text().strip()
    readme = ROOT / "README.md"
    text, found = re.subn(
        f"{MARK}.*{MARK}", lambda _: f"{MARK}\n\n{table}\n\n{MARK}", readme.read_text(), flags=re.DOTALL
    )
    assert found == 1, f"README.md: expected one pair of {MARK}, found {found}"
    readme.write_text(text)
    for name in FIGURES:
        shutil.copyfile(RESULTS / "figures" / f"{name}.png", ROOT / "docs" / "images" / f"{name}.png")


if __name__ == "__main__":
    main()
