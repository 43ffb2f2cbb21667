"""One run by itself: a row per attack, for whoever examines a checkpoint or hands one over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dynat.report import words
from dynat.report.comparisons import WORST
from dynat.report.gates import TITLES

HEAD = ("Attack", "Ball", "Accuracy", "95 % interval", "Pictures", "Seeds", "Time")
RIGHT = (2, 3, 4, 5, 6)
"""Columns of numbers."""


def to_markdown(metrics: Mapping[str, Any]) -> str:
    """The table of a run's metrics, its columns aligned so that it reads as text too."""
    cells = [HEAD, *_rows(metrics)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(HEAD))]
    rule = [("-" * (width - 1) + ":") if column in RIGHT else "-" * width for column, width in enumerate(widths)]
    return "\n".join(f"| {' | '.join(_aligned(row, widths))} |" for row in [HEAD, rule, *cells[1:]])


def notices(metrics: Mapping[str, Any]) -> list[str]:
    """What the attacks themselves noticed: their warnings, and claims that did not hold."""
    said = []
    for name, cell in metrics["attacks"].items():
        said += [f"{words.column_title(name)} warned: {flag}" for flag in cell["flags"]]
        if cell["refuted_claims"]:
            said.append(
                f"{words.column_title(name)} claimed {words.count(cell['refuted_claims'], 'picture')} that did not "
                "hold when it was checked; they count as not broken"
            )
    return said


def gates(metrics: Mapping[str, Any]) -> list[str]:
    """Which validity gates were passed, and by which figures; empty where none were asked."""
    said = {True: "passed", False: "**failed**"}
    return [f"{said[gate['passed']]}: {TITLES[name]} ({gate['said']})" for name, gate in _gates(metrics).items()]


def failed_gates(metrics: Mapping[str, Any]) -> list[str]:
    return [TITLES[name] for name, gate in _gates(metrics).items() if not gate["passed"]]


def _gates(metrics: Mapping[str, Any]) -> Mapping[str, Any]:
    examined = metrics["examination"]
    found: Mapping[str, Any] = examined["gates"] if examined else {}
    return found


def _rows(metrics: Mapping[str, Any]) -> list[tuple[str, ...]]:
    rows = []
    for name, cell in metrics["attacks"].items():
        attack = cell["attack"]
        ball = "" if attack["kind"] == "clean" else words.ball_of(attack)
        last = ", last epoch" if attack.get("weights") == "last" else ""
        rows.append((words.column_title(name) + last, ball, *_numbers(cell), words.duration(cell["cost"]["seconds"])))
    worst = metrics["worst"]
    if worst and len(worst["attacks"]) > 1:
        rows.append((words.column_title(WORST), words.ball_of(metrics["threat"]), *_numbers(worst), ""))
    return rows


def _numbers(cell: Mapping[str, Any]) -> tuple[str, ...]:
    value = f"{words.percent(cell['mean'], cell['n'])} %"
    spread = f" ± {words.percent(cell['std'], cell['n'])}" if cell["std"] is not None else ""
    seeds = ", ".join(map(str, cell["seeds"]))
    return value + spread, words.interval(cell), f"{cell['n']:,}", seeds


def _aligned(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [
        cell.rjust(width) if column in RIGHT else cell.ljust(width)
        for column, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
