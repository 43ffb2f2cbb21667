"""Everything computes on the device it is given: no tensor stays on the CPU or is created there.

The device is a fake GPU (fake_gpu.py) that refuses what CUDA would refuse and computes what a CPU would, so results
must be equal bit for bit.
"""

from __future__ import annotations

import copy
import ctypes
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pyautoattack
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from dynat import data
from dynat.attacks import evaluate
from dynat.config import AttackConfig, EvaluationSpec, Run, SanitySpec, TransferSpec, registry
from dynat.data import LabeledImages
from dynat.jobs.evaluation import run_evaluation
from dynat.jobs.sanity import run_sanity_checks
from dynat.jobs.training import run_training
from dynat.jobs.transfer import run_transfer
from dynat.results.paths import Paths
from dynat.runtime.device import describe
from dynat.training.trainer import Trainer
from tests import tiny
from tests.fake_gpu import CPU, fake_gpu
from tests.helpers import Killed
from tests.method_runs import RUNS as METHOD_RUNS

RUNS: dict[str, Run] = {
    **{name: run for name, run in METHOD_RUNS.items() if run.precision == "float32"},
    "average": tiny.dynat(ema=0.9),
    "evaluating-guide": tiny.dynat(guide_mode="eval"),
    "released-awp": tiny.dynat(awp={"warm_up": 0.0, "proxy": "trades"}),
}


def one_epoch(run: Run, device: torch.device) -> tuple[dict[str, float], list[Tensor]]:
    trainer = Trainer(run, tiny.THREAT, tiny.dataset(), seed=0, device=device)
    row = trainer.epoch()
    weights = [tensor.detach().cpu() for tensor in trainer.networks.evaluated.state_dict().values()]
    return {name: value for name, value in row.items() if name != "seconds"}, weights


@pytest.mark.parametrize("name", RUNS)
def test_an_epoch_equals_that_on_the_cpu(name: str) -> None:
    on_cpu, expected = one_epoch(RUNS[name], CPU)
    with fake_gpu() as device:
        row, weights = one_epoch(RUNS[name], device)
    assert row == on_cpu
    assert all(torch.equal(actual, reference) for actual, reference in zip(weights, expected, strict=True))


@pytest.mark.parametrize(("cpuinfo", "name"), [("model name\t: EPYC: 7B13\n", "EPYC: 7B13"), ("", platform.machine())])
def test_a_result_names_the_processor_and_its_instructions(
    cpuinfo: str, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\n" + cpuinfo)
    monkeypatch.setattr("dynat.runtime.device.CPU_INFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert describe(CPU).startswith(f"{name} (AVX512, AVX512-BF16), {os.cpu_count()} cores, ")
    (tmp_path / "cpuinfo").unlink()
    assert describe(CPU).startswith(platform.machine())


# An attack under each norm that it supports, with a radius at which it breaks some images and not others.
ATTACKS: dict[str, AttackConfig] = {
    f"{kind}-{norm}": tiny.attack(kind, norm=norm, eps=eps)
    for kind in registry.ATTACKS
    for norm, eps in {"linf": 0.06, "l2": 0.4}.items()
    if (kind, norm) != ("cw-l2", "linf")
} | {"pgd-float16": tiny.attack("pgd", eps=0.06, surrogate="float16", restarts=2)}


@pytest.fixture
def few_iterations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few iterations of AutoAttack's parts: the fake GPU is slow, and later iterations repeat the first ones."""
    set_version = pyautoattack.AutoAttack._set_version

    def shortened(self: Any, version: str = "standard") -> None:
        set_version(self, version)
        self.square.n_queries = 30
        for part in (self.apgd, self.apgd_targeted, self.fab):
            part.n_iter = 6

    monkeypatch.setattr(pyautoattack.AutoAttack, "_set_version", shortened)


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.usefixtures("few_iterations")
def test_verdicts_equal_those_on_the_cpu(name: str, convnet: nn.Module, noisy_images: LabeledImages) -> None:
    some_images = noisy_images.first(20)
    on_cpu = evaluate(convnet, some_images, ATTACKS[name])
    with fake_gpu() as device:
        on_gpu = evaluate(copy.deepcopy(convnet).to(device), some_images.to(device), ATTACKS[name])
    assert {key: value.tolist() for key, value in on_gpu.columns.items()} == {
        key: value.tolist() for key, value in on_cpu.columns.items()
    }
    assert (on_gpu.queried_model, on_gpu.forward_passes) == (on_cpu.queried_model, on_cpu.forward_passes)
    assert 0 < int(on_cpu.columns["correct"].sum()) < len(some_images)


def run_on(device: torch.device, work: Any, spec: Any, paths: Paths, **options: Any) -> None:
    """Run a job on this device, whatever the machine has."""
    with (
        mock.patch("dynat.jobs.training.choose_device", lambda _: device),
        mock.patch("dynat.jobs.evaluation.choose_device", lambda _: device),
    ):
        work(spec, paths=paths, **{"say": lambda _: None, **options})


def run_all_jobs(device: torch.device, paths: Paths) -> dict[str, Any]:
    """Train (killed once and resumed), attack, check, transfer: the rows and weights in the resulting files."""
    data.save(tiny.dataset(), paths.dataset("tiny"))

    def kill(line: str) -> None:
        if line.startswith("epoch 2/"):
            raise Killed

    training = tiny.training_spec(tiny.dynat(ema=0.9))
    with pytest.raises(Killed):
        run_on(device, run_training, training, paths, seed=0, say=kill)
    run_on(device, run_training, training, paths, seed=0)
    attack = tiny.attack("pgd")
    sanity = SanitySpec(preset="tests", name="some-run", data="tiny", seeds=(0,), attacks={"some": attack})
    evaluation: EvaluationSpec = tiny.evaluation_spec(seeds=(0,))
    run_on(device, run_evaluation, evaluation, paths)
    run_on(device, run_evaluation, evaluation, paths)  # from the saved batches
    run_on(device, run_sanity_checks, sanity, paths)
    run_on(device, run_transfer, TransferSpec(preset="tests", data="tiny", runs={"some-run": 0}, attack=attack), paths)
    rows = {file.name: file.read_text() for file in paths.results.rglob("*.csv") if file.name != "history.csv"}
    tensors = {file.name: load_file(file) for file in paths.results.rglob("*.safetensors")}
    return {
        **rows,
        **{f"{file} {name}": tensors_of[name].tolist() for file, tensors_of in tensors.items() for name in tensors_of},
    }


def test_jobs_write_the_same_files_as_on_the_cpu(tmp_path: Path) -> None:
    on_cpu = run_all_jobs(CPU, tiny.paths_in(tmp_path / "cpu"))
    with fake_gpu() as device:
        on_gpu = run_all_jobs(device, tiny.paths_in(tmp_path / "gpu"))
    assert {"some-attack.csv", "sanity.csv", "transfer.csv"} < set(on_cpu)
    assert {name.split()[0] for name in on_cpu} > {f"{net}.safetensors" for net in ("target", "target-last", "guide")}
    assert [name for name in on_cpu if on_gpu[name] != on_cpu[name]] == []


def test_the_fake_gpu_refuses_what_cuda_refuses() -> None:
    on_cpu = torch.arange(3.0)
    with fake_gpu() as device:
        on_gpu = on_cpu.to(device)
        assert on_gpu.device == device
        assert (2 * on_gpu + torch.tensor(1.0)).cpu().tolist() == [1, 3, 5], "a single number may come from the CPU"
        assert on_gpu[torch.tensor([2, 0])].cpu().tolist() == [2, 0]
        with pytest.raises(RuntimeError, match="same device"):
            on_gpu + on_cpu
        with pytest.raises(RuntimeError, match="same device"):
            torch.where(on_gpu > 1, on_gpu, on_cpu)
        with pytest.raises(RuntimeError, match="same device"):
            on_cpu[torch.tensor([2, 0]).to(device)]
        with pytest.raises(RuntimeError, match="numpy"):
            on_gpu.numpy()


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="glibc alone is told to keep memory")
def test_jobs_keep_the_memory_of_freed_tensors() -> None:
    """Counted in page faults: once its tensors have been allocated, a step needs no new memory from the system."""
    code = """if True:
        import resource, torch
        from torch import nn
        from dynat import models
        from dynat.runtime.device import set_up_cpu

        set_up_cpu(1)
        network, images = models.build("wrn10-1", classes=10, channels=3), torch.rand(32, 3, 32, 32)
        def faults():
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            network(images).sum().backward()
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
        print(min([faults() for _ in range(5)][2:]))"""
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert int(printed) < 100
