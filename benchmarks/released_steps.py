"""The training steps of AT and TRADES as released, restated from their formulas as eager float32 programs.

AT is that of scripts which search in evaluation mode. TRADES computes the clean probabilities again in each inner step,
as its released function does.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPS, ALPHA, STEPS = 0.031, 0.007, 10


def search(x: Tensor, start: Tensor, loss_of: Callable[[Tensor], Tensor]) -> Tensor:
    adversarial = start
    for _ in range(STEPS):
        adversarial.requires_grad_()
        with torch.enable_grad():
            loss = loss_of(adversarial)
        gradient = torch.autograd.grad(loss, [adversarial])[0]
        adversarial = adversarial.detach() + ALPHA * gradient.sign()
        adversarial = torch.min(torch.max(adversarial, x - EPS), x + EPS).clamp(0.0, 1.0)
    return adversarial.detach()


def at_step(network: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> Tensor:
    network.eval()
    start = (x + torch.empty_like(x).uniform_(-EPS, EPS)).clamp(0, 1)
    adversarial = search(x, start, lambda images: F.cross_entropy(network(images), y))
    network.train()
    optimizer.zero_grad()
    loss = F.cross_entropy(network(adversarial), y)
    loss.backward()
    optimizer.step()
    return loss.detach()


def trades_step(network: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> Tensor:
    network.eval()
    start = x + 0.001 * torch.randn_like(x)
    adversarial = search(
        x, start, lambda images: F.kl_div(F.log_softmax(network(images), 1), F.softmax(network(x), 1), reduction="sum")
    )
    network.train()
    optimizer.zero_grad()
    clean = network(x)
    consistency = F.kl_div(F.log_softmax(network(adversarial), 1), F.softmax(network(x), 1), reduction="batchmean")
    loss = F.cross_entropy(clean, y) + 6.0 * consistency
    loss.backward()
    optimizer.step()
    return loss.detach()
