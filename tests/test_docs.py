"""The documents say what the code does: keys and defaults, commands, quotes, links, real output."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from dynat.config import attacks, load, names, parts, schema
from dynat.config.load import TOP_LEVEL
from dynat.config.strict import Real, Strict

ROOT = Path(__file__).parents[1]
README, MANUAL = ROOT / "README.md", ROOT / "config" / "README.md"
PAGES = sorted([README, MANUAL, *(ROOT / "docs").glob("*.md")])
PRESETS = sorted((ROOT / "config" / "presets").glob("*.yaml"))
WRITTEN = [*PAGES, *PRESETS, ROOT / "params.yaml", ROOT / "Makefile", ROOT / ".ci" / "run"]

INTERNAL = {"TrainingSpec", "ExamSpec", "ProbeSpec", "TransferSpec", "Experiment"}
"""What the pipeline hands to its jobs; nobody writes it."""
MODELS: dict[str, type[Strict]] = {
    name: model
    for name, model in {**vars(parts), **vars(attacks), **vars(schema)}.items()
    if isinstance(model, type)
    and issubclass(model, Strict)
    and model.__module__ in (parts.__name__, attacks.__name__, schema.__name__)
    and not name.startswith("_")
    and name not in INTERNAL
} | {facts.options.__name__: facts.options for facts in names.METHODS.values() if facts.options.model_fields}

Table = dict[str, list[str]]


def table(mark: str) -> Table:
    """The rows of the manual's table after a mark: key to its other cells; a row may share its cells among keys."""
    found = re.search(rf"<!-- {mark} -->\n\n((?:\|.*\n)+)", MANUAL.read_text())
    assert found, f"config/README.md has no table marked <!-- {mark} -->"
    rows: Table = {}
    for line in found[1].splitlines()[2:]:
        first, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        for key in re.findall(r"`([^`]+)`", first):
            rows[key] = cells
    return rows


@pytest.mark.parametrize("name", MODELS)
def test_the_manual_has_every_key_and_no_other(name: str) -> None:
    assert list(table(f"model: {name}")) == list(MODELS[name].model_fields)


@pytest.mark.parametrize("name", MODELS)
def test_the_manual_has_every_default(name: str) -> None:
    for key, (_, said, *_) in table(f"model: {name}").items():
        field = MODELS[name].model_fields[key]
        if field.is_required():
            assert said == "required", key
            continue
        default = field.get_default(call_default_factory=True)
        if isinstance(default, BaseModel):
            assert said == "its defaults", key
            continue
        plain = said.strip("`")
        default = list(default) if isinstance(default, tuple) else default
        value = plain if isinstance(default, str) else yaml.safe_load(plain)
        if isinstance(default, float):
            value = number(value)
        assert value == default and type(value) is type(default), f"{key}: {said} is not {default!r}"


def number(value: object) -> float:
    class One(Strict):
        value: Real

    return One(value=value).value  # type: ignore[arg-type]


def test_the_manual_has_every_top_level_key() -> None:
    assert set(table("keys: top level")) == set(TOP_LEVEL)


def test_the_manual_names_every_method_and_preset() -> None:
    text = MANUAL.read_text()
    facts = {line.split("`")[1] for line in text.splitlines() if re.match(r"\| `[a-z-]+` \| true", line)}
    assert facts == set(names.METHODS)
    assert set(re.findall(r"\(presets/([\w-]+)\.yaml\)", text)) == {preset.stem for preset in PRESETS}


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_presets_are_sound_and_open_with_their_command(preset: Path) -> None:
    opening = re.match(r"(?:#.*\n)+", preset.read_text())
    assert opening and re.search(r"#\s+(snakemake|make run)", opening[0])
    if preset.stem != "digits":
        assert f"preset={preset.stem}" in opening[0]
    assert load({"preset": preset.stem}, presets=preset.parent).preset == preset.stem


def test_shown_answers_are_real() -> None:
    """`make readme` makes them anew."""
    answered = runpy.run_path(str(ROOT / "docs" / "refresh.py"))["answered"]
    for page in (README, MANUAL):
        assert "$ dynat" in page.read_text()
        assert answered(page.read_text()) == page.read_text()


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
        assert target.exists(), f"{link}: nothing there"
        assert not anchor or anchor in anchors(target), f"{link}: no such section"


MACHINES = re.compile(r"(?<![\w.}\"'$*])/(?:home|root|tmp|mnt|Users|work|srv)(?:/|\b)")
REGISTRIES = re.compile(r"py[p]i|python[h]osted|conda\.anaconda|docker\.io", re.IGNORECASE)
LEFTOVERS = re.compile(r"TODO|FIXME|XXX|@[A-Z]+@")


@pytest.mark.parametrize("file", WRITTEN, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_of_one_machine_is_in_the_documents(file: Path) -> None:
    text = file.read_text()
    for pattern in (MACHINES, REGISTRIES, LEFTOVERS):
        assert not (found := pattern.search(text)), f"{found}"


def test_pictures_are_small() -> None:
    images = sorted((ROOT / "docs" / "images").iterdir())
    assert images
    for image in images:
        assert image.stat().st_size < 200_000, image.name
