"""Warnings of trainings that do not take off: in the log, in metrics.json and in the report, and only there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from scipy.stats import binomtest

from dynat import data
from dynat.config import TrainingSpec
from dynat.jobs.evaluation import run_evaluation
from dynat.jobs.training import run_training
from dynat.report import page, run_table
from dynat.results.metrics import run_metrics
from dynat.results.paths import Paths
from dynat.results.take_off import SIGNIFICANCE, above_chance, early_warnings, near_chance, warnings
from tests import tiny
from tests.fake_results import dataset
from tests.test_jobs import evaluation_spec, paths_in

INFO = dataset(list("0123456789"))
"""Ten classes, 100 held-out and 1,000 training images."""
EPOCHS = 12


def history(*clean: float, **columns: float) -> list[dict[str, float]]:
    return [{"epoch": epoch, "clean": share, **columns} for epoch, share in enumerate(clean, 1)]


@pytest.mark.parametrize(("n", "chance"), [(30, 0.2), (144, 0.1), (2000, 0.1)])
def test_above_chance_is_the_exact_binomial_test(n: int, chance: float) -> None:
    for correct in range(n + 1):
        p = binomtest(correct, n, chance, alternative="greater").pvalue
        assert above_chance(correct / n, n, chance) == (p < SIGNIFICANCE), (correct, n)


@pytest.mark.parametrize(
    ("rows", "warned"),
    [
        (history(0.1, 0.1, 0.12), ["the target has not learned: after 3 epochs it classifies 12.0 %"]),
        (history(0.1, 0.1, 0.9), []),  # it recovered
        (history(0.9, 0.9, 0.1), ["the target has not learned: after 3 epochs it classifies 10.0 %"]),  # it collapsed
        (history(0.9, label_accuracy=0.11, guide_clean=0.95), ["the guide, whose predictions are the labels, has not"]),
        (history(0.9, label_accuracy=0.95, guide_clean=0.1), ["the guide has not learned"]),
        (history(0.9, label_accuracy=0.95, guide_clean=0.9), []),
        ([*history(0.1, 0.9), {"epoch": 3}], []),  # an epoch without a validation
        ([{"epoch": 1}], []),
        ([], []),  # an imported checkpoint
    ],
)
def test_the_last_validation_decides(rows: list[dict[str, float]], warned: list[str]) -> None:
    texts = warnings(rows, INFO)
    assert [text.startswith(start) for text, start in zip(texts, warned, strict=True)] == [True] * len(warned)
    assert all("schedule.lr" in text for text in texts)


def test_chance_is_the_share_of_the_largest_class() -> None:
    assert not warnings(history(0.5), INFO)
    assert warnings(history(0.5), INFO.model_copy(update={"largest_class": 0.5}))


@pytest.mark.parametrize(
    ("low", "classes", "near"),
    [(0.72, 2, False), (0.6, 2, True), (0.49, 3, True), (0.51, 3, False), (0.14, 10, True), (0.16, 10, False)],
)
def test_a_few_classes_are_no_reason_for_a_warning(low: float, classes: int, near: bool) -> None:
    assert near_chance(low, classes) == near


def test_the_early_warning_comes_once_after_a_third_of_the_epochs() -> None:
    early = [bool(early_warnings(history(*[0.1] * done), EPOCHS, INFO)) for done in range(1, EPOCHS + 1)]
    assert early == [epoch == EPOCHS // 3 for epoch in range(1, EPOCHS + 1)]
    assert not early_warnings(history(0.1, 0.1, 0.1, 0.9), EPOCHS, INFO)
    every_third = [row for row in history(*[0.1] * 6) if row["epoch"] % 3 == 0]
    assert early_warnings(every_third, EPOCHS, INFO), "the first validation after a third"


def trained(folder: Path, run: Any) -> tuple[list[str], Any]:
    """The lines of a training's log, and the metrics of the run."""
    paths: Paths = paths_in(folder)
    data.save(tiny.dataset(), paths.dataset("tiny"))
    lines: list[str] = []
    spec = TrainingSpec(preset="tests", name="some-run", data="tiny", threat=tiny.THREAT, run=run)
    run_training(spec, seed=0, paths=paths, say=lines.append)
    run_evaluation(evaluation_spec(seeds=(0,)), paths=paths, say=lambda _: None)
    return lines, run_metrics(paths.run_files("tests", "some-run"))


@pytest.mark.parametrize("learns", [False, True])
def test_a_training_that_does_not_take_off(learns: bool, tmp_path: Path) -> None:
    run = tiny.dynat(epochs=18 if learns else 6, augmentation={"padding": 0, "flip": False})
    if not learns:
        run = run.model_copy(update={"schedule": run.schedule.model_copy(update={"lr": 1e-9})})
    lines, metrics = trained(tmp_path, run)
    warned = [line for line in lines if line.startswith("warning: some-run seed 0: ")]
    kept = metrics.training[0].warnings
    if learns:
        assert not warned and not kept
        return
    assert any("the target has not learned: after 2 epochs" in line for line in warned), lines
    assert any("the guide, whose predictions are the labels, has not learned" in text for text in kept), kept
    assert any("the target has not learned: after 6 epochs" in text for text in kept)
    assert [line.removeprefix("warning: some-run seed 0: ") for line in warned[-len(kept) :]] == list(kept)
    notices = run_table.notices(metrics)
    assert any(text.startswith("training with seed 0: the target has not learned") for text in notices)
    assert f"some-run, training with seed 0: {kept[0]}" in page._warnings({"some-run": metrics})
