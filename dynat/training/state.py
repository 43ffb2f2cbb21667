"""A training's state on disk: written atomically, named by a digest of all that it depends on.

It is kept outside the DAG's outputs, because Snakemake removes the outputs of a job that failed.
"""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import torch

from dynat.runtime.errors import UserError
from dynat.runtime.files import atomic_write


class TrainingState:
    """The state after the last finished epoch, in a folder named by the training's digest."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "state.pt"

    def save(self, content: dict[str, Any]) -> None:
        # Through memory: a full disk is then an OSError that says so; torch's own writer raises an internal error.
        buffer = io.BytesIO()
        torch.save(content, buffer)
        atomic_write(self.file, lambda path: path.write_bytes(buffer.getbuffer()))

    def load(self, device: torch.device) -> dict[str, Any] | None:
        """What was saved, or None; a file that cannot be read is an error that says what to do."""
        if not self.file.exists():
            return None
        try:
            content: dict[str, Any] = torch.load(self.file, map_location=device, weights_only=True)
        except Exception as error:
            raise UserError(
                f"{self.file} is damaged ({type(error).__name__}): delete {self.folder} to train again from the start"
            ) from None
        return content

    def discard(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
