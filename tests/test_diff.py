"""`dynat diff`: what counts as a difference between two results folders, and what does not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dynat.cli.app import app
from dynat.jobs.diff import differences
from dynat.results.metrics import run_metrics
from dynat.results.paths import RunFiles
from dynat.results.records import RunMetrics, write_record
from dynat.runtime.errors import UserError
from tests.fake_results import ATTACK, verdicts, write_training

Change = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def metrics(tmp_path_factory: pytest.TempPathFactory) -> RunMetrics:
    """The metrics of one run of two seeds under one attack; its accuracy is a number that 0.3 is not."""
    run = RunFiles(tmp_path_factory.mktemp("metrics") / "at")
    for seed in (0, 1):
        write_training(run.seed(seed))
    verdicts(run, "pgd-20", {0: "1100", 1: "1000"}, ATTACK)
    made = run_metrics(run)
    cell = made.attacks["pgd-20"].model_copy(update={"accuracy": 0.1 + 0.2})
    return made.model_copy(update={"attacks": {"pgd-20": cell}})


Write = Callable[..., None]


@pytest.fixture
def write(metrics: RunMetrics) -> Write:
    """Write the metrics of a run, changed, into a results folder."""

    def changed(folder: Path, change: Change, run: str = "at") -> None:
        content = json.loads(metrics.model_dump_json())
        change(content)
        write_record(RunFiles(folder / run).metrics, RunMetrics.model_validate(content))

    return changed


@pytest.fixture
def folders(tmp_path: Path, write: Write) -> tuple[Path, Path]:
    for name in ("one", "other"):
        write(tmp_path / name, lambda content: None)
    return tmp_path / "one", tmp_path / "other"


CIRCUMSTANCES: dict[str, Change] = {
    "attack's seconds": lambda m: m["attacks"]["pgd-20"]["cost"].update(seconds=9.0, seconds_per_seed={"0": 9.0}),
    "attack's device": lambda m: m["attacks"]["pgd-20"]["cost"].update(device="cuda"),
    "training's seconds": lambda m: m["training"]["0"].update(seconds=9.0),
    "code, versions and machine": lambda m: m["training"]["0"].update(digest="b", versions={}, machine="other"),
}


@pytest.mark.parametrize("what", CIRCUMSTANCES)
def test_time_and_machine_make_no_difference(folders: tuple[Path, Path], write: Write, what: str) -> None:
    write(folders[1], CIRCUMSTANCES[what])
    assert differences(*folders) == []


DIFFERENCES: dict[str, tuple[Change, str]] = {
    "a last bit": (
        lambda m: m["attacks"]["pgd-20"].update(accuracy=0.3),
        "at: attacks.pgd-20.accuracy: 0.30000000000000004 in {one}, 0.3 in {other}",
    ),
    "a count": (
        lambda m: m["attacks"]["pgd-20"]["cost"].update(forward_passes=41),
        "at: attacks.pgd-20.cost.forward_passes: 168 in {one}, 41 in {other}",
    ),
    "one more seed": (lambda m: m["seeds"].append(2), "at: seeds.2: nothing in {one}, 2 in {other}"),
    "another data set": (
        lambda m: m["dataset"].update(digest="e"),
        'at: dataset.digest: "' + "d" * 64 + '" in {one}, "e" in {other}',
    ),
    "an option": (
        lambda m: m["config"]["schedule"].update(lr=0.2),
        "at: config.schedule.lr: 0.1 in {one}, 0.2 in {other}",
    ),
    "a warning": (
        lambda m: m["attacks"]["pgd-20"]["warnings"].append("zero gradients"),
        'at: attacks.pgd-20.warnings.1: nothing in {one}, "zero gradients" in {other}',  # 0: a class is missing
    ),
    "no worst case": (lambda m: m.update(worst_case=None), "at: worst_case: nothing in {one}, null in {other}"),
    "one training fewer": (
        lambda m: m["training"].pop("0"),
        "at: training.0.epochs: 1 in {one}, nothing in {other}",
    ),
}


@pytest.mark.parametrize("what", DIFFERENCES)
def test_every_number_counts(folders: tuple[Path, Path], write: Write, what: str) -> None:
    change, line = DIFFERENCES[what]
    write(folders[1], change)
    assert line.format(one=folders[0], other=folders[1]) in differences(*folders)


def test_a_run_that_only_one_has(folders: tuple[Path, Path], write: Write) -> None:
    write(folders[1], lambda content: None, run="dynat")
    assert differences(*folders) == [f"dynat: only in {folders[1]}"]
    assert differences(folders[1], folders[0]) == [f"dynat: only in {folders[1]}"]


def test_the_command(folders: tuple[Path, Path], write: Write) -> None:
    one, other = map(str, folders)
    done = CliRunner().invoke(app, ["diff", one, other])
    assert (done.exit_code, done.output.strip()) == (0, f"{one} and {other}: the same metrics of 1 run")
    write(folders[1], lambda m: m.update(run="trades"))
    done = CliRunner().invoke(app, ["diff", one, other])
    assert (done.exit_code, done.output.strip()) == (1, f'at: run: "at" in {one}, "trades" in {other}')
    # One run can be compared with another.
    done = CliRunner().invoke(app, ["diff", f"{one}/at", f"{other}/at"])
    assert done.exit_code == 1 and done.output.startswith('metrics.json: run: "at"')


def test_a_folder_without_metrics_is_refused(folders: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere: no metrics\.json in it; name a results folder"):
        differences(folders[0], tmp_path / "nowhere")
