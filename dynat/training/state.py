"""A training's state on disk: written atomically, with a checksum, named by a digest of all that it depends on.

It is kept outside the DAG's outputs, because Snakemake removes the outputs of a job that failed.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from dynat.runtime.files import read_with_checksum, write_with_checksum


class TrainingState:
    """The states after the last two finished epochs, in a folder named by the training's digest."""

    def __init__(self, folder: Path, say: Callable[[str], None] = lambda text: None) -> None:
        self.folder = folder
        self.file = folder / "state.pt"
        self.previous = folder / "previous.pt"
        self.say = say

    def save(self, content: dict[str, Any]) -> None:
        # Through memory: a full disk is then an OSError that says so; torch's own writer raises an internal error.
        buffer = io.BytesIO()
        torch.save(content, buffer)
        # Before the new state is written, so that there are never three; `load` finds it under either name.
        if self.file.exists():
            self.file.replace(self.previous)
        write_with_checksum(self.file, buffer.getbuffer())

    def load(self, device: torch.device) -> dict[str, Any] | None:
        """The last state that is intact, or None. A damaged one is set aside, with a message."""
        found = self.file.exists() or self.previous.exists()
        for file in (self.file, self.previous):
            content = read_with_checksum(file)
            if content is not None:
                saved: dict[str, Any] = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
                self.say(f"resuming from {file}")
                return saved
        if found:
            self.say("no saved state is intact: starting again from the first epoch")
        return None

    def discard(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
