"""The verdicts on claims: each difference against a slow restatement, each rule on made-up differences."""

from __future__ import annotations

import math
import random
import statistics

import pandas as pd
import pytest

from dynat.config import load
from tools.claims import (
    CLAIMS,
    NOT_SUPPORTED,
    NOT_TESTED,
    SUPPORTED,
    UNCLEAR,
    Claim,
    Difference,
    beside,
    decide,
    difference,
    differences,
)

Table = dict[tuple[int, int], int]


def verdicts(seeds: list[int], images: int, share: float, seed: int) -> Table:
    draw = random.Random(seed)
    return {(s, index): int(draw.random() < share) for s in seeds for index in range(images)}


def series(table: Table) -> pd.Series[int]:
    index = pd.MultiIndex.from_tuples(list(table), names=["seed", "index"])
    return pd.Series(list(table.values()), index=index, name="correct")


QUANTILES = {1: 1.959964, 2: 2.241403, 6: 2.638257}
"""Of the normal distribution at 1 - 0.025 / k, from a table."""


def slow_difference(parts: list[tuple[int, Table]], comparisons: int) -> tuple[float, float, dict[int, float], int]:
    """Mean over images of the mean over common seeds; half the interval; by seed; images."""
    common = set.intersection(*(set(table) for _, table in parts))
    value = {key: sum(sign * table[key] for sign, table in parts) for key in common}
    images = sorted({index for _, index in common})
    by_image = [statistics.mean(v for (_, i), v in value.items() if i == index) for index in images]
    seeds = sorted({seed for seed, _ in common})
    by_seed = {seed: statistics.mean(v for (s, _), v in value.items() if s == seed) for seed in seeds}
    half = QUANTILES[comparisons] * statistics.stdev(by_image) / math.sqrt(len(images))
    return statistics.mean(by_image), half, by_seed, len(images)


@pytest.mark.parametrize(("seeds", "fewer", "comparisons"), [([0], 40, 1), ([0, 1, 2], 25, 6)])
def test_a_difference_equals_its_slow_restatement(seeds: list[int], fewer: int, comparisons: int) -> None:
    tables = {
        ("dynat", "clean"): verdicts(seeds, 40, 0.7, 1),
        ("at", "clean"): verdicts([*seeds, 9], fewer, 0.5, 2),
    }
    made = difference(lambda run, attack: series(tables[run, attack]), "dynat", "at", "clean", comparisons)
    parts = [(1, tables["dynat", "clean"]), (-1, tables["at", "clean"])]
    mean, half, by_seed, images = slow_difference(parts, comparisons)
    assert made is not None
    assert made.images == images
    assert made.per_seed == pytest.approx(by_seed)
    assert (made.value, made.low, made.high) == pytest.approx((mean, mean - half, mean + half))


def test_a_gap_is_the_difference_of_differences() -> None:
    tables = {
        (run, attack): verdicts([0, 1], 30, share, number)
        for number, (run, attack, share) in enumerate(
            [("dynat", "best", 0.6), ("dynat", "last", 0.55), ("at", "best", 0.6), ("at", "last", 0.4)]
        )
    }
    made = difference(lambda run, attack: series(tables[run, attack]), "dynat", "at", "best - last")
    signs = {("dynat", "best"): 1, ("dynat", "last"): -1, ("at", "best"): -1, ("at", "last"): 1}
    mean, half, by_seed, _ = slow_difference([(signs[key], table) for key, table in tables.items()], 1)
    assert made is not None
    assert made.per_seed == pytest.approx(by_seed)
    assert (made.value, made.low) == pytest.approx((mean, mean - half))


def test_runs_without_a_common_seed_or_an_outcome_have_no_difference() -> None:
    tables = {"dynat": series(verdicts([0], 5, 0.5, 0)), "at": series(verdicts([1], 5, 0.5, 0))}
    assert difference(lambda run, attack: tables[run], "dynat", "at", "clean") is None
    assert difference(lambda run, attack: tables.get(run), "dynat", "trades", "clean") is None


def claim(letter: str) -> Claim:
    return next(claim for claim in CLAIMS if claim.letter == letter)


def made_up(letter: str, *intervals: tuple[float, float]) -> list[Difference]:
    """Differences of a claim with these intervals, in points, in the order of its pairs and attacks."""
    one = claim(letter)
    places = [(pair, attack) for pair in one.pairs for attack in one.attacks]
    return [
        Difference(*pair, attack, (low + high) / 200, low / 100, high / 100, 1000, {0: low + high})
        for (pair, attack), (low, high) in zip(places, intervals, strict=True)
    ]


UP, DOWN, NONE, BIG = (0.5, 1.5), (-1.5, -0.5), (-0.5, 0.5), (3.0, 5.0)


@pytest.mark.parametrize(
    ("letter", "intervals", "verdict"),
    [
        ("a", [UP, NONE, NONE, UP, NONE, UP], SUPPORTED),
        ("a", [UP, NONE, NONE, NONE, NONE, NONE], UNCLEAR),
        ("a", [UP, NONE, DOWN, UP, NONE, NONE], NOT_SUPPORTED),
        ("a", [DOWN, UP, UP, UP, NONE, NONE], NOT_SUPPORTED),
        ("b", [UP, NONE, NONE, NONE, NONE, UP], SUPPORTED),
        ("b", [UP, NONE, NONE, NONE, NONE, NONE], UNCLEAR),
        ("b", [UP, DOWN, NONE, NONE, NONE, UP], NOT_SUPPORTED),
        ("c", [NONE, NONE, DOWN], SUPPORTED),
        ("c", [NONE, BIG, NONE], NOT_SUPPORTED),
        ("c", [NONE, (1.0, 3.0), NONE], UNCLEAR),
        ("d", [DOWN, DOWN], SUPPORTED),
        ("d", [DOWN, NONE], UNCLEAR),
        ("d", [UP, DOWN], NOT_SUPPORTED),
        ("e", [DOWN, UP, NONE, NONE, NONE, UP], SUPPORTED),
        ("e", [UP, UP, NONE, UP, NONE, NONE], UNCLEAR),
        ("e", [UP, DOWN, NONE, UP, UP, UP], NOT_SUPPORTED),
        ("f", [UP, UP, UP, NONE, NONE, NONE], UNCLEAR),
        ("f", [DOWN, NONE, NONE, NONE, UP, NONE], SUPPORTED),
        ("f", [UP, UP, UP, UP, DOWN, NONE], NOT_SUPPORTED),
        ("g", [NONE] * 6, UNCLEAR),
        ("g", [NONE, NONE, NONE, NONE, DOWN, NONE], SUPPORTED),
    ],
)
def test_the_verdict_follows_the_rule(letter: str, intervals: list[tuple[float, float]], verdict: str) -> None:
    assert decide(claim(letter), made_up(letter, *intervals)) == verdict


def test_a_difference_that_changes_its_sign_between_seeds_decides_nothing() -> None:
    both = Difference("dynat", "at", "clean", 0.01, 0.005, 0.015, 1000, {0: 0.03, 1: -0.01})
    assert not both.higher
    assert not both.lower


def test_a_claim_with_a_missing_run_is_not_tested() -> None:
    assert decide(claim("d"), made_up("d", DOWN, DOWN)[:1]) == NOT_TESTED
    assert differences(claim("a"), lambda run, attack: None) == []


def test_the_intervals_of_a_claim_hold_together() -> None:
    """Each is as wide as the number of comparisons that the verdict reads demands, those beside it too."""
    tables = {
        name: series(verdicts([0], 500, share, n)) for n, (name, share) in enumerate([("one", 0.6), ("two", 0.5)])
    }
    one = claim("d")
    correct = {"dynat": tables["one"]}
    found = differences(one, lambda run, attack: correct.get(run, tables["two"]))
    shown = beside(one, lambda run, attack: correct.get(run, tables["two"]))
    assert (len(found), len(shown)) == (2, 8)
    alone = difference(lambda run, attack: correct.get(run, tables["two"]), "dynat", "at", "clean")
    assert alone is not None
    (clean,) = [d for d in shown if (d.base, d.attack) == ("at", "clean")]
    assert (clean.high - clean.low) / (alone.high - alone.low) == pytest.approx(QUANTILES[2] / QUANTILES[1])


@pytest.mark.parametrize("one", CLAIMS, ids=lambda one: one.letter)
def test_claims_name_runs_and_attacks_of_their_preset(one: Claim) -> None:
    experiment = load({"preset": one.preset})
    for pair in one.pairs:
        assert set(pair) <= set(experiment.runs)
    for attack in (*one.attacks, *one.beside):
        assert set(attack.split(" - ")) <= set(experiment.attacks)
