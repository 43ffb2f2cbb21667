"""What every row is called, and which rows the figures compare: all of a small experiment, the first group of a large
one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from dynat.config import Checkpoint, Experiment, Run
from dynat.config.base import pixel_fraction
from dynat.report import formatting
from dynat.report.label_pairs import flat_fields, reference

MANY = 12
"""Of at most so many rows, every figure shows all."""

SHOWN_CHANGES = 3
"""At most so many differences are in a row's title; its section of the report has them all."""


def compared(experiment: Experiment) -> list[str]:
    """The rows that figures compare, in the order of the table. With many rows: the first of the first group, and in
    any case the run that ablations are compared with."""
    rows = [name for names in experiment.grouped.values() for name in names]
    if len(rows) <= MANY:
        return rows
    first = next(iter(experiment.grouped.values()))[:MANY]
    base = reference(experiment)
    if base and base not in first:
        first = [*first[: MANY - 1], base]
    return [name for name in rows if name in first]


def not_compared(experiment: Experiment) -> list[str]:
    """The rows that only tables and small figures show, in the order of the table."""
    shown = compared(experiment)
    return [name for names in experiment.grouped.values() for name in names if name not in shown]


def row_titles(experiment: Experiment) -> dict[str, str]:
    """The method of every row. Of runs with the same method, all but the first say what they change of the first; the
    first says its epochs where most runs have others."""
    first: dict[object, Run] = {}
    usual = [epochs for epochs, _ in Counter(run.epochs for run in experiment.runs.values()).most_common(1)]
    titles = {}
    for name, row in experiment.rows.items():
        title = formatting.method_title(row)
        if isinstance(row, Checkpoint):
            titles[name] = title
            continue
        method = (row.method, row.labels, row.awp is None, row.consistency if row.method == "lbgat" else None)
        if method in first:
            changes = differences(first[method], row)
        else:
            first[method] = row
            changes = [] if row.epochs in usual else [f"{row.epochs} epochs"]
        more = len(changes) - SHOWN_CHANGES
        shown = changes if more <= 1 else [*changes[:SHOWN_CHANGES], f"{more} more changes"]
        titles[name] = ", ".join([title, *shown])
    return titles


def differences(base: Run, run: Run) -> list[str]:
    """What another run of the same method changes, in the order of `PHRASES`, then by key."""
    one, other = flat_fields(base), flat_fields(run)
    changed = [key for key in {**one, **other} if one.get(key) != other.get(key) and key not in UNSAID]
    places = list(PHRASES)
    changed.sort(key=lambda key: places.index(key) if key in PHRASES else len(places))
    return [PHRASES[key](other.get(key)) if key in PHRASES else f"{key} {_plain(other.get(key))}" for key in changed]


def _plain(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "on", False: "off", None: "none"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


def _drops(factors: object) -> str:
    epochs = [str(epoch) for epoch in factors if int(epoch)] if isinstance(factors, dict) else []
    return f"rate drops after epoch {formatting.listing(epochs)}" if epochs else "constant rate"


PHRASES: dict[str, Callable[[object], str]] = {
    "target": lambda value: f"target {value}",
    "guide": lambda value: f"guide {value}",
    "guide_mode": lambda value: f"guide in {value} mode",
    "beta": lambda value: f"β = {_plain(value)}",
    "consistency": lambda value: f"consistency {_plain(value)}",
    "clean_forward": lambda value: f"{'with' if value else 'without'} clean forward",
    "inner.start": lambda value: {"gauss": "Gaussian start", "none": "no random start"}.get(
        str(value), f"{value} start"
    ),
    "inner.steps": lambda value: f"{value} inner steps",
    "inner.eps": lambda value: f"trained at ε = {pixel_fraction(float(str(value)))}",
    "epochs": lambda value: f"{value} epochs",
    "schedule.factors": _drops,
    "schedule.lr": lambda value: f"rate {_plain(value)}",
    "optimizer.weight_decay": lambda value: f"weight decay {_plain(value)}",
    "inner.step_size": lambda value: f"step size {pixel_fraction(float(str(value)))}",
    "awp": lambda value: f"AWP {value}",
    "options": lambda value: ", ".join(f"{key} {_plain(one)}" for key, one in dict(value).items()),  # type: ignore[call-overload]
}
"""How a changed field is said; the most telling first."""

UNSAID = frozenset({"inner.objective", "schedule.reference_epochs", "validation.select", "validation.every"})
"""Fields that a method's title says already, that follow from another field, or that do not change the training."""
