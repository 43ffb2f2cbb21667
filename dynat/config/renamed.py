"""Keys and values that had another name in earlier versions: an old config gets a message with the new name."""

from __future__ import annotations

from collections.abc import Container

RENAMED_KEYS: dict[str, str] = {
    "pictures": "images",
    "optimiser": "optimizer",
    "compiled": "compile",
    "captured": "cuda_graph",
    "view": "surrogate",
    "searches": "binary_search_steps",
    "probing": "sanity",
    "large": "large_eps",
    "of": "reference_epochs",
    "external": "checkpoints",
    "checkpoint": "file",
    "network": "arch",
}
"""Old key to new key. An entry counts only where the new name is a key."""

ALIASES: dict[str, str] = {"methods": "select"}
"""Old top-level keys that are still accepted, with a notice."""

RENAMED_VALUES: dict[str, str] = {"own": "method"}
"""Old to new value of `inner.objective` and `awp.proxy`."""

RETIRED_METHODS: dict[str, str] = {
    "external": "a third-party checkpoint is not a method; name it in the section 'checkpoints'"
}
"""Methods of earlier versions that no longer exist, with what replaces them."""


def renamed_key(key: str, known: Container[str]) -> str | None:
    """The new name of an old key where it is one of the `known` keys."""
    new = RENAMED_KEYS.get(key)
    return new if new is not None and new in known else None


def current_value(value: object) -> object:
    """Refuse the old name of a value and say the new one."""
    if isinstance(value, str) and value in RENAMED_VALUES:
        raise ValueError(f"'{value}' is now '{RENAMED_VALUES[value]}'")
    return value
