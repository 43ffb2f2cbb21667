"""SAT, the probability-gap curriculum (Sitawarin et al. 2021): adversarial pictures grow harder with training.

A picture's search stops where it is once max_{j != l} p_j - p_l passes a threshold. The threshold rises from
`easy` to 1, at which nothing stops and SAT is AT. Linear over the first `ramp` of the training: the shape of
the ramp is our choice, the loss is AT's.
"""

from __future__ import annotations

from torch import Tensor, nn

from dynat.inner import Objective
from dynat.losses import probability_gap
from dynat.methods.at import AdversarialTraining
from dynat.methods.base import Found


class Sat(AdversarialTraining):
    def search(
        self,
        target: nn.Module,
        clean: Tensor,
        start: Tensor,
        *,
        labels: Tensor,
        objective: Objective,
        progress: float,
    ) -> Found:
        threshold = self.threshold(progress)

        def hard_enough(logits: Tensor) -> Tensor:
            return probability_gap(logits, labels) > threshold

        return Found(self.climb(target, clean, start, objective, stop=hard_enough))

    def threshold(self, progress: float) -> float:
        easy, ramp = self.run.options["easy"], self.run.options["ramp"]
        share = 1.0 if progress >= ramp else progress / ramp
        return float(easy + (1 - easy) * share)
