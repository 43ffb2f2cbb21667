"""What a training shows of its epochs while it runs: lines, history.csv, and event files for TensorBoard.

history.csv of a training that runs has no record beside it yet, so that nothing takes it for a finished one.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dynat.results.history import Row, write_history
from dynat.results.paths import SeedFiles
from dynat.runtime.errors import UserError
from dynat.runtime.progress import Say

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class EpochLog:
    """The epochs of one training, of this call and of those before it."""

    def __init__(self, files: SeedFiles, epochs: int, *, say: Say, events: Path | None = None) -> None:
        self.epochs, self.say = epochs, say
        # An earlier result stays whole until the new one replaces it.
        self.file = None if files.config.exists() else files.history
        self.events = EventFiles(events) if events else None
        self.rows: list[Row] = []
        if self.file is None:
            say(f"{files.folder} has an earlier result: it is replaced, its history.csv too, when this training ends")

    def resume(self, rows: Sequence[Row]) -> None:
        """Epochs that an earlier call finished."""
        self.rows = [*rows]
        self._write(rows)

    def add(self, row: Row) -> None:
        """An epoch that is finished."""
        self.rows.append(row)
        self._write([row])
        self.say(epoch_line(row, self.epochs))

    def _write(self, new: Sequence[Row]) -> None:
        if self.file:
            write_history(self.file, self.rows)
        if self.events:
            self.events.write(new)

    def close(self) -> None:
        if self.events:
            self.events.close()


def epoch_line(row: Row, epochs: int) -> str:
    """An epoch as a line of a log."""
    words = [f"epoch {row['epoch']:.0f}/{epochs}", f"loss {row['loss']:.3f}", f"lr {row['learning_rate']:g}"]
    for name, title in (("label_accuracy", "labels"), ("clean", "clean"), ("pgd", "PGD")):
        if name in row:
            words.append(f"{title} {100 * row[name]:.1f} %")
    return "  ".join([*words, f"{row['seconds']:.1f} s"])


class EventFiles:
    """Event files for TensorBoard: every column of the history over the epochs.

    They are written anew by every call, with the epochs of the calls before it: no epoch is in them twice.
    """

    def __init__(self, folder: Path) -> None:
        require_tensorboard()
        shutil.rmtree(folder, ignore_errors=True)
        self.folder = folder
        self._writer: SummaryWriter | None = None

    def write(self, rows: Sequence[Row]) -> None:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self.folder))
        for row in rows:
            for name, value in row.items():
                if name != "epoch":
                    self._writer.add_scalar(name, value, int(row["epoch"]))
        self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


def require_tensorboard() -> None:
    """Refuse where the package is missing that writes event files."""
    if importlib.util.find_spec("tensorboard") is None:
        raise UserError(
            "training.tensorboard: the package tensorboard is not installed here: "
            "pip install tensorboard, or set training.tensorboard: false"
        )
