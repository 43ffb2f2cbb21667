"""The evaluation of a third-party checkpoint in one call: imported, attacked, and counted, in a folder of its own.

    <out>/table.md                                what is printed
    <out>/metrics.json                            the same, unrounded
    <out>/outcomes/<attack>.csv, .json            a row per image; the attack's settings and cost
    <out>/seed0/target.safetensors, config.json   the network as a function of pixels in [0,1]
    <out>/seed0/<attack>.adversarial.<format>     on request: the adversarial images
    <out>/corruptions.csv, .json                  on request: counts on corrupted images
    <out>/experiment.json                         what was requested

The clean accuracy comes first, because a file of weights does not contain everything about its network: warnings are
shown before an hour of attacks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dynat import data
from dynat.checkpoints.third_party import read_tensors
from dynat.config import DatasetConfig, Experiment, SanityConfig, of_content, of_file
from dynat.config.shards import Shard
from dynat.jobs.adversarial import run_adversarial
from dynat.jobs.checkpoint_warnings import accuracy_warnings, architecture_warnings
from dynat.jobs.corruptions import run_corruptions
from dynat.jobs.evaluation import run_evaluation, run_shard
from dynat.jobs.evaluation_data import evaluation_data
from dynat.jobs.import_checkpoint import file_digest, load_checkpoint, run_import
from dynat.jobs.sanity import run_sanity_checks
from dynat.results.corruptions import read_corruptions
from dynat.results.outcomes import CLEAN
from dynat.results.paths import SingleRunPaths
from dynat.results.records import TrainingRecord, read_record
from dynat.runtime.device import choose_device
from dynat.runtime.errors import UserError
from dynat.runtime.files import atomic_text, check_writable

Say = Callable[[str], None]


@dataclass(frozen=True)
class CheckpointRequest:
    """What to evaluate, and how."""

    file: Path
    arch: str
    dataset: str
    """A prepared data set, one that a preset names, or the path of an image folder."""
    attacks: tuple[str, ...]
    threat: Mapping[str, Any]
    """eps and norm."""
    settings: Mapping[str, Any]
    """Settings of every attack: images, batch, surrogate."""
    normalization: Mapping[str, Any]
    """mean and std, where the network expects normalized pixels and the file does not contain them; and padding."""
    size: int | None = None
    """To how many pixels squared the images of a folder are resized; by default their own size."""
    expected_accuracy: float | None = None
    """The clean accuracy, in percent, that its authors report."""
    sanity_checks: bool = False
    """Whether to run the sanity checks too."""
    corruptions: Mapping[str, Any] | None = None
    """Settings of the evaluation on corrupted images, as in a preset; None for none."""
    plugins: tuple[str, ...] = ()
    """Modules that add networks or attacks; imported already."""
    adversarial_images: str | None = None
    """The format in which the adversarial images of every attack are written."""


def evaluate_checkpoint(
    request: CheckpointRequest,
    *,
    name: str,
    paths: SingleRunPaths,
    device: str = "auto",
    say: Say = print,
    shard: Shard | None = None,
) -> None:
    """Evaluate a checkpoint into `paths.results`; an interrupted call resumes.

    With `shard`, only its batches of every attack; the call without it finds them finished.
    """
    choose_device(device)
    # Refused before images are prepared.
    checkpoint = _experiment(request, name, DatasetConfig(name="unknown", source="digits")).checkpoints[name]
    read_tensors(request.file)
    check_writable(paths.results, paths.state)
    dataset = evaluation_data(request.dataset, request.size, paths, say, partial(load_checkpoint, checkpoint))
    experiment = _experiment(request, name, dataset)
    _refuse_other_results(experiment, name, request.file, paths)
    run_import(
        experiment.checkpoint_import(name),
        paths=paths,
        say=say,
        on_accepted=lambda: atomic_text(paths.request, experiment.model_dump_json(indent=2) + "\n"),
    )
    run = paths.run_files("", name)
    run_evaluation(experiment.evaluation(name, CLEAN), paths=paths, device=device, say=say)
    test = data.load(paths.dataset(dataset.name)).test
    warnings = [*accuracy_warnings(run, request.expected_accuracy), *architecture_warnings(run, test, device)]
    for warning in warnings:
        say(f"warning: {warning}")
    if shard is None and experiment.corruptions is not None:
        run_corruptions(experiment.corrupted(name), paths=paths, device=device, say=say)
    for attack in [attack for attack in experiment.attacks if attack != CLEAN]:
        spec, images = experiment.evaluation(name, attack), request.adversarial_images
        if shard is not None:
            run_shard(spec, shard, paths=paths, device=device, say=say, keep_images=images is not None)
            continue
        run_evaluation(spec, paths=paths, device=device, say=say, keep_images=images is not None)
        if images is not None:
            run_adversarial(spec, 0, images, paths=paths, device=device, say=say)
    if shard is not None:
        say(f"shard {shard} is finished; when all are, the command without --shard joins them")
        return
    # Sanity checks of an earlier request would pass for those of this one. Its finished batches are kept as state.
    for file in (run.sanity, run.sanity_record):
        file.unlink(missing_ok=True)
    if request.sanity_checks:
        run_sanity_checks(experiment.sanity_checks(name), paths=paths, device=device, say=say)
    _write_table(experiment, name, warnings, paths, say)


def _experiment(request: CheckpointRequest, name: str, dataset: DatasetConfig) -> Experiment:
    """The request as an experiment of one row, checked like a preset."""
    settings = {**request.settings, "adversarial_images": request.adversarial_images}
    attacks = {CLEAN: request.settings} | {attack: settings for attack in request.attacks if attack != CLEAN}
    images = SanityConfig().images
    corruptions = request.corruptions
    content = {
        "plugins": list(request.plugins),
        "dataset": dataset.model_dump(exclude_none=True),
        "threat": request.threat,
        "checkpoints": {name: {"file": str(request.file), "arch": request.arch, **request.normalization}},
        "attacks": attacks,
        "corruptions": None if corruptions is None else {"images": request.settings.get("images"), **corruptions},
        "sanity": {
            "images": min(images, request.settings.get("images", images)),
            "surrogate": request.settings.get("surrogate", "auto"),
        },
    }
    return of_content(content, name)


def _refuse_other_results(experiment: Experiment, name: str, file: Path, paths: SingleRunPaths) -> None:
    """A folder holds the results of one checkpoint; verdicts of two must not be mixed."""
    folder = paths.results
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not paths.request.exists():
        raise UserError(f"{folder}: contains something else; name an empty or a new folder with --out")
    config = paths.seed_files("", name, 0).config
    if not config.exists():  # interrupted before the import
        return
    before = of_file(paths.request)
    old, new = before.checkpoints.get(name), experiment.checkpoints[name]
    same_network = old is not None and old.model_copy(update={"file": new.file}) == new
    same_dataset = before.dataset.name == experiment.dataset.name
    same_file = read_record(config, TrainingRecord).digest == file_digest(file)
    if not (same_network and same_dataset and same_file):
        raise UserError(
            f"{folder}: contains the evaluation of another checkpoint, network or data set; name another with --out"
        )


def _write_table(experiment: Experiment, name: str, warnings: list[str], paths: SingleRunPaths, say: Say) -> None:
    """Count the outcomes; print and keep the table."""
    from dynat.report import formatting, run_table
    from dynat.report.markdown import escape
    from dynat.results.metrics import read_metrics, write_metrics

    write_metrics(paths.results, list(experiment.attacks))
    metrics = read_metrics(paths.run_files("", name))
    checkpoint = experiment.checkpoints[name]
    dataset = formatting.dataset_title(experiment.dataset.name)
    most = max(cell.n for cell in metrics.attacks.values())
    images = formatting.test_images(most, metrics.dataset)
    parts = [f"{escape(checkpoint.file)} as {checkpoint.arch} on {dataset}, {images}", run_table.to_markdown(metrics)]
    if checks := [f"* {check}" for check in run_table.sanity_checks(metrics)]:
        parts.append("\n".join(["Sanity checks:", "", *checks]))
    if experiment.corruptions is not None:
        from dynat.report import corruptions

        parts.append(corruptions.one_row(read_corruptions(paths.run_files("", name))))
    parts += [f"Warning: {escape(warning)}" for warning in [*warnings, *run_table.notices(metrics)]]
    text = "\n\n".join(parts)
    atomic_text(paths.table, text + "\n")
    say(f"\n{text}\n\nwritten to {paths.table}")
