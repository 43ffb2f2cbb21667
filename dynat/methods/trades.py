"""TRADES (Zhang et al. 2019): CE on the clean images + consistency * KL(p(x) || p(x')).

The adversarial images maximize that KL. Both of its sides carry gradient: detaching the clean one silently costs robust
accuracy. One clean forward serves both terms (the release runs a second one whose only
effect is a third update of BatchNorm's statistics).
"""

from __future__ import annotations

from typing import ClassVar

from dynat.methods.base import LossTerms, Method, StepInputs
from dynat.nn.losses import kl


class Trades(Method):
    default_objective: ClassVar[str] = "kl"

    def loss(self, inputs: StepInputs) -> LossTerms:
        clean = inputs.target(inputs.clean)
        adversarial = inputs.target(inputs.adversarial)
        return {
            "ce": inputs.cross_entropy(clean),
            "consistency": self.run.consistency * kl(clean, adversarial),
        }
