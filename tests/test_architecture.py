"""Imports point one way, rooms stay small, and what a result depends on is known."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import dynat
from dynat import provenance
from dynat.config import names

PACKAGE = Path(dynat.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

# From the ground up. Nobody imports from a layer above; two in one line do not know each other.
LAYERS: list[set[str]] = [
    {"files", "places"},
    {"config"},
    {"provenance", "models", "data", "losses"},
    {"inner"},
    {"methods", "report"},
    {"training", "attacks"},
    {"jobs"},
    {"cli"},
    {"__main__"},
]
HEIGHT = {part: height for height, layer in enumerate(LAYERS) for part in layer}


def part_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def module_of(file: Path) -> str:
    inside = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(inside[:-1] if inside[-1] == "__init__" else inside)


def imported(file: Path) -> Iterator[str]:
    """Modules of this package that a file imports, also inside functions; `from dynat import x` is dynat.x."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("dynat."))
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports in this package are absolute"
            if node.module == "dynat":
                yield from (f"dynat.{alias.name}" for alias in node.names)
            elif node.module and node.module.startswith("dynat."):
                yield node.module


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_point_one_way(file: Path) -> None:
    if file == PACKAGE / "__init__.py":
        assert not list(imported(file)), "importing dynat costs nothing"
        return
    own = part_of(file)
    for module in imported(file):
        other = module.split(".")[1]
        assert other == own or HEIGHT[other] < HEIGHT[own], f"{module} is not below {own}"


def test_every_part_has_its_layer() -> None:
    assert {part_of(file) for file in FILES} - {"__init__"} == set(HEIGHT)


def test_the_exam_cannot_leak_into_the_lesson() -> None:
    """Also not by way of somebody in between: nothing that training needs knows an attack of the exam."""
    code = "import sys, dynat.training, dynat.data; from dynat.config import names; "
    code += "[names.locate(facts.where) for facts in names.METHODS.values()]; "
    assert output(code + "print([m for m in sys.modules if m.startswith('dynat.attacks')])") == "[]"


LIGHT = {
    "dynat.config": ("torch", "pandas", "snakemake"),
    "dynat.provenance": ("torch", "pandas"),
    "dynat.places": ("torch", "pydantic"),
    "dynat.cli": ("torch", "pandas", "sklearn"),
    "dynat.report": ("torch",),
    "dynat.report.page, dynat.report.figures, dynat.report.gallery, dynat.report.metrics": ("torch", "snakemake"),
    "dynat.jobs.training, dynat.jobs.exam": ("pandas", "matplotlib", "seaborn", "sklearn", "snakemake", "pyautoattack"),
}


@pytest.mark.parametrize("modules", LIGHT)
def test_what_importing_costs(modules: str) -> None:
    """Who checks a config waits for no torch; who trains on a bare GPU machine needs no plotting."""
    assert output(f"import sys, {modules}; print([m for m in {LIGHT[modules]!r} if m in sys.modules])") == "[]"


def output(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_rooms_are_small_and_say_what_they_hold(file: Path) -> None:
    text = file.read_text()
    assert len(text.splitlines()) <= 300, "a file that long wants to be two"
    tree = ast.parse(text)
    if text.strip() and file.name != "__main__.py":
        assert ast.get_docstring(tree), "says first what it is for"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno is not None and node.end_lineno - node.lineno < 60, node.name


# --- names ----------------------------------------------------------------------------------------------------

ENTRIES = {
    **{f"method {name}": facts.where for name, facts in names.METHODS.items()},
    **{f"network {name}": where for name, where in names.NETWORKS.items()},
    **{f"source {name}": where for name, where in names.SOURCES.items()},
    **{f"attack {name}": facts.where for name, facts in names.ATTACKS.items() if not facts.parts},
}


@pytest.mark.parametrize("entry", ENTRIES)
def test_every_name_leads_somewhere(entry: str) -> None:
    assert callable(names.locate(ENTRIES[entry]))


def test_every_method_of_the_folder_has_a_name() -> None:
    """A file that nobody can name is dead, or its entry was forgotten."""
    from dynat.methods import Method

    found = {names.locate(facts.where) for facts in names.METHODS.values()}
    named = {value for value in found if isinstance(value, type)}
    for file in (PACKAGE / "methods").glob("*.py"):
        module = importlib.import_module(module_of(file))
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, Method) and value.__module__ == module.__name__:
                assert value is Method or value in named or any(issubclass(other, value) for other in named), value


# --- provenance -----------------------------------------------------------------------------------------------

TRAINED = [name for name, facts in names.METHODS.items() if facts.where.startswith("dynat.methods.")]
SILENT = ("dynat.config", "dynat.files", "dynat.data")
"""Not sources: what the config resolves to is in every digest; the others move or re-export, no more."""


def closure_is_inside(files: list[Path]) -> list[str]:
    """Imports that lead from these files to a file that is not among them."""
    covered = {module_of(file) for file in files}
    return [
        f"{file.name} imports {module}"
        for file in files
        for module in imported(file)
        if module not in covered and not any(module == name or module.startswith("dynat.config.") for name in SILENT)
    ]


@pytest.mark.parametrize("method", TRAINED)
def test_a_training_depends_on_all_the_code_that_it_runs(method: str) -> None:
    files = provenance.training_sources(method)
    assert len(files) == len(set(files)) and all(file.is_file() for file in files)
    assert closure_is_inside(files) == []
    assert {PACKAGE / "training/step.py", PACKAGE / "inner.py", PACKAGE / "data/augment.py"} <= set(files)


def test_an_exam_depends_on_all_the_code_that_it_runs() -> None:
    files = provenance.exam_sources()
    assert all(file.is_file() for file in files) and closure_is_inside(files) == []
    assert not {file for file in files if file.is_relative_to(PACKAGE / "training")}, "nor on how nets are trained"


@pytest.mark.parametrize("method", TRAINED)
def test_a_method_does_not_depend_on_other_methods_files(method: str) -> None:
    """Else editing one method trains all of them again. A subclass depends on its base too."""
    classes = names.locate(names.METHODS[method].where).__mro__
    wanted = {Path(sys.modules[kind.__module__].__file__ or "") for kind in classes if kind is not object}
    used = {file for file in provenance.training_sources(method) if file.parent.name == "methods"}
    shared = {PACKAGE / "methods" / name for name in ("__init__.py", "base.py", "labels.py")}
    assert used - shared == wanted - shared


def test_every_source_of_pictures_has_its_files() -> None:
    for source in names.SOURCES:
        files = provenance.data_sources(source)
        assert all(file.is_file() for file in files)
        assert len([file for file in files if file.parent.name == "data" and file.name != "pictures.py"]) == 1


def test_report_and_metrics_sources_are_files_that_know_no_network() -> None:
    for files in (provenance.report_sources(), provenance.metrics_sources()):
        assert files and all(file.is_file() and file.is_relative_to(PACKAGE / "report") for file in files)


def test_the_digest_of_code_is_of_its_content(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("one.py", "two.py")]
    for file in files:
        file.write_text("x = 1\n")
    before = provenance.code_digest(files)
    files[1].touch()
    assert provenance.code_digest(files) == before, "a date is not content"
    files[1].write_text("x = 2\n")
    changed = provenance.code_digest(files)
    files[0].write_text("x = 2\n")
    files[1].write_text("x = 1\n")
    assert len({before, changed, provenance.code_digest(files)}) == 3
    assert provenance.code_digest(files[:1]) != provenance.code_digest(files)
