"""SVHN and TinyImageNet from tiny published-form files, subsets of classes, and images that stay in their file."""

from __future__ import annotations

import hashlib
import io
import threading
import tracemalloc
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image
from torchvision.datasets import SVHN

from dynat import data, prepared
from dynat.config import ConfigError, DatasetConfig
from dynat.config import load as load_config
from dynat.data import DataError, load, prepare, tiny_imagenet
from dynat.data.image_files import _safetensors
from tests import tiny
from tests.test_cifar import Quiet

RANDOM = np.random.default_rng(0)


def md5(file: Path) -> str:
    return hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of the folder `server`."""
    (tmp_path / "server").mkdir(exist_ok=True)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "server"))) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


# --- SVHN -----------------------------------------------------------------------------------------------------


@pytest.fixture
def svhn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The two published files in `server`, with few images: height x width x channels x number, labels 1 to 10."""
    (tmp_path / "server").mkdir(exist_ok=True)
    files, published = {}, {}
    for part, count in (("train", 60), ("test", 20)):
        files[part] = RANDOM.integers(256, size=(32, 32, 3, count), dtype=np.uint8)
        file = tmp_path / "server" / f"{part}_32x32.mat"
        scipy.io.savemat(file, {"X": files[part], "y": (np.arange(count) % 10 + 1)[:, None].astype(np.uint8)})
        published[part] = [f"http://127.0.0.1:9/{file.name}", file.name, md5(file)]
    monkeypatch.setattr(SVHN, "split_list", published)
    return files


def check_svhn(folder: Path, files: dict[str, Any]) -> None:
    read = load(folder)
    assert [len(part) for part in read.splits.values()] == [40, 20, 20] and read.test_order == "official"
    assert torch.equal(read.test.images, torch.from_numpy(files["test"].transpose(3, 2, 0, 1).copy()))
    assert read.test.labels.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0] * 2, "the digit 0 has the label 10 in the file"
    assert read.classes == tuple("0123456789")


@pytest.mark.parametrize("form", ["mirror", "path"])
def test_svhn(form: str, svhn: dict[str, Any], server: str, tmp_path: Path) -> None:
    where = {"mirror": server} if form == "mirror" else {"path": str(tmp_path / "server")}
    config = DatasetConfig.model_validate({"name": "svhn", "source": "svhn", "validation": 0.3, **where})
    check_svhn(prepare(config, tmp_path / "data"), svhn)
    if form == "mirror":
        (tmp_path / "server" / "test_32x32.mat").unlink()
        check_svhn(prepare(config, tmp_path / "data"), svhn)  # not downloaded again


def test_damaged_svhn_is_refused(svhn: dict[str, Any], server: str, tmp_path: Path) -> None:
    assert svhn
    file = tmp_path / "server" / "train_32x32.mat"
    file.write_bytes(file.read_bytes()[:-9])
    for where, message in (
        ({"mirror": server}, r"train_32x32.mat: could not be fetched .*has been deleted.*dataset\.path"),
        ({"path": str(file.parent)}, r"train_32x32.mat: damaged or incomplete"),
        ({"path": str(tmp_path)}, "does not hold train_32x32.mat"),
    ):
        with pytest.raises(DataError, match=message):
            prepare(DatasetConfig.model_validate({"name": "svhn", "source": "svhn", **where}), tmp_path / "data")


def test_house_numbers_are_not_mirrored_unless_the_config_says_so(tmp_path: Path) -> None:
    recipe = "threat: {eps: 0.1}\ntraining: {target: small, method: at}\nruns: {a: {}, b: {augmentation: {flip: true}}}"
    for source, flips in (("svhn", [False, True]), ("cifar10", [True, True])):
        text = f"dataset: {{name: x, source: {source}}}\n{recipe}\nattacks: [clean]\n"
        (tmp_path / "some.yaml").write_text(text)
        runs = load_config({"preset": "some"}, presets=tmp_path).runs
        assert [run.augmentation.flip for run in runs.values()] == flips


# --- TinyImageNet ---------------------------------------------------------------------------------------------

WNIDS = ["n02", "n01", "n03"]


def jpeg(value: int, size: int = 64) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (size, size), (value, value, value)).save(content, "JPEG")
    return content.getvalue()


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three classes, 10 and 3 images each; gray 20 * class + image, so that a decoded image says which it is."""
    files = {"wnids.txt": "\n".join(WNIDS).encode() + b"\n", "words.txt": b"n01\ta fish\n"}
    lines = []
    for label, name in enumerate(WNIDS):
        for number in range(10):
            files[f"train/{name}/images/{name}_{number}.JPEG"] = jpeg(20 * label + number)
        files[f"train/{name}/{name}_boxes.txt"] = b"n_0.JPEG\t0\t0\t62\t62\n"
    for number in range(9):
        label = (number + 1) % 3
        files[f"val/images/val_{number}.JPEG"] = jpeg(100 + 20 * label + number)
        lines.append(f"val_{number}.JPEG\t{WNIDS[label]}\t0\t32\t44\t62")
    files["val/val_annotations.txt"] = "\n".join(lines).encode()
    files["test/images/test_0.JPEG"] = jpeg(250)
    packed = tmp_path / "server" / "tiny-imagenet-200.zip"
    packed.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(packed, "w") as out:
        for name, content in files.items():
            out.writestr(f"tiny-imagenet-200/{name}", content)
    monkeypatch.setattr(tiny_imagenet, "MD5", md5(packed))
    return packed


def tiny_config(**fields: Any) -> DatasetConfig:
    return DatasetConfig.model_validate({"name": "tin", "source": "tiny-imagenet", "validation": 0.2, **fields})


@pytest.mark.parametrize("form", ["mirror", "archive", "unpacked", "inside"])
def test_tiny_imagenet(form: str, archive: Path, server: str, tmp_path: Path) -> None:
    where = {"path": str(archive.parent)}
    if form == "mirror":
        where = {"mirror": server}
    elif form != "archive":
        zipfile.ZipFile(archive).extractall(archive.parent)
        archive.unlink()
        where["path"] += "/tiny-imagenet-200" if form == "inside" else ""
    read = load(prepare(tiny_config(**where), tmp_path / "data"))
    assert read.classes == tuple(WNIDS) and read.size == (64, 64) and read.channels == 3
    assert [len(part) for part in read.splits.values()] == [24, 6, 9]
    for part, first in ((read.train, 0), (read.validation, 0), (read.test, 100)):
        gray = part.images[:, 0, 5, 5].long() - first
        assert torch.equal(gray // 20, part.labels), "a label is the folder, or what the annotations say"
    assert len({*read.train.images[:, 0, 0, 0].tolist(), *read.validation.images[:, 0, 0, 0].tolist()}) == 30
    assert [sorted(three) for three in read.test.labels.view(3, 3).tolist()] == [[0, 1, 2]] * 3, "stratified"


def test_a_subset_of_tiny_imagenet_at_another_size(archive: Path, tmp_path: Path) -> None:
    config = tiny_config(path=str(archive.parent), classes=["n03", "n02"], size=16)
    read = load(prepare(config, tmp_path / "data"))
    assert read.classes == ("n03", "n02") and read.size == (16, 16)
    assert torch.equal(read.test.images[:, 0, 0, 0].long() // 20, torch.where(read.test.labels == 0, 7, 5))


@pytest.mark.parametrize("damage", ["md5", "image", "annotation", "class"])
def test_damaged_tiny_imagenet_is_refused(damage: str, archive: Path, tmp_path: Path) -> None:
    folder = archive.parent
    messages = {
        "md5": "tiny-imagenet-200.zip: damaged or incomplete",
        "image": r"1 of 9 test images cannot be read: .*val_4.JPEG",
        "annotation": "val_annotations.txt: line 1 is not 'image, tab, class'",
        "class": "no training image of n01; is it unpacked completely",
    }
    if damage == "md5":
        archive.write_bytes(archive.read_bytes() + b"x")
    else:
        zipfile.ZipFile(archive).extractall(folder)
        archive.unlink()
        inside = folder / "tiny-imagenet-200"
        (inside / "val/images/val_4.JPEG").write_bytes(b"" if damage == "image" else jpeg(1))
        if damage == "annotation":
            (inside / "val/val_annotations.txt").write_text("val_0.JPEG n01\n")
        if damage == "class":
            for file in (inside / "train/n01/images").iterdir():
                file.unlink()
    with pytest.raises(DataError, match=messages[damage]):
        prepare(tiny_config(path=str(folder)), tmp_path / "data")


# --- subsets of classes ---------------------------------------------------------------------------------------


def test_a_subset_of_classes_is_the_same_split_without_the_others(tmp_path: Path) -> None:
    whole, part = (
        load(prepare(DatasetConfig.model_validate({"name": f"d{i}", "source": "digits", **more}), tmp_path))
        for i, more in enumerate(({}, {"classes": [7, "3"]}))
    )
    assert part.classes == ("7", "3")
    for name, images in whole.splits.items():
        chosen = images[(images.labels == 7) | (images.labels == 3)]
        assert torch.equal(part.splits[name].images, chosen.images)
        assert torch.equal(part.splits[name].labels, (chosen.labels == 3).long()), "7 is the first class"
    assert part.test_order == whole.test_order and part.digest != whole.digest


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["cat"], "dataset.classes: name at least two classes, each once"),
        (["cat", "cat"], "each once"),
        ("cat", "expected a list of classes"),
        ([True, "cat"], "YAML needs quotes around yes and no"),
    ],
)
def test_what_is_no_list_of_classes_is_refused(classes: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config({"dataset": {"classes": classes}})


def test_an_unknown_class_is_refused_with_the_nearest(tmp_path: Path) -> None:
    config = DatasetConfig.model_validate({"name": "d", "source": "digits", "classes": ["1", "11"]})
    with pytest.raises(DataError, match=r"dataset.classes: unknown class '11': did you mean '1'\? .known: 0, 1, 2"):
        prepare(config, tmp_path)


def test_only_the_chosen_classes_of_a_folder_are_read(tmp_path: Path) -> None:
    for part, count in (("train", 4), ("test", 2)):
        for name in ("cat", "dog", "eel"):
            for number in range(count):
                file = tmp_path / "tree" / part / name / f"{number}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(b"no image" if name == "dog" else jpeg(40 if name == "cat" else 200, 8))
    given = {"name": "own", "source": "folder", "path": str(tmp_path / "tree"), "size": 8, "validation": 0.25}
    read = load(prepare(DatasetConfig.model_validate({**given, "classes": ["eel", "cat"]}), tmp_path / "data"))
    assert read.classes == ("eel", "cat") and [len(part) for part in read.splits.values()] == [6, 2, 4]
    assert torch.equal(read.test.images[:, 0, 0, 0] > 100, read.test.labels == 0)


# --- images that stay in their file ---------------------------------------------------------------------------


def test_a_prepared_file_is_the_one_that_safetensors_writes() -> None:
    from safetensors.torch import save

    dataset = tiny.dataset()
    tensors = {
        f"{name}.{part}": getattr(images, part)
        for name, images in dataset.splits.items()
        for part in ("images", "labels")
    }
    assert b"".join(map(bytes, _safetensors(dataset))) == save(tensors, {"sha256": dataset.digest})


def test_images_are_neither_prepared_nor_loaded_in_memory(tmp_path: Path) -> None:
    for part, count in (("train", 40), ("test", 10)):
        for name in ("cat", "dog"):
            for number in range(count):
                file = tmp_path / "tree" / part / name / f"{number}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (8, 8), (number, 0, 0)).save(file)
    config = DatasetConfig(name="own", source="folder", path=str(tmp_path / "tree"), size=200)
    size = 100 * 3 * 200 * 200
    tracemalloc.start()
    read = load(prepare(config, tmp_path / "data"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < size / 3, f"{peak / 1e6:.1f} MB were held for {size / 1e6:.0f} MB of images"
    arrays = prepared.read(tmp_path / "data/own")[1]
    assert all(isinstance(images, np.memmap) for images, _ in arrays.values())
    before = (tmp_path / "data/own/images.safetensors").read_bytes()
    read.train.images.zero_()
    assert (tmp_path / "data/own/images.safetensors").read_bytes() == before, "writing does not reach the file"
    assert sorted(file.name for file in (tmp_path / "data").iterdir()) == ["own"], "nothing else is left"


def test_images_larger_than_half_of_the_free_memory_stay_off_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    images = tiny.images(4, seed=0)
    moved: list[torch.device] = []

    def to(self: data.LabeledImages, device: torch.device) -> data.LabeledImages:
        if device.type == "cuda":
            moved.append(device)
        return self

    monkeypatch.setattr(data.LabeledImages, "to", to)
    for free in (images.images.nbytes * 2 + 2, images.images.nbytes * 2 - 2):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 10**9))
        images.near(torch.device("cuda"))
    assert moved == [torch.device("cuda")], "moved if there is room"
    assert images.near(torch.device("cpu")) is images
    pixels, labels = images.take(torch.tensor([3, 0]), torch.device("cpu"))
    assert torch.equal(pixels, images.images[[3, 0]]) and labels.tolist() == images.labels[[3, 0]].tolist()
