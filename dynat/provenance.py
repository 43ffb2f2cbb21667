"""Which source files a result depends on, and their digest.

Snakemake takes the files as inputs of its rules; a training's saved state carries the digest in its name, so
that a state written by other code is never resumed. A method depends on its own file and those of the methods
that it builds on, not on the others'. The files of plug-ins are among them, with the modules beside them that they
import.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import itertools
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from dynat.config import DatasetConfig, registry
from dynat.runtime.files import atomic_text

PACKAGE = Path(__file__).parent

# The config's code is not among them: what it resolves to is part of every digest and every rule's params. Nor is
# `runtime`: it moves bytes and chooses devices, and computes nothing.
_TRAINING = (
    "prepared.py",
    "data/images.py",
    "data/image_files.py",
    "data/augmentation.py",
    "data/extra.py",
    "data/npz.py",
    "nn",
    "models",
    "l1_ball.py",
    "pgd.py",
    "training",
)
_METHOD_BASE = ("methods/__init__.py", "methods/base.py")
_EVALUATION = (
    "prepared.py",
    "data/images.py",
    "data/image_files.py",
    "nn",
    "models",
    "checkpoints/weights.py",
    "checkpoints/network.py",
    "l1_ball.py",
    "pgd.py",
    "attacks",
)


def training_sources(method: str, *networks: str | None) -> list[Path]:
    """The files on which a training with this method and these networks depends."""
    shared = _files((*_TRAINING, *_METHOD_BASE))
    where = registry.METHODS[method].where
    own = _built_on(_module_file(where), known=shared, package="methods")
    return list(dict.fromkeys([*shared, *own, *_plugin_files(where), *network_plugins(*networks)]))


def corruption_sources() -> list[Path]:
    """The files on which the accuracy on corrupted images depends."""
    data = ("data/corruptions.py", "data/corruption_archive.py")
    return _files((*_EVALUATION, *data, "jobs/evaluation.py", "jobs/corruptions.py"))


def import_sources() -> list[Path]:
    """The files on which the import of a third-party checkpoint depends."""
    return _files(("nn", "models", "checkpoints", "jobs/import_checkpoint.py"))


def evaluation_sources() -> list[Path]:
    """The files on which the verdicts of an attack depend."""
    return _files(_EVALUATION)


def sanity_sources() -> list[Path]:
    """The files on which the sanity checks and the transfer matrix depend."""
    return _files((*_EVALUATION, "jobs/evaluation.py", "jobs/sanity.py", "jobs/transfer.py"))


def data_sources(source: str) -> list[Path]:
    """The files on which a prepared data set depends."""
    shared = _files(("prepared.py", "data/images.py", "data/image_files.py"))
    own = _built_on(_module_file(registry.SOURCES[source]), known=shared, package="data")
    return list(dict.fromkeys([*shared, *own, *_plugin_files(registry.SOURCES[source])]))


def extra_sources() -> list[Path]:
    """The files on which the check of extra images depends."""
    return _files(("prepared.py", "data/images.py", "data/npz.py", "data/extra.py"))


def listing(dataset: DatasetConfig, known: Path) -> str:
    """A digest of the names and contents of all files of an image folder; empty for other sources.

    The folder `known` keeps it by the names, sizes and times of the files, so they are read again only after one of
    these changed. Times are not in the digest: a copy of the images is the same data set.
    """
    if dataset.source != "folder" or dataset.path is None:
        return ""
    root = Path(dataset.path).expanduser()
    files = sorted(_regular_files(root))
    if not files:
        return ""
    names = [file.relative_to(root).as_posix() for file in files]
    times = [(status.st_size, status.st_mtime_ns) for status in map(Path.stat, files)]
    note = known / _short(repr((str(root.absolute()), names, times)))
    with suppress(OSError, UnicodeDecodeError):
        if re.fullmatch(r"[0-9a-f]{16}", text := note.read_text()):
            return text
    content = _short(repr(list(zip(names, map(_content, files), strict=True))))
    with suppress(OSError):  # nothing can be written here: read again next time
        atomic_text(note, content)
    return content


def _content(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError:  # the job that prepares the images says so
        return "cannot be read"


def _short(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]


def _regular_files(root: Path) -> Iterator[Path]:
    """All files below `root`, also in folders that are links, each folder once."""
    seen: set[tuple[int, int]] = set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        status = Path(folder).stat()
        if (status.st_dev, status.st_ino) in seen:  # a link to a folder above it
            subfolders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        yield from (file for name in names if (file := Path(folder, name)).is_file())


def metrics_sources() -> list[Path]:
    """The files on which a run's metrics depend."""
    return _files(("results",))


def report_sources() -> list[Path]:
    """The files on which tables, figures and the page depend."""
    page = [PACKAGE / "report" / f"page.{ending}" for ending in ("html", "css", "js")]
    return [*_files(("results", "report")), *page]


def plots_sources() -> list[Path]:
    """The files on which the small tables depend that DVC shows."""
    return _files(("results", "jobs/plots.py"))


def code_digest(files: Iterable[Path]) -> str:
    total = hashlib.sha256()
    for file in files:
        total.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return total.hexdigest()[:16]


def plugins_digest(files: list[Path]) -> str:
    """The digest of plug-ins, to be added to another one; empty without any, so that the other stays what it was."""
    return f" {code_digest(files)}" if files else ""


def _files(parts: Iterable[str]) -> list[Path]:
    files: list[Path] = []
    for part in parts:
        path = PACKAGE / part
        files += sorted(path.rglob("*.py")) if path.is_dir() else [path]
    return files


def _built_on(file: Path, known: list[Path], package: str) -> list[Path]:
    """A file and those of this package that it imports, theirs too, without what is `known`."""
    files = [file]
    for module in _imported(file):
        if module.startswith(f"{PACKAGE.name}.{package}."):
            other = _module_file(module)
            files += [new for new in _built_on(other, known, package) if new not in files] if other not in known else []
    return files


def network_plugins(*networks: str | None) -> list[Path]:
    """The files of those of these networks that are plug-ins."""
    return _plugin_files(*(registry.network_entry(name)[0] for name in networks if name))


def attack_plugins(kind: str) -> list[Path]:
    """The files of an attack that is a plug-in, or of its parts that are."""
    return _plugin_files(*(registry.ATTACKS[part].where for part in registry.attack_parts(kind)))


def _plugin_files(*implementations: str) -> list[Path]:
    """The files of those that are not of this package (`module:object`), and what they import from beside them."""
    files: list[Path] = []
    for name in sorted({where.partition(":")[0] for where in implementations if where}):
        if name.partition(".")[0] != PACKAGE.name:
            _add_with_imports(_module_file(name), name, files)
    return files


def _add_with_imports(file: Path, name: str, files: list[Path]) -> None:
    """Add a file, and the files in its folder or its package that it imports, theirs too."""
    if file in files:
        return
    files.append(file)
    package = name.partition(".")[0]
    root = file.parents[name.count(".") + (file.name == "__init__.py")]
    installed = {"site-packages", "dist-packages"} & set(root.parts)
    imported = [(module, *(f"{module}.{inside}" for inside in names)) for module, names in _imports(file, name)]
    for other in dict.fromkeys(itertools.chain.from_iterable(imported)):
        top = other.partition(".")[0]
        if top == PACKAGE.name or (installed and top != package):
            continue
        path = root.joinpath(*other.split("."))
        for candidate in (path.with_suffix(".py"), path / "__init__.py"):
            if candidate.is_file():
                _add_with_imports(candidate, other, files)


def _imported(file: Path) -> list[str]:
    """Modules named in a file's `import` and `from ... import` lines, read without running them."""
    return [module for module, _ in _imports(file, "")]


def _imports(file: Path, name: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Each module that a file imports, and what from it, read without running it. Relative imports are found by the
    `name` of the file's module."""
    package = name.split(".") if file.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, ()) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            if module:
                yield module, tuple(alias.name for alias in node.names)


def _module_file(where: str) -> Path:
    """The file of a module, without importing it (a plug-in is imported already)."""
    name = where.partition(":")[0]
    inside = name.split(".")
    if inside[0] == PACKAGE.name:
        return PACKAGE.joinpath(*inside[1:]).with_suffix(".py")
    file = sys.modules[name].__file__ if name in sys.modules else None
    if file is None and (spec := importlib.util.find_spec(name)):
        file = spec.origin
    assert file is not None, f"plug-in {name} has no file"
    return Path(file)
