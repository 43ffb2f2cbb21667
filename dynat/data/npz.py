"""Arrays of an .npz file, mapped into memory where the file stores them as they are, without pickle.

An .npz is a ZIP archive of .npy files. `numpy.savez` stores them uncompressed, so that their bytes can be mapped;
`numpy.savez_compressed` does not.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from dynat.prepared import DataError

BLOCK = 1 << 24
"""Bytes that are read at once."""
LOCAL_HEADER = 30
"""Bytes of a ZIP entry's own header before its name and extra field, whose lengths are its last two numbers."""


@dataclass(frozen=True)
class Array:
    """An array of an archive: what it is, and where its bytes lie in the file if they can be mapped."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int | None
    """None if the bytes are compressed or in Fortran order."""


@contextmanager
def archive(file: Path) -> Iterator[zipfile.ZipFile]:
    """The opened archive; a `DataError` names a file that is damaged or no .npz."""
    try:
        with zipfile.ZipFile(file) as opened:
            yield opened
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{file}: damaged, or not an .npz file ({error})") from None


def arrays(file: Path) -> dict[str, Array]:
    """The arrays of the archive by name."""
    with archive(file) as opened:
        entries = [entry for entry in opened.infolist() if entry.filename.endswith(".npy")]
        return {array.name: array for array in (_array(opened, entry) for entry in entries)}


def mapped(file: Path, array: Array) -> NDArray[Any]:
    """The array as a part of the file that is read when it is used. Writing into it does not change the file."""
    assert array.offset is not None
    if 0 in array.shape:
        return np.empty(array.shape, array.dtype)
    return np.memmap(file, array.dtype, mode="c", offset=array.offset, shape=array.shape)


def read(file: Path, array: Array) -> NDArray[Any]:
    """The array in memory."""
    with archive(file) as opened, opened.open(f"{array.name}.npy") as stream:
        return npy.read_array(stream, allow_pickle=False)


def extract(file: Path, array: Array, out: Path) -> None:
    """Write the array as an .npy file of its own, block by block."""
    with archive(file) as opened, opened.open(f"{array.name}.npy") as stream, out.open("wb") as target:
        while block := stream.read(BLOCK):
            target.write(block)


def verify(file: Path, array: Array) -> None:
    """`DataError` if the bytes of the array are not those that were packed: its CRC-32 differs."""
    with archive(file) as opened, opened.open(f"{array.name}.npy") as stream:
        while stream.read(BLOCK):
            pass


def _array(opened: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Array:
    name = entry.filename.removesuffix(".npy")
    with opened.open(entry) as stream:
        shape, fortran, dtype = _header(stream)
        length = stream.tell()
    offset = None
    if entry.compress_type == zipfile.ZIP_STORED and not fortran and not dtype.hasobject:
        assert opened.fp is not None
        opened.fp.seek(entry.header_offset)
        header = opened.fp.read(LOCAL_HEADER)
        names = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        offset = entry.header_offset + LOCAL_HEADER + names + length
        size = int(np.prod(shape, dtype=object)) * dtype.itemsize
        if length + size != entry.file_size:
            raise ValueError(f"{entry.filename} has {entry.file_size} bytes, its header says {length + size}")
    return Array(name, dtype, shape, offset)


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"version {version} of the .npy format")
    header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = header(stream)
    return shape, fortran, dtype
