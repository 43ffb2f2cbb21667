"""Where the target's labels come from: the one thing DYNAT changes in adversarial training.

Dynamic labels are the guide's current decisions on the clean pictures, one-hot through argmax, so no
gradient passes through them (the paper's l_nat).
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

LabelSource = Callable[[Tensor | None, Tensor], Tensor]
"""(guide's logits on the clean pictures, ground truth) to the labels for the target."""


def true_labels(guide_logits: Tensor | None, truth: Tensor) -> Tensor:  # noqa: ARG001
    return truth


def dynamic_labels(guide_logits: Tensor | None, truth: Tensor) -> Tensor:  # noqa: ARG001
    assert guide_logits is not None, "the config refuses dynamic labels without a guide"
    return guide_logits.detach().argmax(1)


LABEL_SOURCES: dict[str, LabelSource] = {"true": true_labels, "dynamic": dynamic_labels}
