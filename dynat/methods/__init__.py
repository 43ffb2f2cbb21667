"""Adversarial training methods: each is a loss on the target given labels, found by name."""

from __future__ import annotations

from dynat.config import Run, Threat, names
from dynat.inner import Ball
from dynat.methods.base import Found, Lesson, Method, Parts, objective_for
from dynat.methods.labels import LABEL_SOURCES

__all__ = ["LABEL_SOURCES", "Found", "Lesson", "Method", "Parts", "build", "objective_for"]


def build(run: Run, threat: Threat) -> Method:
    """The method that a run names, set up as the run says."""
    eps = run.inner.eps if run.inner.eps is not None else threat.eps
    made = names.locate(names.METHODS[run.method].where)(run, Ball(threat.norm, eps))
    assert isinstance(made, Method)
    return made
