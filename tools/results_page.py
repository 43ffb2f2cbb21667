"""Write what docs/results.md, docs/method.md and README.md show of the results on real images: tables, figures, cost,
and a verdict on each claim, from the archives in docs/results.

    make results

First adds what results/ holds of the presets below to the archives. A run that is not finished is a dash.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from matplotlib import rc_context

from dynat.report import curves, plotting
from dynat.report.attack_strength import strength
from dynat.report.pairs import pairs
from dynat.report.plotting import Drawn
from dynat.report.selection import compared
from dynat.report.tradeoff import tradeoff
from dynat.results.paths import Paths
from tools.claim_tables import Judged, claim_section, verdict_table
from tools.claims import CLAIMS, Claim, beside, differences
from tools.preset_results import Results
from tools.results_archive import pack, unpack
from tools.results_tables import TABLES

ROOT = Path(__file__).parents[1]
PATHS = Paths(results=ROOT / "results")
ARCHIVES = ROOT / "docs" / "results"
IMAGES = ROOT / "docs" / "images"
PAGES = (ROOT / "docs" / "results.md", ROOT / "docs" / "method.md", ROOT / "README.md")
MARK = re.compile(r"(<!-- results:(\S+) -->).*?(<!-- end -->)", flags=re.DOTALL)
PRESETS = ("cifar10-laptop", "cifar10-laptop-overfitting")
"""In the order of the page."""
FIGURES = {"tradeoff": "Clean accuracy against accuracy under AutoAttack", "epochs": "Accuracy on the held-out images "
           "over training", "labels": "Share of the guide's labels that are true", "pairs": "The same method with true "
           "and with dynamic labels", "strength": "Accuracy against the strength of the attack"}  # fmt: skip


def draw(results: Results) -> dict[str, str]:
    """Draw the figures that the pages show and that have data; Markdown by name."""
    runs = compared(results.experiment)
    figures: dict[str, Callable[[], Drawn | None]] = {
        "tradeoff": lambda: tradeoff(results.experiment, results.metrics, runs),
        "epochs": lambda: curves.epochs(results.experiment, results.histories, runs),
        "labels": lambda: curves.labels(results.experiment, results.histories, runs),
        "pairs": lambda: pairs(results.experiment, results.metrics),
        "strength": lambda: strength(results.experiment, results.metrics, runs),
    }
    folder = IMAGES / results.preset
    folder.mkdir(parents=True, exist_ok=True)
    shown = {}
    for name in [name for name in figures if f"{results.preset}/{name}" in marks()]:
        with rc_context(plotting.STYLE):
            drawn = figures[name]()
        if drawn:
            plotting.save(drawn.figure, [folder / f"{name}.svg", folder / f"{name}.png"])
            (folder / f"{name}.svg").unlink()
            shown[name] = f"![{FIGURES[name]}](images/{results.preset}/{name}.png)\n\n{drawn.caption}"
    return shown


def sections(results: Mapping[str, Results]) -> dict[str, str]:
    """Every generated part of a page, by the name that its mark gives."""
    judged = [_judged(claim, results.get(claim.preset)) for claim in CLAIMS]
    parts = {"verdicts": verdict_table(judged), "claims": "\n\n".join(map(claim_section, judged))}
    for preset, of_preset in results.items():
        parts |= {
            **{f"{preset}/{name}": table(of_preset) for name, table in TABLES.items()},
            **{f"{preset}/{name}": text for name, text in draw(of_preset).items()},
        }
    return parts


def marks() -> set[str]:
    """What the pages name."""
    return {mark[2] for page in PAGES for mark in MARK.finditer(page.read_text())}


def with_sections(page: str, parts: Mapping[str, str]) -> str:
    """The page with what its marks name, `<!-- results:NAME --> ... <!-- end -->`; what is not there yet is said."""

    def fill(mark: re.Match[str]) -> str:
        return f"{mark[1]}\n\n{parts.get(mark[2], 'Not finished yet.').strip()}\n\n{mark[3]}"

    return MARK.sub(fill, page)


def _judged(claim: Claim, results: Results | None) -> Judged:
    if results is None:
        return Judged(claim, [], [], lambda one: False)
    return Judged(claim, differences(claim, results.correct), beside(claim, results.correct), results.mixed)


def main() -> None:
    for preset in PRESETS:
        source = PATHS.experiment(preset).folder
        if source.is_dir():
            pack(source, ARCHIVES / f"{preset}.tar.xz")
    with tempfile.TemporaryDirectory() as temporary:
        results = {
            preset: Results(preset, unpack(archive, Path(temporary)))
            for preset in PRESETS
            if (archive := ARCHIVES / f"{preset}.tar.xz").exists()
        }
        parts = sections({preset: one for preset, one in results.items() if one.metrics})
        for page in PAGES:
            images = os.path.relpath(IMAGES, page.parent)
            here = {name: text.replace("](images/", f"]({images}/") for name, text in parts.items()}
            page.write_text(with_sections(page.read_text(), here))


if __name__ == "__main__":
    main()
