"""Result files of a made-up experiment, as training and evaluation write them, to test metrics and report on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from dynat.config import AttackConfig, Checkpoint, Experiment, Run, ThreatModel, load, registry
from dynat.results.csv_files import TableContent
from dynat.results.history import write_history
from dynat.results.outcomes import Examples, Verdicts, write_examples
from dynat.results.outcomes import write_outcome as write_outcome_files
from dynat.results.paths import ExperimentFiles, RunFiles, SeedFiles
from dynat.results.records import (
    DatasetInfo,
    GradientCount,
    OutcomeRecord,
    ParameterCounts,
    SanityRecord,
    TrainingRecord,
    TransferRecord,
    write_record,
)
from dynat.results.sanity import SanityVerdicts
from dynat.results.sanity import write_sanity as write_sanity_files
from dynat.results.transfer import write_transfer as write_transfer_files

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
attacks: {clean: {}, fgsm: {}, pgd-20: {}, autoattack: {images: 100}}
headline: autoattack
"""
ATTACK = AttackConfig(kind="pgd", eps=0.15, norm="linf")
CLEAN = AttackConfig(kind="clean", eps=0.15, norm="linf")
AUTOATTACK = AttackConfig(kind="autoattack", eps=0.15, norm="linf")
HARDNESS = {"clean": 0.0, "fgsm": 0.2, "pgd": 0.32, "cw": 0.34, "autoattack": 0.38}
SKILL = {"natural": 0.99, "at": 0.86, "trades": 0.845, "lbgat6": 0.7, "dynat": 0.88, "dynat-kl-inner": 0.875}
DEVICE = "Intel(R) Xeon(R) Processor (AVX512, AMX), 2 cores, 1 thread used"
HISTORY = [{"epoch": 1, "loss": 2.0, "clean": 0.5, "pgd": 0.2, "seconds": 0.8}]


def experiment(folder: Path, **over: Any) -> Experiment:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "small.yaml").write_text(yaml.safe_dump({**yaml.safe_load(PRESET), **over}, sort_keys=False))
    return load({"preset": "small"}, presets=folder)


def write_fake_results(
    files: ExperimentFiles, plan: Experiment, *, images: int = 200, classes: int = 10
) -> ExperimentFiles:
    """Files as training and evaluation write them, from the skill of a run and the hardness of an attack."""
    for number, (name, row) in enumerate(plan.rows.items()):
        run, skill = files.run(name), SKILL.get(name, 0.8)
        natural = isinstance(row, Run) and row.method == "natural"
        for seed in plan.seeds[name]:
            _write_training(run.seed(seed), plan, name, seed, classes)
        for attack_name, attack in plan.attacks.items():
            count = min(attack.images or images, images)
            hardness = HARDNESS[attack.kind] * (3 if natural else 1)
            rows = [
                verdict
                for seed in plan.seeds[name]
                for verdict in _verdicts(seed, number, skill - hardness, images, classes)[:count]
            ]
            write_outcome(run, attack_name, rows, attack=attack)
            _write_examples(run.examples(attack_name), attack.eps or 0.1, changed=attack.kind != "clean")
        write_sanity(run, plan, skill, hopeless=natural)
    write_transfer(files, plan)
    return files


def write_sanity(run: RunFiles, plan: Experiment, skill: float, *, hopeless: bool = False, images: int = 50) -> None:
    """What a sound evaluation shows: lower with a larger radius, a little lower with more steps, zero in the end."""
    strength = {"eps": lambda a: a.eps / plan.threat.eps, "steps": lambda a: 1 - 0.5 / a.steps}
    strength |= {"restarts": lambda a: 1.02, "large_eps": lambda a: 9.0, "square": lambda a: 0.9}
    name = run.folder.name
    attacks, seeds = plan.sanity_checks(name).attacks, plan.seeds[name]
    verdicts = {}
    for attack_name, attack in attacks.items():
        share = skill * max(0.0, 1 - (2 if hopeless else 0.45) * strength[attack_name.partition("-")[0]](attack))
        for seed in seeds:
            verdicts[seed, attack_name] = SanityVerdicts(
                label=[i % 10 for i in range(images)],
                clean_prediction=[i % 10 if i < skill * images else (i + 1) % 10 for i in range(images)],
                correct=[int(i < share * images) for i in range(images)],
            )
    record = SanityRecord(
        run=name,
        seeds=seeds,
        attacks=attacks,
        gradients={seed: GradientCount(zero=0, correct=40) for seed in seeds},
        seconds=1.0,
        rejected_examples=0,
        device=DEVICE,
    )
    write_sanity_files(run, record, verdicts)


def write_transfer(files: ExperimentFiles, plan: Experiment) -> None:
    spec = plan.transfer()
    correct = {
        (source, target): [int(i < (8 if source == target else 14)) for i in range(20)]
        for source in plan.rows
        for target in plan.rows
    }
    record = TransferRecord(runs=spec.runs, attack=spec.attack, device=DEVICE)
    write_transfer_files(files, record, [i % 10 for i in range(20)], correct)


def _verdicts(seed: int, run: int, skill: float, images: int, classes: int) -> list[tuple[int, int, int, int]]:
    shared = np.random.default_rng(0).uniform(size=images)
    own = np.random.default_rng([seed, run]).normal(0, 0.04, size=images)
    return [(seed, i, i % classes, int(shared[i] + own[i] < skill - 0.02 * (i % 5))) for i in range(images)]


def write_outcome(
    run: RunFiles, name: str, rows: list[tuple[int, int, int, int]], *, attack: AttackConfig, **over: Any
) -> None:
    """The outcome of an attack from rows of seed, index, label, correct; `over` changes its record."""
    parts = registry.attack_parts(attack.kind)
    seeds = sorted({row[0] for row in rows})
    record = OutcomeRecord(
        run=run.folder.name,
        attack_name=name,
        attack=attack,
        parts=parts,
        seeds=tuple(seeds),
        seconds={seed: 1.25 + seed for seed in seeds},
        forward_passes=21 * len(rows),
        backward_passes=20 * len(rows),
        rejected_examples=0,
        reattacked=0,
        queried_model=dict.fromkeys(seeds, "float32 surrogate"),
        warnings=(),
        device=DEVICE,
        digest=dict.fromkeys(seeds, "0123456789abcdef"),
    )
    verdicts = {}
    for seed in seeds:
        label = [row[2] for row in rows if row[0] == seed]
        correct = [row[3] for row in rows if row[0] == seed]
        verdicts[seed] = Verdicts(
            label=label,
            clean_prediction=label,
            prediction=[one + 1 - right for one, right in zip(label, correct, strict=True)],
            correct=correct,
            margin=[0.5] * len(label),
            distance=[0.1] * len(label),
            broken_by=["" if right else parts[0] for right in correct],
        )
    write_outcome_files(run, record.model_copy(update=over), verdicts)


def verdicts(run: RunFiles, name: str, by_seed: dict[int, str], attack: AttackConfig, **over: Any) -> None:
    """An outcome from strings of 1 and 0 by seed; the class of an image is its index modulo 2."""
    rows = [(seed, i, i % 2, int(v)) for seed, text in by_seed.items() for i, v in enumerate(text)]
    write_outcome(run, name, rows, attack=attack, **over)


def training_record(name: str = "at", seed: int = 0, **over: Any) -> TrainingRecord:
    """The config.json of a seed."""
    fields: dict[str, Any] = {
        "preset": "small",
        "name": name,
        "data": "digits",
        "threat": ThreatModel(eps=0.15),
        "config": Run(method="at", target="small"),
        "seed": seed,
        "digest": "0123456789abcdef",
        "dataset": dataset(list("0123456789")),
        "best_epoch": 18,
        "training_seconds": 16.0,
        "parameters": ParameterCounts(target=24_634),
        "versions": {"dynat": "0.1.0", "torch": "2.13.0", "python": "3.11.9"},
        "machine": DEVICE,
        "compute_dtype": "float32",
    }
    return TrainingRecord.model_validate({**fields, **over})


def dataset(classes: list[str], name: str = "digits") -> DatasetInfo:
    digest = "d" * 64
    return DatasetInfo(
        name=name,
        digest=digest,
        classes=tuple(classes),
        channels=1,
        size=(8, 8),
        train=1000,
        validation=100,
        test=200,
    )


def write_training(files: SeedFiles, **over: Any) -> None:
    """config.json and history.csv of a seed of the run whose folder this is."""
    seed = int(files.folder.name.removeprefix("seed"))
    if files.history.exists():
        over = {"table": TableContent.of(files.history.read_bytes()), **over}
    else:
        over = {"table": write_history(files.history, HISTORY), **over}
    write_record(files.config, training_record(files.folder.parent.name, seed, **over))


def _write_training(files: SeedFiles, plan: Experiment, name: str, seed: int, classes: int) -> None:
    row = plan.rows[name]
    names = [f"class {c}" for c in range(classes)]
    guide = row.guide if isinstance(row, Run) else None
    counts = ParameterCounts(target=24_634, guide=24_634 if guide else None)
    checkpoint = {"best_epoch": None, "training_seconds": 0.0, "compute_dtype": None}
    over = checkpoint if isinstance(row, Checkpoint) else {}
    write_history(files.history, _history(row, name, seed) if isinstance(row, Run) else [])
    write_training(
        files, threat=plan.threat, config=row, dataset=dataset(names, plan.dataset.name), parameters=counts, **over
    )


def _history(run: Run, name: str, seed: int) -> list[dict[str, float]]:
    noise = np.random.default_rng([seed, len(name)]).normal(0, 0.006, size=20)
    skill = SKILL.get(name, 0.8)
    rows = []
    for epoch in range(1, 21):
        row: dict[str, float] = {"epoch": epoch, "learning_rate": 0.1, "loss": 2 / epoch}
        if run.guide:
            row["label_accuracy"] = float(1 - np.exp(-epoch / (6 * skill + seed)) * 0.7 - 0.1 * (1 - skill))
        if epoch % 2 == 0:
            robust = 0 if run.method == "natural" else skill - 0.3
            row["clean"] = float(skill * (1 - 0.8 * np.exp(-epoch / 3)) + noise[epoch - 1])
            row["pgd"] = float(robust * (1 - np.exp(-epoch / 5)) + abs(noise[epoch - 1]))
        rows.append({**row, "seconds": 0.8})
    return rows


def _write_examples(file: Path, eps: float, *, changed: bool) -> None:
    rng = np.random.default_rng(3)
    clean = rng.uniform(size=(8, 1, 8, 8)).astype(np.float32)
    adversarial = np.clip(clean + rng.choice([-eps, eps], size=clean.shape), 0, 1).astype(np.float32)
    label = np.arange(8)
    prediction = label + (label % 2) if changed else label
    examples = Examples(
        clean=clean,
        adversarial=adversarial if changed else clean,
        label=label,
        clean_prediction=label,
        prediction=prediction,
    )
    write_examples(file, examples, list("0123456789"))
