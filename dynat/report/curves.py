"""Training curves: accuracy over the epochs (the paper's Figure 3), and accuracy of the guide's labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.ticker import MaxNLocator

from dynat.config import Experiment
from dynat.report import formatting, plotting, text_placement
from dynat.report.label_pairs import reference
from dynat.report.plotting import COUPLED, DYNAMIC, FAINT, Drawn

FEW = 4
"""So many runs are drawn at full strength; of more, only two are."""

COLUMNS = 4
"""Small figures side by side."""

LABELS = "#009e73"
"""The color of the guide's labels in the small figures."""


def epochs(experiment: Experiment, histories: Mapping[str, pd.DataFrame], runs: Sequence[str]) -> Drawn | None:
    """Validation accuracy over training, clean and under PGD; of many runs, all but DYNAT and LBGAT are pale."""
    shown = {run: histories[run] for run in runs if run in histories}
    if not shown:
        return None
    color = plotting.colors_of(experiment)
    strong, names = _strong(experiment, shown), plotting.names_of(experiment)
    often = _how_often(experiment, shown)
    title = "Accuracy over training" + (
        ": " + " against ".join(names[run] for run in strong) if len(strong) == 2 else ""
    )
    steps = _validation_attack(experiment, shown)
    height = max(4.0, 1.6 + text_placement.LINE * len(shown))
    figure, axes = plotting.canvas(height, title, f"Validation images after {often}, {steps} on the right", 2)
    beside = plotting.room(names[run] for run in shown)
    figure.subplots_adjust(right=1 - beside, wspace=2 * (beside + 0.045) / (0.918 - 2 * beside - 0.045))
    for panel, column, name in zip(axes, ("clean", "pgd"), ("Clean images", f"Under {steps}"), strict=True):
        ends = []
        for run, history in shown.items():
            measured = history.dropna(subset=[column])
            if measured.empty:
                continue
            opacity = 1.0 if run in strong else 0.4
            _curve(panel, measured, column, color[run], opacity)
            ends.append((_end(measured, column), names[run], color[run], opacity))
        panel.set(title=name, xlabel="Epoch", ylabel="Accuracy" if column == "clean" else "", xlim=(1, _last(shown)))
        panel.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        plotting.percent_axis(panel.yaxis)
        text_placement.end_labels(panel, ends)
    return Drawn(
        figure,
        f"Accuracy on the held-out validation images after {often}, clean and under the PGD that chooses the "
        f"best epoch. {_band(shown)}No test image is used in it.",
    )


def labels(experiment: Experiment, histories: Mapping[str, pd.DataFrame], runs: Sequence[str]) -> Drawn | None:
    """How often the guide's label is the true one, epoch by epoch; None where no run has a guide."""
    title = "Accuracy of the guide's labels over training"
    measured = {
        run: histories[run].dropna(subset=["label_accuracy"])
        for run in runs
        if run in histories and "label_accuracy" in histories[run]
    }
    if not measured:
        return None
    color = plotting.colors_of(experiment)
    height = max(3.6, 1.4 + text_placement.LINE * (len(measured) + 1))
    figure, (panel,) = plotting.canvas(height, title, "Training images, over the steps of each epoch")
    names = plotting.names_of(experiment)
    figure.subplots_adjust(right=1 - plotting.room([*(names[run] for run in measured), "true labels"]))
    ends = [(1.0, "true labels", FAINT, 0.9)]
    for run, history in measured.items():
        opacity = 1.0 if run in _strong(experiment, measured) else 0.4
        dashed = experiment.runs[run].labels != "dynamic"
        _curve(panel, history, "label_accuracy", color[run], opacity, dashed=dashed)
        ends.append((_end(history, "label_accuracy"), names[run], color[run], opacity))
    panel.axhline(1, color=FAINT, lw=1, ls=(0, (2, 2)))
    panel.set(xlabel="Epoch", ylabel="Correct labels", xlim=(1, _last(measured)))
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.set_ylim(top=1 + 0.05 * (1 - panel.get_ylim()[0]))
    plotting.percent_axis(panel.yaxis)
    text_placement.end_labels(panel, ends)
    coupled = [run for run in measured if experiment.runs[run].labels != "dynamic"]
    dashes = f" Dashed: {formatting.listing(coupled)}, whose guide provides logits, not labels." if coupled else ""
    return Drawn(
        figure,
        "Share of training images on which the guide's argmax on the clean image is the true class, over the "
        f"steps of each epoch. {_band(measured)}".rstrip()
        + dashes,
    )


def small_curves(experiment: Experiment, histories: Mapping[str, pd.DataFrame], runs: Sequence[str]) -> Drawn | None:
    """A small figure per run: clean, PGD and label accuracy over training, the reference in gray behind."""
    shown = [run for run in runs if run in histories]
    if not shown:
        return None
    base = reference(experiment)
    steps = _validation_attack(experiment, shown)
    lines = -(-len(shown) // COLUMNS)
    height = 1.15 + 1.45 * lines
    names = plotting.names_of(experiment)
    behind = f"; gray: {names[base]}" if base else ""
    figure, panels = plotting.grid(
        height, "Training of the other runs", f"Accuracy on validation images, mean over seeds{behind}", lines, COLUMNS
    )
    parts = (("clean", "clean images", COUPLED), ("pgd", steps, DYNAMIC), ("label_accuracy", "guide's labels", LABELS))
    plotting.key(figure, [(title, color) for _, title, color in parts])
    for place, panel in enumerate(panels):
        if place >= len(shown):
            panel.set_axis_off()
            continue
        run = shown[place]
        for column, _, color in parts:
            if base and base != run:
                _mean(panel, histories[base], column, color="#c3c9d2", lw=1.0)
            _mean(panel, histories[run], column, color=color, lw=1.6)
        panel.set(ylim=(-0.02, 1.02), xlim=(1, float(max(1.5, histories[run]["epoch"].max()))))
        panel.set_title(names[run], size=8.5, pad=3)
        panel.xaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
        panel.set_yticks([0, 0.5, 1])
        plotting.percent_axis(panel.yaxis)
        panel.tick_params(labelsize=7.5, labelleft=place % COLUMNS == 0)
    return Drawn(
        figure,
        f"The runs that the figures above leave out, over their epochs: accuracy on held-out validation images, clean "
        f"and under {steps}, and the share of training images that the guide labels correctly.",
    )


def _mean(panel: Any, history: pd.DataFrame, column: str, *, color: str, lw: float) -> None:
    if column in history:
        mean = history.groupby("epoch")[column].mean().dropna()
        panel.plot(mean.index, mean.to_numpy(), color=color, lw=lw, marker="o" if len(mean) == 1 else None, ms=3)


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


def _strong(experiment: Experiment, runs: Mapping[str, object]) -> list[str]:
    """The runs drawn at full strength: all of a few; of many, the first with dynamic labels and the first LBGAT."""
    if len(runs) <= FEW:
        return list(runs)
    dynamic = [name for name in runs if experiment.runs[name].labels == "dynamic"]
    coupled = [name for name in runs if experiment.runs[name].method == "lbgat"]
    return [*dynamic[:1], *coupled[:1]] or list(runs)


def _validation_attack(experiment: Experiment, runs: Sequence[str] | Mapping[str, object]) -> str:
    return formatting.listing(sorted({f"PGD-{experiment.runs[run].validation.steps}" for run in runs}))


def _how_often(experiment: Experiment, runs: Sequence[str] | Mapping[str, object]) -> str:
    """After which epochs the runs are validated."""
    every = {experiment.runs[run].validation.every for run in runs}
    return "each epoch" if every == {1} else f"every {formatting.span(sorted(every))} epochs"


def _band(histories: Mapping[str, pd.DataFrame]) -> str:
    several = any(history["seed"].nunique() > 1 for history in histories.values())
    return "Lines are means over seeds, bands reach from the lowest to the highest seed. " if several else ""
