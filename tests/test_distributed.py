"""Several processes train what one process trains: the same losses, one log, and no process left waiting."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from dynat import data
from dynat.config import Run, registry
from dynat.training.distributed import Distributed
from dynat.training.trainer import Trainer
from tests import tiny

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
    "uniform-start": tiny.dynat(inner={"eps": 0.05, "step_size": 0.02, "steps": 2, "start": "uniform"}),
    "awp": tiny.run(awp={"gamma": 0.05, "warm_up": 0.0}),
    "lbgat": tiny.run(method="lbgat", guide="small", consistency=1.0, schedule={"lr": 0.02}),
    "gairat": tiny.run(method="gairat", options={"burn_in": 0.0}),
    "mail": tiny.run(method="mail-at", options={"burn_in": 0.0}),
}


def trace(run: Run, distributed: Distributed) -> list[float]:
    """The losses of the first steps, and the sum of the weights at the end."""
    trainer = Trainer(run, tiny.THREAT, tiny.dataset(), seed=0, device=torch.device("cpu"), distributed=distributed)
    trainer.noise.manual_seed(3)
    trainer.networks.train()
    trainer._set_rate(0.02)
    batches = list(tiny.images(per_class=40, seed=5).batches(16))[:STEPS]
    losses = []
    for images, labels in batches:
        seen = trainer.step(data.to_pixels(images), labels)
        loss = seen["loss"].clone()
        distributed.average([loss])
        losses.append(loss.item())
    return [*losses, sum(parameter.double().sum().item() for parameter in trainer.networks.parameters())]


def main(out: Path) -> None:
    """What each of the processes runs."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    distributed = Distributed(torch.distributed.get_rank(), torch.distributed.get_world_size())
    traces = {name: trace(run, distributed) for name, run in RUNS.items()}
    (out / f"rank{distributed.rank}.json").write_text(json.dumps(traces))
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def in_two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, list[float]]]:
    out = tmp_path_factory.mktemp("ranks")
    words = [
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        "--module",
        "tests.test_distributed",
        str(out),
    ]
    subprocess.run([sys.executable, "-m", *words], check=True, cwd=Path(__file__).parents[1], capture_output=True)
    return [json.loads((out / f"rank{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_train_what_one_trains(name: str, in_two: list[dict[str, list[float]]]) -> None:
    """The first losses up to rounding, which the signs in PGD then amplify; the weights of both alike."""
    alone, first, second = trace(RUNS[name], Distributed()), in_two[0][name], in_two[1][name]
    assert first == second, "both processes hold the same bits"
    assert first[:4] == pytest.approx(alone[:4], rel=1e-4)
    assert first == pytest.approx(alone, rel=0.02)


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


def test_a_killed_process_stops_the_others_and_the_training_resumes(tmp_path: Path) -> None:
    data.save(tiny.dataset(), tmp_path / "data" / "tiny")
    (tmp_path / "kills_itself.py").write_text(KILLS_ITSELF)
    run = tiny.dynat(epochs=40, gpus=2, validation={"every": 40, "steps": 1})
    spec = {"preset": "tests", "name": "some-run", "data": "tiny", "threat": {"eps": 0.05}, "plugins": ["kills_itself"]}
    words = ["dynat", "job", "training", "--device", "cpu", "--spec", json.dumps({**spec, "run": run.model_dump()})]
    paths = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[1])])
    outcomes = [
        subprocess.run(
            [sys.executable, "-m", *words],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": paths},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        for _ in range(2)
    ]
    killed, again = outcomes
    assert killed.returncode == 1
    assert "dynat: process 1 of 2 was killed by signal 9, so the others were stopped" in killed.stderr
    assert again.returncode == 0, again.stderr
    assert "resuming from" in again.stdout
    assert again.stdout.count("epoch 40/40") == 1, "only the main process logs"
    history = (tmp_path / "results/tests/some-run/seed0/history.csv").read_text().splitlines()
    assert len(history) == 41
    assert not list((tmp_path / "state" / "trainings").iterdir())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
