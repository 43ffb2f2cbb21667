"""Image folders: labels, order and size come from the folder; errors name what is wrong."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dynat import provenance
from dynat.config import DatasetConfig
from dynat.data import DataError, evaluation_folder, load, prepare
from dynat.data.folder import natural
from dynat.jobs import preflight
from tests.helpers import Dynat


def paint(file: Path, color: tuple[int, int, int], size: tuple[int, int] = (6, 6)) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(file)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two classes, formats mixed; red says which image it is, green the class, blue the part."""
    for blue, (part, count) in enumerate((("train", 12), ("test", 3))):
        for green, name in enumerate(("class10", "class9")):
            for red in range(count):
                suffix = ("png", "bmp", "PNG")[red % 3]
                paint(tmp_path / "tree" / part / name / f"{red}.{suffix}", (red, green, blue))
    return tmp_path / "tree"


def own(tree: Path, **fields: Any) -> DatasetConfig:
    return DatasetConfig(**{"name": "own", "source": "folder", "path": str(tree), "size": 6, **fields})


def test_a_folder_in_natural_order(tree: Path, tmp_path: Path) -> None:
    (tree / "train" / "class9" / "Thumbs.db").write_text("not an image")
    (tree / "train" / "class9" / "._0.png").write_text("not an image either")
    read = load(prepare(own(tree, validation=0.25), tmp_path / "data"))
    assert read.classes == ("class9", "class10")
    assert [len(part) for part in read.splits.values()] == [18, 6, 6]
    assert [sorted(pair) for pair in read.test.labels.view(3, 2).tolist()] == [[0, 1]] * 3, "stratified"
    for name, part in read.splits.items():
        red, green, blue = part.images[:, :, 0, 0].long().T
        assert torch.equal(green, 1 - part.labels), "a label is its folder"
        assert set(blue.tolist()) == {int(name == "test")}, "no test image is trained on"
        for label in (0, 1):
            reds = red[part.labels == label]
            assert sorted(reds.tolist()) == [0, 1, 2] if name == "test" else reds.diff().gt(0).all(), "2 before 10"
    trained = torch.cat([read.train.images, read.validation.images])
    assert len({tuple(image) for image in trained[:, :2, 0, 0].tolist()}) == 24


def test_a_validation_folder_is_used_as_it_is(tree: Path, tmp_path: Path) -> None:
    for name in ("class9", "class10"):
        paint(tree / "validation" / name / "a.webp", (200, 0, 0))
    read = load(prepare(own(tree), tmp_path / "data"))
    assert [len(part) for part in read.splits.values()] == [24, 2, 6]


def test_images_of_another_size_are_resized_smoothly(tree: Path, tmp_path: Path) -> None:
    stripes = np.zeros((60, 60, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    Image.fromarray(stripes).save(tree / "test" / "class9" / "0.png")
    read = load(prepare(own(tree), tmp_path / "data"))
    # without antialiasing, single pixels of the stripes would show: all black or all white
    striped = max(read.test.images.float(), key=lambda image: image.mean().item())
    assert striped.sub(127.5).abs().max() < 40


def test_gray_and_rotated_images(tree: Path, tmp_path: Path) -> None:
    Image.new("L", (6, 6), 77).save(tree / "test" / "class9" / "0.png")
    rotated = np.zeros((6, 6, 3), dtype=np.uint8)
    rotated[0] = 255  # white at the top in the file; the EXIF entry says: rotate by 180 degrees
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(rotated).save(tree / "test" / "class9" / "1.webp", exif=exif, lossless=True)
    (tree / "test" / "class9" / "1.bmp").unlink()
    read = load(prepare(own(tree), tmp_path / "data"))
    assert any(image.eq(77).all() for image in read.test.images)
    (upright,) = [image for image in read.test.images if image.eq(255).any()]
    assert upright[:, 5].eq(255).all() and not upright[:, 0].any()


def test_unreadable_images_are_named(tree: Path, tmp_path: Path) -> None:
    for red in range(7):
        (tree / "train" / "class9" / f"broken{red}.jpg").write_bytes(b"\xff\xd8 no more")
    half = tree / "test" / "class9" / "0.png"
    with pytest.raises(
        DataError, match=r"7 of 31 train images cannot be read: .*broken0\.jpg \(.*broken4.* and 2 more"
    ):
        prepare(own(tree), tmp_path / "data")
    for red in range(7):
        (tree / "train" / "class9" / f"broken{red}.jpg").unlink()
    noise = np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(half)
    half.write_bytes(half.read_bytes()[:5000])
    with pytest.raises(DataError, match=r"1 of 6 test images cannot be read: .*0\.png \("):
        prepare(own(tree), tmp_path / "data")
    assert not (tmp_path / "data" / "own").exists()


def test_deep_images_are_not_clipped_silently(tree: Path, tmp_path: Path) -> None:
    Image.fromarray(np.full((6, 6), 40_000, dtype=np.uint16)).save(tree / "test" / "class9" / "0.png")
    with pytest.raises(DataError, match="more than 8 bits per channel"):
        prepare(own(tree), tmp_path / "data")


def test_an_image_that_would_fill_the_memory_is_named(tree: Path, tmp_path: Path) -> None:
    Image.new("1", (9000, 9000)).save(tree / "test" / "class9" / "0.png")
    with pytest.raises(DataError, match=r"0.png \(9000 x 9000 pixels: reduce it first\)"):
        prepare(own(tree), tmp_path / "data")


def test_formats_beyond_the_documented_ones_are_refused(tree: Path, tmp_path: Path) -> None:
    """PIL would hand PostScript to Ghostscript, whatever the file is called."""
    Image.new("RGB", (6, 6), (1, 2, 3)).save(tmp_path / "drawing.eps")
    (tmp_path / "drawing.eps").replace(tree / "test" / "class9" / "0.png")
    with pytest.raises(
        DataError, match=r"1 of 6 test images cannot be read: .*0\.png \(not an image of JPEG, PNG, BMP"
    ):
        prepare(own(tree), tmp_path / "data")
    with pytest.raises(DataError, match=r"0\.png: cannot be read"):
        evaluation_folder.common_size(tree)


def fifo(file: Path) -> None:
    os.mkfifo(file)


def link_to_nothing(file: Path) -> None:
    file.symlink_to("nowhere.png")


def linked_folder(file: Path) -> None:
    file.symlink_to(file.parents[2] / "test" / "class10")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (fifo, "not a regular file, but named like an image; remove or rename it"),
        (link_to_nothing, "a link to nothing, but named like an image; remove or rename it"),
        (linked_folder, "a link to a folder inside a class is not followed"),
    ],
)
def test_what_is_no_file_is_refused_not_skipped(make: Any, reason: str, tree: Path, tmp_path: Path) -> None:
    make(tree / "train" / "class9" / "odd.png")
    with pytest.raises(DataError, match=rf"class9/odd\.png: {reason}"):
        prepare(own(tree), tmp_path / "data")


def test_links_to_images_and_to_classes_are_followed(tree: Path, tmp_path: Path) -> None:
    whole = load(prepare(own(tree), tmp_path / "data"))
    before = provenance.listing(own(tree), tmp_path / "known")
    (tree / "train" / "class9").rename(tmp_path / "elsewhere")
    (tree / "train" / "class9").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "0.png").rename(tmp_path / "first.png")
    (tmp_path / "elsewhere" / "0.png").symlink_to(tmp_path / "first.png")
    assert load(prepare(own(tree), tmp_path / "linked")).digest == whole.digest
    assert provenance.listing(own(tree), tmp_path / "known") == before
    paint(tmp_path / "elsewhere" / "another.png", (9, 9, 9))
    assert provenance.listing(own(tree), tmp_path / "known") != before, "also inside a linked folder"


def test_images_that_do_not_fit_on_the_disk(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 8, 1000))
    with pytest.raises(DataError, match=r"dataset\.size: 24 train images of 200 x 200 pixels need 0.0 GB while"):
        prepare(own(tree, size=200), tmp_path / "data")


def test_a_class_too_small_to_hold_one_image_out_is_named(tree: Path, tmp_path: Path) -> None:
    for file in list((tree / "train" / "class10").iterdir())[1:]:
        file.unlink()
    with pytest.raises(DataError, match="class 'class10' has 1 image: too few to hold one out"):
        prepare(own(tree), tmp_path / "data")


def test_test_images_that_are_trained_on_are_counted(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert load(prepare(own(tree), tmp_path / "data")).test_in_train == 0
    for name in ("class9", "class10"):
        remove(tree / "test" / name)
    shutil.copytree(tree / "train", tree / "test", dirs_exist_ok=True)
    assert load(prepare(own(tree), tmp_path / "data")).test_in_train == 24
    assert "warning: own: 24 of 24 test images are also training or validation images" in capsys.readouterr().err
    preflight.check_prepared_data(tmp_path / "data" / "own")
    assert "warning: own: 24 of 24 test images" in capsys.readouterr().err


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


def test_a_class_without_images(tree: Path, tmp_path: Path) -> None:
    (tree / "train" / "empty").mkdir()
    with pytest.raises(DataError, match=r"train: no image \(.*\.jpg.*\) in empty"):
        prepare(own(tree), tmp_path / "data")


@pytest.mark.parametrize("absent", ["train", "test"])
def test_a_tree_without_a_part(absent: str, tree: Path, tmp_path: Path) -> None:
    (tree / absent).rename(tree / "elsewhere")
    with pytest.raises(DataError, match=rf"{absent}: no such folder; .*<path>/train/<class>/"):
        prepare(own(tree), tmp_path / "data")


def test_one_class_is_refused(tree: Path, tmp_path: Path) -> None:
    remove(tree / "train" / "class9")
    with pytest.raises(DataError, match="at least two classes, found 1"):
        prepare(own(tree), tmp_path / "data")


@given(st.lists(st.text("a0129.²٣", max_size=6), max_size=8))
def test_natural_order_is_total(names: list[str]) -> None:
    once = sorted(names, key=natural)
    backwards = list(reversed(names))
    assert once == sorted(backwards, key=natural)
    assert sorted(["10", "9", "1", "01"], key=natural) == ["01", "1", "9", "10"]


def test_another_image_makes_another_data_set(tree: Path, tmp_path: Path) -> None:
    before = provenance.listing(own(tree), tmp_path / "known")
    assert before == provenance.listing(own(tree), tmp_path / "known") != ""
    paint(tree / "test" / "class9" / "another.png", (1, 2, 3))
    assert provenance.listing(own(tree), tmp_path / "known") != before
    assert provenance.listing(own(tree / "nowhere"), tmp_path / "known") == ""
    assert provenance.listing(DatasetConfig(name="cifar10", source="cifar10", path=str(tree)), tmp_path / "known") == ""


def test_an_image_of_the_same_size_in_bytes_is_another_image(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known, image = tmp_path / "known", tree / "train" / "class9" / "0.png"
    before = provenance.listing(own(tree), known)
    os.utime(image, ns=(5, 5))
    assert provenance.listing(own(tree), known) == before, "a copy has other times, and is the same data set"
    content = image.read_bytes()
    image.write_bytes(content[:-20] + b"x" + content[-19:])
    changed = provenance.listing(own(tree), known)
    assert changed != before
    monkeypatch.setattr(provenance, "_content", lambda _: pytest.fail("read again"))
    assert provenance.listing(own(tree), known) == changed
    monkeypatch.undo()
    (note,) = [file for file in known.iterdir() if file.read_text() == changed]
    note.write_text("")
    assert provenance.listing(own(tree), known) == changed, "a damaged note is not believed"
    known.rename(tmp_path / "gone")
    known.touch()
    assert provenance.listing(own(tree), known) == changed, "where nothing can be written"


def test_a_training_refuses_images_of_another_size(tree: Path, tmp_path: Path, dynat: Dynat) -> None:
    prepare(own(tree, size=6), tmp_path / "data")
    settings = [f"dataset={{name: own, source: folder, path: '{tree}', size: 12, validation: 0.2}}", "select=[at]"]
    words = [word for setting in settings for word in ("--set", setting)]
    code, output = dynat(
        "train", "at", *words, "--data", str(tmp_path / "data"), "--results", str(tmp_path / "results")
    )
    assert code == 2
    assert "own: was prepared with size 6, and the configuration says 12; prepare it again: dynat data" in output
    assert not (tmp_path / "results").exists()
