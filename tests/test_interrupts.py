"""SIGINT and SIGTERM end a command with one line, without a traceback, and the same command resumes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dynat.cli import INTERRUPTED
from dynat.runtime.interrupts import handle_in_a_thread, interruptible
from tests.project import BIN, Project


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    made = Project.create(tmp_path_factory.mktemp("interrupts"))
    made.params("preset: tiny\ntraining: {epochs: 10000}\n")
    assert made.call(BIN / "dynat", "data")[0] == 0
    return made


def interrupted(project: Project, number: signal.Signals, *words: str, until: str) -> tuple[int, str, str]:
    """Exit code, output and errors of a command that gets a signal as soon as it has printed this text."""
    process = subprocess.Popen(
        [BIN / "dynat", *words],
        cwd=project.folder,
        env={**project.environment, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line)
        if until in line:
            process.send_signal(number)
            break
    output, errors = process.communicate(timeout=60)
    return process.returncode, "".join(lines) + output, errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_training_says_in_one_line_that_it_resumes(number: signal.Signals, project: Project) -> None:
    command = ("train", "at", "--seed", str(int(number)))
    code, output, errors = interrupted(project, number, *command, until="epoch 3/")
    assert code == 128 + number, errors
    assert errors == f"dynat: {INTERRUPTED}\n"
    assert not list(project.folder.rglob(".dynat-*"))
    code, output, errors = interrupted(project, number, *command, until="epoch ")
    assert "resuming from state/" in output and "epoch 1/" not in output and "epoch 3/" not in output


TWICE = """
import os, signal, time
from dynat.runtime.interrupts import Interrupted, interruptible
try:
    with interruptible():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)  # as `timeout` does, which also signals its group
            time.sleep(60)
except Interrupted as interruption:
    os.kill(os.getpid(), signal.SIGINT)
    raise SystemExit(interruption.exit_code)
"""


IMPORTING = """
import sys, time
from dynat.runtime.interrupts import Interrupted, interruptible
try:
    with interruptible():
        import swallows
        assert swallows.COMPLETE
        time.sleep(60)
except Interrupted as interruption:
    raise SystemExit(interruption.exit_code)
"""
SWALLOWS = """
import os, signal, time
try:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.2)
    COMPLETE = True
except BaseException:
    COMPLETE = False
"""


def test_a_signal_during_an_import_has_its_effect_after_it(tmp_path: Path) -> None:
    """Torch's C code clears exceptions while it imports numpy."""
    (tmp_path / "swallows.py").write_text(SWALLOWS)
    command = [sys.executable, "-c", f"import sys; sys.path.append({str(tmp_path)!r})\n{IMPORTING}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (143, "")


def test_a_second_signal_changes_nothing() -> None:
    done = subprocess.run([sys.executable, "-c", TWICE], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (143, "")


def test_a_process_that_ignores_a_signal_keeps_ignoring_it() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interruptible():
            assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_group_of_snakemake_ends_its_job_with_the_line_in_its_log(
    number: signal.Signals, project: Project
) -> None:
    """Ctrl-C, and what docs/reliability.md says to send. SIGTERM to Snakemake alone lets its jobs finish."""
    seed = 10 + int(number)
    project.params(f"preset: tiny\ntraining: {{epochs: 10000}}\nseeds: [{seed}]\n")
    target, log = (
        f"results/tiny/at/seed{seed}/target.safetensors",
        project.folder / f"logs/train/tiny/at-seed{seed}.log",
    )
    process = subprocess.Popen(
        [BIN / "snakemake", "--cores", "1", target],
        cwd=project.folder,
        env=project.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while not log.exists() or "epoch 3/" not in log.read_text():
        assert process.poll() is None
        time.sleep(0.1)
    os.killpg(process.pid, number)
    try:
        assert process.wait(timeout=60) != 0
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    text = log.read_text()
    assert f"dynat: {INTERRUPTED}" in text and "Traceback" not in text
    assert not list((project.folder / ".snakemake/locks").glob("*")), "no --unlock is needed"


def test_afterwards_signals_have_the_effect_that_they_had_before() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with interruptible():
        assert signal.getsignal(signal.SIGTERM) != before[1]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    with pytest.raises(ValueError, match="failed"), interruptible():
        raise ValueError("failed")
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


WAITS = """
import os, signal, threading, time
from dynat.runtime.interrupts import handle_in_a_thread
lock, handled = threading.Lock(), threading.Semaphore(0)
def handler(number, frame):
    with lock:
        handled.release()
signal.signal(signal.SIGTERM, handler)
handle_in_a_thread(signal.SIGTERM)
with lock:
    for _ in range(3):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.05)
    assert not handled.acquire(blocking=False)
assert all(handled.acquire(timeout=20) for _ in range(3))
"""


def test_a_handler_in_a_thread_may_wait_for_what_was_interrupted() -> None:
    """As Snakemake's handler of SIGTERM does, for a lock that is not reentrant."""
    done = subprocess.run([sys.executable, "-c", WAITS], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_signal_that_has_no_handler_stays_as_it_is() -> None:
    before = signal.getsignal(signal.SIGUSR1)
    assert not callable(before)
    handle_in_a_thread(signal.SIGUSR1)
    assert signal.getsignal(signal.SIGUSR1) == before
