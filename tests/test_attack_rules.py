"""With any settings, an attack returns images inside the ball and inside [0,1]."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dynat.config import AttackConfig, registry
from dynat.pgd import Ball

CLASSES, SHAPE = 5, (3, 8, 8)


def network(seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.ReLU(), nn.Linear(16, CLASSES)).eval()


def check_attack(kind: str, norm: str, eps: float, seed: int, **more: object) -> None:
    generator = torch.Generator().manual_seed(seed)
    # Black and white pixels too: that is where a clamp is forgotten.
    images = torch.rand(6, *SHAPE, generator=generator).mul(1.4).sub(0.2).clamp(0, 1)
    chosen = {"step_size": eps / 3, "steps": 4, "start": "uniform", "binary_search_steps": 3, **more}
    used = {key: value for key, value in chosen.items() if key in registry.ATTACKS[kind].reads}
    attack = AttackConfig.model_validate({"kind": kind, "norm": norm, "eps": eps, **used})
    model = network(seed)
    labels = model(images).argmax(1)
    adversarial = registry.locate(registry.ATTACKS[kind].where)(model, images, labels, attack, seed)
    assert adversarial.shape == images.shape and torch.isfinite(adversarial).all()
    assert adversarial.min() >= 0 and adversarial.max() <= 1
    assert (Ball(norm, eps).distance(adversarial, images) <= eps + 1e-6).all()


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(["clean", "fgsm", "pgd", "cw"]),
    norm=st.sampled_from(["linf", "l2", "l1"]),
    eps=st.floats(1e-3, 0.99),
    start=st.sampled_from(["uniform", "none"]),
    restarts=st.integers(1, 3),
    seed=st.integers(0, 10**6),
)
def test_first_order_attacks(kind: str, norm: str, eps: float, start: str, restarts: int, seed: int) -> None:
    check_attack(kind, norm, eps, seed, start=start, restarts=restarts)


@settings(max_examples=20, deadline=None)
@given(eps=st.floats(1e-3, 2.0), rate=st.floats(1e-3, 1.0), seed=st.integers(0, 10**6))
def test_cw_l2(eps: float, rate: float, seed: int) -> None:
    check_attack("cw-l2", "l2", eps, seed, step_size=rate)


WHOLE = ("autoattack", "autoattack-plus", "autoattack-rand")
PARTS = tuple(dict.fromkeys(part for kind in WHOLE for part in registry.attack_parts(kind)))


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("part", PARTS)
def test_the_parts_of_autoattack(part: str, norm: str) -> None:
    # Square stays in the ball for any number of queries.
    check_attack(part, norm, 0.05, seed=3, steps=50)


def test_every_registered_attack_is_tested_here() -> None:
    tested = {"clean", "fgsm", "pgd", "cw", "cw-l2", *PARTS, *WHOLE}
    assert set(registry.ATTACKS) == tested, "a new kind needs a test in this file"
