"""MAIL (Liu et al. 2021): each image is weighted by the margin of its adversarial probabilities.

    m = max_{k != l} p_k(x') - p_l(x'),   w = 3 sigmoid(slope * (m + bias)),   no gradient through w

The factor 3 stands for the release's "normalization": weights are not brought to mean 1. After a burn-in:
MAIL-AT weights AT's CE, MAIL-TRADES the KL of TRADES.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from dynat.methods.base import LossTerms, Method, StepInputs
from dynat.nn.losses import kl, probability_gap


class _Mail(Method):
    @torch.no_grad()
    def weights(self, inputs: StepInputs, adversarial_logits: Tensor) -> Tensor:
        options = self.run.options
        if inputs.progress < options["burn_in"]:
            return torch.ones_like(adversarial_logits[:, 0])
        return 3 * torch.sigmoid(
            options["slope"] * (probability_gap(adversarial_logits, inputs.label_class) + options["bias"])
        )


class MailAt(_Mail):
    def loss(self, inputs: StepInputs) -> LossTerms:
        adversarial = inputs.target(inputs.adversarial)
        weighted = self.weights(inputs, adversarial) * inputs.cross_entropy(adversarial)
        return self.add_clean_forward({"ce": weighted}, inputs, adversarial)


class MailTrades(_Mail):
    default_objective: ClassVar[str] = "kl"

    def loss(self, inputs: StepInputs) -> LossTerms:
        clean = inputs.target(inputs.clean)
        adversarial = inputs.target(inputs.adversarial)
        weights = self.weights(inputs, adversarial)
        return {
            "ce": inputs.cross_entropy(clean),
            "consistency": self.run.consistency * weights * kl(clean, adversarial),
        }
