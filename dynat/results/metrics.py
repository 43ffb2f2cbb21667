"""From the outcomes of one run to its metrics.json: every number that a table or figure shows of the run.

Accuracy is pooled over seeds; its interval is Wilson's with n = images, not images times seeds, because the seeds
evaluate the same images. With several seeds that is conservative. Nothing is rounded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dynat.results.history import read_history
from dynat.results.outcomes import CLEAN, Outcome, outcome_names, read_outcome, worst_case, worst_case_attacks
from dynat.results.paths import RunFiles, SeedFiles
from dynat.results.records import (
    AttackCost,
    AttackMetrics,
    DatasetInfo,
    RunMetrics,
    SanityMetrics,
    SanityRecord,
    Summary,
    TrainingMetrics,
    TrainingRecord,
    WorstCase,
    read_record,
    write_record,
)
from dynat.results.sanity import curves, read_sanity, sanity_checks
from dynat.results.statistics import wilson
from dynat.results.take_off import warnings
from dynat.results.weights import network_of
from dynat.runtime.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

SQUARE_ALLOWED = 0.002
"""The share of images that AutoAttack lets Square break after its other parts without a warning."""

SHARED_ALLOWED = 0.01
"""The share of test images that may be training images too without a warning: a few are in CIFAR, as published."""


def write_metrics(folder: Path, attacks: Sequence[str] | None = None) -> Path:
    """Turn the outcomes of the run in `folder`, those of `attacks` or all there are, into its metrics.json."""
    file = RunFiles(folder).metrics
    write_record(file, run_metrics(RunFiles(folder), attacks))
    return file


def read_metrics(run: RunFiles) -> RunMetrics:
    return read_record(run.metrics, RunMetrics)


def run_metrics(run: RunFiles, attacks: Sequence[str] | None = None) -> RunMetrics:
    """The metrics of a run over `attacks`, or over every attack with an outcome."""
    outcomes = [read_outcome(run, name) for name in attacks or outcome_names(run)]
    seeds = sorted({int(seed) for outcome in outcomes for seed in outcome.record.seeds})
    trainings = {seed: read_record(run.seed(seed).config, TrainingRecord) for seed in seeds}
    first = _same_run(run, trainings)
    for outcome in outcomes:
        again = f"dynat attack {first.name} {outcome.name}"
        _check_networks(run, outcome.record.networks, outcome.record.attack.weights, trainings, again)
    worst = worst_case_attacks(outcomes, first.threat)
    names = tuple(outcome.name for outcome in worst)
    sanity = read_sanity(run)
    if sanity is not None:
        _check_networks(run, sanity[1].networks, "best", trainings, f"dynat sanity {first.name}")
    return RunMetrics(
        plugins=tuple(dict.fromkeys([*first.plugins, *(name for o in outcomes for name in o.record.plugins)])),
        preset=first.preset,
        run=first.name,
        seeds=tuple(seeds),
        dataset=first.dataset,
        threat=first.threat,
        config=first.config,
        attacks={outcome.name: _attack_metrics(outcome, first.dataset) for outcome in outcomes},
        worst_case=WorstCase(attacks=names, **vars(summary(worst_case(worst)))) if worst else None,
        sanity=None if sanity is None else _sanity_metrics(*sanity, first.dataset),
        training={seed: _training_metrics(run.seed(seed), record) for seed, record in trainings.items()},
    )


def _check_networks(
    run: RunFiles, attacked: Mapping[int, str], weights: str, trainings: Mapping[int, TrainingRecord], again: str
) -> None:
    """Refuse verdicts on other weights than those that are there now, after a training or an import was repeated."""
    for seed, network in attacked.items():
        if seed in trainings and network_of(trainings[seed], weights) not in (None, network):
            raise UserError(
                f"{run.seed(seed).target(weights)}: was written after the attacks, which were on other weights; repeat "
                f"them: {again}, or snakemake"
            )


def summary(verdicts: pd.DataFrame) -> Summary:
    """Accuracy with its interval, per seed and per class."""
    accuracy = float(verdicts["correct"].mean())
    n = int(verdicts["index"].nunique())
    low, high = wilson(accuracy * n, n)
    per_seed = verdicts.groupby("seed")["correct"].mean()
    per_class = verdicts.groupby("label")["correct"].mean()
    return Summary(
        accuracy=accuracy,
        low=low,
        high=high,
        n=n,
        seeds=tuple(int(seed) for seed in per_seed.index),
        mean=float(per_seed.mean()),
        std=float(per_seed.std()) if len(per_seed) > 1 else None,
        per_seed={int(str(seed)): float(value) for seed, value in per_seed.items()},
        per_class={int(str(label)): float(value) for label, value in per_class.items()},
    )


def _attack_metrics(outcome: Outcome, dataset: DatasetInfo) -> AttackMetrics:
    record = outcome.record
    after = _accuracy_after(outcome)
    return AttackMetrics(
        **vars(summary(outcome.verdicts)),
        attack=record.attack,
        cost=AttackCost(
            seconds=sum(record.seconds.values()),
            seconds_per_seed=record.seconds,
            forward_passes=record.forward_passes,
            backward_passes=record.backward_passes,
            device=record.device,
        ),
        accuracy_after=after,
        rejected_examples=record.rejected_examples,
        warnings=(
            *record.warnings,
            *_square_warning(after),
            *_class_warnings(outcome.verdicts, dataset.classes),
            *_shared_warnings(dataset),
        ),
    )


def _accuracy_after(outcome: Outcome) -> dict[str, float]:
    """Accuracy before the attack and after each of its parts; the last is the attack's own."""
    broken_by = outcome.verdicts["broken_by"]
    parts = [CLEAN, *outcome.record.parts]
    return {part: float(1 - broken_by.isin(parts[: place + 1]).mean()) for place, part in enumerate(parts)}


def _square_warning(after: Mapping[str, float]) -> list[str]:
    """AutoAttack's warning that an attack without gradients broke images that attacks with gradients could not."""
    names = list(after)
    if len(names) < 3 or names[-1] != "square":
        return []
    drop = round(after[names[-2]] - after["square"], 9)
    if drop <= SQUARE_ALLOWED:
        return []
    return [f"Square Attack has decreased the robust accuracy by {100 * drop:.2f} %: the evaluation may be unreliable"]


def _class_warnings(verdicts: pd.DataFrame, classes: Sequence[str]) -> list[str]:
    """A subset of the test images that lacks a class is not about the task."""
    missing = sorted(set(range(len(classes))) - set(verdicts["label"]))
    if not missing:
        return []
    names = ", ".join(classes[label] for label in missing[:3]) + (", ..." if len(missing) > 3 else "")
    count, found = verdicts["index"].nunique(), len(classes) - len(missing)
    images = "image is" if count == 1 else "images are"
    return [f"its {count} {images} of {found} of {len(classes)} classes only; none is: {names}"]


def _shared_warnings(dataset: DatasetInfo) -> list[str]:
    if dataset.test_in_train <= SHARED_ALLOWED * dataset.test:
        return []
    return [f"{dataset.test_in_train} of {dataset.test} test images are also training or validation images"]


def _sanity_metrics(verdicts: pd.DataFrame, record: SanityRecord, dataset: DatasetInfo) -> SanityMetrics:
    return SanityMetrics(
        checks=sanity_checks(verdicts, record),
        curves=curves(verdicts, record),
        warnings=tuple(_class_warnings(verdicts, dataset.classes)),
    )


def _training_metrics(files: SeedFiles, record: TrainingRecord) -> TrainingMetrics:
    history = read_history(files)
    measured = [row["label_accuracy"] for row in history if "label_accuracy" in row]
    return TrainingMetrics(
        epochs=len(history),
        seconds=record.training_seconds,
        best_epoch=record.best_epoch,
        final_label_accuracy=measured[-1] if measured else None,
        warnings=warnings(history, record.dataset),
        parameters=record.parameters,
        digest=record.digest,
        network=network_of(record),
        versions=record.versions,
        machine=record.machine,
        compute_dtype=record.compute_dtype,
    )


def _same_run(run: RunFiles, trainings: Mapping[int, TrainingRecord]) -> TrainingRecord:
    """The record that all seeds share; seeds trained with different settings are not one run."""
    first, *others = trainings
    derived = {"largest_class"}  # follows from the images; earlier versions did not record it
    for seed in others:
        for part in ("config", "dataset", "threat"):
            expected, given = (getattr(trainings[which], part).model_dump(exclude=derived) for which in (first, seed))
            if expected != given:
                changed = next(key for key in {**expected, **given} if expected.get(key) != given.get(key))
                files = run.seed(seed)
                raise UserError(
                    f"{files.config}: {part}.{changed} is not that of seed {first}, so they are not one run; "
                    f"delete {files.folder} and make it again"
                )
    return trainings[first]
