"""One training as files: pictures in; weights, resolved config and history out, each written whole."""

from __future__ import annotations

import csv
import io
import json
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

import dynat
from dynat import data, provenance
from dynat.config import TrainingSpec, digest
from dynat.files import atomic_text, atomic_write
from dynat.jobs.ranks import joined, world
from dynat.jobs.terminal import choose_device, track
from dynat.places import Places
from dynat.training import Trained, TrainingState, train
from dynat.training.precision import arithmetic
from dynat.training.world import World


def run_training(
    spec: TrainingSpec,
    *,
    seed: int,
    places: Places,
    device: str = "auto",
    say: Callable[[str], None] = print,
) -> Path:
    """Train what `spec` says and publish it; a training that was interrupted goes on."""
    torch.backends.cudnn.benchmark = True  # a training's batches are of one shape
    torch.backends.cudnn.allow_tf32 = spec.run.precision != "float32"  # which torch allows convolutions by default
    with joined(world(), choose_device(device)) as chosen:
        return _train(spec, seed, places, chosen, world(), say)


def _train(
    spec: TrainingSpec, seed: int, places: Places, chosen: torch.device, world: World, say: Callable[[str], None]
) -> Path:
    say = say if world.leads else _silent
    pictures = data.load(places.pictures(spec.data))
    code = provenance.code_digest(provenance.training_sources(spec.run.method))
    low = str(arithmetic(spec.run.precision, chosen))
    name = digest(spec, seed, pictures.digest, code, chosen.type, low, torch.__version__)
    state = TrainingState(places.state / name)
    folder = places.seed(spec.preset, spec.name, seed)
    say(f"{spec.name} seed {seed}: {len(pictures.train)} pictures, {spec.run.epochs} epochs on {chosen}")
    if state.file.exists():
        say(f"going on from {state.folder}")
    trained = train(
        spec.run,
        spec.threat,
        pictures,
        seed=seed,
        device=chosen,
        state=state,
        world=world,
        report=lambda row: say(line(row, spec.run.epochs)),
        track=track if world.leads else lambda steps, total, title: steps,
    )
    if not world.leads:
        return folder
    publish(folder, trained, _config(spec, seed, pictures, trained, name, chosen))
    state.discard()
    say(f"best epoch {trained.best_epoch} of {spec.run.epochs}; written to {folder}")
    return folder


def _silent(_: str) -> None:
    """For the processes that do not lead."""


def publish(folder: Path, trained: Trained, config: dict[str, Any]) -> None:
    weights = {"target": trained.target, "target-last": trained.target_last, "guide": trained.guide}
    # One note, because safetensors writes several in random order: equal trainings, equal files.
    notes = {"training": f"{config['name']} seed {config['seed']}, digest {config['digest']}"}
    for name, tensors in weights.items():
        file = folder / f"{name}.safetensors"
        if tensors is None:
            file.unlink(missing_ok=True)  # of a training that had a guide, under the same name
        else:
            content = save({key: value.cpu() for key, value in tensors.items()}, notes)
            atomic_write(file, lambda path, content=content: path.write_bytes(content))  # type: ignore[misc]
    atomic_text(folder / "history.csv", _csv(trained.history))
    atomic_text(folder / "config.json", json.dumps(config, indent=2) + "\n")


def line(row: dict[str, float], epochs: int) -> str:
    """An epoch as a person reads it in a log."""
    said = [f"epoch {row['epoch']:.0f}/{epochs}", f"loss {row['loss']:.3f}", f"lr {row['learning_rate']:g}"]
    for name, title in (("label_accuracy", "labels"), ("clean", "clean"), ("pgd", "PGD")):
        if name in row:
            said.append(f"{title} {100 * row[name]:.1f} %")
    return "  ".join([*said, f"{row['seconds']:.1f} s"])


def _config(
    spec: TrainingSpec, seed: int, pictures: data.Dataset, trained: Trained, name: str, device: torch.device
) -> dict[str, Any]:
    return {
        **spec.model_dump(mode="json"),
        "seed": seed,
        "digest": name,
        "dataset": about(pictures),
        "best_epoch": trained.best_epoch,
        "training_seconds": sum(row["seconds"] for row in trained.history),
        "parameters": {
            "target": _size(trained.target),
            "guide": None if trained.guide is None else _size(trained.guide),
        },
        "versions": {
            "dynat": dynat.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "machine": machine(device),
        "arithmetic": str(arithmetic(spec.run.precision, device)).removeprefix("torch."),
    }


def about(pictures: data.Dataset) -> dict[str, Any]:
    """The data set as a result's config describes it."""
    return {
        "name": pictures.name,
        "digest": pictures.digest,
        "classes": list(pictures.classes),
        "channels": pictures.channels,
        "size": pictures.size,
        "train": len(pictures.train),
        "validation": len(pictures.validation),
        "test": len(pictures.test),
    }


def machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    used = torch.get_num_threads()
    return f"{platform.machine()} CPU, {os.cpu_count()} cores, {used} {'thread' if used == 1 else 'threads'} used"


def _size(weights: dict[str, torch.Tensor]) -> int:
    """Trained numbers; BatchNorm's running statistics are not trained."""
    return sum(w.numel() for name, w in weights.items() if "running_" not in name and "num_batches" not in name)


def _csv(rows: list[dict[str, float]]) -> str:
    columns: dict[str, None] = {}
    for row in rows:
        columns |= dict.fromkeys(row)
    ordered = [*(name for name in columns if name != "seconds"), "seconds"]
    out = io.StringIO()
    writer = csv.DictWriter(out, ordered, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()
