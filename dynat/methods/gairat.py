"""GAIRAT (Zhang et al. 2021): CE weighted by how near an image is to the decision boundary.

Nearness is counted during the inner attack: kappa, the number of iterates before an update that are still
classified as labeled (all of them, as released; the paper speaks of the first that is not). An image that
is broken early gets a large weight. Weights have mean 1 over the batch and carry no gradient. It is known for high
accuracy under PGD and low accuracy under C&W and AutoAttack: report those.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from dynat.methods.base import AttackResult, LossTerms, Method, StepInputs
from dynat.nn.losses import label_class
from dynat.pgd import Objective, pgd

WEIGHTINGS: dict[str, Callable[[Tensor, float], Tensor]] = {
    # from kappa/K in [0,1] and the tightness
    "tanh": lambda share, tightness: (1 + torch.tanh(tightness + 5 * (1 - 2 * share))) / 2,
    "sigmoid": lambda share, tightness: torch.sigmoid(tightness + 5 * (1 - 2 * share)),
    "discrete": lambda share, _: 1 - share,
}


class Gairat(Method):
    def attack(
        self,
        target: nn.Module,
        clean: Tensor,
        start: Tensor,
        *,
        labels: Tensor,
        objective: Objective,
        progress: float,  # noqa: ARG002
    ) -> AttackResult:
        kappa = torch.zeros(len(clean), device=clean.device)

        def count(logits: Tensor) -> None:
            kappa.add_(logits.argmax(1) == label_class(labels))

        images = pgd(
            target, clean, start, objective=objective, ball=self.ball,
            steps=self.steps, step_size=self.step_size, observe=count,
        )  # fmt: skip
        return AttackResult(images, correct_steps=kappa)

    def loss(self, inputs: StepInputs) -> LossTerms:
        adversarial = inputs.target(inputs.adversarial)
        weighted = self.weights(inputs) * inputs.cross_entropy(adversarial)
        return self.add_clean_forward({"ce": weighted}, inputs, adversarial)

    @torch.no_grad()
    def weights(self, inputs: StepInputs) -> Tensor:
        kappa, options = inputs.attack.correct_steps, self.run.options
        assert kappa is not None
        if inputs.progress < options["burn_in"]:
            return torch.ones_like(kappa)
        steps = self.run.inner.steps
        # Discrete: (K + 1 - kappa) / (K + 1); the others read kappa / K.
        share = kappa / (steps + 1 if options["weighting"] == "discrete" else steps)
        weights = WEIGHTINGS[options["weighting"]](share, options["tightness"])
        total = weights.sum()
        inputs.average([total])
        return weights * len(weights) / total
