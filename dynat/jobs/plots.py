"""What DVC shows of an experiment, as small text files that Git keeps: made of histories and metrics, no number anew.

    plots/<preset>/epochs.csv     validation accuracy over training: a row per run and epoch, mean over seeds
    plots/<preset>/labels.csv     how often the guide's label is the true one; the runs with a guide
    plots/<preset>/accuracy.csv   test accuracy: a row per run and attack, with its interval
    metrics/<preset>/<run>.json   test accuracy by attack

All in percent. Long tables, so that dvc.yaml names no run.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean

from dynat.config import Experiment
from dynat.files import atomic_text
from dynat.places import Places

Row = dict[str, str | float]

MEASURED = {"clean": "clean", "pgd": "pgd", "label_accuracy": "true_labels"}
"""Columns of a history and what they are called here."""


def write_curves(experiment: Experiment, places: Places) -> Path:
    """Write epochs.csv and labels.csv of the trainings that lie in `places`."""
    rows = [row for run in experiment.runs for row in _epochs(experiment, places, run)]
    folder = places.plots(experiment.preset)
    _write(folder / "epochs.csv", ("run", "epoch", "clean", "pgd"), (row for row in rows if len(row) > 2))
    _write(folder / "labels.csv", ("run", "epoch", "true_labels"), (row for row in rows if "true_labels" in row))
    return folder


def write_accuracy(experiment: Experiment, places: Places) -> Path:
    """Write accuracy.csv, and a file per run for `dvc metrics`; those of runs that are no more go."""
    rows: list[Row] = []
    folder = places.metrics(experiment.preset)
    for run in experiment.runs:
        metrics = json.loads((places.run(experiment.preset, run) / "metrics.json").read_text())
        cells = {attack: metrics["attacks"][attack] for attack in experiment.attacks}
        rows += [{"run": run, "attack": attack, **_interval(cell)} for attack, cell in cells.items()]
        accuracy = {attack: _percent(cell["mean"]) for attack, cell in cells.items()}
        atomic_text(folder / f"{run}.json", json.dumps(accuracy, indent=2) + "\n")
    for file in folder.glob("*.json"):
        if file.stem not in experiment.runs:
            file.unlink()
    file = places.plots(experiment.preset) / "accuracy.csv"
    _write(file, ("run", "attack", "accuracy", "low", "high"), rows)
    return file


def _epochs(experiment: Experiment, places: Places, run: str) -> Iterable[Row]:
    """The mean over the run's seeds, epoch by epoch; what no seed measured is not in the row."""
    histories: dict[int, list[dict[str, str]]] = {}
    for seed in experiment.seeds[run]:
        with (places.seed(experiment.preset, run, seed) / "history.csv").open() as file:
            for epoch in csv.DictReader(file):
                histories.setdefault(int(float(epoch["epoch"])), []).append(epoch)
    for number, seeds in sorted(histories.items()):
        row: Row = {"run": run, "epoch": number}
        for column, name in MEASURED.items():
            if values := [float(seed[column]) for seed in seeds if seed.get(column)]:
                row[name] = _percent(fmean(values))
        yield row


def _interval(cell: dict[str, float]) -> Row:
    return {"accuracy": _percent(cell["mean"]), "low": _percent(cell["low"]), "high": _percent(cell["high"])}


def _percent(share: float) -> float:
    return round(100 * share, 2)


def _write(file: Path, columns: tuple[str, ...], rows: Iterable[Row]) -> None:
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    atomic_text(file, out.getvalue())
