"""The import of a third-party checkpoint: read, and published as files like those of a training."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from dynat import data, models
from dynat.checkpoints.network import bare_network
from dynat.checkpoints.third_party import ThirdPartyModel, load_third_party
from dynat.config import Checkpoint, ImportSpec, Normalization
from dynat.jobs.training import dataset_info, publish, versions
from dynat.results.paths import Paths
from dynat.results.records import ParameterCounts, TrainingRecord
from dynat.training import Trained
from dynat.training.networks import weights_of


def run_import(
    spec: ImportSpec,
    *,
    paths: Paths,
    say: Callable[[str], None] = print,
    on_accepted: Callable[[], None] = lambda: None,
) -> Path:
    """Publish the checkpoint of `spec` as seed 0 of its row; the folder.

    Nothing is written before the checkpoint is accepted; then `on_accepted` is called first.
    """
    images = data.load(paths.dataset(spec.data))
    checkpoint, file = spec.checkpoint, Path(spec.checkpoint.file)
    loaded = load_checkpoint(checkpoint, len(images.classes), images.channels, images.size)
    on_accepted()
    if loaded.dropped:
        count = len(loaded.dropped)
        say(f"{spec.name}: left out {count} weights that no forward pass reads ({loaded.dropped[0]}, ...)")
    if loaded.normalization.mean:
        own = f"as the published weights of {checkpoint.arch} expect"
        source = "from the file" if loaded.from_file else "as given" if checkpoint.mean else own
        say(f"{spec.name}: pixels are normalized first, {source}: {loaded.normalization}")
    weights = weights_of(loaded.network)
    files = paths.seed_files(spec.preset, spec.name, 0)
    trained = Trained(best_epoch=0, target=weights, guide=None, target_last=weights, history=[])
    publish(files, trained, _record(spec, images, loaded, file_digest(file)))
    say(f"{spec.name} import: {file} as {checkpoint.arch}, in {files.folder}")
    return files.folder


def load_checkpoint(
    checkpoint: Checkpoint, classes: int, channels: int, size: tuple[int, int] | None = None
) -> ThirdPartyModel:
    """The checkpoint of a config as a network for images of so many classes, channels and pixels, or a `UserError`."""
    given = Normalization(mean=checkpoint.mean, std=checkpoint.std, padding=checkpoint.padding)
    model = bare_network(checkpoint, classes=classes, channels=channels, size=size)
    own = models.normalization(checkpoint.arch, classes=classes, channels=channels)
    return load_third_party(model, Path(checkpoint.file), channels=channels, normalization=given, default=own)


def file_digest(file: Path) -> str:
    """Identifies a checkpoint by its content."""
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16]


def _record(spec: ImportSpec, images: data.Dataset, loaded: ThirdPartyModel, digest: str) -> TrainingRecord:
    normalization = {"mean": loaded.normalization.mean, "std": loaded.normalization.std}
    return TrainingRecord(
        plugins=spec.plugins,
        preset=spec.preset,
        name=spec.name,
        data=spec.data,
        threat=spec.threat,
        config=spec.checkpoint.model_copy(update=normalization),
        seed=0,
        digest=digest,
        dataset=dataset_info(images),
        best_epoch=None,
        training_seconds=0.0,
        parameters=ParameterCounts(target=models.count_parameters(loaded.network)),
        versions=versions(spec.checkpoint.arch),
        machine="trained elsewhere",
    )
