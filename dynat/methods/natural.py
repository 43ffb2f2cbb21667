"""Natural training: CE on the clean pictures. What the table needs to show what robustness costs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dynat.losses import cross_entropy
from dynat.methods.base import Found, Lesson, Method, Parts


class Natural(Method):
    def start(self, clean: Tensor, generator: torch.Generator) -> Tensor:  # noqa: ARG002
        return clean

    def search(self, target: nn.Module, clean: Tensor, start: Tensor, **_: Any) -> Found:  # noqa: ARG002
        return Found(clean)

    def loss(self, lesson: Lesson) -> Parts:
        return {"ce": cross_entropy(lesson.target(lesson.clean), lesson.labels)}
