"""AutoAttack by pyautoattack itself beside our examination: the same trained network, pictures, batch and seed.

    python benchmarks/exam.py

The network learns scikit-learn's digits adversarially for a minute at most, because on a network that nobody trained
every attack ends at once. Ours does more: it counts passes, verifies every claim and would keep finished batches.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import torch
from common import CLASSES, Row, alternating, machine, ratios, table, write
from pyautoattack import AutoAttack
from sklearn.datasets import load_digits
from torch import Tensor, nn

from dynat import models
from dynat.attacks import examine
from dynat.attacks.examine import batch_seed
from dynat.config import Attack
from dynat.data import Pictures, to_pixels
from dynat.inner import Ball, maximise
from dynat.losses import cross_entropy
from dynat.training.searched import Searched

EPS = 0.15
TEST = 400
"""The last so many pictures are never trained on."""


def digits(side: int, channels: int) -> Pictures:
    found = load_digits()
    images = torch.tensor(found.images / 16).float().unsqueeze(1)
    images = nn.functional.interpolate(images, size=side).expand(-1, channels, -1, -1)
    return Pictures((255 * images).round().to(torch.uint8).contiguous(), torch.tensor(found.target))


def trained(name: str, pictures: Pictures, device: torch.device, epochs: int) -> nn.Module:
    """Adversarial training at its plainest: robust enough that attacks have work to do."""
    torch.manual_seed(0)
    network = models.build(name, classes=CLASSES, channels=pictures.images.shape[1]).to(device)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=2e-4)
    generator = torch.Generator(device).manual_seed(0)
    for _ in range(epochs):
        for index in torch.randperm(len(pictures), device=device).split(64):
            pixels, labels = to_pixels(pictures.images[index]), pictures.labels[index]

            def objective(logits: Tensor, labels: Tensor = labels) -> Tensor:
                return cross_entropy(logits, labels)

            found = maximise(
                network, pixels, objective=objective, ball=Ball("linf", EPS), steps=5, step_size=0.05,
                start="uniform", generator=generator,
            )  # fmt: skip
            optimiser.zero_grad()
            objective(network.train()(found)).mean().backward()
            optimiser.step()
    return network.eval()


def compare(device: torch.device, tiny: bool) -> list[Row]:
    """Times and verdicts, a row per network and way."""
    rows: list[Row] = []
    for name in ["small"] if tiny or device.type == "cpu" else ["small", "resnet18"]:
        side, channels = (8, 1) if name == "small" else (32, 3)
        pictures = digits(side, channels).to(device)
        network = trained(name, pictures[torch.arange(len(pictures) - TEST)], device, epochs=1 if tiny else 12)
        count = 4 if tiny else 50 if device.type == "cpu" else TEST
        rows += _beside(
            name, network, pictures[torch.arange(len(pictures) - count, len(pictures))], rounds=1 if tiny else 3
        )
    return rows


def _beside(name: str, network: nn.Module, pictures: Pictures, rounds: int) -> list[Row]:
    pixels, labels = to_pixels(pictures.images), pictures.labels
    attack = Attack(kind="autoattack", eps=EPS, norm="linf", batch=len(pictures))
    stands: dict[str, Any] = {}

    view = Searched(network, torch.float32)
    view.refresh(network)

    def plain(by: str = "pyautoattack", asked: nn.Module = network) -> None:
        examiner = AutoAttack(asked, norm="Linf", eps=EPS, seed=batch_seed(attack, 0), device=pixels.device)
        found, _ = examiner.run_standard_evaluation(pixels, labels, batch_size=len(pictures))
        with torch.no_grad():
            stands[by] = (network(found).argmax(1) == labels).cpu()

    def ours() -> None:
        stands["ours"] = examine(network, pictures, attack).columns["correct"]

    def folded() -> None:
        plain("pyautoattack, folded view", view)

    ways = {"pyautoattack": plain, "ours": ours, "pyautoattack, folded view": folded}
    seconds = alternating(ways, pixels.device, rounds=rounds)
    faster = ratios(seconds, "pyautoattack")
    return [
        {
            "network": name,
            "by": by,
            "s": statistics.median(values),
            "times as fast": faster[by],
            "stand": int(stands[by].sum()),
            "same verdict": f"{int((stands[by] == stands['pyautoattack']).sum())} of {len(labels)}",
            "n": rounds,
        }
        for by, values in seconds.items()
    ]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--tiny", action="store_true", help="four pictures, once")
    options.add_argument("--json", type=Path, default=Path("benchmarks/out/exam.json"))
    chosen = options.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(1)  # as the pipeline's jobs on small networks run
    rows = compare(device, chosen.tiny)
    about = {**machine(device), "n": "each way once a round; median, and median of the ratio within a round"}
    write(chosen.json, {**about, "rows": rows})
    print("\n" + "\n".join(f"{key}: {value}" for key, value in about.items()) + "\n\n" + table(rows))


if __name__ == "__main__":
    main()
