"""From outcome files to the metrics of a run: numbers known by hand, and damaged files that are named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest

from dynat.config import Run
from dynat.results.csv_files import TableContent
from dynat.results.metrics import run_metrics, write_metrics
from dynat.results.paths import RunFiles
from dynat.results.records import (
    AttackMetrics,
    OutcomeRecord,
    RunMetrics,
    TrainingRecord,
    WorstCase,
    read_record,
    write_record,
)
from dynat.results.statistics import wilson
from dynat.runtime.errors import UserError
from tests.fake_results import ATTACK, AUTOATTACK, CLEAN, verdicts, write_outcome, write_training


@pytest.fixture
def run(tmp_path: Path) -> RunFiles:
    """A run of two seeds and five images whose every number is known by hand."""
    files = RunFiles(tmp_path / "results" / "small" / "at")
    for seed in (0, 1):
        write_training(files.seed(seed))
    verdicts(files, "clean", {0: "11110", 1: "11100"}, CLEAN)
    verdicts(files, "pgd-20", {0: "11010", 1: "11000"}, ATTACK)
    verdicts(files, "cw-20", {0: "01100", 1: "10100"}, ATTACK)
    return files


def pgd(metrics: RunMetrics) -> AttackMetrics:
    return metrics.attacks["pgd-20"]


def worst_case_of(run: RunFiles) -> WorstCase:
    worst = run_metrics(run).worst_case
    assert worst is not None
    return worst


def test_metrics_by_hand(run: RunFiles) -> None:
    cell = pgd(run_metrics(run))
    assert cell.accuracy == pytest.approx(0.5)
    assert (cell.n, cell.seeds) == (5, (0, 1))
    assert cell.per_seed == {0: 0.6, 1: 0.4}
    assert cell.mean == pytest.approx(0.5)
    assert cell.std == pytest.approx(np.std([0.6, 0.4], ddof=1))
    assert cell.per_class == {0: pytest.approx(2 / 6), 1: pytest.approx(3 / 4)}
    assert cell.cost.seconds == pytest.approx(1.25 + 2.25)


def test_the_interval_counts_images_not_seeds(run: RunFiles) -> None:
    cell = pgd(run_metrics(run))
    assert (cell.low, cell.high) == wilson(2.5, 5)


def test_the_worst_case_is_per_image_not_per_column(run: RunFiles) -> None:
    worst = worst_case_of(run)
    assert worst.per_seed == {0: 0.2, 1: 0.2}  # pgd-20 leaves 0.6 and 0.4, cw-20 0.4 and 0.4
    assert sorted(worst.attacks) == ["clean", "cw-20", "pgd-20"]


def test_the_worst_case_is_over_the_images_that_all_attacks_evaluated(run: RunFiles) -> None:
    verdicts(run, "autoattack", {0: "11", 1: "01"}, ATTACK)
    worst = worst_case_of(run)
    assert worst.n == 2
    assert worst.per_seed == {0: 0.5, 1: 0.0}


@pytest.mark.parametrize("other", [{"weights": "last"}, {"eps": 0.3}, {"norm": "l2"}])
def test_the_worst_case_is_of_one_checkpoint_and_one_ball(run: RunFiles, other: dict[str, Any]) -> None:
    before = worst_case_of(run)
    verdicts(run, "pgd-other", {0: "00000", 1: "00000"}, ATTACK.model_copy(update=other))
    after = run_metrics(run)
    assert after.worst_case == before
    assert after.attacks["pgd-other"].accuracy == 0


def test_one_seed_has_no_standard_deviation(run: RunFiles) -> None:
    verdicts(run, "pgd-20", {0: "11010"}, ATTACK)
    cell = pgd(run_metrics(run, ["pgd-20"]))
    assert cell.std is None
    assert cell.mean == pytest.approx(0.6)
    assert cell.n == 5


def test_metrics_hold_the_given_attacks_and_no_stale_one(run: RunFiles) -> None:
    assert list(run_metrics(run, ["pgd-20", "clean"]).attacks) == ["pgd-20", "clean"]


def test_metrics_are_the_same_bytes_twice(run: RunFiles) -> None:
    assert write_metrics(run.folder).read_bytes() == write_metrics(run.folder).read_bytes()


@pytest.mark.parametrize("weights", ["best", "last"])
def test_verdicts_on_other_weights_are_refused(weights: Literal["best", "last"], run: RunFiles) -> None:
    attack = ATTACK.model_copy(update={"weights": weights})
    verdicts(run, "pgd-20", {0: "11010", 1: "11000"}, attack)
    record = run.seed(1).target(weights).name
    for seed in (0, 1):
        file = run.seed(seed).config
        training = read_record(file, TrainingRecord)
        write_record(file, training.model_copy(update={"weights": {record: f"sha of {seed}"}}))
    outcome = read_record(run.outcome_record("pgd-20"), OutcomeRecord)
    known = outcome.model_copy(update={"networks": {0: "sha of 0", 1: "sha of 1"}})
    write_record(run.outcome_record("pgd-20"), known)
    assert run_metrics(run).training[1].network == ("sha of 1" if weights == "best" else None)
    write_record(run.outcome_record("pgd-20"), known.model_copy(update={"networks": {0: "sha of 0", 1: "another"}}))
    with pytest.raises(UserError, match=rf"seed1/{record}: was written after the attacks.*dynat attack .* pgd-20"):
        run_metrics(run)


# What is refused

Damage = Callable[[RunFiles], object]


def _remove(file: Callable[[RunFiles], Path]) -> Damage:
    return lambda run: file(run).unlink()


def _same_row_twice(run: RunFiles) -> None:
    table = run.outcome("pgd-20").read_text().splitlines(keepends=True)
    run.outcome("pgd-20").write_text("".join([*table, table[1]]))
    _record_table(run, "pgd-20")


def _record_table(run: RunFiles, attack: str) -> None:
    """Make the record describe the table as it is now."""
    file, table = run.outcome_record(attack), TableContent.of(run.outcome(attack).read_bytes())
    write_record(file, read_record(file, OutcomeRecord).model_copy(update={"table": table}))


def _half_a_verdict(run: RunFiles) -> None:
    write_outcome(run, "pgd-20", [(0, 0, 0, 2)], attack=ATTACK)


def _no_image(run: RunFiles) -> None:
    write_outcome(run, "pgd-20", [], attack=ATTACK)


def _other_seeds(run: RunFiles) -> None:
    verdicts(run, "pgd-20", {0: "11010", 1: "11000"}, ATTACK, seeds=(0, 4))


def _no_json(run: RunFiles) -> None:
    run.outcome_record("pgd-20").write_text("{")


def _other_version(run: RunFiles) -> None:
    file = run.outcome_record("pgd-20")
    file.write_text(json.dumps({**json.loads(file.read_text()), "format_version": 0}))


def _other_settings(run: RunFiles) -> None:
    write_training(run.seed(1), config=Run(method="at", target="small", epochs=6))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            _remove(lambda run: run.outcome("pgd-20")),
            r"pgd-20\.csv: no such file; make it with: snakemake --cores all \S+csv",
        ),
        (
            _remove(lambda run: run.outcome_record("pgd-20")),
            r"pgd-20\.json: no such file; make it with: snakemake",
        ),
        (
            _remove(lambda run: run.seed(1).config),
            r"seed1/config\.json: no such file; make it with: snakemake",
        ),
        (
            _remove(lambda run: run.seed(1).history),
            r"seed1/history\.csv: no such file; make it with: snakemake",
        ),
        (_same_row_twice, r"pgd-20\.csv: seed 0 has two verdicts on image 0"),
        (_half_a_verdict, r"pgd-20\.csv: column 'correct' holds something other than 0 and 1"),
        (_no_image, r"pgd-20\.csv: not one image was evaluated"),
        (_other_seeds, r"pgd-20\.csv: its seeds are not those of pgd-20\.json"),
        (_no_json, r"pgd-20\.json: not valid JSON"),
        (_other_version, r"pgd-20\.json: written by another version of dynat .* delete the folder .*outcomes and run"),
        (_other_settings, r"seed1/config\.json: config\.epochs is not that of seed 0, so they are not one run"),
    ],
)
def test_a_damaged_file_is_named_with_what_to_do(run: RunFiles, damage: Damage, message: str) -> None:
    damage(run)
    with pytest.raises(UserError, match=message):
        run_metrics(run, ["clean", "pgd-20", "cw-20"])


def test_a_run_without_outcomes_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no outcome of any attack; make one with: snakemake --cores all .*clean\.csv"):
        run_metrics(RunFiles(tmp_path / "at"))


def test_seeds_of_one_run_agree_although_one_does_not_record_the_share_of_the_largest_class(run: RunFiles) -> None:
    other_dataset(run.seed(1).config, largest_class=0.5)
    assert run_metrics(run).seeds == (0, 1)
    other_dataset(run.seed(1).config, digest="of other images")
    with pytest.raises(UserError, match=r"dataset\.digest is not that of seed 0"):
        run_metrics(run)


@pytest.mark.parametrize(("by_square", "warned"), [(0, False), (1, False), (2, True)])
def test_autoattacks_own_warning_about_square(tmp_path: Path, by_square: int, warned: bool) -> None:
    """No part by itself can raise it: Square broke more than 0.2 % of all images after the attacks with gradients."""
    run = RunFiles(tmp_path)
    write_outcome(run, "autoattack", [(0, i, i % 2, int(i >= 100)) for i in range(500)], attack=AUTOATTACK)
    write_training(run.seed(0))
    file = run.outcome("autoattack")
    table = pd.read_csv(file, dtype={"broken_by": str})
    table.loc[: by_square - 1, "broken_by"] = "square"
    table.to_csv(file, index=False)
    _record_table(run, "autoattack")
    cell = run_metrics(run).attacks["autoattack"]
    assert cell.accuracy_after["fab-t"] - cell.accuracy_after["square"] == pytest.approx(by_square / 500)
    assert any("Square Attack has decreased" in warning for warning in cell.warnings) == warned


def other_dataset(file: Path, **fields: Any) -> None:
    record = read_record(file, TrainingRecord)
    write_record(file, record.model_copy(update={"dataset": record.dataset.model_copy(update=fields)}))


def test_a_subset_that_lacks_a_class_is_a_warning(run: RunFiles) -> None:
    """The first images of a class-sorted folder are of one class."""
    classes = run_metrics(run).dataset.classes
    rows = [(seed, index, label, 1) for seed in (0, 1) for index, label in enumerate(range(len(classes)))]
    write_outcome(run, "whole", rows, attack=ATTACK)
    write_outcome(run, "part", [row for row in rows if row[2] == 0], attack=ATTACK)
    attacks = run_metrics(run).attacks
    assert attacks["whole"].warnings == ()
    (warning,) = attacks["part"].warnings
    assert warning.startswith(f"its 1 image is of 1 of {len(classes)} classes only; none is: {classes[1]}")


@pytest.mark.parametrize(("shared", "warned"), [(0, False), (2, False), (3, True), (200, True)])
def test_test_images_that_were_trained_on_are_a_warning(run: RunFiles, shared: int, warned: bool) -> None:
    for seed in (0, 1):
        other_dataset(run.seed(seed).config, test=200, test_in_train=shared)
    text = f"{shared} of 200 test images are also training or validation images"
    assert (text in pgd(run_metrics(run)).warnings) == warned
