"""A view of the network may help a search; it never decides, and one that says something else is not asked."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dynat import models
from dynat.attacks import examine
from dynat.attacks import examine as examine_module
from dynat.attacks.asked import asked
from dynat.attacks.first_order import pgd
from dynat.config import Attack, names
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


class Adapting(Changed):
    """Moves its picture by a gradient of its own before it decides: torch.fx loses the `enable_grad`."""

    def forward(self, pictures: Tensor) -> Tensor:
        with torch.enable_grad():
            moved = pictures.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self.network(moved).square().sum(), moved, create_graph=True)
        logits: Tensor = self.network(pictures + 1e-4 * gradient)
        return logits


class Ending(nn.Module):
    """A network whose answers are changed."""

    def __init__(self, network: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.network, self.change = network, change

    def forward(self, pictures: Tensor) -> Tensor:
        return self.change(self.network(pictures))


def of_its_batch(network: nn.Module) -> nn.Module:
    """Statistics of the batch in evaluation too, so that pictures run into each other."""
    norm = nn.BatchNorm2d(1, track_running_stats=False, affine=False)
    return nn.Sequential(norm, network)


def lost_in_a_glance(logits: Tensor) -> Tensor:
    """The same logits, without a gradient by a way that float16 has no numbers for. (The first condition is never
    true; no trace can follow it.)"""
    if logits.sum() == 0.125 or torch.is_grad_enabled():
        return logits
    return logits + (logits * 1e5 - logits * 1e5)


DEFENCES: dict[str, tuple[Callable[[nn.Module], nn.Module], str, str]] = {
    "chance": (lambda net: Changed(net, lambda x: x + 0.003 * torch.rand_like(x)), "float16", "each time"),
    "chance of Python": (lambda net: Changed(net, lambda x: x + 0.003 * random.random()), "float16", "each time"),
    "no gradient": (lambda net: Changed(net, lambda x: x.detach()), "float32", "RuntimeError"),
    "no copy": (lambda net: Uncopyable(net, lambda x: x), "float32", "TypeError"),
    "adapting": (lambda net: Adapting(net, lambda x: x), "float32", "RuntimeError"),
    "beyond float16": (lambda net: Changed(net, lambda x: x * 1e6), "float16", "apart"),
    "sure of itself": (lambda net: Ending(net, lambda logits: (4 * logits).softmax(1)), "float16", "apart"),
    "far from zero": (lambda net: Ending(net, lambda logits: logits + 4000), "float16", "apart"),
    "of its batch": (of_its_batch, "float16", "apart"),
    "lost in a glance": (lambda net: Ending(net, lost_in_a_glance), "float16", "logits nan"),
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


class Overflowing(nn.Module):
    """Pictures with a bright pixel take a way that float16 has no numbers for."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.far = nn.Linear(1, 1, bias=False)
        nn.init.constant_(self.far.weight, 1e4)

    def forward(self, pictures: Tensor) -> Tensor:
        bright = (pictures.flatten(1).amax(1, keepdim=True) - 0.999).clamp(min=0)
        logits: Tensor = self.network(pictures)
        return logits + (self.far(1e4 * bright) - 1e8 * bright)


@pytest.mark.parametrize("kind", ["pgd", "apgd-ce"])
def test_a_view_that_gets_lost_on_the_way_hides_nothing(
    kind: str, network: nn.Module, pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The comparison sees the first pictures as they are; overflows may come with later or attacked ones."""
    network = Overflowing(network)
    images = pictures.images.clamp(max=240)
    images[len(images) // 2 :, :, 0, 0] = 255
    shown = Pictures(images, pictures.labels)
    module = sys.modules[examine_module.__module__]
    monkeypatch.setattr(module, "MOST", len(images) // 2)
    settings = {"kind": kind, "eps": 0.03, **({"step_size": 0.01, "start": "none"} if kind == "pgd" else {})}
    plain, exam = (examine(network, shown, attack(**settings, view=view)) for view in ("none", "float16"))
    assert exam.asked == "float16 view" and exam.attacked_again > 5
    assert torch.equal(exam.columns["correct"], plain.columns["correct"])
    assert 0 < int(plain.columns["correct"].sum()) < int((plain.columns["clean"] == shown.labels).sum())
    assert exam.refuted_claims == 0


@pytest.fixture
def careless(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Tensor], Tensor]], Attack]:
    """An attack that does something of its own to a view, and PGD to the network."""

    def put(on_a_view: Callable[[Tensor], Tensor]) -> Attack:
        def run(model: nn.Module, pixels: Tensor, labels: Tensor, _: Attack, seed: int) -> Tensor:
            return on_a_view(pixels) if isinstance(model, View) else pgd(model, pixels, labels, attack(), seed)

        monkeypatch.setattr(sys.modules[__name__], "installed", run, raising=False)
        monkeypatch.setitem(names.ATTACKS, "installed", names.AttackKind(f"{__name__}:installed"))
        return attack("installed", view="float16")

    return put


def test_claims_outside_the_rules_on_a_view_are_no_end_of_it(
    network: nn.Module, pictures: Pictures, careless: Callable[[Callable[[Tensor], Tensor]], Attack]
) -> None:
    exam = examine(network, pictures, careless(lambda pixels: pixels + 0.2))
    assert torch.equal(exam.columns["correct"], stands(network, pictures, attack(view="none")))
    assert exam.attacked_again == int((exam.columns["clean"] == pictures.labels).sum())
    assert exam.refuted_claims == 0, "on the network the attack kept the rules"


def test_where_a_view_has_no_numbers_the_network_is_attacked(
    network: nn.Module,
    pictures: Pictures,
    careless: Callable[[Callable[[Tensor], Tensor]], Attack],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An attack cannot tell nan from class 0, and leaves such pictures alone."""
    images = pictures.images.clamp(max=240)
    images[len(images) // 2 :, :, 0, 0] = 255
    monkeypatch.setattr(sys.modules[examine_module.__module__], "MOST", len(images) // 2)
    shown = Pictures(images, pictures.labels)
    exam = examine(Overflowing(network), shown, careless(lambda pixels: pixels))
    bright = torch.arange(len(images)) >= len(images) // 2
    assert exam.attacked_again == int((bright & (exam.columns["clean"] == shown.labels)).sum()) > 0
    fell = exam.columns["fell_to"] >= 0
    assert fell[bright].any() and not fell[~bright].any()


@pytest.mark.usefixtures("fewer_queries")
def test_what_autoattack_warns_of_is_seen_of_the_network(network: nn.Module, pictures: Pictures) -> None:
    """A view has no inner gradients, and half of the digits by which it sees that outputs are probabilities."""
    probabilities = Ending(network, lambda logits: (logits / 8).softmax(1))
    exam = examine(probabilities, pictures.first(20), attack("apgd-ce", view="bfloat16"))
    assert exam.asked == "bfloat16 view"
    assert any("probability distribution" in flag for flag in exam.flags)


def test_an_examination_gone_on_with_says_who_was_asked_before(
    network: nn.Module, pictures: Pictures, tmp_path: Path
) -> None:
    settings = attack(batch=16)
    examine(network, pictures, settings, state=tmp_path)
    (tmp_path / "batch-00001.pt").unlink()
    exam = examine(Uncopyable(network, lambda x: x), pictures, settings, state=tmp_path)
    assert exam.asked == "float32 view, network (float32 view: TypeError)"


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
