"""Before the first job: two ways to end with wrong files and no error, set right or refused.

DVC may link what it checks out to its cache (`cache.type` hardlink or symlink). Jobs replace files by renaming,
which leaves the cache alone; Snakemake writes its records in place, through the link, into the cache.

And without a record Snakemake takes whatever lies there as fresh. Records travel with the results, but a partial
`dvc pull` can leave them behind.
"""

from __future__ import annotations

import contextlib
import json
import os
from base64 import urlsafe_b64encode
from pathlib import Path

from dynat.config import Experiment, load, names
from dynat.config.load import PARAMS
from dynat.files import atomic_write
from dynat.places import Places

RECORDS = Path(".snakemake/metadata")
"""Snakemake's record of how each file was made, named by the file's path."""


def before_any_job(experiment: Experiment, places: Places, records: Path = RECORDS) -> None:
    """`ValueError` if results would pass for what they are not, or an attack cannot be run on these classes; records
    that are links become files."""
    refuse_too_few_classes(experiment, places)
    refuse_strangers(experiment, places, records)
    own_records(records)


def own_records(records: Path = RECORDS) -> int:
    """Give each record that is a link a file of its own; how many there were."""
    linked = [file for file in records.rglob("*") if file.is_symlink() or (file.is_file() and file.stat().st_nlink > 1)]
    for file in linked:
        content = file.read_bytes()
        atomic_write(file, lambda draft, content=content: draft.write_bytes(content))  # type: ignore[misc]
    return len(linked)


def refuse_too_few_classes(experiment: Experiment, places: Places) -> None:
    """AutoAttack would say so itself, but only after all trainings."""
    targeted = [name for name, a in experiment.attacks.items() if "apgd-t" in (a.kind, *names.attack_parts(a.kind))]
    count = _classes(experiment, places)
    if targeted and count is not None and count < 4:
        raise ValueError(
            f"attacks.{targeted[0]}: AutoAttack's targeted DLR loss needs at least 4 classes, and "
            f"{experiment.dataset.name} has {count}: use pgd and cw with restarts instead"
        )


def _classes(experiment: Experiment, places: Places) -> int | None:
    """How many classes there are, as far as can be known before the data are prepared."""
    info = places.pictures(experiment.dataset.name) / "info.json"
    if info.exists():
        with contextlib.suppress(ValueError, KeyError, TypeError):  # whoever reads the data set says what is wrong
            return len(json.loads(info.read_text())["classes"])
    train = Path(experiment.dataset.path or "").expanduser() / "train"
    if experiment.dataset.source == "folder" and train.is_dir():
        return sum(entry.is_dir() and not entry.name.startswith(".") for entry in train.iterdir())
    return None


def refuse_strangers(experiment: Experiment, places: Places, records: Path = RECORDS) -> None:
    """Refuse results that nobody recorded and that were made with other settings than those now wanted."""
    for file, wanted in _settings(experiment, places).items():
        if file.exists() and not record(file, records).exists() and _differs(file, wanted):
            raise ValueError(
                f"{file}: made with other settings, and {records} has no record of it, so it would pass for fresh. "
                f"Bring results and records together (dvc checkout, dvc pull), or delete {file.parent} to make it again"
            )


def how_to_keep(experiment: Experiment, params: Path = PARAMS) -> str:
    """How DVC takes over what Snakemake made by itself; only what params.yaml says can be made again from it."""
    if load(params) != experiment:
        return f"{params} does not say what was given with --config: write it there before you keep this as a version"
    return "to keep this as a version: dvc commit -f && git add -A && git commit"


def _settings(experiment: Experiment, places: Places) -> dict[Path, dict[str, object]]:
    """What is written beside every training and every examination, as this experiment would write it."""
    settings: dict[Path, dict[str, object]] = {}
    for run, of_run in experiment.runs.items():
        training = json.loads(experiment.training(run).model_dump_json())
        if of_run.method == "external":  # nothing was trained, and what was read from the file is not in the config
            training = {"name": run, "threat": training["threat"]}
        for seed in experiment.seeds[run]:
            settings[places.seed(experiment.preset, run, seed) / "config.json"] = training
        for attack in experiment.attacks:
            exam = json.loads(experiment.exam(run, attack).model_dump_json())
            file = places.outcomes(experiment.preset, run, attack).with_suffix(".json")
            settings[file] = {"attack": exam["attack"], "seeds": exam["seeds"]}
    return settings


def record(file: Path, records: Path) -> Path:
    """Where Snakemake keeps its record of a file."""
    name = urlsafe_b64encode(os.fspath(file).encode()).decode()
    *folders, last = [name[start : start + 254] for start in range(0, len(name), 254)]
    return records.joinpath(*(f"@{folder}" for folder in folders), last)


def _differs(file: Path, wanted: dict[str, object]) -> bool:
    written = json.loads(file.read_text())
    return any(written.get(key) != value for key, value in wanted.items())
