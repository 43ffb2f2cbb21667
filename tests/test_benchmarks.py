"""Every benchmark runs at a tiny size, so that errors are found before it runs on an expensive machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[1]


def run(script: str, *arguments: str, out: Path) -> tuple[str, dict[str, Any]]:
    """The output of a benchmark and the content of its JSON file."""
    command = [sys.executable, f"benchmarks/{script}.py", *arguments, "--json", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    return process.stdout, json.loads(out.read_text())


@pytest.fixture(scope="module")
def gpu(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    return run("gpu", "--tiny", out=tmp_path_factory.mktemp("gpu") / "gpu.json")


def test_the_gpu_benchmark_runs_every_part(gpu: tuple[str, dict[str, Any]]) -> None:
    printed, results = gpu
    assert set(results) >= {"machine", "torch", "correct", "ceiling", "steps", "projected", "evaluation"}
    assert not [name for name, result in results.items() if "FAILED" in str(result)]
    assert "projected" in printed and "ceiling" in printed


def test_its_fast_steps_agree_with_the_eager_float32_step(gpu: tuple[str, dict[str, Any]]) -> None:
    rows = {row["step"]: row for row in gpu[1]["correct"]}
    assert set(rows) == {"folded surrogate, logits", "again", "cuda_graph", "bfloat16"}
    assert {row["verdict"] for row in rows.values()} == {"agrees"}
    assert rows["again"]["difference"] == rows["again"]["update difference"] == 0.0
    assert 0 < rows["bfloat16"]["update difference"] < 0.5, "it is the update that is compared"


def test_a_part_that_fails_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import time

    import torch
    from gpu import Session  # type: ignore[import-not-found]

    session = Session(torch.device("cpu"), True, time.perf_counter() + 60)

    def broken(_: Any) -> None:
        raise RuntimeError("out of memory")

    session.run("first", broken)
    session.run("second", lambda _: 7)
    session.ends = time.perf_counter()
    session.run("third", lambda _: 7)
    assert session.results == {
        "first": "FAILED: RuntimeError: out of memory",
        "second": 7,
        "third": "skipped: no time left",
    }


def test_the_step_benchmark_records_machine_and_rounds(tmp_path: Path) -> None:
    arguments = ["--device", "cpu", "--pairs", "small:small", "--batch", "4", "--rounds", "2"]
    printed, content = run("step", *arguments, out=tmp_path / "step.json")
    assert {"machine", "threads", "torch", "python", "batch", "rounds"} <= set(content)
    steps = {row["step"]: row for row in content["rows"]}
    assert set(steps) >= {"authors", "label-once", "unfolded", "ours"}
    assert steps["authors"]["times authors"] == 1.0
    assert printed.rstrip().splitlines()[-1].split()[:2] == ["small:small", content["rows"][-1]["step"]]


def test_a_fallback_is_not_timed_under_another_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import torch
    from step import measure  # type: ignore[import-not-found]

    def broken(*_: Any, **__: Any) -> Any:
        def run(_: Any) -> Any:
            raise RuntimeError("no C compiler")

        return run

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.warns(UserWarning, match="no C compiler"):
        rows = measure("small:small", 4, torch.device("cpu"), ["compile", "ours"], rounds=1, repeats=1, top=1.0)
    assert "torch.compile failed" in rows[0]["error"]
    assert rows[1]["ms"] > 0


def test_the_networks_for_a_processor(tmp_path: Path) -> None:
    """Each candidate is trained and validated; two epochs, however little time is given."""
    from dynat.data import Dataset, LabeledImages, save

    def noise(count: int) -> LabeledImages:
        generator = torch.Generator().manual_seed(count)
        images = torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)
        return LabeledImages(images, torch.arange(count) % 10)

    data = Dataset.from_splits(
        name="noise", classes=tuple("abcdefghij"), origin={}, train=noise(130), validation=noise(10), test=noise(11)
    )
    save(data, tmp_path / "noise")
    words = [str(tmp_path / "noise"), "--cpu-seconds", "0.01", "--networks", "cnn-32,patch-resnet-64,resnet8-8"]
    printed, results = run("laptop_networks", *words, "--steps", "1", out=tmp_path / "out.json")
    assert [row["network"] for row in results["rows"]] == ["cnn-32", "patch-resnet-64", "resnet8-8"]
    assert results["rows"][0]["weights"] == "141,034"  # 3x3 convolutions, their BatchNorm, and the linear layer
    assert {row["epochs"] for row in results["rows"]} == {2}
    assert "held-out PGD-20, %" in printed


@pytest.mark.slow
def test_the_benchmark_of_processes_counts_the_images_of_all(tmp_path: Path) -> None:
    words = ["--pairs", "small:small", "--processes", "2", "--batch", "4", "--steps", "2", "--rounds", "2"]
    printed, results = run("processes", *words, out=tmp_path / "processes.json")
    row = results["rows"][0]
    assert len(row["ratios of the rounds"].split(", ")) == 2 and row["2 processes, images/s"] > 0
    assert "small:small" in printed


@pytest.mark.slow
def test_the_benchmark_of_shards_compares_their_files(tmp_path: Path) -> None:
    printed, results = run("shards", "--images", "16", "--rounds", "1", out=tmp_path / "shards.json")
    assert "the same file from every call" in printed and [row["jobs"] for row in results["rows"]] == [1, 2]


@pytest.mark.slow
def test_the_libraries_agree_about_the_images(tmp_path: Path) -> None:
    """On a network that learned nothing the verdicts are those without an attack; every implementation is called."""
    from dynat import models
    from dynat.checkpoints.weights import save_weights
    from dynat.data import save
    from tests import tiny

    save(tiny.dataset(), tmp_path / "tiny")
    save_weights(models.build("small", classes=tiny.CLASSES, channels=1), tmp_path / "small.safetensors", {})
    words = ["--run", str(tmp_path / "small.safetensors"), "--arch", "small", "--data", str(tmp_path / "tiny")]
    few = ["--images", "6", "--autoattack-images", "4", "--rounds", "1", "--step-networks", "small", "--batch", "4"]
    printed, results = run("libraries", *words, *few, out=tmp_path / "out.json")
    assert len({row["correct"] for row in results["rows"] if row["attack"] == "pgd-20"}) == 1
    by = [row["by"] for row in results["rows"]]
    assert by == [
        *("dynat", "torchattacks", "foolbox"),
        *("dynat", "foolbox"),
        *("dynat", "pyautoattack", "torchattacks"),
    ]
    assert [row["step"] for row in results["steps"]] == ["at", "at", "trades", "trades"] and "processor" in printed


def test_a_training_of_resnet18_with_batches_of_128_fits_into_4_gb(tmp_path: Path) -> None:
    """Counted in tensors; imports and libraries need less than the remaining gigabyte."""
    printed, content = run("memory", "--presets", "cifar10-resnet18", out=tmp_path / "memory.json")
    training, attack = content["rows"]
    assert (training["part"], training["batch"]) == ("training", 128) and "resnet18" in printed
    assert 1000 < training["tensors MiB"] < 3000
    assert 300 < attack["tensors MiB"] < 1000
