"""All that computes does so on the device it is given: nothing is left behind on the CPU, nothing is made there.

The device is a pretended GPU (elsewhere.py) that refuses what CUDA would refuse and computes what a CPU would, so the
same in every bit is what is asked.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any
from unittest import mock

import pyautoattack
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from dynat import data
from dynat.attacks import examine
from dynat.config import Attack, ExamSpec, ProbeSpec, Run, TransferSpec, names
from dynat.data import Pictures
from dynat.jobs.exam import run_exam
from dynat.jobs.probe import run_probe, run_transfer
from dynat.jobs.training import run_training
from dynat.places import Places
from dynat.training.trainer import Trainer
from tests import tiny
from tests.elsewhere import CPU, another_device
from tests.test_asked import network, pictures
from tests.test_cost import COSTS
from tests.test_jobs import Killed, exam_spec, places_in, training_spec

__all__ = ["network", "pictures"]

RUNS: dict[str, Run] = {
    **{name: run for name, (run, _) in COSTS.items() if run.precision == "float32"},
    "average": tiny.dynat(ema=0.9),
    "evaluating-guide": tiny.dynat(guide_mode="eval"),
    "released-awp": tiny.dynat(awp={"warm_up": 0.0, "proxy": "trades"}),
}


def one_epoch(run: Run, device: torch.device) -> tuple[dict[str, float], list[Tensor]]:
    trainer = Trainer(run, tiny.THREAT, tiny.dataset(), seed=0, device=device)
    row = trainer.epoch(lambda steps, total, title: steps)
    weights = [tensor.detach().cpu() for tensor in trainer.examined.state_dict().values()]
    return {name: value for name, value in row.items() if name != "seconds"}, weights


@pytest.mark.parametrize("name", RUNS)
def test_an_epoch_is_that_of_the_cpu(name: str) -> None:
    plain, expected = one_epoch(RUNS[name], CPU)
    with another_device() as device:
        row, weights = one_epoch(RUNS[name], device)
    assert row == plain
    assert all(torch.equal(found, wanted) for found, wanted in zip(weights, expected, strict=True))


# An attack under each norm that it knows, with a radius at which some pictures fall and some stand.
ATTACKS: dict[str, Attack] = {
    f"{kind}-{norm}": tiny.attack(kind, norm=norm, eps=eps)
    for kind in names.ATTACKS
    for norm, eps in {"linf": 0.06, "l2": 0.4}.items()
    if (kind, norm) != ("cw-l2", "linf")
} | {"pgd-float16": tiny.attack("pgd", eps=0.06, view="float16", restarts=2)}


@pytest.fixture
def in_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few rounds of AutoAttack's parts: the pretended GPU is slow, and the later rounds are the first ones again."""
    set_version = pyautoattack.AutoAttack._set_version

    def shortened(self: Any, version: str = "standard") -> None:
        set_version(self, version)
        self.square.n_queries = 30
        for part in (self.apgd, self.apgd_targeted, self.fab):
            part.n_iter = 6

    monkeypatch.setattr(pyautoattack.AutoAttack, "_set_version", shortened)


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.usefixtures("in_short")
def test_verdicts_are_those_of_the_cpu(name: str, network: nn.Module, pictures: Pictures) -> None:
    few = pictures.first(20)
    plain = examine(network, few, ATTACKS[name])
    with another_device() as device:
        found = examine(copy.deepcopy(network).to(device), few.to(device), ATTACKS[name])
    assert {key: value.tolist() for key, value in found.columns.items()} == {
        key: value.tolist() for key, value in plain.columns.items()
    }
    assert (found.asked, found.forward_passes) == (plain.asked, plain.forward_passes)
    assert 0 < int(plain.columns["correct"].sum()) < len(few)


def on(device: torch.device, work: Any, spec: Any, places: Places, **options: Any) -> None:
    """A job on this device, whatever is here."""
    with (
        mock.patch("dynat.jobs.training.choose_device", lambda _: device),
        mock.patch("dynat.jobs.exam.choose_device", lambda _: device),
    ):
        work(spec, places=places, **{"say": lambda _: None, **options})


def everything(device: torch.device, places: Places) -> dict[str, Any]:
    """Trained, killed, gone on with, attacked, probed and shown around: the rows and the weights that are left."""
    data.save(tiny.dataset(), places.pictures("tiny"))

    def kill(line: str) -> None:
        if line.startswith("epoch 2/"):
            raise Killed

    training = training_spec(tiny.dynat(ema=0.9))
    with pytest.raises(Killed):
        on(device, run_training, training, places, seed=0, say=kill)
    on(device, run_training, training, places, seed=0)
    attack = tiny.attack("pgd")
    probe = ProbeSpec(preset="tests", name="some-run", data="tiny", seeds=(0,), attacks={"some": attack})
    exam: ExamSpec = exam_spec(seeds=(0,))
    on(device, run_exam, exam, places)
    on(device, run_exam, exam, places)  # from the verdicts that are kept
    on(device, run_probe, probe, places)
    on(device, run_transfer, TransferSpec(preset="tests", data="tiny", runs={"some-run": 0}, attack=attack), places)
    rows = {file.name: file.read_text() for file in places.results.rglob("*.csv") if file.name != "history.csv"}
    tensors = {file.name: load_file(file) for file in places.results.rglob("*.safetensors")}
    return {**rows, **{f"{file} {name}": kept[name].tolist() for file, kept in tensors.items() for name in kept}}


def test_jobs_leave_what_they_leave_on_the_cpu(tmp_path: Path) -> None:
    plain = everything(CPU, places_in(tmp_path / "cpu"))
    with another_device() as device:
        found = everything(device, places_in(tmp_path / "elsewhere"))
    assert {"some-attack.csv", "probes.csv", "transfer.csv"} < set(plain)
    assert {name.split()[0] for name in plain} > {f"{net}.safetensors" for net in ("target", "target-last", "guide")}
    assert [name for name in plain if found[name] != plain[name]] == []


def test_the_pretended_gpu_refuses_what_cuda_refuses() -> None:
    here = torch.arange(3.0)
    with another_device() as device:
        there = here.to(device)
        assert there.device == device
        assert (2 * there + torch.tensor(1.0)).cpu().tolist() == [1, 3, 5], "a single number may come from the CPU"
        assert there[torch.tensor([2, 0])].cpu().tolist() == [2, 0]
        with pytest.raises(RuntimeError, match="same device"):
            there + here
        with pytest.raises(RuntimeError, match="same device"):
            torch.where(there > 1, there, here)
        with pytest.raises(RuntimeError, match="same device"):
            here[torch.tensor([2, 0]).to(device)]
        with pytest.raises(RuntimeError, match="numpy"):
            there.numpy()
