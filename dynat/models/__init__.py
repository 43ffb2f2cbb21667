"""The networks, by name. A network is a function of pixels in [0,1] and gives logits.

To add one: a factory that takes `classes` and `channels`, and an entry in `dynat.config.names.NETWORKS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from dynat.config.names import locate, network_entry
from dynat.models.normalised import normalised
from dynat.models.state import evaluating, frozen, load_weights, save_weights

__all__ = [
    "build",
    "count_parameters",
    "evaluating",
    "frozen",
    "load_weights",
    "normalised",
    "published",
    "save_weights",
]


def build(name: str, *, classes: int, channels: int) -> nn.Module:
    """A new network, its weights drawn from torch's global generator; `ValueError` for an unknown name."""
    where, sizes = network_entry(name)
    network: nn.Module = locate(where)(classes=classes, channels=channels, **sizes)
    return network


def published(config: Mapping[str, Any]) -> nn.Module:
    """The network of a result's config.json, for its weights to be loaded into."""
    run, dataset = config["run"], config["dataset"]
    network = build(run["target"], classes=len(dataset["classes"]), channels=dataset["channels"])
    standard = run.get("options") or {}
    if run["method"] == "external" and standard.get("mean"):
        return normalised(network, mean=standard["mean"], std=standard["std"])
    return network


def count_parameters(model: nn.Module) -> int:
    """The numbers that training can change; running statistics are not among them."""
    return sum(parameter.numel() for parameter in model.parameters())
