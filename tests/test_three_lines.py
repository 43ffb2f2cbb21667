"""The three lines that people type, in a fresh clone, with the recipe of the digits: beta from 0.2 to 6 trains.

    snakemake --cores 2 all
    dvc repro
    dvc exp run -S beta=6.0

Only attacks and runs are fewer than in the preset. The bounds are those of docs/method.md: with three seeds, the
accuracies under PGD-20 at beta 0.2, 1 and 6 are within 5 points of each other.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tests.project import ROOT
from tests.test_dvc import Repository

FEWER = {"select": ["at", "dynat"], "seeds": [0, 1, 2], "attacks": ["clean", "pgd-20"], "headline": "pgd-20"}

PLAIN = {"SNAKEMAKE_OPTS": "--cores 2"}
"""One line per finished job, as people see it."""


@pytest.fixture
def clone(tmp_path: Path) -> Repository:
    original = Repository.create(tmp_path / "original")
    original.params(yaml.safe_dump({**yaml.safe_load((ROOT / "params.yaml").read_text()), **FEWER}))
    original.save("fewer runs and attacks")
    original.git("clone", "-q", str(original.folder), str(tmp_path / "clone"))
    return Repository(tmp_path / "clone")


def trained(output: str) -> list[tuple[str, int]]:
    """Run and seed of every training that the output says is finished."""
    return sorted((run, int(seed)) for run, seed in re.findall(r"^ *\d+/\d+ +(\S+) seed (\d): trained", output, re.M))


def accuracy(clone: Repository) -> dict[str, float]:
    """DYNAT's accuracies in percent, as `dvc metrics show` has them, means over seeds."""
    (workspace,) = (of_revision["data"] for of_revision in clone.shown("metrics", "show").values())
    values = workspace["metrics/digits/dynat.json"]["data"]
    return {name: float(values[name]) for name in ("clean", "pgd-20")}


@pytest.mark.slow
def test_the_three_lines_in_a_fresh_clone(clone: Repository) -> None:
    seeds = [("dynat", seed) for seed in (0, 1, 2)]

    output = clone.output_of("snakemake", "--cores", "2", "all")
    assert trained(output) == [("at", seed) for seed in (0, 1, 2)] + seeds
    assert "open results/digits/report.html" in output

    assert trained(clone.dvc("repro", **PLAIN)) == [], "Snakemake has made it"
    clone.save("beta 1")
    clone.assert_nothing_to_do()
    by_beta = {1.0: accuracy(clone)}
    assert by_beta[1.0]["clean"] >= 98 and by_beta[1.0]["pgd-20"] >= 78

    for beta in (6.0, 0.2):
        assert trained(clone.dvc("exp", "run", "-S", f"beta={beta}", **PLAIN)) == seeds, "AT does not depend on beta"
        by_beta[beta] = accuracy(clone)
        changed = clone.shown("metrics", "diff")
        assert set(changed) == {"metrics/digits/dynat.json"}
        assert changed["metrics/digits/dynat.json"]["pgd-20"]["new"] == by_beta[beta]["pgd-20"]

    pgd = [values["pgd-20"] for values in by_beta.values()]
    assert max(pgd) - min(pgd) <= 5, by_beta
    assert min(values["clean"] for values in by_beta.values()) >= 97, by_beta
