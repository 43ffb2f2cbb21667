"""Result files: what is written is read back, other versions are refused, and no path is spelled twice."""

from __future__ import annotations

import ast
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import dynat
from dynat.config import Checkpoint, Experiment
from dynat.results.csv_files import csv_text
from dynat.results.history import history_of, read_history, write_history
from dynat.results.metrics import run_metrics
from dynat.results.outcomes import COLUMNS, Examples, read_examples, read_outcome, write_examples
from dynat.results.paths import ExperimentFiles, RunFiles, SeedFiles
from dynat.results.records import (
    FORMAT_VERSION,
    OutcomeRecord,
    Record,
    RunMetrics,
    SanityRecord,
    TrainingRecord,
    TransferRecord,
    read_record,
    write_record,
)
from dynat.results.sanity import read_sanity
from dynat.results.transfer import read_transfer
from dynat.runtime.errors import UserError
from tests.fake_results import experiment, training_record, write_fake_results

PACKAGE = Path(dynat.__file__).parent
KINDS = [TrainingRecord, OutcomeRecord, SanityRecord, TransferRecord, RunMetrics]


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    checkpoints = {"theirs": {"file": "theirs.pt", "arch": "small", "mean": 0.5, "std": 0.25}}
    return experiment(tmp_path_factory.mktemp("presets"), checkpoints=checkpoints)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, plan: Experiment) -> ExperimentFiles:
    """Only to be read."""
    return write_fake_results(ExperimentFiles(tmp_path_factory.mktemp("results") / "small"), plan)


@pytest.fixture(scope="module")
def records(files: ExperimentFiles) -> dict[type[Record], Record]:
    """One record of every kind."""
    run = files.run("dynat")
    return {
        TrainingRecord: read_record(run.seed(1).config, TrainingRecord),
        OutcomeRecord: read_record(run.outcome_record("autoattack"), OutcomeRecord),
        SanityRecord: read_record(run.sanity_record, SanityRecord),
        TransferRecord: read_record(files.transfer_record, TransferRecord),
        RunMetrics: run_metrics(run),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_a_record_is_read_back_as_it_was_written(
    kind: type[Record], records: dict[type[Record], Record], tmp_path: Path
) -> None:
    file = tmp_path / "record.json"
    write_record(file, records[kind])
    assert read_record(file, kind) == records[kind]
    before = file.read_bytes()
    write_record(file, read_record(file, kind))
    assert file.read_bytes() == before


def test_a_record_holds_a_run_or_a_checkpoint(files: ExperimentFiles, plan: Experiment) -> None:
    for name, row in plan.rows.items():
        config = read_record(files.run(name).seed(plan.seeds[name][0]).config, TrainingRecord).config
        assert type(config) is type(row) and config == row
    assert isinstance(run_metrics(files.run("theirs")).config, Checkpoint)


def test_floats_are_read_back_bit_for_bit(tmp_path: Path) -> None:
    file = tmp_path / "record.json"
    write_record(file, training_record(training_seconds=0.1 + 0.2))
    assert read_record(file, TrainingRecord).training_seconds == 0.1 + 0.2


# What is refused


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("version", "shown"), [(None, "unknown"), (FORMAT_VERSION + 1, str(FORMAT_VERSION + 1))])
def test_a_record_of_another_version_is_refused_with_what_to_do(
    kind: type[Record], version: int | None, shown: str, records: dict[type[Record], Record], tmp_path: Path
) -> None:
    file = tmp_path / "results" / "record.json"
    write_record(file, records[kind])
    content = json.loads(file.read_text())
    content.pop("format_version")
    file.write_text(json.dumps(content if version is None else {**content, "format_version": version}))
    message = (
        f"{file}: written by another version of dynat (format {shown}, this one reads format {FORMAT_VERSION}); "
        f"delete the folder {file.parent} and run again: snakemake --cores all {file}"
    )
    with pytest.raises(UserError, match=re.escape(message)):
        read_record(file, kind)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("[1]", "expected a JSON object, found list; delete it and make it again"),
        (json.dumps({"format_version": FORMAT_VERSION}), "preset: Field required; delete it and make it again"),
        (
            json.dumps({**json.loads(training_record().model_dump_json()), "seed": "none"}),
            "seed: Input should be a valid integer",
        ),
        (
            json.dumps({**json.loads(training_record().model_dump_json()), "more": 1}),
            "more: Extra inputs are not permitted",
        ),
    ],
)
def test_a_damaged_record_is_refused_with_what_to_do(content: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(content)
    with pytest.raises(UserError, match=f"{re.escape(str(file))}: {message}"):
        read_record(file, TrainingRecord)


@pytest.mark.parametrize("kind", KINDS)
def test_a_digit_of_a_record_does_not_change_unnoticed(
    kind: type[Record], records: dict[type[Record], Record], tmp_path: Path
) -> None:
    """Every digit of every number, and the text of the checksum itself."""
    file = tmp_path / "record.json"
    write_record(file, records[kind])
    text = file.read_text()
    places = [place for place, character in enumerate(text) if character.isdigit()]
    refused = 0
    for place in places[:: max(1, len(places) // 100)]:
        other = str((int(text[place]) + 1) % 10)
        file.write_text(text[:place] + other + text[place + 1 :])
        try:
            assert read_record(file, kind) == records[kind], "the last digit of a float can round to the same"
        except UserError as error:
            assert str(file) in str(error)
            refused += 1
    assert refused > 20
    file.write_text(json.dumps(json.loads(text), indent=7))
    assert read_record(file, kind) == records[kind], "the same values in another layout"


def test_a_missing_file_names_the_command_that_makes_it(tmp_path: Path) -> None:
    file = SeedFiles(tmp_path).config
    with pytest.raises(UserError, match=f"no such file; make it with: snakemake --cores all {file}"):
        read_record(file, TrainingRecord)


@pytest.mark.parametrize("column", COLUMNS)
def test_a_table_of_another_version_is_refused(column: str, files: ExperimentFiles, tmp_path: Path) -> None:
    copy = RunFiles(shutil.copytree(files.run("at").folder, tmp_path / "at"))
    file = copy.outcome("clean")
    head, _, rows = file.read_text().partition("\n")
    columns = ["other" if name == column else name for name in head.split(",")]
    file.write_text(",".join(columns) + "\n" + rows)
    with pytest.raises(UserError, match=f"no column '{column}'; delete it and make it again"):
        read_outcome(copy, "clean")


# Tables


def test_a_history_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    rows = [
        {"epoch": 1, "loss": 0.1 + 0.2, "seconds": 1.5},
        {"epoch": 2, "loss": 0.25, "pgd": 0.5, "seconds": 2.5},
    ]
    for seed in (0, 1):
        _history(SeedFiles(tmp_path / str(seed)), rows)
    assert read_history(SeedFiles(tmp_path / "0")) == rows
    table = history_of({seed: SeedFiles(tmp_path / str(seed)) for seed in (0, 1)})
    assert list(table.columns) == ["epoch", "loss", "pgd", "seconds", "seed"]
    assert list(table["seed"]) == [0, 0, 1, 1] and table["pgd"].isna().sum() == 2
    _history(SeedFiles(tmp_path / "2"), [])
    assert read_history(SeedFiles(tmp_path / "2")) == []


def _history(files: SeedFiles, rows: list[dict[str, float]]) -> None:
    write_record(files.config, training_record(table=write_history(files.history, rows)))


def test_examples_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    images = np.random.default_rng(0).uniform(size=(2, 1, 3, 3)).astype(np.float32)
    labels = np.array([3, 4])
    examples = Examples(images, images / 2, labels, labels, labels + 1)
    write_examples(tmp_path / "some.safetensors", examples, ["a", "b"])
    for name, value in vars(read_examples(tmp_path / "some.safetensors")).items():
        assert np.array_equal(value, getattr(examples, name)), name


def test_sanity_checks_and_transfer_are_read_back(files: ExperimentFiles) -> None:
    sanity = read_sanity(files.run("at"))
    assert sanity is not None and set(sanity[0]["attack"]) == set(sanity[1].attacks)
    transfer = read_transfer(files, ["dynat", "at"])
    assert transfer is not None
    assert transfer[0].to_dict() == {"dynat": {"dynat": 0.4, "at": 0.7}, "at": {"dynat": 0.7, "at": 0.4}}
    with pytest.raises(UserError, match=r"transfer\.csv: has no run 'other'; delete it and make it again"):
        read_transfer(files, ["other"])
    nothing = ExperimentFiles(files.folder / "nothing")
    assert read_transfer(nothing, ["at"]) is None and read_sanity(nothing.run("at")) is None


def test_a_csv_file_keeps_every_bit_and_has_empty_cells() -> None:
    assert csv_text(("a", "b"), [(0.1 + 0.2, None), ("x", 1)]) == "a,b\n0.30000000000000004,\nx,1\n"


def _without_last_line(file: Path) -> None:
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:-1]))


def _one_digit(file: Path) -> None:
    content = file.read_bytes()
    last = content.rstrip()[-1:]
    file.write_bytes(content.rstrip()[:-1] + (b"1" if last == b"0" else b"0") + b"\n")


def _empty(file: Path) -> None:
    file.write_bytes(b"")


@pytest.mark.parametrize("damage", [_without_last_line, _one_digit, _empty])
@pytest.mark.parametrize("table", ["outcome", "sanity", "history", "transfer"])
def test_a_damaged_table_is_refused_with_what_makes_it_again(
    table: str, damage: Callable[[Path], None], files: ExperimentFiles, tmp_path: Path
) -> None:
    """A table that is cut at the end of a line is a valid table with fewer rows."""
    copy = ExperimentFiles(shutil.copytree(files.folder, tmp_path / "copy"))
    run = copy.run("at")
    file, read = {
        "outcome": (run.outcome("clean"), lambda: read_outcome(run, "clean")),
        "sanity": (run.sanity, lambda: read_sanity(run)),
        "history": (run.seed(0).history, lambda: read_history(run.seed(0))),
        "transfer": (copy.transfer, lambda: read_transfer(copy, ["at"])),
    }[table]
    damage(file)
    with pytest.raises(UserError, match=rf"{file}: cut or changed .*make it again: snakemake --cores all {file}"):
        read()


def test_a_changed_pixel_of_an_example_is_noticed(tmp_path: Path) -> None:
    file, labels = tmp_path / "some.safetensors", np.array([3])
    write_examples(file, Examples(np.zeros((1, 1, 2, 2)), np.zeros((1, 1, 2, 2)), labels, labels, labels), ["a"])
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=f"{file}: changed after it was written .*make it again"):
        read_examples(file)


def test_equal_examples_are_equal_files(tmp_path: Path) -> None:
    labels, contents = np.array([3]), set()
    for number in range(8):
        file = tmp_path / f"{number}.safetensors"
        write_examples(file, Examples(np.zeros((1, 1, 2, 2)), np.zeros((1, 1, 2, 2)), labels, labels, labels), ["a"])
        contents.add(file.read_bytes())
    assert len(contents) == 1


def test_examples_that_were_cut_are_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "some.safetensors"
    labels = np.array([3])
    write_examples(file, Examples(np.zeros((1, 1, 2, 2)), np.zeros((1, 1, 2, 2)), labels, labels, labels), ["a"])
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(UserError, match=f"{file}: no complete file of example images .*make it again"):
        read_examples(file)


# Paths

NAMES = re.compile(
    r"""config\.json|history\.csv|target(-last)?\.safetensors|guide\.safetensors|examples\.safetensors|^outcomes$
    |outcomes/|sanity\.(csv|json)|transfer\.(csv|json)|metrics\.json|report\.html|^tables$|tables/|^figures$|figures/
    |experiment\.json|table\.md|row\.tex|robustbench|model-seed|model\.(safetensors|onnx)|^trainings$|^evaluations$|^exports$""",
    re.VERBOSE,
)
"""Names of result files and folders."""


def spelled_paths(file: Path) -> Iterator[str]:
    """String constants of a module that name a result file; a sentence that mentions one has a space in it."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value.strip()
            if " " not in text and NAMES.search(text):
                yield f"{file}:{node.lineno}: {text}"


def test_no_module_spells_the_path_of_a_result_file() -> None:
    paths = PACKAGE / "results" / "paths.py"
    assert len(list(spelled_paths(paths))) > 15, "the search finds the paths where they are"
    others = [file for file in PACKAGE.rglob("*.py") if file != paths]
    assert [place for file in others for place in spelled_paths(file)] == []


def test_no_rule_spells_the_path_of_a_result_file() -> None:
    workflow = PACKAGE.parent / "workflow"
    rules = [workflow / "Snakefile", *sorted((workflow / "rules").glob("*.smk"))]
    found = [
        f"{file.name}:{number}: {line.strip()}"
        for file in rules
        for number, line in enumerate(file.read_text().splitlines(), 1)
        if not line.strip().startswith("#") and NAMES.search(line)
    ]
    assert found == []
