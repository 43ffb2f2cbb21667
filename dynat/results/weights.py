"""The weight files of a training, checked against the SHA-256 in its record. Knows no network."""

from __future__ import annotations

import hashlib
from pathlib import Path

from dynat.config import Normalization, Run, digest
from dynat.results.paths import SeedFiles
from dynat.results.records import TrainingRecord, required
from dynat.runtime.errors import UserError


def file_sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def read_weights(files: SeedFiles, record: TrainingRecord, weights: str = "best") -> bytes:
    """The content of the file of the target's weights; `UserError` if it is not what was written."""
    return read_checked(files, record, files.target(weights))


def read_checked(files: SeedFiles, record: TrainingRecord, file: Path) -> bytes:
    """The content of one of the files of weights; `UserError` if it is not what was written."""
    content = required(file).read_bytes()
    expected = record.weights.get(file.name)
    if expected is not None and file_sha256(content) != expected:
        raise UserError(
            f"{file}: damaged or exchanged: its SHA-256 is not the one in {files.config.name}; "
            f"delete {files.folder} and make it again: snakemake --cores all {file}"
        )
    return content


def network_of(record: TrainingRecord, weights: str = "best") -> str | None:
    """Which network a training's `best` or `last` weights are: their SHA-256, and what a checkpoint does to pixels
    before it. None in records without checksums."""
    content = record.weights.get(SeedFiles(Path()).target(weights).name)
    if content is None or isinstance(record.config, Run):
        return content
    return digest(content, *(getattr(record.config, key) for key in Normalization.model_fields))
