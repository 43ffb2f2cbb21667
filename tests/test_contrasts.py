"""Twins and ablations are found in what runs do, not in what they are called."""

from __future__ import annotations

from dynat.config import load
from dynat.report.contrasts import _changes, reference, twins

FULL = load({"preset": "digits-full"})


def test_every_combination_of_digits_full_has_its_host_as_twin() -> None:
    assert sorted(twins(FULL)) == [
        ("at-gauss", "dynat"),
        ("gairat", "dynat-gairat"),
        ("mail-at", "dynat-mail"),
        ("mart", "dynat-mart"),
        ("sat", "dynat-sat"),
        ("trades", "dynat-trades"),
    ]


def test_a_different_start_makes_no_twin() -> None:
    assert twins(load({"methods": ["at", "dynat"]})) == []
    assert twins(load({"methods": ["at", "dynat"], "runs": {"at": {"inner": {"start": "gauss"}}}})) == [("at", "dynat")]


def test_ablations_name_the_fields_that_they_change() -> None:
    base = reference(FULL)
    assert base == "dynat"
    changed = {name: list(_changes(FULL.runs[base], run)) for name, run in FULL.runs.items()}
    assert changed["dynat-kl-inner"] == changed["dynat-static-inner"] == ["inner.objective"]
    assert changed["dynat-beta-6"] == ["beta"]
    assert changed["dynat-no-clean-forward"] == ["clean_forward"]
    assert changed["dynat-guide-wrn10-1"] == ["guide"]
    assert changed["dynat-awp"] == ["awp"]
    assert changed["dynat"] == changed["at"] == changed["dynat-trades"] == [], "another method is no ablation"
