"""Somebody's checkpoint becomes a row like any other: read, renamed, published where a training publishes."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import dynat
from dynat import data, models
from dynat.config import TrainingSpec
from dynat.config.options import External
from dynat.jobs.training import about, publish
from dynat.models.foreign import Adopted, load_foreign
from dynat.places import Places
from dynat.training import Trained
from dynat.training.networks import weights_of


def run_adoption(spec: TrainingSpec, *, places: Places, say: Callable[[str], None] = print) -> Path:
    """Publish the checkpoint that `spec` names under results/<preset>/<name>/seed0."""
    assert spec.run.checkpoint is not None, "the config refuses an external run without a checkpoint"
    pictures = data.load(places.pictures(spec.data))
    model = models.build(spec.run.target, classes=len(pictures.classes), channels=pictures.channels)
    file = Path(spec.run.checkpoint)
    stated = External.model_validate(spec.run.options)
    adopted = load_foreign(model, file, channels=pictures.channels, standard=stated)
    if adopted.dropped:
        say(f"{spec.name}: left out {len(adopted.dropped)} weights that no forward reads ({adopted.dropped[0]}, ...)")
    if adopted.standard.mean:
        source = "the file carries" if adopted.carried else "was stated"
        say(f"{spec.name}: pixels are standardised first, as {source}: {adopted.standard}")
    weights = weights_of(adopted.network)
    folder = places.seed(spec.preset, spec.name, 0)
    published = Trained(best_epoch=0, target=weights, guide=None, target_last=weights, history=[])
    publish(folder, published, _config(spec, pictures, adopted, digest_of(file)))
    say(f"{spec.name}: {file} adopted as {spec.run.target}, in {folder}")
    return folder


def digest_of(file: Path) -> str:
    """Which checkpoint it is, whatever it is called."""
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16]


def _config(spec: TrainingSpec, pictures: data.Dataset, adopted: Adopted, digest: str) -> dict[str, Any]:
    return {
        "preset": spec.preset,
        "name": spec.name,
        "threat": spec.threat.model_dump(mode="json"),
        "run": {
            "method": "external",
            "target": spec.run.target,
            "checkpoint": spec.run.checkpoint,
            "options": adopted.standard.model_dump(mode="json"),
        },
        "seed": 0,
        "digest": digest,
        "dataset": about(pictures),
        "best_epoch": None,
        "training_seconds": 0.0,
        "parameters": {"target": models.count_parameters(adopted.network), "guide": None},
        "versions": {"dynat": dynat.__version__, "torch": torch.__version__, "python": platform.python_version()},
        "machine": "trained elsewhere",
    }
