"""The first losses of every run of digits-full, bit for bit: a refactoring that changes a number fails here.

A change that is meant to change them renews the file, and the diff shows which runs changed:

    DYNAT_RENEW_GOLDEN=1 pytest tests/test_golden.py

Bits hold for one version of torch, one instruction set and one vendor of processors; elsewhere the first three losses
are compared within 5 %: one rounding changes the sign of a tiny gradient, and twenty steps later losses differ.
"""

from __future__ import annotations

import json
import os
import platform
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from dynat import data
from dynat.config import DatasetConfig, load
from dynat.training.trainer import Trainer

GOLDEN = Path(__file__).parent / "golden" / "losses.json"
STEPS = 20
EXPERIMENT = load({"preset": "digits-full"})


def environment() -> str:
    info = Path("/proc/cpuinfo")
    vendor = re.search(r"vendor_id\s*: (\S+)", info.read_text() if info.exists() else "")
    version = torch.__version__.partition("+")[0]
    return f"torch {version}, {torch.backends.cpu.get_cpu_capability()}, {vendor[1] if vendor else platform.machine()}"


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> data.Dataset:
    config = DatasetConfig.model_validate({"name": "digits", "source": "digits", "validation": 0.1})
    return data.load(data.prepare(config, tmp_path_factory.mktemp("data")))


def trace(name: str, digits: data.Dataset) -> list[float]:
    """Losses of 20 steps, late enough in the schedule for every burn-in and warm-up to be over."""
    run = EXPERIMENT.runs[name]
    trainer = Trainer(run, EXPERIMENT.threat, digits, seed=0, device=torch.device("cpu"))
    trainer.finished = round(0.8 * run.epochs)
    trainer.noise.manual_seed(7)
    trainer.networks.train()
    losses = []
    for images, labels in list(digits.train.batches(run.batch))[:STEPS]:
        losses.append(trainer.step(data.to_pixels(images), labels)["loss"].item())
    return losses


@pytest.mark.parametrize("name", EXPERIMENT.runs)
def test_losses_are_unchanged(name: str, digits: data.Dataset) -> None:
    kept: dict[str, Any] = {"environment": environment(), "losses": {}}
    if GOLDEN.exists():
        kept = json.loads(GOLDEN.read_text())
    losses = trace(name, digits)
    if os.environ.get("DYNAT_RENEW_GOLDEN"):
        kept["environment"] = environment()
        kept["losses"][name] = [loss.hex() for loss in losses]
        kept["losses"] = {run: kept["losses"][run] for run in EXPERIMENT.runs if run in kept["losses"]}
        GOLDEN.write_text(json.dumps(kept, indent=1) + "\n")
        return
    assert name in kept["losses"], "a new run: DYNAT_RENEW_GOLDEN=1 pytest tests/test_golden.py"
    expected = [float.fromhex(loss) for loss in kept["losses"][name]]
    if kept["environment"] == environment():
        assert losses == expected
    else:
        assert losses[:3] == pytest.approx(expected[:3], rel=0.05)


def test_no_two_runs_are_the_same_training() -> None:
    """An ablation whose switch has no effect would be a wrong row. (At the end of its curriculum, SAT is AT.)"""
    kept = json.loads(GOLDEN.read_text())["losses"]
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, losses in kept.items():
        groups.setdefault(tuple(losses), []).append(name)
    equal = [group for group in groups.values() if len(group) > 1]
    # A clean forward in train mode changes running statistics, which the first steps of PGD read.
    assert equal == [["at", "sat"]]
