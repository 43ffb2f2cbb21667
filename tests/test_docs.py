"""The documents agree with the code: tables of keys, commands, quoted code, links, shown output."""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from dynat.cli.app import read_experiment
from dynat.config import ConfigError, load, registry
from dynat.report.figure_list import figures_of, formats_of
from dynat.results import corruptions, records, sanity, transfer
from dynat.results.paths import Paths
from tests import tiny
from tests.test_trainer import trained

ROOT = Path(__file__).parents[1]
README, MANUAL = ROOT / "README.md", ROOT / "config" / "README.md"
PAGES = sorted([README, MANUAL, *ROOT.glob("C*.md"), *(ROOT / "docs").glob("*.md")])
PRESETS = sorted((ROOT / "config" / "presets").glob("*.yaml"))
WRITTEN = [*PAGES, *PRESETS, ROOT / "params.yaml", ROOT / "Makefile", ROOT / ".ci" / "run"]


def test_the_manual_equals_what_the_script_writes() -> None:
    """`make manual` writes its tables."""
    manual = runpy.run_path(str(ROOT / "tools" / "write_manual.py"))
    text = MANUAL.read_text(encoding="utf-8")
    assert manual["written"](text) == text
    options = {info.options.__name__ for info in registry.METHODS.values() if info.options.model_fields}
    assert options <= set(manual["MODELS"])
    marks = re.findall(r"^<!-- (?:model: )?(\w+) -->$", text, re.MULTILINE)
    assert sorted(marks) == sorted([*manual["MODELS"], "methods", "attacks", "renamed"])
    assert set(re.findall(r"\(presets/([\w-]+)\.yaml\)", text)) == {preset.stem for preset in PRESETS}


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_presets_load_and_their_comments_open_with_the_command(preset: Path) -> None:
    opening = re.match(r"(?:#.*\n)+", preset.read_text())
    assert opening and re.search(r"#\s+(snakemake|make run)", opening[0])
    if preset.stem != "digits":
        assert f"preset={preset.stem}" in opening[0]
    assert load({"preset": preset.stem}, presets=preset.parent).preset == preset.stem


def test_shown_answers_are_real() -> None:
    """`make readme` updates them."""
    with_output = runpy.run_path(str(ROOT / "tools" / "refresh_readme.py"))["with_output"]
    for page in (README, MANUAL):
        assert "$ dynat" in page.read_text()
        assert with_output(page.read_text()) == page.read_text()


def test_commands_of_make_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        used = set(re.findall(r"(?:^|`)make ([a-z][a-z-]*)", page.read_text(), re.MULTILINE))
        assert used <= targets, f"{page.name}: {used - targets}"


def test_quoted_code_is_verbatim() -> None:
    for page in PAGES:
        for file, code in re.findall(r"```python\n# (dynat/\S+\.py)\n(.*?)```", page.read_text(), re.DOTALL):
            assert code in (ROOT / file).read_text(), f"{page.name}: {file} no longer reads like this"


def test_named_runs_exist() -> None:
    """docs/method.md names runs of the presets."""
    runs = {run for preset in PRESETS for run in (yaml.safe_load(preset.read_text()).get("runs") or {})}
    attacks = {"pgd-20-last", "autoattack-1000"}
    text = (ROOT / "docs" / "method.md").read_text()
    used = set(re.findall(r"`((?:at|trades|dynat|lbgat)-?[\w.]*-[\w.-]+|lbgat[06]|pgd-20-last|autoattack-1000)`", text))
    presets = {preset.stem for preset in PRESETS}
    assert len(used) > 15
    assert used <= runs | attacks | presets, used - runs


def test_the_commands_for_the_paper_exist() -> None:
    """docs/reproduce.md: presets, runs, and the files that the pipeline declares."""
    text = (ROOT / "docs" / "reproduce.md").read_text()
    rows = [line for line in text.splitlines() if "`snakemake" in line and line.startswith("|")]
    assert len(rows) >= 13
    for row in rows:
        command = re.search(r"`snakemake --cores \d all --config preset=([\w-]+)(?: 'select=\[(.+?)\]')?`", row)
        assert command, row
        given = {"preset": command[1]} | ({"select": command[2].split(",")} if command[2] else {})
        experiment = load(given, presets=ROOT / "config" / "presets")
        files = Paths().experiment(experiment.preset)
        declared = {f"figures/{name}.{kind}" for name in figures_of(experiment) for kind in formats_of(experiment)}
        tables = [files.table("main", "md"), files.table("ablations", "md")]
        declared |= {str(table.relative_to(files.folder)) for table in tables}
        used = set(re.findall(r"`((?:figures|tables)/[\w.-]+)`", row))
        assert used <= declared, f"{row}: {used - declared}"


def test_values_that_commands_set_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    """In code blocks and in the comments of presets. Commands with a plug-in are executed by tests/test_plugin.py."""
    monkeypatch.chdir(ROOT)
    command = re.compile(r"^[# ]*((?:snakemake .*--config|dynat (?:check|data) --set) .*)$", re.MULTILINE)
    tried = 0
    for page in {*PAGES, *PRESETS} - {ROOT / "docs" / "add-a-method.md"}:
        for line in command.findall(re.sub(r"\\\n#?", "", page.read_text())):
            words = shlex.split(line, comments=True)
            after = words[words.index("--config" if "--config" in words else "--set") + 1 :]
            values = [word for word in after if "=" in word]
            try:
                read_experiment(ROOT / "params.yaml", values)
            except ConfigError as error:
                pytest.fail(f"{page.name}: {line}: {error}")
            tried += bool(values)
    assert tried > 50


def prose(page: Path) -> str:
    """The page without its code."""
    return re.sub(r"```.*?```|`[^`\n]+`(?!\])", "", page.read_text(), flags=re.DOTALL)


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_resolve(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if link.startswith("http"):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), f"{link}: does not exist"
        assert not anchor or anchor in anchors(target), f"{link}: no such section"


MACHINES = re.compile(r"(?<![\w.}\"'$*])/(?:home|root|tmp|mnt|Users|work|srv)(?:/|\b)")
REGISTRIES = re.compile(r"py[p]i|python[h]osted|conda\.anaconda|docker\.io", re.IGNORECASE)
LEFTOVERS = re.compile(r"TODO|FIXME|XXX|@[A-Z]+@")


@pytest.mark.parametrize("file", WRITTEN, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_of_one_machine_is_in_the_documents(file: Path) -> None:
    text = file.read_text()
    for pattern in (MACHINES, REGISTRIES, LEFTOVERS):
        assert not (found := pattern.search(text)), f"{found}"


def test_images_are_small() -> None:
    images = sorted((ROOT / "docs" / "images").iterdir())
    assert images
    for image in images:
        assert image.stat().st_size < 200_000, image.name


def test_result_files_are_described_as_they_are() -> None:
    """Columns and fields of docs/result-files.md, with the fields that a table above says already left out."""
    text = (ROOT / "docs" / "result-files.md").read_text()
    tables = re.findall(r"<!-- (?:columns|fields): (\w+) -->\n\n((?:\|.*\n)+)", text)
    described = {
        name: re.findall(r"`([^`]+)`", " ".join(re.findall(r"^\|([^|]+)\|", table, re.MULTILINE)))
        for name, table in tables
    }
    history = ["epoch", "learning_rate", "loss", "loss_<term>", "loss_guide", "label_accuracy", "clean", "pgd"]
    assert described == {
        "history": [*history, "guide_clean", "seconds"],
        "sanity": list(sanity.COLUMNS),
        "transfer": list(transfer.COLUMNS),
        "corruptions": list(corruptions.COLUMNS),
        "RunMetrics": own_fields(records.RunMetrics, records.Record),
        "WorstCase": own_fields(records.WorstCase),
        "AttackMetrics": own_fields(records.AttackMetrics, records.Summary),
        "SanityMetrics": own_fields(records.SanityMetrics),
        "TrainingMetrics": own_fields(records.TrainingMetrics),
    }
    for field in (*records.AttackCost.model_fields, *records.Check.model_fields, *records.Curves.model_fields):
        assert f"`{field}`" in text


def own_fields(model: type[BaseModel], without: type[BaseModel] = BaseModel) -> list[str]:
    return [name for name in model.model_fields if name not in without.model_fields]


def test_the_history_of_a_training_has_the_described_columns(tmp_path: Path) -> None:
    """One epoch with a guide, and a term of the loss beside CE."""
    run = tiny.run(labels="dynamic", guide="small", consistency=1.0, epochs=1)
    (row,) = trained(run, tmp_path).history
    text = (ROOT / "docs" / "result-files.md").read_text()
    (table,) = re.findall(r"<!-- columns: history -->\n\n((?:\|.*\n)+)", text)
    columns = re.findall(r"`([^`]+)`", " ".join(re.findall(r"^\|([^|]+)\|", table, re.MULTILINE)))
    columns.remove("loss_<term>")
    assert set(columns) == set(row) - {"loss_ce", "loss_consistency"}


def test_the_list_of_documents_is_complete() -> None:
    listed = set(re.findall(r"\]\(([\w-]+\.md)\)", (ROOT / "docs" / "README.md").read_text()))
    assert listed == {file.name for file in (ROOT / "docs").glob("*.md")} - {"README.md"}
