"""What an attack is expected to cost, without torch: for the time left, and for sharing an attack among jobs."""

from __future__ import annotations

from dynat.config import registry
from dynat.config.attacks import AttackConfig

GRADIENT = 3
"""A gradient costs about as much as three forward passes, together with the one that it starts from."""

ITERATIONS = 100
"""Of each run of APGD and FAB."""
OTHERS = 9
"""Other classes: the target classes of APGD-T and FAB-T, and those for which FAB computes a gradient."""


def expected_cost(attack: AttackConfig) -> float:
    """Forward passes, or as much as them, per image that is not broken. Only as right as the time left must be."""
    return sum(part_cost(kind, attack) for kind in registry.attack_parts(attack.kind))


def part_cost(kind: str, attack: AttackConfig) -> float:
    """The same of one part of an attack."""
    l1, plus = attack.norm == "l1", attack.kind == "autoattack-plus"
    if kind in ("apgd-ce", "apgd-dlr"):
        restarts = 5 if plus or (l1 and attack.kind != "autoattack-rand") else 1
        return GRADIENT * ITERATIONS * restarts * (attack.eot or 1)
    if kind == "apgd-t":
        return GRADIENT * ITERATIONS * (5 if l1 else OTHERS)
    if kind == "fab":
        return (2 + 2 * (OTHERS + 1)) * ITERATIONS * (5 if plus else 1)
    if kind == "fab-t":
        return (GRADIENT + 1) * ITERATIONS * OTHERS
    steps = attack.steps or registry.ATTACKS[kind].steps or 1
    if kind == "square":
        return steps
    return 1 + GRADIENT * steps * attack.restarts * (attack.binary_search_steps or 1) * registry.ATTACKS[kind].searches
