"""Slices without Snakemake, rehearsed on the CPU: a machine that is bare before each gives the same results."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dynat.cli.app import read_experiment
from dynat.results.metrics import read_metrics
from dynat.results.paths import ExperimentFiles
from dynat.results.records import TrainingRecord, read_record
from tests.project import ROOT
from tools import gpu_slices
from tools.gpu_slices import FAILED, FINISHED, UNFINISHED
from tools.results_archive import finished, unpack

TINY = [
    "--set=preset=digits",
    "--set=select=[at,dynat]",
    "--set=seeds=[0]",
    "--set=training={epochs: 3, inner: {steps: 2, step_size: 0.08}, validation: {steps: 2}}",
    "--set=attacks={clean: {}, pgd-20: {images: 30}, autoattack: {images: 4}}",
    "--set=sanity={images: 10, queries: 10, radii: [0, 1], steps: [1, 20, 30], restarts: 2}",
    "--device=cpu",
]


def take(folder: Path, root: str, *words: str) -> tuple[int, str]:
    """A slice on a machine whose working folder is `root`; its exit code and what its log says."""
    command = [sys.executable, "-m", "tools.gpu_slices", *TINY, f"--kept={folder}", f"--out={folder}", *words]
    done = subprocess.run([*command, f"--root={folder / root}"], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.returncode, (folder / "slice.log").read_text() + done.stderr


def digests(files: ExperimentFiles) -> dict[str, dict[str, str]]:
    """The checksums of the weights, by run."""
    return {name: read_record(files.run(name).seed(0).config, TrainingRecord).weights for name in ("at", "dynat")}


def test_the_documented_calls_name_what_exists() -> None:
    page = (ROOT / "docs" / "results.md").read_text()
    (six,) = re.findall(r"^six='(.+)'$", page, re.MULTILINE)
    calls = re.findall(r"^run (--set .+)$", page, re.MULTILINE)
    assert len(calls) >= 5
    for call in calls:
        words = shlex.split(call.replace("$six", six))
        assert read_experiment(ROOT / "params.yaml", [word for word in words if word != "--set"]).runs


@pytest.mark.slow
def test_slices_on_bare_machines_give_the_results_of_one_call(tmp_path: Path) -> None:
    whole, sliced = tmp_path / "whole", tmp_path / "sliced"
    code, log = take(whole, "work", "--minutes=10")
    assert code == FINISHED, log
    codes = []
    for number in range(20):
        code, log = take(sliced, f"machine{number}", f"--minutes={0.2 * (number + 1)}")  # longer each time
        codes.append(code)
        if code != UNFINISHED:
            break
    assert codes[-1] == FINISHED, log
    assert UNFINISHED in codes, "a slice was too long for this test to interrupt anything"
    one, other = (unpack(folder / "digits.tar.xz", folder / "read") for folder in (whole, sliced))
    assert digests(one) == digests(other)
    for name in ("at", "dynat"):
        first, second = (read_metrics(files.run(name)).attacks for files in (one, other))
        assert {a: m.per_seed for a, m in first.items()} == {a: m.per_seed for a, m in second.items()}
    assert [run.folder.name for run, _ in finished(other)] == ["at", "dynat"]
    code, log = take(sliced, "another", "--minutes=0.2")
    assert code == FINISHED, "with the parts of the last slice nothing is left to do: " + log


@pytest.mark.slow
def test_a_failed_job_does_not_stop_the_other_runs(tmp_path: Path) -> None:
    code, log = take(tmp_path, "work", "--minutes=10", "--set=runs={at: {schedule: {lr: 100000}}}")
    assert code == FAILED
    assert "failed: at seed 0" in log
    assert "dynat metrics: ok" in log


class Recorder(gpu_slices.Slice):
    """A slice that runs nothing."""

    def __init__(self, root: Path) -> None:
        self.lines: list[str] = []
        super().__init__(root, time.monotonic(), "cpu", (root / "log").open("w"))

    def say(self, text: str) -> None:
        self.lines.append(text)


def test_parts_are_small_and_what_does_not_fit_is_named(tmp_path: Path) -> None:
    root, out, there = tmp_path / "work", tmp_path / "out", tmp_path / "there"
    for folder, size in (("results/p/at", 30_000), ("results/p/dynat", 70_000), ("state/trainings/abc", 500_000)):
        (root / folder).mkdir(parents=True)
        (root / folder / "file").write_bytes(bytes(i % 251 for i in range(size)))
    out.mkdir()
    (out / "work-09.part").write_bytes(b"of an earlier slice")
    recorder = Recorder(root)
    gpu_slices.leave(root, out, part_bytes=50_000, parts=4, say=recorder)
    parts = sorted(out.glob("work-*.part"))
    assert [part.name for part in parts] == ["work-01.part", "work-02.part", "work-03.part"]
    assert all(part.stat().st_size <= 50_000 for part in parts)
    assert len(recorder.lines) == 1
    assert "left out, 1 MB: state/trainings/abc" in recorder.lines[0]
    gpu_slices.restore(out, there)
    for folder in ("results/p/at", "results/p/dynat"):
        assert (there / folder / "file").read_bytes() == (root / folder / "file").read_bytes()
    assert not (there / "state").exists()
