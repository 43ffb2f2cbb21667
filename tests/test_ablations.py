"""Label pairs and ablations are read from the configs of runs, not from their names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib import rc_context

from dynat.config import load
from dynat.report import ablations, attack_strength, balance, comparisons, plotting, read_all_metrics, tables
from dynat.report.figure_list import figures_of
from dynat.report.label_pairs import beta_runs, changed_fields, label_pairs, reference
from dynat.results.metrics import write_metrics
from dynat.results.paths import ExperimentFiles
from tests.fake_results import experiment, write_fake_results

FULL = load({"preset": "digits-full"})


def test_every_method_of_digits_full_with_dynamic_labels_has_its_label_pair() -> None:
    assert sorted(label_pairs(FULL)) == [
        ("at-gauss", "dynat-no-clean-forward"),
        ("at-gauss-clean-forward", "dynat"),
        ("at-gauss-clean-forward-awp", "dynat-awp"),
        ("gairat", "dynat-gairat"),
        ("mail-at", "dynat-mail"),
        ("mart", "dynat-mart"),
        ("sat", "dynat-sat"),
        ("trades", "dynat-trades"),
    ]


def test_label_pairs_differ_in_labels_only() -> None:
    def pairs_with(**at: object) -> list[tuple[str, str]]:
        return label_pairs(load({"select": ["at", "dynat"], "runs": {"at": at}}))

    start = {"start": "gauss"}
    assert pairs_with(inner=start, clean_forward=True) == [("at", "dynat")]
    assert pairs_with(clean_forward=True) == pairs_with(inner=start) == [], "another start or BatchNorm"


@pytest.mark.parametrize("preset", ["cifar10-resnet18", "digits-full"])
def test_label_pairs_feed_batchnorm_alike(preset: str) -> None:
    """A clean forward moves the statistics halfway to clean images, which has nothing to do with labels."""
    plan = load({"preset": preset})
    pairs = label_pairs(plan)
    assert len(pairs) > 5
    assert all(plan.runs[one].clean_forward == plan.runs[other].clean_forward for one, other in pairs)


def test_ablations_name_the_fields_that_they_change() -> None:
    base = reference(FULL)
    assert base == "dynat"
    changed = {name: list(changed_fields(FULL.runs[base], run)) for name, run in FULL.runs.items()}
    assert changed["dynat-kl-inner"] == changed["dynat-static-inner"] == ["inner.objective"]
    assert changed["dynat-beta-6"] == ["beta"]
    assert changed["dynat-no-clean-forward"] == ["clean_forward"]
    assert changed["dynat-guide-wrn10-1"] == ["guide"]
    assert changed["dynat-awp"] == ["awp"]
    awp = {"awp": {"gamma": 0.005, "proxy": "trades", "warm_up": 0.0}}
    released = load({"preset": "digits-full", "runs": {"dynat-awp": awp}}).runs
    assert changed_fields(FULL.runs["dynat-awp"], released["dynat-awp"]) == {
        "awp": "awp: gamma 0.005, warm_up 0, proxy trades (not gamma 0.005, warm_up 0.09, proxy method)"
    }
    assert changed["dynat"] == changed["at"] == changed["dynat-trades"] == [], "another method is no ablation"


def test_a_sweep_is_the_runs_that_change_beta_alone_by_its_value() -> None:
    assert beta_runs(FULL) == ["dynat-beta-0.2", "dynat", "dynat-beta-6"]
    other = {"method": "at", "labels": "dynamic", "beta": 2.0, "consistency": 6.0}
    assert beta_runs(load({"runs": {"two-changes": other}})) == []
    assert beta_runs(load({"select": ["at", "natural"]})) == []
    assert "beta" in figures_of(FULL) and "beta" not in figures_of(load({}))
    assert len(beta_runs(load({"preset": "digits-beta"}))) == len(load({"preset": "digits-beta"}).runs) == 5


@pytest.mark.parametrize("lowest", [0.0, 0.2])
def test_accuracy_against_beta_shows_every_run_and_seed_under_every_attack(tmp_path: Path, lowest: float) -> None:
    one = {"method": "at", "labels": "dynamic"}
    runs = {"dynat": {**one, "beta": 1.0}, "high": {**one, "beta": 6.0}, "low": {**one, "beta": lowest}}
    plan = experiment(tmp_path, runs={"at": {"method": "at"}, **runs})
    files = write_fake_results(ExperimentFiles(tmp_path / "small"), plan)
    for run in plan.rows:
        write_metrics(files.run(run).folder)
    metrics = read_all_metrics(files, plan)
    with rc_context(plotting.STYLE):
        drawn = balance.beta(plan, metrics)
    assert drawn is not None and "alone: low, dynat and high" in drawn.caption
    assert [panel.get_title(loc="left") for panel in drawn.figure.axes] == [
        "Clean, n = 200",
        "PGD-20, n = 200",
        "AutoAttack, n = 100",
    ]
    for panel, attack in zip(drawn.figure.axes, ("clean", "pgd-20", "autoattack"), strict=True):
        means = [metrics[run].attacks[attack].mean for run in ("low", "dynat", "high")]
        (line,) = panel.lines
        points = np.asarray(line.get_xydata())
        assert points.tolist() == [[lowest, means[0]], [1.0, means[1]], [6.0, means[2]]]
        places = panel.transData.transform(points)[:, 0]
        assert (places > panel.bbox.x0).all() and (places < panel.bbox.x1).all() and (places[1:] > places[:-1]).all()
        assert sum(len(np.asarray(dots.get_offsets())) for dots in panel.collections[1:]) == 6
        assert [text.get_text() for text in panel.get_xticklabels()] == [f"{lowest:g}", "1", "6"]


def test_captions_say_which_test_images_and_tables_repeat_the_warnings(tmp_path: Path) -> None:
    """200 are prepared. An accuracy on the first 60 of them is no accuracy on all."""
    attacks = {"clean": {"images": 60}, "pgd-20": {"images": 60}, "autoattack": {"images": 5}}
    plan = experiment(tmp_path / "presets", attacks=attacks, sanity={"images": 20})
    files = write_fake_results(ExperimentFiles(tmp_path / "small"), plan)
    for run in plan.rows:
        write_metrics(files.run(run).folder, list(plan.attacks))
    metrics = read_all_metrics(files, plan)
    table = tables.build(plan, metrics, ())
    verdicts = comparisons.read_verdicts(files, metrics, tables.columns(plan, metrics))
    text = ablations.to_markdown(ablations.ablations(verdicts, plan, metrics), table)
    assert "n = the first 60 of 200 test images (in the order of the files) unless the column says otherwise" in text
    assert "A column that states its own n uses the first n test images only, in the order of the files" in text
    (warning,) = table.warnings
    assert "of 10 classes" in warning and warning in text
    with rc_context(plotting.STYLE):
        drawn = attack_strength.transfer(files, plan, metrics, list(plan.rows))
    assert drawn is not None
    assert "the images: the first 20 of 200 test images (in the order of the files). Darker" in drawn.caption
