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
    attack = Attack.model_validate(
        {"kind": kind, "norm": norm, "eps": eps, "step_size": eps / 3, "steps": 4, "start": "uniform", **more}
    )
    model = network(seed)
    labels = model(pictures).argmax(1)
    found = names.locate(names.ATTACKS[kind])(model, pictures, labels, attack, seed)
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


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_autoattack(norm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyautoattack.autoattack as upstream

    square = upstream.SquareAttack

    class Quick(square):  # type: ignore[misc, valid-type]
        """Square with fewer queries: the rules it keeps do not depend on how long it asks."""

        def perturb(self, *arguments: object, **named: object) -> object:
            self.n_queries = 50
            return super().perturb(*arguments, **named)

    monkeypatch.setattr(upstream, "SquareAttack", Quick)
    attacked("autoattack", norm, 0.05, seed=3)


def test_every_kind_is_held_to_the_rules() -> None:
    assert set(names.ATTACKS) == {"clean", "fgsm", "pgd", "cw", "autoattack"}, "a new kind belongs into this file"
