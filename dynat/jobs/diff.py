"""Compare two results folders: every number of every metrics.json, bit for bit, apart from time and machine."""

from __future__ import annotations

import json
from pathlib import Path

from dynat.results.metrics import read_metrics
from dynat.results.paths import RunFiles
from dynat.results.records import RunMetrics
from dynat.runtime.errors import UserError

METRICS = RunFiles(Path()).metrics.name
CIRCUMSTANCES = {
    ("attacks", "*", "cost"): {"seconds", "seconds_per_seed", "device"},
    ("training", "*"): {"seconds", "digest", "versions", "machine"},
}
"""Fields that may differ, by where they are: time, machine and versions. (A training's digest contains code and
versions.)"""


def differences(one: Path, other: Path) -> list[str]:
    """A line for each number that is not the same in both folders, and for each run that only one of them has."""
    first, second = _runs(one), _runs(other)
    lines = []
    for run in sorted({*first, *second}):
        if run not in first or run not in second:
            lines.append(f"{_title(run)}: only in {one if run in first else other}")
            continue
        here, there = (_numbers(metrics[run].model_dump(mode="json")) for metrics in (first, second))
        for place in dict.fromkeys([*here, *there]):
            if here.get(place, "nothing") != there.get(place, "nothing"):
                values = f"{here.get(place, 'nothing')} in {one}, {there.get(place, 'nothing')} in {other}"
                lines.append(f"{_title(run)}: {'.'.join(place)}: {values}")
    return lines


def runs_in(folder: Path) -> int:
    return len(_runs(folder))


def _runs(folder: Path) -> dict[str, RunMetrics]:
    """Every metrics.json in a folder (all results, one preset's, or one run's), by its folder in there."""
    files = sorted(folder.rglob(METRICS))
    if not files:
        raise UserError(f"{folder}: no {METRICS} in it; name a results folder, such as results/digits")
    return {str(file.parent.relative_to(folder)): read_metrics(RunFiles(file.parent)) for file in files}


def _title(run: str) -> str:
    return METRICS if run == "." else run


def _numbers(value: object, place: tuple[str, ...] = ()) -> dict[tuple[str, ...], str]:
    """Every leaf as JSON writes it, which is exact, by its place; without the circumstances."""
    if not isinstance(value, dict | list) or not value:
        return {place: json.dumps(value)}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    left_out = _circumstances(place)
    numbers: dict[tuple[str, ...], str] = {}
    for key, content in items:
        if key not in left_out:
            numbers |= _numbers(content, (*place, str(key)))
    return numbers


def _circumstances(place: tuple[str, ...]) -> set[str]:
    for where, keys in CIRCUMSTANCES.items():
        if len(where) == len(place) and all(part in ("*", name) for part, name in zip(where, place, strict=True)):
            return keys
    return set()
