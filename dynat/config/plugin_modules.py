"""Plug-ins: modules of the user that add methods, networks, data sources or attacks to the tables of `registry`."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

from dynat.config import registry
from dynat.config.base import ConfigError, shortened
from dynat.runtime.errors import UserError

_PLUGINS_ALLOWED: ContextVar[bool] = ContextVar("plugins_allowed", default=False)


@contextmanager
def plugins_allowed(allowed: bool = True) -> Iterator[None]:
    """Whether plug-ins that a file of results names may be imported."""
    token = _PLUGINS_ALLOWED.set(allowed)
    try:
        yield
    finally:
        _PLUGINS_ALLOWED.reset(token)


def import_plugins(modules: Iterable[str]) -> None:
    """Run the modules that the user's own config names; each adds its entries to the tables of `registry`."""
    for module in modules:
        if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*", module):
            raise ConfigError(f"plugins: '{shortened(module)}' is not the name of a Python module, such as my_method")
        before = _entries()
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"plugins: module '{module}' cannot be imported ({error}); "
                "is its folder on PYTHONPATH or its package installed?"
            ) from None
        if added := _entries() - before:
            _ADDED[module] = frozenset(name for _, name in added)


def plugins_of(modules: Iterable[str], *names: str | None) -> tuple[str, ...]:
    """Those of the plug-ins that add one of these methods, networks or attacks; and those of which nobody knows what
    they do. A job that uses no plug-in has the same settings as before there was one."""
    return tuple(module for module in modules if module not in _ADDED or _ADDED[module] & set(names))


_ADDED: dict[str, frozenset[str]] = {}
"""Plug-in to the names that it added to the tables of `registry`."""


def _entries() -> set[tuple[int, str]]:
    tables: tuple[Mapping[str, object], ...] = (
        registry.METHODS, registry.NETWORKS, registry.SOURCES, registry.ATTACKS
    )  # fmt: skip
    return {(number, name) for number, table in enumerate(tables) for name in table}


def require_plugins(modules: object, where: str) -> None:
    """The plug-ins that a file of results names. They are code, so a file alone does not make them run.

    Nothing is imported unless the config named them already, or the caller allowed it.
    """
    named = modules if isinstance(modules, list | tuple) else []
    missing = [name for name in named if isinstance(name, str) and name not in sys.modules]
    if missing and not _PLUGINS_ALLOWED.get():
        raise UserError(
            f"{where}: names plugins ({shortened(', '.join(missing))}), which are Python code and were not run. If you "
            "trust them, name them in plugins: of params.yaml, or give --allow-plugins to dynat export, metrics or diff"
        )
    import_plugins(missing)
