"""The names in a config: which can be the name of a file, and what the name of an attack says about it."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator

from dynat.config import registry
from dynat.config.base import shortened

MAX_LENGTH = 100
"""Characters of a name; a file name may have 255, and a row and an attack share the name of a log."""

RESERVED = {
    "run": re.compile(r"tables|figures|accuracy|.*\.(html|csv|json)", re.IGNORECASE),
    "attack": re.compile(r"sanity", re.IGNORECASE),
    "preset": re.compile(r"(?!)"),
}
"""By kind of name: what lies beside the folders or files that are named by it (`dynat.results.paths`, logs)."""

SYNONYMS = {
    "aa": ("autoattack",),
    "auto-attack": ("autoattack",),
    "apgd": ("apgd-ce", "apgd-dlr", "apgd-t"),
    "auto-pgd": ("apgd-ce", "apgd-dlr", "apgd-t"),
}
"""Other names of attacks, and the kinds that each can mean."""


def file_name(name: str, kind: str) -> str:
    """The name, if it can be the name of a file in every shell and file system."""
    shown = shortened(name)
    if len(name) > MAX_LENGTH:
        raise ValueError(
            f"'{shown}' has {len(name)} characters and becomes the name of a folder or file: at most {MAX_LENGTH}"
        )
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ValueError(
            f"'{shown}' becomes the name of a folder or file: letters, digits, '.', '-', '_' only, the first one a "
            "letter or digit"
        )
    if RESERVED[kind].fullmatch(name):
        raise ValueError(f"'{name}' is the name of a file of the results: choose another name")
    return name


def as_run_name(text: str) -> str:
    """A name for a run that resembles the text."""
    name = re.sub(r"[^A-Za-z0-9._-]|^[^A-Za-z0-9]+", "-", text).strip("-._")[:MAX_LENGTH] or "checkpoint"
    return f"{name}-checkpoint" if RESERVED["run"].fullmatch(name) else name


RunName = Annotated[str, AfterValidator(lambda name: file_name(name, "run"))]
AttackName = Annotated[str, AfterValidator(lambda name: file_name(name, "attack"))]
PresetName = Annotated[str, AfterValidator(lambda name: file_name(name, "preset"))]


def attack_from_name(name: str) -> dict[str, Any]:
    """`pgd-20`, `cw-100` and `square-500` say their kind and steps by themselves; a bare kind is its own name."""
    counted = re.fullmatch(r"(pgd|cw|square)-([0-9]+)", name)
    if counted:
        return {"kind": counted[1], "steps": int(counted[2])}
    return {"kind": name} if name in registry.ATTACKS else {}


def refuse_false_name(name: str, kind: str, steps: int | None) -> None:
    """`ValueError` if the name of an attack says another kind or number of steps than its settings."""
    said_kinds, said_steps = _said(name)
    right = kind if steps is None else f"{kind}-{steps}"
    if said_kinds and kind not in said_kinds:
        raise ValueError(f"the name says {' or '.join(said_kinds)}, and its kind is {kind}: name it '{right}', say")
    if said_kinds and steps is not None and said_steps not in (None, steps):
        raise ValueError(f"the name says {said_steps} steps, and it has {steps}: name it '{right}', say")


def _said(name: str) -> tuple[tuple[str, ...], int | None]:
    """The kinds that the first attack in a name can mean, and the number after it."""
    words = _words(name)
    kinds = {kind: (kind,) for kind in registry.ATTACKS} | SYNONYMS
    longest_first = sorted(((_words(text), meant) for text, meant in kinds.items()), key=lambda entry: -len(entry[0]))
    for start in range(len(words)):
        for sought, meant in longest_first:
            end = start + len(sought)
            if words[start:end] == sought:
                number = words[end] if end < len(words) and words[end].isdigit() else None
                return meant, None if number is None else int(number)
    return (), None


def _words(name: str) -> list[str]:
    """Runs of letters and runs of digits, so that `PGD20` and `pgd-20` are the same words."""
    return re.findall(r"[a-z]+|[0-9]+", name.lower())
