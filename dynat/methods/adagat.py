"""AdaGAT (arXiv 2508.17265), by the authors of DYNAT: LBGAT, and a pull on the guide alone.

    CE(g(x), y) + MSE(f(x'), g(x)) + pull * MSE(sg[f(x')], g(x))

The last term stands in the release as a comment (2.5); what runs there is LBGAT with alpha 0.
"""

from __future__ import annotations

from typing import ClassVar

from dynat.losses import squared_difference
from dynat.methods.base import Lesson, Method, Parts


class AdaGat(Method):
    own_objective: ClassVar[str] = "kl"

    def loss(self, lesson: Lesson) -> Parts:
        assert lesson.guide_logits is not None, "the config refuses AdaGAT without a guide"
        adversarial = lesson.target(lesson.adversarial)
        return {
            "mse": squared_difference(adversarial, lesson.guide_logits),
            "pull": self.run.options["pull"] * squared_difference(adversarial.detach(), lesson.guide_logits),
        } | self.clean_side(lesson, adversarial)
