"""Files that an author has published, with a checksum: downloaded once, or taken from a folder that has them."""

from __future__ import annotations

from http.client import HTTPException
from pathlib import Path

from torchvision.datasets.utils import check_integrity

from dynat.data.download import download
from dynat.prepared import DataError


def downloaded(url: str, md5: str, mirror: str | None, downloads: Path) -> Path:
    """The file in `downloads`, fetched from `url`, or from the folder `mirror`, unless it is there already."""
    name = url.rpartition("/")[2]
    if mirror is not None:
        url = f"{mirror.rstrip('/')}/{name}"
    file = downloads / name
    removed = ""
    try:
        if not check_integrity(file, md5):
            download(url, file)
        if not check_integrity(file, md5):
            file.unlink()
            removed = " What arrived is incomplete or not the published file, and has been deleted."
            raise ValueError(f"its MD5 is not {md5}")
    except (OSError, HTTPException, ValueError) as error:
        raise DataError(
            f"{file}: could not be fetched from {url} ({error}).{removed} Try again; or name another "
            f"server with dataset.mirror (the URL of a folder with {name}); or put the file into "
            "a folder of your own and name that folder with dataset.path"
        ) from error
    return file


def existing(folder: Path, name: str, md5: str) -> Path:
    """The file in the user's own folder, checked."""
    file = folder / name
    if not file.is_file():
        raise DataError(f"dataset.path: {folder} does not hold {name}")
    if not check_integrity(file, md5):
        raise DataError(
            f"{file}: damaged or incomplete (its MD5 is not {md5}); delete it and fetch it again, or leave out "
            "dataset.path to have it downloaded"
        )
    return file
