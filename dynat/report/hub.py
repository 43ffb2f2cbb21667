"""An exported run as the Hugging Face Hub reads it: config.json, and the metadata at the top of the model card.

Numbers in the metadata are those of the one network in model.safetensors, as shares between 0 and 1.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict

from dynat.config import Checkpoint, Run
from dynat.report import formatting
from dynat.report.robustbench import THREATS
from dynat.results.records import AttackMetrics, RunMetrics

FORMAT = 1
"""Version of config.json."""
DATASETS = {"cifar10": "uoft-cs/cifar10", "cifar100": "uoft-cs/cifar100", "svhn": "ufldl-stanford/svhn"}
"""Data sets that have a page on the hub, by the name that the presets give them."""
UNKNOWN = "unknown"
"""The hub's value for a license that was not given."""


class NetworkCode(BaseModel):
    """How the network is built: `from <module> import <factory>`, then `factory(**arguments)`."""

    module: str
    factory: str
    arguments: dict[str, Any]


class HubConfig(BaseModel):
    """config.json: what the weights are, for programs. README.md says it for people."""

    model_config = ConfigDict(extra="forbid")

    dynat_export: Literal[1] = 1
    """Version of this file; also the mark by which a later export knows that the folder is one."""
    architecture: str
    architectures: list[str]
    """The factory, where the hub looks for the name of a class."""
    network: NetworkCode
    num_classes: int
    id2label: dict[str, str]
    num_channels: int
    image_size: list[int]
    """Height and width."""
    pixel_range: list[float] = [0.0, 1.0]
    mean: list[float] | None
    std: list[float] | None
    """The normalization, which is the network's first layer; null where there is none."""
    padding: int
    """Black pixels that the network adds on each side before."""
    threat_model: dict[str, str | float]
    run: str
    seed: int
    onnx_opset: int | None
    files: list[str]
    """All files of the export; a later one deletes those that it does not write."""


def metadata(metrics: RunMetrics, seed: int, license_id: str) -> str:
    """The YAML at the top of README.md, between its two lines of dashes."""
    row, data = metrics.config, metrics.dataset
    known = DATASETS.get(data.name)
    results = {
        "task": {"type": "image-classification", "name": "Image Classification"},
        "dataset": {
            "name": _plain(formatting.dataset_title(data.name)),
            "type": known or _plain(data.name),
            "split": "test",
        },
        "metrics": [
            {"type": "accuracy", "name": _metric_name(name, cell, metrics), "value": round(cell.per_seed[seed], 6)}
            for name, cell in metrics.attacks.items()
            if cell.attack.weights == "best" and seed in cell.per_seed
        ],
    }
    content: dict[str, Any] = {
        "license": license_id,
        "library_name": "pytorch",
        "pipeline_tag": "image-classification",
        "tags": _tags(row, metrics),
        **({"datasets": [known]} if known else {}),
        "metrics": ["accuracy"],
        "model-index": [{"name": metrics.run, "results": [results]}],
    }
    return f"---\n{yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=math.inf)}---\n"


def _metric_name(name: str, cell: AttackMetrics, metrics: RunMetrics) -> str:
    images = "" if cell.n >= metrics.dataset.test else f", {formatting.test_images(cell.n, metrics.dataset)}"
    if cell.attack.kind == "clean":
        return _plain(f"Clean accuracy{images}")
    return _plain(f"Robust accuracy, {formatting.column_title(name)}, {formatting.ball(cell.attack)}{images}")


def _tags(row: Run | Checkpoint, metrics: RunMetrics) -> list[str]:
    tags = ["adversarial-robustness", f"{THREATS.get(metrics.threat.norm, metrics.threat.norm)}".lower()]
    if isinstance(row, Run):
        trained = ["dynat"] if row.labels == "dynamic" else []
        tags += ["adversarial-training", *trained, row.method] if row.method != "natural" else ["natural-training"]
    return tags


def _plain(text: str) -> str:
    """On one line, so that no line of the metadata is one that ends it."""
    return " ".join(text.split())
