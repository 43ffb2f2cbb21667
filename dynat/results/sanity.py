"""Sanity checks: what must hold of any evaluation that can be trusted, checked on every run.

A defense that hides its gradients makes attacks fail without being robust; each check is a symptom of that (Carlini
et al. 2019, "On Evaluating Adversarial Robustness", and AutoAttack's own checks). A run that fails one is marked in
the table: its robust accuracies are probably too high.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynat.results.csv_files import read_table, write_table
from dynat.results.paths import RunFiles
from dynat.results.records import Check, Curves, RadiusPoint, SanityRecord, StepsPoint, read_record, write_record
from dynat.results.statistics import mcnemar, wilson

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("seed", "attack", "index", "label", "clean_prediction", "correct")

TITLES = {
    "eps-0": "No misclassification at ε = 0",
    "large_eps": "Accuracy reaches zero at a very large ε",
    "steps": "More steps never raise accuracy",
    "restarts": "More restarts never raise accuracy",
    "black-box": "Square never breaks more than PGD",
    "gradients": "Gradients are not zero",
}

SIGNIFICANCE = 0.01
"""Below this p a paired difference in the wrong direction fails a check."""

NEGLIGIBLE = 0.01
"""The share of images that may stay correct at the large radius, or have no gradient."""


@dataclass(frozen=True)
class SanityVerdicts:
    """One seed's verdicts under one attack, a list entry per image."""

    label: Sequence[int]
    clean_prediction: Sequence[int]
    correct: Sequence[int]


def write_sanity(run: RunFiles, record: SanityRecord, verdicts: Mapping[tuple[int, str], SanityVerdicts]) -> Path:
    """Write the table of verdicts by seed and attack, then the record; the file of the table."""
    rows: list[Sequence[object]] = []
    for (seed, attack), of_attack in verdicts.items():
        columns = zip(of_attack.label, of_attack.clean_prediction, of_attack.correct, strict=True)
        rows += [(seed, attack, index, *row) for index, row in enumerate(columns)]
    table = write_table(run.sanity, COLUMNS, rows)
    write_record(run.sanity_record, record.model_copy(update={"table": table}))
    return run.sanity


def read_sanity(run: RunFiles) -> tuple[pd.DataFrame, SanityRecord] | None:
    """A run's verdicts, a row per seed, attack and image, and their record; None where no check was run."""
    import pandas as pd

    if not run.sanity.exists():
        return None
    record = read_record(run.sanity_record, SanityRecord)
    text = read_table(run.sanity, record.table, run.sanity_record, COLUMNS)
    return pd.read_csv(io.StringIO(text)), record


def sanity_checks(verdicts: pd.DataFrame, record: SanityRecord) -> dict[str, Check]:
    """Every check by name: whether it passed, and the numbers that decided."""
    table = {str(name): rows for name, rows in verdicts.groupby("attack", sort=False)}
    steps = sorted((name for name in table if name.startswith("steps-")), key=_number)
    (restarts,) = (name for name in table if name.startswith("restarts-"))
    strongest = _correct_under_all([table[name] for name in (*steps, restarts)])
    zero = sum(count.zero for count in record.gradients.values())
    correct = sum(count.correct for count in record.gradients.values())
    more_steps, more_restarts = f"20 to {_number(steps[-1])} steps", f"1 to {_number(restarts)} restarts"
    return {
        "eps-0": _none_broken(table["eps-0"]),
        "large_eps": _all_broken(table["large_eps"]),
        "steps": _stronger_is_not_higher(table["steps-20"], table[steps[-1]], more_steps),
        "restarts": _stronger_is_not_higher(table["steps-20"], table[restarts], more_restarts),
        "black-box": _black_box_is_not_lower(strongest, table["square"]),
        "gradients": Check(passed=zero <= NEGLIGIBLE * correct, detail=f"{zero} of {correct} are zero"),
    }


def curves(verdicts: pd.DataFrame, record: SanityRecord) -> Curves:
    """Accuracy with its interval against the radius and against the steps of PGD."""
    eps: list[RadiusPoint] = []
    steps: list[StepsPoint] = []
    for name, rows in verdicts.groupby("attack", sort=False):
        attack, axis = record.attacks[str(name)], str(name).partition("-")[0]
        if axis == "eps":
            eps.append(RadiusPoint.model_validate({"eps": attack.eps, **_accuracy(rows)}))
        elif axis == "steps":
            steps.append(StepsPoint.model_validate({"steps": attack.steps, **_accuracy(rows)}))
    return Curves(
        eps=tuple(sorted(eps, key=lambda point: point.eps)), steps=tuple(sorted(steps, key=lambda point: point.steps))
    )


def _accuracy(rows: pd.DataFrame) -> dict[str, float]:
    accuracy, n = float(rows["correct"].mean()), int(rows["index"].nunique())
    low, high = wilson(accuracy * n, n)
    return {"accuracy": accuracy, "low": low, "high": high, "n": n}


def _none_broken(rows: pd.DataFrame) -> Check:
    before = rows["clean_prediction"] == rows["label"]
    broken = int((before & (rows["correct"] == 0)).sum())
    return Check(passed=broken == 0, detail=f"{broken} of {int(before.sum())} broken")


def _all_broken(rows: pd.DataFrame) -> Check:
    correct = int(rows["correct"].sum())
    return Check(passed=correct <= NEGLIGIBLE * len(rows), detail=f"{correct} of {len(rows)} correct")


def _stronger_is_not_higher(weaker: pd.DataFrame, stronger: pd.DataFrame, change: str) -> Check:
    """The stronger attack may leave fewer images correct, not significantly more."""
    test = mcnemar(_votes(stronger), _votes(weaker))
    return Check(
        passed=not (test.only_first > test.only_second and test.p < SIGNIFICANCE),
        detail=f"{change}: {_percent(weaker)} → {_percent(stronger)}",
    )


def _black_box_is_not_lower(white_box: pd.DataFrame, black_box: pd.DataFrame) -> Check:
    test = mcnemar(_votes(white_box), _votes(black_box))
    return Check(
        passed=not (test.only_first > test.only_second and test.p < SIGNIFICANCE),
        detail=f"Square {_percent(black_box)}, PGD {_percent(white_box)}",
    )


def _correct_under_all(tables: list[pd.DataFrame]) -> pd.DataFrame:
    import pandas as pd

    correct = pd.concat([t.set_index(["seed", "index"])["correct"] for t in tables], axis="columns").min(axis="columns")
    return correct.rename("correct").reset_index()


def _votes(rows: pd.DataFrame) -> Any:
    """For each image, under how many seeds it is correct."""
    return rows.groupby("index")["correct"].sum().to_numpy()


def _percent(rows: pd.DataFrame) -> str:
    return f"{100 * rows['correct'].mean():.1f}"


def _number(name: str) -> int:
    return int(name.partition("-")[2])
