"""Somebody's checkpoint becomes a row like any other: read, renamed, published where a training publishes."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable
from pathlib import Path

import torch

import dynat
from dynat import data, models
from dynat.config import TrainingSpec
from dynat.jobs.training import about, publish
from dynat.models.foreign import load_foreign
from dynat.places import Places
from dynat.training import Trained
from dynat.training.networks import weights_of


def run_adoption(spec: TrainingSpec, *, places: Places, say: Callable[[str], None] = print) -> Path:
    """Publish the checkpoint that `spec` names under results/<preset>/<name>/seed0."""
    assert spec.run.checkpoint is not None, "the config refuses an external run without a checkpoint"
    pictures = data.load(places.pictures(spec.data))
    model = models.build(spec.run.target, classes=len(pictures.classes), channels=pictures.channels)
    file = Path(spec.run.checkpoint)
    dropped = load_foreign(model, file)
    if dropped:
        say(f"{spec.name}: left out {len(dropped)} weights that no forward reads ({dropped[0]}, ...)")
    weights = weights_of(model)
    config = {
        "preset": spec.preset,
        "name": spec.name,
        "threat": spec.threat.model_dump(mode="json"),
        "run": {"method": "external", "target": spec.run.target, "checkpoint": spec.run.checkpoint},
        "seed": 0,
        "digest": hashlib.sha256(file.read_bytes()).hexdigest()[:16],
        "dataset": about(pictures),
        "best_epoch": None,
        "training_seconds": 0.0,
        "parameters": {"target": models.count_parameters(model), "guide": None},
        "versions": {"dynat": dynat.__version__, "torch": torch.__version__, "python": platform.python_version()},
        "machine": "trained elsewhere",
    }
    folder = places.seed(spec.preset, spec.name, 0)
    publish(folder, Trained(best_epoch=0, target=weights, guide=None, target_last=weights, history=[]), config)
    say(f"{spec.name}: {file} adopted as {spec.run.target}, in {folder}")
    return folder
