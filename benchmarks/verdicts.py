"""Whether a surrogate changes a verdict: every run of a finished preset attacked with and without one.

    make run && python benchmarks/verdicts.py
    python benchmarks/verdicts.py --preset cifar10-resnet18 --attacks pgd-20,autoattack-1000

The last rows say how many verdicts another seed of the attack changes: the scale for judging a difference.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import torch
from common import Row, machine, table, write
from torch import nn
from tqdm import tqdm

from dynat.attacks import Evaluation, evaluate
from dynat.config import AttackConfig, load
from dynat.data import LabeledImages
from dynat.jobs.evaluation import Evaluator
from dynat.results.paths import Paths

VARIANTS: dict[str, dict[str, object]] = {
    "float32": {"surrogate": "float32"},
    "float16": {"surrogate": "float16"},
    "bfloat16": {"surrogate": "bfloat16"},
    "another seed": {"surrogate": "none", "seed": 1},
}


def evaluate_with(
    network: nn.Module, image_set: LabeledImages, attack: AttackConfig, changes: Mapping[str, object]
) -> Evaluation:
    """The attack with these changes; fails where another model than the requested surrogate was queried."""
    evaluation = evaluate(network, image_set, attack.model_copy(update=changes))
    surrogate = changes["surrogate"]
    expected = "network" if surrogate == "none" else f"{surrogate} surrogate"
    assert evaluation.queried_model == expected, evaluation.queried_model
    return evaluation


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--preset", default="digits")
    options.add_argument("--attacks", help="separated by commas; by default all of the preset except clean")
    options.add_argument("--device", default="auto")
    options.add_argument("--json", type=Path, default=Path("benchmarks/out/verdicts.json"))
    chosen = options.parse_args()
    experiment = load({"preset": chosen.preset})
    attacks = chosen.attacks.split(",") if chosen.attacks else [name for name in experiment.attacks if name != "clean"]
    evaluator = Evaluator.of(chosen.preset, experiment.dataset.name, Paths(), chosen.device)
    if evaluator.device.type == "cpu":
        torch.set_num_threads(1)
    networks = [(row, seed) for row in experiment.rows for seed in experiment.seeds[row]]
    table_rows: dict[tuple[str, str], Row] = {}
    for name, seed in tqdm(networks):
        network, _ = evaluator.network(name, seed)
        for attack_name in attacks:
            attack = experiment.evaluation(name, attack_name).attack
            without = evaluate_with(network, evaluator.images, attack, {"surrogate": "none"}).columns["correct"]
            for variant, changes in VARIANTS.items():
                evaluation = evaluate_with(network, evaluator.images, attack, changes)
                correct = evaluation.columns["correct"]
                key = (variant, attack_name)
                row = table_rows.setdefault(key, defaultdict(int, {"surrogate": variant, "attack": attack_name}))
                row["images"] += len(without)
                row["correct without"] += int(without.sum())
                row["correct with"] += int(correct.sum())
                row["correct only with"] += int((correct & ~without).sum())
                row["correct only without"] += int((without & ~correct).sum())
                row["attacked again"] += evaluation.reattacked
    ordered = [table_rows[variant, attack_name] for variant in VARIANTS for attack_name in attacks]
    about = {**machine(evaluator.device), "preset": chosen.preset, "networks": len(networks)}
    write(chosen.json, {**about, "rows": ordered})
    print("\n" + "\n".join(f"{key}: {value}" for key, value in about.items()) + "\n\n" + table(ordered))


if __name__ == "__main__":
    main()
