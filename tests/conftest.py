"""Shared pieces: a net in float64 whose gradients can be checked, and a config that costs nothing."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest
import torch
from hypothesis import HealthCheck, settings
from torch import Tensor, nn

from dynat.cli import main
from dynat.config import Run
from dynat.config.parts import Inner

torch.set_num_threads(1)
# A busy machine is slow, and that is no failure.
settings.register_profile("dynat", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("dynat")


class TwoLayers(nn.Module):
    """Small enough to restate by hand, with BatchNorm because that is where silent errors live."""

    def __init__(self, seed: int, classes: int = 4, pixels: int = 12) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.first = nn.Linear(pixels, 8)
            self.norm = nn.BatchNorm1d(8)
            self.second = nn.Linear(8, classes)
        self.double()

    def forward(self, pictures: Tensor) -> Tensor:
        logits: Tensor = self.second(torch.tanh(self.norm(self.first(pictures.flatten(1)))))
        return logits


@pytest.fixture
def target() -> TwoLayers:
    return TwoLayers(seed=1)


@pytest.fixture
def guide() -> TwoLayers:
    return TwoLayers(seed=2)


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    pictures = torch.rand(10, 3, 2, 2, generator=generator, dtype=torch.float64)
    return pictures, torch.randint(4, (10,), generator=generator)


def make_run(**fields: object) -> Run:
    base = {"method": "at", "target": "small", "inner": Inner(eps=0.1, step_size=0.025, steps=3)}
    return Run.model_validate({**base, **fields})


Dynat = Callable[..., tuple[int, str]]


@pytest.fixture
def dynat(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Dynat:
    """The command as typed: exit code, and all that was printed. A traceback is an exception here."""

    def run(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["dynat", *map(str, words)])
        threads = torch.get_num_threads()
        try:
            main()
            code = 0
        except SystemExit as left:
            code = int(left.code or 0)
        finally:
            torch.set_num_threads(threads)
        said = capsys.readouterr()
        return code, said.out + said.err

    return run
