"""Whatever an attack is asked to do, it hands back pictures inside the ball and inside [0,1]."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dynat.config import Attack, names
from dynat.inner import Ball

CLASSES, SHAPE = 5, (3, 8, 8)


def network(seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.ReLU(), nn.Linear(16, CLASSES)).eval()


def attacked(kind: str, norm: str, eps: float, seed: int, **more: object) -> None:
    generator = torch.Generator().manual_seed(seed)
    # Black and white pixels too: that is where a clamp is forgotten.
    pictures = torch.rand(6, *SHAPE, generator=generator).mul(1.4).sub(0.2).clamp(0, 1)
    tuned = {"step_size": eps / 3, "steps": 4, "start": "uniform", "searches": 3, **more}
    read = {key: value for key, value in tuned.items() if key in names.ATTACKS[kind].reads}
    attack = Attack.model_validate({"kind": kind, "norm": norm, "eps": eps, **read})
    model = network(seed)
    labels = model(pictures).argmax(1)
    found = names.locate(names.ATTACKS[kind].where)(model, pictures, labels, attack, seed)
    assert found.shape == pictures.shape and torch.isfinite(found).all()
    assert found.min() >= 0 and found.max() <= 1
    assert (Ball(norm, eps).distance(found, pictures) <= eps + 1e-6).all()


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(["clean", "fgsm", "pgd", "cw"]),
    norm=st.sampled_from(["linf", "l2"]),
    eps=st.floats(1e-3, 0.99),
    start=st.sampled_from(["uniform", "none"]),
    restarts=st.integers(1, 3),
    seed=st.integers(0, 10**6),
)
def test_first_order_attacks(kind: str, norm: str, eps: float, start: str, restarts: int, seed: int) -> None:
    attacked(kind, norm, eps, seed, start=start, restarts=restarts)


@settings(max_examples=20, deadline=None)
@given(eps=st.floats(1e-3, 2.0), rate=st.floats(1e-3, 1.0), seed=st.integers(0, 10**6))
def test_the_nearest_wrong_picture(eps: float, rate: float, seed: int) -> None:
    attacked("cw-l2", "l2", eps, seed, step_size=rate)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("part", names.attack_parts("autoattack"))
def test_the_parts_of_autoattack(part: str, norm: str) -> None:
    # Square keeps the same rules however long it asks.
    attacked(part, norm, 0.05, seed=3, steps=50)


def test_every_kind_is_held_to_the_rules() -> None:
    held = {"clean", "fgsm", "pgd", "cw", "cw-l2", *names.attack_parts("autoattack"), "autoattack"}
    assert set(names.ATTACKS) == held, "a new kind belongs into this file"
