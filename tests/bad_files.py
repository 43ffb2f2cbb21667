"""Files that are damaged, hostile or not what their name says: for the table of bad inputs."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from dynat import models
from dynat.runtime.files import atomic_write

CLASSES = 10

Content = str | bytes | Callable[[Path], object]
"""What is put at a path: a text, bytes, or a function that is given the path."""


def put(content: Content, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, str):
        path.write_text(content, encoding="utf-8")
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        content(path)


# --- any file -------------------------------------------------------------------------------------------------


def cut(share: float) -> Content:
    """Only the first part of the file that is there."""
    return lambda path: path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def without_last_lines(count: int) -> Content:
    """A table that was cut at the end of a line."""
    return lambda path: path.write_text("".join(path.read_text().splitlines(keepends=True)[:-count]))


def replaced(old: str, new: str) -> Content:
    """The text that is there, with one place changed."""

    def change(path: Path) -> None:
        text = path.read_text()
        assert old in text, f"{path} does not hold {old!r}"
        path.write_text(text.replace(old, new, 1))

    return change


def replaced_all(old: str, new: str) -> Content:
    return lambda path: path.write_text(path.read_text().replace(old, new))


def with_nan_weights(path: Path) -> None:
    """Weights of ours, one of which is NaN."""
    content = load_file(path)
    next(tensor for name, tensor in content.items() if name.endswith("weight")).view(-1)[0] = float("nan")
    save_file(content, path)


def flipped(place: float) -> Content:
    """One bit of the file that is there, at this share of its length."""

    def change(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[int(place * len(content))] ^= 8
        path.write_bytes(content)

    return change


def folder(path: Path) -> None:
    """A folder where a file is expected."""
    path.unlink(missing_ok=True)
    path.mkdir()


def removed(path: Path) -> None:
    path.unlink()


def fifo(path: Path) -> None:
    """A pipe that nobody writes to: who opens it waits for ever."""
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def link_to(target: str) -> Content:
    return lambda path: path.symlink_to(target)


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


def alias_bomb(levels: int = 9) -> str:
    """YAML of a few hundred bytes that stands for 10^9 values."""
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels)]
    return "\n".join([*lines, f"training: *a{levels - 1}"]) + "\n"


with_plugin = replaced('"plugins": []', '"plugins": ["evil"]')
"""A record that names a module which writes a file when it is imported."""


# --- checkpoints ----------------------------------------------------------------------------------------------


def weights() -> dict[str, Tensor]:
    """Weights of the network `small` for the digits."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return dict(models.build("small", classes=CLASSES, channels=1).state_dict())


def first_weight() -> str:
    return next(iter(weights()))


def saved(content: Any) -> Content:
    return lambda path: torch.save(content, path)


def with_tensor(change: Callable[[Tensor], Tensor], suffix: str = "weight") -> Content:
    """A checkpoint whose first tensor of this name is changed."""

    def save(path: Path) -> None:
        state = weights()
        name = next(key for key in state if key.endswith(suffix))
        torch.save({**state, name: change(state[name].clone())}, path)

    return save


def with_value(value: float, suffix: str = "weight") -> Content:
    """A checkpoint with this value at one place."""

    def change(tensor: Tensor) -> Tensor:
        tensor.view(-1)[0] = value
        return tensor

    return with_tensor(change, suffix)


def half_a_checkpoint(path: Path) -> None:
    torch.save(weights(), path)
    put(cut(0.5), path)


def quantized(tensor: Tensor) -> Tensor:
    return torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8)


def in_itself(path: Path) -> None:
    """A state dict that contains itself."""
    state: dict[str, Any] = {}
    state["state_dict"] = state
    torch.save(state, path)


class _Runs:
    """Unpickled, it writes a file."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, ("pwned", "w"))


def with_code(path: Path) -> None:
    torch.save({**weights(), "epoch": _Runs()}, path)


def pickled_code(path: Path) -> None:
    path.write_bytes(pickle.dumps(_Runs()))


def whole_model(path: Path) -> None:
    torch.save(models.build("small", classes=CLASSES, channels=1), path)


def deep_dict(path: Path) -> None:
    content: dict[str, Any] = dict(weights())
    for _ in range(400):
        content = {"model": content}
    torch.save(content, path)


def other_archive(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")


# --- images ---------------------------------------------------------------------------------------------------


def tree(**files: Content) -> Content:
    """A sound image folder `<path>/{train,test}/{cat,dog}`, and these files: `train__cat__x.png` is train/cat/x.png."""

    def make(path: Path) -> None:
        for part, count in (("train", 4), ("test", 2)):
            for shade, label in ((30, "cat"), (200, "dog")):
                for number in range(count):
                    put(picture(shade + 5 * number + (part == "test")), path / part / label / f"{number}.png")
        for name, content in files.items():
            *parts, file = name.split("__")
            put(content, path.joinpath(*parts, file.replace("_", ".")))

    return make


def same_trees(path: Path) -> None:
    """An image folder whose test images are training images too."""
    put(tree(), path)
    shutil.copytree(path / "train", path / "test", dirs_exist_ok=True)


def picture(shade: int, mode: str = "RGB") -> Content:
    def save(path: Path) -> None:
        Image.new(mode, (8, 8), shade if mode != "RGB" else (shade,) * 3).save(path)

    return save


def huge_png(path: Path) -> None:
    """A few bytes that say they are an image of 30,000 x 30,000 pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b""))


POSTSCRIPT = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n(pwned) (w) file closefile showpage\n%%EOF\n"


def tensors(**changes: Callable[[Tensor], Tensor]) -> Content:
    """The images of a prepared data set, with some of its tensors changed: `train__labels` is train.labels."""

    def change(path: Path) -> None:
        content = load_file(path)
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
        for name, function in changes.items():
            key = name.replace("__", ".")
            content[key] = function(content[key].clone())
        atomic_write(path, lambda draft: save_file(content, draft, metadata))

    return change


def out_of_range(labels: Tensor) -> Tensor:
    labels[0] = 99
    return labels


def one_pixel(images: Tensor) -> Tensor:
    images.view(-1)[0] ^= 255
    return images


def info(**fields: object) -> Content:
    """info.json of a prepared data set with other fields."""
    return lambda path: path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
