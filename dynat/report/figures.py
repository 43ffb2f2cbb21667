"""The figures of an experiment, each a function of metrics and histories; only the gallery reads pictures.

A figure that has nothing to show is a placeholder that says so: the DAG's outputs are always all there.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dynat.config import Experiment
from dynat.report import drawing, words
from dynat.report.drawing import FAINT, INK
from dynat.report.gallery import gallery
from dynat.report.pairs import pairs
from dynat.report.strength import strength, transfer

NAMES = ("epochs", "tradeoff", "labels", "pairs", "strength", "transfer", "gallery", "classes")

MANY_CLASSES = 20
"""Beyond these, classes are drawn as a distribution rather than one by one."""

MANY_POINTS = 12
"""Of more runs than these, points carry numbers and the names stand in a list."""

FEW = 3
"""So many guided runs are told apart at full strength; of more, only two are."""


@dataclass(frozen=True)
class Drawn:
    """A figure and the words that belong to it."""

    figure: Figure
    caption: str


def draw_all(
    results: Path,
    experiment: Experiment,
    metrics: Mapping[str, Mapping[str, Any]],
    histories: Mapping[str, pd.DataFrame],
) -> dict[str, str]:
    """Write every figure into results/<preset>/figures; captions by name."""
    with rc_context(drawing.STYLE):
        drawn = {
            "epochs": epochs(experiment, histories),
            "tradeoff": tradeoff(experiment, metrics),
            "labels": labels(experiment, histories),
            "pairs": Drawn(*pairs(experiment, metrics)),
            "strength": Drawn(*strength(experiment, metrics)),
            "transfer": Drawn(*transfer(results, metrics)),
            "gallery": Drawn(*gallery(results, experiment, metrics)),
            "classes": classes(experiment, metrics),
        }
    for name, one in drawn.items():
        drawing.save(one.figure, results / "figures" / name)
    return {name: one.caption for name, one in drawn.items()}


def epochs(experiment: Experiment, histories: Mapping[str, pd.DataFrame]) -> Drawn:
    """Validation accuracy over training, clean and under PGD: DYNAT against LBGAT, the others pale."""
    colour = drawing.colours(experiment.runs)
    strong = _strong(experiment)
    title = "Accuracy over training" + (": " + " against ".join(strong) if len(strong) == 2 else "")
    steps = words.listing(sorted({f"PGD-{run.validation.steps}" for run in experiment.runs.values()}))
    figure, axes = drawing.canvas(4.0, title, f"Validation pictures after each epoch, {steps} on the right", 2)
    beside = drawing.room(histories)
    figure.subplots_adjust(right=1 - beside, wspace=2 * (beside + 0.045) / (0.918 - 2 * beside - 0.045))
    for panel, column, name in zip(axes, ("clean", "pgd"), ("Clean pictures", f"Under {steps}"), strict=True):
        ends = []
        for run, history in histories.items():
            measured = history.dropna(subset=[column])
            if measured.empty:
                continue
            opacity = 1.0 if run in strong else 0.4
            _curve(panel, measured, column, colour[run], opacity)
            ends.append((_end(measured, column), run, colour[run], opacity))
        panel.set(
            title=name, xlabel="Epoch", ylabel="Accuracy" if column == "clean" else "", xlim=(1, _last(histories))
        )
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        drawing.percent_axis(panel.yaxis)
        drawing.end_labels(panel, ends)
    return Drawn(
        figure,
        "Accuracy on the held-out validation pictures after each epoch, clean and under the PGD that chooses the "
        f"best epoch. {_band(histories)}Test pictures play no part in it.",
    )


def labels(experiment: Experiment, histories: Mapping[str, pd.DataFrame]) -> Drawn:
    """The weak-to-strong curve: how often the guide's label is the true one, epoch by epoch."""
    title = "From weak to strong: how often the guide's label is the true one"
    measured = {
        run: history.dropna(subset=["label_accuracy"])
        for run, history in histories.items()
        if "label_accuracy" in history and history["label_accuracy"].notna().any()
    }
    if not measured:
        return Drawn(
            drawing.placeholder("Accuracy of the guide's labels", "no run with a guide"),
            "No run has a guide.",
        )
    colour = drawing.colours(experiment.runs)
    figure, (panel,) = drawing.canvas(3.6, title, "Training pictures, over the steps of each epoch")
    figure.subplots_adjust(right=1 - drawing.room([*measured, "static labels"]))
    ends = [(1.0, "static labels", FAINT, 0.9)]
    for run, history in measured.items():
        opacity = 1.0 if len(measured) <= FEW or run in _strong(experiment) else 0.4
        dashed = experiment.runs[run].labels != "dynamic"
        _curve(panel, history, "label_accuracy", colour[run], opacity, dashed=dashed)
        ends.append((_end(history, "label_accuracy"), run, colour[run], opacity))
    panel.axhline(1, color=FAINT, lw=1, ls=(0, (2, 2)))
    panel.set(xlabel="Epoch", ylabel="Labels that are true", xlim=(1, _last(measured)))
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.set_ylim(top=1 + 0.05 * (1 - panel.get_ylim()[0]))
    drawing.percent_axis(panel.yaxis)
    drawing.end_labels(panel, ends)
    coupled = [run for run in measured if experiment.runs[run].labels != "dynamic"]
    dashes = f" Dashed: {words.listing(coupled)}, whose guide hands over logits, not labels." if coupled else ""
    return Drawn(
        figure,
        "Share of training pictures on which the guide's decision on the clean picture is the true class, over the "
        f"steps of each epoch. {_band(measured)}".rstrip()
        + dashes,
    )


def tradeoff(experiment: Experiment, metrics: Mapping[str, Mapping[str, Any]]) -> Drawn:
    """Clean against robust accuracy, a point per run with its 95 % interval both ways."""
    attack = experiment.headline
    under = words.column_title(attack)
    if "clean" not in experiment.attacks or attack == "clean":
        reason = "needs the attack 'clean' and a headline attack beside it"
        return Drawn(drawing.placeholder("Clean against robust accuracy", reason), f"Not drawn: {reason}.")
    cells = {run: (m["attacks"]["clean"], m["attacks"][attack]) for run, m in metrics.items()}
    defended = [run for run in cells if experiment.runs[run].method != "natural"]
    places = {run: (c["accuracy"], r["accuracy"]) for run, (c, r) in cells.items()}
    shown = _crowd({run: places[run] for run in (defended if len(defended) > 1 else cells)})
    shown.sort(key=lambda run: places[run][::-1], reverse=True)
    numbered = len(shown) > MANY_POINTS
    height = max(4.6, 1.6 + 0.2 * len(shown)) if numbered else 4.6
    figure, (panel,) = drawing.canvas(
        height,
        f"What robustness costs: clean accuracy against accuracy under {under}",
        f"{words.dataset_title(experiment.dataset.name)}, {words.ball(experiment.threat)}; "
        f"n = {words.span([robust['n'] for _, robust in cells.values()])} pictures under {under}; "
        "up and right is better",
    )
    colour = drawing.colours(experiment.runs)
    for run in shown:
        clean, robust = cells[run]
        bars: dict[str, Any] = {"xerr": _bar(clean), "yerr": _bar(robust), "ecolor": colour[run], "elinewidth": 1.1}
        panel.errorbar(*places[run], **bars, alpha=0.15 if numbered else 0.45)
        panel.plot(*places[run], "o", ms=6 if numbered else 9, color=colour[run], mec="white", mew=1.0, zorder=4)
    panel.set(xlabel="Clean accuracy", ylabel=f"Accuracy under {under}")
    panel.margins(0.09)
    drawing.percent_axis(panel.xaxis)
    drawing.percent_axis(panel.yaxis)
    absent = [
        f"{run} (clean {words.percent(c['accuracy'], c['n'])} %, {under} {words.percent(r['accuracy'], r['n'])} %)"
        for run, (c, r) in cells.items()
        if run not in shown
    ]
    outside = f" Outside the axes: {words.listing(absent)}." if absent else ""
    if absent:
        lines = textwrap.wrap(outside.strip(), 130)
        below = 0.72 + 0.15 * len(lines)
        figure.subplots_adjust(bottom=below / height)
        figure.text(0.082, (below - 0.57) / height, "\n".join(lines), size=8.5, color=FAINT, va="top")
    titles = {run: str(place) for place, run in enumerate(shown, 1)} if numbered else {run: run for run in shown}
    if numbered:
        figure.subplots_adjust(right=1 - drawing.room(f"{titles[run]}  {run}" for run in shown))
        drawing.side_list(panel, [(titles[run], run, colour[run]) for run in shown])
    drawing.point_labels(panel, [(*places[run], titles[run], colour[run]) for run in shown])
    counted = " Numbers count from the most robust run down." if numbered else ""
    return Drawn(
        figure,
        f"A point per run: accuracy on clean test pictures against accuracy under {under}; bars are 95 % Wilson "
        f"intervals.{counted}{outside}",
    )


def _crowd(places: Mapping[str, tuple[float, float]]) -> list[str]:
    """The runs that the axes are made for: one that collapsed would squeeze many others into a corner."""
    if len(places) < MANY_POINTS:
        return list(places)
    values = np.array(list(places.values()))
    low, high = np.quantile(values, [0.25, 0.75], axis=0)
    reach = 3 * np.maximum(high - low, 0.02)
    inside = ((values >= low - reach) & (values <= high + reach)).all(axis=1)
    return [run for run, near in zip(places, inside, strict=True) if near]


def classes(experiment: Experiment, metrics: Mapping[str, Mapping[str, Any]]) -> Drawn:
    """Robust accuracy class by class: which classes a defence gives up."""
    attack = experiment.headline
    under = words.column_title(attack)
    frame = pd.DataFrame({run: m["attacks"][attack]["per_class"] for run, m in metrics.items()}).T
    frame = frame[sorted(frame.columns, key=lambda label: int(str(label)))]
    n = max(m["attacks"][attack]["n"] for m in metrics.values())
    each = f"n = {n:,} pictures, about {n / frame.shape[1]:,.0f} of each class"
    title = f"Not every class is equally safe: accuracy under {under} by class"
    about = f"Test accuracy under {under} by class; {each}."
    if frame.shape[1] > MANY_CLASSES:
        figure = _class_spread(experiment, frame, title, each, under)
        return Drawn(figure, f"{about} A dot per class; the box spans the middle half, its line is the median.")
    height = 1.75 + 0.36 * len(frame)
    figure, (panel,) = drawing.canvas(height, title, f"Percent of test pictures; {each}")
    names = next(iter(metrics.values()))["dataset"].get("classes", [])
    titles = [str(names[int(c)]) if int(c) < len(names) else c for c in frame.columns]
    long = max(map(len, titles)) > 8
    figure.subplots_adjust(
        left=drawing.room(frame.index), top=1 - 0.75 / height, bottom=(0.95 if long else 0.6) / height
    )
    sns.heatmap(
        100 * frame, ax=panel, vmin=0, vmax=100, cmap="crest_r", annot=True, fmt=".0f", linewidths=1.5,
        cbar=False, xticklabels=titles,
        annot_kws={"size": 9.5}, mask=frame.isna(),
    )  # fmt: skip
    panel.set(xlabel="Class", ylabel="")
    drawing.matrix_axes(panel, slanted=long)
    return Drawn(figure, f"{about} Darker is lower.")


def _class_spread(experiment: Experiment, frame: pd.DataFrame, title: str, each: str, under: str) -> Figure:
    height = 1.6 + 0.42 * len(frame)
    figure, (panel,) = drawing.canvas(height, title, f"A dot per class, {frame.shape[1]} classes; {each}")
    figure.subplots_adjust(left=drawing.room(frame.index))
    colour = drawing.colours(experiment.runs)
    runs = list(frame.index)
    for place, run in enumerate(runs):
        values = frame.loc[run].dropna().to_numpy()
        low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
        panel.barh(place, high - low, left=low, height=0.55, color=colour[run], alpha=0.25, lw=0)
        panel.vlines(middle, place - 0.275, place + 0.275, color=colour[run], lw=2)
        shift = 0.34 * ((np.arange(len(values)) * 0.618) % 1 - 0.5)  # spread evenly, without chance
        panel.scatter(values, place + shift, s=9, color=colour[run], alpha=0.65, linewidths=0, zorder=3)
    panel.set_yticks(range(len(runs)), runs, color=INK)
    panel.invert_yaxis()
    panel.set(xlabel=f"Accuracy of a class under {under}", ylabel="")
    drawing.percent_axis(panel.xaxis)
    return figure


def _curve(
    panel: Any, history: pd.DataFrame, column: str, colour: str, opacity: float, *, dashed: bool = False
) -> None:
    """The mean over seeds, and a band from the lowest to the highest seed where there are several."""
    several = history["seed"].nunique() > 1
    sns.lineplot(
        history, x="epoch", y=column, ax=panel, color=colour, alpha=opacity, estimator="mean",
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
    """The runs to look at: the first with dynamic labels and the first LBGAT; all where there is neither."""
    dynamic = [name for name, run in experiment.runs.items() if run.labels == "dynamic"]
    coupled = [name for name, run in experiment.runs.items() if run.method == "lbgat"]
    return [*dynamic[:1], *coupled[:1]] or list(experiment.runs)


def _band(histories: Mapping[str, pd.DataFrame]) -> str:
    several = any(history["seed"].nunique() > 1 for history in histories.values())
    return "Lines are means over seeds, bands reach from the lowest to the highest seed. " if several else ""


def _bar(cell: Mapping[str, Any]) -> list[list[float]]:
    return [[cell["accuracy"] - cell["low"]], [cell["high"] - cell["accuracy"]]]
