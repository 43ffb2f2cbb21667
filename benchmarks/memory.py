"""Peak memory of a training step and of an evaluation, for the dynat run of each preset.

    python benchmarks/memory.py                                      # counted: no network is computed
    python benchmarks/memory.py --presets cifar10-resnet18 --measure # and measured, in a process of its own

Counted: the bytes of all tensors that are alive at once in float32, in a step with two inner steps and in an attack's
gradient of a batch. Measured: the peak of a whole process on a CPU; imports and libraries need some hundred MiB in
addition to the tensors. On a GPU, benchmarks/step.py and benchmarks/gpu.py report the allocator's peak.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import torch
from common import Row, machine, table, write
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dynat import methods, models
from dynat.config import Experiment, Run, load
from dynat.nn.folded import FoldedModel
from dynat.runtime.device import set_up_cpu
from dynat.training.networks import build_networks
from dynat.training.step import training_step

PRESETS = ("digits", "cifar10-laptop", "cifar10-resnet18", "cifar10-wrn34-10")
SIDES = {"digits": (1, 8)}
CLASSES = 10


class PeakMemory(TorchDispatchMode):
    """Counts the bytes of the tensors that operations inside return, while they are alive."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.add(leaf)
        return result

    def add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        size, key = storage.nbytes(), storage._cdata
        if key in self.known:
            return
        self.known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)

        def freed() -> None:
            self.known.discard(key)
            self.live -= size

        weakref.finalize(storage, freed)


def train(experiment: Experiment, run: Run, images: Tensor) -> None:
    """Two training steps on the device of `images`."""
    device = images.device
    networks = build_networks(run, classes=CLASSES, channels=images.shape[1], seed=0, device=device)
    networks.train()
    optimizer = torch.optim.SGD(networks.parameters(), 0.01, momentum=0.9, foreach=True)
    method = methods.build(run, experiment.threat)
    truth = torch.zeros(len(images), dtype=torch.int64, device=device)

    def update(loss: Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    for _ in range(2):
        training_step(networks, method, run, images, truth, images + 0.001, progress=0.5, update=update)


def attack(run: Run, images: Tensor) -> None:
    """What an attack asks for in every step, on the device of `images`."""
    with images.device:
        network = models.build(run.target, classes=CLASSES, channels=images.shape[1])
        surrogate = FoldedModel(network, torch.float32).refresh(network)
    images.requires_grad_()
    torch.autograd.grad(surrogate(images).sum(), images)


def work(part: str, experiment: Experiment, device: str) -> None:
    run = experiment.runs["dynat"]
    run = run.model_copy(update={"precision": "float32", "inner": run.inner.model_copy(update={"steps": 2})})
    channels, side = SIDES.get(experiment.dataset.name, (3, 32))
    batch = run.batch if part == "training" else attack_batch(experiment)
    images = torch.rand(batch, channels, side, side, device=device)
    if part == "training":
        train(experiment, run, images)
    else:
        attack(run, images)


def attack_batch(experiment: Experiment) -> int:
    return experiment.attacks[experiment.headline].batch


def counted(part: str, experiment: Experiment) -> float:
    with PeakMemory() as memory:
        work(part, experiment, "meta")
    return memory.peak / 2**20


def measured(part: str, preset: str) -> float:
    command = [sys.executable, __file__, "--presets", preset, "--in-this-process", part]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--presets", nargs="+", default=PRESETS)
    options.add_argument("--measure", action="store_true", help="also compute two steps, for the peak of the process")
    options.add_argument("--in-this-process", choices=("training", "attack"), help=argparse.SUPPRESS)
    options.add_argument("--json", type=Path, default=Path("benchmarks/out/memory.json"))
    chosen = options.parse_args()
    if chosen.in_this_process:
        set_up_cpu(None)
        work(chosen.in_this_process, load({"preset": chosen.presets[0]}), "cpu")
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    rows: list[Row] = []
    for preset in chosen.presets:
        experiment = load({"preset": preset})
        run = experiment.runs["dynat"]
        for part, batch in (("training", run.batch), ("attack", attack_batch(experiment))):
            row: Row = {"preset": preset, "network": run.target, "part": part, "batch": batch}
            row["tensors MiB"] = round(counted(part, experiment))
            if chosen.measure:
                row["process MiB"] = round(measured(part, preset))
            rows.append(row)
    about = machine(torch.device("cpu"))
    write(chosen.json, {**about, "rows": rows})
    print("\n" + "\n".join(f"{key}: {value}" for key, value in about.items()) + "\n\n" + table(rows))


if __name__ == "__main__":
    main()
