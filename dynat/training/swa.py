"""Stochastic weight averaging (Izmailov et al. 2018): the mean of the target's weights at the end of the last epochs.

The statistics of a BatchNorm are those of one network's activations, so their mean over epochs is not that of the
averaged network. They are computed for it before it is validated, from the forwards of a training step: the target has
learned on adversarial images, and clean ones alone (what `torch.optim.swa_utils.update_bn` forwards, given the training
images) have other statistics.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import nn

from dynat.config import Run
from dynat.methods import Method
from dynat.nn.modes import evaluating
from dynat.training.batches import Batch
from dynat.training.distributed import Distributed
from dynat.training.networks import Networks
from dynat.training.step import training_step


@torch.no_grad()
def compute_statistics(
    average: nn.Module,
    guide: nn.Module | None,
    method: Method,
    run: Run,
    batches: Iterator[Batch],
    *,
    noise: torch.Generator,
    progress: float,
    distributed: Distributed,
) -> None:
    """Give the BatchNorms of `average` the mean statistics of its forwards on these batches; the guide stays."""
    unperturbed = run.model_copy(update={"awp": None})
    with cumulative_statistics(average), nullcontext() if guide is None else evaluating(guide):
        for pixels, truth in batches:
            start = method.starting_point(pixels, noise)
            shares = (distributed.shard(part) for part in (pixels, truth, start))
            training_step(
                Networks(average, guide), method, unperturbed, *shares,
                progress=progress, update=lambda loss: None, distributed=distributed,
            )  # fmt: skip


@contextmanager
def cumulative_statistics(model: nn.Module) -> Iterator[None]:
    """Training mode; every BatchNorm's statistics become the plain means of those of the batches forwarded inside.

    Until the first forward they are the old ones, so that an attack can query the model before it.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.train()
        for norm in norms:
            norm.momentum = None
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked.zero_()
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, mode in modes:
            module.training = mode
