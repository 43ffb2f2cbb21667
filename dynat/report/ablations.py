"""What each part of DYNAT does: runs that change a field or two of the reference run, compared with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dynat.config import Experiment
from dynat.report import formatting
from dynat.report.comparisons import AllVerdicts, Comparison, against, column_metrics
from dynat.report.label_pairs import changed_fields, reference
from dynat.report.markdown import escape, markdown_table
from dynat.report.tables import UPPER_BOUNDS, Table, first_images
from dynat.results.csv_files import csv_text
from dynat.results.records import RunMetrics, Summary

AT_MOST = 2
"""An ablation changes at most so many fields of the reference."""


@dataclass(frozen=True)
class Ablation:
    """A run beside the reference, column by column."""

    run: str
    change: str
    cells: Mapping[str, Summary]
    tests: Mapping[str, Comparison]


@dataclass(frozen=True)
class Ablations:
    """The reference and every run that changes a field or two of it."""

    reference: str
    rows: tuple[Ablation, ...]
    """The reference first."""


def ablations(verdicts: AllVerdicts, experiment: Experiment, metrics: Mapping[str, RunMetrics]) -> Ablations | None:
    """The ablations of an experiment; None where there is nothing to compare."""
    base = reference(experiment)
    if base is None:
        return None
    runs = experiment.runs
    changes = {name: changed_fields(runs[base], run) for name, run in runs.items() if name != base}
    near = [name for name, changed in changes.items() if 0 < len(changed) <= AT_MOST]
    columns = list(experiment.attacks)
    tests = {column: against(verdicts, metrics, column, base, near) for column in columns}
    rows = tuple(
        Ablation(
            run=name,
            change="; ".join(changes.get(name, {}).values()) or "the reference",
            cells={c: cell for c in columns if (cell := column_metrics(metrics[name], c))},
            tests={c: tests[c][name] for c in columns if name in tests[c]},
        )
        for name in (base, *near)
    )
    return Ablations(base, rows) if near else None


def to_markdown(ablated: Ablations | None, table: Table) -> str:
    """The ablations, their columns and runs marked as in the main table."""
    if ablated is None:
        return "No run of this experiment differs from a run with dynamic labels in only a field or two.\n"
    columns = list(ablated.rows[0].cells)
    headings = {column.name: column.heading for column in table.columns}
    marks = {row.run: row.mark for row in table.rows}
    head = ["Run", "Changed", *(headings[column] for column in columns)]
    rows = [
        [f"`{row.run}`{marks[row.run]}", row.change, *(_shown(row, column) for column in columns)]
        for row in ablated.rows
    ]
    note = (
        f"{table.about} Runs that change a field or two of `{ablated.reference}`. Cells: mean over seeds; below it the "
        f"difference from `{ablated.reference}` in points over their common seeds and images. Bold: a significant "
        "difference (paired exact McNemar test, Holm-corrected within the column, p below 0.05). The test compares "
        "these trained networks, so with one seed it does not show that the change is the cause."
    )
    bounds = [UPPER_BOUNDS] if any(marks[row.run] for row in ablated.rows) else []
    below = [note, *bounds, *first_images(table), *map(escape, table.warnings)]
    return "\n\n".join([markdown_table(head, rows, right=range(2, len(head))), *below]) + "\n"


def to_csv(ablated: Ablations | None) -> str:
    columns = ["run", "changed", "attack", "accuracy", "n", "reference", "difference", "p_corrected"]
    rows: list[tuple[object, ...]] = []
    for row in ablated.rows if ablated else ():
        for column, cell in row.cells.items():
            test = row.tests.get(column)
            numbers = (test and test.difference, test and test.p_corrected)
            rows.append((row.run, row.change, column, cell.accuracy, cell.n, ablated and ablated.reference, *numbers))
    return csv_text(columns, rows)


def _shown(row: Ablation, column: str) -> str:
    cell, test = row.cells.get(column), row.tests.get(column)
    if cell is None:
        return "–"
    value = formatting.percent(cell.mean, cell.n)
    if test is None or test.difference is None:
        return value
    difference = f"{100 * test.difference:+.1f}".replace("-", "−")
    return f"{value}<br><sub>{f'**{difference}**' if test.distinguishable else difference}</sub>"
