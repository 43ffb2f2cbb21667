"""The figures of an experiment, each a function of metrics and histories; only the gallery reads images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import rc_context
from matplotlib.figure import Figure

from dynat.config import Experiment
from dynat.report import corruptions, formatting, plotting
from dynat.report.attack_strength import strength, transfer
from dynat.report.balance import beta
from dynat.report.curves import epochs, labels, small_curves
from dynat.report.figure_list import FIGURES, FORMATS, figures_of, formats_of
from dynat.report.gallery import gallery
from dynat.report.pairs import pairs
from dynat.report.plotting import INK, Drawn
from dynat.report.selection import compared, not_compared
from dynat.report.tradeoff import overview, tradeoff
from dynat.results.paths import ExperimentFiles
from dynat.results.records import RunMetrics

MANY_CLASSES = 20
"""Beyond these, classes are drawn as a distribution rather than one by one."""


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
    runs = compared(experiment)
    draw: dict[str, Callable[[], Drawn | None]] = {
        "tradeoff": lambda: tradeoff(experiment, metrics, runs),
        "overview": lambda: overview(experiment, metrics),
        "epochs": lambda: epochs(experiment, histories, runs),
        "labels": lambda: labels(experiment, histories, runs),
        "curves": lambda: small_curves(experiment, histories, not_compared(experiment)),
        "pairs": lambda: pairs(experiment, metrics),
        "beta": lambda: beta(experiment, metrics),
        "strength": lambda: strength(experiment, metrics, runs),
        "transfer": lambda: transfer(files, experiment, metrics, runs),
        "corruptions": lambda: corruptions.figure(experiment, corruptions.read_all(files, experiment), runs),
        "classes": lambda: classes(experiment, metrics, runs),
        "gallery": lambda: gallery(files, experiment, metrics),
    }
    captions = {}
    chosen = figures_of(experiment)
    for name, info in FIGURES.items():
        wanted = formats_of(experiment) if name in chosen else []
        for ending in FORMATS:  # of an earlier experiment under this name
            if ending not in wanted:
                files.figure(name, ending).unlink(missing_ok=True)
        if not wanted:
            continue
        with rc_context(plotting.STYLE):
            drawn = draw[name]()
            figure = drawn.figure if drawn else plotting.without_data(info.title)
        plotting.save(figure, [files.figure(name, ending) for ending in wanted])
        if drawn:
            captions[name] = drawn.caption
    return captions


def classes(experiment: Experiment, metrics: Mapping[str, RunMetrics], runs: Sequence[str]) -> Drawn:
    """Robust accuracy by class, a row per run."""
    attack = experiment.headline
    under = formatting.column_title(attack)
    chosen = {run: metrics[run] for run in runs}
    by_class = {run: m.attacks[attack].per_class for run, m in chosen.items()}
    frame = pd.DataFrame({run: {str(c): value for c, value in row.items()} for run, row in by_class.items()}).T
    frame = frame[sorted(frame.columns, key=lambda label: int(str(label)))]
    n = max(m.attacks[attack].n for m in chosen.values())
    images = formatting.test_images(n, next(iter(metrics.values())).dataset)
    each = f"n = {images}, about {n / frame.shape[1]:,.0f} of each class"
    title = f"Accuracy under {under} by class"
    about = f"Test accuracy under {under} by class; {each}."
    if frame.shape[1] > MANY_CLASSES:
        figure = _class_spread(experiment, frame, title, each, under)
        return Drawn(figure, f"{about} A dot per class; the box spans the middle half, its line is the median.")
    frame = frame.rename(index=plotting.names_of(experiment))
    names = next(iter(metrics.values())).dataset.classes
    given = [names[int(label)] if int(label) < len(names) else str(label) for label in frame.columns]
    titles = list(plotting.shortened(given).values())
    left, long = plotting.room(frame.index), max(map(len, titles)) > 8
    below = plotting.room_below(titles) if long else 0.6
    height = 1.15 + below + 0.36 * len(frame)
    figure, (panel,) = plotting.canvas(height, title, f"Percent of test images; {each}")
    figure.subplots_adjust(left=left, top=1 - 0.75 / height, bottom=below / height)
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
    names = plotting.names_of(experiment)
    figure.subplots_adjust(left=plotting.room(names[run] for run in frame.index))
    color = plotting.colors_of(experiment)
    runs = list(frame.index)
    for place, run in enumerate(runs):
        values = frame.loc[run].dropna().to_numpy()
        low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
        panel.barh(place, high - low, left=low, height=0.55, color=color[run], alpha=0.25, lw=0)
        panel.vlines(middle, place - 0.275, place + 0.275, color=color[run], lw=2)
        shift = 0.34 * ((np.arange(len(values)) * 0.618) % 1 - 0.5)  # spread evenly, without chance
        panel.scatter(values, place + shift, s=9, color=color[run], alpha=0.65, linewidths=0, zorder=3)
    panel.set_yticks(range(len(runs)), [names[run] for run in runs], color=INK)
    panel.invert_yaxis()
    panel.set(xlabel=f"Accuracy of a class under {under}", ylabel="")
    plotting.percent_axis(panel.xaxis)
    return figure
