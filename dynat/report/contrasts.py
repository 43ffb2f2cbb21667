"""Runs that differ in one thing: what DYNAT's labels do for a method, and what each part of DYNAT does.

Both are found in the resolved configs, not by name: a twin is the same run with true labels; an ablation is
the reference DYNAT run with a field or two changed.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from dynat.config import Experiment, Run
from dynat.report import words
from dynat.report.comparisons import Comparison, against, column_metrics
from dynat.report.tables import UPPER_BOUNDS, Table

LABELLING = ("labels", "guide", "guide_mode", "beta")
"""Fields that belong to having a guide; all else is the same in twins, the clean forward for BatchNorm too."""

AT_MOST = 2
"""An ablation changes so many fields of the reference, no more."""


@dataclass(frozen=True)
class Ablation:
    """A run beside the reference, column by column."""

    run: str
    change: str
    cells: Mapping[str, Mapping[str, Any]]
    tests: Mapping[str, Comparison]


def twins(experiment: Experiment) -> list[tuple[str, str]]:
    """(run with true labels, the same run with dynamic labels), in the order of the preset."""
    apart = {name: _flat(run, without=LABELLING) for name, run in experiment.runs.items()}
    usual = [name for name, run in experiment.runs.items() if run.labels == "dynamic" and _usual(experiment, run)]
    found = []
    for static, run in experiment.runs.items():
        if run.labels == "true":
            same = [name for name in usual if apart[name] == apart[static]]
            found += [(static, name) for name in same[:1]]
    return found


def _usual(experiment: Experiment, run: Run) -> bool:
    """Whether a run has its guide as the reference has it, so that its twin differs in the labels alone."""
    base = experiment.runs[reference(experiment) or ""]
    return (run.guide_mode, run.beta) == (base.guide_mode, base.beta)


def reference(experiment: Experiment) -> str | None:
    """The DYNAT run that ablations are held against: the first with dynamic labels."""
    return next((name for name, run in experiment.runs.items() if run.labels == "dynamic"), None)


def ablations(
    results: Path, experiment: Experiment, metrics: Mapping[str, Mapping[str, Any]]
) -> tuple[str, list[Ablation]] | None:
    """The reference and every run that changes a field or two of it; None where there is nothing to compare."""
    base = reference(experiment)
    if base is None:
        return None
    changes = {name: _changes(experiment.runs[base], run) for name, run in experiment.runs.items() if name != base}
    near = [name for name, changed in changes.items() if 0 < len(changed) <= AT_MOST]
    columns = list(experiment.attacks)
    tests = {column: against(results, metrics, column, base, near) for column in columns}
    rows = [
        Ablation(
            run=name,
            change="; ".join(changes.get(name, {}).values()) or "the reference",
            cells={c: cell for c in columns if (cell := column_metrics(metrics[name], c))},
            tests={c: tests[c][name] for c in columns if name in tests[c]},
        )
        for name in (base, *near)
    ]
    return (base, rows) if near else None


def to_markdown(found: tuple[str, list[Ablation]] | None, table: Table) -> str:
    """The ablations, their columns and runs marked as in the main table."""
    if found is None:
        return "No run of this experiment differs from a run with dynamic labels in only a field or two.\n"
    base, rows = found
    columns = list(rows[0].cells)
    headings = {column.name: column.heading for column in table.columns}
    marks = {row.run: row.mark for row in table.rows}
    lines = [
        f"| Run | Changed | {' | '.join(headings[c] for c in columns)} |",
        f"|:---|:---|{'---:|' * len(columns)}",
    ]
    for row in rows:
        cells = [_shown(row, column) for column in columns]
        lines.append(f"| `{row.run}`{marks[row.run]} | {row.change} | {' | '.join(cells)} |")
    lines += [
        "",
        f"{table.about} Runs that change a field or two of `{base}`. Cells: mean over seeds; below it the "
        f"difference from `{base}` in points over their common seeds and pictures. Bold: a difference that the paired "
        "exact McNemar test tells from none (Holm-corrected within the column, p below 0.05): between these trained "
        "networks, so with one seed it is no verdict on the change itself.",
    ]
    if any(marks[row.run] for row in rows):
        lines += ["", UPPER_BOUNDS]
    return "\n".join(lines) + "\n"


def to_csv(found: tuple[str, list[Ablation]] | None) -> str:
    records = [
        {
            "run": row.run,
            "changed": row.change,
            "attack": column,
            "accuracy": cell["accuracy"],
            "n": cell["n"],
            "reference": base,
            "difference": _difference(row, column),
            "p_corrected": row.tests[column].p_corrected if column in row.tests else None,
        }
        for base, rows in ([found] if found else [])
        for row in rows
        for column, cell in row.cells.items()
    ]
    out = io.StringIO()
    columns = ["run", "changed", "attack", "accuracy", "n", "reference", "difference", "p_corrected"]
    pd.DataFrame(records, columns=columns).to_csv(out, index=False, lineterminator="\n")
    return out.getvalue()


def _shown(row: Ablation, column: str) -> str:
    cell = row.cells.get(column)
    if cell is None:
        return "–"
    value, difference = words.percent(cell["mean"], cell["n"]), _difference(row, column)
    if difference is None:
        return value
    said = f"{100 * difference:+.1f}".replace("-", "−")
    strong = row.tests[column].distinguishable
    return f"{value}<br><sub>{f'**{said}**' if strong else said}</sub>"


def _difference(row: Ablation, column: str) -> float | None:
    """How much more of the common pictures the run withstands than the reference."""
    test = row.tests.get(column)
    return None if test is None or test.difference is None else test.difference


def _changes(base: Run, run: Run) -> dict[str, str]:
    """What another run has changed, field by field, as a person would write it."""
    one, other = _flat(base), _flat(run)
    if run.labels != base.labels or run.method != base.method:
        return {}
    return {
        key: f"{key}: {_said(other.get(key))} (not {_said(one.get(key))})"
        for key in (*one, *(key for key in other if key not in one))
        if one.get(key) != other.get(key)
    }


def _said(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "on", False: "off", None: "none"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


def _flat(run: Run, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """The run's fields, nested ones as `inner.steps`; AWP is one field, on or off with its settings."""
    flat: dict[str, Any] = {}
    for key, value in run.model_dump(mode="json", exclude=set(without)).items():
        if isinstance(value, dict) and key not in ("options", "awp"):
            flat |= {f"{key}.{inner}": content for inner, content in value.items()}
        else:
            flat[key] = value
    if flat.get("awp"):
        flat["awp"] = ", ".join(f"{key} {_said(value)}" for key, value in flat["awp"].items())
    return flat
