"""Compares our attacks and training steps with those of torchattacks, foolbox, pyautoattack and the released code.

    python benchmarks/libraries.py                                       # on the digits networks of `make run`
    python benchmarks/libraries.py --run results/cifar10-laptop/at/seed0 --images 1000 --data data/cifar10-jpeg

Same network, images, radius, steps and batch; in each round every implementation runs once. Ours attacks correctly
classified images only, which saves time, and verifies every adversarial image with the plain network, which costs time.
"correct" counts the images that are correct after the attack, judged by the network itself for every library.

Neither torchattacks nor foolbox has PGD on the margin loss (CW-20); for foolbox, it is its PGD in a subclass with
another loss. The AutoAttack of torchattacks does 10 steps where the original does 100; here it is put together from its
parts with 100 steps.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import foolbox
import torch
import torchattacks
from common import CLASSES, Row, alternating, machine, noise_data, ratios, table, write
from eagerpy import astensor
from pyautoattack import AutoAttack
from released_steps import at_step, trades_step
from torch import Tensor, nn

from dynat import api, data, models
from dynat.attacks import evaluate
from dynat.config import Run, ThreatModel, registry
from dynat.config.resolve import resolve_attack
from dynat.config.training import InnerAttack
from dynat.data import LabeledImages, to_pixels
from dynat.training.trainer import Trainer

Attack = Callable[..., Tensor]
STEPS = 20


class MarginPGD(foolbox.attacks.LinfProjectedGradientDescentAttack):
    """foolbox's PGD that raises the largest wrong logit above the true one."""

    def get_loss_fn(self, model: Any, labels: Any) -> Callable[[Any], Any]:
        def loss(inputs: Any) -> Any:
            logits = model(inputs).raw
            true = logits.gather(1, labels.raw[:, None])[:, 0]
            other = logits.scatter(1, labels.raw[:, None], -torch.inf).amax(1)
            return astensor(other - true).sum()

        return loss


def foolbox_attack(attack: Any, eps: float) -> Attack:
    def run(network: nn.Module, pixels: Tensor, labels: Tensor) -> Tensor:
        model = foolbox.PyTorchModel(network, bounds=(0, 1), device=pixels.device)
        adversarial: Tensor = attack(model, pixels, labels, epsilons=eps)[1]
        return adversarial

    return run


def pyautoattack_attack(eps: float, parts: tuple[str, ...]) -> Attack:
    def run(network: nn.Module, pixels: Tensor, labels: Tensor) -> Tensor:
        evaluator = AutoAttack(network, norm="Linf", eps=eps, seed=0, device=pixels.device)
        evaluator.attacks_to_run = list(parts)
        adversarial: Tensor = evaluator.run_standard_evaluation(pixels, labels, batch_size=len(pixels))[0]
        return adversarial

    return run


def attacks_of(kind: str, eps: float) -> dict[str, Attack]:
    """The other implementations of an attack, by library."""
    step = eps / 4
    if kind == "pgd":
        return {
            "torchattacks": lambda network, x, y: torchattacks.PGD(network, eps=eps, alpha=step, steps=STEPS)(x, y),
            "foolbox": foolbox_attack(foolbox.attacks.LinfPGD(abs_stepsize=step, steps=STEPS), eps),
        }
    if kind == "cw":
        return {"foolbox": foolbox_attack(MarginPGD(abs_stepsize=step, steps=STEPS), eps)}
    return {
        "pyautoattack": pyautoattack_attack(eps, registry.attack_parts(kind)),
        "torchattacks": lambda network, x, y: torchattacks_autoattack(network, eps)(x, y),
    }


def torchattacks_autoattack(network: nn.Module, eps: float) -> Attack:
    settings: dict[str, Any] = {"norm": "Linf", "eps": eps, "seed": 0}
    parts = [
        torchattacks.APGD(network, steps=100, **settings),
        torchattacks.APGDT(network, steps=100, n_classes=CLASSES, **settings),
        torchattacks.FAB(network, steps=100, n_classes=CLASSES, multi_targeted=True, **settings),
        torchattacks.Square(network, n_queries=5000, **settings),
    ]
    attack: Attack = torchattacks.MultiAttack(parts)
    return attack


def compare_attack(
    network: nn.Module, image_set: LabeledImages, kind: str, eps: float, batch: int, rounds: int
) -> list[Row]:
    """A row per implementation: seconds, how many times as fast ours is, and the images that stay correct."""
    correct: dict[str, Tensor] = {}
    steps = {"steps": STEPS} if kind in ("pgd", "cw") else {}
    ours = resolve_attack("ours", {"kind": kind, "batch": batch, **steps}, ThreatModel(eps=eps))

    def run_ours() -> None:
        correct["dynat"] = evaluate(network, image_set, ours).columns["correct"]

    def run_other(name: str, attack: Attack) -> None:
        kept = []
        for images, labels in image_set.batches(batch):
            adversarial = attack(network, to_pixels(images), labels)
            with torch.no_grad():
                kept.append(network(adversarial).argmax(1) == labels)
        correct[name] = torch.cat(kept)

    work: dict[str, Callable[[], object]] = {"dynat": run_ours}
    for name, attack in attacks_of(kind, eps).items():
        work[name] = lambda name=name, attack=attack: run_other(name, attack)
    for call in work.values() if kind in ("pgd", "cw") else ():  # libraries choose their kernels
        call()
    seconds = alternating(work, torch.device("cpu"), rounds=rounds, clock=time.process_time)
    return [
        {
            "attack": f"{kind}-{STEPS}" if steps else kind,
            "by": name,
            "s": statistics.median(values),
            "dynat is faster by": statistics.median(a / b for a, b in zip(values, seconds["dynat"], strict=True)),
            "correct": f"{int(correct[name].sum())} of {len(image_set)}",
            "rounds": rounds,
        }
        for name, values in seconds.items()
    ]


def compare_steps(name: str, batch: int, rounds: int) -> list[Row]:
    """The training steps of AT and TRADES against the released ones, in float32, on random images."""
    batch_of_images = noise_data(batch).train
    x, y = to_pixels(batch_of_images.images), batch_of_images.labels
    rows: list[Row] = []
    for method, released in (("at", at_step), ("trades", trades_step)):
        network = models.build(name, classes=CLASSES, channels=3)
        optimizer = torch.optim.SGD(network.parameters(), 0.01, 0.9, weight_decay=2e-4)
        run = Run.model_validate(
            {"method": method, "target": name, "batch": batch, "precision": "float32"}
            | {"inner": InnerAttack(eps=0.031, steps=10, step_size=0.007)}
            | ({"consistency": 6.0} if method == "trades" else {})
        )
        trainer = Trainer(run, ThreatModel(eps=0.031), noise_data(2 * batch), seed=0, device=torch.device("cpu"))
        trainer.begin_epoch()
        work: dict[str, Callable[[], object]] = {
            "released": lambda released=released, network=network, optimizer=optimizer: released(
                network, optimizer, x, y
            ),
            "dynat": lambda trainer=trainer: trainer.step(x, y),
        }
        for call in work.values():
            call()
        seconds = alternating(work, torch.device("cpu"), rounds=rounds, clock=time.process_time)
        faster = ratios(seconds, "released")["dynat"]
        for by, values in seconds.items():
            row: Row = {"step": method, "network": name, "by": by, "ms": 1e3 * statistics.median(values)}
            rows.append({**row, "dynat is faster by": faster if by == "released" else 1.0, "rounds": rounds})
    return rows


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--run", type=Path, nargs="+", help="folders of trained seeds, or files of weights",
                         default=[Path("results/digits/at/seed0"), Path("results/digits/natural/seed0")])  # fmt: skip
    options.add_argument("--arch", help="network of a file of weights")
    options.add_argument("--data", type=Path, default=Path("data/digits"), help="their prepared data set")
    options.add_argument("--eps", type=float, default=0.15)
    options.add_argument("--images", type=int, default=200, help="the first test images")
    options.add_argument("--autoattack-images", type=int, default=50)
    options.add_argument("--batch", type=int, default=100)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--step-networks", nargs="*", default=["resnet8-32"], help="networks of the training steps")
    options.add_argument("--json", type=Path, default=Path("benchmarks/out/libraries.json"))
    chosen = options.parse_args()
    torch.set_num_threads(1)  # the libraries' speed does not depend on how they share cores
    dataset = data.load(chosen.data)
    test = dataset.test
    shape = {"classes": len(dataset.classes), "channels": dataset.channels}
    rows: list[Row] = []
    for folder in chosen.run:
        network = api.load(folder) if folder.is_dir() else api.load(folder, arch=chosen.arch, **shape)
        for kind, images, rounds in (
            ("pgd", chosen.images, chosen.rounds),
            ("cw", chosen.images, chosen.rounds),
            ("autoattack", chosen.autoattack_images, 1),
        ):
            for row in compare_attack(network, test.first(images), kind, chosen.eps, chosen.batch, rounds):
                rows.append({"weights": "/".join(folder.parts[-3:]), **row})
                print(table([rows[-1]]), flush=True)
    steps = [row for name in chosen.step_networks for row in compare_steps(name, chosen.batch, chosen.rounds)]
    about = {**machine(torch.device("cpu")), "eps": chosen.eps, "batch": chosen.batch}
    about |= {"n": "each once a round: median processor seconds of one thread, and median of the ratio within a round"}
    write(chosen.json, {**about, "rows": rows, "steps": steps})
    print("\n" + "\n".join(f"{key}: {value}" for key, value in about.items()))
    print("\n" + table(rows) + "\n\n" + table(steps))


if __name__ == "__main__":
    main()
