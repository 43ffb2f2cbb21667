"""Files as training and evaluation write them, made up: what the tests of metrics and report read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from safetensors.numpy import save_file

from dynat.config import Experiment, load, names

PRESET = """
dataset: {name: digits, source: digits}
threat: {norm: linf, eps: 0.15}
training: {target: small, guide: small, epochs: 20}
seeds: [0, 1]
runs:
  natural: {method: natural, seeds: [0]}
  at: {method: at}
  trades: {method: trades, consistency: 6.0}
  lbgat6: {method: lbgat, consistency: 6.0}
  dynat: {method: at, labels: dynamic}
  dynat-kl-inner: {method: at, labels: dynamic, inner: {objective: kl}, seeds: [0]}
attacks: {clean: {}, fgsm: {}, pgd-20: {}, autoattack: {pictures: 100}}
headline: autoattack
"""
ATTACK = {"kind": "pgd", "eps": 0.15, "norm": "linf", "weights": "best"}
CLEAN = {**ATTACK, "kind": "clean"}
HARDNESS = {"clean": 0.0, "fgsm": 0.2, "pgd": 0.32, "cw": 0.34, "autoattack": 0.38}
SKILL = {"natural": 0.99, "at": 0.86, "trades": 0.845, "lbgat6": 0.7, "dynat": 0.88, "dynat-kl-inner": 0.875}


def experiment(folder: Path, **over: Any) -> Experiment:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "small.yaml").write_text(yaml.safe_dump({**yaml.safe_load(PRESET), **over}, sort_keys=False))
    return load({"preset": "small"}, presets=folder)


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
        write_probes(results / run, plan, SKILL.get(run, 0.8), hopeless=settings.method == "natural")
    write_transfer(results, plan)
    return results


def write_probes(folder: Path, plan: Experiment, skill: float, *, hopeless: bool = False, pictures: int = 50) -> None:
    """What a sound network shows: less with a larger radius, a little less with more steps, nothing at last."""
    strength = {"eps": lambda a: a.eps / plan.threat.eps, "steps": lambda a: 1 - 0.5 / a.steps}
    strength |= {"restarts": lambda a: 1.02, "large": lambda a: 9.0, "square": lambda a: 0.9}
    attacks = plan.probe(folder.name).attacks
    rows = []
    for name, attack in attacks.items():
        share = skill * max(0.0, 1 - (2 if hopeless else 0.45) * strength[name.partition("-")[0]](attack))
        for seed in plan.seeds[folder.name]:
            rows += [
                (seed, name, i, i % 10, i % 10 if i < skill * pictures else (i + 1) % 10, int(i < share * pictures))
                for i in range(pictures)
            ]
    table = pd.DataFrame(rows, columns=["seed", "probe", "index", "label", "clean", "correct"])
    table.to_csv(folder / "probes.csv", index=False)
    account = {
        "attacks": {name: attack.model_dump(mode="json") for name, attack in attacks.items()},
        "gradients": {str(seed): {"zero": 0, "right": 40} for seed in plan.seeds[folder.name]},
    }
    (folder / "probes.json").write_text(json.dumps(account))


def write_transfer(results: Path, plan: Experiment) -> None:
    rows = [
        (source, target, i, i % 10, int(i < (8 if source == target else 14)))
        for source in plan.runs
        for target in plan.runs
        for i in range(20)
    ]
    pd.DataFrame(rows, columns=["source", "target", "index", "label", "correct"]).to_csv(results / "transfer.csv")
    (results / "transfer.json").write_text(json.dumps({"attack": plan.transfer().attack.model_dump(mode="json")}))


def _verdicts(seed: int, run: int, skill: float, pictures: int, classes: int) -> list[tuple[int, int, int, int]]:
    shared = np.random.default_rng(0).uniform(size=pictures)
    own = np.random.default_rng([seed, run]).normal(0, 0.04, size=pictures)
    return [(seed, i, i % classes, int(shared[i] + own[i] < skill - 0.02 * (i % 5))) for i in range(pictures)]


def write_outcome(folder: Path, name: str, rows: list[tuple[int, int, int, int]], *, attack: dict[str, Any]) -> None:
    """rows: seed, index, label, correct."""
    (folder / "outcomes").mkdir(parents=True, exist_ok=True)
    parts = names.attack_parts(attack["kind"])
    table = pd.DataFrame(rows, columns=["seed", "index", "label", "correct"])
    table = table.assign(clean=table.label, prediction=table.label + 1 - table.correct, margin=0.5, distance=0.1)
    table["fell_to"] = np.where(table.correct == 1, "", parts[0])
    order = ["seed", "index", "label", "clean", "prediction", "correct", "margin", "distance", "fell_to"]
    table[order].to_csv(folder / "outcomes" / f"{name}.csv", index=False)
    seeds = sorted({row[0] for row in rows})
    facts = {
        "run": folder.name,
        "attack_name": name,
        "attack": attack,
        "parts": list(parts),
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


def write_config(folder: Path, **over: Any) -> None:
    """The least that a seed's config.json and history.csv say."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "preset": "small",
        "name": folder.parent.name,
        "run": {"method": "at", "beta": None},
        "threat": {"norm": "linf", "eps": 0.15},
        "dataset": {"name": "digits", "classes": list("0123456789")},
        "digest": "0123456789abcdef",
        "best_epoch": 18,
        "training_seconds": 16.0,
        "parameters": {"target": 24_634, "guide": None},
        "versions": {"dynat": "0.1.0", "torch": "2.13.0", "python": "3.11.9"},
        "machine": "x86_64 CPU, 2 cores",
        **over,
    }
    (folder / "config.json").write_text(json.dumps(config))
    if not (folder / "history.csv").exists():
        (folder / "history.csv").write_text("epoch,loss,clean,pgd,seconds\n1,2.0,0.5,0.2,0.8\n")


def _train(folder: Path, plan: Experiment, run: str, seed: int, classes: int) -> None:
    folder.mkdir(parents=True)
    settings = plan.runs[run]
    epoch = np.arange(1, 21)
    noise = np.random.default_rng([seed, len(run)]).normal(0, 0.006, size=20)
    skill = SKILL.get(run, 0.8)
    history = pd.DataFrame({"epoch": epoch, "learning_rate": 0.1, "loss": 2 / epoch})
    if settings.guide:
        history["label_accuracy"] = 1 - np.exp(-epoch / (6 * skill + seed)) * 0.7 - 0.1 * (1 - skill)
    history["clean"] = skill * (1 - 0.8 * np.exp(-epoch / 3)) + noise
    history["pgd"] = (0 if settings.method == "natural" else skill - 0.3) * (1 - np.exp(-epoch / 5)) + np.abs(noise)
    history.loc[history.epoch % 2 == 1, ["clean", "pgd"]] = np.nan
    history["seconds"] = 0.8
    history.to_csv(folder / "history.csv", index=False)
    write_config(
        folder,
        **plan.training(run).model_dump(mode="json"),
        seed=seed,
        dataset={"name": plan.dataset.name, "classes": [f"class {c}" for c in range(classes)]},
        parameters={"target": 24_634, "guide": 24_634 if settings.guide else None},
    )


def _examples(file: Path, eps: float) -> None:
    rng = np.random.default_rng(3)
    clean = rng.uniform(size=(8, 1, 8, 8)).astype(np.float32)
    adversarial = np.clip(clean + rng.choice([-eps, eps], size=clean.shape), 0, 1).astype(np.float32)
    label = np.arange(8)
    seen = {"label": label, "clean_prediction": label, "prediction": label + (label % 2)}
    save_file({"clean": clean, "adversarial": adversarial, **seen}, file, {"classes": json.dumps(list("0123456789"))})


def verdicts(folder: Path, name: str, by_seed: dict[int, str], attack: dict[str, Any]) -> None:
    """Outcomes from strings of 1 and 0; the class of a picture is its index modulo 2."""
    rows = [(seed, i, i % 2, int(v)) for seed, text in by_seed.items() for i, v in enumerate(text)]
    write_outcome(folder, name, rows, attack=attack)


def read_json(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.read_text())
    return content
