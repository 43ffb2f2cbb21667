"""Which runs can be told apart: in every column, each run against the best one on the same pictures.

Exact McNemar over the seeds that both runs have. The best of a column is chosen by the same pictures, so any two of
its runs might have been compared: p-values are multiplied by the number of those pairs. Against a run that was fixed
beforehand, Holm's correction for the comparisons made is enough. Either way the test speaks about these trained
networks on these pictures; how much another training would differ is what the spread over seeds shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from dynat.report.outcomes import read_outcome, worst_case
from dynat.report.statistics import holm, mcnemar

WORST = "worst"
"""The name of the column that no single attack makes."""

LEVEL = 0.05


@dataclass(frozen=True)
class Comparison:
    """A run against the best run of a column."""

    column: str
    run: str
    best: str
    pictures: int
    seeds: tuple[int, ...]
    only_run: int
    only_best: int
    p: float | None
    """None where the two have no seed in common."""
    p_corrected: float | None
    """For how many comparisons were made, or might have been."""
    difference: float | None = None
    """How much larger a share of the common pictures, over the common seeds, the run withstands."""

    @property
    def distinguishable(self) -> bool:
        """Whether the two differ, the same way by votes as by accuracy."""
        votes = self.only_run - self.only_best
        return self.p_corrected is not None and self.p_corrected < LEVEL and votes * (self.difference or 0.0) > 0

    @property
    def behind(self) -> bool:
        """Whether the run is told from the best as the worse of the two. Seeds that only one of them has can make a
        run best which loses on the common ones."""
        return self.distinguishable and self.only_run < self.only_best


def column_metrics(metrics: Mapping[str, Any], column: str) -> Mapping[str, Any] | None:
    """What a run's metrics say in one column; None where it has no such outcome."""
    found: Mapping[str, Any] | None = metrics["worst"] if column == WORST else metrics["attacks"].get(column)
    return found


def best_runs(metrics: Mapping[str, Mapping[str, Any]], column: str) -> list[str]:
    """The run, or the tied runs, of the highest accuracy; in the order of the table."""
    accuracy = {run: cell["accuracy"] for run, m in metrics.items() if (cell := column_metrics(m, column))}
    top = max(accuracy.values(), default=0.0)
    return [run for run, value in accuracy.items() if top - value < 1e-12]


def compare(results: Path, metrics: Mapping[str, Mapping[str, Any]], columns: Sequence[str]) -> list[Comparison]:
    """Every run against the best, column by column; verdicts come from the outcomes in `results`."""
    found: list[Comparison] = []
    for column in columns:
        best = best_runs(metrics, column)[0]
        verdicts = {run: _verdicts(results / run, m, column) for run, m in metrics.items() if column_metrics(m, column)}
        pairs = len(verdicts) * (len(verdicts) - 1) / 2
        for test in (_pair(column, run, best, verdicts) for run in verdicts if run != best):
            found.append(replace(test, p_corrected=None if test.p is None else min(1.0, pairs * test.p)))
    return found


def against(
    results: Path, metrics: Mapping[str, Mapping[str, Any]], column: str, reference: str, runs: Sequence[str]
) -> dict[str, Comparison]:
    """`runs` against one run in a column, corrected for their number."""
    have = [run for run in runs if column_metrics(metrics[run], column)]
    if not have or not column_metrics(metrics[reference], column):
        return {}
    verdicts = {run: _verdicts(results / run, metrics[run], column) for run in (reference, *have)}
    return {c.run: c for c in _by_holm([_pair(column, run, reference, verdicts) for run in have])}


def _verdicts(run_folder: Path, metrics: Mapping[str, Any], column: str) -> pd.Series[int]:
    names = metrics["worst"]["attacks"] if column == WORST else [column]
    outcomes = [read_outcome(run_folder, name) for name in names]
    table = worst_case(outcomes) if column == WORST else outcomes[0].verdicts
    return table.set_index(["seed", "index"])["correct"]


def _pair(column: str, run: str, best: str, verdicts: Mapping[str, pd.Series[int]]) -> Comparison:
    both = pd.concat({"run": verdicts[run], "best": verdicts[best]}, axis="columns", join="inner")
    seeds = tuple(int(seed) for seed in sorted(both.index.unique("seed")))
    votes = both.groupby(level="index").sum()
    if votes.empty:
        return Comparison(column, run, best, 0, seeds, 0, 0, None, None)
    test = mcnemar(votes["run"].to_numpy(), votes["best"].to_numpy())
    difference = float((both["run"] - both["best"]).mean())
    return Comparison(column, run, best, test.n, seeds, test.only_first, test.only_second, test.p, None, difference)


def _by_holm(comparisons: Sequence[Comparison]) -> list[Comparison]:
    tested = [c.p for c in comparisons if c.p is not None]
    adjusted = iter(holm(tested))
    return [replace(c, p_corrected=None if c.p is None else next(adjusted)) for c in comparisons]
