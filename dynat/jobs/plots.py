"""What DVC shows of an experiment, as small text files that Git keeps: made from histories and metrics.

    plots/<preset>/epochs.csv     validation accuracy over training: a row per run and epoch, mean over seeds
    plots/<preset>/labels.csv     accuracy of the guide's labels; the runs with a guide
    plots/<preset>/accuracy.csv   test accuracy: a row per row of the table and attack, with its interval
    metrics/<preset>/<run>.json   test accuracy by attack

All in percent. Long tables, so that dvc.yaml names no run.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean

from dynat.config import Experiment
from dynat.results.csv_files import csv_text
from dynat.results.history import read_history
from dynat.results.metrics import read_metrics
from dynat.results.paths import Paths
from dynat.runtime.files import atomic_text

Row = dict[str, str | float]

MEASURED = {"clean": "clean", "pgd": "pgd", "label_accuracy": "true_labels"}
"""Columns of a history and what they are called here."""


def write_curves(experiment: Experiment, paths: Paths) -> Path:
    """Write epochs.csv and labels.csv of the trainings; their folder."""
    rows = [row for run in experiment.runs for row in _epochs(experiment, paths, run)]
    file = paths.plot(experiment.preset, "epochs")
    _write(file, ("run", "epoch", "clean", "pgd"), (row for row in rows if len(row) > 2))
    labels = paths.plot(experiment.preset, "labels")
    _write(labels, ("run", "epoch", "true_labels"), (row for row in rows if "true_labels" in row))
    return file.parent


def write_accuracy(experiment: Experiment, paths: Paths) -> Path:
    """Write accuracy.csv, and a file per row for `dvc metrics`; files of rows that no longer exist are deleted."""
    rows: list[Row] = []
    for run in experiment.rows:
        metrics = read_metrics(paths.run_files(experiment.preset, run))
        cells = {attack: metrics.attacks[attack] for attack in experiment.attacks}
        for attack, cell in cells.items():
            interval = {"accuracy": _percent(cell.mean), "low": _percent(cell.low), "high": _percent(cell.high)}
            rows.append({"run": run, "attack": attack, **interval})
        accuracy = {attack: _percent(cell.mean) for attack, cell in cells.items()}
        atomic_text(paths.run_accuracy(experiment.preset, run), json.dumps(accuracy, indent=2) + "\n")
    every = paths.run_accuracy(experiment.preset, "*")
    for file in every.parent.glob(every.name):
        if file.stem not in experiment.rows:
            file.unlink()
    file = paths.plot(experiment.preset, "accuracy")
    _write(file, ("run", "attack", "accuracy", "low", "high"), rows)
    return file


def _epochs(experiment: Experiment, paths: Paths, run: str) -> Iterable[Row]:
    """The mean over the run's seeds, epoch by epoch; what no seed measured is not in the row."""
    histories: dict[int, list[dict[str, float]]] = {}
    for seed in experiment.seeds[run]:
        for epoch in read_history(paths.seed_files(experiment.preset, run, seed)):
            histories.setdefault(int(epoch["epoch"]), []).append(epoch)
    for number, seeds in sorted(histories.items()):
        row: Row = {"run": run, "epoch": number}
        for column, name in MEASURED.items():
            if values := [epoch[column] for epoch in seeds if column in epoch]:
                row[name] = _percent(fmean(values))
        yield row


def _percent(share: float) -> float:
    return round(100 * share, 2)


def _write(file: Path, columns: tuple[str, ...], rows: Iterable[Row]) -> None:
    atomic_text(file, csv_text(columns, ([row.get(column) for column in columns] for row in rows)))
