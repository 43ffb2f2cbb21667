"""Several processes train what one process trains: the same losses, one log, and no process left waiting."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from unittest import mock

import psutil
import pytest
import torch
from torch import nn

from dynat import data
from dynat.cli import INTERRUPTED
from dynat.config import Run, registry
from dynat.runtime import launch
from dynat.runtime.errors import JobError
from dynat.training import distributed
from dynat.training.distributed import Distributed
from dynat.training.trainer import Trainer
from tests import tiny
from tests.test_extra import NO_IMAGES

STEPS = 12


def plain(*, classes: int, channels: int) -> nn.Module:
    """A network without BatchNorm."""
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(128, classes)
    )


registry.NETWORKS["plain"] = "tests.test_distributed:plain"

RUNS: dict[str, Run] = {
    "without-batchnorm": tiny.run(labels="dynamic", guide="plain", target="plain", beta=2.0, clean_forward=True),
    "with-batchnorm": tiny.dynat(ema=0.9),
    "bfloat16": tiny.dynat(precision="bfloat16"),
    "uniform-start": tiny.dynat(inner={"eps": 0.05, "step_size": 0.02, "steps": 2, "start": "uniform"}),
    "awp": tiny.run(awp={"gamma": 0.05, "warm_up": 0.0}),
    "lbgat": tiny.run(method="lbgat", guide="small", consistency=1.0, schedule={"lr": 0.02}),
    "gairat": tiny.run(method="gairat", options={"burn_in": 0.0}),
    "extra": tiny.dynat(extra={"ratio": 0.5, "labels": "guide"}),
    "mail": tiny.run(method="mail-at", options={"burn_in": 0.0}),
    "adamw": tiny.dynat(
        optimizer={"name": "adamw", "max_grad_norm": 0.5}, schedule={"lr": 0.02}, label_smoothing=0.2, ema=0.9
    ),
}


def trace(run: Run, distributed: Distributed) -> list[float]:
    """The losses of the first steps, and the sum of the weights at the end."""
    extra = NO_IMAGES if run.extra else None
    trainer = Trainer(
        run, tiny.THREAT, tiny.dataset(), seed=0, device=torch.device("cpu"), extra=extra, distributed=distributed
    )
    trainer.noise.manual_seed(3)
    trainer.networks.train()
    exact = run.precision == "float32"  # in float64, no sign in PGD depends on the order of a sum
    if exact:
        for network in (trainer.networks.target, trainer.networks.guide, trainer.networks.ema):
            if network is not None:
                network.double()
    trainer._set_rate(0.02)
    batches = list(tiny.images(per_class=40, seed=5).batches(16))[:STEPS]
    losses = []
    for images, labels in batches:
        if run.extra:  # the second process has images without a label only
            labels = torch.where(torch.arange(16) < 8, labels, -1)
        pixels = data.to_pixels(images)
        seen = trainer.step(pixels.double() if exact else pixels, labels)
        loss = seen["loss"].clone()
        distributed.average([loss])
        losses.append(loss.item())
    return [*losses, sum(parameter.double().sum().item() for parameter in trainer.networks.parameters())]


def validated(own: Distributed) -> list[float]:
    """What a validation says that comes out differently in each process, as on GPUs that choose other kernels."""
    trainer = Trainer(tiny.run(), tiny.THREAT, tiny.dataset(), seed=0, device=torch.device("cpu"), distributed=own)
    trainer.finished = trainer.run.epochs
    with mock.patch("dynat.training.trainer.validate", lambda *_, **__: {"clean": 0.5 + own.rank, "pgd": own.rank}):
        accuracy = trainer._validate(lambda: None)
    assert trainer.best is not None
    return [accuracy["clean"], accuracy["pgd"], *trainer.best["score"]]


def main(out: Path) -> None:
    """What each of the processes runs."""
    torch.set_num_threads(1)
    own = Distributed.from_environment()
    with own.process_group(torch.device("cpu")):
        traces = {name: trace(run, own) for name, run in RUNS.items()}
        traces["validated"] = validated(own)
    (out / f"rank{own.rank}.json").write_text(json.dumps(traces))


@pytest.fixture(scope="module")
def in_two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, list[float]]]:
    out = tmp_path_factory.mktemp("ranks")
    paths = {"PYTHONPATH": str(Path(__file__).parents[1])}
    launch.run_processes(2, [sys.executable, "-m", "tests.test_distributed", str(out)], paths)
    return [json.loads((out / f"rank{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_train_what_one_trains(name: str, in_two: list[dict[str, list[float]]]) -> None:
    """The first losses up to rounding, which the signs in PGD then amplify; the weights of both alike."""
    alone, first, second = trace(RUNS[name], Distributed()), in_two[0][name], in_two[1][name]
    assert first == second, "both processes hold the same bits"
    assert first[:4] == pytest.approx(alone[:4], rel=5e-3 if name == "bfloat16" else 1e-4)
    assert first == pytest.approx(alone, rel=0.02)


def test_all_processes_choose_the_best_epoch_and_stop_by_the_same_accuracy(
    in_two: list[dict[str, list[float]]],
) -> None:
    """Otherwise one may stop early, and the others wait for it."""
    assert in_two[0]["validated"] == in_two[1]["validated"] == [0.5, 0.0, 0.0, 0.5]


def test_a_shard_is_a_part_of_the_whole_batch() -> None:
    batch = torch.arange(12)
    parts = [Distributed(rank, 3).shard(batch) for rank in range(3)]
    assert torch.equal(torch.cat(parts), batch)
    with pytest.raises(ValueError, match="10 training images cannot be shared evenly among 3 GPUs"):
        Distributed(0, 3).shard(torch.arange(10))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"gpus": 3}, "a batch of 16 cannot be divided evenly among 3 GPUs"),
        ({"gpus": 2, "cuda_graph": True}, "cuda_graph records the step of one GPU: set gpus: 1"),
    ],
)
def test_what_cannot_be_shared_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny.run(**fields)


KILLS_ITSELF = """
import os, signal, threading, time
from pathlib import Path

def die():
    while not list(Path("state").glob("trainings/*/state.pt")):
        time.sleep(0.01)
    Path("died").touch()
    os.kill(os.getpid(), signal.SIGKILL)

if os.environ.get("RANK") == "1" and not Path("died").exists():
    threading.Thread(target=die, daemon=True).start()
"""


def job(folder: Path, *, epochs: int = 40, plugins: tuple[str, ...] = ()) -> list[str]:
    """The command of a training in two processes, in a folder that has its data."""
    if not (folder / "data").exists():
        data.save(tiny.dataset(), folder / "data" / "tiny")
    run = tiny.dynat(epochs=epochs, gpus=2, validation={"every": epochs, "steps": 1})
    spec = {"preset": "tests", "name": "some-run", "data": "tiny", "threat": {"eps": 0.05}, "plugins": plugins}
    words = ["dynat", "job", "training", "--device", "cpu", "--spec", json.dumps({**spec, "run": run.model_dump()})]
    return [sys.executable, "-m", *words]


def start(command: list[str], folder: Path) -> subprocess.Popen[str]:
    paths = os.pathsep.join([str(folder), str(Path(__file__).parents[1])])
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, cwd=folder, env={**os.environ, "PYTHONPATH": paths}, stdout=pipe, stderr=pipe, text=True
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit code and output; a process that hangs is killed, so that its test fails."""
    try:
        output, errors = process.communicate(timeout=240)
    finally:
        process.kill()
    return process.returncode, output, errors


def test_a_killed_process_stops_the_others_and_the_training_resumes(tmp_path: Path) -> None:
    (tmp_path / "kills_itself.py").write_text(KILLS_ITSELF)
    command = job(tmp_path, plugins=("kills_itself",))
    code, _, errors = finish(start(command, tmp_path))
    assert code == 1
    assert "dynat: process 1 of 2 was killed by signal 9, so the others were stopped" in errors
    code, output, errors = finish(start(command, tmp_path))
    assert code == 0, errors
    assert "resuming from" in output
    assert output.count("epoch 40/40") == 1, "only the main process logs"
    history = (tmp_path / "results/tests/some-run/seed0/history.csv").read_text().splitlines()
    assert len(history) == 41
    assert not list((tmp_path / "state" / "trainings").iterdir())


def test_the_name_of_the_machine_need_not_resolve(tmp_path: Path) -> None:
    """As in containers and on laptops. (`unshare` gives the command a machine's name of its own.)"""
    rename = ["unshare", "--uts", "sh", "-c", 'hostname no-such-name && exec "$@"', "sh"]
    if not shutil.which("unshare") or subprocess.run([*rename, "true"], capture_output=True, check=False).returncode:
        pytest.skip("unshare is not permitted here")
    code, output, errors = finish(start([*rename, *job(tmp_path, epochs=1)], tmp_path))
    assert code == 0, errors
    assert "epoch 1/1" in output


def while_training(tmp_path: Path) -> tuple[subprocess.Popen[str], list[psutil.Process]]:
    """A training in two processes that has finished an epoch, and these two."""
    parent = start(job(tmp_path, epochs=100_000), tmp_path)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "state").glob("trainings/*/state.pt")):
        assert parent.poll() is None and time.monotonic() < deadline, parent.communicate()
        time.sleep(0.05)
    workers = psutil.Process(parent.pid).children()
    assert len(workers) == 2
    return parent, workers


def test_processes_end_with_the_one_that_started_them(tmp_path: Path) -> None:
    parent, workers = while_training(tmp_path)
    parent.kill()
    _, alive = psutil.wait_procs(workers, timeout=20)
    for worker in alive:
        worker.kill()
    parent.communicate()
    assert not alive


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_all_with_one_line(tmp_path: Path, number: signal.Signals) -> None:
    parent, workers = while_training(tmp_path)
    parent.send_signal(number)
    code, _, errors = finish(parent)
    assert code == 128 + number
    assert not [worker for worker in workers if worker.is_running()]
    assert [line for line in errors.splitlines() if line.startswith("dynat:")] == [f"dynat: {INTERRUPTED}"]
    assert "Traceback" not in errors and "torchrun" not in errors


def test_a_process_without_the_others_gives_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "START_LIMIT", timedelta(seconds=1))
    monkeypatch.setenv(launch.RENDEZVOUS, str(tmp_path / "rendezvous"))
    monkeypatch.setattr(launch, "end_with_parent", lambda: None)
    with pytest.raises(JobError, match="process 0 of 2 waited 1 s for the others of this training to start"):
        Distributed(0, 2)._connect("gloo")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
