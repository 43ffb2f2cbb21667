"""A run handed over: its model card, and the claim that RobustBench's leaderboards are made of.

The card is made of the metrics and configs of the run; where it is silent, they are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from dynat.config.schema import Run
from dynat.config.strict import pixel_fraction
from dynat.report import single, words

LEADERBOARDS = ("cifar10", "cifar100")
"""Data sets for which RobustBench has leaderboards of these balls."""
RADIUS = {"linf": 8 / 255, "l2": 0.5}
"""The radii of its CIFAR leaderboards."""


@dataclass(frozen=True)
class Weights:
    """One seed's network as a file."""

    file: str
    sha256: str
    claim: str | None
    """The file of its claim."""


@dataclass(frozen=True)
class Handed:
    """All that is handed over of a run."""

    metrics: Mapping[str, Any]
    weights: Mapping[int, Weights]
    example: str
    """Lines of Python that load the first seed's network."""
    sources: tuple[str, ...]
    """Files of code that lie beside the weights."""

    @property
    def run(self) -> Run:
        return Run.model_validate(self.metrics["config"])


def to_markdown(handed: Handed) -> str:
    """The card."""
    metrics, data = handed.metrics, handed.metrics["dataset"]
    ball, title = words.ball_of(metrics["threat"]), words.dataset_title(data["name"])
    trained = "Trained elsewhere" if handed.run.method == "external" else words.method_title(handed.run)
    sections = {
        "Results": [single.to_markdown(metrics), _about_results(handed)],
        "Can the examination be believed?": [_bullets(_believed(metrics))],
        "Limits": [_bullets(_limits(handed))],
        "Load it": [f"```python\n{handed.example}\n```", _about_loading(handed)],
        "Files": [_files(handed)],
        "Data": [_about_data(data)],
        "Recipe": [_recipe(handed)],
        "Cost": [_bullets(_cost(metrics))],
        "Environment": [_bullets(_environment(metrics))],
    }
    opening = (
        f"# `{metrics['run']}`: {handed.run.target} on {title}",
        f"{len(data['classes'])} classes, pictures of "
        f"{data['channels']} × {data['size'][0]} × {data['size'][1]}. {trained}. Examined against {ball}.",
    )
    body = [part for name, parts in sections.items() for part in (f"## {name}", *parts)]
    return "\n\n".join([*opening, *body]) + "\n"


def autoattack(metrics: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The AutoAttack on the chosen weights within the threat's ball, on most pictures; None where there is none."""
    threat = metrics["threat"]
    found = [
        cell
        for cell in metrics["attacks"].values()
        if cell["attack"]["kind"] == "autoattack"
        and cell["attack"].get("weights", "best") == "best"
        and cell["attack"]["norm"] == threat["norm"]
        and abs(cell["attack"]["eps"] - threat["eps"]) < 1e-9
    ]
    return max(found, key=lambda cell: int(cell["n"]), default=None)


def claim(metrics: Mapping[str, Any], seed: int) -> dict[str, Any] | None:
    """One seed's numbers in the form of RobustBench's model_info; None without AutoAttack on that seed.

    `link`, `authors` and `venue` are for whoever publishes the network to fill in.
    """
    cell, run = autoattack(metrics), Run.model_validate(metrics["config"])
    clean = next((c for c in metrics["attacks"].values() if c["attack"]["kind"] == "clean"), None)
    if cell is None or clean is None or str(seed) not in cell["per_seed"]:
        return None
    robust = f"{100 * cell['per_seed'][str(seed)]:.2f}"
    eps = metrics["threat"]["eps"]
    return {
        "link": "",
        "name": f"{words.method_title(run)} ({metrics['run']}, seed {seed})",
        "authors": "",
        # Unknown of a network that others trained.
        "additional_data": None if run.method == "external" else False,
        "number_forward_passes": 1,
        "dataset": metrics["dataset"]["name"],
        "venue": "",
        "architecture": architecture(run.target),
        "eps": pixel_fraction(eps) if metrics["threat"]["norm"] == "linf" else f"{eps:g}",
        "clean_acc": f"{100 * clean['per_seed'][str(seed)]:.2f}",
        "reported": robust,
        "autoattack_acc": robust,
        "footnote": f"Robust accuracy on the first {cell['n']:,} of {metrics['dataset']['test']:,} test pictures; "
        f"95% Wilson interval of all seeds {words.interval(cell)}".replace("–", "-"),
        "unreliable": bool(cell["flags"] or single.failed_gates(metrics)),
    }


def architecture(network: str) -> str:
    """A network's name as the literature writes it."""
    if wide := re.fullmatch(r"wrn(\d+)-(\d+)", network):
        return f"WideResNet-{wide[1]}-{wide[2]}"
    return {"resnet18": "ResNet-18", "resnet18-heavy": "ResNet-18 (strides 1,1,2,2)"}.get(network, network)


def _about_results(handed: Handed) -> str:
    several = len(handed.metrics["seeds"]) > 1
    spread = "Mean and standard deviation over seeds; the" if several else "The"
    chosen = "" if handed.run.method == "external" else " No test picture chose anything."
    return (
        f"{spread} interval is Wilson's of the pooled accuracy, with n the number of pictures.{chosen} "
        "CW is PGD on the logit margin within the ball."
    )


def _believed(metrics: Mapping[str, Any]) -> list[str]:
    gates = single.gates(metrics) or ["No validity gates were run on it."]
    quiet = "No attack warned of anything, and every claim held when it was checked again."
    return [*gates, *(single.notices(metrics) or [quiet])]


def _limits(handed: Handed) -> list[str]:
    metrics = handed.metrics
    threat, cell, seeds = metrics["threat"], autoattack(metrics), metrics["seeds"]
    data, tests = metrics["dataset"]["name"], metrics["dataset"]["test"]
    said = [
        f"Examined within {words.ball_of(threat)} and not beyond: other norms and radii, patches, rotations, noise "
        "and other data may all break it.",
        "An accuracy under attack is an upper bound. An attack made for this network may find more.",
    ]
    if cell is None:
        said.append("AutoAttack was not run in this ball. PGD alone often flatters, most of all reweighted methods.")
    elif cell["n"] < tests:
        said.append(
            f"AutoAttack examined the first {cell['n']:,} of {tests:,} test pictures: what it says is "
            f"{words.interval(cell)} %, and not how it compares with attacks on other pictures."
        )
    if failed := single.failed_gates(metrics):
        said.append(f"**Validity gates failed ({', '.join(failed)}): do not quote its robust accuracy.**")
    if any(each["attack"].get("weights") == "last" for each in metrics["attacks"].values()):
        said.append("Rows that say last epoch are about weights that are not handed over.")
    if handed.run.guide:
        said.append("The guide, which labelled pictures in training, is not handed over: the network needs none.")
    if len(seeds) == 1:
        said.append("One seed: how far another training would be off is not known.")
    if data not in LEADERBOARDS:
        claimed = "; the claims are in its form alone" if any(each.claim for each in handed.weights.values()) else ""
        said.append(f"RobustBench has no leaderboard for this data set{claimed}.")
    elif abs(threat["eps"] - RADIUS[threat["norm"]]) > 1e-9:
        usual = pixel_fraction(RADIUS["linf"]) if threat["norm"] == "linf" else f"{RADIUS['l2']:g}"
        said.append(f"RobustBench compares at ε = {usual}; this is another radius.")
    if handed.run.method == "external":
        said.append("Trained elsewhere: what it learned from, and whether test pictures chose it, is not known here.")
    return said


def _about_loading(handed: Handed) -> str:
    data = handed.metrics["dataset"]
    shape = " × ".join(map(str, (data["channels"], *data["size"])))
    classes = ", ".join(map(str, data["classes"][:20])) + (", ..." if len(data["classes"]) > 20 else "")
    beside = words.listing(f"`{file}`" for file in handed.sources)
    verb = "needs" if len(handed.sources) == 1 else "need"
    needs = f"Run it in this folder: {beside} {verb} torch alone." if handed.sources else "The network is a plug-in's."
    return (
        f"{needs} Pictures are float32, N × {shape}, with values in [0,1] and no other normalisation; "
        f"the answer is logits. Classes, in order: {classes}."
    )


def _files(handed: Handed) -> str:
    chosen = handed.metrics["training"]
    rows = [
        f"| `{weights.file}` | {seed} | {chosen[str(seed)]['best_epoch'] or '–'} | "
        f"{f'`{weights.claim}`' if weights.claim else '–'} | `{weights.sha256}` |"
        for seed, weights in handed.weights.items()
    ]
    return "\n".join(["| weights | seed | epoch | claim | SHA-256 |", "|---|---:|---:|---|---|", *rows])


def _about_data(data: Mapping[str, Any]) -> str:
    return (
        f"{words.dataset_title(data['name'])}: {data['train']:,} pictures to learn from, {data['validation']:,} held "
        f"out to choose the epoch, {data['test']:,} to test on. SHA-256 of pictures and labels: `{data['digest']}`."
    )


def _recipe(handed: Handed) -> str:
    config = {key: value for key, value in handed.metrics["config"].items() if value not in (None, {}, [])}
    return f"```yaml\n{yaml.safe_dump(config, sort_keys=False, allow_unicode=True).strip()}\n```"


def _cost(metrics: Mapping[str, Any]) -> list[str]:
    said = [
        f"Training, seed {seed}: {words.duration(t['seconds'])} for {words.count(t['epochs'], 'epoch')} on "
        f"{t['machine']}; {t['parameters']['target']:,} weights"
        for seed, t in metrics["training"].items()
        if t["epochs"]
    ]
    for name, cell in metrics["attacks"].items():
        cost, pictures = cell["cost"], cell["n"] * len(cell["seeds"])
        said.append(
            f"{words.column_title(name)}: {words.duration(cost['seconds'])} on {cost['device']}; per picture "
            f"{cost['forward_passes'] / pictures:,.0f} forward and "
            f"{cost['backward_passes'] / pictures:,.0f} backward passes"
        )
    return said


def _environment(metrics: Mapping[str, Any]) -> list[str]:
    return [
        f"Seed {seed}: {', '.join(map(' '.join, t['versions'].items()))}; digest `{t['digest']}`"
        for seed, t in metrics["training"].items()
    ]


def _bullets(texts: list[str]) -> str:
    return "\n".join(f"* {text}" for text in texts)
