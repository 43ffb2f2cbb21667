"""A view of the network may help a search; it never decides, and one that says something else is not asked."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dynat import models
from dynat.attacks import examine
from dynat.attacks import examine as examine_module
from dynat.attacks.asked import asked
from dynat.config import Attack
from dynat.data import Pictures, to_pixels
from dynat.models.view import View
from tests import tiny
from tests.test_attacks import fewer_queries, fit

__all__ = ["fewer_queries"]

attack = tiny.attack


@pytest.fixture(scope="module")
def pictures() -> Pictures:
    return tiny.pictures(per_class=8, seed=3, noise=0.6)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """Convolutions before BatchNorm, which fold, behind a standardisation of pixels, which does not."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        small = models.build("small", classes=tiny.CLASSES, channels=1)
        return fit(models.normalised(small, mean=[0.5], std=[0.25]), tiny.pictures(20, seed=1, noise=0.6), steps=12)


def stands(network: nn.Module, pictures: Pictures, settings: Attack) -> Tensor:
    return examine(network, pictures, settings).columns["correct"]


# --- verdicts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("view", ["float32", "float16"])
@pytest.mark.parametrize("kind", ["fgsm", "pgd", "cw", "autoattack"])
@pytest.mark.usefixtures("fewer_queries")
def test_verdicts_are_those_without_a_view(kind: str, view: str, network: nn.Module, pictures: Pictures) -> None:
    few = pictures.first(24)
    settings = {"kind": kind, "eps": 0.06, **({"step_size": 0.015} if kind in ("pgd", "cw") else {})}
    plain, exam = (examine(network, few, attack(**settings, view=chosen)) for chosen in ("none", view))
    assert (plain.asked, exam.asked) == ("network", f"{view} view")
    assert 0 < int(plain.columns["correct"].sum()) < int((plain.columns["clean"] == few.labels).sum())
    assert torch.equal(exam.columns["correct"], plain.columns["correct"])


class Lying(nn.Module):
    """A view that is sure of class 0, whatever it sees, and has a gradient."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pictures: Tensor) -> Tensor:
        logits: Tensor = self.network(pictures)
        return logits + 100 * nn.functional.one_hot(torch.tensor(0), logits.shape[1])


def test_what_fools_only_the_view_is_attacked_again_on_the_network(
    network: nn.Module, pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a view takes almost every picture for broken at once, so a search that asks it finds nothing."""
    settings = attack(steps=10)
    wanted = stands(network, pictures, attack(steps=10, view="none"))
    module = sys.modules[examine_module.__module__]
    monkeypatch.setattr(module, "asked", lambda *_: (Lying(network), "a lie"))
    exam = examine(network, pictures, settings)
    clean = exam.columns["clean"] == pictures.labels
    assert exam.asked == "a lie"
    assert exam.attacked_again > 0.7 * int((clean & (pictures.labels != 0)).sum())
    others = pictures.labels != 0  # of class 0 it never lets a search succeed: no verdict could help that
    assert (exam.columns["correct"] != wanted)[others].sum() <= 1
    assert int(wanted[others].sum()) < int(clean[others].sum())


def test_a_view_is_counted_like_the_network(network: nn.Module, pictures: Pictures) -> None:
    plain, exam = (examine(network, pictures, attack(view=view)) for view in ("none", "float32"))
    assert exam.backward_passes == plain.backward_passes
    assert exam.forward_passes == plain.forward_passes + int(exam.columns["correct"].sum())


# --- whom to ask ----------------------------------------------------------------------------------------------


class Changed(nn.Module):
    """A network behind something that a view may not follow."""

    def __init__(self, network: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.network, self.change = network, change

    def forward(self, pictures: Tensor) -> Tensor:
        logits: Tensor = self.network(self.change(pictures))
        return logits


class Uncopyable(Changed):
    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        raise TypeError("there can be only one")


DEFENCES: dict[str, tuple[Callable[[nn.Module], nn.Module], str, str]] = {
    "chance": (lambda net: Changed(net, lambda x: x + 0.1 * torch.rand_like(x)), "float32", "apart"),
    "no gradient": (lambda net: Changed(net, lambda x: x.detach()), "float32", "RuntimeError"),
    "no copy": (lambda net: Uncopyable(net, lambda x: x), "float32", "TypeError"),
    "beyond float16": (lambda net: Changed(net, lambda x: x * 1e6), "float16", "apart"),
}


@pytest.mark.parametrize("name", DEFENCES)
def test_a_network_whose_view_says_something_else_is_asked_itself(
    name: str, network: nn.Module, pictures: Pictures
) -> None:
    defence, precision, why = DEFENCES[name]
    defended = defence(network).eval()
    whom, said = asked(defended, to_pixels(pictures.images), precision)
    assert whom is defended
    assert said.startswith(f"network ({precision} view: ") and why in said


def test_auto_is_float32_without_a_gpu(network: nn.Module, pictures: Pictures) -> None:
    pixels = to_pixels(pictures.images)
    whom, said = asked(network, pixels, "auto")
    assert isinstance(whom, View) and said == "float32 view"
    assert asked(network, pixels, "none") == (network, "network")


def test_whom_is_asked_leaves_the_network_as_it_was(network: nn.Module, pictures: Pictures) -> None:
    network.train()
    try:
        before = {name: value.clone() for name, value in network.state_dict().items()}
        asked(network, to_pixels(pictures.images), "float32")
        assert all(module.training for module in network.modules())
        assert all(parameter.requires_grad for parameter in network.parameters())
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    finally:
        network.eval()


# --- float16 --------------------------------------------------------------------------------------------------


def gradient(network: nn.Module, pixels: Tensor, weight: Tensor) -> Tensor:
    pixels = pixels.clone().requires_grad_()
    return torch.autograd.grad((network(pixels) * weight).sum(), pixels)[0]


@pytest.mark.parametrize("size", [1.0, 1e-12, 1e12])
def test_float16_keeps_the_smallest_gradients(size: float, network: nn.Module, pictures: Pictures) -> None:
    """A cross-entropy's gradient is tiny where a network is sure, and differs by powers of ten from picture to
    picture."""
    pixels = to_pixels(pictures.images)
    view = View(network, torch.float16).refresh(network)
    weight = size * torch.tensor([1.0, -1.0, 0.5, 0.25, -2.0]) * (10.0 ** -(torch.arange(len(pixels)) % 7)).view(-1, 1)
    seen, wanted = gradient(view, pixels, weight), gradient(network, pixels, weight)
    lengths = wanted.flatten(1).norm(dim=1)
    apart = (seen - wanted).flatten(1).norm(dim=1) / lengths
    assert lengths.min() > 0 and apart.median() < 0.02 and apart.max() < 0.2


def test_no_gradient_stays_none(network: nn.Module, pictures: Pictures) -> None:
    view = View(network, torch.float16).refresh(network)
    found = gradient(view, to_pixels(pictures.images), torch.zeros(len(pictures), tiny.CLASSES))
    assert torch.equal(found, torch.zeros_like(found))


def test_pixels_are_standardised_in_float32() -> None:
    """By float16 a deviation of 1/1000 would turn half a grey level into noise."""
    network = models.normalised(nn.Conv2d(1, 1, 1, bias=False), mean=[0.5], std=[0.001])
    view = View(network, torch.float16).refresh(network)
    pixels = 0.5 + torch.linspace(-2e-4, 2e-4, 16).view(1, 1, 4, 4)
    with torch.no_grad():
        torch.testing.assert_close(view(pixels), network(pixels), rtol=2e-3, atol=1e-4)


def test_a_view_knows_no_training_mode(network: nn.Module) -> None:
    view = View(network, torch.float32).refresh(network).train()
    assert not any(module.training for module in view.modules())
