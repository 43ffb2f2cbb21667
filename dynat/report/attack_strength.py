"""Accuracy against the radius and the steps of PGD, and on images made against another run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import seaborn as sns
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from dynat.config import Experiment
from dynat.report import formatting, plotting, text_placement
from dynat.report.plotting import FAINT, Drawn
from dynat.results.paths import ExperimentFiles
from dynat.results.records import RunMetrics
from dynat.results.transfer import read_transfer

BANDS = 3
"""Of more runs than these, the bands of their intervals hide one another."""


def strength(experiment: Experiment, metrics: Mapping[str, RunMetrics], runs: Sequence[str]) -> Drawn | None:
    """Robust accuracy against eps and against the steps of PGD, a line per run; None without sanity checks."""
    title = "Accuracy against the radius and the steps of PGD"
    curves = {run: sanity.curves for run in runs if (sanity := metrics[run].sanity)}
    if not curves:
        return None
    n = formatting.span([point.n for of_run in curves.values() for point in of_run.eps])
    order = formatting.image_order(next(iter(metrics.values())).dataset)
    figure, axes = plotting.canvas(
        max(4.0, 1.6 + text_placement.LINE * len(curves)),
        title,
        f"The first {n} test images; the threat model is at the dotted line",
        2,
    )
    names = plotting.names_of(experiment)
    beside = plotting.room(names[run] for run in curves)
    figure.subplots_adjust(right=1 - beside, wspace=2 * (beside + 0.045) / (0.918 - 2 * beside - 0.045))
    color = plotting.colors_of(experiment)
    banded = len(curves) <= BANDS
    opacity = 1.0 if banded else 0.85
    for panel, axis in zip(axes, ("eps", "steps"), strict=True):
        ends = []
        for run, of_run in curves.items():
            points = of_run.eps if axis == "eps" else of_run.steps
            x = [255 * p.eps for p in of_run.eps] if axis == "eps" else [p.steps for p in of_run.steps]
            panel.plot(x, [p.accuracy for p in points], color=color[run], alpha=opacity, lw=1.8, marker="o", ms=3)
            if banded:
                low, high = [p.low for p in points], [p.high for p in points]
                panel.fill_between(x, low, high, color=color[run], alpha=0.07, lw=0)
            ends.append((points[-1].accuracy, names[run], color[run], opacity))
        panel.set_ylim(-0.02, 1.02)
        plotting.percent_axis(panel.yaxis)
        panel.set_ylabel("Accuracy" if axis == "eps" else "")
        text_placement.end_labels(panel, ends)
    norm = formatting.NORMS[experiment.threat.norm]
    axes[0].set(title="PGD-20", xlabel=f"Radius of the {norm} ball in 1/255", xlim=(0, None))
    axes[0].xaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 4, 5, 10], integer=True))
    axes[0].axvline(255 * experiment.threat.eps, color=FAINT, lw=1, ls=(0, (2, 2)))
    axes[1].set(title=formatting.ball(experiment.threat), xlabel="Steps of PGD", xscale="log")
    ticks = sorted({point.steps for of_run in curves.values() for point in of_run.steps})
    axes[1].xaxis.set_major_locator(FixedLocator(ticks))
    axes[1].xaxis.set_minor_locator(NullLocator())
    axes[1].set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    every = [point for of_run in curves.values() for point in (*of_run.eps, *of_run.steps)]
    widest = max(max(point.high - point.accuracy, point.accuracy - point.low) for point in every)
    around = (
        "bands are 95 % Wilson intervals"
        if banded
        else f"95 % Wilson intervals reach at most {100 * widest:.0f} points up and down"
    )
    return Drawn(
        figure,
        f"Accuracy under PGD on the first {n} test images ({order}), over all seeds; {around}. "
        "Left: 20 steps, each of a quarter of the radius. Right: at the threat model's radius. In a sound evaluation "
        "accuracy falls towards zero on the left (a sanity check uses a far larger radius, where it must be zero) and "
        "becomes constant on the right.",
    )


def transfer(
    files: ExperimentFiles, experiment: Experiment, metrics: Mapping[str, RunMetrics], runs: Sequence[str]
) -> Drawn | None:
    """Accuracy of every run on the images made against every run; None where that was not measured."""
    table = read_transfer(files, list(experiment.rows))
    if table is None or len(experiment.rows) < 2:
        return None
    frame, record = table
    names = plotting.names_of(experiment)
    frame = frame.loc[list(runs), list(runs)].rename(index=names, columns=names)
    steps, dataset = record.attack.steps, next(iter(metrics.values())).dataset
    images = formatting.test_images(min(record.attack.images or dataset.test, dataset.test), dataset)
    title = "Transfer attacks: images made against one run, classified by another"
    long = max(map(len, frame.columns)) > 8
    below = plotting.room_below(frame.columns) if long else 0.6
    height = 1.15 + below + 0.36 * len(frame)
    figure, (panel,) = plotting.canvas(
        height, title, f"Accuracy in percent under PGD-{steps} without early stopping, first seed of each run"
    )
    figure.subplots_adjust(left=plotting.room(frame.index) + 0.03, top=1 - 0.75 / height, bottom=below / height)
    sns.heatmap(
        100 * frame, ax=panel, vmin=0, vmax=100, cmap="crest_r", annot=True, fmt=".0f", linewidths=1.5,
        cbar=False, annot_kws={"size": 9.5},
    )  # fmt: skip
    panel.set(xlabel="Classified by", ylabel="Made against")
    plotting.matrix_axes(panel, slanted=long)
    return Drawn(
        figure,
        f"Row: the run that PGD-{steps} was made against; column: the run that then classified the images: "
        f"{images}. Darker is lower. A run whose accuracy is lower on images made against another run than on "
        "those made against itself (the diagonal) hides its gradients.",
    )
