"""A classification task of 8x8 images that a small network learns in milliseconds, and runs, attacks and jobs on it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from dynat.config import AttackConfig, EvaluationSpec, Run, ThreatModel, TrainingSpec, registry
from dynat.data import Dataset, LabeledImages
from dynat.results.paths import Paths

CLASSES = 5
THREAT = ThreatModel(eps=0.05)

PRESET = """
dataset: {name: digits, source: digits, validation: 0.1}
threat: {norm: linf, eps: 0.15}
training:
  target: small
  guide: small
  precision: float32
  epochs: 2
  batch: 64
  inner: {steps: 2, step_size: 0.08}
  augmentation: {padding: 0, flip: false}
  validation: {steps: 2}
seeds: [0]
runs:
  at: {method: at}
  dynat: {method: at, labels: dynamic}
sanity: {images: 20, queries: 20, radii: [0, 1], steps: [1, 20, 30], restarts: 2}
attacks: {clean: {}, pgd-5: {}}
headline: pgd-5
"""
"""A small complete experiment: the whole pipeline takes a few seconds."""


def images(per_class: int, seed: int, noise: float = 0.2) -> LabeledImages:
    """Noisy copies of five fixed patterns, one per class."""
    patterns = torch.rand(CLASSES, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(CLASSES).repeat(per_class)
    offsets = noise * torch.randn(len(labels), 1, 8, 8, generator=generator)
    return LabeledImages((255 * (patterns[labels] + offsets).clamp(0, 1)).to(torch.uint8), labels)


def dataset(train: int = 11, validation: int = 6, test: int = 6) -> Dataset:
    """Splits with so many images per class; 55 training images are 3 batches of 16 and 7 more."""
    return Dataset.from_splits(
        name="tiny",
        classes=tuple("abcde"),
        origin={"source": "tests"},
        train=images(train, seed=1),
        validation=images(validation, seed=2),
        test=images(test, seed=3),
    )


def attack(kind: str = "pgd", **fields: object) -> AttackConfig:
    """A short attack; settings that its kind does not read are left out."""
    chosen: dict[str, object] = {
        "steps": 5,
        "step_size": THREAT.eps / 4,
        "start": "uniform",
        "binary_search_steps": 3,
        **fields,
    }
    unread = set(registry.KIND_SETTINGS) - set(registry.ATTACKS[kind].reads)
    used = {key: value for key, value in chosen.items() if key not in unread}
    return AttackConfig.model_validate({"kind": kind, "eps": THREAT.eps, "norm": "linf", "batch": 16, **used})


class ForbiddenImages(LabeledImages):
    """Test images that a training must not read."""

    def __init__(self) -> None:
        pass

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("__"):
            return super().__getattribute__(name)
        raise AssertionError(f"test images were read: .{name}")

    def __len__(self) -> int:
        raise AssertionError("test images were counted")

    def __getitem__(self, index: Any) -> LabeledImages:
        raise AssertionError("test images were read")


def without_test_images() -> Dataset:
    return dataclasses.replace(dataset(), test=ForbiddenImages())


def run(**fields: object) -> Run:
    base: dict[str, object] = {
        "method": "at",
        "target": "small",
        "epochs": 3,
        "batch": 16,
        "inner": {"eps": 0.05, "step_size": 0.02, "steps": 2},
        "augmentation": {"padding": 1, "flip": True},
        "validation": {"steps": 2},
        "precision": "float32",
    }
    return Run.model_validate({**base, **fields})


def dynat(**fields: object) -> Run:
    return run(labels="dynamic", guide="small", beta=2.0, clean_forward=True, **fields)


def paths_in(folder: Path) -> Paths:
    """The files of a project in `folder`."""
    return Paths(folder / "data", folder / "results", folder / "state")


def training_spec(run: Run) -> TrainingSpec:
    return TrainingSpec(preset="tests", name="some-run", data="tiny", threat=THREAT, run=run)


def evaluation_spec(kind: str = "pgd", *, seeds: tuple[int, ...] = (0,), **fields: object) -> EvaluationSpec:
    """An evaluation of the run of `training_spec`."""
    config = attack(kind, **{"steps": 4, "step_size": THREAT.eps / 2, "batch": 8, **fields})
    return EvaluationSpec(
        preset="tests", name="some-run", data="tiny", seeds=seeds, attack_name="some-attack", attack=config
    )
