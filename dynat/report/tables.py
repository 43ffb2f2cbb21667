"""The main table, built once and written three ways: tidy CSV, Markdown, and LaTeX for booktabs.

A row per run, grouped and ordered as in the preset, a column per attack, then the worst case. Bold is the best of a
column; a dagger marks a run that a paired test cannot distinguish from the best.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from dynat.config import Experiment
from dynat.report import formatting
from dynat.report.comparisons import LEVEL, Comparison, best_runs, column_metrics
from dynat.report.markdown import escape, markdown_table
from dynat.report.precisions import mixed_precision_warnings
from dynat.report.selection import row_titles
from dynat.results.csv_files import csv_text
from dynat.results.records import RunMetrics, Summary

DAGGER = "†"
UNTESTED = "‡"
DOUBTED = "§"
ABSENT = "–"

UPPER_BOUNDS = f"{DOUBTED} fails a sanity check: its robust accuracies are probably too high; report.html says which."


@dataclass(frozen=True)
class Cell:
    """One accuracy as the table shows it."""

    metrics: Summary
    best: bool
    comparison: Comparison | None
    """Against the best run of the column; None for the run that it would be compared with."""

    @property
    def value(self) -> str:
        return formatting.percent(self.metrics.mean, self.metrics.n)

    @property
    def spread(self) -> str | None:
        """The standard deviation over seeds; None with one seed."""
        std = self.metrics.std
        return None if std is None else formatting.percent(std, self.metrics.n)

    @property
    def interval(self) -> str:
        return formatting.interval(self.metrics)

    @property
    def mark(self) -> str:
        """The sign after the value."""
        if self.best or self.comparison is None or self.comparison.behind:
            return ""
        return UNTESTED if self.comparison.p is None else DAGGER

    @property
    def tooltip(self) -> str:
        """The paired test in words, shown by the page when the mouse is over the cell."""
        test = self.comparison
        if test is None:
            return ""
        if test.p is None:
            return f"no seed in common with {test.best}"
        return (
            f"against {test.best} on {test.images:,} images: only {test.run} is correct on {test.only_run:,}, "
            f"only {test.best} on {test.only_best:,}; p = {test.p_corrected:.2g}, corrected for all pairs of runs"
        )


@dataclass(frozen=True)
class Column:
    name: str
    title: str
    fewer: bool
    """Whether it is about fewer images than the caption says."""
    note: str
    """How it differs from the caption: fewer images, other weights, another radius; often empty."""

    @property
    def heading(self) -> str:
        """Title and note in Markdown."""
        return f"{self.title}<br><sub>{self.note}</sub>" if self.note else self.title


@dataclass(frozen=True)
class Row:
    run: str
    method: str
    cells: tuple[Cell | None, ...]
    """In the order of the columns; None where there is no outcome."""
    failed: tuple[str, ...] = ()
    """Sanity checks that the run failed, by name."""
    group: str = ""
    """The title under which the row is listed; empty in an experiment without groups."""

    @property
    def mark(self) -> str:
        """The sign after the run's name."""
        return DOUBTED if self.failed else ""


@dataclass(frozen=True)
class Table:
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    about: str
    """What was measured: data, threat, n, seeds."""
    shape: str
    """What a cell holds."""
    order: str = ""
    """Which test images the first n are."""
    warnings: tuple[str, ...] = ()
    """What makes cells doubtful, such as images that lack a class."""

    def cells(self) -> Iterator[tuple[Row, Column, Cell]]:
        for row in self.rows:
            for column, cell in zip(self.columns, row.cells, strict=True):
                if cell is not None:
                    yield row, column, cell

    @property
    def sections(self) -> list[tuple[str, tuple[Row, ...]]]:
        """The rows by the title of their group; a single one without a title in an experiment without groups."""
        titles = dict.fromkeys(row.group for row in self.rows)
        return [(title, tuple(row for row in self.rows if row.group == title)) for title in titles]

    def only(self, runs: Collection[str]) -> Table:
        """The same table with these rows only; marks still refer to the best run of all."""
        return replace(self, rows=tuple(row for row in self.rows if row.run in runs))

    @property
    def marks(self) -> set[str]:
        return {cell.mark for _, _, cell in self.cells()} | {row.mark for row in self.rows}


def build(experiment: Experiment, metrics: Mapping[str, RunMetrics], comparisons: Sequence[Comparison]) -> Table:
    """The table of an experiment from the metrics of its runs; a run without metrics is a row of dashes."""
    against = {(c.column, c.run): c for c in comparisons}
    names = columns(experiment, metrics)
    best = {name: best_runs(metrics, name) for name in names}

    def cell(run: str, column: str) -> Cell | None:
        summary = column_metrics(metrics[run], column) if run in metrics else None
        return Cell(summary, run in best[column], against.get((column, run))) if summary else None

    images = _test_images(metrics)
    titles = row_titles(experiment)
    return Table(
        columns=tuple(_column(name, experiment, metrics, images) for name in names),
        rows=tuple(
            Row(
                run,
                titles[run],
                tuple(cell(run, column) for column in names),
                metrics[run].failed_checks if run in metrics else (),
                group,
            )
            for group, runs in experiment.grouped.items()
            for run in runs
        ),
        about=_about(experiment, metrics, images),
        shape=_shape(metrics),
        order=formatting.image_order(next(iter(metrics.values())).dataset),
        warnings=_warnings(metrics),
    )


def columns(experiment: Experiment, metrics: Mapping[str, RunMetrics]) -> list[str]:
    """The attacks, then the worst case where it is over more than one attack."""
    several = any(m.worst_case and len(m.worst_case.attacks) > 1 for m in metrics.values())
    return [*experiment.attacks, *([formatting.WORST] if several else [])]


CSV_COLUMNS = (
    *("run", "group", "method", "attack", "accuracy", "low", "high", "mean", "std", "n", "seeds"),
    *("best", "compared_with", "p", "p_corrected", "failed_checks"),
)


def to_csv(table: Table) -> str:
    """A row per run and column, every number unrounded."""
    rows: list[tuple[object, ...]] = []
    for row, column, cell in table.cells():
        m, test = cell.metrics, cell.comparison
        rows.append(
            (
                *(row.run, row.group, row.method, column.name),
                *(m.accuracy, m.low, m.high, m.mean, m.std, m.n, " ".join(map(str, m.seeds))),
                *(cell.best, test and test.best, test and test.p, test and test.p_corrected),
                " ".join(row.failed),
            )
        )
    return csv_text(CSV_COLUMNS, rows)


def to_markdown(table: Table) -> str:
    def shown(cell: Cell | None) -> str:
        if cell is None:
            return ABSENT
        value = f"**{cell.value}**" if cell.best else cell.value
        precision = f" ± {cell.spread}" if cell.spread else f" <sub>[{cell.interval}]</sub>"
        return f"{value}{cell.mark}{precision}"

    head = ["Run", "Method", *(column.heading for column in table.columns)]
    rows: list[list[str]] = []
    for title, of_group in table.sections:
        rows += [[f"**{escape(title)}**", *[""] * (len(head) - 1)]] if title else []
        rows += [[f"`{row.run}`{row.mark}", escape(row.method), *map(shown, row.cells)] for row in of_group]
    body = markdown_table(head, rows, right=range(2, len(head)))
    return "\n\n".join([body, f"{table.about} {table.shape}", *notes(table), *map(escape, table.warnings)]) + "\n"


def notes(table: Table) -> list[str]:
    """The meaning of the marks that the table has, and which columns must not be compared."""
    texts = {
        DAGGER: f"{DAGGER} not distinguishable from the best of its column (paired exact McNemar test, p of at least "
        f"{LEVEL:g} when corrected for all pairs of runs). The test compares these trained networks, "
        "not the variation between seeds.",
        DOUBTED: UPPER_BOUNDS,
        UNTESTED: f"{UNTESTED} no seed in common with the best of its column, so not tested.",
    }
    shown = [text for mark, text in texts.items() if mark in table.marks]
    return [*shown, *first_images(table)]


def first_images(table: Table) -> list[str]:
    """Which images a column with an n of its own is about; empty where there is none."""
    if not any(column.fewer for column in table.columns):
        return []
    return [
        f"A column that states its own n uses the first n test images only, {table.order}: compare the runs within it, "
        "not the column with other columns."
    ]


def _warnings(metrics: Mapping[str, RunMetrics]) -> tuple[str, ...]:
    """Every warning of an attack, once, with the attacks and runs that gave it; and whether precisions differ."""
    found: dict[str, list[tuple[str, str]]] = {}
    for run, m in metrics.items():
        for name, cell in m.attacks.items():
            for warning in cell.warnings:
                found.setdefault(warning, []).append((formatting.column_title(name), run))
    of_attacks = (
        f"Warning: {warning} ({', '.join(dict.fromkeys(title for title, _ in places))}; "
        f"{', '.join(dict.fromkeys(run for _, run in places))})."
        for warning, places in found.items()
    )
    return (*of_attacks, *(f"Warning: {warning}." for warning in mixed_precision_warnings(metrics)))


def _test_images(metrics: Mapping[str, RunMetrics]) -> int:
    """The number of test images: what an attack without a limit of its own evaluates."""
    return max(cell.n for m in metrics.values() for cell in m.attacks.values())


def _column(name: str, experiment: Experiment, metrics: Mapping[str, RunMetrics], images: int) -> Column:
    note = []
    counts = [cell.n for m in metrics.values() if (cell := column_metrics(m, name))]
    fewer = min(counts, default=images) < images
    if fewer:
        note.append(f"n = {formatting.span(counts)}")
    attack = experiment.attacks.get(name)
    if attack and attack.weights == "last":
        note.append("last epoch")
    if attack and attack.kind != "clean" and formatting.ball(attack) != formatting.ball(experiment.threat):
        note.append(formatting.ball(attack))
    return Column(name, formatting.column_title(name), fewer, ", ".join(note))


def _about(experiment: Experiment, metrics: Mapping[str, RunMetrics], images: int) -> str:
    seeds, dataset = [len(m.seeds) for m in metrics.values()], next(iter(metrics.values())).dataset
    limited = any(cell.n < images for m in metrics.values() for cell in m.attacks.values())
    worst = (
        " Worst case: images that are correct under every attack of this norm and radius on the selected epoch."
        if formatting.WORST in columns(experiment, metrics)
        else ""
    )
    return (
        f"Accuracy in percent on {formatting.dataset_title(experiment.dataset.name)}, "
        f"{formatting.ball(experiment.threat)}; "
        f"n = {formatting.test_images(images, dataset)}{' unless the column says otherwise' if limited else ''}, "
        f"{formatting.span(seeds)} {'seed' if max(seeds) == 1 else 'seeds'} per run.{worst}"
    )


def _shape(metrics: Mapping[str, RunMetrics]) -> str:
    seeds = [len(m.seeds) for m in metrics.values()]
    interval = "95 % Wilson interval in brackets"
    if max(seeds) == 1:
        return f"Cells: accuracy, {interval}. Bold: best of the column."
    alone = f"; of a single seed: accuracy, {interval}" if min(seeds) == 1 else ""
    return f"Cells: mean ± standard deviation over seeds{alone}. Bold: best of the column."
