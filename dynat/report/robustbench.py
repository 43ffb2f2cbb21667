"""A run's numbers for RobustBench: its `model_info` JSON of each seed, and the text of an issue that submits them.

Names are RobustBench's: the data sets `cifar10` and `cifar100`, the threat models `Linf` and `L2`, and architectures as
its leaderboards write them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from pydantic import BaseModel

from dynat.config import Checkpoint, Run, registry
from dynat.config.base import pixel_fraction
from dynat.report import formatting
from dynat.report.markdown import escape
from dynat.results.records import AttackMetrics, RunMetrics

LEADERBOARDS = ("cifar10", "cifar100")
"""Data sets for which RobustBench has leaderboards of these balls."""
THREATS = {"linf": "Linf", "l2": "L2"}
"""Its names of the threat models."""
RADIUS = {"linf": 8 / 255, "l2": 0.5}
"""The radii of its CIFAR leaderboards."""
IMAGES = 10_000
"""Test images of its leaderboards."""
ARCHITECTURES = {
    "resnet18": "ResNet-18",
    "resnet18-heavy": "ResNet-18 (strides 1,1,2,2)",
    "resnet50": "ResNet-50",
    "preact-resnet18": "PreActResNet-18",
    "preact-resnet18-swish": "PreActResNet-18",
    "preact-resnet18-bare": "PreActResNet-18",
}


class Claim(BaseModel):
    """One seed's numbers in the form of RobustBench's model_info.

    `link`, `authors` and `venue` are for those who publish the network to fill in.
    """

    link: str = ""
    name: str
    authors: str = ""
    additional_data: bool | None
    """None: unknown, of a network that was trained elsewhere or started from given weights."""
    number_forward_passes: int = 1
    dataset: str
    venue: str = ""
    architecture: str
    eps: str
    clean_acc: str
    reported: str
    autoattack_acc: str
    footnote: str
    """Which images, if not all 10,000: an accuracy on fewer is no claim for the leaderboard."""
    unreliable: bool


def network_of(row: Run | Checkpoint) -> str:
    """The name of the network that a row's weights belong to."""
    return row.arch if isinstance(row, Checkpoint) else row.target


def autoattack(metrics: RunMetrics) -> AttackMetrics | None:
    """The AutoAttack on the chosen weights within the threat's ball, on most images; None where there is none."""
    cells = [
        cell
        for cell in metrics.attacks.values()
        if cell.attack.kind == "autoattack"
        and cell.attack.weights == "best"
        and cell.attack.norm == metrics.threat.norm
        and abs((cell.attack.eps or 0.0) - metrics.threat.eps) < 1e-9
    ]
    return max(cells, key=lambda cell: cell.n, default=None)


def claim(metrics: RunMetrics, seed: int) -> Claim | None:
    """One seed's numbers for RobustBench; None without AutoAttack on that seed."""
    cell, row = autoattack(metrics), metrics.config
    clean = _clean(metrics)
    if cell is None or clean is None or seed not in cell.per_seed:
        return None
    robust = f"{100 * cell.per_seed[seed]:.2f}"
    return Claim(
        name=f"{formatting.method_title(row)} ({metrics.run}, seed {seed})",
        additional_data=_additional_data(row),
        dataset=metrics.dataset.name,
        architecture=architecture(network_of(row)),
        eps=radius(metrics),
        clean_acc=f"{100 * clean.per_seed[seed]:.2f}",
        reported=robust,
        autoattack_acc=robust,
        footnote=_footnote(metrics, cell),
        unreliable=bool(cell.warnings or metrics.failed_checks),
    )


def _clean(metrics: RunMetrics) -> AttackMetrics | None:
    """The clean accuracy of the chosen weights, on most images."""
    cells = [cell for cell in metrics.attacks.values() if cell.attack.kind == "clean" and cell.attack.weights == "best"]
    return max(cells, key=lambda cell: cell.n, default=None)


def radius(metrics: RunMetrics) -> str:
    """The radius of the ball as RobustBench writes it: 8/255, 0.5."""
    eps = metrics.threat.eps
    return pixel_fraction(eps) if metrics.threat.norm == "linf" else f"{eps:g}"


def architecture(network: str) -> str:
    """A network's name as the literature writes it."""
    if wide := re.fullmatch(r"wrn(\d+)-(\d+)(-swish)?", network):
        return f"WideResNet-{wide[1]}-{wide[2]}"
    return ARCHITECTURES.get(network, network)


def submission(metrics: RunMetrics, claims: Mapping[int, Claim], files: Mapping[int, str]) -> str | None:
    """The text of an issue that asks RobustBench to list the networks; None where it has no leaderboard for them.

    `files` are the weights of each seed. Blank entries are for the authors.
    """
    if not claims or metrics.dataset.name not in LEADERBOARDS:
        return None
    cell, threat = autoattack(metrics), THREATS.get(metrics.threat.norm, metrics.threat.norm)
    assert cell is not None
    complete = cell.n >= IMAGES
    warning = f"> **Not ready:** AutoAttack saw {cell.n:,} images. RobustBench asks for all {IMAGES:,} test images."
    model = []
    for seed, numbers in claims.items():
        data = {True: "true", False: "false", None: "(unknown)"}[numbers.additional_data]
        entries = {
            "Architecture": escape(numbers.architecture),
            "Dataset": numbers.dataset,
            "Threat Model": threat,
            "eps": numbers.eps,
            "Clean accuracy": f"{numbers.clean_acc} %",
            "Robust accuracy": f"{numbers.autoattack_acc} %",
            "Additional data": data,
            "Evaluation method": f"{_version(cell)}, {formatting.test_images(cell.n, metrics.dataset)}",
            "Checkpoint and code": f"(URL of `{files[seed]}`)",
        }
        if numbers.unreliable:
            entries["Doubts"] = "a check or a warning says that the robust accuracy may be too high; see README.md"
        lines = [f"- **{key}**: {value}" for key, value in entries.items()]
        model.append("\n".join([f"## {escape(numbers.name)}", "", *lines]))
    paper = "# Paper Information\n\n- **Paper Title**:\n- **Paper URL**:\n- **Paper authors**:"
    return "\n\n".join([*([] if complete else [warning]), paper, "# Leaderboard Claim(s)", *model]) + "\n"


def _additional_data(row: Run | Checkpoint) -> bool | None:
    if isinstance(row, Checkpoint):
        return None
    if row.extra is not None:
        return True
    return None if row.init is not None else False


def _version(cell: AttackMetrics) -> str:
    """The version that ran: `autoattack` runs other attacks on a network that answers differently each time."""
    parts = tuple(name for name in cell.accuracy_after if name != "clean")
    standard = parts == registry.ATTACKS["autoattack"].parts
    return (
        "AutoAttack, standard version"
        if standard
        else f"AutoAttack, not the standard version: {escape(', '.join(parts))}"
    )


def _footnote(metrics: RunMetrics, cell: AttackMetrics) -> str:
    data = metrics.dataset
    images = (
        f"all {data.test:,} test images"
        if cell.n >= data.test
        else f"the first {cell.n:,} of {data.test:,} test images, {formatting.image_order(data)}"
    )
    interval = formatting.interval(cell).replace("–", "-")
    return f"Robust accuracy on {images}; 95% Wilson interval of all seeds {interval}"
