"""CIFAR from a tiny archive in the published format, served on this machine; damaged files are refused."""

from __future__ import annotations

import contextlib
import hashlib
import io
import pickle
import shutil
import socket
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10, CIFAR100

from dynat.config import DatasetConfig
from dynat.data import DataError, download, load, prepare


def release(reader: Any, per_batch: int = 20) -> dict[str, bytes]:
    """The files of a release: rows of 3072 bytes, red then green then blue, and the names of the classes."""
    random = np.random.default_rng(0)
    fine = reader is CIFAR100
    classes = [f"class{number}" for number in range(100 if fine else 10)]
    files = {}
    for name, _ in [*reader.train_list, *reader.test_list]:
        labels = [number % 10 for number in range(per_batch)]
        rows = random.integers(256, size=(per_batch, 3072), dtype=np.uint8)
        files[name] = pickle.dumps({"data": rows, "fine_labels" if fine else "labels": labels}, protocol=2)
    files[reader.meta["filename"]] = pickle.dumps({reader.meta["key"]: classes}, protocol=2)
    return files


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


@pytest.fixture(params=[CIFAR10, CIFAR100], ids=["cifar10", "cifar100"])
def archive(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny release packed as published, with torchvision made to expect its checksums."""
    reader: Any = request.param
    files = release(reader)
    packed = tmp_path / "server" / str(reader.filename)
    packed.parent.mkdir()
    with tarfile.open(packed, "w:gz") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"{reader.base_folder}/{name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    monkeypatch.setattr(reader, "tgz_md5", md5(packed.read_bytes()))
    for which in ("train_list", "test_list"):
        monkeypatch.setattr(reader, which, [[name, md5(files[name])] for name, _ in getattr(reader, which)])
    monkeypatch.setattr(reader, "meta", {**reader.meta, "md5": md5(files[reader.meta["filename"]])})
    return packed


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def mirror(archive: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(archive.parent))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def cifar(archive: Path, **fields: Any) -> DatasetConfig:
    name = "cifar100" if "100" in archive.name else "cifar10"
    return DatasetConfig(name=name, source=name, validation=0.1, **fields)


def check_cifar(folder: Path) -> None:
    read = load(folder)
    reader = CIFAR100 if "100" in folder.name else CIFAR10
    batches = len(reader.train_list)
    held_out = 10 * max(1, round(0.1 * 2 * batches))
    assert len(read.train) == 20 * batches - held_out and len(read.validation) == held_out
    assert read.classes[3] == "class3" and len(read.classes) == (100 if reader is CIFAR100 else 10)
    # the test images, pixel for pixel: three planes of 32 rows
    rows = pickle.loads(release(reader)[reader.test_list[0][0]])["data"]
    assert torch.equal(read.test.images, torch.from_numpy(rows.reshape(-1, 3, 32, 32)))
    assert read.test.labels.tolist() == [number % 10 for number in range(20)]
    assert read.test_order == "official", "the first 1,000 are those of other papers"


def test_cifar_is_downloaded_once(archive: Path, mirror: str, tmp_path: Path) -> None:
    config = cifar(archive, mirror=mirror)
    check_cifar(prepare(config, tmp_path / "data"))
    assert (tmp_path / "data" / "downloads" / archive.name).exists()
    archive.unlink()  # a second download would fail
    check_cifar(prepare(config, tmp_path / "data"))


@pytest.mark.parametrize("form", ["archive", "unpacked", "inside"])
def test_cifar_from_a_local_folder(form: str, archive: Path, tmp_path: Path) -> None:
    own_folder = archive.parent
    if form != "archive":
        shutil.unpack_archive(archive, archive.parent)
        archive.unlink()
    if form == "inside":
        own_folder = next(entry for entry in archive.parent.iterdir() if entry.is_dir())
    before = sorted(own_folder.rglob("*"))
    check_cifar(prepare(cifar(archive, path=str(own_folder)), tmp_path / "data"))
    assert sorted(own_folder.rglob("*")) == before, "nothing is written into the user's folder"


@pytest.mark.parametrize("damage", ["cut", "other"])
def test_a_corrupt_download_is_not_accepted(damage: str, archive: Path, mirror: str, tmp_path: Path) -> None:
    whole = archive.read_bytes()
    archive.write_bytes(whole[:-100] if damage == "cut" else b"<html>log in first</html>")
    config = cifar(archive, mirror=mirror)
    with pytest.raises(DataError, match=r"could not be fetched from http://127.*has been deleted.*dataset\.path"):
        prepare(config, tmp_path / "data")
    assert not (tmp_path / "data" / config.name).exists()
    assert not (tmp_path / "data" / "downloads" / archive.name).exists()
    archive.write_bytes(whole)  # the next attempt succeeds
    check_cifar(prepare(config, tmp_path / "data"))


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/nothing/", "http://no-such-host.invalid"])
def test_a_failed_download_names_file_url_and_remedies(url: str, archive: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        prepare(cifar(archive, mirror=url), tmp_path / "data")
    for part in (str(tmp_path / "data" / "downloads" / archive.name), f"{url.rstrip('/')}/{archive.name}"):
        assert part in str(caught.value)
    for remedy in ("Try again", "dataset.mirror", "dataset.path"):
        assert remedy in str(caught.value)


@pytest.mark.parametrize("url", ["nonsense", "file:///etc", "ftp://127.0.0.1"])
def test_a_mirror_is_a_web_server(url: str, archive: Path) -> None:
    with pytest.raises(ValueError, match=r"is not a URL that starts with http:// or https://"):
        cifar(archive, mirror=url)


def drip_headers(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    drip(connection)


def drip_content(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    drip(connection)


def drip(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        for _ in range(100):
            connection.sendall(b"x")
            time.sleep(0.05)


@pytest.mark.parametrize("answer", [drip_headers, drip_content])
def test_a_server_that_drips_is_given_up(
    answer: Callable[[socket.socket], None], archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A byte now and then is no silence: every read succeeds, and the download would take years."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download, "WINDOW", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                answer(connection)

        threading.Thread(target=serve, daemon=True).start()
        started = time.monotonic()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(
            DataError, match=r"could not be fetched .*the server sent only \d+ bytes in 0\.3 s.*Try again"
        ):
            prepare(cifar(archive, mirror=url), tmp_path / "data")
    assert time.monotonic() - started < 3
    assert list((tmp_path / "data" / "downloads").iterdir()) == [], "no draft is left"


def test_a_corrupt_local_archive(archive: Path, tmp_path: Path) -> None:
    archive.write_bytes(archive.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"damaged or incomplete \(its MD5 is not .*delete it and fetch it again"):
        prepare(cifar(archive, path=str(archive.parent)), tmp_path / "data")


def test_a_corrupt_batch_is_refused_before_it_is_unpickled(archive: Path, tmp_path: Path) -> None:
    shutil.unpack_archive(archive, archive.parent)
    file = next(archive.parent.glob("*/test*"))
    file.write_bytes(b"cos\nabort\n(tR.")  # unpickling it would end the process
    with pytest.raises(DataError, match=rf"{file.name}: damaged .*unpack {archive.name} again"):
        prepare(cifar(archive, path=str(archive.parent)), tmp_path / "data")


def test_a_folder_without_cifar(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"dataset\.path: .* holds neither {archive.name} nor a folder cifar-"):
        prepare(cifar(archive, path=str(tmp_path)), tmp_path / "data")
