"""Which runs can be told apart: in every column, each run against the best one on the same images.

Exact McNemar over the seeds that both runs have. The best of a column is chosen by the same images, so any two of
its runs might have been compared: p-values are multiplied by the number of those pairs. Against a run that was fixed
beforehand, Holm's correction for the comparisons made is enough. Either way the test compares these trained networks
on these images; how much another training would differ is what the spread over seeds shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dynat.report.formatting import WORST
from dynat.results.outcomes import read_outcome, worst_case
from dynat.results.paths import ExperimentFiles, RunFiles
from dynat.results.records import RunMetrics, Summary
from dynat.results.statistics import holm, mcnemar

if TYPE_CHECKING:
    import pandas as pd

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


@dataclass(frozen=True)
class VerdictTable:
    """The verdicts on a run in one column."""

    images: NDArray[np.int64]
    seeds: NDArray[np.int64]
    correct: NDArray[np.int8]
    """A row per image and a column per seed: 1, 0, or -1 where the image was not evaluated."""

    @classmethod
    def of(cls, table: pd.DataFrame) -> VerdictTable:
        images, row = np.unique(table["index"], return_inverse=True)
        seeds, column = np.unique(table["seed"], return_inverse=True)
        correct = np.full((images.size, seeds.size), -1, np.int8)
        correct[row, column] = table["correct"]
        return cls(images, seeds, correct)

    def on(self, images: NDArray[np.int64], seeds: NDArray[np.int64]) -> NDArray[np.int8]:
        """The verdicts on some of the images under some of the seeds."""
        return self.correct[np.searchsorted(self.images, images)][:, np.searchsorted(self.seeds, seeds)]


AllVerdicts = Mapping[str, Mapping[str, VerdictTable]]
"""By run and column."""


def read_verdicts(files: ExperimentFiles, metrics: Mapping[str, RunMetrics], columns: Sequence[str]) -> AllVerdicts:
    """What `compare` and `against` need of the outcomes; each file is read once."""
    return {
        run: _columns(files.run(run), m, [c for c in columns if column_metrics(m, c)]) for run, m in metrics.items()
    }


def _columns(run: RunFiles, metrics: RunMetrics, columns: Sequence[str]) -> dict[str, VerdictTable]:
    worst = metrics.worst_case.attacks if metrics.worst_case is not None and WORST in columns else ()
    outcomes = {name: read_outcome(run, name) for name in dict.fromkeys((*columns, *worst)) if name != WORST}
    tables = {name: outcome.verdicts for name, outcome in outcomes.items()}
    if worst:
        tables[WORST] = worst_case([outcomes[name] for name in worst])
    return {column: VerdictTable.of(tables[column]) for column in columns}


def compare(verdicts: AllVerdicts, metrics: Mapping[str, RunMetrics], columns: Sequence[str]) -> list[Comparison]:
    """Every run against the best, column by column."""
    comparisons: list[Comparison] = []
    for column in columns:
        best = best_runs(metrics, column)[0]
        runs = [run for run, m in metrics.items() if column_metrics(m, column)]
        pairs = len(runs) * (len(runs) - 1) / 2
        for test in (_pair(column, run, best, verdicts) for run in runs if run != best):
            comparisons.append(replace(test, p_corrected=None if test.p is None else min(1.0, pairs * test.p)))
    return comparisons


def against(
    verdicts: AllVerdicts, metrics: Mapping[str, RunMetrics], column: str, reference: str, runs: Sequence[str]
) -> dict[str, Comparison]:
    """`runs` against one run in a column, corrected for their number."""
    have = [run for run in runs if column_metrics(metrics[run], column)]
    if not have or not column_metrics(metrics[reference], column):
        return {}
    return {c.run: c for c in _by_holm([_pair(column, run, reference, verdicts) for run in have])}


def _pair(column: str, run: str, best: str, verdicts: AllVerdicts) -> Comparison:
    one, other = verdicts[run][column], verdicts[best][column]
    images, seeds = (
        np.intersect1d(mine, its, assume_unique=True)
        for mine, its in ((one.images, other.images), (one.seeds, other.seeds))
    )
    of_run, of_best = one.on(images, seeds), other.on(images, seeds)
    both = (of_run >= 0) & (of_best >= 0)
    common = tuple(map(int, seeds[both.any(axis=0)]))
    if not common:
        return Comparison(column, run, best, 0, common, 0, 0, None, None)
    votes = [np.where(both, correct, 0).sum(axis=1)[both.any(axis=1)] for correct in (of_run, of_best)]
    test = mcnemar(*votes)
    difference = float((of_run[both] - of_best[both]).mean())
    return Comparison(column, run, best, test.n, common, test.only_first, test.only_second, test.p, None, difference)


def _by_holm(comparisons: Sequence[Comparison]) -> list[Comparison]:
    tested = [c.p for c in comparisons if c.p is not None]
    adjusted = iter(holm(tested))
    return [replace(c, p_corrected=None if c.p is None else next(adjusted)) for c in comparisons]
