"""Adversarial training methods: each is a loss on the target given labels, found by name."""

from __future__ import annotations

from dynat.config import Run, ThreatModel, registry
from dynat.methods.base import AttackResult, LossTerms, Method, StepInputs
from dynat.pgd import Ball

__all__ = ["AttackResult", "LossTerms", "Method", "StepInputs", "build"]


def build(run: Run, threat: ThreatModel) -> Method:
    """The method that a run names, set up as the run says."""
    eps = run.inner.eps if run.inner.eps is not None else threat.eps
    method = registry.locate(registry.METHODS[run.method].where)(run, Ball(threat.norm, eps))
    assert isinstance(method, Method)
    return method
