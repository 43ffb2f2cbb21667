"""`train`: the training of the pipeline on tensors; and `load`, for its networks and third-party checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dynat import models, provenance, training
from dynat.api.inputs import Images, Labels, labeled
from dynat.config import Checkpoint, ThreatModel, digest
from dynat.config.preset_input import PresetInput
from dynat.config.resolve import checked, resolve_run
from dynat.data import Dataset, LabeledImages, split
from dynat.jobs.evaluation import load_target
from dynat.jobs.import_checkpoint import load_checkpoint
from dynat.jobs.initial_weights import read_initial_weights
from dynat.nn.mixed_precision import compute_dtype
from dynat.nn.numerics import restored_numerics, set_training_numerics
from dynat.results.paths import Paths, SeedFiles, SingleRunPaths
from dynat.runtime.device import choose_device
from dynat.runtime.errors import UserError
from dynat.runtime.progress import Progress
from dynat.training.trainer import Row


class TrainedNetworks(NamedTuple):
    """What `train` returns; the networks are functions of pixels in [0,1], in evaluation mode."""

    target: nn.Module
    """Of the epoch that validation chose."""
    guide: nn.Module | None
    history: list[Row]
    """The columns of history.csv, a row per epoch."""


def train(
    recipe: Mapping[str, Any],
    images: Images,
    labels: Labels,
    *,
    eps: float | str,
    norm: str = "linf",
    validation: float = 0.1,
    seed: int = 0,
    device: str = "auto",
    state: str | PathLike[str] | None = None,
    progress: bool = True,
) -> TrainedNetworks:
    """Train a network, or a guide and a target together, as the pipeline does.

    `recipe` has the keys of a run in a preset: `{"method": "at", "labels": "dynamic", "target": "resnet18", "guide":
    "wrn34-10", "epochs": 100}`. A share `validation` of each class is held out to choose the epoch. The training is
    saved in the folder `state` after every epoch, and resumes from there.
    """
    threat = checked(ThreatModel, {"eps": eps, "norm": norm})
    run = resolve_run("recipe", dict(recipe), PresetInput(), threat)
    if run.gpus > 1:
        raise UserError("gpus: this function trains on one device; `dynat train` can use several")
    if run.init is not None and any(source.run for source in run.init.sources.values()):
        raise UserError("init: this function knows no other runs: give {file: PATH}, or set no init")
    dataset = _dataset(labeled(images, labels), validation)
    init = read_initial_weights(run, "", seed, Paths(), dataset)
    chosen, kept = choose_device(device), None
    if state is not None:
        sums = [start.sha256 for start in init.values()]
        code = provenance.code_digest(provenance.training_sources(run.method, run.target, run.guide))
        packages = models.package_versions(run.target, run.guide)
        computed = (chosen.type, str(compute_dtype(run.precision, chosen)), torch.__version__, *packages.values())
        parts = (run, threat, dataset.digest, seed, code, *computed, *sums)
        kept = training.TrainingState(Path(state) / digest(*parts))
    with restored_numerics(), Progress("training", run.epochs, hidden=not progress) as shown:
        set_training_numerics(run.precision)
        trained = training.train(
            run,
            threat,
            dataset,
            seed=seed,
            device=chosen,
            init={network: start.weights for network, start in init.items()},
            state=kept,
            progress=shown,
        )
    target = _network(run.target, trained.target, dataset)
    guide = None
    if run.guide is not None and trained.guide is not None:
        guide = _network(run.guide, trained.guide, dataset)
    return TrainedNetworks(target, guide, trained.history)


def load(
    path: str | PathLike[str],
    *,
    arch: str | None = None,
    classes: int | None = None,
    channels: int = 3,
    size: tuple[int, int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    weights: str = "best",
) -> nn.Module:
    """A network as a function of pixels in [0,1], in evaluation mode on the CPU.

    `path` is the folder of a trained seed (`results/digits/dynat/seed0`), of which `weights` are those of the `best` or
    the `last` epoch, or that of `dynat evaluate`; or a file of weights that was trained elsewhere, with its
    architecture `arch` and the number of its `classes`; a vision transformer also needs the `size` of the images,
    height and width. Nothing in a file is executed.
    """
    path = Path(path)
    if path.is_dir():
        folders = (SeedFiles(path), SingleRunPaths(results=path).seed_files("", "", 0))
        for files in folders:
            if files.config.is_file():
                return load_target(files, weights)[0].eval()
        raise UserError(f"{path}: has no {folders[0].config.name}; name the folder of a seed, or a file of weights")
    if arch is None or classes is None:
        raise UserError(f"{path}: a file of weights does not say what network it is: give arch= and classes=")
    given = {"file": str(path), "arch": arch, "mean": mean, "std": std}
    checkpoint = checked(Checkpoint, {key: value for key, value in given.items() if value is not None})
    return load_checkpoint(checkpoint, classes, channels, size).network.eval()


def _dataset(images: LabeledImages, validation: float) -> Dataset:
    if images.images.dtype != torch.uint8:
        raise UserError("images: training works on bytes: round them, (images * 255).round().to(torch.uint8)")
    if not 0 < validation < 1:
        raise UserError(f"validation: {validation:g} is not a share between 0 and 1")
    classes = tuple(str(number) for number in range(int(images.labels.max()) + 1))
    kept, held_out = split(images.labels, validation, 0, classes)
    return Dataset.from_splits(
        name="images",
        classes=classes,
        origin={},
        train=images[kept],
        validation=images[held_out],
        test=images[held_out[:0]],
    )


def _network(name: str, weights: Mapping[str, Tensor], dataset: Dataset) -> nn.Module:
    network = models.build(name, classes=len(dataset.classes), channels=dataset.channels, size=dataset.size)
    network.load_state_dict({key: value.cpu() for key, value in weights.items()})
    return network.eval()
