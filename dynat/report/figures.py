"""The figures of an experiment, each a function of metrics and histories; only the gallery reads images."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dynat.config import Experiment, Run
from dynat.report import formatting, plotting
from dynat.report.attack_strength import strength, transfer
from dynat.report.figure_list import FIGURES, FORMATS, figures_of
from dynat.report.gallery import gallery
from dynat.report.pairs import pairs
from dynat.report.plotting import FAINT, INK, Drawn
from dynat.results.paths import ExperimentFiles
from dynat.results.records import Interval, RunMetrics

MANY_CLASSES = 20
"""Beyond these, classes are drawn as a distribution rather than one by one."""

MANY_POINTS = 12
"""Of more runs than these, points carry numbers and the names stand in a list."""

FEW = 3
"""So many guided runs are drawn at full strength; of more, only two are."""


def draw_all(
    files: ExperimentFiles,
    experiment: Experiment,
    metrics: Mapping[str, RunMetrics],
    histories: Mapping[str, pd.DataFrame],
) -> dict[str, str]:
    """Write the figures of an experiment; their captions by name, in the order of the page.

    A figure that `figures_of` promises but that has no data is written with a note instead (a rule has declared its
    file) and has no caption, so the page leaves it out.
    """
    draw: dict[str, Callable[[], Drawn | None]] = {
        "tradeoff": lambda: tradeoff(experiment, metrics),
        "epochs": lambda: epochs(experiment, histories),
        "labels": lambda: labels(experiment, histories),
        "pairs": lambda: pairs(experiment, metrics),
        "strength": lambda: strength(experiment, metrics),
        "transfer": lambda: transfer(files, experiment),
        "classes": lambda: classes(experiment, metrics),
        "gallery": lambda: gallery(files, experiment, metrics),
    }
    captions = {}
    chosen = figures_of(experiment)
    for name, info in FIGURES.items():
        svg, png = (files.figure(name, ending) for ending in FORMATS)
        if name not in chosen:  # of an earlier experiment under this name
            svg.unlink(missing_ok=True)
            png.unlink(missing_ok=True)
            continue
        with rc_context(plotting.STYLE):
            drawn = draw[name]()
            figure = drawn.figure if drawn else plotting.without_data(info.title)
        plotting.save(figure, svg, png)
        if drawn:
            captions[name] = drawn.caption
    return captions


def epochs(experiment: Experiment, histories: Mapping[str, pd.DataFrame]) -> Drawn:
    """Validation accuracy over training, clean and under PGD: DYNAT against LBGAT, the others pale."""
    color = plotting.colors(experiment.rows)
    strong = _strong(experiment)
    title = "Accuracy over training" + (": " + " against ".join(strong) if len(strong) == 2 else "")
    steps = formatting.listing(sorted({f"PGD-{run.validation.steps}" for run in experiment.runs.values()}))
    figure, axes = plotting.canvas(4.0, title, f"Validation images after each epoch, {steps} on the right", 2)
    beside = plotting.room(histories)
    figure.subplots_adjust(right=1 - beside, wspace=2 * (beside + 0.045) / (0.918 - 2 * beside - 0.045))
    for panel, column, name in zip(axes, ("clean", "pgd"), ("Clean images", f"Under {steps}"), strict=True):
        ends = []
        for run, history in histories.items():
            measured = history.dropna(subset=[column])
            if measured.empty:
                continue
            opacity = 1.0 if run in strong else 0.4
            _curve(panel, measured, column, color[run], opacity)
            ends.append((_end(measured, column), run, color[run], opacity))
        panel.set(
            title=name, xlabel="Epoch", ylabel="Accuracy" if column == "clean" else "", xlim=(1, _last(histories))
        )
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        plotting.percent_axis(panel.yaxis)
        plotting.end_labels(panel, ends)
    return Drawn(
        figure,
        "Accuracy on the held-out validation images after each epoch, clean and under the PGD that chooses the "
        f"best epoch. {_band(histories)}No test image is used in it.",
    )


def labels(experiment: Experiment, histories: Mapping[str, pd.DataFrame]) -> Drawn | None:
    """How often the guide's label is the true one, epoch by epoch; None where no run has a guide."""
    title = "Accuracy of the guide's labels over training"
    measured = {
        run: history.dropna(subset=["label_accuracy"])
        for run, history in histories.items()
        if "label_accuracy" in history
    }
    if not measured:
        return None
    color = plotting.colors(experiment.rows)
    figure, (panel,) = plotting.canvas(3.6, title, "Training images, over the steps of each epoch")
    figure.subplots_adjust(right=1 - plotting.room([*measured, "true labels"]))
    ends = [(1.0, "true labels", FAINT, 0.9)]
    for run, history in measured.items():
        opacity = 1.0 if len(measured) <= FEW or run in _strong(experiment) else 0.4
        dashed = experiment.runs[run].labels != "dynamic"
        _curve(panel, history, "label_accuracy", color[run], opacity, dashed=dashed)
        ends.append((_end(history, "label_accuracy"), run, color[run], opacity))
    panel.axhline(1, color=FAINT, lw=1, ls=(0, (2, 2)))
    panel.set(xlabel="Epoch", ylabel="Correct labels", xlim=(1, _last(measured)))
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.set_ylim(top=1 + 0.05 * (1 - panel.get_ylim()[0]))
    plotting.percent_axis(panel.yaxis)
    plotting.end_labels(panel, ends)
    coupled = [run for run in measured if experiment.runs[run].labels != "dynamic"]
    dashes = f" Dashed: {formatting.listing(coupled)}, whose guide provides logits, not labels." if coupled else ""
    return Drawn(
        figure,
        "Share of training images on which the guide's argmax on the clean image is the true class, over the "
        f"steps of each epoch. {_band(measured)}".rstrip()
        + dashes,
    )


def tradeoff(experiment: Experiment, metrics: Mapping[str, RunMetrics]) -> Drawn:
    """Clean against robust accuracy, a point per run with its 95 % interval both ways."""
    attack = experiment.headline
    under = formatting.column_title(attack)
    cells = {run: (m.attacks["clean"], m.attacks[attack]) for run, m in metrics.items()}
    defended = [run for run in cells if not _is_natural(experiment, run)]
    places = {run: (c.accuracy, r.accuracy) for run, (c, r) in cells.items()}
    shown = _crowd({run: places[run] for run in (defended if len(defended) > 1 else cells)})
    shown.sort(key=lambda run: places[run][::-1], reverse=True)
    numbered = len(shown) > MANY_POINTS
    height = max(4.6, 1.6 + 0.2 * len(shown)) if numbered else 4.6
    figure, (panel,) = plotting.canvas(
        height,
        f"Clean accuracy against accuracy under {under}",
        f"{formatting.dataset_title(experiment.dataset.name)}, {formatting.ball(experiment.threat)}; "
        f"n = {formatting.span([robust.n for _, robust in cells.values()])} images under {under}; "
        "up and right is better",
    )
    color = plotting.colors(experiment.rows)
    for run in shown:
        clean, robust = cells[run]
        bars: dict[str, Any] = {"xerr": _bar(clean), "yerr": _bar(robust), "ecolor": color[run], "elinewidth": 1.1}
        panel.errorbar(*places[run], **bars, alpha=0.15 if numbered else 0.45)
        panel.plot(*places[run], "o", ms=6 if numbered else 9, color=color[run], mec="white", mew=1.0, zorder=4)
    panel.set(xlabel="Clean accuracy", ylabel=f"Accuracy under {under}")
    panel.margins(0.09)
    plotting.percent_axis(panel.xaxis)
    plotting.percent_axis(panel.yaxis)
    absent = [
        f"{run} (clean {formatting.percent(c.accuracy, c.n)} %, {under} {formatting.percent(r.accuracy, r.n)} %)"
        for run, (c, r) in cells.items()
        if run not in shown
    ]
    outside = f" Outside the axes: {formatting.listing(absent)}." if absent else ""
    if absent:
        lines = textwrap.wrap(outside.strip(), 130)
        below = 0.72 + 0.15 * len(lines)
        figure.subplots_adjust(bottom=below / height)
        figure.text(0.082, (below - 0.57) / height, "\n".join(lines), size=8.5, color=FAINT, va="top")
    titles = {run: str(place) for place, run in enumerate(shown, 1)} if numbered else {run: run for run in shown}
    if numbered:
        figure.subplots_adjust(right=1 - plotting.room(f"{titles[run]}  {run}" for run in shown))
        plotting.side_list(panel, [(titles[run], run, color[run]) for run in shown])
    plotting.point_labels(panel, [(*places[run], titles[run], color[run]) for run in shown])
    counted = " Number 1 is the most robust run." if numbered else ""
    return Drawn(
        figure,
        f"A point per run: accuracy on clean test images against accuracy under {under}; bars are 95 % Wilson "
        f"intervals.{counted}{outside}",
    )


def _crowd(places: Mapping[str, tuple[float, float]]) -> list[str]:
    """The runs that the axes are scaled for: a single outlier would squeeze many others into a corner."""
    if len(places) < MANY_POINTS:
        return list(places)
    values = np.array(list(places.values()))
    low, high = np.quantile(values, [0.25, 0.75], axis=0)
    reach = 3 * np.maximum(high - low, 0.02)
    inside = ((values >= low - reach) & (values <= high + reach)).all(axis=1)
    return [run for run, near in zip(places, inside, strict=True) if near]


def classes(experiment: Experiment, metrics: Mapping[str, RunMetrics]) -> Drawn:
    """Robust accuracy by class."""
    attack = experiment.headline
    under = formatting.column_title(attack)
    by_class = {run: m.attacks[attack].per_class for run, m in metrics.items()}
    frame = pd.DataFrame({run: {str(c): value for c, value in row.items()} for run, row in by_class.items()}).T
    frame = frame[sorted(frame.columns, key=lambda label: int(str(label)))]
    n = max(m.attacks[attack].n for m in metrics.values())
    each = f"n = {n:,} images, about {n / frame.shape[1]:,.0f} of each class"
    title = f"Accuracy under {under} by class"
    about = f"Test accuracy under {under} by class; {each}."
    if frame.shape[1] > MANY_CLASSES:
        figure = _class_spread(experiment, frame, title, each, under)
        return Drawn(figure, f"{about} A dot per class; the box spans the middle half, its line is the median.")
    height = 1.75 + 0.36 * len(frame)
    figure, (panel,) = plotting.canvas(height, title, f"Percent of test images; {each}")
    names = next(iter(metrics.values())).dataset.classes
    titles = [names[int(label)] if int(label) < len(names) else str(label) for label in frame.columns]
    long = max(map(len, titles)) > 8
    figure.subplots_adjust(
        left=plotting.room(frame.index), top=1 - 0.75 / height, bottom=(0.95 if long else 0.6) / height
    )
    sns.heatmap(
        100 * frame, ax=panel, vmin=0, vmax=100, cmap="crest_r", annot=True, fmt=".0f", linewidths=1.5,
        cbar=False, xticklabels=titles,
        annot_kws={"size": 9.5}, mask=frame.isna(),
    )  # fmt: skip
    panel.set(xlabel="Class", ylabel="")
    plotting.matrix_axes(panel, slanted=long)
    return Drawn(figure, f"{about} Darker is lower.")


def _class_spread(experiment: Experiment, frame: pd.DataFrame, title: str, each: str, under: str) -> Figure:
    height = 1.6 + 0.42 * len(frame)
    figure, (panel,) = plotting.canvas(height, title, f"A dot per class, {frame.shape[1]} classes; {each}")
    figure.subplots_adjust(left=plotting.room(frame.index))
    color = plotting.colors(experiment.rows)
    runs = list(frame.index)
    for place, run in enumerate(runs):
        values = frame.loc[run].dropna().to_numpy()
        low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
        panel.barh(place, high - low, left=low, height=0.55, color=color[run], alpha=0.25, lw=0)
        panel.vlines(middle, place - 0.275, place + 0.275, color=color[run], lw=2)
        shift = 0.34 * ((np.arange(len(values)) * 0.618) % 1 - 0.5)  # spread evenly, without chance
        panel.scatter(values, place + shift, s=9, color=color[run], alpha=0.65, linewidths=0, zorder=3)
    panel.set_yticks(range(len(runs)), runs, color=INK)
    panel.invert_yaxis()
    panel.set(xlabel=f"Accuracy of a class under {under}", ylabel="")
    plotting.percent_axis(panel.xaxis)
    return figure


def _curve(panel: Any, history: pd.DataFrame, column: str, color: str, opacity: float, *, dashed: bool = False) -> None:
    """The mean over seeds, and a band from the lowest to the highest seed where there are several."""
    several = history["seed"].nunique() > 1
    sns.lineplot(
        history, x="epoch", y=column, ax=panel, color=color, alpha=opacity, estimator="mean",
        errorbar=("pi", 100) if several else None, err_kws={"alpha": 0.16 * opacity, "lw": 0},
        lw=2.2 if opacity == 1 else 1.3, zorder=3 if opacity == 1 else 2,
        linestyle=(0, (4, 1.5)) if dashed else "-", marker="o" if history["epoch"].nunique() == 1 else None,
    )  # fmt: skip


def _end(history: pd.DataFrame, column: str) -> float:
    last = history[history["epoch"] == history["epoch"].max()]
    return float(last[column].mean())


def _last(histories: Mapping[str, pd.DataFrame]) -> float:
    """Where the axis of epochs ends; a single epoch still has a width."""
    return max(1.5, *(float(history["epoch"].max()) for history in histories.values()))


def _strong(experiment: Experiment) -> list[str]:
    """The runs drawn at full strength: the first with dynamic labels and the first LBGAT; all without them."""
    dynamic = [name for name, run in experiment.runs.items() if run.labels == "dynamic"]
    coupled = [name for name, run in experiment.runs.items() if run.method == "lbgat"]
    return [*dynamic[:1], *coupled[:1]] or list(experiment.runs)


def _band(histories: Mapping[str, pd.DataFrame]) -> str:
    several = any(history["seed"].nunique() > 1 for history in histories.values())
    return "Lines are means over seeds, bands reach from the lowest to the highest seed. " if several else ""


def _bar(cell: Interval) -> list[list[float]]:
    return [[cell.accuracy - cell.low], [cell.high - cell.accuracy]]


def _is_natural(experiment: Experiment, name: str) -> bool:
    row = experiment.rows[name]
    return isinstance(row, Run) and row.method == "natural"
