"""Losses per example, in float32; callers reduce last."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def cross_entropy(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """`labels` are classes, or a probability per class."""
    return F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)


def label_class(labels: Tensor) -> Tensor:
    """The class of each image: of a mixed one, the class with the largest share."""
    return labels if labels.ndim == 1 else labels.argmax(1)


def kl(clean: Tensor, other: Tensor) -> Tensor:
    """KL(p || p') summed over classes, from logits; in log space, and nothing is detached."""
    log_p, log_q = clean.log_softmax(1), other.log_softmax(1)
    return (log_p.exp() * (log_p - log_q)).sum(1)


def squared_difference(a: Tensor, b: Tensor) -> Tensor:
    """Mean over classes of the squared difference of logits (so it shrinks with the number of classes)."""
    return (a - b).square().mean(1)


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """The largest other logit minus the label's: above zero where the image is misclassified."""
    label_logit = logits.gather(1, labels[:, None]).squeeze(1)
    others = logits.scatter(1, labels[:, None], float("-inf"))
    return others.amax(1) - label_logit


def probability_gap(logits: Tensor, labels: Tensor) -> Tensor:
    """The largest other probability minus the label's, in [-1,1]: above zero where the image is misclassified."""
    probabilities = logits.softmax(1)
    label_probability = probabilities.gather(1, labels[:, None]).squeeze(1)
    return probabilities.scatter(1, labels[:, None], -1.0).amax(1) - label_probability
