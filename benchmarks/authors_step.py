"""The authors' training step, restated from their formulas as an eager float32 program: the reference for timings.

Per step: ten inner steps, each with a forward of the guide (train mode) for the labels, a forward of the
target and a gradient; then an adversarial, an unused clean and a guide forward; one backward; one SGD step.
That is the work of 24 F + 13 G forwards, where 24 F + 3 G would do.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def authors_step(
    target: nn.Module,
    guide: nn.Module,
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    y: Tensor,
    *,
    label_once: bool = False,
) -> Tensor:
    """`label_once` only leaves out the guide's ten repeated forwards: the first line of the ablation."""
    eps, alpha, steps = 0.031, 0.007, 10
    target.eval()
    adversarial = x.detach() + 0.001 * torch.randn_like(x)
    guide_logits = guide(x) if label_once else None
    for _ in range(steps):
        adversarial.requires_grad_()
        with torch.enable_grad():
            labels = (guide(x) if guide_logits is None else guide_logits).argmax(1)
            loss = F.cross_entropy(target(adversarial), labels)
        gradient = torch.autograd.grad(loss, [adversarial])[0]
        adversarial = adversarial.detach() + alpha * gradient.sign()
        adversarial = torch.min(torch.max(adversarial, x - eps), x + eps).clamp(0.0, 1.0)
    target.train()
    optimizer.zero_grad()
    adversarial_logits = target(adversarial.detach())
    target(x)
    guide_logits = guide(x) if guide_logits is None else guide_logits
    labels = guide_logits.detach().argmax(1)
    loss = F.cross_entropy(guide_logits, y) + F.cross_entropy(adversarial_logits, labels)
    loss.backward()
    optimizer.step()
    return loss.detach()
