"""The figures of the report, in the order of the page: the one list that drawing, page and rules read.

Which figures an experiment can have follows from its config, so a rule can declare them before anything is run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dynat.config import Experiment
from dynat.report.label_pairs import label_pairs

FORMATS = ("svg", "png")
"""Every figure is written in both."""


@dataclass(frozen=True)
class FigureInfo:
    title: str
    embedded: Literal["svg", "png"] = "svg"
    """The format in which the page holds it: svg, or png where it consists of pixels."""


FIGURES = {
    "tradeoff": FigureInfo("Clean accuracy against robust accuracy"),
    "epochs": FigureInfo("Accuracy over training"),
    "labels": FigureInfo("Accuracy of the guide's labels"),
    "pairs": FigureInfo("True labels against dynamic labels"),
    "strength": FigureInfo("Accuracy against the strength of the attack"),
    "transfer": FigureInfo("Transfer attacks"),
    "classes": FigureInfo("Accuracy by class"),
    "gallery": FigureInfo("Adversarial examples", embedded="png"),
}


def figures_of(experiment: Experiment) -> list[str]:
    """The figures that an experiment can have, in the order of the page."""
    attacks, headline = experiment.attacks, experiment.attacks[experiment.headline]
    possible = {
        "tradeoff": "clean" in attacks and headline.kind != "clean",
        "epochs": bool(experiment.runs),
        "labels": any(run.guide for run in experiment.runs.values()),
        "pairs": bool(label_pairs(experiment)),
        "strength": True,
        "transfer": len(experiment.rows) > 1,
        "classes": True,
        "gallery": any(attack.kind != "clean" and attack.eps != 0 for attack in attacks.values()),
    }
    return [name for name in FIGURES if possible[name]]
