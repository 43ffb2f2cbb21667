"""The main table, built once and written three ways: tidy CSV, Markdown, and LaTeX for booktabs.

A row per run in the order of the preset, a column per attack, then the worst case. Bold is the best of a
column; a dagger says that the run cannot be told from the best by a paired test.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from dynat.config import Experiment
from dynat.report import words
from dynat.report.comparisons import LEVEL, WORST, Comparison, best_runs, column_metrics

DAGGER = "†"
UNTESTED = "‡"
DOUBTED = "§"
ABSENT = "–"

UPPER_BOUNDS = (
    f"{DOUBTED} fails a validity gate: its robust accuracies are upper bounds, not results; report.html says which."
)


@dataclass(frozen=True)
class Cell:
    """One accuracy as the table shows it."""

    metrics: Mapping[str, Any]
    best: bool
    comparison: Comparison | None
    """Against the best run of the column; None for the run that it would be compared with."""

    @property
    def value(self) -> str:
        return words.percent(self.metrics["mean"], self.metrics["n"])

    @property
    def spread(self) -> str | None:
        """The standard deviation over seeds; None with one seed."""
        std = self.metrics["std"]
        return None if std is None else words.percent(std, self.metrics["n"])

    @property
    def interval(self) -> str:
        return words.interval(self.metrics)

    @property
    def mark(self) -> str:
        """The sign after the value: the one place where a cell is given one."""
        if self.best or self.comparison is None or self.comparison.behind:
            return ""
        return UNTESTED if self.comparison.p is None else DAGGER

    @property
    def said(self) -> str:
        """The paired test in words, for whoever points at the cell."""
        test = self.comparison
        if test is None:
            return ""
        if test.p is None:
            return f"no seed in common with {test.best}"
        return (
            f"against {test.best} on {test.pictures:,} pictures: only {test.run} stands on {test.only_run:,}, "
            f"only {test.best} on {test.only_best:,}; p = {test.p_corrected:.2g}, corrected for all pairs of runs"
        )


@dataclass(frozen=True)
class Column:
    name: str
    title: str
    fewer: bool
    """Whether it is about fewer pictures than the caption says."""
    note: str
    """What sets it apart from the caption: fewer pictures, other weights, another radius; often empty."""

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
    """Validity gates that the run did not pass."""

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

    def cells(self) -> Iterator[tuple[Row, Column, Cell]]:
        for row in self.rows:
            for column, cell in zip(self.columns, row.cells, strict=True):
                if cell is not None:
                    yield row, column, cell

    @property
    def marks(self) -> set[str]:
        return {cell.mark for _, _, cell in self.cells()} | {row.mark for row in self.rows}


def build(experiment: Experiment, metrics: Mapping[str, Mapping[str, Any]], comparisons: Sequence[Comparison]) -> Table:
    """The table of an experiment from the metrics of its runs."""
    against = {(c.column, c.run): c for c in comparisons}
    names = columns(experiment, metrics)
    best = {name: best_runs(metrics, name) for name in names}

    def cell(run: str, column: str) -> Cell | None:
        found = column_metrics(metrics[run], column)
        return Cell(found, run in best[column], against.get((column, run))) if found else None

    pictures = _pictures(metrics)
    return Table(
        columns=tuple(_column(name, experiment, metrics, pictures) for name in names),
        rows=tuple(
            Row(
                name,
                words.method_title(run),
                tuple(cell(name, column) for column in names),
                failed_gates(metrics[name]),
            )
            for name, run in experiment.runs.items()
        ),
        about=_about(experiment, metrics, pictures),
        shape=_shape(metrics),
    )


def columns(experiment: Experiment, metrics: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The attacks, then the worst case where more than one attack makes it."""
    several = any(m["worst"] and len(m["worst"]["attacks"]) > 1 for m in metrics.values())
    return [*experiment.attacks, *([WORST] if several else [])]


def failed_gates(metrics: Mapping[str, Any]) -> tuple[str, ...]:
    examined = metrics["examination"]
    return tuple(name for name, gate in examined["gates"].items() if not gate["passed"]) if examined else ()


def to_csv(table: Table) -> str:
    """A row per run and column, every number unrounded."""
    records = []
    for row, column, cell in table.cells():
        m, test = cell.metrics, cell.comparison
        shown = {key: m[key] for key in ("accuracy", "low", "high", "mean", "std", "n")}
        records.append(
            {
                "run": row.run,
                "method": row.method,
                "attack": column.name,
                **shown,
                "seeds": " ".join(map(str, m["seeds"])),
                "best": cell.best,
                "compared_with": test.best if test else None,
                "p": test.p if test else None,
                "p_corrected": test.p_corrected if test else None,
                "failed_gates": " ".join(row.failed),
            }
        )
    out = io.StringIO()
    pd.DataFrame(records).to_csv(out, index=False, lineterminator="\n")
    return out.getvalue()


def to_markdown(table: Table) -> str:
    def shown(cell: Cell | None) -> str:
        if cell is None:
            return ABSENT
        value = f"**{cell.value}**" if cell.best else cell.value
        precision = f" ± {cell.spread}" if cell.spread else f" <sub>[{cell.interval}]</sub>"
        return f"{value}{cell.mark}{precision}"

    titles = [column.heading for column in table.columns]
    lines = [
        "| " + " | ".join(["Run", "Method", *titles]) + " |",
        "|:---|:---|" + "---:|" * len(titles),
    ]
    lines += [f"| {' | '.join([f'`{r.run}`{r.mark}', r.method, *map(shown, r.cells)])} |" for r in table.rows]
    return "\n".join([*lines, "", f"{table.about} {table.shape}", *_paragraphs(notes(table))]) + "\n"


def notes(table: Table) -> list[str]:
    """What a reader of this table must know; nothing about marks that it does not have."""
    texts = {
        DAGGER: f"{DAGGER} not distinguishable from the best of its column (paired exact McNemar test, p of at least "
        f"{LEVEL:g} when corrected for all pairs of runs). The test compares these trained networks; another seed's "
        "differ too.",
        DOUBTED: UPPER_BOUNDS,
        UNTESTED: f"{UNTESTED} no seed in common with the best of its column, so not tested.",
    }
    said = [text for mark, text in texts.items() if mark in table.marks]
    if any(column.fewer for column in table.columns):
        said.append(
            "A column with an n of its own is about the first n test pictures: compare it within itself, "
            "not with the other columns."
        )
    return said


def _pictures(metrics: Mapping[str, Mapping[str, Any]]) -> int:
    """The number of test pictures: what an attack without a limit of its own examines."""
    return max(int(cell["n"]) for m in metrics.values() for cell in m["attacks"].values())


def _column(name: str, experiment: Experiment, metrics: Mapping[str, Mapping[str, Any]], pictures: int) -> Column:
    said = []
    examined = [cell["n"] for m in metrics.values() if (cell := column_metrics(m, name))]
    fewer = min(examined, default=pictures) < pictures
    if fewer:
        said.append(f"n = {words.span(examined)}")
    attack = experiment.attacks.get(name)
    if attack and attack.weights == "last":
        said.append("last epoch")
    if attack and attack.kind != "clean" and words.ball(attack) != words.ball(experiment.threat):
        said.append(words.ball(attack))
    return Column(name, words.column_title(name), fewer, ", ".join(said))


def _about(experiment: Experiment, metrics: Mapping[str, Mapping[str, Any]], pictures: int) -> str:
    seeds = [len(m["seeds"]) for m in metrics.values()]
    limited = any(cell["n"] < pictures for m in metrics.values() for cell in m["attacks"].values())
    worst = " Worst case: pictures that withstand every attack." if WORST in columns(experiment, metrics) else ""
    return (
        f"Accuracy in percent on {words.dataset_title(experiment.dataset.name)}, {words.ball(experiment.threat)}; "
        f"n = {pictures:,} test pictures{' unless the column says otherwise' if limited else ''}, "
        f"{words.span(seeds)} {'seed' if max(seeds) == 1 else 'seeds'} per run.{worst}"
    )


def _shape(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    seeds = [len(m["seeds"]) for m in metrics.values()]
    interval = "95 % Wilson interval in brackets"
    if max(seeds) == 1:
        return f"Cells: accuracy, {interval}. Bold: best of the column."
    alone = f"; of a single seed: accuracy, {interval}" if min(seeds) == 1 else ""
    return f"Cells: mean ± standard deviation over seeds{alone}. Bold: best of the column."


def _paragraphs(texts: Sequence[str]) -> list[str]:
    return [line for text in texts for line in ("", text)]
