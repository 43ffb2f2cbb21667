"""MART (Wang et al. 2020): a boosted CE on the adversarial pictures, and KL where the clean one is unsure.

    BCE(f(x'), l) + consistency * KL(p(x) || p(x')) * (1 - p_l(x))
    BCE = CE - log(1 - max_{k != l} p_k(x'))

Nothing is detached: the weight 1 - p_l(x) carries gradient too. The small constants are the release's; its
1e-12 inside the KL's logarithm is not needed in log space.
"""

from __future__ import annotations

import torch

from dynat.losses import cross_entropy, kl
from dynat.methods.base import Lesson, Method, Parts


class Mart(Method):
    def loss(self, lesson: Lesson) -> Parts:
        clean = lesson.target(lesson.clean)
        adversarial = lesson.target(lesson.adversarial)
        label = lesson.labels[:, None]
        wrong = adversarial.softmax(1).scatter(1, label, 0.0).amax(1)
        unsure = 1.0000001 - clean.softmax(1).gather(1, label).squeeze(1)
        return {
            "bce": cross_entropy(adversarial, lesson.labels) - torch.log(1.0001 - wrong + 1e-12),
            "consistency": self.run.consistency * kl(clean, adversarial) * unsure,
        }
