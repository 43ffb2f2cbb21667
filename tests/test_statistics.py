"""Interval, paired test and correction against published numbers and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from dynat.results.statistics import holm, mcnemar, wilson


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [  # Newcombe, Statistics in Medicine 17 (1998) 857, table I, the score method without continuity correction
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_is_the_published_interval(successes: int, n: int, low: float, high: float) -> None:
    assert wilson(successes, n) == pytest.approx((low, high), abs=5e-5)


@given(n=st.integers(1, 20_000), share=st.floats(0, 1), confidence=st.sampled_from([0.9, 0.95, 0.99]))
def test_wilson_is_scipys_wilson(n: int, share: float, confidence: float) -> None:
    successes = round(share * n)
    expected = binomtest(successes, n).proportion_ci(confidence, method="wilson")
    assert wilson(successes, n, confidence) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_accepts_fractional_successes() -> None:
    low, high = wilson(50.5, 100)
    assert wilson(50, 100)[0] < low < 0.505 < high < wilson(51, 100)[1]


@pytest.mark.parametrize(("successes", "n"), [(1, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_successes_outside_n(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match="is not a share"):
        wilson(successes, n)


@given(st.integers(0, 400), st.integers(0, 400))
def test_mcnemar_is_the_binomial_test_of_the_discordant_pairs(first_only: int, second_only: int) -> None:
    both, neither = [1] * 30, [0] * 12
    first = np.array([1] * first_only + [0] * second_only + both + neither)
    second = np.array([0] * first_only + [1] * second_only + both + neither)
    test = mcnemar(first, second)
    assert (test.only_first, test.only_second, test.n) == (first_only, second_only, len(first))
    discordant = first_only + second_only
    expected = binomtest(first_only, discordant, 0.5).pvalue if discordant else 1.0
    assert test.p == pytest.approx(expected, abs=1e-12)


def test_mcnemar_gives_an_image_one_vote_for_any_number_of_seeds() -> None:
    once = mcnemar(np.array([1] * 8 + [0]), np.array([0] * 8 + [1]))
    thrice = mcnemar(np.array([3] * 8 + [1]), np.array([0] * 8 + [2]))
    assert once == thrice


def test_mcnemar_refuses_different_numbers_of_images() -> None:
    with pytest.raises(ValueError, match="not the same images"):
        mcnemar(np.ones(3), np.ones(4))


@pytest.mark.parametrize(
    ("given_p", "expected"),
    [
        ([], []),
        ([0.04], [0.04]),
        # sorted: 0.005 * 4, 0.01 * 3, 0.03 * 2, then 0.04 * 1 lifted to the 0.06 before it
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.5, 0.9], [1.0, 1.0]),
    ],
)
def test_holm_by_hand(given_p: list[float], expected: list[float]) -> None:
    assert holm(given_p) == pytest.approx(expected)


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_lies_between_the_raw_p_and_bonferroni_and_keeps_the_order(p: list[float]) -> None:
    adjusted = holm(p)
    assert all(raw <= value <= min(1.0, len(p) * raw) + 1e-12 for raw, value in zip(p, adjusted, strict=True))
    assert sorted(adjusted) == [adjusted[i] for i in sorted(range(len(p)), key=lambda i: (p[i], adjusted[i]))]
