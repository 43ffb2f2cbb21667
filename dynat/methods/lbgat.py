"""LBGAT (Cui et al. 2021): the target's adversarial logits are pulled to the guide's clean logits.

    CE(g(x), y) + MSE(f(x'), g(x)) + alpha * KL(p(x) || p(x')),   alpha = `consistency` (0 or 6)

The one method that couples the networks through logits: the MSE moves the guide too, and nothing else tells
the target about the classes. The guide's CE is the training step's; the adversarial images maximize the KL.
"""

from __future__ import annotations

from typing import ClassVar

from dynat.methods.base import LossTerms, Method, StepInputs
from dynat.nn.losses import squared_difference


class Lbgat(Method):
    default_objective: ClassVar[str] = "kl"

    def loss(self, inputs: StepInputs) -> LossTerms:
        assert inputs.guide_logits is not None, "the config refuses LBGAT without a guide"
        adversarial = inputs.target(inputs.adversarial)
        pull = squared_difference(adversarial, inputs.guide_logits)
        return self.add_clean_forward({"mse": pull}, inputs, adversarial)
