"""Accuracy against beta, the weight of the target's loss against the guide's: what a sweep over beta ends in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator

from dynat.config import Experiment
from dynat.report import formatting, plotting
from dynat.report.label_pairs import beta_runs, reference
from dynat.report.plotting import DYNAMIC, FAINT, Drawn
from dynat.results.records import AttackMetrics, RunMetrics


def beta(experiment: Experiment, metrics: Mapping[str, RunMetrics]) -> Drawn | None:
    """A point per run that differs from the reference in beta alone, a panel per attack; None without two of them."""
    runs = beta_runs(experiment)
    if not runs:
        return None
    attacks = _attacks(experiment)
    figure, panels = plotting.canvas(
        3.9,
        "Accuracy against beta, the weight of the target's loss",
        "Line: mean over seeds, with 95 % Wilson intervals; gray: single seeds",
        len(attacks),
    )
    figure.subplots_adjust(wspace=0.08)
    weights = [experiment.runs[run].beta or 0.0 for run in runs]
    cells = {attack: [metrics[run].attacks[attack] for run in runs] for attack in attacks}
    low = min(cell.low for of_attack in cells.values() for cell in of_attack)
    high = max(cell.high for of_attack in cells.values() for cell in of_attack)
    edge = 0.05 * (high - low) or 0.01
    for panel, (attack, of_attack) in zip(panels, cells.items(), strict=True):
        _panel(panel, weights, of_attack)
        n = formatting.span([cell.n for cell in of_attack])
        panel.set(title=f"{formatting.column_title(attack)}, n = {n}", xlabel="beta", ylim=(low - edge, high + edge))
        panel.tick_params(axis="y", labelleft=panel is panels[0])
    panels[0].set_ylabel("Accuracy")
    return Drawn(
        figure,
        f"Test accuracy of {reference(experiment)} and of the runs that differ from it in beta alone: "
        f"{formatting.listing(runs)}. n: test images. All panels have the same scale.",
    )


def _attacks(experiment: Experiment) -> list[str]:
    """Clean images, the first PGD, and the attack that the report compares by."""
    attacks = experiment.attacks
    pgd = [name for name, attack in attacks.items() if attack.kind == "pgd" and attack.weights == "best"]
    return [name for name in dict.fromkeys(("clean", *pgd[:1], experiment.headline)) if name in attacks]


def _panel(panel: Axes, weights: Sequence[float], cells: Sequence[AttackMetrics]) -> None:
    panel.vlines(weights, [c.low for c in cells], [c.high for c in cells], color=DYNAMIC, lw=1.2, alpha=0.6)
    panel.plot(weights, [c.mean for c in cells], color=DYNAMIC, marker="o", ms=5, lw=1.8, mec="white", mew=0.6)
    for weight, cell in zip(weights, cells, strict=True):
        seeds = list(cell.per_seed.values())
        panel.scatter([weight] * len(seeds), seeds, s=9, color=FAINT, linewidths=0, zorder=3)
    if min(weights) > 0:
        panel.set_xscale("log")
    else:  # a logarithm has no place for zero
        panel.set_xscale("symlog", linthresh=min(filter(None, weights)))
    panel.xaxis.set_major_locator(FixedLocator(weights))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.set_xticks(weights, [f"{weight:g}" for weight in weights])
    plotting.percent_axis(panel.yaxis)
