"""Compares AutoAttack called directly through pyautoattack with our evaluation: same network, images, batch and seed.

    python benchmarks/evaluation.py

Networks are trained adversarially on scikit-learn's digits for a minute or two, because on an untrained network every
attack ends at once. Ours does more: it counts passes, verifies every claim and can save finished batches. The row
"another seed" says how many verdicts change with the seed alone.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from common import CLASSES, Row, alternating, machine, ratios, table, write
from pyautoattack import AutoAttack
from sklearn.datasets import load_digits
from torch import Tensor, nn

from dynat import models
from dynat.attacks import evaluate
from dynat.attacks.evaluation import batch_seed
from dynat.config import AttackConfig, registry
from dynat.data import LabeledImages, to_pixels
from dynat.nn.losses import cross_entropy
from dynat.pgd import Ball, pgd, starting_point

EPS = 0.15
TEST = 400
"""Images at the end of the data set that are not used for training."""


@dataclass(frozen=True)
class Case:
    """A comparison: a network trained for `epochs`, an attack, the number of images and of rounds."""

    network: str
    epochs: int
    kind: str
    images: int
    rounds: int
    surrogates: tuple[str, ...]
    threads: int = 1


def cases(device: torch.device, tiny: bool) -> list[Case]:
    if tiny:
        return [Case("small", 1, "apgd-ce", 4, 1, ("auto", "float16"))]
    if device.type == "cpu":
        # The small network as in the pipeline's jobs. All of AutoAttack would take an hour on the other.
        return [
            Case("small", 12, "autoattack", 100, 3, ("none", "auto")),
            Case("resnet18", 2, "apgd-ce", 48, 2, ("auto",), threads=torch.get_num_threads()),
        ]
    surrogates = ("none", "float32", "bfloat16", "float16")
    return [
        Case("resnet18", 6, "apgd-ce", TEST, 3, surrogates),
        Case("wrn34-10", 1, "apgd-ce", TEST, 1, surrogates),
        Case("resnet18", 6, "autoattack", 200, 1, ("float16",)),
    ]


def digits(side: int, channels: int) -> LabeledImages:
    source = load_digits()
    images = torch.tensor(source.images / 16).float().unsqueeze(1)
    images = nn.functional.interpolate(images, size=side).expand(-1, channels, -1, -1)
    return LabeledImages((255 * images).round().to(torch.uint8).contiguous(), torch.tensor(source.target))


def trained(name: str, image_set: LabeledImages, device: torch.device, epochs: int) -> nn.Module:
    """Plain adversarial training: robust enough that attacks need many steps."""
    torch.manual_seed(0)
    network = models.build(name, classes=CLASSES, channels=image_set.images.shape[1]).to(device)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=2e-4)
    generator = torch.Generator(device).manual_seed(0)
    steps = 5 if name == "small" or device.type == "cuda" else 2
    for _ in range(epochs):
        for index in torch.randperm(len(image_set), device=device).split(64):
            pixels, labels = to_pixels(image_set.images[index]), image_set.labels[index]

            def objective(logits: Tensor, labels: Tensor = labels) -> Tensor:
                return cross_entropy(logits, labels)

            adversarial = pgd(
                network, pixels, starting_point(pixels, Ball("linf", EPS), "uniform", generator),
                objective=objective, ball=Ball("linf", EPS), steps=steps, step_size=EPS / (steps - 1),
            )  # fmt: skip
            optimizer.zero_grad()
            objective(network.train()(adversarial)).mean().backward()
            optimizer.step()
    return network.eval()


def compare(device: torch.device, tiny: bool, time_left: Callable[[], float] = lambda: 1e9) -> list[Row]:
    """Times and verdicts, a row per case and evaluator; a case that fails or is skipped does not stop the others."""
    rows: list[Row] = []
    networks: dict[tuple[str, int], nn.Module] = {}
    for case in cases(device, tiny):
        if time_left() < 60:
            rows.append({"network": case.network, "attack": case.kind, "by": "skipped: no time left"})
            continue
        torch.set_num_threads(case.threads)
        side, channels = (8, 1) if case.network == "small" else (32, 3)
        image_set = digits(side, channels).to(device)
        key = case.network, case.epochs
        try:
            if key not in networks:
                training_images = image_set[torch.arange(len(image_set) - TEST)]
                networks[key] = trained(case.network, training_images, device, case.epochs)
            test_images = image_set[torch.arange(len(image_set) - case.images, len(image_set))]
            rows += _compare_case(case, networks[key], test_images)
        except Exception as error:
            message = f"FAILED: {type(error).__name__}: {str(error)[:300]}"
            rows.append({"network": case.network, "attack": case.kind, "by": message})
        print(f"{case.network} {case.kind}: done", flush=True)
    return rows


def _compare_case(case: Case, network: nn.Module, image_set: LabeledImages) -> list[Row]:
    pixels, labels = to_pixels(image_set.images), image_set.labels
    attack = AttackConfig(kind=case.kind, eps=EPS, norm="linf", batch=len(image_set))
    correct: dict[str, Tensor] = {}
    evaluations: dict[str, Any] = {}

    def run_pyautoattack(by: str, seed: int) -> None:
        evaluator = AutoAttack(network, norm="Linf", eps=EPS, seed=seed, device=pixels.device)
        evaluator.attacks_to_run = list(registry.attack_parts(case.kind))
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=True):  # torch's defaults
            adversarial, _ = evaluator.run_standard_evaluation(pixels, labels, batch_size=len(image_set))
        with torch.no_grad():
            correct[by] = (network(adversarial).argmax(1) == labels).cpu()

    def run_ours(surrogate: str) -> None:
        # As `dynat attack` sets it: verdicts are computed in float32.
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            evaluations[f"ours, surrogate {surrogate}"] = evaluation = evaluate(
                network, image_set, attack.model_copy(update={"surrogate": surrogate})
            )
        correct[f"ours, surrogate {surrogate}"] = evaluation.columns["correct"]

    work: dict[str, Callable[[], object]] = {
        "pyautoattack": lambda: run_pyautoattack("pyautoattack", batch_seed(attack, 0))
    }
    work |= {
        f"ours, surrogate {surrogate}": lambda surrogate=surrogate: run_ours(surrogate) for surrogate in case.surrogates
    }
    for surrogate in ("none", *case.surrogates):  # libraries choose their kernels
        evaluate(
            network,
            image_set,
            AttackConfig(
                kind="pgd",
                eps=EPS,
                norm="linf",
                steps=5,
                step_size=0.03,
                start="none",
                batch=len(image_set),
                surrogate=surrogate,
            ),
        )
    seconds = alternating(work, pixels.device, rounds=case.rounds)
    speedups = ratios(seconds, "pyautoattack")
    run_pyautoattack("another seed", 1)
    reference = correct["pyautoattack"]
    rows: list[Row] = []
    for by, verdicts in correct.items():
        row: Row = {"network": case.network, "attack": case.kind, "by": by}
        if by in seconds:
            row |= {"s": statistics.median(seconds[by]), "times as fast": speedups[by], "rounds": case.rounds}
        row |= {
            "correct": int(verdicts.sum()),
            "same verdict": f"{int((verdicts == reference).sum())} of {len(labels)}",
        }
        if by in evaluations:
            row |= {"queried model": evaluations[by].queried_model, "attacked again": evaluations[by].reattacked}
        rows.append(row)
    return rows


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--tiny", action="store_true", help="four images, once")
    options.add_argument("--json", type=Path, default=Path("benchmarks/out/evaluation.json"))
    chosen = options.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows = compare(device, chosen.tiny)
    about = {**machine(device), "n": "each way once a round; median, and median of the ratio within a round"}
    write(chosen.json, {**about, "rows": rows})
    print("\n" + "\n".join(f"{key}: {value}" for key, value in about.items()) + "\n\n" + table(rows))


if __name__ == "__main__":
    main()
