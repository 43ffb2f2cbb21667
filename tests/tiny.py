"""A classification task of 8x8 pictures that a small network learns in milliseconds."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from dynat.config import Attack, Run, Threat, names
from dynat.data import Dataset, Pictures

CLASSES = 5
THREAT = Threat(eps=0.05)

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
probing: {pictures: 20, queries: 20, radii: [0, 1], steps: [1, 20, 30], restarts: 2}
attacks: {clean: {}, pgd-5: {}}
headline: pgd-5
"""
"""The smallest experiment that has everything: a few seconds through the whole pipeline."""


def pictures(per_class: int, seed: int, noise: float = 0.2) -> Pictures:
    """Five fixed patterns under noise."""
    patterns = torch.rand(CLASSES, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(CLASSES).repeat(per_class)
    offsets = noise * torch.randn(len(labels), 1, 8, 8, generator=generator)
    return Pictures((255 * (patterns[labels] + offsets).clamp(0, 1)).to(torch.uint8), labels)


def dataset(train: int = 11, validation: int = 6, test: int = 6) -> Dataset:
    """So many pictures per class in each split; 55 for training make 3 batches of 16 and 7 left over."""
    return Dataset.of(
        name="tiny",
        classes=tuple("abcde"),
        about={"source": "tests"},
        train=pictures(train, seed=1),
        validation=pictures(validation, seed=2),
        test=pictures(test, seed=3),
    )


def attack(kind: str = "pgd", **fields: object) -> Attack:
    """A quick attack; settings that its kind does not read are left out."""
    tuned = {"steps": 5, "step_size": THREAT.eps / 4, "start": "uniform", "searches": 3, **fields}
    read = {key: value for key, value in tuned.items() if key not in names.TUNED or key in names.ATTACKS[kind].reads}
    return Attack.model_validate({"kind": kind, "eps": THREAT.eps, "norm": "linf", "batch": 16, **read})


class Forbidden(Pictures):
    """Pictures that nobody may look at."""

    def __init__(self) -> None:
        pass

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("__"):
            return super().__getattribute__(name)
        raise AssertionError(f"somebody asked the test pictures for .{name}")

    def __len__(self) -> int:
        raise AssertionError("somebody counted the test pictures")

    def __getitem__(self, chosen: Any) -> Pictures:
        raise AssertionError("somebody took test pictures")


def without_test_pictures() -> Dataset:
    return dataclasses.replace(dataset(), test=Forbidden())


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
