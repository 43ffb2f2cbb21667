"""Network architectures, by name. A network is a function from pixels in [0,1] to logits.

To add one: a factory that takes `classes` and `channels`, and an entry in `dynat.config.registry.NETWORKS`. A module
whose networks expect normalized pixels has a function `normalization` beside the factory, with the same arguments,
that returns mean and standard deviation; `build` makes it the first layer.
"""

from __future__ import annotations

import sys
from importlib.metadata import version

import torch
from torch import nn

from dynat.config import Normalization
from dynat.config.registry import check_network, locate, network_entry
from dynat.nn.modes import evaluating
from dynat.nn.normalize import normalized
from dynat.runtime.errors import UserError

__all__ = ["bare", "build", "classifier", "count_parameters", "normalization", "package_versions"]

Size = tuple[int, int]
"""Height and width of the images in pixels."""


def build(name: str, *, classes: int, channels: int, size: Size | None = None) -> nn.Module:
    """A new network, its weights drawn from torch's global generator; `UserError` for an unknown name.

    Its own normalization, if it has one, is its first layer. A network of a package is built for images of this
    `size`, or refused; ours take any size.
    """
    network = bare(name, classes=classes, channels=channels, size=size)
    own = normalization(name, classes=classes, channels=channels)
    return normalized(network, mean=own.mean, std=own.std) if own.mean and own.std else network


def bare(name: str, *, classes: int, channels: int, size: Size | None = None) -> nn.Module:
    """The same without its normalization: parameter names are those of the releases."""
    check_network(name)
    where, arguments = network_entry(name)
    factory = locate(where)
    if "/" not in name:
        network: nn.Module = factory(classes=classes, channels=channels, **arguments)
        return network
    try:
        network = factory(classes=classes, channels=channels, size=size, **arguments)
        if size is not None:
            _try_out(network, torch.zeros(1, channels, *size), classes)
    except Exception as error:  # other people's code; what it raises for a size is its own affair
        shape = " x ".join(map(str, (channels, *size))) if size else f"{channels} channels"
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(
            f"{name} cannot be used on these images ({shape}): {reason}. Choose another network, or another size of "
            "the images"
        ) from error
    return network


def _try_out(network: nn.Module, image: torch.Tensor, classes: int) -> None:
    with torch.no_grad(), evaluating(network):
        logits = network(image)
    if not isinstance(logits, torch.Tensor) or logits.shape != (1, classes):
        raise ValueError(f"it returns {getattr(logits, 'shape', type(logits).__name__)} instead of {classes} logits")


def normalization(name: str, *, classes: int, channels: int) -> Normalization:
    """What the published weights of this network expect as its first layer; empty for most networks."""
    where, arguments = network_entry(name)
    locate(where)
    of_module = getattr(sys.modules[where.partition(":")[0]], "normalization", None)
    if of_module is None:
        return Normalization()
    mean, std = of_module(classes=classes, channels=channels, **arguments)
    return Normalization(mean=mean, std=std)


def classifier(name: str, *, classes: int, channels: int, size: Size | None = None) -> set[str]:
    """The weights of `bare` whose shape depends on the number of classes: those that another data set cannot use."""

    def shapes(count: int) -> dict[str, torch.Size]:
        with torch.random.fork_rng(devices=[]):
            try:
                with torch.device("meta"):  # without values
                    network = bare(name, classes=count, channels=channels, size=size)
            except UserError:  # one that reads values of its weights while it is built
                network = bare(name, classes=count, channels=channels, size=size)
        return {key: tensor.shape for key, tensor in network.state_dict().items()}

    these, others = shapes(classes), shapes(classes + 1)
    return {key for key in these if these[key] != others.get(key)}


def package_versions(*names: str | None) -> dict[str, str]:
    """Of the packages whose code these networks are: a part of what a result depends on."""
    packages = {name.partition("/")[0] for name in names if name is not None and "/" in name}
    return {package: version(package) for package in sorted(packages)}


def count_parameters(model: nn.Module) -> int:
    """The number of trainable values; running statistics are not among them."""
    return sum(parameter.numel() for parameter in model.parameters())
