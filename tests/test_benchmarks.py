"""The benchmarks run: each on a tiny scale, so that an expensive machine is not the first to try them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


def run(script: str, *words: str, out: Path) -> tuple[str, dict[str, Any]]:
    """What a benchmark printed last, and its JSON."""
    call = [sys.executable, f"benchmarks/{script}.py", *words, "--json", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(call, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(out.read_text())


@pytest.fixture(scope="module")
def gpu(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    return run("gpu", "--tiny", out=tmp_path_factory.mktemp("gpu") / "gpu.json")


def test_the_gpu_benchmark_runs_every_part(gpu: tuple[str, dict[str, Any]]) -> None:
    printed, answers = gpu
    assert set(answers) >= {"machine", "torch", "correct", "ceiling", "steps", "projected", "exam"}
    assert not [name for name, answer in answers.items() if "FAILED" in str(answer)]
    assert "projected" in printed and "ceiling" in printed


def test_its_fast_steps_agree_with_the_plain_one(gpu: tuple[str, dict[str, Any]]) -> None:
    rows = {row["step"]: row for row in gpu[1]["correct"]}
    assert set(rows) == {"folded view, logits", "again", "captured", "bfloat16"}
    assert {row["verdict"] for row in rows.values()} == {"agrees"}
    assert rows["again"]["all apart"] == rows["again"]["update apart"] == 0.0
    assert 0 < rows["bfloat16"]["update apart"] < 0.5, "it is the update that is compared"


def test_a_part_that_fails_costs_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert session.answers == {
        "first": "FAILED: RuntimeError: out of memory",
        "second": 7,
        "third": "skipped: no time left",
    }


def test_the_step_benchmark_names_machine_and_n(tmp_path: Path) -> None:
    words = ["--device", "cpu", "--pairs", "small:small", "--batch", "4", "--rounds", "2"]
    printed, found = run("step", *words, out=tmp_path / "step.json")
    assert {"machine", "threads", "torch", "python", "batch", "rounds"} <= set(found)
    steps = {row["step"]: row for row in found["rows"]}
    assert set(steps) >= {"authors", "label-once", "unfolded", "ours"}
    assert steps["authors"]["times authors"] == 1.0
    assert printed.rstrip().splitlines()[-1].split()[:2] == ["small:small", found["rows"][-1]["step"]]


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
        rows = measure("small:small", 4, torch.device("cpu"), ["compiled", "ours"], rounds=1, repeats=1, top=1.0)
    assert "torch.compile failed" in rows[0]["error"]
    assert rows[1]["ms"] > 0
