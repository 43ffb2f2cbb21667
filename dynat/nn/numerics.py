"""The backend flags that decide how float32 is computed, set at the start of a training or an evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def restored_numerics() -> Iterator[None]:
    """Afterwards the flags are as before: for functions that are called in a program with flags of its own."""
    cudnn = torch.backends.cudnn
    before = (cudnn.benchmark, cudnn.allow_tf32)
    try:
        yield
    finally:
        cudnn.benchmark, cudnn.allow_tf32 = before


def set_training_numerics(precision: str) -> None:
    """cuDNN may try out algorithms, since a training's batches have one shape; `float32` is computed without TF32."""
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = precision != "float32"  # torch allows it for convolutions by default


def set_evaluation_numerics() -> None:
    """Real float32, because that is what is claimed; an attack's batches shrink, and each size would be benchmarked."""
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
