"""The config: layers, defaults, rows; mistakes are refused with advice; a value reaches only the runs that read it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dynat.config import ConfigError, Experiment, digest, load, renamed
from dynat.config.base import StrictModel, WrittenIfSet, _number, pixel_fraction
from dynat.config.merging import merge
from dynat.config.presets import merge_params
from dynat.runtime.errors import UserError

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"betta": 1}, "unknown key 'betta': did you mean 'beta'"),
    ({"preset": "digit"}, "there is no .*digit.yaml: did you mean 'digits'"),
    ({"select": ["dynta"]}, "select: unknown run 'dynta': did you mean 'dynat'"),
    ({"runs": {"x": {"method": "trade"}}}, "runs.x.method: unknown method 'trade': did you mean 'trades'"),
    ({"runs": {"x": {"method": "at", "epoch": 3}}}, "runs.x: unknown key 'epoch': did you mean 'epochs'"),
    ({"training": {"inner": {"stpes": 1}}}, "inner: unknown key 'stpes': did you mean 'steps'"),
    ({"training": {"epochs": 1.5}}, "runs.natural.epochs: .*integer"),
    ({"training": {"epochs": 0}}, "runs.natural.epochs: .*greater than or equal to 1"),
    ({"training": {"epochs": True}}, "runs.natural.epochs: expected a whole number"),
    ({"training": {"ema": 1.0}}, "runs.natural.ema: .*less than 1"),
    ({"select": []}, r"^select: choose at least one: natural, at"),
    ({"threat": {"eps": 8}}, r"threat: eps 8 is outside \(0,1\).*8/255 rather than 8"),
    ({"threat": {"eps": "8/0"}}, "threat.eps: '8/0' is not a number"),
    ({"training": {"inner": {"eps": 8}}}, r"inner.eps: 8 is outside \(0,1\)"),
    ({"attacks": {"pgd-20": {"eps": 8}}}, r"attacks.pgd-20.eps: 8 is outside \(0,1\)"),
    ({"attacks": {"autoatack": {}}}, "unknown attack 'autoatack': did you mean 'autoattack'"),
    ({"runs": {"at": {"beta": 2}}}, "runs.at: beta .* labels: dynamic only"),
    ({"runs": {"at": {"guide": "small"}}}, "runs.at: guide 'small' has no effect with true labels"),
    ({"runs": {"dynat": {"guide": "resnet19"}}}, "unknown network 'resnet19': did you mean 'resnet18'"),
    ({"runs": {"x": {"method": "at", "target": "wrn33-10"}}}, r"depth is 6n\+4"),
    ({"runs": {"x": {"method": "trades"}}}, "'trades' without consistency .* is natural training"),
    ({"runs": {"x": {"method": "natural", "labels": "dynamic"}}}, "'natural' cannot use dynamic labels"),
    ({"runs": {"x": {"method": "natural", "consistency": 1}}}, "no adversarial images to be consistent"),
    ({"runs": {"a b": {"method": "at"}}}, "runs.a b: 'a b' becomes the name of a folder"),
    ({"attacks": {"../x": {"kind": "pgd"}}}, "attacks.../x: '../x' becomes the name of a folder"),
    ({"seeds": "[0,1"}, "not a complete list or mapping"),
    ({"seeds": [0, 0]}, "seeds: .*names a seed twice"),
    ({"runs": {"at": {"seeds": []}}}, "^seeds.at: name at least one"),
    ({"runs": {"x": {"method": "at", "options": {"tight": 1}}}}, "unknown key 'tight'"),
    ({"beta": "big"}, "^params.yaml: beta: 'big' is not a number"),
    ({"beta": -1}, "^params.yaml: beta: .*greater than or equal to 0"),
    ({"seeds": [0, "x"]}, "seeds.*valid integer"),
    ({"seeds": []}, "^params.yaml: seeds: name at least one"),
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
def test_impossible_configs_are_refused_with_advice(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(params)


def test_dynamic_labels_need_a_guide(tmp_path: Path) -> None:
    (tmp_path / "bare.yaml").write_text(
        "dataset: {name: digits, source: digits}\nthreat: {eps: 0.1}\ntraining: {target: small}\n"
        "runs: {dynat: {method: at, labels: dynamic}}\nattacks: [clean]\n"
    )
    with pytest.raises(ConfigError, match=r"runs.dynat: .*needs a guide: dynamic labels are predictions of a guide"):
        load({"preset": "bare"}, presets=tmp_path)


def test_a_config_error_is_a_user_error() -> None:
    assert issubclass(ConfigError, UserError)


def test_the_command_line_shows_the_message_without_a_traceback() -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "dynat", "check", "--set", "betta=6"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 2
    assert "did you mean 'beta'" in answer.stderr
    assert "Traceback" not in answer.stderr + answer.stdout


def test_every_shipped_preset_loads() -> None:
    shipped = sorted(Path("config/presets").glob("*.yaml"))
    assert shipped
    for preset in shipped:
        assert load({"preset": preset.stem}).runs


def test_a_field_that_is_written_if_set_changes_no_digest_where_it_is_not() -> None:
    class Old(StrictModel):
        steps: int = 1

    class New(Old):
        added: Annotated[int | None, WrittenIfSet()] = None

    assert New().model_dump() == Old().model_dump() and digest(New()) == digest(Old())
    assert digest(New(added=2)) != digest(Old())
    assert New.model_validate_json(New(added=2).model_dump_json()) == New(added=2)
    assert Old(steps=2).model_dump() == {"steps": 2}, "other fields are written in any case"


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


def test_given_seeds_are_for_every_run() -> None:
    assert set(load({"seeds": [4, 5]}).seeds.values()) == {(4, 5)}
    assert load({"seeds": "[4,5]"}).seeds["at"] == (4, 5), "as snakemake --config passes it"
    assert load({}).seeds["natural"] != load({}).seeds["at"]


def test_a_list_of_attacks_chooses() -> None:
    chosen = load({"attacks": ["clean", "autoattack", "cw-7"], "headline": "clean"}).attacks
    assert list(chosen) == ["clean", "autoattack", "cw-7"]
    assert chosen["autoattack"].images == load({}).attacks["autoattack"].images
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
    params = {"preset": "cifar10-resnet18", "select": ["dynat"], "threat": {"norm": "l2", "eps": 0.5}}
    message = r"runs.dynat.inner.eps: 0.031 is far .* set training.inner=\{eps: 0.5, step_size: 0.125\} too"
    with pytest.raises(ConfigError, match=message):
        load(params)
    inner = load({**params, "training": {"inner": {"eps": 0.5, "step_size": 0.125}}}).runs["dynat"].inner
    assert (inner.eps, inner.step_size) == (0.5, 0.125)


@pytest.mark.parametrize(
    "params", [{"training": {"inner": {"step_size": 2}}}, {"attacks": {"pgd-20": {"step_size": 2}}}]
)
def test_a_step_of_2_is_not_2_of_255(params: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"step_size: 2 is as large as all of \[0,1\]: write 2/255 rather than 2"):
        load(params)
    wide = {**params, "select": ["at"], "threat": {"norm": "l2", "eps": 3}}
    assert load(merge(wide, {"training": {"inner": {"eps": 3}}})).threat.eps == 3


def test_a_radius_of_zero_is_not_the_threats() -> None:
    with pytest.raises(ConfigError, match="greater than 0"):
        load({"training": {"inner": {"eps": 0}}})


def test_the_headline_of_a_preset_is_dropped_with_its_attack() -> None:
    assert load({"attacks": ["clean", "pgd-20"]}).headline == "pgd-20"
    assert load({"attacks": ["autoattack", "clean"]}).headline == "autoattack"
    with pytest.raises(ConfigError, match="headline: unknown attack 'autoatack': did you mean 'autoattack'"):
        load({"headline": "autoatack"})
    with pytest.raises(ConfigError, match="headline: unknown attack 'cw-20'"):
        load({"attacks": ["clean", "pgd-20"], "headline": "cw-20"})


RENAMED: list[tuple[dict[str, Any], str]] = [
    ({"probing": {}}, "^params.yaml: unknown key 'probing': it is now 'sanity'$"),
    ({"external": {}}, "^params.yaml: unknown key 'external': it is now 'checkpoints'$"),
    ({"training": {"optimiser": {}}}, "^runs.natural: unknown key 'optimiser': it is now 'optimizer'$"),
    ({"training": {"compiled": True}}, "^runs.natural: unknown key 'compiled': it is now 'compile'$"),
    ({"runs": {"at": {"captured": True}}}, "^runs.at: unknown key 'captured': it is now 'cuda_graph'$"),
    ({"training": {"schedule": {"of": 50}}}, "natural.schedule: unknown key 'of': it is now 'reference_epochs'$"),
    ({"runs": {"at": {"inner": {"objective": "own"}}}}, r"^runs.at.inner.objective: 'own' is now 'method'"),
    ({"runs": {"at": {"awp": {"proxy": "own"}}}}, r"^runs.at.awp.proxy: 'own' is now 'method'"),
    ({"attacks": {"pgd-20": {"pictures": 5}}}, "^attacks.pgd-20: unknown key 'pictures': it is now 'images'$"),
    ({"attacks": {"pgd-20": {"view": "none"}}}, "^attacks.pgd-20: unknown key 'view': it is now 'surrogate'$"),
    (
        {"attacks": {"x": {"kind": "cw-l2", "searches": 5}}},
        "^attacks.x: unknown key 'searches': it is now 'binary_search_steps'$",
    ),
    ({"sanity": {"pictures": 5}}, "^sanity: unknown key 'pictures': it is now 'images'$"),
    ({"sanity": {"view": "none"}}, "^sanity: unknown key 'view': it is now 'surrogate'$"),
    ({"sanity": {"large": 0.5}}, "^sanity: unknown key 'large': it is now 'large_eps'$"),
    ({"checkpoints": {"x": {"checkpoint": "x.pt", "arch": "small"}}}, "x: unknown key 'checkpoint': it is now 'file'$"),
    ({"checkpoints": {"x": {"file": "x.pt", "network": "small"}}}, "x: unknown key 'network': it is now 'arch'$"),
    ({"runs": {"x": {"method": "external"}}}, "^runs.x.method: 'external': a third-party checkpoint is not a method"),
]


@pytest.mark.parametrize(("params", "message"), RENAMED, ids=[message[:40] for _, message in RENAMED])
def test_an_old_name_is_refused_with_the_new_one(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(params)


def test_every_renamed_key_is_tested() -> None:
    texts = " ".join(message for _, message in RENAMED)
    for old, new in renamed.RENAMED_KEYS.items():
        assert f"'{old}': it is now '{new}'" in texts, old


def test_an_old_key_is_no_advice_where_the_new_one_is_unknown() -> None:
    with pytest.raises(ConfigError, match=r"runs.at: unknown key 'large': (?!it is now).*\(known: "):
        load({"runs": {"at": {"large": 1}}})


def test_methods_is_an_alias_of_select_with_a_notice() -> None:
    notices: list[str] = []
    assert list(load({"methods": ["at"]}, notice=notices.append).runs) == ["at"]
    assert notices == ["params.yaml: methods: is now select: (the old name still works)"]
    assert list(load({"select": None, "methods": "[dynat]"}).runs) == ["dynat"]
    with pytest.raises(ConfigError, match="methods and select are both given, and methods is the old name of select"):
        load({"select": ["at"], "methods": ["dynat"]})
    notices.clear()
    assert list(load({"select": ["at"], "methods": None}, notice=notices.append).runs) == ["at"]
    assert notices == []


def test_select_takes_one_name_or_all() -> None:
    assert list(load({"select": "at"}).runs) == ["at"]
    assert load({"select": "all"}).runs == load({}).runs


def test_shipped_presets_use_no_old_name() -> None:
    for preset in sorted(Path("config/presets").glob("*.yaml")):
        load({"preset": preset.stem}, notice=pytest.fail)
    load(notice=pytest.fail)


THEIRS = {"theirs": {"file": "theirs.pt", "arch": "small", "mean": 0.5, "std": "1/4"}}


def test_checkpoints_are_rows_beside_the_runs() -> None:
    experiment = load({"checkpoints": THEIRS, "select": ["at"], "seeds": [3, 4]})
    assert list(experiment.rows) == ["at", "theirs"]
    assert list(experiment.runs) == ["at"]
    assert experiment.seeds == {"at": (3, 4), "theirs": (0,)}
    theirs = experiment.checkpoints["theirs"]
    assert (theirs.file, theirs.arch, theirs.mean, theirs.std) == ("theirs.pt", "small", (0.5,), (0.25,))
    assert experiment.checkpoint_import("theirs").checkpoint == theirs
    assert experiment.evaluation("theirs", "clean").seeds == (0,)
    assert experiment.sanity_checks("theirs").name == "theirs"
    assert experiment.transfer().runs == {"at": 3, "theirs": 0}
    assert Experiment.model_validate_json(experiment.model_dump_json()) == experiment


def test_a_checkpoint_may_be_selected_and_be_the_only_row() -> None:
    assert list(load({"checkpoints": THEIRS, "select": ["at", "theirs"]}).rows) == ["at", "theirs"]
    assert list(load({"checkpoints": THEIRS, "select": ["theirs"]}).rows) == ["theirs"]
    with pytest.raises(ConfigError, match=r"select: unknown run 'thiers': did you mean 'theirs'"):
        load({"checkpoints": THEIRS, "select": ["thiers"]})


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"file": "x.pt"}, "^checkpoints.x.arch: Field required"),
        ({"arch": "small"}, "^checkpoints.x.file: Field required"),
        ({"file": "x.pt", "arch": "smal"}, "^checkpoints.x.arch: unknown network 'smal': did you mean 'small'"),
        ({"file": "x.pt", "arch": "small", "mean": 0.5}, "^checkpoints.x: mean and std are given together"),
        ({"file": "x.pt", "arch": "small", "epochs": 3}, "^checkpoints.x: unknown key 'epochs'"),
        ("x.pt", "^checkpoints.x: expected 'key: value' lines"),
    ],
)
def test_impossible_checkpoints(row: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load({"checkpoints": {"x": row}})


def test_a_checkpoint_cannot_have_the_name_of_a_run() -> None:
    with pytest.raises(ConfigError, match=r"^checkpoints.at: a run has this name already"):
        load({"checkpoints": {"at": THEIRS["theirs"]}, "select": ["dynat"]})


def test_factors_are_replaced_as_a_whole() -> None:
    schedule = {"factors": {0: 1.0, 3: 0.5}, "reference_epochs": 12}
    run = load({"training": {"schedule": schedule}}).runs["at"]
    assert run.schedule.factors == {0: 1.0, 3: 0.5}
    above = load({"training": {"schedule": schedule}, "runs": {"at": {"schedule": {"factors": {0: 0.1}}}}}).runs["at"]
    assert above.schedule.factors == {0: 0.1}
    assert above.schedule.reference_epochs == 12, "everything else is merged"


def test_factors_of_the_command_line_replace_those_of_params() -> None:
    below, above = {0: 1.0, 3: 0.5}, {0: 0.1}
    merged = merge_params(
        {"training": {"schedule": {"factors": below}}}, {"training": {"schedule": {"factors": above}}}
    )
    assert merged == {"training": {"schedule": {"factors": above}}}


@pytest.mark.parametrize(
    ("below", "above", "names", "restarts"),
    [
        (["clean", "pgd-20"], {"pgd-20": {"restarts": 3}}, ["clean", "pgd-20"], 3),
        (["clean"], {"pgd-20": {"restarts": 3}}, ["clean", "pgd-20"], 3),
        ({"pgd-20": {"restarts": 3}, "pgd-7": {}}, ["pgd-20", "clean"], ["pgd-20", "clean"], 3),
        ({"mine-20": {"kind": "pgd", "restarts": 3}}, ["mine-20"], ["mine-20"], 3),
        (["clean", "pgd-20"], ["pgd-20"], ["pgd-20"], 1),
        ({"pgd-20": {"restarts": 2}}, {"pgd-20": {"restarts": 3}}, None, 3),
    ],
)
def test_a_list_of_attacks_and_a_mapping_in_two_layers_are_applied_one_after_the_other(
    below: Any, above: Any, names: list[str] | None, restarts: int
) -> None:
    """params.yaml chooses and the command line changes, or the other way round; neither is lost."""
    plan = load({"attacks": below}, over={"attacks": above})
    preset = list(load({}).attacks)
    assert list(plan.attacks) == (preset if names is None else names)
    assert next(attack for name, attack in plan.attacks.items() if name.endswith("-20")).restarts == restarts
    assert plan.headline in plan.attacks


def test_a_mistake_in_a_list_of_attacks_is_refused_above_a_mapping_too() -> None:
    for wrong, message in ((["clean", "clean"], "twice"), ([1], "not a name"), ([["clean"]], "not a name")):
        with pytest.raises(ConfigError, match=message):
            load({"attacks": {"pgd-20": {"restarts": 3}}}, over={"attacks": wrong})
        with pytest.raises(ConfigError, match=message):
            load({"attacks": wrong}, over={"attacks": {"pgd-20": {"restarts": 3}}})


def test_a_run_named_like_a_key_that_is_replaced_is_merged() -> None:
    presets = {"runs": {"factors": {"method": "at", "epochs": 3}}}
    over = {"runs": {"factors": {"batch": 16}}}
    row = merge_params(presets, over)["runs"]["factors"]
    assert row == {"method": "at", "epochs": 3, "batch": 16}


def test_options_have_their_defaults_written_down() -> None:
    run = load({"runs": {"x": {"method": "gairat", "options": {"burn_in": "29/100"}}}}).runs["x"]
    assert run.options == {"tightness": -1.0, "weighting": "tanh", "burn_in": 0.29}


@pytest.mark.parametrize(
    ("text", "number"),
    [("2.5/255", 2.5 / 255), ("8/255", 8 / 255), (" 1 / 2 ", 0.5), ("1/0.5", 2.0), ("2e-4", 2e-4), ("-1/2", -0.5)],
)
def test_numbers_are_decimals_or_fractions(text: str, number: float) -> None:
    assert _number(text) == number


@pytest.mark.parametrize("text", ["8/255/2", "eight/255", "8/", "/255", "", "8/0", "1e999/1", "8:255", "nan/2"])
def test_what_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a number; write 0\.031, 8/255 or 2\.5/255"):
        _number(text)
