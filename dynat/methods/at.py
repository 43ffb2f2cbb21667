"""Adversarial training (Madry et al. 2018): CE on the adversarial pictures.

Driven by dynamic labels, beside the guide's own CE, it is DYNAT (arXiv 2408.13102, Algorithm 1). With
`consistency` above zero it adds KL(p(x)||p(x')), the other reading of the paper's balance parameter.
"""

from __future__ import annotations

from dynat.losses import cross_entropy
from dynat.methods.base import Lesson, Method, Parts


class AdversarialTraining(Method):
    def loss(self, lesson: Lesson) -> Parts:
        adversarial = lesson.target(lesson.adversarial)
        return {"ce": cross_entropy(adversarial, lesson.labels)} | self.clean_side(lesson, adversarial)
