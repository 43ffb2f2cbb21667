"""The weights that a training starts from instead of random ones: of another run with the same seed, or of a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import safetensors.torch

from dynat import models
from dynat.checkpoints.start import start_from_file
from dynat.checkpoints.weights import fill
from dynat.config import Run, WeightSource
from dynat.data import Dataset
from dynat.results.paths import Paths
from dynat.results.records import TrainingRecord, read_record
from dynat.results.weights import file_sha256, read_checked
from dynat.runtime.errors import UserError
from dynat.training.networks import Weights, weights_of


@dataclass(frozen=True)
class InitialWeights:
    """The first weights of one network of a training."""

    weights: Weights
    sha256: str
    """Of the file that they come from."""
    file: Path
    fresh: tuple[str, ...] = ()
    """Weights of the classifier that the file does not have for these classes; they stay random."""


def read_initial_weights(run: Run, preset: str, seed: int, paths: Paths, images: Dataset) -> dict[str, InitialWeights]:
    """By the network that starts from them, `target` or `guide`; `UserError` if they do not fit it."""
    sources = {} if run.init is None else run.init.sources
    found: dict[str, InitialWeights] = {}
    for role, source in sources.items():
        name = getattr(run, role)
        if source.file is None:
            found[role] = _of_run(name, source, preset, seed, paths, images)
        else:
            found[role] = _of_file(name, Path(source.file).expanduser(), role, images)
    return found


def _of_run(name: str, source: WeightSource, preset: str, seed: int, paths: Paths, images: Dataset) -> InitialWeights:
    assert source.run is not None
    files = paths.seed_files(preset, source.run, seed)
    file = files.weights(source.network, source.weights)
    content = read_checked(files, read_record(files.config, TrainingRecord), file)
    network = models.build(name, classes=len(images.classes), channels=images.channels, size=images.size)
    fill(network, safetensors.torch.load(content), file)
    return InitialWeights(weights_of(network), file_sha256(content), file)


def _of_file(name: str, file: Path, role: str, images: Dataset) -> InitialWeights:
    shape = {"classes": len(images.classes), "channels": images.channels}
    network = models.build(name, **shape, size=images.size)
    try:
        start = start_from_file(network, file, name=name, **shape, size=images.size)
    except UserError as error:
        raise UserError(f"init.{role}.file: {error}") from None
    prefix = "model." if models.normalization(name, **shape).mean else ""
    fresh = tuple(f"{prefix}{key}" for key in start.fresh)
    weights = {key: value for key, value in weights_of(network).items() if key not in fresh}
    return InitialWeights(weights, file_sha256(file.read_bytes()), file, fresh)
