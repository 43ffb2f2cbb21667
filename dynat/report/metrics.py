"""From the outcomes of one run to its metrics.json: every number that a table or figure shows of it.

Accuracy is pooled over seeds; its interval is Wilson's with n = pictures, not pictures times seeds, because
the seeds examine the same pictures. With several seeds that is on the careful side. Nothing is rounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from dynat.report.gates import curves, gates, read_probes
from dynat.report.outcomes import (
    Outcome,
    attack_names,
    read_history,
    read_json,
    read_outcome,
    worst_attacks,
    worst_case,
)
from dynat.report.statistics import wilson

SQUARE_ALLOWED = 0.002
"""The share of pictures that AutoAttack lets Square break after its other parts without a warning."""


def run_metrics(folder: Path, attacks: Sequence[str] | None = None) -> dict[str, Any]:
    """The metrics of the run in `results/<preset>/<run>`, over `attacks` or every attack with an outcome."""
    outcomes = [read_outcome(folder, name) for name in attacks or attack_names(folder)]
    seeds = sorted({int(seed) for outcome in outcomes for seed in outcome.facts["seeds"]})
    configs = {seed: read_json(folder / f"seed{seed}" / "config.json") for seed in seeds}
    config = _same_run(folder, configs)
    worst = worst_attacks(outcomes, config["threat"])
    return {
        "preset": config["preset"],
        "run": config["name"],
        "seeds": seeds,
        "dataset": config["dataset"],
        "threat": config["threat"],
        "config": config["run"],
        "attacks": {outcome.name: _attack(outcome) for outcome in outcomes},
        "worst": {"attacks": [outcome.name for outcome in worst], **summary(worst_case(worst))} if worst else None,
        "examination": _examination(folder),
        "training": {str(seed): _training(folder / f"seed{seed}", configs[seed]) for seed in seeds},
    }


def _examination(folder: Path) -> dict[str, Any] | None:
    """What the small examinations say of the large ones."""
    probes = read_probes(folder)
    return None if probes is None else {"gates": gates(*probes), "curves": curves(*probes)}


def summary(verdicts: pd.DataFrame) -> dict[str, Any]:
    """Accuracy with its interval, seed by seed and class by class."""
    accuracy = float(verdicts["correct"].mean())
    n = int(verdicts["index"].nunique())
    low, high = wilson(accuracy * n, n)
    per_seed = verdicts.groupby("seed")["correct"].mean()
    per_class = verdicts.groupby("label")["correct"].mean()
    return {
        "accuracy": accuracy,
        "low": low,
        "high": high,
        "n": n,
        "seeds": [int(seed) for seed in per_seed.index],
        "mean": float(per_seed.mean()),
        "std": float(per_seed.std()) if len(per_seed) > 1 else None,
        "per_seed": {str(seed): float(value) for seed, value in per_seed.items()},
        "per_class": {str(label): float(value) for label, value in per_class.items()},
    }


def _attack(outcome: Outcome) -> dict[str, Any]:
    facts = outcome.facts
    seconds = {str(seed): float(value) for seed, value in facts["seconds"].items()}
    return {
        "attack": facts["attack"],
        **summary(outcome.verdicts),
        "cost": {
            "seconds": sum(seconds.values()),
            "seconds_per_seed": seconds,
            "forward_passes": facts["forward_passes"],
            "backward_passes": facts["backward_passes"],
            "device": facts["device"],
        },
        "after": _after(outcome),
        "refuted_claims": facts["refuted_claims"],
        "flags": [*facts["flags"], *_square_flag(_after(outcome))],
    }


def _after(outcome: Outcome) -> dict[str, float]:
    """Accuracy before the attack and after each of its parts; the last is the attack's own."""
    fell_to = outcome.verdicts["fell_to"]
    parts = ["clean", *outcome.facts["parts"]]
    return {part: float(1 - fell_to.isin(parts[: place + 1]).mean()) for place, part in enumerate(parts)}


def _square_flag(after: dict[str, float]) -> list[str]:
    """AutoAttack's warning that a search without gradients broke what attacks with gradients could not."""
    names = list(after)
    if len(names) < 3 or names[-1] != "square":
        return []
    drop = round(after[names[-2]] - after["square"], 9)
    if drop <= SQUARE_ALLOWED:
        return []
    return [f"Square Attack has decreased the robust accuracy by {100 * drop:.2f} %: the evaluation may be unreliable"]


def _training(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    history = read_history(folder)
    measured = history["label_accuracy"].dropna() if "label_accuracy" in history else pd.Series(dtype=float)
    return {
        "epochs": len(history),
        "seconds": config["training_seconds"],
        "best_epoch": config["best_epoch"],
        "final_label_accuracy": float(measured.iloc[-1]) if len(measured) else None,
        "parameters": config["parameters"],
        "digest": config["digest"],
        "versions": config["versions"],
        "machine": config["machine"],
    }


def _same_run(folder: Path, configs: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """The config that all seeds share; seeds trained with different settings are not one run."""
    first, *others = configs
    for seed in others:
        for part in ("run", "dataset", "threat"):
            expected, found = (dict(configs[which][part], seeds=None) for which in (first, seed))
            if expected != found:
                changed = next(k for k in {**expected, **found} if expected.get(k) != found.get(k))
                raise ValueError(
                    f"{folder / f'seed{seed}' / 'config.json'}: {part}.{changed} is not that of seed {first}, so "
                    f"they are not one run; delete {folder / f'seed{seed}'} and make it again"
                )
    return configs[first]
