"""One examination as files: a run's checkpoints of all seeds in; a row per seed and picture out."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from tqdm import tqdm

from dynat import data, models, provenance
from dynat.attacks import Examination, examine
from dynat.config import ExamSpec, digest
from dynat.files import atomic_text, atomic_write
from dynat.jobs.terminal import choose_device
from dynat.jobs.training import machine
from dynat.models.state import load_weights
from dynat.places import Places

COLUMNS = ("label", "clean", "prediction", "correct", "margin", "distance")


def run_exam(spec: ExamSpec, *, places: Places, device: str = "auto", say: Callable[[str], None] = print) -> Path:
    """Attack a run's networks as `spec` says and write what became of every picture."""
    chosen = choose_device(device)
    torch.backends.cudnn.allow_tf32 = False  # float32 is what is claimed, so float32 is what is computed
    pictures = data.load(places.pictures(spec.data))
    code = provenance.code_digest(provenance.exam_sources())
    seeds: dict[int, Examination] = {}
    digests: dict[int, str] = {}
    for seed in spec.seeds:
        model, weights = load_target(places.seed(spec.preset, spec.name, seed), spec.attack.weights)
        digests[seed] = digest(spec.attack, weights, pictures.digest, code, chosen.type, _versions())
        total = spec.attack.pictures or len(pictures.test)
        with tqdm(total=total, desc=f"{spec.name} {spec.attack_name} seed {seed}", disable=None) as bar:
            seeds[seed] = examine(
                model.to(chosen),
                pictures.test.to(chosen),
                spec.attack,
                state=places.state / "exams" / digests[seed],
                progress=lambda count: _advance(bar, count),
            )
        correct = seeds[seed].columns["correct"].float()
        say(
            f"{spec.name} seed {seed} under {spec.attack_name}: {100 * correct.mean():.1f} % of "
            f"{len(correct)} pictures stand, {seeds[seed].seconds:.1f} s"
        )
    file = places.outcomes(spec.preset, spec.name, spec.attack_name)
    atomic_write(
        file.with_suffix(".examples.safetensors"),
        lambda path: save_file(seeds[spec.seeds[0]].examples, path, {"classes": json.dumps(list(pictures.classes))}),
    )
    atomic_text(file.with_suffix(".json"), json.dumps(_account(spec, seeds, digests, chosen), indent=2) + "\n")
    atomic_text(file, _rows(seeds))
    return file


def _versions() -> dict[str, str]:
    """What else decides a verdict: kept batches of another version are not gone on from."""
    return {package: _version(package) for package in ("torch", "pyautoattack")}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # a machine that only trains has no AutoAttack
        return "absent"


def load_target(folder: Path, which: str) -> tuple[nn.Module, str]:
    """A published network, float32 and unwrapped, and its digest: the same weights can be of two networks."""
    file = folder / ("target.safetensors" if which == "best" else "target-last.safetensors")
    for needed in (folder / "config.json", file):
        if not needed.exists():
            raise ValueError(f"{needed}: no such file; make it with: snakemake --cores all {file}, or dynat train")
    config = json.loads((folder / "config.json").read_text())
    model = models.published(config)
    load_weights(model, file)
    return model, hashlib.sha256(config["run"]["target"].encode() + b"\0" + file.read_bytes()).hexdigest()


def _advance(bar: tqdm[Any], count: int) -> None:
    bar.update(count)


def _rows(seeds: dict[int, Examination]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["seed", "index", *COLUMNS])
    for seed, exam in seeds.items():
        columns = [exam.columns[name].to(torch.float64).tolist() for name in COLUMNS]
        for index, row in enumerate(zip(*columns, strict=True)):
            label, clean, prediction, correct, margin, distance = row
            whole = (int(label), int(clean), int(prediction), int(correct))
            writer.writerow([seed, index, *whole, f"{margin:.6g}", f"{distance:.8g}"])
    return out.getvalue()


def _account(
    spec: ExamSpec, seeds: dict[int, Examination], digests: dict[int, str], device: torch.device
) -> dict[str, Any]:
    """What the examination cost and what it noticed."""
    return {
        "run": spec.name,
        "attack_name": spec.attack_name,
        "attack": spec.attack.model_dump(mode="json"),
        "seeds": list(seeds),
        "seconds": {str(seed): exam.seconds for seed, exam in seeds.items()},
        "forward_passes": sum(exam.forward_passes for exam in seeds.values()),
        "backward_passes": sum(exam.backward_passes for exam in seeds.values()),
        "refuted_claims": sum(exam.refuted_claims for exam in seeds.values()),
        "flags": sorted({flag for exam in seeds.values() for flag in exam.flags}),
        "device": machine(device),
        "digest": {str(seed): value for seed, value in digests.items()},
    }
