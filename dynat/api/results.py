"""What `evaluate` returns, and the comparison of two such results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from dynat.config import AttackConfig
from dynat.results.statistics import mcnemar, wilson
from dynat.runtime.errors import UserError


@dataclass(frozen=True)
class AttackResult:
    """The verdict of one attack on every image, in the order of the images."""

    attack: AttackConfig
    correct: Tensor
    """Whether the image is classified correctly, also under the attack."""
    prediction: Tensor
    margin: Tensor
    """Logit of the label minus the largest other one, under the attack."""
    seconds: float
    warnings: tuple[str, ...] = ()

    @property
    def n(self) -> int:
        return len(self.correct)

    @property
    def accuracy(self) -> float:
        return float(self.correct.float().mean())

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the accuracy."""
        return wilson(int(self.correct.sum()), self.n)


@dataclass(frozen=True)
class Result:
    """The results of `evaluate` by attack; printed, a table."""

    attacks: Mapping[str, AttackResult]
    warnings: tuple[str, ...] = ()
    images: str = ""
    """Digest of images and labels."""

    def __getitem__(self, name: str) -> AttackResult:
        if name not in self.attacks:
            raise KeyError(f"no attack {name!r} was run: {', '.join(self.attacks)}")
        return self.attacks[name]

    @property
    def worst_case(self) -> AttackResult:
        """An image counts as correct if it is under every attack; over the images that all of them attacked."""
        n = min(result.n for result in self.attacks.values())
        correct = torch.stack([result.correct[:n] for result in self.attacks.values()]).all(0)
        last = list(self.attacks.values())[-1]
        seconds = sum(result.seconds for result in self.attacks.values())
        return AttackResult(last.attack, correct, last.prediction[:n], last.margin[:n], seconds)

    def table(self) -> pd.DataFrame:
        """A row per attack: accuracy and interval as shares, number of images, seconds."""
        rows = {
            name: {"accuracy": r.accuracy, "low": r.interval[0], "high": r.interval[1], "n": r.n, "seconds": r.seconds}
            for name, r in self.attacks.items()
        }
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("attack")

    def __str__(self) -> str:
        text = self.table().to_string(float_format=lambda value: f"{value:.3f}")
        return "\n".join([text, *(f"warning: {warning}" for warning in self.warnings)])


@dataclass(frozen=True)
class Comparison:
    """Two results on the same images under one attack."""

    n: int
    difference: float
    """Accuracy of the first minus accuracy of the second."""
    interval: tuple[float, float]
    """Its 95 % interval over images: normal approximation to the mean of paired differences."""
    only_first: int
    """Images that only the first classifies correctly."""
    only_second: int
    p: float
    """Of the exact McNemar test: how often a split this uneven comes by chance."""


def compare(first: Result, second: Result, name: str = "autoattack") -> Comparison:
    """Whether two results differ under an attack, image by image. Both must be about the same images."""
    one, other = first[name].correct.numpy(), second[name].correct.numpy()
    if first.images != second.images:
        raise UserError("the two results are about different images: a paired comparison has no meaning")
    test = mcnemar(one.astype(int), other.astype(int))
    each = one.astype(float) - other.astype(float)
    half = 1.96 * float(each.std(ddof=1)) / test.n**0.5 if test.n > 1 else float("inf")
    mean = float(each.mean())
    return Comparison(test.n, mean, (mean - half, mean + half), test.only_first, test.only_second, test.p)
