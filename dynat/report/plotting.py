"""What all figures share: one style, one color per run, labels that do not overlap, files that are the same bytes for
the same numbers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import seaborn as sns
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import PercentFormatter
from matplotlib.transforms import Bbox

from dynat.config import Checkpoint, Run
from dynat.runtime.files import atomic_text, atomic_write

WIDTH = 9.0
"""Inches: at 150 dots each, a README shows it at two thirds, and text of 10 points stays readable."""

INK, FAINT, GRID = "#1f2430", "#69707d", "#e4e7ec"
RIGHT, WRONG = "#0072b2", "#d55e00"

# Okabe and Ito's colors that are visible as a line on white, then four of Tol's; safe for color blindness.
DYNAMIC, COUPLED, UNDEFENDED = "#d55e00", "#0072b2", "#7f8794"
OTHERS = ("#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#332288", "#882255", "#999933", "#44aa99", "#000000")

HALO = [withStroke(linewidth=3, foreground="white")]
"""Keeps a name readable over a line."""

STYLE: dict[Any, Any] = {
    **sns.axes_style("ticks"),
    "axes.edgecolor": FAINT,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.labelsize": 10,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10.5,
    "figure.dpi": 150,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10,
    "grid.color": GRID,
    "lines.linewidth": 2.0,
    "svg.fonttype": "path",
    "svg.hashsalt": "dynat",
    "text.color": INK,
    "xtick.color": FAINT,
    "xtick.labelsize": 9,
    "ytick.color": FAINT,
    "ytick.labelsize": 9,
}


@dataclass(frozen=True)
class Drawn:
    """A figure and its caption."""

    figure: Figure
    caption: str


def colors(rows: Mapping[str, Run | Checkpoint]) -> dict[str, str]:
    """The color of each row: the first DYNAT, the first LBGAT and natural training always have the same."""
    chosen: dict[str, str] = {}
    for name, run in rows.items():
        if isinstance(run, Checkpoint):
            continue
        fixed = UNDEFENDED if run.method == "natural" else COUPLED if run.method == "lbgat" else None
        fixed = DYNAMIC if run.labels == "dynamic" else fixed
        if fixed and fixed not in chosen.values():
            chosen[name] = fixed
    rest = [name for name in rows if name not in chosen]
    return chosen | {name: OTHERS[place % len(OTHERS)] for place, name in enumerate(rest)}


def canvas(height: float, title: str, subtitle: str, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure of the report's width with its title above, and `columns` axes side by side (titled, if several)."""
    figure = Figure(figsize=(WIDTH, height))
    figure.text(0.012, 1 - 0.11 / height, title, size=12.5, weight="bold", va="top")
    figure.text(0.012, 1 - 0.39 / height, subtitle, size=9.5, color=FAINT, va="top")
    axes = figure.subplots(1, columns, squeeze=False)[0]
    figure.subplots_adjust(left=0.082, right=0.985, top=1 - (0.8 if columns == 1 else 1) / height, bottom=0.55 / height)
    return figure, list(axes)


def without_data(title: str) -> Figure:
    """The file of a declared figure that these results hold no data for."""
    figure = Figure(figsize=(WIDTH, 0.8))
    figure.text(0.012, 0.86, title, size=12.5, weight="bold", va="top")
    figure.text(0.012, 0.48, "These results hold no data for this figure.", size=9.5, color=FAINT, va="top")
    return figure


def room(names: Iterable[str]) -> float:
    """The share of the width that the longest of these names needs beside the axes."""
    return 0.035 + 0.0086 * max((len(name) for name in names), default=0)


def percent_axis(axis: Any) -> None:
    axis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))


def matrix_axes(axes: Axes, *, slanted: bool) -> None:
    """Names around a matrix of cells: no ticks, no grid; long ones slanted."""
    axes.grid(False)
    axes.tick_params(length=0, labelcolor=INK)
    axes.tick_params(axis="y", rotation=0)
    axes.tick_params(axis="x", rotation=30 if slanted else 0)


def end_labels(axes: Axes, ends: Sequence[tuple[float, str, str, float]]) -> None:
    """Names right of the lines that end at the heights given as (height, name, color, opacity), pushed apart.

    Limits of the axes must be final.
    """
    bottom, top = axes.get_ylim()
    wide, high = axes.get_position().size * axes.figure.get_size_inches()  # type: ignore[union-attr]
    gap = 0.165 / high
    if len(ends) * gap > 1:  # more names than room: closer, rather than beyond the axes
        gap = 1 / len(ends)
    ordered = sorted(ends, key=lambda end: end[0])
    heights = [(end[0] - bottom) / (top - bottom) for end in ordered]
    leader = {"arrowstyle": "-", "alpha": 0.5, "lw": 0.7, "shrinkA": 1, "shrinkB": 0, "relpos": (0, 0.5)}
    for (_, name, color, opacity), true, shown in zip(ordered, heights, spread(heights, gap), strict=True):
        axes.annotate(
            name,
            xy=(1.0, true),
            xytext=(1 + 0.17 / wide, shown),
            xycoords="axes fraction",
            textcoords="axes fraction",
            va="center",
            size=9,
            color=color,
            alpha=max(opacity, 0.9),
            weight="bold" if opacity == 1 else "normal",
            arrowprops={**leader, "color": color},
            annotation_clip=False,
        )


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Ascending heights in [0,1] moved as little as needed to be `gap` apart and to stay in [0,1]: touching
    ones share their center."""
    groups: list[list[float]] = []  # [sum of heights, how many]
    for height in heights:
        groups.append([height, 1])
        while len(groups) > 1 and _low(groups[-1], gap) < _high(groups[-2], gap) + gap:
            total, many = groups.pop()
            groups[-1] = [groups[-1][0] + total, groups[-1][1] + many]
    return [_low(group, gap) + place * gap for group in groups for place in range(int(group[1]))]


def _low(group: Sequence[float], gap: float) -> float:
    reach = gap * (group[1] - 1)
    return max(0.0, min(1.0 - reach, group[0] / group[1] - reach / 2))


def _high(group: Sequence[float], gap: float) -> float:
    return _low(group, gap) + gap * (group[1] - 1)


def point_labels(axes: Axes, points: Sequence[tuple[float, float, str, str]]) -> None:
    """Names beside points (x, y, name, color), each where it covers least: greedy over places around it."""
    axes.autoscale_view()  # settles the limits, on which the places of points depend
    renderer = axes.figure._get_renderer()  # type: ignore[union-attr]
    frame = axes.get_window_extent(renderer)
    centers = [axes.transData.transform((x, y)) for x, y, _, _ in points]
    taken = [Bbox.from_bounds(x - 12, y - 12, 24, 24) for x, y in centers]
    places = [(dx, dy, ha) for r in (9, 20, 32) for dx, dy, ha in _around(r)]
    for x, y, name, color in points:
        best: tuple[float, Any, Any] | None = None
        for rank, (dx, dy, ha) in enumerate(places):
            label = axes.annotate(
                name,
                (x, y),
                (dx, dy),
                textcoords="offset points",
                ha=ha,
                va="center",
                size=9.5,
                weight="bold",
                color=color,
                path_effects=HALO,
            )
            box = label.get_window_extent(renderer)
            outside = box.width * box.height - _overlap(box, frame)
            cost = sum(_overlap(box, other) for other in taken) + 4 * outside + 4 * rank
            if best is None or cost < best[0]:
                if best is not None:
                    best[1].remove()
                best = (cost, label, box)
            else:
                label.remove()
        assert best is not None
        taken.append(best[2])


def side_list(axes: Axes, entries: Sequence[tuple[str, str, str]]) -> None:
    """Right of the axes, from the top: what each number (number, name, color) stands for."""
    wide, high = axes.get_position().size * axes.figure.get_size_inches()  # type: ignore[union-attr]
    for line, (number, name, color) in enumerate(entries):
        place: dict[str, Any] = {"transform": axes.transAxes, "size": 9, "color": color, "va": "top", "clip_on": False}
        axes.text(1 + 0.32 / wide, 1 - line * 0.19 / high, number, ha="right", weight="bold", **place)
        axes.text(1 + 0.40 / wide, 1 - line * 0.19 / high, name, **place)


def _around(radius: float) -> list[tuple[float, float, str]]:
    up = radius * 0.9
    return [
        (radius, up, "left"),
        (radius, -up, "left"),
        (-radius, up, "right"),
        (-radius, -up, "right"),
        (0, up + 4, "center"),
        (0, -up - 4, "center"),
        (radius + 2, 0, "left"),
        (-radius - 2, 0, "right"),
    ]


def _overlap(first: Bbox, second: Bbox) -> float:
    shared = Bbox.intersection(first, second)
    return 0.0 if shared is None else float(shared.width * shared.height)


def save(figure: Figure, svg: Path, png: Path) -> None:
    """The figure in both formats, without dates, versions or random names inside."""
    nothing = {"Date": None, "Creator": None, "Type": None, "Format": None}
    with rc_context(STYLE):
        atomic_write(png, lambda path: figure.savefig(path, format="png", dpi=150, metadata={"Software": None}))
        atomic_write(svg, lambda path: figure.savefig(path, format="svg", metadata=nothing))
    atomic_text(svg, standalone(svg.read_text(encoding="utf-8")))


def standalone(svg: str) -> str:
    """An SVG without addresses of the network: document type and metadata, which nothing draws, are removed."""
    svg = re.sub(r"<!DOCTYPE[^>]*>\s*", "", svg)
    return re.sub(r"\s*<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
