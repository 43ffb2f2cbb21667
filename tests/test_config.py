"""A config is refused where it is wrong, with the way out; and nothing reads more than it should."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dynat.config import ConfigError, digest, load
from dynat.config.layers import merge
from dynat.config.strict import _number, pixel_fraction

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"betta": 1}, "unknown key 'betta': did you mean 'beta'"),
    ({"preset": "digit"}, "there is no .*digit.yaml: did you mean 'digits'"),
    ({"methods": ["dynta"]}, "methods: unknown run 'dynta': did you mean 'dynat'"),
    ({"runs": {"x": {"method": "trade"}}}, "runs.x.method: unknown method 'trade': did you mean 'trades'"),
    ({"runs": {"x": {"method": "at", "epoch": 3}}}, "runs.x: unknown key 'epoch': did you mean 'epochs'"),
    ({"training": {"inner": {"stpes": 1}}}, "inner: unknown key 'stpes': did you mean 'steps'"),
    ({"training": {"epochs": 1.5}}, "runs.natural.epochs: .*integer"),
    ({"training": {"epochs": 0}}, "runs.natural.epochs: .*greater than or equal to 1"),
    ({"training": {"epochs": True}}, "runs.natural.epochs: a whole number is wanted"),
    ({"training": {"ema": 1.0}}, "runs.natural.ema: .*less than 1"),
    ({"methods": []}, r"^methods: choose at least one: natural, at"),
    ({"threat": {"eps": 8}}, r"threat: eps 8 is outside \(0,1\).*8/255 rather than 8"),
    ({"threat": {"eps": "8/0"}}, "threat.eps: '8/0' is not a number"),
    ({"training": {"inner": {"eps": 8}}}, r"inner.eps: 8 is outside \(0,1\)"),
    ({"attacks": {"pgd-20": {"eps": 8}}}, r"attacks.pgd-20.eps: 8 is outside \(0,1\)"),
    ({"attacks": {"autoatack": {}}}, "unknown attack 'autoatack': did you mean 'autoattack'"),
    ({"runs": {"at": {"beta": 2}}}, "runs.at: beta .* labels: dynamic only"),
    ({"runs": {"at": {"guide": "small"}}}, "runs.at: guide 'small' would be read by nothing"),
    ({"runs": {"dynat": {"guide": "resnet19"}}}, "unknown network 'resnet19': did you mean 'resnet18'"),
    ({"runs": {"x": {"method": "at", "target": "wrn33-10"}}}, r"depth is 6n\+4"),
    ({"runs": {"x": {"method": "trades"}}}, "'trades' without consistency .* is natural training"),
    ({"runs": {"x": {"method": "natural", "labels": "dynamic"}}}, "'natural' cannot be driven by dynamic"),
    ({"runs": {"x": {"method": "natural", "consistency": 1}}}, "no adversarial pictures to be consistent"),
    ({"runs": {"a b": {"method": "at"}}}, "runs.a b: 'a b' becomes the name of a folder"),
    ({"attacks": {"../x": {"kind": "pgd"}}}, "attacks.../x: '../x' becomes the name of a folder"),
    ({"seeds": "[0,1"}, "not a whole list or mapping"),
    ({"seeds": [0, 0]}, "seeds: .*names a seed twice"),
    ({"runs": {"at": {"seeds": []}}}, "^seeds: name at least one"),
    ({"runs": {"x": {"method": "at", "options": {"tight": 1}}}}, "unknown key 'tight'"),
    ({"beta": "big"}, "runs.dynat.beta: 'big' is not a number"),
    ({"beta": -1}, "runs.dynat.beta: .*greater than or equal to 0"),
    ({"seeds": [0, "x"]}, "seeds.*valid integer"),
    ({"seeds": []}, "^seeds: name at least one"),
    ({"dataset": {"source": "mnist"}}, "dataset.source: unknown source 'mnist'"),
    ({"dataset": {"source": "folder"}}, "needs path .* and size"),
    ({"headline": "pgd-10"}, "headline: unknown attack 'pgd-10': did you mean 'pgd-20'"),
    ({"plugins": ["no_such_module"]}, "plugins: module 'no_such_module' cannot be imported"),
    ({"training": 3}, "training: expected 'key: value' lines"),
    ({"runs": {"at": 3}}, "runs.at: expected 'key: value' lines"),
    ({"training": {"schedule": {"factors": {1: 1.0}}}}, "factor of epoch 0"),
    ({"training": {"schedule": {"factors": {0: 1.0, 100: 0.1}}}}, "epoch 100 is not within the 100 epochs"),
]


@pytest.mark.parametrize(("params", "message"), REFUSED, ids=[message[:40] for _, message in REFUSED])
def test_refused_with_the_way_out(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(params)


def test_dynamic_labels_need_a_guide(tmp_path: Path) -> None:
    (tmp_path / "bare.yaml").write_text(
        "dataset: {name: digits, source: digits}\nthreat: {eps: 0.1}\ntraining: {target: small}\n"
        "runs: {dynat: {method: at, labels: dynamic}}\nattacks: [clean]\n"
    )
    with pytest.raises(ConfigError, match=r"runs.dynat: .*needs a guide: dynamic labels are a guide's decisions"):
        load({"preset": "bare"}, presets=tmp_path)


def test_command_line_says_it_without_a_traceback() -> None:
    said = subprocess.run(
        [sys.executable, "-m", "dynat", "check", "--set", "betta=6"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 2
    assert "did you mean 'beta'" in said.stderr
    assert "Traceback" not in said.stderr + said.stdout


def test_every_shipped_preset_loads() -> None:
    shipped = sorted(Path("config/presets").glob("*.yaml"))
    assert shipped
    for preset in shipped:
        assert load({"preset": preset.stem}).runs


def test_beta_touches_only_the_runs_that_read_it() -> None:
    before, after = load({"beta": 1.0}), load({"beta": 6})
    changed = {name for name in before.runs if before.training(name) != after.training(name)}
    assert changed == {name for name, run in before.runs.items() if run.labels == "dynamic"}
    assert changed and changed != set(before.runs)


def test_six_and_six_point_zero_are_the_same_run() -> None:
    assert digest(load({"beta": 6}).training("dynat")) == digest(load({"beta": 6.0}).training("dynat"))


def test_precedence_preset_then_params_then_row() -> None:
    experiment = load({"training": {"epochs": 3}, "runs": {"dynat": {"epochs": 5}, "at": None}})
    assert experiment.runs["dynat"].epochs == 5
    assert experiment.runs["at"].epochs == 3
    assert load({"training": {"epochs": None}}).runs["at"].epochs == load({}).runs["at"].epochs


def test_a_pinned_beta_stays_when_the_default_moves() -> None:
    experiment = load({"beta": 6.0, "runs": {"pinned": {"method": "at", "labels": "dynamic", "beta": 0.2}}})
    assert experiment.runs["pinned"].beta == 0.2
    assert experiment.runs["dynat"].beta == 6.0


def test_seeds_a_person_asks_for_hold_for_every_run() -> None:
    assert set(load({"seeds": [4, 5]}).seeds.values()) == {(4, 5)}
    assert load({"seeds": "[4,5]"}).seeds["at"] == (4, 5), "as snakemake --config hands it over"
    assert load({}).seeds["natural"] != load({}).seeds["at"]


def test_a_list_of_attacks_chooses() -> None:
    chosen = load({"attacks": ["clean", "autoattack", "cw-7"], "headline": "clean"}).attacks
    assert list(chosen) == ["clean", "autoattack", "cw-7"]
    assert chosen["autoattack"].pictures == load({}).attacks["autoattack"].pictures
    assert (chosen["cw-7"].kind, chosen["cw-7"].steps) == ("cw", 7)


def test_defaults_that_depend_on_the_ball_are_resolved() -> None:
    experiment = load({"threat": {"eps": "8/255"}, "training": {"inner": {"step_size": None}}, "attacks": {"fgsm": {}}})
    assert experiment.attacks["pgd-20"].step_size == pytest.approx(2 / 255)
    assert experiment.attacks["fgsm"].step_size == pytest.approx(8 / 255)
    assert (experiment.attacks["fgsm"].start, experiment.attacks["pgd-20"].start) == ("none", "uniform")
    assert experiment.runs["dynat"].inner.eps == pytest.approx(8 / 255)
    assert experiment.runs["dynat"].clean_forward and not experiment.runs["at"].clean_forward


def test_checking_a_config_does_not_import_torch() -> None:
    code = (
        "import sys; from dynat.config import load; load(); import dynat.provenance; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


scalars = st.one_of(st.integers(), st.text(max_size=3), st.booleans())
trees = st.recursive(scalars, lambda inner: st.dictionaries(st.sampled_from("abc"), inner), max_leaves=6)
mappings = st.dictionaries(st.sampled_from("abc"), trees)


@given(base=mappings, over=mappings)
def test_merge_lets_the_upper_layer_win(base: dict[str, Any], over: dict[str, Any]) -> None:
    untouched = yaml.safe_dump(base)
    merged = merge(base, over)
    assert merge(merged, over) == merged
    assert merge(base, {}) == base
    assert set(merged) == set(base) | set(over)
    assert all(merged[key] == over[key] for key in over if not isinstance(over[key], dict))
    assert yaml.safe_dump(base) == untouched


@given(levels=st.integers(1, 254))
def test_radii_read_and_print_as_the_literature_writes_them(levels: int) -> None:
    assert _number(f"{levels}/255") == levels / 255
    assert pixel_fraction(levels / 255) == f"{levels}/255"
    assert pixel_fraction(0.031) == "0.031" and pixel_fraction(1.0) == "1"


def test_a_radius_of_training_that_was_forgotten_is_refused() -> None:
    """The presets of the papers search with numbers of their own, which another threat does not move."""
    wanted = {"preset": "cifar10-resnet18", "methods": ["dynat"], "threat": {"norm": "l2", "eps": 0.5}}
    with pytest.raises(ConfigError, match=r"runs.dynat.inner.eps: 0.031 is far .* set training.inner.eps=0.5 and"):
        load(wanted)
    inner = load({**wanted, "training": {"inner": {"eps": 0.5, "step_size": 0.125}}}).runs["dynat"].inner
    assert (inner.eps, inner.step_size) == (0.5, 0.125)


def test_a_radius_of_zero_is_not_the_threats() -> None:
    with pytest.raises(ConfigError, match="greater than 0"):
        load({"training": {"inner": {"eps": 0}}})


def test_the_headline_of_a_preset_goes_with_its_attack() -> None:
    assert load({"attacks": ["clean", "pgd-20"]}).headline == "pgd-20"
    assert load({"attacks": ["autoattack", "clean"]}).headline == "autoattack"
    with pytest.raises(ConfigError, match="headline: unknown attack 'autoatack': did you mean 'autoattack'"):
        load({"headline": "autoatack"})
    with pytest.raises(ConfigError, match="headline: unknown attack 'cw-20'"):
        load({"attacks": ["clean", "pgd-20"], "headline": "cw-20"})


def test_somebody_elses_network_may_be_named_among_the_methods() -> None:
    theirs = {"theirs": {"checkpoint": "theirs.pt", "network": "small"}}
    assert set(load({"external": theirs, "methods": ["at", "theirs"]}).runs) == {"at", "theirs"}
