"""`dynat same`: what counts as a difference between two results folders, and what does not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dynat.cli import app
from dynat.jobs.same import differences

Change = Callable[[dict[str, Any]], object]


def metrics() -> dict[str, Any]:
    """What counts in a metrics.json, in its shape."""
    return {
        "run": "at",
        "seeds": [0, 1],
        "dataset": {"digest": "d" * 16},
        "config": {"schedule": {"lr": 0.1}, "options": {}},
        "attacks": {
            "pgd-20": {
                "accuracy": 0.1 + 0.2,
                "cost": {"seconds": 1.5, "seconds_per_seed": {"0": 1.5}, "forward_passes": 40, "device": "cpu"},
                "flags": [],
            }
        },
        "worst": None,
        "training": {
            "0": {"epochs": 2, "seconds": 3.0, "digest": "a", "versions": {"python": "3.11.2"}, "machine": "one"}
        },
    }


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    for name in ("one", "other"):
        write(tmp_path / name, lambda content: None)
    return tmp_path / "one", tmp_path / "other"


def write(folder: Path, change: Change, run: str = "at") -> None:
    content = metrics()
    change(content)
    (folder / run).mkdir(parents=True, exist_ok=True)
    (folder / run / "metrics.json").write_text(json.dumps(content))


CIRCUMSTANCES: dict[str, Change] = {
    "attack's seconds": lambda m: m["attacks"]["pgd-20"]["cost"].update(seconds=9.0, seconds_per_seed={"0": 9.0}),
    "attack's device": lambda m: m["attacks"]["pgd-20"]["cost"].update(device="cuda"),
    "training's seconds": lambda m: m["training"]["0"].update(seconds=9.0),
    "code, versions and machine": lambda m: m["training"]["0"].update(digest="b", versions={}, machine="other"),
}


@pytest.mark.parametrize("what", CIRCUMSTANCES)
def test_when_and_where_make_no_difference(folders: tuple[Path, Path], what: str) -> None:
    write(folders[1], CIRCUMSTANCES[what])
    assert differences(*folders) == []


DIFFERENCES: dict[str, tuple[Change, str]] = {
    "a last bit": (
        lambda m: m["attacks"]["pgd-20"].update(accuracy=0.3),
        "at: attacks.pgd-20.accuracy: 0.30000000000000004 in {one}, 0.3 in {other}",
    ),
    "a count": (
        lambda m: m["attacks"]["pgd-20"]["cost"].update(forward_passes=41),
        "at: attacks.pgd-20.cost.forward_passes: 40 in {one}, 41 in {other}",
    ),
    "a seed more": (lambda m: m["seeds"].append(2), "at: seeds.2: nothing in {one}, 2 in {other}"),
    "another data set": (
        lambda m: m["dataset"].update(digest="e"),
        'at: dataset.digest: "dddddddddddddddd" in {one}, "e" in {other}',
    ),
    "an option": (
        lambda m: m["config"].update(schedule={}),
        "at: config.schedule.lr: 0.1 in {one}, nothing in {other}",
    ),
    "a worst case": (lambda m: m.update(worst=[]), "at: worst: null in {one}, [] in {other}"),
    "a training less": (lambda m: m.update(training={}), "at: training.0.epochs: 2 in {one}, nothing in {other}"),
}


@pytest.mark.parametrize("what", DIFFERENCES)
def test_every_number_counts(folders: tuple[Path, Path], what: str) -> None:
    change, said = DIFFERENCES[what]
    write(folders[1], change)
    assert said.format(one=folders[0], other=folders[1]) in differences(*folders)


def test_a_run_that_only_one_has(folders: tuple[Path, Path]) -> None:
    write(folders[1], lambda content: None, run="dynat")
    assert differences(*folders) == [f"dynat: only in {folders[1]}"]
    assert differences(folders[1], folders[0]) == [f"dynat: only in {folders[1]}"]


def test_the_command(folders: tuple[Path, Path]) -> None:
    one, other = map(str, folders)
    done = CliRunner().invoke(app, ["same", one, other])
    assert (done.exit_code, done.output.strip()) == (0, f"{one} and {other} say the same of 1 run")
    write(folders[1], lambda m: m.update(run="trades"))
    done = CliRunner().invoke(app, ["same", one, other])
    assert (done.exit_code, done.output.strip()) == (1, f'at: run: "at" in {one}, "trades" in {other}')
    # One run can be compared with another.
    done = CliRunner().invoke(app, ["same", f"{one}/at", f"{other}/at"])
    assert done.exit_code == 1 and done.output.startswith('metrics.json: run: "at"')


def test_a_folder_without_metrics_is_refused(folders: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere: no metrics\.json in it; name a results folder"):
        differences(folders[0], tmp_path / "nowhere")
