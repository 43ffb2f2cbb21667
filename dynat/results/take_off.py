"""Whether a training took off: a network whose accuracy is not above chance has learned nothing.

Chance is the accuracy of a network that always predicts the most frequent class. Of k correct among n images, the
one-sided exact binomial test gives the probability of at least k by chance; below `SIGNIFICANCE`, it is above chance.
The log warns at the first validation after a third of the epochs; metrics and report warn of the last validation, so a
training that recovers is in neither.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dynat.results.records import DatasetInfo

SIGNIFICANCE = 0.001
"""With one test per network and training, a warning is missed for one of a thousand networks that guess."""

ADVICE = "try a lower schedule.lr, a higher one if the loss has not changed, a beta nearer to 1, or more epochs"

Row = Mapping[str, float]


def above_chance(accuracy: float, n: int, chance: float) -> bool:
    """Whether `accuracy` on `n` images is more than a network that guesses reaches."""
    from scipy.special import bdtrc  # here, because it takes a tenth of the start of an attack, which does not need it

    correct = round(accuracy * n)
    return bool(bdtrc(correct - 1, n, chance) < SIGNIFICANCE) if correct else False


def near_chance(low: float, classes: int) -> bool:
    """Whether a clean accuracy is so near chance that a checkpoint was probably loaded in another way than its authors
    load it. `low` is the lower end of its interval."""
    return low <= min(1.5 / classes, (1 + 2 / classes) / 3)  # of two classes, 75 % is not near


def early_warnings(history: Sequence[Row], epochs: int, dataset: DatasetInfo) -> tuple[str, ...]:
    """Warnings of a training that still runs, once: at its first validation after a third of its epochs."""
    validated = [row for row in history if "clean" in row and row["epoch"] >= epochs / 3]
    return warnings(history, dataset) if len(validated) == 1 and validated[0] is history[-1] else ()


def warnings(history: Sequence[Row], dataset: DatasetInfo) -> tuple[str, ...]:
    """A sentence for each network that is not above chance at the last validation."""
    validated = [row for row in history if "clean" in row]
    if not validated:
        return ()
    last = validated[-1]
    chance = max(1 / len(dataset.classes), dataset.largest_class)
    measured = (
        ("clean", "the target", "held-out", dataset.validation),
        ("label_accuracy", "the guide, whose predictions are the labels,", "training", dataset.train),
        ("guide_clean", "the guide", "held-out", dataset.validation),
    )
    texts = [
        f"{network} has not learned: after {last['epoch']:.0f} epochs it classifies {100 * last[name]:.1f} % of the "
        f"{images} images correctly, and guessing {100 * chance:.1f} %; {ADVICE}"
        for name, network, images, n in measured
        if name in last and not above_chance(last[name], n, chance)
    ]
    return tuple(texts)
