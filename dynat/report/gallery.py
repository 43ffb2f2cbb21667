"""The gallery: what an attack does to pictures of one run, and what the network then says they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from safetensors.numpy import load_file

from dynat.config import Experiment
from dynat.report import drawing, words
from dynat.report.drawing import FAINT, INK, RIGHT, WRONG

Tensors = dict[str, NDArray[Any]]

SHOWN = 8
PIXELS = 160
"""Every picture is enlarged to about this many, nearest neighbour, so that no viewer smooths it."""


def gallery(results: Path, experiment: Experiment, metrics: Mapping[str, Mapping[str, Any]]) -> tuple[Figure, str]:
    """Clean pictures, amplified perturbations, adversarial pictures: the first run with dynamic labels."""
    found = _examples(results, experiment)
    if found is None:
        reason = "no run with dynamic labels has kept a picture that an attack changed"
        return drawing.placeholder("Adversarial pictures", reason), reason.capitalize() + "."
    run, attack, tensors = found
    clean, adversarial = tensors["clean"], tensors["adversarial"]
    change = adversarial - clean
    factor = _amplification(change)
    names = metrics[run]["dataset"].get("classes", [])

    height = 4.85
    under = words.column_title(attack)
    figure = Figure(figsize=(drawing.WIDTH, height))
    figure.text(0.012, 1 - 0.11 / height, f"What {under} does to {run}", size=12.5, weight="bold", va="top")
    figure.text(
        0.012, 1 - 0.39 / height,
        f"{words.ball(experiment.attacks[attack])}; the change is shown {factor:.3g} times as large, grey is none",
        size=9.5, color=FAINT, va="top",
    )  # fmt: skip
    grid = figure.subplots(3, SHOWN, squeeze=False)
    figure.subplots_adjust(
        left=0.115, right=0.99, top=1 - 1.05 / height, bottom=0.42 / height, wspace=0.08, hspace=0.08
    )
    rows = (
        ("clean", clean),
        (f"change\n× {factor:.3g}", 0.5 + factor * change),
        ("adversarial", adversarial),
    )
    for line, (title, pictures) in zip(grid, rows, strict=True):
        line[0].text(-0.14, 0.5, title, transform=line[0].transAxes, ha="right", va="center", size=9.5, color=INK)
        for place, axes in enumerate(line):
            axes.set_axis_off()
            if place < len(pictures):
                axes.imshow(_enlarged(pictures[place]), vmin=0, vmax=1, cmap="gray", interpolation="none")
    for place in range(len(clean)):
        label = int(tensors["label"][place])
        grid[0][place].set_title(f"true: {_name(names, label)}", size=8.5, loc="center", pad=15, color=FAINT)
        _said(grid[0][place], int(tensors["clean_prediction"][place]), label, names, above=True)
        _said(grid[2][place], int(tensors["prediction"][place]), label, names, above=False)
    return figure, (
        f"Test pictures of {run} before and after {under}. Under the true class: the prediction on the clean "
        f"picture; at the bottom: on the adversarial one; ✓ is right, ✗ is wrong. The change is amplified "
        f"{factor:.3g} times around grey."
    )


def _examples(results: Path, experiment: Experiment) -> tuple[str, str, Tensors] | None:
    """The first run with dynamic labels that kept pictures which an attack changed. Of several attacks the
    one that fools it on most of them; the headline where that is a tie."""
    attacks = [experiment.headline, *(name for name in experiment.attacks if name != experiment.headline)]
    for run, settings in experiment.runs.items():
        kept = []
        for attack in attacks if settings.labels == "dynamic" else []:
            file = results / run / "outcomes" / f"{attack}.examples.safetensors"
            if file.exists():
                tensors = {name: value[:SHOWN] for name, value in load_file(file).items()}
                fooled = int((tensors["prediction"] != tensors["clean_prediction"]).sum())
                if (tensors["clean"] != tensors["adversarial"]).any():
                    kept.append((fooled, attack, tensors))
        if kept:
            _, attack, tensors = max(kept, key=lambda one: one[0])
            return run, attack, tensors
    return None


def _amplification(change: NDArray[np.float32]) -> float:
    """The factor that takes the largest change to black or white, to two digits."""
    return float(f"{0.5 / float(np.abs(change).max()):.2g}")


def _enlarged(picture: NDArray[np.float32]) -> NDArray[np.float32]:
    times = max(1, round(PIXELS / picture.shape[-1]))
    large = np.clip(picture, 0, 1).transpose(1, 2, 0).repeat(times, axis=0).repeat(times, axis=1)
    return large[..., 0] if large.shape[-1] == 1 else large


def _said(axes: Any, prediction: int, label: int, names: list[str], *, above: bool) -> None:
    right = prediction == label
    axes.text(
        0.5, 1.04 if above else -0.06, f"{'✓' if right else '✗'} {_name(names, prediction)}",
        transform=axes.transAxes, ha="center", va="bottom" if above else "top", size=9, weight="bold",
        color=RIGHT if right else WRONG,
    )  # fmt: skip


def _name(names: list[str], label: int) -> str:
    return str(names[label]) if label < len(names) else str(label)
