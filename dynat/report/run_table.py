"""One run by itself: a row per attack, for an evaluated checkpoint and for the model card."""

from __future__ import annotations

from dynat.report import formatting
from dynat.report.markdown import escape, markdown_table
from dynat.results.records import RunMetrics, Summary
from dynat.results.sanity import TITLES

HEAD = ("Attack", "Ball", "Accuracy", "95 % interval", "Images", "Seeds", "Time")
RIGHT = (2, 3, 4, 5, 6)
"""Columns of numbers."""


def to_markdown(metrics: RunMetrics) -> str:
    """The table of a run's metrics, its columns aligned so that it reads as text too."""
    return markdown_table(HEAD, _rows(metrics), right=RIGHT, padded=True)


def notices(metrics: RunMetrics) -> list[str]:
    """Trainings that did not take off, warnings of the attacks, and adversarial examples that verification rejected."""
    texts = [
        f"training with seed {seed}: {warning}"
        for seed, training in metrics.training.items()
        for warning in training.warnings
    ]
    for name, cell in metrics.attacks.items():
        title = formatting.column_title(name)
        texts += [f"{title} warned: {warning}" for warning in cell.warnings]
        if cell.rejected_examples:
            images = formatting.count(cell.rejected_examples, "image")
            texts.append(f"{title} returned {images} outside the ball or outside [0,1]; they count as not broken")
    if metrics.sanity is not None:
        texts += [f"sanity checks: {warning}" for warning in metrics.sanity.warnings]
    return texts


def sanity_checks(metrics: RunMetrics) -> list[str]:
    """Which sanity checks passed, and the numbers that decided; empty where none were run."""
    checks = {} if metrics.sanity is None else metrics.sanity.checks
    return [
        f"{'passed' if check.passed else '**failed**'}: {TITLES[name]} ({escape(check.detail)})"
        for name, check in checks.items()
    ]


def failed_titles(metrics: RunMetrics) -> list[str]:
    return [TITLES[name] for name in metrics.failed_checks]


def _rows(metrics: RunMetrics) -> list[tuple[str, ...]]:
    rows = []
    for name, cell in metrics.attacks.items():
        attack = cell.attack
        ball = "" if attack.kind == "clean" else formatting.ball(attack)
        last = ", last epoch" if attack.weights == "last" else ""
        title = formatting.column_title(name) + last
        rows.append((title, ball, *_numbers(cell), formatting.duration(cell.cost.seconds)))
    worst = metrics.worst_case
    if worst and len(worst.attacks) > 1:
        rows.append((formatting.column_title(formatting.WORST), formatting.ball(metrics.threat), *_numbers(worst), ""))
    return rows


def _numbers(cell: Summary) -> tuple[str, ...]:
    value = f"{formatting.percent(cell.mean, cell.n)} %"
    spread = "" if cell.std is None else f" ± {formatting.percent(cell.std, cell.n)}"
    return value + spread, formatting.interval(cell), f"{cell.n:,}", ", ".join(map(str, cell.seeds))
