"""Reasons to doubt that a third-party checkpoint was loaded as its authors use it. They are shown before the attacks.

A file of weights contains neither the strides of its network, nor its normalization, nor the order of its classes. A
mistake in one of them shows in the clean accuracy.
"""

from __future__ import annotations

import torch

from dynat import data, models
from dynat.attacks import evaluate
from dynat.checkpoints.network import build_network
from dynat.checkpoints.weights import load_weights
from dynat.config import AttackConfig, Checkpoint, registry
from dynat.results.paths import RunFiles
from dynat.results.records import TrainingRecord, read_record
from dynat.runtime.device import choose_device

COMPARED_IMAGES = 200
"""Images on which networks with the same names and shapes are compared."""

CAUSES = "another --arch (a file does not contain strides), --mean and --std, another order of the classes"


def accuracy_warnings(run: RunFiles, expected: float | None) -> list[str]:
    """Warnings about a clean accuracy near chance, or different from the `expected` one in percent."""
    from dynat.results.metrics import summary
    from dynat.results.outcomes import read_outcome
    from dynat.results.statistics import wilson
    from dynat.results.take_off import near_chance

    clean = summary(read_outcome(run, "clean").verdicts)
    classes = len(read_record(run.seed(0).config, TrainingRecord).dataset.classes)
    measured = f"clean accuracy {100 * clean.accuracy:.1f} % on {clean.n:,} images"
    warnings = []
    if near_chance(clean.low, classes):
        warnings.append(f"{measured} is near chance ({100 / classes:.1f} %). Likely causes: {CAUSES}")
    if expected is not None:
        low, high = wilson(clean.accuracy * clean.n, clean.n, confidence=0.99)
        if not low <= expected / 100 <= high:
            warnings.append(
                f"{measured} is not the {expected:g} % expected (99 % interval {100 * low:.1f} to "
                f"{100 * high:.1f}). Likely causes: {CAUSES}, other images"
            )
    return warnings


def architecture_warnings(run: RunFiles, test: data.LabeledImages, device: str) -> list[str]:
    """Warnings about networks with the same names and shapes that classify more clean images correctly."""
    from dynat.results.statistics import mcnemar

    record = read_record(run.seed(0).config, TrainingRecord)
    checkpoint = record.config
    assert isinstance(checkpoint, Checkpoint), "a trained run knows its network"
    classes, channels = len(record.dataset.classes), record.dataset.channels
    others = [
        name
        for name in registry.NETWORKS
        if name != checkpoint.arch and same_shapes(name, checkpoint.arch, classes=classes, channels=channels)
    ]
    if not others:
        return []
    chosen = choose_device(device)
    images = test.first(COMPARED_IMAGES).to(chosen)
    clean = AttackConfig(kind="clean", norm="linf", eps=0.5)

    def correct(arch: str) -> torch.Tensor:
        row = checkpoint.model_copy(update={"arch": arch})
        model = build_network(row, classes=classes, channels=channels, size=record.dataset.size)
        load_weights(model, run.seed(0).target())
        return evaluate(model.to(chosen), images, clean).columns["correct"].cpu()

    given = correct(checkpoint.arch)
    warnings = []
    for name in others:
        other = correct(name)
        if other.sum() > given.sum() and mcnemar(given.numpy(), other.numpy()).p < 0.01:
            warnings.append(
                f"as {name} the same file classifies {int(other.sum())} of {len(given)} clean images correctly, and "
                f"as {checkpoint.arch} only {int(given.sum())}: is it --arch {name}?"
            )
    return warnings


def same_shapes(one: str, other: str, *, classes: int, channels: int) -> bool:
    """Whether one file of weights fits both networks."""
    if "<" in one:  # a family: its depth and width are in the shapes
        return False
    return _shapes(one, classes, channels) == _shapes(other, classes, channels)


def _shapes(name: str, classes: int, channels: int) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        state = models.bare(name, classes=classes, channels=channels).state_dict()
    return {key: tuple(value.shape) for key, value in state.items()}
