"""TRADES (Zhang et al. 2019): CE on the clean pictures + consistency * KL(p(x) || p(x')).

The adversarial pictures maximise that KL. Both of its sides carry gradient: detaching the clean one costs
points of robustness silently. One clean forward serves both terms (the release runs a second one whose only
effect is a third update of BatchNorm's statistics).
"""

from __future__ import annotations

from typing import ClassVar

from dynat.losses import cross_entropy, kl
from dynat.methods.base import Lesson, Method, Parts


class Trades(Method):
    own_objective: ClassVar[str] = "kl"

    def loss(self, lesson: Lesson) -> Parts:
        clean = lesson.target(lesson.clean)
        adversarial = lesson.target(lesson.adversarial)
        return {
            "ce": cross_entropy(clean, lesson.labels),
            "consistency": self.run.consistency * kl(clean, adversarial),
        }
