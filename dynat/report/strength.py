"""How accuracy falls with the attack: against its radius, against its steps, and when it comes from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from dynat.config import Experiment
from dynat.report import drawing, words
from dynat.report.drawing import FAINT
from dynat.report.outcomes import needed, read_json


def strength(experiment: Experiment, metrics: Mapping[str, Mapping[str, Any]]) -> tuple[Figure, str]:
    """Robust accuracy against eps and against the steps of PGD, a line per run."""
    title = "Stronger attacks: accuracy against the radius and the steps of PGD"
    shown = {run: m["examination"]["curves"] for run, m in metrics.items() if m["examination"]}
    if not shown:
        reason = "no run was probed"
        return drawing.placeholder(title, reason), f"Not drawn: {reason}."
    n = words.span([point["n"] for drawn in shown.values() for point in drawn["eps"]])
    figure, axes = drawing.canvas(4.0, title, f"The first {n} test pictures; the threat model is at the dotted line", 2)
    beside = drawing.room(shown)
    figure.subplots_adjust(right=1 - beside, wspace=2 * (beside + 0.045) / (0.918 - 2 * beside - 0.045))
    colour = drawing.colours(experiment.runs)
    opacity = 1.0 if len(shown) <= len(drawing.OTHERS) else 0.5
    for panel, axis in zip(axes, ("eps", "steps"), strict=True):
        ends = []
        for run, drawn in shown.items():
            x = [255 * point["eps"] if axis == "eps" else point["steps"] for point in drawn[axis]]
            y = [point["accuracy"] for point in drawn[axis]]
            panel.plot(x, y, color=colour[run], alpha=opacity, lw=1.8, marker="o", ms=3)
            panel.fill_between(
                x,
                [p["low"] for p in drawn[axis]],
                [p["high"] for p in drawn[axis]],
                color=colour[run],
                alpha=0.07,
                lw=0,
            )
            ends.append((y[-1], run, colour[run], opacity))
        panel.set_ylim(-0.02, 1.02)
        drawing.percent_axis(panel.yaxis)
        panel.set_ylabel("Accuracy" if axis == "eps" else "")
        drawing.end_labels(panel, ends)
    norm = words.NORMS[experiment.threat.norm]
    axes[0].set(title="PGD-20", xlabel=f"Radius of the {norm} ball in 1/255", xlim=(0, None))
    axes[0].axvline(255 * experiment.threat.eps, color=FAINT, lw=1, ls=(0, (2, 2)))
    axes[1].set(title=words.ball(experiment.threat), xlabel="Steps of PGD", xscale="log")
    ticks = sorted({point["steps"] for drawn in shown.values() for point in drawn["steps"]})
    axes[1].xaxis.set_major_locator(FixedLocator(ticks))
    axes[1].xaxis.set_minor_locator(NullLocator())
    axes[1].set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    return figure, (
        f"Accuracy under PGD on the first {n} test pictures, over all seeds; bands are 95 % Wilson intervals. Left: 20 "
        "steps of a quarter of the radius. Right: at the threat model's radius. A sound evaluation falls to nothing on "
        "the left and becomes flat on the right."
    )


def transfer(results: Path, metrics: Mapping[str, Mapping[str, Any]]) -> tuple[Figure, str]:
    """Accuracy of every run on the pictures made against every run."""
    title = "Attacks from elsewhere: pictures made against one run, shown to another"
    file = results / "transfer.csv"
    if not file.exists() or len(metrics) < 2:
        reason = "needs two runs and the pictures of each shown to the other"
        return drawing.placeholder(title, reason), f"Not drawn: {reason}."
    frame = _matrix(file, list(metrics))
    account = read_json(needed(file.with_suffix(".json")))
    attack = account["attack"]
    height = 1.95 + 0.36 * len(frame)
    figure, (panel,) = drawing.canvas(
        height, title, f"Accuracy in percent under all {attack['steps']} steps of PGD, first seed of each run"
    )
    long = max(map(len, frame.columns)) > 8
    figure.subplots_adjust(
        left=drawing.room(frame.index) + 0.03, top=1 - 0.75 / height, bottom=(1.25 if long else 0.6) / height
    )
    sns.heatmap(
        100 * frame, ax=panel, vmin=0, vmax=100, cmap="crest_r", annot=len(frame) <= 16, fmt=".0f", linewidths=1.5,
        cbar=False, annot_kws={"size": 9.5},
    )  # fmt: skip
    panel.set(xlabel="Shown to", ylabel="Made against")
    drawing.matrix_axes(panel, slanted=long)
    return figure, (
        f"Row: the run that PGD-{attack['steps']} was made against; column: the run that then saw the pictures "
        f"(n = {attack['pictures']:,}). Darker is lower. A run that does worse on pictures from elsewhere than on its "
        "own (the diagonal) hides its gradients."
    )


def _matrix(file: Path, runs: list[str]) -> pd.DataFrame:
    table = pd.read_csv(file)
    frame = table.pivot_table(index="source", columns="target", values="correct")
    absent = [run for run in runs if run not in frame.index]
    if absent:
        raise ValueError(f"{file}: knows nothing of run '{absent[0]}'; delete it and make it again")
    return frame.loc[runs, runs]
