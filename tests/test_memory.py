"""What is said when memory runs out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from dynat import data
from dynat.config import TrainingSpec
from dynat.jobs.evaluation import Evaluator
from dynat.jobs.training import run_training
from dynat.results.paths import Paths
from dynat.runtime.errors import JobError
from dynat.runtime.memory import names_a_batch
from dynat.runtime.progress import HIDDEN
from dynat.training.trainer import Trainer
from tests import tiny

CPU_ERROR = "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"


def test_a_training_that_runs_out_of_memory_names_a_batch_that_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = Paths(tmp_path / "data", tmp_path / "results", tmp_path / "state")
    data.save(tiny.dataset(), paths.dataset("tiny"))
    step = Trainer.step

    def limited(trainer: Trainer, pixels: torch.Tensor, truth: torch.Tensor) -> dict[str, torch.Tensor]:
        if len(pixels) > 5:
            raise RuntimeError(CPU_ERROR)
        return step(trainer, pixels, truth)

    monkeypatch.setattr(Trainer, "step", limited)
    spec = TrainingSpec(preset="tests", name="some-run", data="tiny", threat=tiny.THREAT, run=tiny.run(batch=16))
    with pytest.raises(JobError, match=r"batches of 16 images. Batches of 4 fit: training={batch: 4}"):
        run_training(spec, seed=0, paths=paths, device="cpu")


def test_the_largest_batch_that_fits_is_named() -> None:
    tried = []

    def attempt(batch: int) -> None:
        tried.append(batch)
        if batch > 40:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(JobError, match=r"batches of 256 images. Batches of 32 fit: batch=32"):  # noqa: SIM117
        with names_a_batch(256, attempt, lambda batch: f"batch={batch}"):
            raise RuntimeError(CPU_ERROR)
    assert tried == [128, 64, 32]


def test_memory_is_free_again_before_a_smaller_batch_is_tried() -> None:
    """The error's traceback refers to the tensors of the step that failed."""
    alive = []

    class Tensors:
        def __init__(self) -> None:
            alive.append(self)

        def __del__(self) -> None:
            freed.append(True)

    freed: list[bool] = []

    def step() -> None:
        held = Tensors()
        alive.clear()
        raise MemoryError(str(type(held)))

    with pytest.raises(JobError, match="Batches of 4 fit"):  # noqa: SIM117
        with names_a_batch(8, lambda _: freed or pytest.fail("still held"), str):
            step()


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(ZeroDivisionError), names_a_batch(8, lambda _: pytest.fail(), str):
        raise ZeroDivisionError


def test_where_nothing_fits_that_is_said() -> None:
    def attempt(_: int) -> None:
        raise MemoryError

    with pytest.raises(JobError, match="Not even one image fits"), names_a_batch(8, attempt, str):
        raise MemoryError


def test_an_evaluation_that_runs_out_of_memory_names_a_batch_that_fits(tmp_path: Path) -> None:
    """Of 30 images in batches of 16: the network refuses more than 10, and an attack needs half as much again."""
    paths = Paths(tmp_path / "data", tmp_path / "results", tmp_path / "state")
    data.save(tiny.dataset(), paths.dataset("tiny"))
    evaluator = Evaluator.of("tests", "tiny", paths, "cpu")

    class Large(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(64, 5)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            if len(images) > 10:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return self.linear(images.flatten(1))

    attack = tiny.attack(surrogate="none")
    with pytest.raises(JobError, match=r"batches of 16 images. Batches of 4 fit: set batch: 4 for this attack"):
        evaluator.evaluate(Large(), "weights", attack, HIDDEN)
