"""Imports point one way, modules stay small, and what a result depends on is known."""

from __future__ import annotations

import ast
import importlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import dynat
from dynat import provenance
from dynat.config import registry

PACKAGE = Path(dynat.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

# From the ground up. No module imports from a layer above; two in one line do not import each other.
LAYERS: list[set[str]] = [
    {"runtime"},
    {"config", "prepared"},
    {"provenance", "data", "nn", "results", "l1_ball"},
    {"models", "pgd", "report"},
    {"checkpoints", "methods"},
    {"training", "attacks"},
    {"jobs"},
    {"cli", "api"},
    {"__main__"},
]
LAYER = {part: layer for layer, parts in enumerate(LAYERS) for part in parts}


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
        assert other == own or LAYER[other] < LAYER[own], f"{module} is not below {own}"


def test_every_part_has_its_layer() -> None:
    assert {part_of(file) for file in FILES} - {"__init__"} == set(LAYER)


def test_training_never_imports_evaluation_attacks() -> None:
    """Also not indirectly: evaluation must not influence training."""
    code = "import sys, dynat.training, dynat.data; from dynat.config import registry; "
    code += "[registry.locate(info.where) for info in registry.METHODS.values()]; "
    assert output(code + "print([m for m in sys.modules if m.startswith('dynat.attacks')])") == "[]"


LIGHT = {
    "dynat.config": ("torch", "pandas", "snakemake"),
    "dynat.provenance": ("torch", "pandas"),
    "dynat.jobs.preflight": ("torch", "pandas"),
    "dynat.results.paths": ("torch", "pydantic"),
    "dynat.cli": ("torch", "pandas", "sklearn"),
    "dynat.report": ("torch",),
    "dynat.report.page, dynat.report.figures, dynat.report.gallery, dynat.results.metrics": ("torch", "snakemake"),
    "dynat.jobs.training, dynat.jobs.evaluation": (
        "pandas",
        "matplotlib",
        "seaborn",
        "sklearn",
        "snakemake",
        "pyautoattack",
        "scipy",
    ),
    "dynat.cli, dynat.results.metrics, dynat.jobs.plots": ("torch", "matplotlib", "seaborn", "sklearn"),
}


@pytest.mark.parametrize("modules", LIGHT)
def test_imports_stay_light(modules: str) -> None:
    """Checking a config does not import torch; training on a bare GPU machine needs no plotting."""
    assert output(f"import sys, {modules}; print([m for m in {LIGHT[modules]!r} if m in sys.modules])") == "[]"


def test_the_plan_of_a_pipeline_imports_little() -> None:
    """All that the rules import of this package is loaded by every call of Snakemake, also one with nothing to do."""
    files = [PACKAGE.parent / "workflow/Snakefile", *(PACKAGE.parent / "workflow/rules").glob("*.smk")]
    lines = [line for file in files for line in file.read_text().splitlines() if re.match(r"(from|import) dynat", line)]
    heavy = ("torch", "pandas", "scipy", "matplotlib", "sklearn")
    assert len(lines) > 5
    assert output("\n".join(["import sys", *lines, f"print([m for m in {heavy} if m in sys.modules])"])) == "[]"


def output(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_modules_are_small_and_have_a_docstring(file: Path) -> None:
    text = file.read_text()
    assert len(text.splitlines()) <= 300, "too long for one module"
    tree = ast.parse(text)
    if text.strip() and file.name != "__main__.py":
        assert ast.get_docstring(tree), "a module says first what it is for"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno is not None and node.end_lineno - node.lineno < 60, node.name


# --- names ----------------------------------------------------------------------------------------------------

ENTRIES = {
    **{f"method {name}": info.where for name, info in registry.METHODS.items()},
    **{f"network {name}": where for name, where in registry.NETWORKS.items()},
    **{f"source {name}": where for name, where in registry.SOURCES.items()},
    **{f"attack {name}": info.where for name, info in registry.ATTACKS.items() if not info.parts},
}


@pytest.mark.parametrize("entry", ENTRIES)
def test_every_registered_name_can_be_imported(entry: str) -> None:
    if entry == "network timm/<name>":
        pytest.importorskip("timm")
    assert callable(registry.locate(ENTRIES[entry]))


@pytest.mark.parametrize("method", registry.METHODS)
def test_the_registry_knows_what_an_inner_attack_maximizes(method: str) -> None:
    info = registry.METHODS[method]
    assert info.maximizes_kl == (registry.locate(info.where).default_objective == "kl")


def test_every_method_class_is_registered() -> None:
    """A method without an entry cannot be used: its entry was forgotten."""
    from dynat.methods import Method

    registered = {registry.locate(info.where) for info in registry.METHODS.values()}
    for file in (PACKAGE / "methods").glob("*.py"):
        module = importlib.import_module(module_of(file))
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, Method) and value.__module__ == module.__name__:
                assert value is Method or any(issubclass(known, value) for known in registered), value


# --- provenance -----------------------------------------------------------------------------------------------

TRAINED = list(registry.METHODS)
NOT_SOURCES = ("dynat.config", "dynat.runtime", "dynat.data")
"""What the config resolves to is in every digest; `runtime` computes nothing; dynat.data itself only re-exports."""


def imports_outside(files: list[Path]) -> list[str]:
    """Imports that lead from these files to a file that is not among them."""
    covered = {module_of(file) for file in files}
    return [
        f"{file.name} imports {module}"
        for file in files
        for module in imported(file)
        if module not in covered
        and module not in NOT_SOURCES
        and not module.startswith(("dynat.config.", "dynat.runtime."))
    ]


@pytest.mark.parametrize("method", TRAINED)
def test_a_training_depends_on_all_the_code_that_it_runs(method: str) -> None:
    files = provenance.training_sources(method)
    assert len(files) == len(set(files)) and all(file.is_file() for file in files)
    assert imports_outside(files) == []


def test_an_evaluation_depends_on_all_the_code_that_it_runs() -> None:
    files = provenance.evaluation_sources()
    assert all(file.is_file() for file in files) and imports_outside(files) == []


@pytest.mark.parametrize("method", TRAINED)
def test_a_method_does_not_depend_on_the_files_of_other_methods(method: str) -> None:
    """Otherwise editing one method trains all of them again. A subclass depends on its base too."""
    classes = registry.locate(registry.METHODS[method].where).__mro__
    own = {Path(sys.modules[kind.__module__].__file__ or "") for kind in classes if kind is not object}
    used = {file for file in provenance.training_sources(method) if file.parent.name == "methods"}
    shared = {PACKAGE / "methods" / name for name in ("__init__.py", "base.py")}
    assert used - shared == own - shared


def jobs() -> dict[str, list[Path]]:
    """The source files of each kind of job."""
    return {
        "data": provenance.data_sources("digits"),
        "training of at": provenance.training_sources("at"),
        "training of trades": provenance.training_sources("trades"),
        "import": provenance.import_sources(),
        "attack": provenance.evaluation_sources(),
        "sanity": provenance.sanity_sources(),
        "metrics": provenance.metrics_sources(),
        "report": provenance.report_sources(),
    }


TRAININGS = {"training of at", "training of trades"}
EVALUATIONS = {"attack", "sanity"}
FOLLOWS: dict[str, set[str]] = {
    "runtime/files.py": set(),
    "config/registry.py": set(),
    "data/images.py": {"data", *TRAININGS, *EVALUATIONS},
    "data/image_files.py": {"data", *TRAININGS, *EVALUATIONS},
    "data/digits.py": {"data"},
    "data/augmentation.py": TRAININGS,
    "nn/numerics.py": {*TRAININGS, "import", *EVALUATIONS},
    "nn/folded.py": {*TRAININGS, "import", *EVALUATIONS},
    "models/small.py": {*TRAININGS, "import", *EVALUATIONS},
    "checkpoints/weights.py": {"import", *EVALUATIONS},
    "checkpoints/third_party.py": {"import"},
    "pgd.py": {*TRAININGS, *EVALUATIONS},
    "methods/base.py": TRAININGS,
    "methods/trades.py": {"training of trades"},
    "training/step.py": TRAININGS,
    "attacks/first_order.py": EVALUATIONS,
    "results/statistics.py": {"metrics", "report"},
    "report/tables.py": {"report"},
    "jobs/diff.py": set(),
    "cli/__init__.py": set(),
    "api/results.py": set(),
}
"""One file of each folder, and the jobs that run again when it changes."""


@pytest.mark.parametrize("changed", FOLLOWS)
def test_which_jobs_follow_a_change_of_a_file(changed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "dynat"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(provenance, "PACKAGE", copy)
    before = {job: provenance.code_digest(files) for job, files in jobs().items()}
    with (copy / changed).open("a") as file:
        file.write("# changed\n")
    after = {job: provenance.code_digest(files) for job, files in jobs().items()}
    assert {job for job in before if before[job] != after[job]} == FOLLOWS[changed]


def test_every_folder_has_a_file_in_the_table_of_changes() -> None:
    folders = {file.relative_to(PACKAGE).parts[0] for file in FILES if len(file.relative_to(PACKAGE).parts) > 1}
    assert folders == {changed.split("/")[0] for changed in FOLLOWS if "/" in changed}


SHARED = ("images.py", "image_files.py")


def test_every_data_source_has_its_files() -> None:
    for source in registry.SOURCES:
        files = provenance.data_sources(source)
        assert all(file.is_file() for file in files)
        own = [file for file in files if file.parent.name == "data" and file.name not in SHARED]
        modules = {where.partition(":")[0].rpartition(".")[2] for where in registry.SOURCES.values()}
        assert [file.stem for file in own if file.stem in modules] == [registry.SOURCES[source].split(".")[2][:-8]]
        assert all(file.stem in {*modules, "decode", "published", "download"} for file in own)


def test_report_and_metrics_depend_on_results_and_report_only() -> None:
    allowed = (PACKAGE / "results", PACKAGE / "report")
    for files in (provenance.report_sources(), provenance.metrics_sources()):
        assert files and all(file.is_file() for file in files)
        assert all(any(file.is_relative_to(folder) for folder in allowed) for file in files)


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
