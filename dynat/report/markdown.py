"""The one printer of Markdown tables, and the one place that escapes text."""

from __future__ import annotations

import re
from collections.abc import Container, Sequence


def escape(text: str) -> str:
    """Text of others (class names, paths, warnings) so that Markdown and HTML show it as it is, on one line."""
    shown = re.sub(r"([\\`*_|~$]|\](?=[(\[:]))", r"\\\1", " ".join(text.split()))
    return shown.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("://", "&#58;//")


def markdown_table(
    head: Sequence[str], rows: Sequence[Sequence[str]], *, right: Container[int] = (), padded: bool = False
) -> str:
    """A table; the columns `right` are aligned to the right. `padded`: readable as plain text too."""
    if not padded:
        rule = ["---:" if column in right else ":---" for column in range(len(head))]
        lines = [f"| {' | '.join(head)} |", f"|{'|'.join(rule)}|", *(f"| {' | '.join(row)} |" for row in rows)]
        return "\n".join(lines)
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    rule = [("-" * (width - 1) + ":") if column in right else "-" * width for column, width in enumerate(widths)]

    def line(row: Sequence[str]) -> str:
        cells = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return f"| {' | '.join(cells)} |"

    return "\n".join([line(head), line(rule), *map(line, rows)])
