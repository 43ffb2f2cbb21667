"""One examination as files: a run's checkpoints of all seeds in; a row per seed and picture out."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from tqdm import tqdm

from dynat import data, models, provenance
from dynat.attacks import Examination, examine
from dynat.attacks.examine import STANDS, WRONG_BEFORE
from dynat.config import Attack, ExamSpec, digest, names
from dynat.data import Pictures
from dynat.files import atomic_text, atomic_write
from dynat.jobs.terminal import choose_device
from dynat.jobs.training import machine
from dynat.models.state import load_weights
from dynat.places import Places

COLUMNS = ("label", "clean", "prediction", "correct", "margin", "distance", "fell_to")


@dataclass(frozen=True)
class Examiner:
    """Who examines the networks of a preset: a machine, the pictures, and where finished batches are kept."""

    places: Places
    preset: str
    device: torch.device
    pictures: Pictures
    classes: tuple[str, ...]
    picture_digest: str
    code: str

    @classmethod
    def of(cls, preset: str, dataset: str, places: Places, device: str) -> Examiner:
        torch.backends.cudnn.allow_tf32 = False  # float32 is what is claimed, so float32 is what is computed
        torch.backends.cudnn.benchmark = False  # an attack's batches shrink, and each size would be tried out anew
        chosen = choose_device(device)
        all_ = data.load(places.pictures(dataset))
        code = provenance.code_digest(provenance.exam_sources())
        return cls(places, preset, chosen, all_.test.to(chosen), all_.classes, all_.digest, code)

    def network(self, run: str, seed: int, which: str = "best") -> tuple[nn.Module, str]:
        """A run's network and the digest of its file."""
        model, weights = load_target(self.places.seed(self.preset, run, seed), which)
        return model.to(self.device), weights

    def examine(
        self, model: nn.Module, weights: str, attack: Attack, progress: Callable[[int], None]
    ) -> tuple[Examination, str]:
        """The examination of a network and its digest; goes on from the batches that are kept under that."""
        about = {
            "attack": attack.model_dump(mode="json"),
            "weights": weights,
            "pictures": self.picture_digest,
            "code": self.code,
            "device": self.device.type,
            **_versions(),
        }
        name = digest(about)
        kept = self.places.state / "exams" / name
        _refuse_foreign(kept, about)
        return examine(model, self.pictures, attack, state=kept, progress=progress), name


def _refuse_foreign(kept: Path, about: dict[str, Any]) -> None:
    """A folder of finished batches says what they are about; one that was copied or renamed is not gone on from."""
    file = kept / "about.json"
    if not any(kept.glob("batch-*.pt")):
        atomic_text(file, json.dumps(about, indent=2) + "\n")
        return
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError):
        found = {}
    if wrong := [part for part, value in about.items() if found.get(part) != value]:
        raise ValueError(
            f"{kept}: holds verdicts of another examination: {', '.join(wrong)} differ from what is asked for; "
            f"remove that folder and call again"
        )


def run_exam(spec: ExamSpec, *, places: Places, device: str = "auto", say: Callable[[str], None] = print) -> Path:
    """Attack a run's networks as `spec` says and write what became of every picture."""
    examiner = Examiner.of(spec.preset, spec.data, places, device)
    seeds: dict[int, Examination] = {}
    digests: dict[int, str] = {}
    for seed in spec.seeds:
        model, weights = examiner.network(spec.name, seed, spec.attack.weights)
        total = spec.attack.pictures or len(examiner.pictures)
        with tqdm(total=total, desc=f"{spec.name} {spec.attack_name} seed {seed}", disable=None) as bar:
            seeds[seed], digests[seed] = examiner.examine(
                model, weights, spec.attack, progress=lambda count: _advance(bar, count)
            )
        correct = seeds[seed].columns["correct"].float()
        say(
            f"{spec.name} seed {seed} under {spec.attack_name}: {100 * correct.mean():.1f} % of "
            f"{len(correct)} pictures stand, {seeds[seed].seconds:.1f} s"
        )
    file = places.outcomes(spec.preset, spec.name, spec.attack_name)
    atomic_write(
        file.with_suffix(".examples.safetensors"),
        lambda path: save_file(seeds[spec.seeds[0]].examples, path, {"classes": json.dumps(list(examiner.classes))}),
    )
    account = _account(spec, seeds, digests, examiner.device)
    atomic_text(file.with_suffix(".json"), json.dumps(account, indent=2) + "\n")
    atomic_text(file, _rows(seeds, names.attack_parts(spec.attack.kind)))
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


def _rows(seeds: dict[int, Examination], parts: tuple[str, ...]) -> str:
    to_what = {STANDS: "", WRONG_BEFORE: "clean", **dict(enumerate(parts))}
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["seed", "index", *COLUMNS])
    for seed, exam in seeds.items():
        columns = [exam.columns[name].to(torch.float64).tolist() for name in COLUMNS]
        for index, row in enumerate(zip(*columns, strict=True)):
            *whole, margin, distance, fell_to = row
            writer.writerow([seed, index, *map(int, whole), f"{margin:.6g}", f"{distance:.8g}", to_what[int(fell_to)]])
    return out.getvalue()


def _account(
    spec: ExamSpec, seeds: dict[int, Examination], digests: dict[int, str], device: torch.device
) -> dict[str, Any]:
    """What the examination cost and what it noticed."""
    return {
        "run": spec.name,
        "attack_name": spec.attack_name,
        "attack": spec.attack.model_dump(mode="json"),
        "parts": list(names.attack_parts(spec.attack.kind)),
        "seeds": list(seeds),
        "seconds": {str(seed): exam.seconds for seed, exam in seeds.items()},
        "forward_passes": sum(exam.forward_passes for exam in seeds.values()),
        "backward_passes": sum(exam.backward_passes for exam in seeds.values()),
        "refuted_claims": sum(exam.refuted_claims for exam in seeds.values()),
        "attacked_again": sum(exam.attacked_again for exam in seeds.values()),
        "asked": {str(seed): exam.asked for seed, exam in seeds.items()},
        "flags": sorted({flag for exam in seeds.values() for flag in exam.flags}),
        "device": machine(device),
        "digest": {str(seed): value for seed, value in digests.items()},
    }
