"""One training as files: images in; weights, resolved config and history out, each written whole."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing
from pathlib import Path

import torch
from safetensors.torch import save

import dynat
from dynat import data, models, prepared, provenance
from dynat.config import Run, TrainingSpec, digest
from dynat.data.extra import ExtraImages
from dynat.data.extra import load as load_extra
from dynat.jobs.epoch_log import EpochLog
from dynat.jobs.initial_weights import InitialWeights, read_initial_weights
from dynat.jobs.unlabeled import refuse_unlabeled
from dynat.nn.mixed_precision import compute_dtype
from dynat.nn.numerics import set_training_numerics
from dynat.results.history import Row, write_history
from dynat.results.paths import Paths, SeedFiles
from dynat.results.records import (
    DatasetInfo,
    ExtraImagesInfo,
    ParameterCounts,
    TrainingRecord,
    write_record,
)
from dynat.results.take_off import early_warnings, warnings
from dynat.results.weights import file_sha256
from dynat.runtime.device import choose_device, describe
from dynat.runtime.files import atomic_write, check_writable
from dynat.runtime.memory import names_a_batch
from dynat.runtime.progress import Progress, duration
from dynat.training import Trained, TrainingState, train, try_step
from dynat.training.distributed import Distributed


def run_training(
    spec: TrainingSpec,
    *,
    seed: int,
    paths: Paths,
    device: str = "auto",
    tensorboard: bool = False,
    say: Callable[[str], None] = print,
) -> Path:
    """Train the run of `spec` and publish it; an interrupted training resumes from its state."""
    set_training_numerics(spec.run.precision)
    distributed = Distributed.from_environment()
    with distributed.process_group(choose_device(device)) as chosen:
        if not distributed.is_main:
            say = _silent
        return _train(spec, seed, paths, chosen, distributed, say, tensorboard and distributed.is_main)


def _train(
    spec: TrainingSpec,
    seed: int,
    paths: Paths,
    device: torch.device,
    distributed: Distributed,
    say: Callable[[str], None],
    tensorboard: bool,
) -> Path:
    images = data.load(paths.dataset(spec.data))
    extra = None if spec.extra is None else _extra_images(spec, paths)
    code = provenance.code_digest(provenance.training_sources(spec.run.method, spec.run.target, spec.run.guide))
    dtype = str(compute_dtype(spec.run.precision, device))
    init = read_initial_weights(spec.run, spec.preset, seed, paths, images)
    more = [*([] if extra is None else [extra.info.sha256]), *(start.sha256 for start in init.values())]
    packages = models.package_versions(spec.run.target, spec.run.guide)
    name = digest(spec, seed, images.digest, *more, code, device.type, dtype, torch.__version__, *packages.values())
    state = TrainingState(paths.training_state(name), say)
    files = paths.seed_files(spec.preset, spec.name, seed)
    check_writable(files.folder)
    title = f"{spec.name} seed {seed}"
    say(f"{title}: {len(images.train)} images, {spec.run.epochs} epochs on {device}")
    for text in _sources(spec.run, extra, init):
        say(f"{title}: {text}")
    dataset = dataset_info(images)
    events = paths.tensorboard(spec.preset, spec.name, seed) if tensorboard else None
    with (
        Progress(title, spec.run.epochs, say=say, hidden=not distributed.is_main) as progress,
        closing(EpochLog(files, spec.run.epochs, say=progress.say, events=events)) as log,
        _within_memory(spec, images, device),
    ):

        def report(row: Row) -> None:
            log.add(row)
            for text in early_warnings(log.rows, spec.run.epochs, dataset):
                progress.say(f"warning: {title}: {text}")

        trained = train(
            spec.run,
            spec.threat,
            images,
            seed=seed,
            device=device,
            extra=extra,
            init={network: start.weights for network, start in init.items()},
            state=state,
            distributed=distributed,
            report=report,
            resumed=log.resume,
            progress=progress,
        )
    if not distributed.is_main:
        return files.folder
    publish(files, trained, _record(spec, seed, images, extra, init, trained, name, device))
    state.discard()
    say(f"best epoch {trained.best_epoch} of {len(trained.history)}; written to {files.folder}")
    say(f"{title}: {_result(spec, trained)}")
    for text in warnings(trained.history, dataset):
        say(f"warning: {title}: {text}")
    return files.folder


def _within_memory(spec: TrainingSpec, images: data.Dataset, device: torch.device) -> AbstractContextManager[None]:
    return names_a_batch(
        spec.run.batch,
        lambda batch: try_step(spec.run.model_copy(update={"batch": batch}), spec.threat, images, device),
        lambda batch: f"training={{batch: {batch}}}, with a lower rate (schedule.lr) in about the same proportion",
    )


def _sources(run: Run, extra: ExtraImages | None, init: Mapping[str, InitialWeights]) -> Iterator[str]:
    """What a training starts from beside its data set."""
    if extra is not None and run.extra is not None:
        share = f"{run.extra.count(run.batch)} of {run.batch}"
        yield f"{share} images of a batch are from {extra.info.path}, {len(extra):,} images"
    for network, start in init.items():
        fresh = f", without its classifier ({', '.join(start.fresh)}), which starts random" if start.fresh else ""
        yield f"the {network} starts from {start.file}{fresh}"


def _silent(_: str) -> None:
    """For the processes of a distributed training that do not report."""


def publish(files: SeedFiles, trained: Trained, record: TrainingRecord) -> None:
    """Write the weights, the history, and last the record of a training or of an imported checkpoint."""
    weights = {files.target(): trained.target, files.target("last"): trained.target_last, files.guide: trained.guide}
    # One note, because safetensors writes several in random order: equal trainings give equal files.
    notes = {"training": f"{record.name} seed {record.seed}, digest {record.digest}"}
    checksums = {}
    for file, tensors in weights.items():
        if tensors is None:
            file.unlink(missing_ok=True)  # of a training that had a guide, under the same name
        else:
            content = save({key: value.cpu() for key, value in tensors.items()}, notes)
            atomic_write(file, lambda path, content=content: path.write_bytes(content))  # type: ignore[misc]
            checksums[file.name] = file_sha256(content)
    table = write_history(files.history, trained.history)
    write_record(files.config, record.model_copy(update={"table": table, "weights": checksums}))


def _result(spec: TrainingSpec, trained: Trained) -> str:
    """The training in a few words: its time, and the accuracy on the held-out images in the best epoch."""
    best = trained.history[trained.best_epoch - 1]
    took = duration(sum(row["seconds"] for row in trained.history))
    pgd = f"PGD-{spec.run.validation.steps}"
    epochs, early = len(trained.history), ""
    if epochs < spec.run.epochs:
        early = f" and stopped early, after epoch {epochs} of {spec.run.epochs}"
    return f"trained in {took}{early}, clean {100 * best['clean']:.1f} %, {pgd} {100 * best['pgd']:.1f} %"


def _extra_images(spec: TrainingSpec, paths: Paths) -> ExtraImages:
    assert spec.extra is not None
    folder = paths.extra_images(spec.data, spec.extra)
    refuse_unlabeled(prepared.read_extra(folder), spec.name, spec.run)
    return load_extra(folder)


def _record(
    spec: TrainingSpec,
    seed: int,
    images: data.Dataset,
    extra: ExtraImages | None,
    init: Mapping[str, InitialWeights],
    trained: Trained,
    name: str,
    device: torch.device,
) -> TrainingRecord:
    return TrainingRecord(
        plugins=spec.plugins,
        preset=spec.preset,
        name=spec.name,
        data=spec.data,
        threat=spec.threat,
        config=spec.run,
        seed=seed,
        digest=name,
        dataset=dataset_info(images, extra),
        best_epoch=trained.best_epoch,
        training_seconds=sum(row["seconds"] for row in trained.history),
        parameters=ParameterCounts(
            target=_size(trained.target), guide=None if trained.guide is None else _size(trained.guide)
        ),
        versions=versions(spec.run.target, spec.run.guide),
        machine=describe(device),
        compute_dtype=str(compute_dtype(spec.run.precision, device)).removeprefix("torch."),
        init={network: start.sha256 for network, start in init.items()},
    )


def dataset_info(images: data.Dataset, extra: ExtraImages | None = None) -> DatasetInfo:
    """The data set as results describe it."""
    return DatasetInfo(
        name=images.name,
        digest=images.digest,
        classes=images.classes,
        channels=images.channels,
        size=images.size,
        train=len(images.train),
        validation=len(images.validation),
        test=len(images.test),
        test_order=images.test_order,
        test_in_train=images.test_in_train,
        largest_class=max(_largest_class(images.train), _largest_class(images.validation)),
        extra=None if extra is None else _extra_info(extra),
    )


def _extra_info(extra: ExtraImages) -> ExtraImagesInfo:
    info = extra.info
    return ExtraImagesInfo(
        file=Path(info.path).name,
        digest=info.sha256,
        images=info.images,
        unlabeled=info.unlabeled,
        test_images=info.test_images,
    )


def _largest_class(images: data.LabeledImages) -> float:
    """The share of the most frequent class."""
    return float(images.labels.bincount().max()) / len(images) if len(images) else 0.0


def versions(*networks: str | None) -> dict[str, str]:
    """Versions of the software that a result with these networks was made with."""
    own = {"dynat": dynat.__version__, "torch": torch.__version__, "python": platform.python_version()}
    return own | models.package_versions(*networks)


def _size(weights: dict[str, torch.Tensor]) -> int:
    """Number of trained parameters; BatchNorm's running statistics are not trained."""
    return sum(w.numel() for name, w in weights.items() if "running_" not in name and "num_batches" not in name)
