"""Shared fixtures: small networks, their images, AutoAttack with fewer queries, and the command line."""

from __future__ import annotations

import copy
import os
import signal
import sys
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pyautoattack
import pytest
import torch
from hypothesis import HealthCheck, settings
from torch import Tensor, nn

from dynat import models
from dynat.cli import main
from dynat.data import LabeledImages
from dynat.nn.normalize import normalized
from tests import tiny
from tests.helpers import Dynat, fit
from tests.networks import TwoLayers

torch.set_num_threads(1)
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # A test run in the background of a shell ignores SIGINT, and the commands that tests interrupt would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
# A test that takes longer on a busy machine has not failed.
settings.register_profile("dynat", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("dynat")

NOISE = 0.6
"""Noise of the images that `mlp` and `convnet` classify: enough for some errors."""


@pytest.fixture
def target() -> TwoLayers:
    return TwoLayers(seed=1)


@pytest.fixture
def guide() -> TwoLayers:
    return TwoLayers(seed=2)


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    images = torch.rand(10, 3, 2, 2, generator=generator, dtype=torch.float64)
    return images, torch.randint(4, (10,), generator=generator)


@pytest.fixture(scope="session")
def fitted_mlp() -> nn.Module:
    """Correct on most of `noisy_images`, wrong on some; an attack breaks most of them, not all."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = (nn.Flatten(), nn.Linear(64, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, tiny.CLASSES))
        return fit(nn.Sequential(*layers), tiny.images(20, seed=1, noise=NOISE))


@pytest.fixture
def mlp(fitted_mlp: nn.Module) -> nn.Module:
    """A copy for each test: some change modes or weights."""
    return copy.deepcopy(fitted_mlp)


@pytest.fixture(scope="session")
def fitted_convnet() -> nn.Module:
    """Convolutions before BatchNorm, which fold, after a normalization of pixels, which does not."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        small = models.build("small", classes=tiny.CLASSES, channels=1)
        return fit(normalized(small, mean=[0.5], std=[0.25]), tiny.images(20, seed=1, noise=NOISE), steps=12)


@pytest.fixture
def convnet(fitted_convnet: nn.Module) -> nn.Module:
    return copy.deepcopy(fitted_convnet)


@pytest.fixture(scope="session")
def noisy_images() -> LabeledImages:
    return tiny.images(per_class=8, seed=3, noise=NOISE)


@pytest.fixture
def fewer_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Square's 5,000 queries take most of the time and break nothing here that 300 do not."""
    set_version = pyautoattack.AutoAttack._set_version

    def with_fewer(self: Any, version: str = "standard") -> None:
        set_version(self, version)
        self.square.n_queries = 300

    monkeypatch.setattr(pyautoattack.AutoAttack, "_set_version", with_fewer)


@pytest.fixture
def dynat(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Dynat:
    """The command as typed: exit code, and all that was printed. A traceback is an exception here."""

    def run(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["dynat", *map(str, words)])
        threads = torch.get_num_threads()
        try:
            main()
            code = 0
        except SystemExit as exit_:
            code = int(exit_.code or 0)
        finally:
            torch.set_num_threads(threads)
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return run
