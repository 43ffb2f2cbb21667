"""Twins and ablations are found in what runs do, not in what they are called."""

from __future__ import annotations

import pytest

from dynat.config import load
from dynat.report.contrasts import _changes, reference, twins

FULL = load({"preset": "digits-full"})


def test_every_combination_of_digits_full_has_its_host_as_twin() -> None:
    assert sorted(twins(FULL)) == [
        ("at-gauss", "dynat-no-clean-forward"),
        ("at-gauss-clean-forward", "dynat"),
        ("gairat", "dynat-gairat"),
        ("mail-at", "dynat-mail"),
        ("mart", "dynat-mart"),
        ("sat", "dynat-sat"),
        ("trades", "dynat-trades"),
    ]


def test_twins_differ_in_nothing_but_their_labels() -> None:
    def found(**at: object) -> list[tuple[str, str]]:
        return twins(load({"methods": ["at", "dynat"], "runs": {"at": at}}))

    start = {"start": "gauss"}
    assert found(inner=start, clean_forward=True) == [("at", "dynat")]
    assert found(clean_forward=True) == found(inner=start) == [], "another start; BatchNorm fed otherwise"


@pytest.mark.parametrize("preset", ["cifar10-resnet18", "digits-full"])
def test_no_twins_feed_batchnorm_differently(preset: str) -> None:
    """A clean forward moves the statistics halfway to clean pictures, which is no matter of labels."""
    plan = load({"preset": preset})
    pairs = twins(plan)
    assert len(pairs) > 5
    assert all(plan.runs[one].clean_forward == plan.runs[other].clean_forward for one, other in pairs)


def test_ablations_name_the_fields_that_they_change() -> None:
    base = reference(FULL)
    assert base == "dynat"
    changed = {name: list(_changes(FULL.runs[base], run)) for name, run in FULL.runs.items()}
    assert changed["dynat-kl-inner"] == changed["dynat-static-inner"] == ["inner.objective"]
    assert changed["dynat-beta-6"] == ["beta"]
    assert changed["dynat-no-clean-forward"] == ["clean_forward"]
    assert changed["dynat-guide-wrn10-1"] == ["guide"]
    assert changed["dynat-awp"] == ["awp"]
    awp = {"awp": {"gamma": 0.005, "proxy": "trades", "warm_up": 0.0}}
    released = load({"preset": "digits-full", "runs": {"dynat-awp": awp}}).runs
    assert _changes(FULL.runs["dynat-awp"], released["dynat-awp"]) == {
        "awp": "awp: gamma 0.005, warm_up 0, proxy trades (not gamma 0.005, warm_up 0.09, proxy own)"
    }
    assert changed["dynat"] == changed["at"] == changed["dynat-trades"] == [], "another method is no ablation"
