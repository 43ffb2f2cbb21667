"""The gallery: images of one run before and after an attack, with the network's predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from dynat.config import Experiment, Run
from dynat.report import formatting, plotting
from dynat.report.plotting import FAINT, INK, RIGHT, WRONG, Drawn
from dynat.results.outcomes import Examples, read_examples
from dynat.results.paths import ExperimentFiles
from dynat.results.records import RunMetrics

SHOWN = 8
NAME = 13
"""Characters of the name of a class above an image."""
PIXELS = 160
"""Every image is enlarged to about this many, nearest neighbour, so that no viewer smooths it."""


def gallery(files: ExperimentFiles, experiment: Experiment, metrics: Mapping[str, RunMetrics]) -> Drawn | None:
    """Clean images, amplified perturbations, adversarial images; None where no attack changed an image."""
    chosen = _examples(files, experiment)
    if chosen is None:
        return None
    run, attack, examples = chosen
    clean, adversarial = examples.clean, examples.adversarial
    change = adversarial - clean
    factor = _amplification(change)
    names = metrics[run].dataset.classes

    height = 4.85
    under = formatting.column_title(attack)
    figure = Figure(figsize=(plotting.WIDTH, height))
    figure.text(
        0.012,
        1 - 0.11 / height,
        f"Adversarial examples: {plotting.names_of(experiment)[run]} under {under}",
        size=12.5,
        weight="bold",
        va="top",
    )
    figure.text(
        0.012, 1 - 0.39 / height,
        f"{formatting.ball(experiment.attacks[attack])}; the change is shown {factor:.3g} times as large, gray is none",
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
    for line, (title, images) in zip(grid, rows, strict=True):
        line[0].text(-0.14, 0.5, title, transform=line[0].transAxes, ha="right", va="center", size=9.5, color=INK)
        for place, axes in enumerate(line):
            axes.set_axis_off()
            if place < len(images):
                axes.imshow(_enlarged(images[place]), vmin=0, vmax=1, cmap="gray", interpolation="none")
    for place in range(len(clean)):
        label = int(examples.label[place])
        grid[0][place].set_title(f"true: {_name(names, label)}", size=8.5, loc="center", pad=15, color=FAINT)
        _prediction(grid[0][place], int(examples.clean_prediction[place]), label, names, above=True)
        _prediction(grid[2][place], int(examples.prediction[place]), label, names, above=False)
    return Drawn(
        figure,
        f"Test images before and after {under} on {run}. Below the true class: the prediction on the clean "
        f"image; at the bottom: on the adversarial one; ✓ is correct, ✗ is wrong. Where the attack failed, the image "
        f"of its search with the smallest margin is shown. The change is amplified {factor:.3g} times around gray.",
    )


def _examples(files: ExperimentFiles, experiment: Experiment) -> tuple[str, str, Examples] | None:
    """Images that an attack changed, of the first run that has some; runs with dynamic labels come first. Of several
    attacks the one that changes most predictions; the headline attack where that is a tie."""
    attacks = [experiment.headline, *(name for name in experiment.attacks if name != experiment.headline)]
    dynamic = [name for name, row in experiment.rows.items() if isinstance(row, Run) and row.labels == "dynamic"]
    for run in [*dynamic, *(name for name in experiment.rows if name not in dynamic)]:
        changed = []
        for attack in attacks:
            file = files.run(run).examples(attack)
            if file.exists():
                examples = _first(read_examples(file))
                if (examples.clean != examples.adversarial).any():
                    broken = int((examples.prediction != examples.clean_prediction).sum())
                    changed.append((broken, attack, examples))
        if changed:
            _, attack, examples = max(changed, key=lambda one: one[0])
            return run, attack, examples
    return None


def _first(examples: Examples) -> Examples:
    return Examples(**{field.name: getattr(examples, field.name)[:SHOWN] for field in fields(examples)})


def _amplification(change: NDArray[np.float32]) -> float:
    """The factor that takes the largest change to black or white, to two digits."""
    return float(f"{0.5 / float(np.abs(change).max()):.2g}")


def _enlarged(image: NDArray[np.float32]) -> NDArray[np.float32]:
    times = max(1, round(PIXELS / image.shape[-1]))
    large = np.clip(image, 0, 1).transpose(1, 2, 0).repeat(times, axis=0).repeat(times, axis=1)
    return large[..., 0] if large.shape[-1] == 1 else large


def _prediction(axes: Any, prediction: int, label: int, names: Sequence[str], *, above: bool) -> None:
    right = prediction == label
    axes.text(
        0.5, 1.04 if above else -0.06, f"{'✓' if right else '✗'} {_name(names, prediction)}",
        transform=axes.transAxes, ha="center", va="bottom" if above else "top", size=9, weight="bold",
        color=RIGHT if right else WRONG,
    )  # fmt: skip


def _name(names: Sequence[str], label: int) -> str:
    name = names[label] if label < len(names) else str(label)
    return name if len(name) <= NAME else f"{name[: NAME - 1]}…"
