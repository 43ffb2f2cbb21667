"""From outcome files to the metrics of a run: numbers known by hand, and damage that is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dynat.report import write_metrics
from dynat.report.metrics import run_metrics
from dynat.report.statistics import wilson
from tests.fabricated import ATTACK, CLEAN, verdicts, write_config, write_outcome


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of two seeds and five pictures whose every number is known by hand."""
    folder = tmp_path / "results" / "small" / "at"
    for seed in (0, 1):
        write_config(folder / f"seed{seed}")
    verdicts(folder, "clean", {0: "11110", 1: "11100"}, CLEAN)
    verdicts(folder, "pgd-20", {0: "11010", 1: "11000"}, ATTACK)
    verdicts(folder, "cw-20", {0: "01100", 1: "10100"}, ATTACK)
    return folder


def test_metrics_by_hand(run: Path) -> None:
    cell = run_metrics(run)["attacks"]["pgd-20"]
    assert cell["accuracy"] == pytest.approx(0.5)
    assert (cell["n"], cell["seeds"]) == (5, [0, 1])
    assert cell["per_seed"] == {"0": 0.6, "1": 0.4}
    assert cell["mean"] == pytest.approx(0.5)
    assert cell["std"] == pytest.approx(np.std([0.6, 0.4], ddof=1))
    assert cell["per_class"] == {"0": pytest.approx(2 / 6), "1": pytest.approx(3 / 4)}
    assert cell["cost"]["seconds"] == pytest.approx(1.25 + 2.25)


def test_the_interval_counts_pictures_not_seeds(run: Path) -> None:
    cell = run_metrics(run)["attacks"]["pgd-20"]
    assert (cell["low"], cell["high"]) == wilson(2.5, 5)


def test_worst_case_is_per_picture_not_per_column(run: Path) -> None:
    worst = run_metrics(run)["worst"]
    assert worst["per_seed"] == {"0": 0.2, "1": 0.2}  # pgd-20 leaves 0.6 and 0.4, cw-20 0.4 and 0.4
    assert sorted(worst["attacks"]) == ["clean", "cw-20", "pgd-20"]


def test_worst_case_is_over_the_pictures_that_all_attacks_examined(run: Path) -> None:
    verdicts(run, "autoattack", {0: "11", 1: "01"}, ATTACK)
    worst = run_metrics(run)["worst"]
    assert worst["n"] == 2
    assert worst["per_seed"] == {"0": 0.5, "1": 0.0}


@pytest.mark.parametrize("other", [{"weights": "last"}, {"eps": 0.3}, {"norm": "l2"}])
def test_worst_case_is_of_one_checkpoint_and_one_ball(run: Path, other: dict[str, Any]) -> None:
    before = run_metrics(run)["worst"]
    verdicts(run, "pgd-other", {0: "00000", 1: "00000"}, {**ATTACK, **other})
    after = run_metrics(run)
    assert after["worst"] == before
    assert after["attacks"]["pgd-other"]["accuracy"] == 0


def test_one_seed_has_no_spread(run: Path) -> None:
    verdicts(run, "pgd-20", {0: "11010"}, ATTACK)
    cell = run_metrics(run, ["pgd-20"])["attacks"]["pgd-20"]
    assert (cell["std"], cell["mean"], cell["n"]) == (None, pytest.approx(0.6), 5)


def test_metrics_hold_the_attacks_asked_for_and_no_stale_one(run: Path) -> None:
    assert list(run_metrics(run, ["pgd-20", "clean"])["attacks"]) == ["pgd-20", "clean"]


def test_metrics_are_the_same_bytes_twice(run: Path) -> None:
    assert write_metrics(run).read_bytes() == write_metrics(run).read_bytes()


# What is refused


def _remove(name: str) -> Any:
    return lambda run: (run / name).unlink()


def _same_row_twice(run: Path) -> None:
    write_outcome(run, "pgd-20", [(0, 7, 0, 1), (0, 7, 0, 0)], attack=ATTACK)


def _half_a_verdict(run: Path) -> None:
    write_outcome(run, "pgd-20", [(0, 0, 0, 2)], attack=ATTACK)


def _no_picture(run: Path) -> None:
    write_outcome(run, "pgd-20", [], attack=ATTACK)


def _foreign_seeds(run: Path) -> None:
    file = run / "outcomes" / "pgd-20.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "seeds": [0, 4]}))


def _no_json(run: Path) -> None:
    (run / "outcomes" / "pgd-20.json").write_text("{")


def _other_settings(run: Path) -> None:
    write_config(run / "seed1", run={"method": "at", "beta": 6.0})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_remove("outcomes/pgd-20.csv"), r"pgd-20\.csv: no such file; make it with: snakemake --cores all \S+csv"),
        (_remove("outcomes/pgd-20.json"), r"pgd-20\.json: no such file; make it with: snakemake"),
        (_remove("seed1/config.json"), r"seed1/config\.json: no such file; make it with: snakemake"),
        (_remove("seed1/history.csv"), r"seed1/history\.csv: no such file; make it with: snakemake"),
        (_same_row_twice, r"pgd-20\.csv: seed 0 has two verdicts on picture 7"),
        (_half_a_verdict, r"pgd-20\.csv: column 'correct' holds something other than 0 and 1"),
        (_no_picture, r"pgd-20\.csv: not one picture was examined"),
        (_foreign_seeds, r"pgd-20\.csv: its seeds are not those of pgd-20\.json"),
        (_no_json, r"pgd-20\.json: not valid JSON"),
        (_other_settings, r"seed1/config\.json: run\.beta is not that of seed 0, so they are not one run"),
    ],
)
def test_damage_is_named_with_the_way_out(run: Path, damage: Any, message: str) -> None:
    damage(run)
    with pytest.raises(ValueError, match=message):
        run_metrics(run, ["clean", "pgd-20", "cw-20"])


def test_a_run_without_outcomes_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"no outcome of any attack; make one with: snakemake --cores all .*clean\.csv"
    ):
        run_metrics(tmp_path / "at")


@pytest.mark.parametrize(("by_square", "warned"), [(0, False), (1, False), (2, True)])
def test_autoattacks_own_warning_about_square(tmp_path: Path, by_square: int, warned: bool) -> None:
    """No part by itself can raise it: Square broke more than 0.2 % of all pictures after the attacks with gradients."""
    attack = {**ATTACK, "kind": "autoattack"}
    write_outcome(tmp_path, "autoattack", [(0, i, i % 2, int(i >= 100)) for i in range(500)], attack=attack)
    write_config(tmp_path / "seed0")
    file = tmp_path / "outcomes" / "autoattack.csv"
    table = pd.read_csv(file, dtype={"fell_to": str})
    table.loc[: by_square - 1, "fell_to"] = "square"
    table.to_csv(file, index=False)
    cell = run_metrics(tmp_path)["attacks"]["autoattack"]
    assert cell["after"]["fab-t"] - cell["after"]["square"] == pytest.approx(by_square / 500)
    assert any("Square Attack has decreased" in flag for flag in cell["flags"]) == warned
