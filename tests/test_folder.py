"""Pictures of one's own: labels, order and size are what the tree says; what is wrong with it is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dynat import provenance
from dynat.config import Dataset as DatasetConfig
from dynat.config import load as load_config
from dynat.data import DataError, load, prepare
from dynat.data.folder import natural
from dynat.jobs import guard
from dynat.places import Places


def paint(file: Path, colour: tuple[int, int, int], size: tuple[int, int] = (6, 6)) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(file)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two classes, formats mixed; red says which picture it is, green the class, blue the part."""
    for blue, (part, count) in enumerate((("train", 12), ("test", 3))):
        for green, name in enumerate(("class10", "class9")):
            for red in range(count):
                suffix = ("png", "bmp", "PNG")[red % 3]
                paint(tmp_path / "tree" / part / name / f"{red}.{suffix}", (red, green, blue))
    return tmp_path / "tree"


def own(tree: Path, **fields: Any) -> DatasetConfig:
    return DatasetConfig(**{"name": "own", "source": "folder", "path": str(tree), "size": 6, **fields})


def test_a_folder_in_natural_order(tree: Path, tmp_path: Path) -> None:
    (tree / "train" / "class9" / "Thumbs.db").write_text("not a picture")
    (tree / "train" / "class9" / "._0.png").write_text("not a picture either")
    read = load(prepare(own(tree, validation=0.25), tmp_path / "data"))
    assert read.classes == ("class9", "class10")
    assert [len(part) for part in read.splits.values()] == [18, 6, 6]
    assert read.test.labels.tolist() == [0, 0, 0, 1, 1, 1]
    for name, part in read.splits.items():
        red, green, blue = part.images[:, :, 0, 0].long().T
        assert torch.equal(green, 1 - part.labels), "a label is its folder"
        assert set(blue.tolist()) == {int(name == "test")}, "no test picture is learnt from"
        for label in (0, 1):
            assert red[part.labels == label].diff().gt(0).all(), "2 comes before 10"
    learnt = torch.cat([read.train.images, read.validation.images])
    assert len({tuple(picture) for picture in learnt[:, :2, 0, 0].tolist()}) == 24


def test_a_validation_folder_is_used_as_it_is(tree: Path, tmp_path: Path) -> None:
    for name in ("class9", "class10"):
        paint(tree / "validation" / name / "a.webp", (200, 0, 0))
    read = load(prepare(own(tree), tmp_path / "data"))
    assert [len(part) for part in read.splits.values()] == [24, 2, 6]


def test_pictures_of_another_size_are_resized_smoothly(tree: Path, tmp_path: Path) -> None:
    stripes = np.zeros((60, 60, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    Image.fromarray(stripes).save(tree / "test" / "class9" / "0.png")
    read = load(prepare(own(tree), tmp_path / "data"))
    # without antialiasing, single pixels of the stripes would show: all black or all white
    assert read.test.images[0].float().sub(127.5).abs().max() < 40


def test_grey_and_turned_pictures(tree: Path, tmp_path: Path) -> None:
    Image.new("L", (6, 6), 77).save(tree / "test" / "class9" / "0.png")
    turned = np.zeros((6, 6, 3), dtype=np.uint8)
    turned[0] = 255  # white above in the file; the camera says: turn it by half a circle
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(turned).save(tree / "test" / "class9" / "1.webp", exif=exif, lossless=True)
    (tree / "test" / "class9" / "1.bmp").unlink()
    read = load(prepare(own(tree), tmp_path / "data"))
    assert read.test.images[0].eq(77).all()
    assert read.test.images[1, :, 5].eq(255).all() and not read.test.images[1, :, 0].any()


def test_unreadable_pictures_are_named(tree: Path, tmp_path: Path) -> None:
    for red in range(7):
        (tree / "train" / "class9" / f"broken{red}.jpg").write_bytes(b"\xff\xd8 no more")
    half = tree / "test" / "class9" / "0.png"
    with pytest.raises(
        DataError, match=r"7 of 31 train pictures cannot be read: .*broken0\.jpg \(.*broken4.* and 2 more"
    ):
        prepare(own(tree), tmp_path / "data")
    for red in range(7):
        (tree / "train" / "class9" / f"broken{red}.jpg").unlink()
    noise = np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(half)
    half.write_bytes(half.read_bytes()[:5000])
    with pytest.raises(DataError, match=r"1 of 6 test pictures cannot be read: .*0\.png \("):
        prepare(own(tree), tmp_path / "data")
    assert not (tmp_path / "data" / "own").exists()


def test_deep_pictures_are_not_clipped_silently(tree: Path, tmp_path: Path) -> None:
    Image.fromarray(np.full((6, 6), 40_000, dtype=np.uint16)).save(tree / "test" / "class9" / "0.png")
    with pytest.raises(DataError, match="more than 8 bits per channel"):
        prepare(own(tree), tmp_path / "data")


def remove(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()


def test_classes_must_agree(tree: Path, tmp_path: Path) -> None:
    paint(tree / "train" / "cat" / "0.png", (0, 0, 0))
    remove(tree / "train" / "class9")
    with pytest.raises(
        DataError, match=r"classes differ: train/ has cat, test/ does not; test/ has class9, train/ does not"
    ):
        prepare(own(tree), tmp_path / "data")


def test_a_class_without_pictures(tree: Path, tmp_path: Path) -> None:
    (tree / "train" / "empty").mkdir()
    with pytest.raises(DataError, match=r"train: no picture \(.*\.jpg.*\) in empty"):
        prepare(own(tree), tmp_path / "data")


@pytest.mark.parametrize("absent", ["train", "test"])
def test_a_tree_without_a_part(absent: str, tree: Path, tmp_path: Path) -> None:
    (tree / absent).rename(tree / "elsewhere")
    with pytest.raises(DataError, match=rf"{absent}: no such folder; .*<path>/train/<class>/"):
        prepare(own(tree), tmp_path / "data")


def test_one_class_is_no_task(tree: Path, tmp_path: Path) -> None:
    remove(tree / "train" / "class9")
    with pytest.raises(DataError, match="at least two classes, found 1"):
        prepare(own(tree), tmp_path / "data")


@given(st.lists(st.text("a0129.²٣", max_size=6), max_size=8))
def test_natural_order_is_total(names: list[str]) -> None:
    once = sorted(names, key=natural)
    backwards = list(reversed(names))
    assert once == sorted(backwards, key=natural)
    assert sorted(["10", "9", "1", "01"], key=natural) == ["01", "1", "9", "10"]


def test_a_picture_more_is_another_data_set(tree: Path) -> None:
    before = provenance.listing(own(tree))
    assert before == provenance.listing(own(tree)) != ""
    paint(tree / "test" / "class9" / "another.png", (1, 2, 3))
    assert provenance.listing(own(tree)) != before
    assert provenance.listing(own(tree / "nowhere")) == ""
    assert provenance.listing(DatasetConfig(name="cifar10", source="cifar10", path=str(tree))) == ""


@pytest.mark.parametrize("prepared", [False, True])
def test_too_few_classes_for_autoattack_are_noticed_before_any_job(prepared: bool, tree: Path, tmp_path: Path) -> None:
    given = {"preset": "folder", "dataset": {"name": "own", "path": str(tree), "size": 6}}
    places = Places(data=tmp_path / "data")
    if prepared:
        prepare(own(tree), places.data)
    with pytest.raises(ValueError, match=r"attacks.autoattack: .* at least 4 classes, and own has 2: use pgd"):
        guard.before_any_job(load_config(given), places, tmp_path / "records")
    guard.before_any_job(load_config({**given, "attacks": ["clean", "pgd-20"]}), places, tmp_path / "records")
