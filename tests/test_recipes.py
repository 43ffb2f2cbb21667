"""The CIFAR presets agree with their sources: the numbers here were copied from those, not from the presets.

Epochs are finished epochs: epoch 75 of a source that counts from one begins after 74.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from dynat.config import load
from dynat.training.schedule import learning_rate


@dataclass(frozen=True)
class Recipe:
    """A source's recipe; what it does not state is TRADES', which most of them use."""

    rates: dict[int, float]
    """The learning rate from the epoch after so many finished ones on."""
    epochs: int = 100
    decay: float = 2e-4
    eps: float = 0.031
    step: float = 0.007
    start: str = "gauss"
    consistency: float = 0.0
    options: dict[str, Any] = field(default_factory=dict)
    awp: tuple[float, float, str] | None = None
    """gamma, share of the training before it begins, proxy."""


DYNAT = {0: 0.02, 1: 0.1, 75: 0.01, 90: 0.001}
MART_18 = {0: 0.01, 74: 0.001, 89: 1e-4, 99: 1e-5}
MAIL_18 = {0: 0.01, 75: 0.001, 90: 1e-4, 100: 1e-5}
MAIL_AT = {"slope": 10, "bias": -0.5, "burn_in": 76 / 120}
MAIL_TRADES = {"slope": 2, "bias": 0, "burn_in": 76 / 120}
EIGHT: dict[str, Any] = {"eps": 8 / 255, "step": 2 / 255}

RESNET_18: dict[str, Recipe] = {
    "natural": Recipe(DYNAT),
    "at": Recipe(DYNAT, start="uniform"),
    "trades": Recipe(DYNAT, consistency=6),
    "mart": Recipe(MART_18, epochs=120, decay=3.5e-3, consistency=5),
    "sat": Recipe(DYNAT, start="uniform", options={"easy": 0.0, "ramp": 0.5}),  # the ramp is ours
    "lbgat0": Recipe(DYNAT),
    "lbgat6": Recipe(DYNAT, consistency=6),
    "gairat": Recipe(
        {0: 0.1, 29: 0.01, 59: 0.001},
        start="uniform",
        options={"burn_in": 0.29, "tightness": -1, "weighting": "tanh"},
    ),
    "mail-at": Recipe(MAIL_18, epochs=120, decay=3.5e-3, options=MAIL_AT),
    "mail-trades": Recipe(MAIL_18, epochs=120, decay=3.5e-3, consistency=5, options=MAIL_TRADES),
    "dynat": Recipe(DYNAT),
    "dynat-kl6": Recipe(DYNAT, consistency=6),
    "dynat-awp-released": Recipe(DYNAT, consistency=5, awp=(0.005, 0.09, "trades")),
    "at-awp": Recipe(DYNAT, start="uniform", awp=(0.01, 0, "method")),
    "at-awp-200": Recipe(
        {0: 0.1, 100: 0.01, 150: 0.001}, epochs=200, decay=5e-4, start="uniform", awp=(0.01, 0, "method"), **EIGHT
    ),
    "trades-awp-200": Recipe(
        {0: 0.1, 99: 0.01, 149: 0.001}, epochs=200, decay=5e-4, consistency=6, awp=(0.005, 0.045, "method"), **EIGHT
    ),
    "trades-76": Recipe({0: 0.1, 74: 0.01}, epochs=76, consistency=6),
}
WIDE: dict[str, Recipe] = {
    "mart": Recipe({0: 0.1, 74: 0.01, 89: 0.001}, epochs=90, decay=7e-4, consistency=6),
    "gairat": Recipe(
        {0: 0.1, 59: 0.01, 89: 0.001, 109: 0.0005},
        epochs=120,
        start="uniform",
        options={"burn_in": 59 / 120, "tightness": -1, "weighting": "tanh"},
    ),
    "dynat": Recipe(DYNAT),
}
HOSTS = {"dynat-trades": "trades", "dynat-mart": "mart", "dynat-gairat": "gairat", "dynat-mail": "mail-at"}
CASES = [
    *(("cifar10-resnet18", name, recipe) for name, recipe in RESNET_18.items()),
    *(("cifar10-resnet18", name, RESNET_18[host]) for name, host in HOSTS.items()),
    *(("cifar10-wrn34-10", name, recipe) for name, recipe in WIDE.items()),
    *(("cifar10-wrn34-10", name, WIDE[host]) for name, host in HOSTS.items() if host in WIDE),
    *(("cifar100-resnet18", name, RESNET_18[name]) for name in ("mart", "gairat", "dynat")),
    *(("cifar100-wrn34-10", name, WIDE[name]) for name in ("mart", "gairat", "dynat")),
]


@pytest.mark.parametrize(("preset", "name", "recipe"), CASES)
def test_a_run_of_the_presets_is_what_its_source_says(preset: str, name: str, recipe: Recipe) -> None:
    run = load({"preset": preset}).runs[name]
    expected, rate = [], 0.0
    for epoch in range(recipe.epochs):
        rate = recipe.rates.get(epoch, rate)
        expected.append(rate)
    assert run.epochs == recipe.epochs
    rates = [learning_rate(run.schedule, epochs=run.epochs, progress=epoch) for epoch in range(run.epochs)]
    assert rates == pytest.approx(expected)
    assert (run.optimizer.momentum, run.optimizer.weight_decay) == (0.9, recipe.decay)
    assert (run.batch, run.inner.steps, run.inner.objective) == (128, 10, "kl" if "released" in name else "method")
    assert (run.inner.eps, run.inner.step_size, run.inner.start) == pytest.approx(
        (recipe.eps, recipe.step, recipe.start)
    )
    assert (run.augmentation.padding, run.augmentation.flip) == (4, True)
    assert run.consistency == recipe.consistency
    assert run.options == pytest.approx(recipe.options)
    awp = None if run.awp is None else (run.awp.gamma, run.awp.warm_up, run.awp.proxy)
    assert awp == recipe.awp


def test_the_balances_of_dynat() -> None:
    runs = load({"preset": "cifar10-resnet18"}).runs
    assert {name: runs[name].beta for name in ("dynat", "dynat-beta-0.2", "dynat-beta-6", "dynat-awp-released")} == {
        "dynat": 1.0,
        "dynat-beta-0.2": 0.2,
        "dynat-beta-6": 6.0,
        "dynat-awp-released": 0.2,
    }
    assert {name: runs[name].consistency for name in runs if "dynat" in name and runs[name].consistency} == {
        "dynat-kl6": 6.0,
        "dynat-awp-released": 5.0,
        "dynat-trades": 6.0,
        "dynat-mart": 5.0,
    }


@pytest.mark.parametrize("preset", ["cifar10-resnet18", "cifar10-wrn34-10", "cifar100-resnet18", "cifar100-wrn34-10"])
def test_the_attacks_of_the_presets(preset: str) -> None:
    plan = load({"preset": preset})
    assert plan.threat.norm == "linf"
    assert plan.threat.eps == pytest.approx(8 / 255)
    attacks = {
        name: (attack.kind, attack.steps, attack.eps, attack.images, attack.weights)
        for name, attack in plan.attacks.items()
        if name != "fgsm"
    }
    eps = pytest.approx(8 / 255)
    assert attacks == {
        "clean": ("clean", None, eps, None, "best"),
        "pgd-20": ("pgd", 20, eps, None, "best"),
        "pgd-100": ("pgd", 100, eps, None, "best"),
        "cw-20": ("cw", 20, eps, None, "best"),
        "autoattack": ("autoattack", None, eps, None, "best"),
        "autoattack-1000": ("autoattack", None, 0.031, 1000, "best"),
        "pgd-20-last": ("pgd", 20, eps, None, "last"),
    }
