"""Methods beside themselves with dynamic labels: the paper's Figure 5, as paired bars."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from dynat.config import Experiment
from dynat.report import drawing, words
from dynat.report.contrasts import twins
from dynat.report.drawing import FAINT, INK

HEIGHT = 0.36


def pairs(experiment: Experiment, metrics: Mapping[str, Mapping[str, Any]]) -> tuple[Figure, str]:
    """Clean accuracy and accuracy under the headline attack: light with true labels, dark with a guide's."""
    title = "The same method with true labels and with a guide's"
    found = [pair for pair in twins(experiment) if all(name in metrics for name in pair)]
    attacks = list(dict.fromkeys(name for name in ("clean", experiment.headline) if name in experiment.attacks))
    if not found:
        reason = "no run here has a twin that differs in its labels alone"
        return drawing.placeholder(title, reason), f"Not drawn: {reason}."
    height = 1.75 + 0.62 * len(found)
    figure, panels = drawing.canvas(
        height, title, "Test accuracy; bars end at the mean over seeds, lines are 95 % Wilson intervals", len(attacks)
    )
    colour = drawing.colours(experiment.runs)
    for panel, attack in zip(panels, attacks, strict=True):
        for place, pair in enumerate(found):
            for name, shift, dark in zip(pair, (-HEIGHT / 2, HEIGHT / 2), (False, True), strict=True):
                cell = metrics[name]["attacks"][attack]
                at, shade = place + shift, colour[pair[1]]
                panel.barh(at, cell["mean"], HEIGHT * 0.92, color=shade, alpha=0.95 if dark else 0.35, lw=0)
                panel.hlines(at, cell["low"], cell["high"], color=INK, lw=1.1)
                panel.text(0.012, at, f"{words.percent(cell['mean'], cell['n'])}  {name}", va="center", size=8.5,
                           color="white" if dark else INK, path_effects=None)  # fmt: skip
        panel.set_yticks([])
        panel.set_ylim(len(found) - 0.5, -0.5)
        panel.set_xlim(0, 1)
        panel.set_title("Clean pictures" if attack == "clean" else f"Under {words.column_title(attack)}", color=FAINT)
        drawing.percent_axis(panel.xaxis)
    return figure, (
        "Each pair is one method twice, the same but for who labels the adversarial pictures: the data set (light) or "
        "a guide that learns beside the target (dark)."
    )
