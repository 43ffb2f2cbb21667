"""What a config refuses: names that say something false, names that leave their folder, YAML that is not what it seems,
values beyond sense, settings that nothing reads, and plug-ins that only a file of results names."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from dynat.config import ConfigError, Experiment, TrainingSpec, load, of_file, plugin_modules
from dynat.config.base import _number
from dynat.config.names import as_run_name, attack_from_name, refuse_false_name
from dynat.config.yaml_input import command_line_values, read_yaml
from dynat.results.records import FORMAT_VERSION, TrainingRecord, read_record
from dynat.runtime.errors import UserError
from tests import tiny
from tests.helpers import Dynat

FALSE_NAMES: list[tuple[str, dict[str, Any], str]] = [
    ("autoattack", {"kind": "pgd", "steps": 1}, "says autoattack, and its kind is pgd: name it 'pgd-1'"),
    ("pgd-20", {"steps": 1}, "says 20 steps, and it has 1: name it 'pgd-1'"),
    ("clean", {"kind": "pgd"}, "says clean, and its kind is pgd: name it 'pgd-20'"),
    ("pgd-20", {"kind": "cw"}, "says pgd, and its kind is cw: name it 'cw-20'"),
    ("AutoAttack", {"kind": "pgd"}, "says autoattack"),
    ("aa", {"kind": "square"}, "says autoattack"),
    ("my-autoattack", {"kind": "fgsm"}, "says autoattack"),
    ("PGD100", {"kind": "pgd"}, "says 100 steps, and it has 20"),
    ("pgd-20-last", {"kind": "pgd", "steps": 10, "weights": "last"}, "says 20 steps, and it has 10"),
    ("square-500", {"steps": 50}, "says 500 steps, and it has 50"),
    ("apgd-ce", {"kind": "apgd-t"}, "says apgd-ce"),
    ("cw-l2", {"kind": "cw"}, "says cw-l2"),
    ("apgd", {"kind": "pgd"}, "says apgd-ce or apgd-dlr or apgd-t"),
    ("Auto-PGD-100", {"kind": "pgd", "steps": 100}, "says apgd-ce or apgd-dlr or apgd-t"),
    ("fab", {"kind": "pgd"}, "says fab"),
]


@pytest.mark.parametrize(("name", "row", "message"), FALSE_NAMES)
def test_an_attack_whose_name_is_false_is_refused(name: str, row: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=rf"attacks.{name}: the name {message}"):
        load({"attacks": {name: row}})


@pytest.mark.parametrize(
    ("name", "kind", "steps"),
    [
        ("autoattack-1000", "autoattack", None),
        ("pgd-20-last", "pgd", 20),
        ("pgd-20-clean-start", "pgd", 20),
        ("fgsm-5", "fgsm", None),
        ("cw-l2-1000", "cw-l2", 1000),
        ("strong", "pgd", 7),
        ("apgd-targeted", "apgd-t", None),
        ("fab", "fab", None),
        ("clean", "clean", None),
    ],
)
def test_a_true_name_is_accepted(name: str, kind: str, steps: int | None) -> None:
    refuse_false_name(name, kind, steps)


def test_a_spec_cannot_have_a_false_name_either() -> None:
    spec = load({}).evaluation("at", "autoattack").model_dump(mode="json")
    spec["attack"] = load({}).attacks["pgd-20"].model_dump(mode="json")
    with pytest.raises(ValidationError, match="the name says autoattack"):
        type(load({}).evaluation("at", "autoattack")).model_validate(spec)


HOSTILE = [
    "x$(touch pwned)",
    "y;touch pwned",
    "a name",
    "/abs/path",
    "../..",
    "..",
    "-n",
    "a/b",
    "`id`",
    "é",
    "",
    "x" * 101,
]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_refused_wherever_it_stands(name: str, tmp_path: Path) -> None:
    places: list[dict[str, Any]] = [
        {"preset": name},
        {"runs": {name: {"method": "at"}}},
        {"checkpoints": {name: {"file": "x.pt", "arch": "small"}}},
        {"attacks": {name: {"kind": "pgd"}}},
        {"dataset": {"name": name}},
    ]
    for place in places:
        with pytest.raises(ConfigError):
            load(place)
    (tmp_path / "mine.yaml").write_text(json.dumps({"extends": name}))
    with pytest.raises(ConfigError, match="extends"):
        load({"preset": "mine"}, presets=tmp_path)
    for key in ("preset", "name", "data"):
        spec = tiny.training_spec(tiny.run()).model_dump(mode="json")
        with pytest.raises(ValidationError, match=key):
            TrainingSpec.model_validate({**spec, key: name})
    with pytest.raises(ValidationError, match="preset"):
        Experiment.model_validate({**load({}).model_dump(), "preset": name})


@pytest.mark.parametrize("name", ["report.html", "tables", "figures", "transfer.csv", "Tables"])
def test_a_run_is_not_named_like_a_result(name: str) -> None:
    with pytest.raises(ConfigError, match=f"'{name}' is the name of a file of the results"):
        load({"runs": {name: {"method": "at"}}})


def test_the_name_of_a_checkpoint_file_becomes_the_name_of_a_row() -> None:
    assert as_run_name("a b$(x)") == "a-b--x"
    assert as_run_name("tables") == "tables-checkpoint"
    assert len(as_run_name("x" * 250)) == 100
    assert as_run_name("---") == "checkpoint"


YAML: list[tuple[str | bytes, str]] = [
    ("beta: 1\nbeta: 2\n", "the key 'beta' is given twice"),
    ("training: {epochs: 1}\ntraining: {batch: 8}\n", "the key 'training' is given twice"),
    ("training: {schedule: {factors: {0: 1, 0.0: 2}}}\n", "given twice"),
    ("a: &a [1]\nb: &b [*a, *a]\n", "an alias .* inside a value that has an anchor"),
    ("a: &a [*a]\n", "an alias .* inside a value"),
    ("a: &a 1\nb: [" + "*a," * 101 + "]\n", "more than 100 aliases"),
    ("a: " + "[" * 3000 + "]" * 3000, "nested more than 20 levels deep"),
    ("a: " + "9" * 5000, "not valid YAML"),
    ("a: 2001-99-99", "not valid YAML"),
    ("training: {epochs: 010}", "'010' is no decimal number"),
    ("beta: 1:30", "'1:30' is no decimal number"),
    ("beta: 01.5", "'01.5' is no decimal number"),
    ("a: !!python/name:os.system x", "could not determine a constructor"),
    (b"a: caf\xe9", "not UTF-8 text"),
    ("a: 1\n#" + "x" * 1_000_000, "longer than 1,000,000 characters"),
]


@pytest.mark.parametrize(("text", "message"), YAML, ids=[message for _, message in YAML])
def test_yaml_that_is_not_what_it_seems_is_refused(text: str | bytes, message: str, tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError, match=message):
        read_yaml(file)


def test_plain_aliases_and_merge_keys_are_read(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("a: &a {k: 1, l: 2}\nb: *a\nc: {<<: *a, k: 3}\n")
    content = read_yaml(tmp_path / "x.yaml")
    assert content["b"] == {"k": 1, "l": 2} and content["c"] == {"k": 3, "l": 2}


def test_a_directory_is_no_file_of_parameters(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a directory"):
        load(tmp_path)


@pytest.mark.parametrize("text", ["1e1000000000", "1/1e1000000000", "9" * 51, "1e-1000000000/3"])
def test_a_number_of_a_million_digits_is_refused_at_once(text: str) -> None:
    start = time.monotonic()
    with pytest.raises(ValueError, match="is not a number"):
        _number(text)
    assert time.monotonic() - start < 1


BEYOND: list[tuple[dict[str, Any], str]] = [
    ({"threat": {"eps": 1e-300}}, "threat.eps: 1e-300 is too small"),
    ({"beta": "1e400"}, "beta: .*finite"),
    ({"beta": 10**400}, "beta: the number is too large"),
    ({"training": {"schedule": {"lr": 1e308}}}, "schedule.lr: should be less than or equal to 1e\\+06"),
    ({"training": {"epochs": 10**20}}, "epochs: .*less than or equal to"),
    ({"training": {"schedule": {"factors": {0: 0}}}}, "factors: all are 0"),
    ({"training": {"augmentation": {"padding": 100000}}}, "padding: .*less than or equal to 256"),
    ({"dataset": {"source": "folder", "path": "x", "size": 1000000}}, "dataset.size: .*less than or equal to 2048"),
    ({"training": {"target": "wrn999999994-1"}}, "'wrn999999994-1': a WideResNet's depth is at most 202"),
    ({"training": {"target": "wrn34-10000000"}}, "width at most 32"),
    ({"training": {"target": "wrn" + "9" * 5000 + "-1"}}, "depth is at most 202"),
    ({"threads": 99999999999999}, "threads: .*less than or equal to"),
    ({"seeds": [0, 0.0]}, "seeds: .*names a seed twice"),
    ({"seeds": [2**64]}, "seeds.0: .*less than or equal to"),
    ({"methods": {"at": 1}}, "select: expected a list of names"),
    ({"methods": 3}, "select: expected a list of names"),
    ({"plugins": 3}, "plugins: expected a list of names"),
    ({"plugins": ["../evil"]}, "plugins: '../evil' is not the name of a Python module"),
    ({"select": [12]}, "select: 12 is not a name"),
    ({"attacks": ["clean", "clean"]}, "attacks: 'clean' is named twice"),
    ({"attacks": {"clean": {"eps": 0.1}}}, "attacks.clean: eps has no effect"),
    ({"attacks": {20: {}}}, "attacks: YAML reads the name 20 as a int: write it in quotes"),
    ({"runs": {12: {"method": "at"}}}, "runs: YAML reads the name 12"),
    ({"runs": {False: {"method": "at"}}}, "runs: YAML reads the name False"),
    ({"dataset": {"path": "x"}}, "dataset: path is read by .* not by 'digits'"),
    ({"dataset": {"source": "cifar10", "mirror": "file:///etc"}}, "dataset: mirror 'file:///etc' is not a URL"),
    ({"extends": "digits"}, "extends is for presets"),
]


@pytest.mark.parametrize(("params", "message"), BEYOND, ids=[message[:40] for _, message in BEYOND])
def test_values_beyond_sense_are_refused(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(params)


def test_a_negative_seed_is_reported_once() -> None:
    with pytest.raises(ConfigError) as caught:
        load({"seeds": [-1]})
    assert str(caught.value).count("\n") == 0


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ({"select": "null"}, {"select": None}),
        ({"training": {"flip": "true", "epochs": "5"}}, {"training": {"flip": True, "epochs": 5}}),
        ({"schedule": {"0": "0.5"}}, {"schedule": {0: 0.5}}),
        ({"select": ["at", "null"]}, {"select": ["at", None]}),
        ({"file": "a{b}.pt"}, {"file": "a{b}.pt"}),
        ({"seeds": "[0,1"}, {"seeds": "[0,1"}),
    ],
)
def test_snakemake_passes_text_and_it_is_read_as_yaml(given: dict[str, Any], read: dict[str, Any]) -> None:
    assert command_line_values(given) == read


# --- plug-ins that a file of results names ------------------------------------------------------------------------


@pytest.fixture
def evil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of results that names a plug-in, which would leave a trace."""
    (tmp_path / "evil_plugin.py").write_text(f"open({str(tmp_path / 'pwned')!r}, 'w').close()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "evil_plugin", raising=False)
    content = {**load({}).model_dump(mode="json"), "plugins": ["evil_plugin"]}
    (tmp_path / "experiment.json").write_text(json.dumps(content))
    return tmp_path


def test_a_strangers_results_do_not_run_their_plugins(evil: Path, dynat: Dynat) -> None:
    with pytest.raises(UserError, match=r"experiment.json: names plugins \(evil_plugin\).*--allow-plugins"):
        of_file(evil / "experiment.json")
    code, output = dynat("export", str(evil))
    assert code == 2 and "evil_plugin" in output and "--allow-plugins" in output
    content = {"format_version": FORMAT_VERSION, "plugins": ["evil_plugin"]}
    (evil / "config.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"names plugins \(evil_plugin\)"):
        read_record(evil / "config.json", TrainingRecord)
    assert not (evil / "pwned").exists()


def test_plugins_run_where_they_are_allowed(evil: Path) -> None:
    with plugin_modules.plugins_allowed():
        assert of_file(evil / "experiment.json").plugins == ("evil_plugin",)
    assert (evil / "pwned").exists()
    sys.modules.pop("evil_plugin")


# --- the command line ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("check", "--set", "=3"), "--set =3: write KEY=VALUE"),
        (("check", "--set", "training={epochs: 1, epochs: 2}"), "the key 'epochs' is given twice"),
        (("check", "--params", "config"), "config: is a directory"),
        (("train", "at", "--threads", "99999999999999"), "--threads"),
        (("job", "training", "--spec", "{"), "job training --spec: not a spec in JSON"),
        (("job", "training", "--spec", "{}"), "job training --spec: preset: Field required"),
        (("job", "training", "--spec", '{"plugins": ["a b"]}'), "plugins: 'a b' is not the name"),
    ],
)
def test_a_command_line_is_answered_with_a_sentence(words: tuple[str, ...], message: str, dynat: Dynat) -> None:
    code, output = dynat(*words)
    assert code == 2 and message in output


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--attacks", "pgd-5,,pgd-5", "--attacks pgd-5,,pgd-5: an entry is empty"),
        ("--attacks", "pgd-5,pgd-5", "--attacks: pgd-5 is named twice"),
        ("--mean", "[[", "--mean [[: 0: '[' is not a number"),
        ("--expect", "850", "--expect 850: an accuracy in percent, from 0 to 100"),
        ("--expect", "nan", "--expect nan"),
    ],
)
def test_options_of_evaluate(option: str, value: str, message: str, dynat: Dynat) -> None:
    options = {"--arch": "small", "--dataset": "digits", "--attacks": "pgd-5", "--eps": "0.1", option: value}
    code, output = dynat("evaluate", "x.pt", *(word for pair in options.items() for word in pair))
    assert code == 2 and message in output


def test_a_set_value_replaces_factors_as_a_whole(tmp_path: Path) -> None:
    """As `snakemake --config` does."""
    (tmp_path / "params.yaml").write_text("training: {schedule: {factors: {0: 1.0, 3: 0.5}}}\n")
    over = {"training": {"schedule": {"factors": {0: 0.1}}}}
    assert load(tmp_path / "params.yaml", over=over).runs["at"].schedule.factors == {0: 0.1}


def test_names_from_kinds_are_ascii() -> None:
    assert attack_from_name("pgd-２０") == {}
    subprocess.run([sys.executable, "-c", "import dynat.config, sys; assert 'torch' not in sys.modules"], check=True)
