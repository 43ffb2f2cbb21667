"""The accuracy of a row on corrupted test images as files: counts per seed, corruption and severity."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from dynat import provenance
from dynat.config import CorruptionsSpec, digest
from dynat.data import to_pixels
from dynat.data.corruption_archive import CorruptedImages
from dynat.jobs.evaluation import Evaluator, package_version
from dynat.nn.modes import evaluating
from dynat.nn.seeded import seeded
from dynat.results.corruptions import Cell, CorruptionsRecord, write_corruptions
from dynat.results.paths import Paths
from dynat.runtime.device import describe
from dynat.runtime.files import check_writable, read_with_checksum, write_with_checksum
from dynat.runtime.progress import Progress, duration

BATCH = 500


def run_corruptions(
    spec: CorruptionsSpec, *, paths: Paths, device: str = "auto", say: Callable[[str], None] = print
) -> Path:
    """Classify the corrupted images with the networks of all seeds; resumes after the last finished corruption."""
    run = paths.run_files(spec.preset, spec.name)
    check_writable(run.folder)
    evaluator = Evaluator.of(spec.preset, spec.data, paths, device)
    images = CorruptedImages(spec.corruptions, evaluator.images)
    models = {seed: evaluator.network(spec.name, seed) for seed in spec.seeds}
    weights = {seed: name for seed, (_, name) in models.items()}
    code = provenance.code_digest(provenance.corruption_sources())
    packages = [package_version(name) for name in ("torch", "numpy", "scipy", "pillow")]
    key = digest(spec, weights, evaluator.image_digest, code, evaluator.device.type, *images.files(), *packages)
    state = _State(paths.corruptions_state(key))
    kinds, severities = spec.corruptions.chosen, spec.corruptions.severities
    title, began = f"{spec.name} corruptions", time.perf_counter()
    with Progress(title, len(kinds), say=say) as progress:
        for kind in kinds:
            if kind not in state.finished:
                networks = {seed: model for seed, (model, _) in models.items()}
                state.add(kind, *_counts(networks, images, kind, severities, evaluator.device))
            progress.advance()
    correct: dict[Cell, int] = {
        (seed, kind, severity): state.finished[kind][f"{seed} {severity}"]
        for seed in spec.seeds
        for kind in kinds
        for severity in severities
    }
    record = CorruptionsRecord(
        plugins=spec.plugins,
        run=spec.name,
        seeds=spec.seeds,
        corruptions=spec.corruptions,
        made=spec.corruptions.path is None,
        images=len(images),
        digests={kind: state.digests[kind] for kind in kinds},
        seconds=time.perf_counter() - began,
        device=describe(evaluator.device),
    )
    written = write_corruptions(run, record, correct)
    state.discard()
    accuracy = sum(correct.values()) / len(correct) / len(images)
    say(f"{title}: mean accuracy {100 * accuracy:.1f} % under {len(kinds)} corruptions, {duration(record.seconds)}")
    return written


def _counts(
    networks: dict[int, nn.Module],
    images: CorruptedImages,
    kind: str,
    severities: tuple[int, ...],
    device: torch.device,
) -> tuple[dict[str, int], str]:
    """Correctly classified images by seed and severity, and a digest of the images."""
    counts = {f"{seed} {severity}": 0 for seed in networks for severity in severities}
    content = hashlib.sha256()
    for severity in severities:
        for number, (batch, labels) in enumerate(images.batches(kind, severity, BATCH)):
            content.update(batch.numpy().data)
            pixels, truth = to_pixels(batch.to(device)), labels.to(device)
            for seed, network in networks.items():
                with torch.no_grad(), evaluating(network), seeded(number, device):
                    counts[f"{seed} {severity}"] += int((network(pixels).argmax(1) == truth).sum())
    return counts, content.hexdigest()


class _State:
    """The corruptions that are finished, in a file with a checksum."""

    def __init__(self, file: Path) -> None:
        self.file = file
        content = read_with_checksum(file)
        self.finished: dict[str, dict[str, int]]
        self.digests: dict[str, str]
        self.finished, self.digests = ({}, {}) if content is None else json.loads(content)

    def add(self, kind: str, counts: dict[str, int], images: str) -> None:
        self.finished[kind], self.digests[kind] = counts, images
        write_with_checksum(self.file, json.dumps([self.finished, self.digests]).encode())

    def discard(self) -> None:
        self.file.unlink(missing_ok=True)
