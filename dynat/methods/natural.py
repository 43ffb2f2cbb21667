"""Natural training: CE on the clean images. The baseline that shows what robustness costs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dynat.methods.base import AttackResult, LossTerms, Method, StepInputs


class Natural(Method):
    def starting_point(self, clean: Tensor, generator: torch.Generator) -> Tensor:  # noqa: ARG002
        return clean

    def attack(self, target: nn.Module, clean: Tensor, start: Tensor, **_: Any) -> AttackResult:  # noqa: ARG002
        return AttackResult(clean)

    def loss(self, inputs: StepInputs) -> LossTerms:
        return {"ce": inputs.cross_entropy(inputs.target(inputs.clean))}
