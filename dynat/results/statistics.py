"""The statistics behind every table: an interval, a paired test, a correction for many tests.

Wilson, J. Am. Stat. Assoc. 22 (1927) 209; McNemar, Psychometrika 12 (1947) 153, in its exact form; Holm,
Scand. J. Statist. 6 (1979) 65. All closed forms, no resampling: the same outcomes give the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, ndtri


def wilson(successes: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """The score interval of a share. `successes` may be fractional: an image's share of seeds is one vote."""
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"wilson: {successes:g} of {n} is not a share")
    z = float(ndtri(0.5 + confidence / 2))
    share = successes / n
    center = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low = 0.0 if successes == 0 else max(0.0, center - half)
    high = 1.0 if successes == n else min(1.0, center + half)
    return low, high


@dataclass(frozen=True)
class Paired:
    """Two models on the same images: on how many only one of them is correct, and the p-value of that split."""

    n: int
    only_first: int
    only_second: int
    p: float


def mcnemar(first: NDArray[Any], second: NDArray[Any]) -> Paired:
    """The exact two-sided test of two verdict vectors over the same images.

    Entries are verdicts (0 or 1), or the number of seeds under which an image is correct: then each image
    casts one vote for the model with more, because seeds share their images and are no new evidence.
    """
    if first.shape != second.shape:
        raise ValueError(f"mcnemar: {first.shape} and {second.shape} are not the same images")
    only_first = int(np.count_nonzero(first > second))
    only_second = int(np.count_nonzero(first < second))
    discordant = only_first + only_second
    p = 2 * float(bdtr(min(only_first, only_second), discordant, 0.5)) if discordant else 1.0
    return Paired(n=first.size, only_first=only_first, only_second=only_second, p=min(1.0, p))


def holm(p_values: Sequence[float]) -> list[float]:
    """Step-down adjusted p-values in the order given: below 0.05 means rejected at a family error of 5 %."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, position in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[position]))
        adjusted[position] = highest
    return adjusted
