"""The figures of the report, in the order of the page: the one list that drawing, page and rules read.

Which figures an experiment can have follows from its config, so a rule can declare them before anything is run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dynat.config import Experiment
from dynat.report.label_pairs import beta_runs, label_pairs
from dynat.report.selection import compared, not_compared

FORMATS = ("svg", "png", "pdf")
"""Every figure is written in the first two, and in the others that the experiment names."""


@dataclass(frozen=True)
class FigureInfo:
    title: str
    embedded: Literal["svg", "png"] = "svg"
    """The format in which the page holds it: svg, or png where it consists of pixels."""
    folded: bool = False
    """Whether a page of many runs shows it only when it is opened."""


FIGURES = {
    "tradeoff": FigureInfo("Clean accuracy against robust accuracy"),
    "overview": FigureInfo("Accuracy of every run"),
    "epochs": FigureInfo("Accuracy over training"),
    "labels": FigureInfo("Accuracy of the guide's labels", folded=True),
    "curves": FigureInfo("Training of the other runs", folded=True),
    "pairs": FigureInfo("True labels against dynamic labels"),
    "beta": FigureInfo("Accuracy against beta"),
    "strength": FigureInfo("Accuracy against the strength of the attack", folded=True),
    "transfer": FigureInfo("Transfer attacks", folded=True),
    "corruptions": FigureInfo("Accuracy under common corruptions"),
    "classes": FigureInfo("Accuracy by class", folded=True),
    "gallery": FigureInfo("Adversarial examples", embedded="png", folded=True),
}


def formats_of(experiment: Experiment) -> list[str]:
    """The formats in which every figure of an experiment is written."""
    return [ending for ending in FORMATS if ending in ("svg", "png", *experiment.report.formats)]


def figures_of(experiment: Experiment) -> list[str]:
    """The figures that an experiment can have, in the order of the page."""
    runs, shown, rest = experiment.runs, compared(experiment), not_compared(experiment)
    attacks, headline = experiment.attacks, experiment.attacks[experiment.headline]
    possible = {
        "tradeoff": "clean" in attacks and headline.kind != "clean",
        "overview": bool(rest),
        "epochs": any(name in runs for name in shown),
        "labels": any(runs[name].guide for name in shown if name in runs),
        "curves": any(name in runs for name in rest),
        "pairs": bool(label_pairs(experiment)),
        "beta": bool(beta_runs(experiment)),
        "strength": True,
        "transfer": len(experiment.rows) > 1,
        "corruptions": experiment.corruptions is not None,
        "classes": True,
        "gallery": any(attack.kind != "clean" and attack.eps != 0 for attack in attacks.values()),
    }
    return [name for name in FIGURES if possible[name]]
