"""Checks before the first job of the pipeline, against ways to get wrong files without an error.

DVC may link the files that it checks out to its cache (`cache.type` hardlink or symlink). Jobs replace files by
renaming, which leaves the cache unchanged; Snakemake writes its records in place, through the link, into the cache.

And Snakemake takes a file without a record as up to date. Records are versioned with the results, but a partial
`dvc pull` can leave them behind.

A damaged data set would fail every job that reads it, and Snakemake removes what a failed job had made before.
"""

from __future__ import annotations

import os
import sys
from base64 import urlsafe_b64encode
from pathlib import Path

from dynat import prepared
from dynat.config import Checkpoint, Experiment, load
from dynat.config.init import initial_files
from dynat.config.presets import PARAMS
from dynat.jobs.epoch_log import require_tensorboard
from dynat.jobs.unlabeled import refuse_unlabeled
from dynat.results.paths import Paths
from dynat.results.records import OutcomeRecord, TrainingRecord, read_record
from dynat.runtime.errors import UserError
from dynat.runtime.files import atomic_write, check_readable

RECORDS = Path(".snakemake/metadata")
"""Snakemake's record of how each file was made, named by the file's path."""


def check_before_jobs(experiment: Experiment, paths: Paths, records: Path = RECORDS) -> None:
    """`UserError` if the data set is damaged, if old results would be taken for new ones, or if a package is missing.

    Records that are links become files.
    """
    check_prepared_data(paths.dataset(experiment.dataset.name))
    check_checkpoint_files(experiment)
    check_extra_images(experiment, paths)
    check_corruption_archive(experiment)
    if any(run.tensorboard for run in experiment.runs.values()):
        require_tensorboard()
    refuse_unrecorded_results(experiment, paths, records)
    unlink_records(records)


def check_prepared_data(folder: Path) -> None:
    """Refuse a damaged data set; say if its test images were trained on. What is missing will be made."""
    if (folder / prepared.IMAGES).exists() and (folder / prepared.INFO).exists():
        info, _ = prepared.read(folder)
        if warning := prepared.shared_images(info):
            print(f"dynat: warning: {warning}", file=sys.stderr)


def check_checkpoint_files(experiment: Experiment) -> None:
    """Refuse checkpoints that are there and cannot be read, and first weights that are not there.

    Snakemake itself would wait for ever for a FIFO.
    """
    for checkpoint in experiment.checkpoints.values():
        if (file := Path(checkpoint.file)).exists():
            check_readable(file, "checkpoint")
    for name, given in initial_files(experiment.runs).items():
        if not (file := Path(given).expanduser()).exists():
            raise UserError(f"{name}: {file} does not exist")
        check_readable(file, "checkpoint")


def check_extra_images(experiment: Experiment, paths: Paths) -> None:
    """Refuse a missing file of extra images, and images without a label in runs that need one."""
    images = experiment.dataset.extra
    if images is None:
        return
    check_readable(Path(images.path).expanduser(), "file of extra images")
    folder = paths.extra_images(experiment.dataset.name, images.name)
    if (folder / prepared.INFO).exists():
        info = prepared.read_extra(folder)
        for name, run in experiment.runs.items():
            refuse_unlabeled(info, name, run)


def check_corruption_archive(experiment: Experiment) -> None:
    """Refuse an archive of corrupted images of which a file is missing."""
    settings = experiment.corruptions
    if settings is None or settings.path is None:
        return
    for name in ("labels", *settings.chosen):
        check_readable(Path(settings.path).expanduser() / f"{name}.npy", "file of corrupted images (corruptions.path)")


def unlink_records(records: Path = RECORDS) -> int:
    """Give each record that is a link a file of its own; how many there were."""
    linked = [file for file in records.rglob("*") if file.is_symlink() or (file.is_file() and file.stat().st_nlink > 1)]
    for file in linked:
        content = file.read_bytes()
        atomic_write(file, lambda draft, content=content: draft.write_bytes(content))  # type: ignore[misc]
    return len(linked)


def refuse_unrecorded_results(experiment: Experiment, paths: Paths, records: Path = RECORDS) -> None:
    """Refuse results without a record of Snakemake that were made with other settings than this experiment's."""
    for name in experiment.rows:
        run = paths.run_files(experiment.preset, name)
        for seed in experiment.seeds[name]:
            file = run.seed(seed).config
            if _unrecorded(file, records) and not _same_training(read_record(file, TrainingRecord), experiment, name):
                raise _made_otherwise(file, records)
        for attack in experiment.attacks:
            file = run.outcome_record(attack)
            if _unrecorded(file, records):
                outcome, spec = read_record(file, OutcomeRecord), experiment.evaluation(name, attack)
                if (outcome.attack, outcome.seeds) != (spec.attack, spec.seeds):
                    raise _made_otherwise(file, records)


def how_to_keep(experiment: Experiment, params: Path = PARAMS) -> str:
    """How to version with DVC what Snakemake made; only settings in params.yaml can be reproduced from a version."""
    if load(params) != experiment:
        return f"{params} does not contain what was given with --config: write it there before you keep this version"
    return "to keep this as a version: dvc commit -f && git add -A && git commit"


def record(file: Path, records: Path) -> Path:
    """Where Snakemake keeps its record of a file."""
    name = urlsafe_b64encode(os.fspath(file).encode()).decode()
    *folders, last = [name[start : start + 254] for start in range(0, len(name), 254)]
    return records.joinpath(*(f"@{folder}" for folder in folders), last)


def _unrecorded(file: Path, records: Path) -> bool:
    return file.exists() and not record(file, records).exists()


def _same_training(made: TrainingRecord, experiment: Experiment, name: str) -> bool:
    row = experiment.rows[name]
    if isinstance(row, Checkpoint):  # nothing was trained, and a normalization from the file is not in the config
        return isinstance(made.config, Checkpoint) and made.config.file == row.file and made.threat == experiment.threat
    spec = experiment.training(name)
    return (made.preset, made.name, made.data, made.threat, made.config, made.plugins) == (
        spec.preset,
        spec.name,
        spec.data,
        spec.threat,
        spec.run,
        spec.plugins,
    )


def _made_otherwise(file: Path, records: Path) -> UserError:
    return UserError(
        f"{file}: made with other settings, and {records} has no record of it, so it would be taken for up to date. "
        f"Restore results and records together (dvc checkout, dvc pull), or delete {file.parent} to make it again"
    )
