"""Snakemake's default limit on the rate of job starts, and why the pipeline removes it."""

from __future__ import annotations

from typing import Any

DEFAULT = (100, 1)
"""Of `--max-jobs-per-timespan`: jobs and seconds."""


def remove_default_rate_limit(scheduler: Any) -> None:
    """Let jobs start as soon as others finish; a limit that the user gave is kept.

    While there is a limit, Snakemake (9.27) considers all waiting jobs again one second after each time that it
    considered them, and every finished job adds a series of its own. With 90 waiting jobs this takes a fifth of a core.
    """
    limit = getattr(scheduler, "job_rate_limiter", None)
    if limit is not None and (limit.max_jobs, limit.timespan) == DEFAULT:
        scheduler.job_rate_limiter = None
