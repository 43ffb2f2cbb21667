"""Errors that a person can act on. Only these become a sentence instead of a traceback."""

from __future__ import annotations


class UserError(ValueError):
    """Something the user gave cannot be used. Its text says what, why and the way out; exit code 2."""


class JobError(RuntimeError):
    """A job that was set up correctly could not finish. Its text says why and how to continue; exit code 1."""
