"""MAIL (Liu et al. 2021): a picture weighs by the margin of its adversarial probabilities.

    m = max_{k != l} p_k(x') - p_l(x'),   w = 3 sigmoid(slope * (m + bias)),   no gradient through w

The factor 3 stands for the release's "normalisation": weights are not brought to mean 1. After a burn-in:
MAIL-AT weights AT's CE, MAIL-TRADES the KL of TRADES.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from dynat.losses import cross_entropy, kl, probability_gap
from dynat.methods.base import Lesson, Method, Parts


class _Mail(Method):
    @torch.no_grad()
    def weights(self, lesson: Lesson, adversarial_logits: Tensor) -> Tensor:
        options = self.run.options
        if lesson.progress < options["burn_in"]:
            return torch.ones_like(adversarial_logits[:, 0])
        return 3 * torch.sigmoid(
            options["slope"] * (probability_gap(adversarial_logits, lesson.labels) + options["bias"])
        )


class MailAt(_Mail):
    def loss(self, lesson: Lesson) -> Parts:
        adversarial = lesson.target(lesson.adversarial)
        weighted = self.weights(lesson, adversarial) * cross_entropy(adversarial, lesson.labels)
        return {"ce": weighted} | self.clean_side(lesson, adversarial)


class MailTrades(_Mail):
    own_objective: ClassVar[str] = "kl"

    def loss(self, lesson: Lesson) -> Parts:
        clean = lesson.target(lesson.clean)
        adversarial = lesson.target(lesson.adversarial)
        weights = self.weights(lesson, adversarial)
        return {
            "ce": cross_entropy(clean, lesson.labels),
            "consistency": self.run.consistency * weights * kl(clean, adversarial),
        }
