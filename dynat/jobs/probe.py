"""The small examinations of a run as files: verdicts under many attacks, from which gates and curves are read."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dynat.attacks import Examination
from dynat.attacks.gradients import without_gradient
from dynat.config import ProbeSpec, TransferSpec, digest
from dynat.files import atomic_text
from dynat.jobs.exam import Examiner
from dynat.jobs.training import machine
from dynat.places import Places


def run_probe(spec: ProbeSpec, *, places: Places, device: str = "auto", say: Callable[[str], None] = print) -> Path:
    """Examine a run's networks by every attack of `spec`; a row per seed, attack and picture."""
    examiner = Examiner.of(spec.preset, spec.data, places, device)
    seeds: dict[int, dict[str, Examination]] = {}
    made: list[Examination] = []
    gradients: dict[int, dict[str, int]] = {}
    for seed in spec.seeds:
        model, weights = examiner.network(spec.name, seed)
        done: dict[str, Examination] = {}  # by the attack's digest: two names may ask the same
        with tqdm(total=len(spec.attacks), desc=f"{spec.name} probes seed {seed}", disable=None) as bar:
            seeds[seed] = {}
            for name, attack in spec.attacks.items():
                if digest(attack) not in done:
                    done[digest(attack)], _ = examiner.examine(model, weights, attack, progress=lambda _: None)
                seeds[seed][name] = done[digest(attack)]
                bar.update(1)
        made += done.values()
        least = min(attack.pictures or len(examiner.pictures) for attack in spec.attacks.values())
        zero, right = without_gradient(model, examiner.pictures.first(least))
        gradients[seed] = {"zero": zero, "right": right}
        say(f"{spec.name} seed {seed}: {len(done)} probes, {sum(exam.seconds for exam in done.values()):.1f} s")
    file = places.probes(spec.preset, spec.name)
    account = {
        "run": spec.name,
        "seeds": list(spec.seeds),
        "attacks": {name: attack.model_dump(mode="json") for name, attack in spec.attacks.items()},
        "gradients": {str(seed): counts for seed, counts in gradients.items()},
        "seconds": sum(exam.seconds for exam in made),
        "refuted_claims": sum(exam.refuted_claims for exam in made),
        "device": machine(examiner.device),
    }
    atomic_text(file.with_suffix(".json"), json.dumps(account, indent=2) + "\n")
    atomic_text(file, _rows(seeds))
    return file


def run_transfer(
    spec: TransferSpec, *, places: Places, device: str = "auto", say: Callable[[str], None] = print
) -> Path:
    """Show the adversarial pictures of every run to every run; a row per source, target and picture."""
    from dynat.attacks.transfer import transferred

    examiner = Examiner.of(spec.preset, spec.data, places, device)
    pictures = examiner.pictures.first(spec.attack.pictures or len(examiner.pictures))
    models = {run: examiner.network(run, seed)[0] for run, seed in spec.runs.items()}
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["source", "target", "index", "label", "correct"])
    labels = pictures.labels.tolist()
    for source in tqdm(models, desc="transfer", disable=None):
        for target, right in transferred(models[source], models, pictures, spec.attack).items():
            rows = zip(labels, right.int().tolist(), strict=True)
            writer.writerows([source, target, index, *row] for index, row in enumerate(rows))
    file = places.transfer(spec.preset)
    account = {"runs": spec.runs, "attack": spec.attack.model_dump(mode="json"), "device": machine(examiner.device)}
    atomic_text(file.with_suffix(".json"), json.dumps(account, indent=2) + "\n")
    atomic_text(file, out.getvalue())
    say(f"{len(models)} runs shown {len(models)} times {len(pictures)} pictures")
    return file


def _rows(seeds: dict[int, dict[str, Examination]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["seed", "probe", "index", "label", "clean", "correct"])
    for seed, exams in seeds.items():
        for name, exam in exams.items():
            columns: list[list[Any]] = [exam.columns[key].int().tolist() for key in ("label", "clean", "correct")]
            rows = zip(*columns, strict=True)
            writer.writerows([seed, name, index, *row] for index, row in enumerate(rows))
    return out.getvalue()
