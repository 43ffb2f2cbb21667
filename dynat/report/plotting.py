"""What all figures share: one style, one color per run, files that are the same bytes for the same numbers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import seaborn as sns
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import AutoLocator

from dynat.config import Checkpoint, Experiment, Run
from dynat.report.selection import compared, not_compared
from dynat.runtime.files import atomic_text, atomic_write

WIDTH = 9.0
"""Inches: at 150 dots each, a README shows it at two thirds, and text of 10 points stays readable."""

LONGEST = 26
"""Characters of a name in a figure; of a longer one the middle is left out."""

INK, FAINT, GRID = "#1f2430", "#69707d", "#e4e7ec"
RIGHT, WRONG = "#0072b2", "#d55e00"

# Okabe and Ito's colors that are visible as a line on white, then four of Tol's; safe for color blindness.
DYNAMIC, COUPLED, UNDEFENDED = "#d55e00", "#0072b2", "#7f8794"
OTHERS = ("#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#332288", "#882255", "#999933", "#44aa99", "#000000", "#661100")

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
    "axes.titley": 1.0,
    "figure.dpi": 150,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10,
    "grid.color": GRID,
    "lines.linewidth": 2.0,
    "pdf.fonttype": 42,  # TrueType, which publishers ask for
    "svg.fonttype": "path",
    "svg.hashsalt": "dynat",
    "text.color": INK,
    "text.parse_math": False,  # a class may be called US$
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


def colors_of(experiment: Experiment) -> dict[str, str]:
    """The color of each row in every figure: those that figures compare have different ones."""
    rows = experiment.rows
    return colors({name: rows[name] for name in (*compared(experiment), *not_compared(experiment))})


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


def names_of(experiment: Experiment) -> dict[str, str]:
    """What each row is called in every figure."""
    return shortened(experiment.rows)


def shortened(names: Iterable[str]) -> dict[str, str]:
    """Each name with at most `LONGEST` characters; no two become the same."""
    texts: dict[str, str] = {}
    for name in names:
        half = LONGEST // 2
        text = name if len(name) <= LONGEST else f"{name[: half - 1]}…{name[-half:]}"
        number = 1
        while text in texts.values():
            number += 1
            text = f"{name[: LONGEST - 6]}…({number})"
        texts[name] = text
    return texts


def canvas(height: float, title: str, subtitle: str, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure of the report's width with its title above, and `columns` axes side by side (titled, if several)."""
    figure = Figure(figsize=(WIDTH, height))
    FigureCanvasAgg(figure)  # it keeps one renderer; without it, each measured text makes a renderer of its own
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


def room_below(names: Iterable[str]) -> float:
    """The inches that the longest of these names needs below the axes if it is slanted, with the title of the axis."""
    return 0.52 + 0.036 * max((len(name) for name in names), default=0)


def percent_axis(axis: Any) -> None:
    """Ticks in percent, with all the digits that they have."""
    axis.set_major_locator(AutoLocator())
    axis.get_major_locator().set_params(steps=[1, 2, 5, 10])
    axis.set_major_formatter(lambda value, _: f"{round(100 * value, 6):g}%")


def matrix_axes(axes: Axes, *, slanted: bool) -> None:
    """Names around a matrix of cells: no ticks, no grid; long ones slanted."""
    axes.grid(False)
    axes.tick_params(length=0, labelcolor=INK)
    axes.tick_params(axis="y", rotation=0)
    axes.tick_params(axis="x", rotation=30 if slanted else 0)


def grid(height: float, title: str, subtitle: str, lines: int, columns: int) -> tuple[Figure, list[Axes]]:
    """A figure of many small axes, all on the same scale, line by line."""
    figure, (first,) = canvas(height, title, subtitle)
    first.remove()
    axes = figure.subplots(lines, columns, squeeze=False)
    figure.subplots_adjust(left=0.06, top=1 - 1.05 / height, bottom=0.3 / height, wspace=0.1, hspace=0.5)
    return figure, list(axes.flat)


def key(figure: Figure, entries: Sequence[tuple[str, str]]) -> None:
    """What each color (title, color) stands for, in a line below the subtitle."""
    height, renderer = figure.get_figheight(), figure._get_renderer()  # type: ignore[attr-defined]
    left = 0.012
    for title, color in entries:
        text = figure.text(left, 1 - 0.6 / height, f"● {title}", size=9, weight="bold", color=color, va="top")
        left += text.get_window_extent(renderer).width / figure.bbox.width + 0.02


METADATA: dict[str, dict[str, None]] = {
    "svg": {"Date": None, "Creator": None, "Type": None, "Format": None},
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
"""What each format would say about when and with which version it was written."""


def save(figure: Figure, to: Iterable[Path]) -> None:
    """The figure in the formats of these files, without dates, versions or random names inside."""
    for file in to:
        ending = file.suffix[1:]

        def write(draft: Path, ending: str = ending) -> None:
            figure.savefig(draft, format=ending, dpi=150, metadata=METADATA[ending])

        with rc_context(STYLE):
            atomic_write(file, write)
        if ending == "svg":
            atomic_text(file, standalone(file.read_text(encoding="utf-8")))


def standalone(svg: str) -> str:
    """An SVG without addresses of the network: document type and metadata, which nothing draws, are removed."""
    svg = re.sub(r"<!DOCTYPE[^>]*>\s*", "", svg)
    return re.sub(r"\s*<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
