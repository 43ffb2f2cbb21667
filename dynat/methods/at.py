"""Adversarial training (Madry et al. 2018): CE on the adversarial images.

With dynamic labels, and together with the guide's own CE, it is DYNAT (arXiv 2408.13102, Algorithm 1). With
`consistency` above zero it adds KL(p(x)||p(x')), the other reading of the paper's balance parameter.
"""

from __future__ import annotations

from dynat.methods.base import LossTerms, Method, StepInputs


class AdversarialTraining(Method):
    def loss(self, inputs: StepInputs) -> LossTerms:
        adversarial = inputs.target(inputs.adversarial)
        terms = {"ce": inputs.cross_entropy(adversarial)}
        return self.add_clean_forward(terms, inputs, adversarial)
