"""The first weights of a network that is trained further: of a file of ours or of others.

Every weight must fit by name and shape, except those of the classifier, which stay random where the file has none for
this number of classes: a network that was trained on ImageNet can start a training on ten classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from dynat import models
from dynat.checkpoints.third_party import network_tensors, same_normalization
from dynat.checkpoints.weights import fill
from dynat.config import Normalization
from dynat.runtime.errors import UserError


@dataclass(frozen=True)
class Start:
    """What a file did not give."""

    fresh: tuple[str, ...]
    """Weights of the classifier that are still random; empty where the file fits completely."""
    normalization: Normalization
    """What the network does to pixels first; empty for nothing."""


def start_from_file(
    network: nn.Module, path: Path, *, name: str, classes: int, channels: int, size: tuple[int, int] | None = None
) -> Start:
    """Fill `network`, which `models.build` made of these arguments, with the weights of a file.

    All or nothing: `UserError` for a name or a shape outside the classifier that does not fit, with the tensors by
    name, and for a normalization that the network does not have. `network` is then unchanged.
    """
    own = models.normalization(name, classes=classes, channels=channels)
    bare = network.get_submodule("model") if own.mean else network
    expected = bare.state_dict()
    weights, in_file, _ = network_tensors(path, expected)
    if in_file.mean and not own.mean:
        raise UserError(
            f"{path}: its network normalizes pixels first ({in_file}), and {name} reads pixels in [0,1] as they are: "
            "in it these weights would mean nothing"
        )
    head = models.classifier(name, classes=classes, channels=channels, size=size)
    fits = all(key in weights and weights[key].shape == expected[key].shape for key in head)
    fresh = () if fits else tuple(key for key in expected if key in head)
    fill(bare, weights | {key: expected[key] for key in fresh}, path)
    if in_file.mean and not same_normalization(in_file, own):
        own = in_file
        for buffer, values in (("mean", in_file.mean), ("std", in_file.std)):
            constant = network.get_buffer(f"normalize.{buffer}")
            constant.copy_(torch.tensor(values).view(1, -1, 1, 1))
    return Start(fresh, own)
