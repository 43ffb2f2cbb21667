"""Images of your own: an ImageFolder tree, `<path>/{train,test}/<class>/<any image>`.

`<path>/validation`, in the same layout, is the validation set; where it is missing, a stratified share of train is held
out. Classes and images are in natural order of their names (2 before 10), so the same tree gives the same data set on
every machine.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from dynat.config import DatasetConfig
from dynat.data.decode import Listed, join_names, read_images, read_with_held_out
from dynat.data.images import STRATIFIED, Dataset, chosen_classes, stratified_order
from dynat.prepared import DataError

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}


def prepare(config: DatasetConfig, root: Path) -> Dataset:
    """Every image as RGB, resized to `config.size` squared where it is not of that size; all of them in a file."""
    assert config.path is not None and config.size is not None, "the config requires path and size of a folder"
    tree = Path(config.path).expanduser()
    files = {"train": class_files(tree / "train"), "test": class_files(tree / "test")}
    if (tree / "validation").is_dir():
        files["validation"] = class_files(tree / "validation")
    classes = tuple(files["train"])
    for part, by_class in files.items():
        _check_classes(classes, by_class, tree, part)
    if config.classes is not None:  # the others are not read
        classes = chosen_classes(config.classes, classes)
    parts = {part: Listed.of({name: by_class[name] for name in classes}) for part, by_class in files.items()}
    parts["test"] = parts["test"][stratified_order(parts["test"].labels)]
    if "validation" in parts:
        splits = {part: read_images(listed, config.size, part, root) for part, listed in parts.items()}
    else:
        splits = read_with_held_out(parts, config, classes, root)
    return Dataset.from_splits(
        name=config.name,
        classes=classes,
        origin={"source": "folder", "path": config.path, "split_seed": config.split_seed},
        train=splits["train"],
        validation=splits["validation"],
        test=splits["test"],
        test_order=STRATIFIED,
    )


def natural(name: str) -> tuple[tuple[str | int, ...], str]:
    """A key that sorts '2.png' before '10.png'; the name itself settles '1' and '01'."""
    parts = re.split(r"(\d+)", name)
    return tuple(int(part) if odd % 2 else part for odd, part in enumerate(parts)), name


def class_files(folder: Path) -> dict[str, list[Path]]:
    """Class name to its image files, both in natural order; hidden and other files are ignored."""
    if not folder.is_dir():
        raise DataError(
            f"{folder}: no such folder; a data set of your own holds its images in "
            "<path>/train/<class>/ and <path>/test/<class>/"
        )
    names = [entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
    if len(names) < 2:
        raise DataError(f"{folder}: needs a folder of images for each of at least two classes, found {len(names)}")
    by_class = {name: _image_files(folder / name) for name in sorted(names, key=natural)}
    if empty := [name for name, files in by_class.items() if not files]:
        raise DataError(f"{folder}: no image ({', '.join(sorted(SUFFIXES))}) in {join_names(empty)}")
    return by_class


def _image_files(folder: Path) -> list[Path]:
    """Images in `folder` and its subfolders. Links to files and to `folder` itself are followed; what is named like an
    image and is none, and a linked subfolder, is refused: skipping it would make another data set in silence."""
    files: list[Path] = []
    for entry in folder.rglob("*"):
        inside = entry.relative_to(folder)
        if any(part.startswith(".") for part in inside.parts):
            continue
        if entry.is_symlink() and entry.is_dir():
            raise DataError(f"{entry}: a link to a folder inside a class is not followed; put its images there instead")
        if entry.suffix.lower() in SUFFIXES and not entry.is_dir():
            if not entry.is_file():
                what = "a link to nothing" if entry.is_symlink() else "not a regular file"
                raise DataError(f"{entry}: {what}, but named like an image; remove or rename it")
            files.append(entry)
    return sorted(files, key=lambda file: natural(file.relative_to(folder).as_posix()))


def _check_classes(train_classes: Iterable[str], part_classes: Iterable[str], tree: Path, part: str) -> None:
    in_train, in_part = set(train_classes), set(part_classes)
    differences = [
        f"{has}/ has {join_names(sorted(extra, key=natural))}, {lacks}/ does not"
        for has, lacks, extra in (("train", part, in_train - in_part), (part, "train", in_part - in_train))
        if extra
    ]
    if differences:
        raise DataError(f"{tree}: the classes differ: {'; '.join(differences)}")
