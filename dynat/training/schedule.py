"""The learning rate: data in the config, one pure function here."""

from __future__ import annotations

import math

from dynat.config.training import ScheduleConfig


def learning_rate(schedule: ScheduleConfig, *, epochs: int, progress: float) -> float:
    """The rate after `progress` epochs (fractions allowed) of a training of `epochs`."""
    if schedule.shape == "one-cycle":
        top = schedule.peak * epochs
        rising, falling = progress / top, (epochs - progress) / (epochs - top)
        return schedule.lr * max(0.0, min(rising, falling))
    if schedule.shape == "cosine":
        rising = schedule.warm_up * epochs
        if progress < rising:
            return schedule.lr * progress / rising
        share = (1 + math.cos(math.pi * (progress - rising) / (epochs - rising))) / 2
        return schedule.lr * (schedule.final + (1 - schedule.final) * share)
    factor = 0.0
    for start, value in boundaries(schedule, epochs):
        if progress >= start:
            factor = value
    return schedule.lr * factor


def boundaries(schedule: ScheduleConfig, epochs: int) -> list[tuple[int, float]]:
    """(finished epochs, factor from then on), scaled from the schedule's `reference_epochs` to this training's epochs.

    A warm-up of one epoch stays one epoch however short the training is.
    """
    return [
        (0 if start == 0 else max(1, round(start * epochs / schedule.reference_epochs)), factor)
        for start, factor in sorted(schedule.factors.items())
    ]
