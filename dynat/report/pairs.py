"""Methods with true labels beside the same methods with dynamic labels: the paper's Figure 5, as paired bars."""

from __future__ import annotations

from collections.abc import Mapping

from dynat.config import Experiment
from dynat.report import formatting, plotting
from dynat.report.label_pairs import label_pairs
from dynat.report.plotting import FAINT, INK, Drawn
from dynat.results.records import RunMetrics

HEIGHT = 0.36


def pairs(experiment: Experiment, metrics: Mapping[str, RunMetrics]) -> Drawn | None:
    """Clean accuracy and accuracy under the headline attack: light with true labels, dark with dynamic labels; None
    without label pairs under both attacks."""
    title = "The same method with true labels and with dynamic labels"
    attacks = list(dict.fromkeys(name for name in ("clean", experiment.headline) if name in experiment.attacks))
    paired = [
        pair
        for pair in label_pairs(experiment)
        if all(attack in metrics[run].attacks for run in pair for attack in attacks)
    ]
    if not paired:
        return None
    height = 1.75 + 0.62 * len(paired)
    figure, panels = plotting.canvas(
        height, title, "Test accuracy; bars end at the mean over seeds, lines are 95 % Wilson intervals", len(attacks)
    )
    names = plotting.names_of(experiment)
    figure.subplots_adjust(left=plotting.room(names[run] for pair in paired for run in pair), wspace=0.12)
    color = plotting.colors_of(experiment)
    ticks = [place + shift for place in range(len(paired)) for shift in (-HEIGHT / 2, HEIGHT / 2)]
    highest = max(metrics[run].attacks[attack].high for pair in paired for run in pair for attack in attacks)
    for panel, attack in zip(panels, attacks, strict=True):
        for place, pair in enumerate(paired):
            for name, shift, dark in zip(pair, (-HEIGHT / 2, HEIGHT / 2), (False, True), strict=True):
                cell = metrics[name].attacks[attack]
                at, shade = place + shift, color[pair[1]]
                panel.barh(at, cell.mean, HEIGHT * 0.92, color=shade, alpha=0.95 if dark else 0.35, lw=0)
                panel.hlines(at, cell.low, cell.high, color=INK, lw=1.1)
                panel.text(
                    cell.high + 0.015 * highest, at, formatting.percent(cell.mean, cell.n), va="center", size=8.5
                )
        panel.set_yticks(ticks, [])
        panel.tick_params(axis="y", length=0)
        panel.grid(visible=False, axis="y")
        panel.set_ylim(len(paired) - 0.5, -0.5)
        panel.set_xlim(0, 1.14 * highest)
        panel.set_title(
            "Clean images" if attack == "clean" else f"Under {formatting.column_title(attack)}", color=FAINT
        )
        plotting.percent_axis(panel.xaxis)
    panels[0].set_yticks(ticks, [names[run] for pair in paired for run in pair], size=8.5, color=INK)
    return Drawn(
        figure,
        "Each pair is one method trained twice with different labels of the adversarial images: true labels (light), "
        "and the dynamic labels of a guide that is trained together with the target (dark).",
    )
