"""MART (Wang et al. 2020): a boosted CE on the adversarial images, and a KL weighted by the clean misclassification.

    BCE(f(x'), l) + consistency * KL(p(x) || p(x')) * (1 - p_l(x))
    BCE = CE - log(1 - max_{k != l} p_k(x'))

Nothing is detached: the weight 1 - p_l(x) carries gradient too. The small constants are the release's. The release
adds 1e-12 inside the logarithm of the KL; in log space it is not needed.
"""

from __future__ import annotations

import torch

from dynat.methods.base import LossTerms, Method, StepInputs
from dynat.nn.losses import kl


class Mart(Method):
    def loss(self, inputs: StepInputs) -> LossTerms:
        clean = inputs.target(inputs.clean)
        adversarial = inputs.target(inputs.adversarial)
        label = inputs.label_class[:, None]
        wrong = adversarial.softmax(1).scatter(1, label, 0.0).amax(1)
        unsure = 1.0000001 - clean.softmax(1).gather(1, label).squeeze(1)
        return {
            "bce": inputs.cross_entropy(adversarial) - torch.log(1.0001 - wrong + 1e-12),
            "consistency": self.run.consistency * kl(clean, adversarial) * unsure,
        }
