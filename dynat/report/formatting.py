"""How the report names and writes things: the same words in tables, figures and the page."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from dynat.config import AttackConfig, Checkpoint, Run, ThreatModel
from dynat.config.base import pixel_fraction
from dynat.results.records import DatasetInfo, Interval

WORST = "worst_case"
"""The name of the column that is no single attack."""

DATASETS = {
    "digits": "Digits 8×8",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "svhn": "SVHN",
    "tiny-imagenet": "TinyImageNet",
}
METHODS = {
    "natural": "Natural training",
    "at": "Adversarial training",
    "adagat": "AdaGAT",
}
COLUMNS = {
    WORST: "Worst case",
    "clean": "Clean",
    "fgsm": "FGSM",
    "cw-l2": "C&W L2",
    "apgd-ce": "APGD-CE",
    "apgd-dlr": "APGD-DLR",
    "apgd-t": "APGD-T",
    "fab": "FAB",
    "fab-t": "FAB-T",
    "square": "Square",
    "autoattack": "AutoAttack",
    "autoattack-plus": "AutoAttack plus",
    "autoattack-rand": "AutoAttack rand",
}
NORMS = {"linf": "L∞", "l2": "L2", "l1": "L1"}


def dataset_title(name: str) -> str:
    return DATASETS.get(name, name)


def column_title(name: str) -> str:
    counted = re.fullmatch(r"(clean|fgsm|pgd|cw|square|autoattack)(-(?:\d|last).*)", name)
    if not counted:
        return COLUMNS.get(name, name)
    return COLUMNS.get(counted[1], counted[1].upper()) + counted[2]


def method_title(row: Run | Checkpoint) -> str:
    """The method; DYNAT is adversarial training driven by dynamic labels, alone or with another loss."""
    if isinstance(row, Checkpoint):
        return "Third-party checkpoint"
    title = METHODS.get(row.method, row.method.upper())
    if row.method == "lbgat":
        title += f", α = {row.consistency:g}"
    if row.labels == "dynamic":
        title = "DYNAT" if row.method == "at" else f"DYNAT + {title}"
    inner = {"method": "", "ce": ", inner CE", "ce-true": ", inner CE on true labels", "kl": ", inner KL"}
    if row.awp is not None:
        title += " + AWP"
    return title + (inner[row.inner.objective] if row.method != "natural" else "")


def ball(threat: ThreatModel | AttackConfig) -> str:
    """The threat as the literature writes it: L∞, ε = 8/255."""
    return f"{NORMS[threat.norm or 'linf']}, ε = {pixel_fraction(threat.eps or 0.0)}"


def image_order(dataset: DatasetInfo) -> str:
    """Which test images the first n are."""
    orders = {"official": "in the official order", "as given": "in the order of the files"}
    return orders.get(dataset.test_order, f"in a {dataset.test_order.partition(',')[0]} order")


def test_images(n: int, dataset: DatasetInfo) -> str:
    """How many test images, and which, if not all."""
    if n >= dataset.test:
        return f"{n:,} test images"
    return f"the first {n:,} of {dataset.test:,} test images ({image_order(dataset)})"


def decimals(n: int) -> int:
    """Digits after the point of a percentage: a hundredth of a percent is one image in 10,000."""
    return 2 if n >= 10_000 else 1


def percent(share: float, n: int) -> str:
    return f"{100 * share:.{decimals(n)}f}"


def interval(cell: Interval) -> str:
    return f"{percent(cell.low, cell.n)}–{percent(cell.high, cell.n)}"


def duration(seconds: float) -> str:
    """12.3 s, 4 min 05 s, 2 h 03 min."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    if seconds < 3599.5:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes} min {rest:02d} s"
    hours, rest = divmod(round(seconds / 60), 60)
    return f"{hours} h {rest:02d} min"


def count(n: int, noun: str) -> str:
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def listing(items: Iterable[str]) -> str:
    """a, b and c."""
    words = list(items)
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def span(values: Sequence[int]) -> str:
    """The one value, or the smallest and the largest."""
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
