"""Clean accuracy against robust accuracy: a point per run that figures compare, and a line per run for all of them."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from matplotlib.axes import Axes

from dynat.config import Experiment, Run
from dynat.report import formatting, plotting, text_placement
from dynat.report.label_pairs import reference
from dynat.report.plotting import DYNAMIC, FAINT, INK, Drawn
from dynat.results.records import Interval, RunMetrics

Places = Mapping[str, tuple[float, float]]
"""Clean and robust accuracy by run."""

LINE = 0.2
"""Inches from one run to the next in the figure of all runs."""

WIDEST = 0.36
"""Titles of groups get at most this share of that figure's width; longer ones reach into the axes."""


def tradeoff(experiment: Experiment, metrics: Mapping[str, RunMetrics], runs: Sequence[str]) -> Drawn:
    """Clean against robust accuracy: `runs` with name and 95 % interval both ways, the other runs in gray."""
    attack = experiment.headline
    under = formatting.column_title(attack)
    cells = {run: (m.attacks["clean"], m.attacks[attack]) for run, m in metrics.items() if attack in m.attacks}
    places = {run: (c.accuracy, r.accuracy) for run, (c, r) in cells.items()}
    inside = within(experiment, places)
    shown = [run for run in runs if run in inside]
    others = [run for run in inside if run not in runs]
    height = max(4.6, 1.6 + text_placement.LINE * len(shown))
    figure, (panel,) = plotting.canvas(
        height,
        f"Clean accuracy against accuracy under {under}",
        f"{formatting.dataset_title(experiment.dataset.name)}, {formatting.ball(experiment.threat)}; "
        f"n = {formatting.span([robust.n for _, robust in cells.values()])} images under {under}; "
        "up and right is better",
    )
    color = plotting.colors_of(experiment)
    for run in others:
        panel.plot(*places[run], "o", ms=5, color="#c3c9d2", mec="white", mew=0.7, zorder=2)
    for run in shown:
        clean, robust = cells[run]
        bars: dict[str, Any] = {"xerr": _bar(clean), "yerr": _bar(robust), "ecolor": color[run], "elinewidth": 1.1}
        panel.errorbar(*places[run], **bars, alpha=0.45)
        panel.plot(*places[run], "o", ms=9, color=color[run], mec="white", mew=1.0, zorder=4)
    panel.set(xlabel="Clean accuracy", ylabel=f"Accuracy under {under}")
    panel.margins(0.09)
    plotting.percent_axis(panel.xaxis)
    plotting.percent_axis(panel.yaxis)
    absent = [
        f"{run} (clean {formatting.percent(c.accuracy, c.n)} %, {under} {formatting.percent(r.accuracy, r.n)} %)"
        for run, (c, r) in cells.items()
        if run not in inside
    ]
    outside = f" Outside the axes: {formatting.listing(absent)}." if absent else ""
    if absent:
        lines = textwrap.wrap(outside.strip(), 130)
        below = 0.72 + 0.15 * len(lines)
        figure.subplots_adjust(bottom=below / height)
        figure.text(0.082, (below - 0.57) / height, "\n".join(lines), size=8.5, color=FAINT, va="top")
    names = plotting.names_of(experiment)
    points = [(*places[run], names[run], color[run]) for run in shown]
    if not text_placement.beside(panel, points):
        figure.subplots_adjust(right=1 - plotting.room(names[run] for run in shown))
        text_placement.in_column(panel, points)
    gray = " Gray: the other runs." if others else ""
    return Drawn(
        figure,
        f"A point per run: accuracy on clean test images against accuracy under {under}; bars are 95 % Wilson "
        f"intervals.{gray}{outside}",
    )


def within(experiment: Experiment, places: Places) -> list[str]:
    """The runs that axes are scaled for. Natural training and runs that learned little would squeeze the others into a
    corner; a run that no other run beats both ways is always within."""
    defended = [run for run in places if not _is_natural(experiment, run)]
    if len(defended) < 2:
        return list(places)
    clean, robust = (median(places[run][axis] for run in defended) for axis in (0, 1))

    def beaten(run: str) -> bool:
        x, y = places[run]
        return any(places[other][0] > x and places[other][1] > y for other in defended)

    return [
        run for run in defended if not (beaten(run) and (places[run][0] < 0.5 * clean or places[run][1] < 0.5 * robust))
    ]


def overview(experiment: Experiment, metrics: Mapping[str, RunMetrics]) -> Drawn:
    """Every run on a line of its own, by group: clean accuracy and accuracy under the headline attack."""
    attacks = list(dict.fromkeys(name for name in ("clean", experiment.headline) if name in experiment.attacks))
    lines = [line for title, runs in experiment.grouped.items() for line in ((title, ""), *((title, r) for r in runs))]
    lines = [line for line in lines if any(line)]
    base = reference(experiment)
    height = 1.5 + LINE * len(lines)
    names = plotting.names_of(experiment)
    about = f"Test accuracy with 95 % Wilson intervals{f'; dotted: {names[base]}' if base else ''}"
    figure, panels = plotting.canvas(height, "Accuracy of every run", about, len(attacks))
    left = max(
        plotting.room(names.get(run, run) for _, run in lines), min(WIDEST, plotting.room(title for title, _ in lines))
    )
    figure.subplots_adjust(left=left, wspace=0.07, top=1 - 1 / height, bottom=0.5 / height)
    places = {run: (m.attacks[attacks[0]].accuracy, m.attacks[attacks[-1]].accuracy) for run, m in metrics.items()}
    inside = within(experiment, places)
    for panel, attack in zip(panels, attacks, strict=True):
        cells = {run: m.attacks[attack] for run, m in metrics.items()}
        _lines(panel, [run for _, run in lines], cells, inside, base)
        panel.set_title("Clean images" if attack == "clean" else f"Under {formatting.column_title(attack)}")
        panel.set_yticks([place for place, (_, run) in enumerate(lines) if run], [])
    panels[0].set_yticks(panels[0].get_yticks(), [names[run] for _, run in lines if run], size=8.5)
    for text in panels[0].get_yticklabels():
        text.set_color(DYNAMIC if base and text.get_text() == names[base] else INK)
    for place, (title, run) in enumerate(lines):
        if not run:
            at = panels[0].transData.transform((0, place))[1] / figure.bbox.height
            figure.text(0.012, at, title, va="center", size=9, weight="bold", path_effects=text_placement.HALO)
    arrows = " Arrows: runs outside the axes, with their accuracy." if len(inside) < len(metrics) else ""
    return Drawn(
        figure,
        f"Accuracy of every run on clean test images and under {formatting.column_title(experiment.headline)}, grouped "
        f"as in the table; lines are 95 % Wilson intervals.{arrows}",
    )


def _lines(
    panel: Axes, runs: Sequence[str], cells: Mapping[str, Interval], inside: Sequence[str], base: str | None
) -> None:
    """A point and an interval per run, and an arrow with the number for a run outside the axes."""
    low, high = min(cells[run].low for run in inside), max(cells[run].high for run in inside)
    edge = 0.04 * (high - low) or 0.01
    panel.set_xlim(low - edge, high + edge)
    panel.set_ylim(len(runs) - 0.5, -0.5)
    for place, run in enumerate(runs):
        if not run:
            continue
        cell, color = cells[run], DYNAMIC if run == base else INK
        if low <= cell.accuracy <= high:
            panel.hlines(place, max(cell.low, low), min(cell.high, high), color=color, lw=1.2, alpha=0.6)
            panel.plot(cell.accuracy, place, "o", ms=5, color=color, mec="white", mew=0.6)
            continue
        below = cell.accuracy < low
        number = f"{formatting.percent(cell.accuracy, cell.n)} %"
        panel.text(
            low if below else high, place, f"◂ {number}" if below else f"{number} ▸",
            ha="left" if below else "right", va="center", size=8, color=FAINT, path_effects=text_placement.HALO,
        )  # fmt: skip
    if base:
        panel.axvline(cells[base].accuracy, color=DYNAMIC, lw=1, ls=(0, (2, 2)), zorder=1)
    panel.tick_params(axis="y", length=0)
    plotting.percent_axis(panel.xaxis)


def _bar(cell: Interval) -> list[list[float]]:
    return [[cell.accuracy - cell.low], [cell.high - cell.accuracy]]


def _is_natural(experiment: Experiment, name: str) -> bool:
    row = experiment.rows[name]
    return isinstance(row, Run) and row.method == "natural"
