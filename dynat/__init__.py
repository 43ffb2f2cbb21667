"""dynat: Dynamic Label Adversarial Training and its baselines, trained, attacked and reported alike.

Functions for Python programs: `evaluate`, `attack`, `train`, `load`, `compare` (docs/api.md).
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"
__all__ = ["attack", "compare", "evaluate", "load", "train"]


def __getattr__(name: str) -> Any:
    """The functions of `dynat.api`, which imports torch: `import dynat` alone does not."""
    if name in __all__:
        return getattr(importlib.import_module("dynat.api"), name)
    raise AttributeError(f"module 'dynat' has no attribute '{name}'")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
