"""The transfer matrix as files: the adversarial images of every row, classified by every row."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from dynat.attacks.transfer import transfer_verdicts
from dynat.config import TransferSpec
from dynat.jobs.evaluation import Evaluator
from dynat.results.paths import Paths
from dynat.results.records import TransferRecord
from dynat.results.transfer import write_transfer
from dynat.runtime.device import describe
from dynat.runtime.files import check_writable
from dynat.runtime.progress import Progress


def run_transfer(spec: TransferSpec, *, paths: Paths, device: str = "auto", say: Callable[[str], None] = print) -> Path:
    """Attack every row and evaluate the images on every row; a verdict per source, target and image."""
    files = paths.experiment(spec.preset)
    check_writable(files.folder)
    evaluator = Evaluator.of(spec.preset, spec.data, paths, device)
    images = evaluator.images.first(spec.attack.images or len(evaluator.images))
    models = {run: evaluator.network(run, seed)[0] for run, seed in spec.runs.items()}
    correct: dict[tuple[str, str], list[int]] = {}
    with Progress("transfer", len(models), say=say) as progress:
        for source in models:
            progress.describe(partial("images made against {}".format, source))
            found = transfer_verdicts(models[source], models, images, spec.attack, progress)
            for target, verdicts in found.items():
                correct[source, target] = verdicts.int().tolist()
    record = TransferRecord(plugins=spec.plugins, runs=spec.runs, attack=spec.attack, device=describe(evaluator.device))
    written = write_transfer(files, record, images.labels.tolist(), correct)
    say(f"transfer: {len(images)} images made against each of {len(models)} runs, classified by all of them")
    return written
