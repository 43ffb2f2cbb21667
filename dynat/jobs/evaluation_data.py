"""The images of `dynat evaluate --dataset`: a prepared data set, one that a preset names, or an image folder.

An image folder is prepared once, under a name made of its own name and a digest of its files. It may hold:

    <path>/train/<class>/..., <path>/test/<class>/...   a whole data set
    <path>/test/<class>/...                             test images only
    <path>/<class>/...                                  test images only
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from dynat import data, prepared, provenance
from dynat.config import ConfigError, DatasetConfig, digest, load, registry
from dynat.config.base import nearest
from dynat.config.presets import PRESETS
from dynat.data import evaluation_folder
from dynat.results.paths import Paths
from dynat.runtime.errors import UserError
from dynat.runtime.files import check_writable

Say = Callable[[str], None]


def evaluation_data(
    name_or_path: str,
    size: int | None,
    paths: Paths,
    say: Say = print,
    check: Callable[[int, int, tuple[int, int]], object] = lambda classes, channels, size: None,
) -> DatasetConfig:
    """The data set to evaluate on, prepared if it was not.

    `check` is called with the number of classes, channels and pixels of an image folder before its images are read.
    """
    path = Path(name_or_path).expanduser()
    if path.parent == paths.data and (path / data.INFO).exists():
        name_or_path = path.name
    if "/" not in name_or_path and paths.dataset_info(name_or_path).exists():
        _check_size(name_or_path, size, paths)
        return _prepared(name_or_path, paths)
    named = _preset_datasets()
    if name_or_path in named:
        config = named[name_or_path]
        say(f"{config.name}: prepared in {data.prepare(config, paths.data)}")
        _check_size(config.name, size, paths)
        return config
    if not path.is_dir():
        raise ConfigError(
            f"--dataset: unknown data set '{name_or_path}', and there is neither a folder of images of that name nor "
            f"{paths.dataset(name_or_path)}: {nearest(name_or_path, named)}"
        )
    names = list(evaluation_folder.test_files(path))
    if sorted(names) != names:
        say(
            f"warning: {path}: the classes are numbered in the order {_first(names)}; torchvision's ImageFolder has "
            f"the order {_first(sorted(names))}. If the network was trained with that, give the folders names that "
            "have the same order in both, such as class01"
        )
    classes = len(names)
    size = size or evaluation_folder.common_size(path)
    check(classes, 3, (size, size))
    return _image_folder(path, size, paths, say)


def _first(names: list[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")


def _check_size(name: str, size: int | None, paths: Paths) -> None:
    """Refuse a `--size` that this data set does not have: only the images of a folder are resized."""
    _, height, width = prepared.read_info(paths.dataset(name)).shape
    if size is not None and (size, size) != (height, width):
        raise ConfigError(
            f"--size {size}: the images of {name} are {height} x {width} pixels; only those of a folder are resized"
        )


def _prepared(name: str, paths: Paths) -> DatasetConfig:
    info, _ = prepared.read(paths.dataset(name))
    if info.source != "folder" and info.source in registry.SOURCES:
        return DatasetConfig(name=name, source=info.source)
    return DatasetConfig(name=name, source="folder", path=str(paths.dataset(name)), size=info.shape[1])


def _preset_datasets() -> dict[str, DatasetConfig]:
    """The data sets that the presets name, as the first of them configures each."""
    datasets: dict[str, DatasetConfig] = {}
    for file in sorted(PRESETS.glob("*.yaml")):
        dataset = load({"preset": file.stem}).dataset
        datasets.setdefault(dataset.name, dataset)
    return datasets


def _image_folder(path: Path, size: int, paths: Paths, say: Say) -> DatasetConfig:
    config = DatasetConfig(name="images", source="folder", path=str(path.resolve()), size=size)
    slug = re.sub(r"[^a-z0-9._-]+", "-", path.resolve().name.lower()).strip("-._") or "images"
    config = config.model_copy(
        update={"name": f"{slug}-{digest(config, provenance.listing(config, paths.listings))[:8]}"}
    )
    folder = paths.dataset(config.name)
    try:
        prepared.read(folder)
    except UserError as error:
        if folder.exists():
            say(f"{error}: prepared again")
        check_writable(folder)
        dataset = evaluation_folder.prepare(config, paths.data)
        data.save(dataset, folder)
        say(f"{path}: prepared in {folder}, {size} x {size} pixels")
    if warning := prepared.shared_images(prepared.read_info(folder)):
        say(f"warning: {warning}")
    return config
