"""How an attack on the networks of a run is shared among jobs: each takes some of the batches.

A batch has its own seed, so a verdict does not depend on the job that finds it.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from dynat.config import registry
from dynat.config.attack_cost import expected_cost
from dynat.config.attacks import AttackConfig
from dynat.config.base import MAX_SHARDS, ConfigError, shortened

SHARD_COST = 10_000_000
"""Forward passes of a shard, or as much as them, with `shards: auto`: about 900 images under AutoAttack."""


@dataclass(frozen=True)
class Shard:
    """Every `count`-th batch, starting with the one of this number, counted from 1 over the seeds."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """The shard of a name such as 2-of-4."""
        found = re.fullmatch(r"([1-9][0-9]{0,3})-of-([1-9][0-9]{0,3})", text)
        if not found or not int(found[1]) <= int(found[2]) <= MAX_SHARDS:
            raise ConfigError(f"shard '{shortened(text)}': write 2-of-4 for the second of four")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.number}-of-{self.count}"

    def batches(self, seed: int, per_seed: int) -> list[int]:
        """Its batches of the network of the seed with this position; every network has so many."""
        return [batch for batch in range(per_seed) if (seed * per_seed + batch) % self.count == self.number - 1]


def shard_count(shards: int | str, attack: AttackConfig, seeds: int, test_images: int | None) -> int:
    """How many jobs share an attack on the networks of so many seeds; at most one per batch of images.

    `test_images` is None where their number is not known before the data set is prepared.
    """
    if shards == 1 or not registry.ATTACKS[attack.kind].searches:
        return 1
    known = [count for count in (attack.images, test_images) if count is not None]
    images = min(known) if known else None
    if shards == "auto":
        most = 1 if images is None else int(expected_cost(attack) * images * seeds / SHARD_COST)
    else:
        most = int(shards)
    batches = most if images is None else math.ceil(images / attack.batch) * seeds
    return max(1, min(most, batches, MAX_SHARDS))
