"""AdaGAT (arXiv 2508.17265), by the authors of DYNAT: LBGAT, with an extra term that pulls the guide alone.

    CE(g(x), y) + MSE(f(x'), g(x)) + pull * MSE(sg[f(x')], g(x))

The last term is commented out in the release (2.5); what runs there is LBGAT with alpha 0.
"""

from __future__ import annotations

from typing import ClassVar

from dynat.methods.base import LossTerms, Method, StepInputs
from dynat.nn.losses import squared_difference


class AdaGat(Method):
    default_objective: ClassVar[str] = "kl"

    def loss(self, inputs: StepInputs) -> LossTerms:
        assert inputs.guide_logits is not None, "the config refuses AdaGAT without a guide"
        adversarial = inputs.target(inputs.adversarial)
        terms = {
            "mse": squared_difference(adversarial, inputs.guide_logits),
            "pull": self.run.options["pull"] * squared_difference(adversarial.detach(), inputs.guide_logits),
        }
        return self.add_clean_forward(terms, inputs, adversarial)
