"""Small networks for adversarial training of 32x32 images on a processor, compared after equal processor time.

    python benchmarks/laptop_networks.py data/cifar10 --cpu-seconds 1000

Each candidate is trained by AT on the training images for as many epochs as the time allows (one-cycle schedule, so the
number of epochs is fixed beforehand from the measured cost of a step), and evaluated on the held-out images by PGD-20.
Test images are not read. One thread; other programs change the processor time of an epoch by a tenth or so.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import common  # first: it sets OMP_WAIT_POLICY
import torch
from torch import Tensor, nn

from dynat.config import Run, ThreatModel, registry
from dynat.data import Dataset, load, to_pixels
from dynat.models import build, count_parameters
from dynat.models.resnet import BasicBlock
from dynat.nn.mixed_precision import compute_dtype
from dynat.training.trainer import Trainer

EPS = 8 / 255
CANDIDATES = ("cnn-32", "cnn-48", "patch-resnet-64", "resnet8-32", "resnet8-64", "wrn10-1")
WARM_UP, TIMED = 3, 10
"""Steps."""


class GlobalMean(nn.Module):
    def forward(self, features: Tensor) -> Tensor:
        return features.mean(dim=(2, 3))


def cnn(width: int, classes: int, channels: int) -> nn.Sequential:
    """Five 3x3 convolutions, three of them with stride 2: width, width, twice and twice as many, four times as many."""
    sizes = [(channels, width, 2), (width, width, 1), (width, 2 * width, 2)]
    sizes += [(2 * width, 2 * width, 1), (2 * width, 4 * width, 2)]
    layers = [layer for size in sizes for layer in convolution(*size)]
    return nn.Sequential(*layers, GlobalMean(), nn.Linear(4 * width, classes))


def patch_resnet(width: int, classes: int, channels: int) -> nn.Sequential:
    """A 4x4 convolution with stride 4, two residual blocks, and one of twice the width."""
    stem = [nn.Conv2d(channels, width, 4, stride=4, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
    blocks = [BasicBlock(width, width, 1), BasicBlock(width, width, 1), BasicBlock(width, 2 * width, 2)]
    return nn.Sequential(*stem, *blocks, GlobalMean(), nn.Linear(2 * width, classes))


def convolution(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
    layer = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    return [layer, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]


def cnn_32(*, classes: int, channels: int) -> nn.Module:
    return cnn(32, classes, channels)


def cnn_48(*, classes: int, channels: int) -> nn.Module:
    return cnn(48, classes, channels)


def patch_resnet_64(*, classes: int, channels: int) -> nn.Module:
    return patch_resnet(64, classes, channels)


def register() -> None:
    """Make the candidates that are not in the package known by name."""
    for name in ("cnn-32", "cnn-48", "patch-resnet-64"):
        registry.NETWORKS[name] = f"{__name__}:{name.replace('-', '_')}"


def recipe(network: str, epochs: int, steps: int, precision: str) -> Run:
    return Run.model_validate(
        {
            "method": "at",
            "target": network,
            "epochs": epochs,
            "batch": 128,
            "precision": precision,
            "schedule": {"shape": "one-cycle", "lr": 0.1, "peak": 0.3},
            "optimizer": {"weight_decay": 5e-4},
            "inner": {"eps": EPS, "steps": steps, "step_size": 12.5 / 255 / steps, "start": "uniform"},
            "validation": {"every": epochs, "steps": 20},
        }
    )


def trainer(network: str, epochs: int, data: Dataset, given: argparse.Namespace) -> Trainer:
    run = recipe(network, epochs, given.steps, given.precision)
    return Trainer(run, ThreatModel(eps=EPS), data, seed=given.seed, device=torch.device("cpu"))


def seconds_per_epoch(network: str, data: Dataset, given: argparse.Namespace) -> float:
    """Processor time of the training steps of an epoch."""
    one = trainer(network, 1, data, given)
    one.begin_epoch()
    pixels, labels = to_pixels(data.train.images[:128]), data.train.labels[:128]
    for number in range(WARM_UP + TIMED):
        if number == WARM_UP:
            began = time.process_time()
        one.step(pixels, labels)
    return (time.process_time() - began) / TIMED * (len(data.train) // 128)


def measure(network: str, data: Dataset, given: argparse.Namespace) -> common.Row:
    epoch = seconds_per_epoch(network, data, given)
    epochs = max(2, round(given.cpu_seconds / epoch))
    one = trainer(network, epochs, data, given)
    began = time.process_time()
    for _ in range(epochs):
        row = one.epoch()
    return {
        "network": network,
        "weights": f"{count_parameters(build(network, classes=10, channels=3)):,}",
        "million multiply-adds": round(common.multiply_adds(network) / 1e6, 1),
        "epochs": epochs,
        "processor seconds": round(time.process_time() - began),
        "held-out clean, %": round(100 * row["clean"], 2),
        "held-out PGD-20, %": round(100 * row["pgd"], 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a prepared data set, such as data/cifar10")
    parser.add_argument("--cpu-seconds", type=float, default=1000)
    parser.add_argument("--steps", type=int, default=5, help="steps of the inner attack, 12.5/255 in sum")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--networks", default=",".join(CANDIDATES))
    parser.add_argument("--json", type=Path, default=Path("benchmarks/out/laptop_networks.json"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    register()
    data = load(given.data)
    rows = []
    for network in given.networks.split(","):
        rows.append(measure(network, data, given))
        print(f"{network}: done", flush=True)
    about = {**common.machine(torch.device("cpu")), "steps of the inner attack": given.steps, "seed": given.seed}
    about |= {"precision": str(compute_dtype(given.precision, torch.device("cpu"))), "data set": data.name}
    common.write(given.json, {**about, "rows": rows})
    print("\n" + "\n".join(f"{key}: {value}" for key, value in about.items()) + "\n\n" + common.table(rows))


if __name__ == "__main__":
    main()
