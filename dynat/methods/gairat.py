"""GAIRAT (Zhang et al. 2021): CE weighted by how near a picture is to the decision boundary.

Nearness is counted during the search: kappa, the number of iterates before an update that are still
classified as labelled (all of them, as released; the paper speaks of the first that is not). A picture that
falls early weighs much. Weights have mean 1 over the batch and carry no gradient. Known for looking strong
under PGD and falling under C&W and AutoAttack: report those.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from dynat.inner import Objective
from dynat.losses import cross_entropy
from dynat.methods.base import Found, Lesson, Method, Parts

WEIGHTINGS: dict[str, Callable[[Tensor, float], Tensor]] = {
    # from kappa/K in [0,1] and the tightness
    "tanh": lambda share, tightness: (1 + torch.tanh(tightness + 5 * (1 - 2 * share))) / 2,
    "sigmoid": lambda share, tightness: torch.sigmoid(tightness + 5 * (1 - 2 * share)),
    "discrete": lambda share, _: 1 - share,
}


class Gairat(Method):
    def search(
        self,
        target: nn.Module,
        clean: Tensor,
        start: Tensor,
        *,
        labels: Tensor,
        objective: Objective,
        progress: float,  # noqa: ARG002
    ) -> Found:
        kappa = torch.zeros(len(clean), device=clean.device)

        def count(logits: Tensor) -> None:
            kappa.add_(logits.argmax(1) == labels)

        pictures = self.climb(target, clean, start, objective, watch=count)
        return Found(pictures, correct_steps=kappa)

    def loss(self, lesson: Lesson) -> Parts:
        adversarial = lesson.target(lesson.adversarial)
        weighted = self.weights(lesson) * cross_entropy(adversarial, lesson.labels)
        return {"ce": weighted} | self.clean_side(lesson, adversarial)

    @torch.no_grad()
    def weights(self, lesson: Lesson) -> Tensor:
        kappa, options = lesson.found.correct_steps, self.run.options
        assert kappa is not None
        if lesson.progress < options["burn_in"]:
            return torch.ones_like(kappa)
        steps = self.run.inner.steps
        # Discrete: (K + 1 - kappa) / (K + 1); the others read kappa / K.
        share = kappa / (steps + 1 if options["weighting"] == "discrete" else steps)
        weights = WEIGHTINGS[options["weighting"]](share, options["tightness"])
        total = weights.sum()
        lesson.average([total])
        return weights * len(weights) / total
