"""The transfer matrix as files: the adversarial images of every row, classified by every row."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from dynat.attacks.transfer import transfer_verdicts
from dynat.config import TransferSpec
from dynat.jobs.evaluation import Evaluator
from dynat.jobs.training import machine
from dynat.results.paths import Paths
from dynat.results.records import TransferRecord
from dynat.results.transfer import write_transfer
from dynat.runtime.files import check_writable


def run_transfer(spec: TransferSpec, *, paths: Paths, device: str = "auto", say: Callable[[str], None] = print) -> Path:
    """Attack every row and evaluate the images on every row; a verdict per source, target and image."""
    files = paths.experiment(spec.preset)
    check_writable(files.folder)
    evaluator = Evaluator.of(spec.preset, spec.data, paths, device)
    images = evaluator.images.first(spec.attack.images or len(evaluator.images))
    models = {run: evaluator.network(run, seed)[0] for run, seed in spec.runs.items()}
    correct: dict[tuple[str, str], list[int]] = {}
    for source in tqdm(models, desc="transfer", disable=None):
        for target, verdicts in transfer_verdicts(models[source], models, images, spec.attack).items():
            correct[source, target] = verdicts.int().tolist()
    record = TransferRecord(plugins=spec.plugins, runs=spec.runs, attack=spec.attack, device=machine(evaluator.device))
    say(f"{len(images)} images made against each of {len(models)} runs, classified by all of them")
    return write_transfer(files, record, images.labels.tolist(), correct)
