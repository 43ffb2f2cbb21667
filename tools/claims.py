"""The claims of the paper and questions of ours, as comparisons between runs, each with a rule that gives its verdict.

A comparison is paired: the same test images, the seeds that both runs have. Its interval is over images (normal
approximation to the mean of the per-image differences, seeds averaged per image), so it describes these trained
networks; it is wide enough for 95 % over all comparisons of the claim together (Bonferroni). A run is higher or lower
than another only beyond that interval and in every seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import pandas as pd

SUPPORTED, NOT_SUPPORTED, UNCLEAR, NOT_TESTED = "supported", "not supported", "not distinguishable", "not tested"

MARGIN = 0.02
"""A gain below this share is no gain (claim c)."""

Correct = Callable[[str, str], "pd.Series[int] | None"]
"""Of a run and an attack: 1 or 0 by (seed, index); None where the run has no outcome of the attack."""


@dataclass(frozen=True)
class Difference:
    """Accuracy of `run` minus accuracy of `base` under one attack, or of two attacks on each (a gap)."""

    run: str
    base: str
    attack: str
    value: float
    low: float
    high: float
    images: int
    per_seed: Mapping[int, float]

    @property
    def higher(self) -> bool:
        """Beyond the interval, and in every seed."""
        return self.low > 0 and min(self.per_seed.values()) > 0

    @property
    def lower(self) -> bool:
        return self.high < 0 and max(self.per_seed.values()) < 0


@dataclass(frozen=True)
class Claim:
    letter: str
    text: str
    rule: str
    """How the verdict follows from the differences, in words."""
    preset: str
    pairs: tuple[tuple[str, str], ...]
    """(run, base): the differences are run minus base."""
    attacks: tuple[str, ...]
    """Attacks by name; `first - second` is the gap between the accuracies under two of them."""
    verdict: Callable[[Sequence[Difference]], str]
    beside: tuple[str, ...] = ()
    """Attacks that are shown where there are outcomes, and that the verdict does not read."""

    @property
    def comparisons(self) -> int:
        """How many differences the verdict reads."""
        return len(self.pairs) * len(self.attacks)


def difference(correct: Correct, run: str, base: str, attack: str, comparisons: int = 1) -> Difference | None:
    """Its interval is one of `comparisons` that hold all true values together in 95 % of cases. None where one of the
    two runs has no outcome, or they share no seed."""
    parts = attack.split(" - ")
    columns = [correct(name, part) for name in (run, base) for part in parts]
    if any(column is None for column in columns):
        return None
    signs = [1, -1] if len(parts) == 1 else [1, -1, -1, 1]
    table = pd.concat(columns, axis="columns", join="inner", keys=range(len(columns)))
    if table.empty:
        return None
    each: pd.Series[int] = table.mul(signs, axis="columns").sum(axis="columns")
    by_image = each.groupby(level="index").mean()
    width = NormalDist().inv_cdf(1 - 0.025 / comparisons)
    half = width * float(by_image.std(ddof=1)) / math.sqrt(len(by_image))
    mean = float(by_image.mean())
    seeds = {int(str(seed)): float(of_seed.mean()) for seed, of_seed in each.groupby(level="seed")}
    return Difference(run, base, attack, mean, mean - half, mean + half, len(by_image), seeds)


def differences(claim: Claim, correct: Correct) -> list[Difference]:
    """All that the verdict reads and that there are outcomes for, pair by pair."""
    return _differences(claim, claim.attacks, correct)


def beside(claim: Claim, correct: Correct) -> list[Difference]:
    """What is shown beside them."""
    return _differences(claim, claim.beside, correct)


def _differences(claim: Claim, attacks: Sequence[str], correct: Correct) -> list[Difference]:
    made = [difference(correct, *pair, attack, claim.comparisons) for pair in claim.pairs for attack in attacks]
    return [one for one in made if one is not None]


def decide(claim: Claim, found: Sequence[Difference]) -> str:
    """The verdict; `not tested` unless every comparison of the claim is there."""
    return claim.verdict(found) if len(found) == claim.comparisons else NOT_TESTED


def _of(found: Sequence[Difference], attack: str) -> list[Difference]:
    return [one for one in found if one.attack == attack]


def _robust(found: Sequence[Difference]) -> list[Difference]:
    return [one for one in found if one.attack != "clean"]


def _cleaner(found: Sequence[Difference]) -> str:
    clean = _of(found, "clean")
    if any(one.lower for one in clean) or any(one.lower for one in _robust(found)):
        return NOT_SUPPORTED
    return SUPPORTED if all(one.higher for one in clean) else UNCLEAR


def _better_trade_off(found: Sequence[Difference]) -> str:
    if any(one.lower for one in found):
        return NOT_SUPPORTED
    pairs = {(one.run, one.base) for one in found}
    gained = {(one.run, one.base) for one in found if one.higher}
    return SUPPORTED if gained == pairs else UNCLEAR


def _no_gain(found: Sequence[Difference]) -> str:
    if all(one.high < MARGIN for one in found):
        return SUPPORTED
    return NOT_SUPPORTED if any(one.low > MARGIN for one in found) else UNCLEAR


def _all_lower(found: Sequence[Difference]) -> str:
    if all(one.lower for one in found):
        return SUPPORTED
    return NOT_SUPPORTED if any(one.higher for one in found) else UNCLEAR


def _gain(found: Sequence[Difference]) -> str:
    robust = _robust(found)
    if any(one.lower for one in robust):
        return NOT_SUPPORTED
    return (
        SUPPORTED
        if all(any(one.higher for one in robust if one.run == run) for run in {o.run for o in found})
        else UNCLEAR
    )


def _labels_gain(found: Sequence[Difference]) -> str:
    return _better_trade_off([one for one in found if one.run == "dynat"])


def _any_effect(found: Sequence[Difference]) -> str:
    return SUPPORTED if any(one.higher or one.lower for one in found) else UNCLEAR


MAIN, OVERFITTING = "cifar10-laptop", "cifar10-laptop-overfitting"
STRONG = ("cw-20", "autoattack")
LAST = ("clean-last", "pgd-20-last", "cw-20-last")
"""Beside the selected epochs: a run may be ahead because of the epoch that was selected."""

CLAIMS = (
    Claim(
        "a",
        "DYNAT is more accurate on clean images than TRADES and LBGAT at comparable robustness.",
        "Supported if clean accuracy is higher against both and no robust accuracy is lower; not supported if any "
        "is lower.",
        MAIN, (("dynat", "trades"), ("dynat", "lbgat6")), ("clean", *STRONG), _cleaner, LAST,
    ),
    Claim(
        "b",
        "An inner attack on the dynamic labels gives a better trade-off than one on the KL divergence or on the true "
        "labels.",
        "Supported if some accuracy is higher against both and none is lower; not supported if any is lower.",
        MAIN, (("dynat", "dynat-kl-inner"), ("dynat", "dynat-static-inner")), ("clean", *STRONG), _better_trade_off,
        LAST,
    ),
    Claim(
        "c",
        "No guide much larger than the target is needed.",
        f"Supported if a guide of twice the width gains less than {100 * MARGIN:g} points everywhere; not supported if "
        "it gains more somewhere. AutoAttack's images are too few to show so small a gain.",
        MAIN, (("dynat-guide-large", "dynat"),), ("clean", "pgd-20", "cw-20"), _no_gain, ("autoattack", *LAST),
    ),
    Claim(
        "d",
        "Dynamic labels reduce robust overfitting.",
        "Supported if the gap between best and last epoch under PGD-20 is smaller with dynamic labels than without; "
        "not supported if it is larger.",
        OVERFITTING, (("dynat", "at"), ("dynat", "at-gauss-clean-forward")), ("pgd-20 - pgd-20-last",), _all_lower,
        ("clean", "pgd-20", "clean-last", "pgd-20-last"),
    ),
    Claim(
        "e",
        "GAIRAT and MAIL gain robustness by dynamic labels.",
        "Supported if some robust accuracy is higher for both and no robust accuracy is lower; not supported if any is "
        "lower.",
        MAIN, (("dynat-gairat", "gairat"), ("dynat-mail", "mail-at")), ("clean", *STRONG), _gain, LAST,
    ),
    Claim(
        "f",
        "DYNAT gains by its labels, and not only by its Gaussian start and its clean forward (ours).",
        "The second step, from `at-gauss-clean-forward` to `dynat`, changes the labels alone. Supported if it raises "
        "an accuracy and lowers none; not supported if it lowers any. The first step is shown, and not read.",
        MAIN, (("at-gauss-clean-forward", "at"), ("dynat", "at-gauss-clean-forward")), ("clean", *STRONG),
        _labels_gain, LAST,
    ),
    Claim(
        "g",
        "The weight beta matters (ours).",
        "Supported if 0.2 or 6 instead of 1 changes an accuracy.",
        MAIN, (("dynat-beta-0.2", "dynat"), ("dynat-beta-6", "dynat")), ("clean", *STRONG), _any_effect, LAST,
    ),
)  # fmt: skip
