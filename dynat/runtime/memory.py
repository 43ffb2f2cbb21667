"""Running out of memory ends with a sentence that says which batch would fit."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from dynat.runtime.errors import JobError


def is_out_of_memory(error: BaseException) -> bool:
    """On a GPU torch has a type for it; on a CPU only a text."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


@contextmanager
def names_a_batch(batch: int, attempt: Callable[[int], object], setting: Callable[[int], str]) -> Iterator[None]:
    """Where the work inside runs out of memory with `batch` images, find by `attempt` a smaller batch that fits.

    `setting` says how to choose that batch. Where Linux ends the process itself, there is nothing left to say it.
    """
    try:
        yield
        return
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        traceback.clear_frames(error.__traceback__)  # they hold the tensors that are in the way
        reason = str(error).partition("\n")[0]
    fits = _largest_that_fits(batch, attempt)
    way_out = "Not even one image fits" if fits is None else f"Batches of {fits} fit: {setting(fits)}"
    raise JobError(f"out of memory with batches of {batch} images. {way_out}. ({reason})")


def _largest_that_fits(batch: int, attempt: Callable[[int], object]) -> int | None:
    """Half of `batch`, or a quarter, and so on."""
    while batch > 1:
        batch //= 2
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        try:
            attempt(batch)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            traceback.clear_frames(error.__traceback__)
        else:
            return batch
    return None
