"""What an attack is expected to cost, without torch: for the time left, and for sharing an attack among jobs."""

from __future__ import annotations

from dynat.config import registry
from dynat.config.attacks import AttackConfig

GRADIENT = 3
"""A gradient costs about as much as three forward passes, together with the one that it starts from."""

AUTOATTACK = {"apgd-ce": GRADIENT * 100, "apgd-t": GRADIENT * 900, "fab-t": GRADIENT * 900 + 900}
"""Forward passes, or as much as them, per image that such a part does not break, with nine target classes."""


def expected_cost(attack: AttackConfig) -> float:
    """Forward passes, or as much as them, per image that is not broken. Only as right as the time left must be."""
    return sum(part_cost(kind, attack) for kind in registry.attack_parts(attack.kind))


def part_cost(kind: str, attack: AttackConfig) -> float:
    """The same of one part of an attack."""
    if kind in AUTOATTACK:
        return AUTOATTACK[kind]
    steps = attack.steps or registry.ATTACKS[kind].steps or 1
    if kind == "square":
        return steps
    return 1 + GRADIENT * steps * attack.restarts * (attack.binary_search_steps or 1) * registry.ATTACKS[kind].searches
