"""AutoAttack by pyautoattack itself beside our examination: the same trained network, pictures, batch and seed.

    python benchmarks/exam.py

Networks learn scikit-learn's digits adversarially for a minute or two, because on a network that nobody trained every
attack ends at once. Ours does more: it counts passes, verifies every claim and would keep finished batches. A row
"another seed" says how many verdicts chance alone moves.
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
from dynat.attacks import examine
from dynat.attacks.examine import batch_seed
from dynat.config import Attack, names
from dynat.data import Pictures, to_pixels
from dynat.inner import Ball, maximise
from dynat.losses import cross_entropy

EPS = 0.15
TEST = 400
"""The last so many pictures are never trained on."""


@dataclass(frozen=True)
class Case:
    """What is compared: a network after so many epochs, an attack, so many pictures, so many rounds."""

    network: str
    epochs: int
    kind: str
    pictures: int
    rounds: int
    views: tuple[str, ...]
    threads: int = 1


def cases(device: torch.device, tiny: bool) -> list[Case]:
    if tiny:
        return [Case("small", 1, "apgd-ce", 4, 1, ("auto", "float16"))]
    if device.type == "cpu":
        # The small one as the pipeline's jobs run it. AutoAttack whole would take the other an hour.
        return [
            Case("small", 12, "autoattack", 100, 3, ("none", "auto")),
            Case("resnet18", 2, "apgd-ce", 48, 2, ("auto",), threads=torch.get_num_threads()),
        ]
    views = ("none", "float32", "bfloat16", "float16")
    return [
        Case("resnet18", 6, "apgd-ce", TEST, 3, views),
        Case("wrn34-10", 1, "apgd-ce", TEST, 1, views),
        Case("resnet18", 6, "autoattack", 200, 1, ("float16",)),
    ]


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
    steps = 5 if name == "small" or device.type == "cuda" else 2
    for _ in range(epochs):
        for index in torch.randperm(len(pictures), device=device).split(64):
            pixels, labels = to_pixels(pictures.images[index]), pictures.labels[index]

            def objective(logits: Tensor, labels: Tensor = labels) -> Tensor:
                return cross_entropy(logits, labels)

            found = maximise(
                network, pixels, objective=objective, ball=Ball("linf", EPS), steps=steps, step_size=EPS / (steps - 1),
                start="uniform", generator=generator,
            )  # fmt: skip
            optimiser.zero_grad()
            objective(network.train()(found)).mean().backward()
            optimiser.step()
    return network.eval()


def compare(device: torch.device, tiny: bool, time_left: Callable[[], float] = lambda: 1e9) -> list[Row]:
    """Times and verdicts, a row per case and way; a case that fails or finds no time left costs no other."""
    rows: list[Row] = []
    networks: dict[tuple[str, int], nn.Module] = {}
    for case in cases(device, tiny):
        if time_left() < 60:
            rows.append({"network": case.network, "attack": case.kind, "by": "skipped: no time left"})
            continue
        torch.set_num_threads(case.threads)
        side, channels = (8, 1) if case.network == "small" else (32, 3)
        pictures = digits(side, channels).to(device)
        key = case.network, case.epochs
        try:
            if key not in networks:
                taught = pictures[torch.arange(len(pictures) - TEST)]
                networks[key] = trained(case.network, taught, device, case.epochs)
            shown = pictures[torch.arange(len(pictures) - case.pictures, len(pictures))]
            rows += _beside(case, networks[key], shown)
        except Exception as error:
            said = f"FAILED: {type(error).__name__}: {str(error)[:300]}"
            rows.append({"network": case.network, "attack": case.kind, "by": said})
        print(f"{case.network} {case.kind}: done", flush=True)
    return rows


def _beside(case: Case, network: nn.Module, pictures: Pictures) -> list[Row]:
    pixels, labels = to_pixels(pictures.images), pictures.labels
    attack = Attack(kind=case.kind, eps=EPS, norm="linf", batch=len(pictures))
    stands: dict[str, Tensor] = {}
    seen: dict[str, Any] = {}

    def plain(by: str, seed: int) -> None:
        examiner = AutoAttack(network, norm="Linf", eps=EPS, seed=seed, device=pixels.device)
        examiner.attacks_to_run = list(names.attack_parts(case.kind))
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=True):  # torch's defaults
            found, _ = examiner.run_standard_evaluation(pixels, labels, batch_size=len(pictures))
        with torch.no_grad():
            stands[by] = (network(found).argmax(1) == labels).cpu()

    def ours(view: str) -> None:
        # As `dynat exam` sets it: float32 is what the verdict is made in.
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            seen[f"ours, view {view}"] = exam = examine(network, pictures, attack.model_copy(update={"view": view}))
        stands[f"ours, view {view}"] = exam.columns["correct"]

    work: dict[str, Callable[[], object]] = {"pyautoattack": lambda: plain("pyautoattack", batch_seed(attack, 0))}
    work |= {f"ours, view {view}": lambda view=view: ours(view) for view in case.views}
    for view in ("none", *case.views):  # libraries choose their kernels
        examine(
            network,
            pictures,
            Attack(
                kind="pgd", eps=EPS, norm="linf", steps=5, step_size=0.03, start="none", batch=len(pictures), view=view
            ),
        )
    seconds = alternating(work, pixels.device, rounds=case.rounds)
    faster = ratios(seconds, "pyautoattack")
    plain("another seed", 1)
    reference = stands["pyautoattack"]
    rows: list[Row] = []
    for by, verdicts in stands.items():
        row: Row = {"network": case.network, "attack": case.kind, "by": by}
        if by in seconds:
            row |= {"s": statistics.median(seconds[by]), "times as fast": faster[by], "rounds": case.rounds}
        row |= {"stand": int(verdicts.sum()), "same verdict": f"{int((verdicts == reference).sum())} of {len(labels)}"}
        if by in seen:
            row |= {"asked": seen[by].asked, "again": seen[by].attacked_again}
        rows.append(row)
    return rows


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--tiny", action="store_true", help="four pictures, once")
    options.add_argument("--json", type=Path, default=Path("benchmarks/out/exam.json"))
    chosen = options.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows = compare(device, chosen.tiny)
    about = {**machine(device), "n": "each way once a round; median, and median of the ratio within a round"}
    write(chosen.json, {**about, "rows": rows})
    print("\n" + "\n".join(f"{key}: {value}" for key, value in about.items()) + "\n\n" + table(rows))


if __name__ == "__main__":
    main()
