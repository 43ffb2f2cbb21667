"""Where names are written in figures: beside points and right of lines, never on another name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from matplotlib.text import Text
from matplotlib.transforms import Bbox

LINE = 0.165
"""Inches from one name to the next in a column of names."""

HALO = [withStroke(linewidth=3, foreground="white")]
"""Keeps a name readable over a line."""


def end_labels(axes: Axes, ends: Sequence[tuple[float, str, str, float]]) -> None:
    """Names right of the lines that end at the heights given as (height, name, color, opacity), pushed apart.

    Limits of the axes must be final, and the axes high enough for a `LINE` per name.
    """
    bottom, top = axes.get_ylim()
    wide, high = axes.get_position().size * axes.figure.get_size_inches()  # type: ignore[union-attr]
    gap = LINE / high
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


FAR = 20
"""Beyond so many points of distance, a line connects a name with what it names."""

Points = Sequence[tuple[float, float, str, str]]
"""x, y, name, color."""


def in_column(axes: Axes, points: Points) -> None:
    """Names right of the axes, each with a line to its point. Limits of the axes must be final."""
    bottom, top = axes.get_ylim()
    wide, high = axes.get_position().size * axes.figure.get_size_inches()  # type: ignore[union-attr]
    ordered = sorted(points, key=lambda point: point[1])
    heights = [(y - bottom) / (top - bottom) for _, y, _, _ in ordered]
    for (x, y, name, color), shown in zip(ordered, spread(heights, LINE / high), strict=True):
        axes.annotate(
            name, xy=(x, y), xytext=(1 + 0.1 / wide, shown), textcoords="axes fraction", va="center", size=9,
            weight="bold", color=color, annotation_clip=False,
            arrowprops={**_leader(color), "relpos": (0, 0.5)},
        )  # fmt: skip


def _leader(color: str) -> dict[str, Any]:
    """Dotted: bars of intervals are solid lines of the same color."""
    return {"arrowstyle": "-", "lw": 0.9, "ls": (0, (1, 2)), "shrinkA": 1, "shrinkB": 4, "color": color}


def beside(axes: Axes, points: Points) -> bool:
    """Each name beside its point where it covers least, greedy over places around it. False, and no names, if one
    would cover another name or a point, or two points cover each other."""
    axes.autoscale_view()  # settles the limits, on which the places of points depend
    renderer = axes.figure._get_renderer()  # type: ignore[union-attr]
    frame = axes.get_window_extent(renderer)
    centers = [axes.transData.transform((x, y)) for x, y, _, _ in points]
    marks = [Bbox.from_bounds(x - 5, y - 5, 10, 10) for x, y in centers]
    if _any_overlap(marks):
        return False
    taken = [Bbox.from_bounds(x - 12, y - 12, 24, 24) for x, y in centers]
    places = [(dx, dy, ha) for r in (9, 20, 32) for dx, dy, ha in _around(r)]
    labels = []
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
                arrowprops=_leader(color) if abs(dx) + abs(dy) > FAR else None,
            )
            label.update_positions(renderer)
            box = Text.get_window_extent(label, renderer)  # without the line
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
        labels.append(best[1])
    crowded = _any_overlap([*marks, *taken[len(points) :]])
    for label in labels if crowded else ():
        label.remove()
    return not crowded


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


def _any_overlap(boxes: Sequence[Bbox]) -> bool:
    return any(_overlap(box, other) > 0 for place, box in enumerate(boxes) for other in boxes[:place])


def _overlap(first: Bbox, second: Bbox) -> float:
    shared = Bbox.intersection(first, second)
    return 0.0 if shared is None else float(shared.width * shared.height)
