"""Validity gates: what must hold of any examination that can be believed, checked on every run.

A defence that hides its gradients makes attacks fail without being robust; each gate is a sign by which that
shows (Carlini et al. 2019, "On Evaluating Adversarial Robustness", and AutoAttack's own checks). A run that
fails one is marked in the table: its robust numbers are upper bounds, not results.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from dynat.report.outcomes import read_json
from dynat.report.statistics import mcnemar, wilson

TITLES = {
    "eps-0": "Nothing falls at ε = 0",
    "large": "Nothing stands at a very large ε",
    "steps": "More steps never help the model",
    "restarts": "Restarts never help the model",
    "black-box": "Square never beats PGD",
    "gradients": "Gradients are there",
}

SURPRISING = 0.01
"""Below this p a paired difference in the wrong direction fails a gate."""

NOTHING = 0.01
"""So small a share of pictures may stand at the large radius, or be without gradient."""


def read_probes(folder: Path) -> tuple[pd.DataFrame, dict[str, Any]] | None:
    """A run's probes, a row per seed, probe and picture, and their account; None where none were made."""
    file = folder / "probes.csv"
    if not file.exists():
        return None
    table = pd.read_csv(file)
    missing = [name for name in ("seed", "probe", "index", "label", "clean", "correct") if name not in table]
    if missing:
        raise ValueError(f"{file}: no column '{missing[0]}'; delete it and make it again")
    return table, read_json(file.with_suffix(".json"))


def gates(probes: pd.DataFrame, account: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Every gate by name: whether it was passed, and the figures it was judged by, in words."""
    table = {str(name): rows for name, rows in probes.groupby("probe", sort=False)}
    steps = sorted((name for name in table if name.startswith("steps-")), key=_number)
    (restarts,) = (name for name in table if name.startswith("restarts-"))
    strongest = _together([table[name] for name in (*steps, restarts)])
    zero, right = (sum(seed[key] for seed in account["gradients"].values()) for key in ("zero", "right"))
    return {
        "eps-0": _nothing_falls(table["eps-0"]),
        "large": _nothing_stands(table["large"]),
        "steps": _never_helps(table["steps-20"], table[steps[-1]], f"20 to {_number(steps[-1])} steps"),
        "restarts": _never_helps(table["steps-20"], table[restarts], f"1 to {_number(restarts)} restarts"),
        "black-box": _never_beats(strongest, table["square"]),
        "gradients": {
            "passed": zero <= NOTHING * right,
            "said": f"{zero} of {right} without",
        },
    }


def curves(probes: pd.DataFrame, account: Mapping[str, Any]) -> dict[str, list[dict[str, float]]]:
    """Accuracy with its interval against the radius and against the steps of PGD."""
    attacks = account["attacks"]
    drawn: dict[str, list[dict[str, float]]] = {"eps": [], "steps": []}
    for name, rows in probes.groupby("probe", sort=False):
        axis = str(name).partition("-")[0]
        if axis in drawn:
            drawn[axis].append({axis: attacks[name][axis], **_accuracy(rows)})
    return {axis: sorted(points, key=lambda point: point[axis]) for axis, points in drawn.items()}


def _accuracy(rows: pd.DataFrame) -> dict[str, float]:
    accuracy, n = float(rows["correct"].mean()), int(rows["index"].nunique())
    low, high = wilson(accuracy * n, n)
    return {"accuracy": accuracy, "low": low, "high": high, "n": n}


def _nothing_falls(rows: pd.DataFrame) -> dict[str, Any]:
    before = rows["clean"] == rows["label"]
    fell = int((before & (rows["correct"] == 0)).sum())
    return {"passed": fell == 0, "said": f"{fell} of {int(before.sum())} fell"}


def _nothing_stands(rows: pd.DataFrame) -> dict[str, Any]:
    stands = int(rows["correct"].sum())
    return {"passed": stands <= NOTHING * len(rows), "said": f"{stands} of {len(rows)} stand"}


def _never_helps(less: pd.DataFrame, more: pd.DataFrame, what: str) -> dict[str, Any]:
    """The stronger attack may leave fewer standing, not surprisingly more."""
    test = mcnemar(_votes(more), _votes(less))
    return {
        "passed": not (test.only_first > test.only_second and test.p < SURPRISING),
        "said": f"{what}: {_percent(less)} → {_percent(more)}",
    }


def _never_beats(white: pd.DataFrame, black: pd.DataFrame) -> dict[str, Any]:
    test = mcnemar(_votes(white), _votes(black))
    return {
        "passed": not (test.only_first > test.only_second and test.p < SURPRISING),
        "said": f"Square {_percent(black)}, PGD {_percent(white)}",
    }


def _together(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """What stands under all of them."""
    stands = pd.concat([t.set_index(["seed", "index"])["correct"] for t in tables], axis="columns").min(axis="columns")
    return stands.rename("correct").reset_index()


def _votes(rows: pd.DataFrame) -> Any:
    """For each picture, under how many seeds it stands."""
    return rows.groupby("index")["correct"].sum().to_numpy()


def _percent(rows: pd.DataFrame) -> str:
    return f"{100 * rows['correct'].mean():.1f}"


def _number(name: str) -> int:
    return int(name.partition("-")[2])
