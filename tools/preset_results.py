"""The finished runs of a preset, from their result files: metrics, verdicts on each test image, and histories."""

from __future__ import annotations

from functools import cache, cached_property

import pandas as pd

from dynat.config import Experiment, load
from dynat.report import comparisons, tables
from dynat.results.history import history_of
from dynat.results.outcomes import read_outcome
from dynat.results.paths import ExperimentFiles
from dynat.results.records import RunMetrics
from dynat.runtime.errors import UserError
from tools.claims import Difference
from tools.results_archive import finished, same_images


class Results:
    """The finished runs of a preset, as an experiment of their own."""

    def __init__(self, preset: str, files: ExperimentFiles) -> None:
        self.preset, self.files = preset, files
        self.metrics: dict[str, RunMetrics] = {run.folder.name: metrics for run, metrics in finished(files)}
        self.whole = load({"preset": preset})
        same_images(list(self.metrics.values()), files.folder)
        rows = [name for name in self.whole.runs if name in self.metrics]
        for name in rows:
            if self.metrics[name].config != self.whole.runs[name]:
                raise UserError(
                    f"{files.run(name).metrics}: '{name}' was trained with other settings than the preset's"
                )
        self.metrics = {name: comparable(self.metrics[name], self.whole) for name in rows}
        dataset = next(iter(self.metrics.values())).dataset.name if rows else self.whole.dataset.name
        self.experiment: Experiment = self.whole.model_copy(
            update={
                "runs": {name: self.whole.runs[name] for name in rows},
                "seeds": {name: self.metrics[name].seeds for name in rows},
                "dataset": self.whole.dataset.model_copy(update={"name": dataset}),
            }
        )

    @cached_property
    def verdicts(self) -> comparisons.AllVerdicts:
        return comparisons.read_verdicts(self.files, self.metrics, tables.columns(self.experiment, self.metrics))

    @cache  # noqa: B019 - one object per preset and process
    def correct(self, run: str, attack: str) -> pd.Series[int] | None:
        """1 or 0 by (seed, index); None where no network was attacked. Of an attack on the last epoch, also what the
        same attack on the selected epoch gave for a seed whose last epoch that is."""
        if run not in self.metrics:
            return None
        attacks, trainings = self.metrics[run].attacks, self.metrics[run].training
        found: list[pd.Series[int]] = []
        if attack in attacks:
            found.append(read_outcome(self.files.run(run), attack).verdicts.set_index(["seed", "index"])["correct"])
        selected = attack.removesuffix("-last")
        if selected != attack and (same := self.correct(run, selected)) is not None:
            at_end = [seed for seed, training in trainings.items() if training.best_epoch == training.epochs]
            found.append(same[same.index.isin(at_end, level="seed")])
        if not any(map(len, found)):
            return None
        table = pd.concat(found)
        return table.loc[~table.index.duplicated()]

    def epochs(self, run: str, attack: str) -> tuple[float | None, float | None]:
        """Accuracies of the selected and of the last epoch under an attack: means over the seeds that have both, or
        over all if none has."""
        selected, last = (self.correct(run, name) for name in (attack, f"{attack}-last"))
        if selected is None:
            return None, None
        if last is None or not len(both := selected.index.intersection(last.index)):
            return float(selected.mean()), None
        return float(selected[both].mean()), float(last[both].mean())

    def mixed(self, one: Difference) -> bool:
        """Whether the two runs were trained in different precisions with a seed that they share."""
        trainings = [self.metrics[run].training for run in (one.run, one.base)]
        computed = [{seed: of_run[seed].compute_dtype for seed in one.per_seed} for of_run in trainings]
        return computed[0] != computed[1]

    @cached_property
    def selected(self) -> Experiment:
        """The experiment without attacks on the last epoch, which has a table of its own."""
        attacks = {name: attack for name, attack in self.experiment.attacks.items() if attack.weights == "best"}
        return self.experiment.model_copy(update={"attacks": attacks})

    @cached_property
    def histories(self) -> dict[str, pd.DataFrame]:
        return {n: history_of({s: self.files.run(n).seed(s) for s in m.seeds}) for n, m in self.metrics.items()}


def comparable(metrics: RunMetrics, experiment: Experiment) -> RunMetrics:
    """Without the worst case of a run that the preset's attacks on the selected epoch have not all attacked yet."""
    needed = {name for name, attack in experiment.attacks.items() if attack.weights == "best"}
    complete = metrics.worst_case is not None and needed <= metrics.attacks.keys()
    return metrics if complete else metrics.model_copy(update={"worst_case": None})
