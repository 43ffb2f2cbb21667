"""What is said when memory runs out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from dynat import data
from dynat.jobs.evaluation import Evaluator
from dynat.results.paths import Paths
from dynat.runtime.errors import JobError
from dynat.runtime.memory import names_a_batch
from dynat.runtime.progress import HIDDEN
from tests import tiny

LIMITED = """if True:
    import resource, sys
    from pathlib import Path
    import torch
    from dynat import data
    from dynat.config import Run, TrainingSpec
    from dynat.data import Dataset, LabeledImages
    from dynat.jobs.training import run_training
    from dynat.results.paths import Paths
    from dynat.runtime.errors import JobError
    from tests import tiny

    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    paths = Paths(folder / "data", folder / "results", folder / "state")
    def images(count):
        return LabeledImages(torch.zeros(count, 3, 32, 32, dtype=torch.uint8), torch.arange(count) % 5)
    classes = tuple("abcde")
    splits = dict(train=images(512), validation=images(10), test=images(10))
    dataset = Dataset.from_splits(name="tiny", classes=classes, origin={"source": "tests"}, **splits)
    data.save(dataset, paths.dataset("tiny"))
    run = Run(method="natural", target="wrn10-1", epochs=1, batch=512, precision="float32")
    spec = TrainingSpec(preset="tests", name="some-run", data="tiny", threat=tiny.THREAT, run=run)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**29, -1))
    try:
        run_training(spec, seed=0, paths=paths)
    except JobError as error:
        print(error)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="limits the memory of a process as Linux does")
def test_a_training_that_runs_out_of_memory_names_a_batch_that_fits(tmp_path: Path) -> None:
    process = subprocess.run([sys.executable, "-c", LIMITED, tmp_path], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    said = process.stdout.splitlines()[-1]
    assert "out of memory with batches of 512 images. Batches of " in said
    fits = int(said.partition("Batches of ")[2].split()[0])
    assert fits in (32, 64, 128, 256) and f"training={{batch: {fits}}}" in said


def test_the_largest_batch_that_fits_is_named() -> None:
    tried = []

    def attempt(batch: int) -> None:
        tried.append(batch)
        if batch > 40:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(JobError, match=r"batches of 256 images. Batches of 32 fit: batch=32"):  # noqa: SIM117
        with names_a_batch(256, attempt, lambda batch: f"batch={batch}"):
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried")
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
