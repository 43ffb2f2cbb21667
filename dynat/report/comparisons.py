"""Which runs can be told apart: in every column, each run against the best one on the same images.

Exact McNemar over the seeds that both runs have. The best of a column is chosen by the same images, so any two of
its runs might have been compared: p-values are multiplied by the number of those pairs. Against a run that was fixed
beforehand, Holm's correction for the comparisons made is enough. Either way the test compares these trained networks
on these images; how much another training would differ is what the spread over seeds shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from dynat.report.formatting import WORST
from dynat.results.outcomes import read_outcome, worst_case
from dynat.results.paths import ExperimentFiles, RunFiles
from dynat.results.records import RunMetrics, Summary
from dynat.results.statistics import holm, mcnemar

LEVEL = 0.05


@dataclass(frozen=True)
class Comparison:
    """A run against the best run of a column."""

    column: str
    run: str
    best: str
    images: int
    seeds: tuple[int, ...]
    only_run: int
    only_best: int
    p: float | None
    """None where the two have no seed in common."""
    p_corrected: float | None
    """For how many comparisons were made, or might have been."""
    difference: float | None = None
    """Accuracy of the run minus accuracy of the best, over the common images and seeds."""

    @property
    def distinguishable(self) -> bool:
        """Whether the two differ, the same way by votes as by accuracy."""
        votes = self.only_run - self.only_best
        return self.p_corrected is not None and self.p_corrected < LEVEL and votes * (self.difference or 0.0) > 0

    @property
    def behind(self) -> bool:
        """Whether the run is distinguishable from the best and worse. (A run can be best because of seeds that the
        other run does not have, and lose on the common ones.)"""
        return self.distinguishable and self.only_run < self.only_best


def column_metrics(metrics: RunMetrics, column: str) -> Summary | None:
    """A run's accuracy in one column; None where it has no such outcome."""
    return metrics.worst_case if column == WORST else metrics.attacks.get(column)


def best_runs(metrics: Mapping[str, RunMetrics], column: str) -> list[str]:
    """The run, or the tied runs, of the highest accuracy; in the order of the table."""
    accuracy = {run: cell.accuracy for run, m in metrics.items() if (cell := column_metrics(m, column))}
    top = max(accuracy.values(), default=0.0)
    return [run for run, value in accuracy.items() if top - value < 1e-12]


def compare(files: ExperimentFiles, metrics: Mapping[str, RunMetrics], columns: Sequence[str]) -> list[Comparison]:
    """Every run against the best, column by column; verdicts are read from the outcomes."""
    comparisons: list[Comparison] = []
    for column in columns:
        best = best_runs(metrics, column)[0]
        verdicts = {
            run: _verdicts(files.run(run), m, column) for run, m in metrics.items() if column_metrics(m, column)
        }
        pairs = len(verdicts) * (len(verdicts) - 1) / 2
        for test in (_pair(column, run, best, verdicts) for run in verdicts if run != best):
            comparisons.append(replace(test, p_corrected=None if test.p is None else min(1.0, pairs * test.p)))
    return comparisons


def against(
    files: ExperimentFiles, metrics: Mapping[str, RunMetrics], column: str, reference: str, runs: Sequence[str]
) -> dict[str, Comparison]:
    """`runs` against one run in a column, corrected for their number."""
    have = [run for run in runs if column_metrics(metrics[run], column)]
    if not have or not column_metrics(metrics[reference], column):
        return {}
    verdicts = {run: _verdicts(files.run(run), metrics[run], column) for run in (reference, *have)}
    return {c.run: c for c in _by_holm([_pair(column, run, reference, verdicts) for run in have])}


def _verdicts(run: RunFiles, metrics: RunMetrics, column: str) -> pd.Series[int]:
    if column == WORST:
        assert metrics.worst_case is not None, "only runs that have a worst case are compared in it"
        table = worst_case([read_outcome(run, name) for name in metrics.worst_case.attacks])
    else:
        table = read_outcome(run, column).verdicts
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
