"""What the report writes beside what it always writes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from dynat.config.base import StrictModel


def _formats(value: object) -> object:
    return (value,) if isinstance(value, str) else value


class ReportConfig(StrictModel):
    """Settings of tables, figures and report.html; they change no number."""

    formats: Annotated[tuple[Literal["svg", "png", "pdf"], ...], BeforeValidator(_formats), Field(max_length=3)] = ()
    """Formats of the figures. SVG and PNG are always written; `[pdf]` adds PDF with embedded fonts, for LaTeX."""
