"""From fabricated outcome files to metrics, tables, figures and the page."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file

from dynat.config import Experiment, load
from dynat.report import figures, tables, write_metrics, write_report
from dynat.report.comparisons import best_runs, compare
from dynat.report.drawing import colours, spread
from dynat.report.metrics import run_metrics
from dynat.report.outcomes import read_outcome, worst_case
from dynat.report.statistics import wilson

PRESETS = Path(__file__).parent.parent / "config" / "presets"
HARDNESS = {"clean": 0.0, "fgsm": 0.2, "pgd": 0.32, "cw": 0.34, "autoattack": 0.38}
SKILL = {"natural": 0.99, "at": 0.86, "trades": 0.845, "lbgat6": 0.85, "dynat": 0.88, "dynat-kl-inner": 0.875}


def experiment(**params: Any) -> Experiment:
    return load({"preset": "digits", **params}, presets=PRESETS)


def fabricate(results: Path, plan: Experiment, *, pictures: int = 200, classes: int = 10) -> Path:
    """Files as training and evaluation write them, from skills and hardnesses."""
    for number, (run, settings) in enumerate(plan.runs.items()):
        for seed in plan.seeds[run]:
            _train(results / run / f"seed{seed}", plan, run, seed, classes)
        for name, attack in plan.attacks.items():
            count = min(attack.pictures or pictures, pictures)
            hardness = HARDNESS[attack.kind] * (3 if settings.method == "natural" else 1)
            rows = [
                row
                for seed in plan.seeds[run]
                for row in _verdicts(seed, number, SKILL.get(run, 0.8) - hardness, pictures, classes)[:count]
            ]
            write_outcome(results / run, name, rows, attack=attack.model_dump(mode="json"))
            _examples(results / run / "outcomes" / f"{name}.examples.safetensors", attack.eps or 0.1)
    return results


def _verdicts(seed: int, run: int, skill: float, pictures: int, classes: int) -> list[tuple[int, int, int, int]]:
    shared = np.random.default_rng(0).uniform(size=pictures)
    own = np.random.default_rng([seed, run]).normal(0, 0.04, size=pictures)
    return [(seed, i, i % classes, int(shared[i] + own[i] < skill - 0.02 * (i % 5))) for i in range(pictures)]


def write_outcome(folder: Path, name: str, rows: list[tuple[int, int, int, int]], *, attack: dict[str, Any]) -> None:
    """rows: seed, index, label, correct."""
    (folder / "outcomes").mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame(rows, columns=["seed", "index", "label", "correct"])
    table = table.assign(clean=table.label, prediction=table.label + 1 - table.correct, margin=0.5, distance=0.1)
    order = ["seed", "index", "label", "clean", "prediction", "correct", "margin", "distance"]
    table[order].to_csv(folder / "outcomes" / f"{name}.csv", index=False)
    seeds = sorted({row[0] for row in rows})
    facts = {
        "run": folder.name,
        "attack_name": name,
        "attack": attack,
        "seeds": seeds,
        "seconds": {str(seed): 1.25 + seed for seed in seeds},
        "forward_passes": 21 * len(rows),
        "backward_passes": 20 * len(rows),
        "refuted_claims": 0,
        "flags": [],
        "device": "x86_64 CPU, 2 cores, 1 threads used",
        "digest": {str(seed): "0123456789abcdef" for seed in seeds},
    }
    (folder / "outcomes" / f"{name}.json").write_text(json.dumps(facts))


def _train(folder: Path, plan: Experiment, run: str, seed: int, classes: int) -> None:
    folder.mkdir(parents=True)
    settings = plan.runs[run]
    epoch = np.arange(1, 21)
    noise = np.random.default_rng([seed, len(run)]).normal(0, 0.006, size=20)
    skill = SKILL.get(run, 0.8)
    history = pd.DataFrame({"epoch": epoch, "learning_rate": 0.1, "loss": 2 / epoch})
    if settings.guide:
        history["label_accuracy"] = 1 - 0.7 * np.exp(-epoch / (2.5 + seed)) - 0.01
    history["clean"] = skill * (1 - 0.8 * np.exp(-epoch / 3)) + 0.08 + noise
    history["pgd"] = (0 if settings.method == "natural" else skill - 0.3) * (1 - np.exp(-epoch / 5)) + np.abs(noise)
    history.loc[history.epoch % 2 == 1, ["clean", "pgd"]] = np.nan
    history["seconds"] = 0.8
    history.to_csv(folder / "history.csv", index=False)
    config = {
        **plan.training(run).model_dump(mode="json"),
        "seed": seed,
        "digest": "0123456789abcdef",
        "dataset": {"name": plan.dataset.name, "classes": [str(c) for c in range(classes)], "channels": 1, "size": 8},
        "best_epoch": 18,
        "training_seconds": 16.0,
        "parameters": {"target": 24_634, "guide": 24_634 if settings.guide else None},
        "versions": {"dynat": "0.1.0", "torch": "2.13.0", "python": "3.11.9"},
        "machine": "x86_64 CPU, 2 cores, 1 threads used",
    }
    (folder / "config.json").write_text(json.dumps(config))


def _examples(file: Path, eps: float) -> None:
    rng = np.random.default_rng(3)
    clean = rng.uniform(size=(8, 1, 8, 8)).astype(np.float32)
    adversarial = np.clip(clean + rng.choice([-eps, eps], size=clean.shape), 0, 1).astype(np.float32)
    label = np.arange(8)
    seen = {"label": label, "clean_prediction": label, "prediction": label + (label % 2)}
    save_file({"clean": clean, "adversarial": adversarial, **seen}, file, {"classes": json.dumps(list("0123456789"))})


def reported(results: Path, plan: Experiment, **options: Any) -> Path:
    fabricate(results, plan, **options)
    for run in plan.runs:
        write_metrics(results / run)
    write_report(results, plan)
    return results


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits preset, six runs, reported; read only."""
    return reported(tmp_path_factory.mktemp("results") / "digits", experiment())
