"""Every benchmark runs at a tiny size, so that errors are found before it runs on an expensive machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

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
