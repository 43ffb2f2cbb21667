"""Reading what training and evaluation left on disk. A missing or foreign file names itself and the way out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

VERDICT_COLUMNS = ["seed", "index", "label", "correct", "fell_to"]


@dataclass(frozen=True)
class Outcome:
    """One attack on one run: a row per seed and test picture, and what the attack was and cost."""

    name: str
    verdicts: pd.DataFrame
    """seed, index, label, correct (1 stands, 0 falls), fell_to (a part of the attack, 'clean', or nothing)."""
    facts: Mapping[str, Any]

    @property
    def attack(self) -> Mapping[str, Any]:
        attack: Mapping[str, Any] = self.facts["attack"]
        return attack


def needed(path: Path) -> Path:
    if not path.exists():
        raise ValueError(f"{path}: no such file; make it with: snakemake --cores all {path}")
    return path


def read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(needed(path).read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not valid JSON ({error}); delete it and make it again") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected an object, found {type(content).__name__}")
    return content


def attack_names(run_folder: Path) -> list[str]:
    """The attacks that have an outcome, by name."""
    found = sorted(path.stem for path in (run_folder / "outcomes").glob("*.csv"))
    if not found:
        raise ValueError(
            f"{run_folder / 'outcomes'}: no outcome of any attack; make one with: "
            f"snakemake --cores all {run_folder / 'outcomes' / 'clean.csv'}"
        )
    return found


def read_outcome(run_folder: Path, name: str) -> Outcome:
    table_file = needed(run_folder / "outcomes" / f"{name}.csv")
    verdicts = pd.read_csv(table_file, dtype={"fell_to": str})
    missing = [column for column in VERDICT_COLUMNS if column not in verdicts]
    if missing:
        raise ValueError(f"{table_file}: no column '{missing[0]}'; delete it and make it again")
    verdicts = verdicts[VERDICT_COLUMNS].fillna({"fell_to": ""})
    facts = read_json(table_file.with_suffix(".json"))
    _check(table_file, verdicts, facts.get("seeds", []))
    return Outcome(name, verdicts, facts)


def _check(file: Path, verdicts: pd.DataFrame, seeds: Sequence[int]) -> None:
    if verdicts.empty:
        raise ValueError(f"{file}: not one picture was examined; delete it and make it again")
    twice = verdicts.duplicated(["seed", "index"])
    if twice.any():
        seed, index, *_ = verdicts[twice].iloc[0]
        raise ValueError(f"{file}: seed {seed} has two verdicts on picture {index}; delete it and make it again")
    if not verdicts["correct"].isin([0, 1]).all():
        raise ValueError(f"{file}: column 'correct' holds something other than 0 and 1")
    if sorted(seeds) != sorted(verdicts["seed"].unique()):
        raise ValueError(
            f"{file}: its seeds are not those of {file.with_suffix('.json').name}; delete both and make them again"
        )


def read_history(seed_folder: Path) -> pd.DataFrame:
    """A row per epoch; what was not measured in an epoch is NaN."""
    return pd.read_csv(needed(seed_folder / "history.csv"))


def worst_attacks(outcomes: Sequence[Outcome], threat: Mapping[str, Any]) -> list[Outcome]:
    """Who takes part in the worst case: attacks on the `best` weights, inside the threat model's own ball."""

    def counts(outcome: Outcome) -> bool:
        attack = outcome.attack
        if attack.get("weights", "best") != "best":
            return False
        same_ball: bool = attack["norm"] == threat["norm"] and abs(attack["eps"] - threat["eps"]) < 1e-9
        return same_ball or attack["kind"] == "clean"

    return [outcome for outcome in outcomes if counts(outcome)]


def worst_case(outcomes: Sequence[Outcome]) -> pd.DataFrame:
    """Verdicts of the worst case: a picture stands if it stands under every attack, over the pictures (of
    each seed) that every attack examined."""
    tables = [outcome.verdicts.set_index(["seed", "index"]) for outcome in outcomes]
    stands = pd.concat([table["correct"] for table in tables], axis="columns", join="inner").min(axis="columns")
    if stands.empty:
        raise ValueError("worst case: no picture was examined by all of " + ", ".join(o.name for o in outcomes))
    label = tables[0]["label"].loc[stands.index]
    return pd.DataFrame({"label": label, "correct": stands}).reset_index()
