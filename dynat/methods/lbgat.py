"""LBGAT (Cui et al. 2021): the target's adversarial logits are pulled to the guide's clean logits.

    CE(g(x), y) + MSE(f(x'), g(x)) + alpha * KL(p(x) || p(x')),   alpha = `consistency` (0 or 6)

The one method that couples the networks through logits: the MSE moves the guide too, and nothing else tells
the target about the classes. The guide's CE is the training step's; the adversarial pictures maximise the KL.
"""

from __future__ import annotations

from typing import ClassVar

from dynat.losses import squared_difference
from dynat.methods.base import Lesson, Method, Parts


class Lbgat(Method):
    own_objective: ClassVar[str] = "kl"

    def loss(self, lesson: Lesson) -> Parts:
        assert lesson.guide_logits is not None, "the config refuses LBGAT without a guide"
        adversarial = lesson.target(lesson.adversarial)
        pull = squared_difference(adversarial, lesson.guide_logits)
        return {"mse": pull} | self.clean_side(lesson, adversarial)
