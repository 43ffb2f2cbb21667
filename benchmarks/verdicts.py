"""Whether a view changes a verdict: every run of a finished preset attacked with and without one, picture by picture.

    make run && python benchmarks/verdicts.py
    python benchmarks/verdicts.py --preset cifar10-resnet18 --attacks pgd-20,autoattack-1000

The last rows say how many verdicts another seed of the attack moves, which is what a difference is held against.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import torch
from common import Row, machine, table, write
from torch import Tensor
from tqdm import tqdm

from dynat.attacks import examine
from dynat.config import load
from dynat.jobs.exam import Examiner
from dynat.places import Places

WAYS = {
    "float32": {"view": "float32"},
    "float16": {"view": "float16"},
    "bfloat16": {"view": "bfloat16"},
    "another seed": {"view": "none", "seed": 1},
}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--preset", default="digits")
    options.add_argument("--attacks", help="with commas; all of the preset but clean where not given")
    options.add_argument("--device", default="auto")
    options.add_argument("--json", type=Path, default=Path("benchmarks/out/verdicts.json"))
    chosen = options.parse_args()
    experiment = load({"preset": chosen.preset})
    names = chosen.attacks.split(",") if chosen.attacks else [name for name in experiment.attacks if name != "clean"]
    examiner = Examiner.of(chosen.preset, experiment.dataset.name, Places(), chosen.device)
    if examiner.device.type == "cpu":
        torch.set_num_threads(1)
    pairs = [(run, seed) for run in experiment.runs for seed in experiment.seeds[run]]
    rows: dict[tuple[str, str], Row] = {}
    for run, seed in tqdm(pairs):
        network, _ = examiner.network(run, seed)
        for name in names:
            attack = experiment.exam(run, name).attack

            def verdicts(**changes: object) -> tuple[Tensor, int]:
                exam = examine(network, examiner.pictures, attack.model_copy(update=changes))  # noqa: B023
                assert exam.asked == ("network" if changes["view"] == "none" else f"{changes['view']} view"), exam.asked
                return exam.columns["correct"], exam.attacked_again

            alone, _ = verdicts(view="none")
            for way, changes in WAYS.items():
                seen, again = verdicts(**changes)
                row = rows.setdefault((way, name), defaultdict(int, {"view": way, "attack": name}))
                row["pictures"] += len(alone)
                row["stand without"] += int(alone.sum())
                row["stand with"] += int(seen.sum())
                row["stands only with"] += int((seen & ~alone).sum())
                row["stands only without"] += int((alone & ~seen).sum())
                row["attacked again"] += again
    found = [rows[way, name] for way in WAYS for name in names]
    about = {**machine(examiner.device), "preset": chosen.preset, "networks": len(pairs)}
    write(chosen.json, {**about, "rows": found})
    print("\n" + "\n".join(f"{key}: {value}" for key, value in about.items()) + "\n\n" + table(found))


if __name__ == "__main__":
    main()
