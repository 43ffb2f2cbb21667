"""SAT, the probability-gap curriculum (Sitawarin et al. 2021): adversarial images grow harder over training.

The attack on an image stops once max_{j != l} p_j - p_l passes a threshold. The threshold rises from `easy` to 1,
at which nothing stops and SAT is AT. It rises linearly over the first `ramp` of the training: the shape of the ramp is
our choice, the loss is AT's.
"""

from __future__ import annotations

from torch import Tensor, nn

from dynat.methods.at import AdversarialTraining
from dynat.methods.base import AttackResult
from dynat.nn.losses import label_class, probability_gap
from dynat.pgd import Objective, pgd


class Sat(AdversarialTraining):
    def attack(
        self,
        target: nn.Module,
        clean: Tensor,
        start: Tensor,
        *,
        labels: Tensor,
        objective: Objective,
        progress: float,
    ) -> AttackResult:
        threshold = self.threshold(progress)

        def hard_enough(logits: Tensor) -> Tensor:
            return probability_gap(logits, label_class(labels)) > threshold

        return AttackResult(
            pgd(
                target, clean, start, objective=objective, ball=self.ball,
                steps=self.steps, step_size=self.step_size, stop=hard_enough,
            )
        )  # fmt: skip

    def threshold(self, progress: float) -> float:
        easy, ramp = self.run.options["easy"], self.run.options["ramp"]
        share = 1.0 if progress >= ramp else progress / ramp
        return float(easy + (1 - easy) * share)
