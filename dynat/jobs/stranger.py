"""Anybody's checkpoint examined in one call: adopted, attacked, counted, in a folder like that of a run.

    <out>/table.md                                what is printed
    <out>/metrics.json                            the same, unrounded
    <out>/outcomes/<attack>.csv, .json            a row per picture; what the attack was and cost
    <out>/seed0/target.safetensors, config.json   the network, its pixels in [0,1]
    <out>/experiment.json                         what was asked for

A file of weights does not say everything about its network, so the clean accuracy comes first, and what is odd
about it is said before an hour of attacks.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dynat import data, models
from dynat.attacks import examine
from dynat.config import Attack, ConfigError, Experiment, load, names
from dynat.config.attacks import Probing
from dynat.config.load import PRESETS, of_content
from dynat.config.strict import nearest
from dynat.files import atomic_text
from dynat.jobs.adoption import digest_of, run_adoption
from dynat.jobs.exam import run_exam
from dynat.jobs.probe import run_probe
from dynat.jobs.terminal import choose_device
from dynat.places import Places

COMPARED = 200
"""Pictures on which networks are compared that a file of weights cannot tell apart."""

Say = Callable[[str], None]


class OneFolder(Places):
    """One run alone, in a folder of its own."""

    def run(self, preset: str, name: str) -> Path:  # noqa: ARG002
        return self.results


@dataclass(frozen=True)
class Question:
    """What somebody wants to know about a file of weights."""

    checkpoint: Path
    network: str
    dataset: str
    attacks: tuple[str, ...]
    threat: Mapping[str, Any]
    settings: Mapping[str, Any]
    """Settings of every attack: pictures, batch, view."""
    standard: Mapping[str, Any]
    """mean and std, where the network wants standardised pixels and the file does not say so."""
    expected: float | None = None
    """The clean accuracy, in percent, that its authors report."""
    gates: bool = False
    """Whether the examination is to be examined too, by many small attacks."""


def examine_checkpoint(
    question: Question, *, name: str, places: OneFolder, device: str = "auto", say: Say = print
) -> Path:
    """Answer `question` into `places.results`, going on where an interrupted call stopped; the table's file."""
    choose_device(device)
    experiment = of_content(_content(question, name, places), name)
    if not question.checkpoint.is_file():
        raise ValueError(f"{question.checkpoint}: no such checkpoint")
    _refuse_other_work(experiment, name, question, places)
    if not (places.pictures(question.dataset) / data.INFO).exists():
        say(f"{question.dataset}: prepared in {data.prepare(experiment.dataset, places.data)}")
    atomic_text(places.results / "experiment.json", experiment.model_dump_json(indent=2) + "\n")
    run_adoption(experiment.training(name), places=places, say=say)
    warnings: list[str] = []
    for attack in experiment.attacks:
        run_exam(experiment.exam(name, attack), places=places, device=device, say=say)
        if attack == "clean":
            warnings = [*_doubts(question, places, name), *_twins(question, places, device)]
            for warning in warnings:
                say(f"warning: {warning}")
    # Gates of an earlier question would pass for those of this one; verdicts that it shares are kept as state.
    for file in (probes := places.probes("", name), probes.with_suffix(".json")):
        file.unlink(missing_ok=True)
    if question.gates:
        run_probe(experiment.probe(name), places=places, device=device, say=say)
    return _tell(experiment, warnings, places.results, say)


def _content(question: Question, name: str, places: Places) -> dict[str, Any]:
    """The question in the words of a preset, so that it is checked like one."""
    wanted = dict.fromkeys(("clean", *question.attacks))
    most = Probing().pictures
    return {
        "dataset": _dataset(question.dataset, places),
        "threat": question.threat,
        "external": {name: {"checkpoint": str(question.checkpoint), "network": question.network, **question.standard}},
        "attacks": {attack: dict(question.settings) for attack in wanted},
        "probing": {
            "pictures": min(most, question.settings.get("pictures", most)),
            "view": question.settings.get("view", "auto"),
        },
    }


def _dataset(name: str, places: Places) -> dict[str, Any]:
    """A prepared folder, or what a preset says of a data set of this name, to be prepared in the same way."""
    folder = places.pictures(name)
    if (folder / data.INFO).exists():
        info = json.loads((folder / data.INFO).read_text())
        if info["source"] != "folder" and info["source"] in names.SOURCES:
            return {"name": name, "source": info["source"]}
        return {"name": name, "source": "folder", "path": str(folder), "size": info["shape"][1]}
    known: dict[str, dict[str, Any]] = {}
    for file in sorted(PRESETS.glob("*.yaml")):
        dataset = load({"preset": file.stem}).dataset
        known.setdefault(dataset.name, dataset.model_dump(exclude_none=True))
    if name not in known:
        raise ConfigError(f"--dataset: unknown data set '{name}', and there is no {folder}: {nearest(name, known)}")
    return known[name]


def _refuse_other_work(experiment: Experiment, name: str, question: Question, places: OneFolder) -> None:
    """A folder holds one examined checkpoint; verdicts of two must not lie side by side."""
    folder = places.results
    if not folder.exists() or not any(folder.iterdir()):
        return
    file = folder / "experiment.json"
    if not file.exists():
        raise ValueError(f"{folder}: holds something else; name an empty or a new folder with --out")
    before, config = Experiment.model_validate_json(file.read_text()), places.seed("", name, 0) / "config.json"
    if not config.exists():  # stopped before there was anything
        return
    old, new = before.runs.get(name), experiment.runs[name]
    same_network = old is not None and (old.target, old.options) == (new.target, new.options)
    same_pictures = before.dataset.name == experiment.dataset.name
    same_file = json.loads(config.read_text())["digest"] == digest_of(question.checkpoint)
    if not (same_network and same_pictures and same_file):
        raise ValueError(
            f"{folder}: holds the examination of another checkpoint, network or data set; name another with --out"
        )


def _doubts(question: Question, places: OneFolder, name: str) -> list[str]:
    """What the clean accuracy gives reason to doubt."""
    from dynat.report.metrics import summary
    from dynat.report.outcomes import read_outcome
    from dynat.report.statistics import wilson

    clean = read_outcome(places.run("", name), "clean").verdicts
    found = summary(clean)
    classes = len(json.loads((places.seed("", name, 0) / "config.json").read_text())["dataset"]["classes"])
    said = f"clean accuracy {100 * found['accuracy']:.1f} % on {found['n']:,} pictures"
    causes = "another --arch (strides are not in a file), --mean and --std, another order of the classes"
    doubts = []
    if found["low"] <= 1.5 / classes:
        doubts.append(f"{said} is near chance ({100 / classes:.1f} %). Likely causes: {causes}")
    if question.expected is not None:
        low, high = wilson(found["accuracy"] * found["n"], found["n"], confidence=0.99)
        if not low <= question.expected / 100 <= high:
            doubts.append(
                f"{said} is not the {question.expected:g} % expected (99 % interval {100 * low:.1f} to "
                f"{100 * high:.1f}). Likely causes: {causes}, other pictures"
            )
    return doubts


def _twins(question: Question, places: OneFolder, device: str) -> list[str]:
    """Networks with the same names and shapes that do better on clean pictures: then the wrong one was named."""
    from dynat.report.statistics import mcnemar

    folder = places.seed("", "", 0)
    config = json.loads((folder / "config.json").read_text())
    twins = [other for other in names.NETWORKS if other != question.network and alike(other, question.network, config)]
    if not twins:
        return []
    chosen = choose_device(device)
    pictures = data.load(places.pictures(question.dataset)).test.first(COMPARED).to(chosen)
    plain = Attack(kind="clean", norm="linf", eps=0.5)

    def right(network: str) -> torch.Tensor:
        model = _as(network, config)
        models.load_weights(model, folder / "target.safetensors")
        return examine(model.to(chosen), pictures, plain).columns["correct"]

    own = right(question.network)
    better = []
    for twin in twins:
        other = right(twin)
        if other.sum() > own.sum() and mcnemar(own.numpy(), other.numpy()).p < 0.01:
            better.append(
                f"the same file as {twin} gets {int(other.sum())} of {len(own)} clean pictures right and as "
                f"{question.network} only {int(own.sum())}: is it --arch {twin}?"
            )
    return better


def alike(one: str, other: str, config: Mapping[str, Any]) -> bool:
    """Whether a file of weights fits both."""
    if "<" in one:  # a family: its depth and width are in the shapes
        return False
    return _shapes(one, config) == _shapes(other, config)


def _as(network: str, config: Mapping[str, Any]) -> nn.Module:
    return models.published({**config, "run": {**config["run"], "target": network}})


def _shapes(network: str, config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        state = _as(network, config).state_dict()
    return {name: tuple(value.shape) for name, value in state.items()}


def _tell(experiment: Experiment, warnings: list[str], folder: Path, say: Say) -> Path:
    """Count what the outcomes say, and print and keep it."""
    from dynat.report import single, words, write_metrics
    from dynat.report.outcomes import read_json

    metrics = read_json(write_metrics(folder, list(experiment.attacks)))
    config = metrics["config"]
    doubts = [f"Warning: {warning}" for warning in [*warnings, *single.notices(metrics)]]
    table = single.to_markdown(metrics)
    said = f"{config['checkpoint']} as {config['target']} on {words.dataset_title(experiment.dataset.name)}"
    gates = [f"* {gate}" for gate in single.gates(metrics)]
    text = "\n\n".join([said, table, *(["\n".join(["Validity gates:", "", *gates])] if gates else []), *doubts])
    file = folder / "table.md"
    atomic_text(file, text + "\n")
    say(f"\n{text}\n\nwritten to {file}")
    return file
