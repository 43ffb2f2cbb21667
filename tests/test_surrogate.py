"""A surrogate may help an attack; it decides no verdict, and one that differs from the network is not queried."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dynat.attacks import evaluate
from dynat.attacks import evaluation as evaluation_module
from dynat.attacks.first_order import pgd
from dynat.attacks.surrogate import choose_queried_model
from dynat.config import AttackConfig, registry
from dynat.data import LabeledImages, to_pixels
from dynat.nn.folded import FoldedModel
from dynat.nn.normalize import normalized
from tests import tiny

attack = tiny.attack
SurrogateAttack = Callable[[Callable[[Tensor], Tensor]], AttackConfig]


def correct(convnet: nn.Module, noisy_images: LabeledImages, settings: AttackConfig) -> Tensor:
    return evaluate(convnet, noisy_images, settings).columns["correct"]


# --- verdicts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("surrogate", ["float32", "float16"])
@pytest.mark.parametrize("kind", ["fgsm", "pgd", "cw", "autoattack"])
@pytest.mark.usefixtures("fewer_queries")
def test_a_surrogate_does_not_change_verdicts(
    kind: str, surrogate: str, convnet: nn.Module, noisy_images: LabeledImages
) -> None:
    few = noisy_images.first(24)
    settings: dict[str, Any] = {"kind": kind, "eps": 0.06, **({"step_size": 0.015} if kind in ("pgd", "cw") else {})}
    plain, evaluation = (evaluate(convnet, few, attack(**settings, surrogate=chosen)) for chosen in ("none", surrogate))
    assert (plain.queried_model, evaluation.queried_model) == ("network", f"{surrogate} surrogate")
    assert 0 < int(plain.columns["correct"].sum()) < int((plain.columns["clean_prediction"] == few.labels).sum())
    assert torch.equal(evaluation.columns["correct"], plain.columns["correct"])


class AlwaysZero(nn.Module):
    """A surrogate that always predicts class 0, with high confidence and a gradient."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        return logits + 100 * nn.functional.one_hot(torch.tensor(0), logits.shape[1])


def test_images_that_fool_only_the_surrogate_are_attacked_again_on_the_network(
    convnet: nn.Module, noisy_images: LabeledImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a surrogate misclassifies almost every image at once, so an attack that queries it finds nothing."""
    settings = attack(steps=10)
    expected = correct(convnet, noisy_images, attack(steps=10, surrogate="none"))
    module = evaluation_module
    monkeypatch.setattr(module, "choose_queried_model", lambda *_: (AlwaysZero(convnet), "always zero"))
    evaluation = evaluate(convnet, noisy_images, settings)
    clean = evaluation.columns["clean_prediction"] == noisy_images.labels
    assert evaluation.queried_model == "always zero"
    assert evaluation.reattacked > 0.7 * int((clean & (noisy_images.labels != 0)).sum())
    others = noisy_images.labels != 0  # on class 0 no attack on this surrogate succeeds
    assert (evaluation.columns["correct"] != expected)[others].sum() <= 1
    assert int(expected[others].sum()) < int(clean[others].sum())


def test_passes_through_a_surrogate_are_counted(convnet: nn.Module, noisy_images: LabeledImages) -> None:
    plain, evaluation = (
        evaluate(convnet, noisy_images, attack(surrogate=surrogate)) for surrogate in ("none", "float32")
    )
    assert evaluation.backward_passes == plain.backward_passes
    assert evaluation.forward_passes == plain.forward_passes + int(evaluation.columns["correct"].sum())


# --- which model is queried ----------------------------------------------------------------------------------


class Changed(nn.Module):
    """A network whose images are changed first, in a way that a surrogate may not reproduce."""

    def __init__(self, network: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.network, self.change = network, change

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(self.change(images))
        return logits


class Uncopyable(Changed):
    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        raise TypeError("cannot be copied")


class Adapting(Changed):
    """Changes its image along a gradient before it classifies it."""

    def forward(self, images: Tensor) -> Tensor:
        with torch.enable_grad():
            moved = images.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self.network(moved).square().sum(), moved, create_graph=True)
        logits: Tensor = self.network(images + 1e-4 * gradient)
        return logits


class ChangedLogits(nn.Module):
    """A network whose logits are changed."""

    def __init__(self, network: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.network, self.change = network, change

    def forward(self, images: Tensor) -> Tensor:
        return self.change(self.network(images))


def batch_statistics(network: nn.Module) -> nn.Module:
    """Normalizes with statistics of the batch in evaluation too, so that logits depend on the other images."""
    norm = nn.BatchNorm2d(1, track_running_stats=False, affine=False)
    return nn.Sequential(norm, network)


def nan_without_gradient(logits: Tensor) -> Tensor:
    """The same logits; where no gradient is computed, through a sum that overflows in float16. (The first condition is
    never true and prevents tracing.)"""
    if logits.sum() == 0.125 or torch.is_grad_enabled():
        return logits
    return logits + (logits * 1e5 - logits * 1e5)


DEFENSES: dict[str, tuple[Callable[[nn.Module], nn.Module], str, str]] = {
    "random": (lambda net: Changed(net, lambda x: x + 0.003 * torch.rand_like(x)), "float16", "each time"),
    "random in Python": (lambda net: Changed(net, lambda x: x + 0.003 * random.random()), "float16", "each time"),
    "no gradient": (lambda net: Changed(net, lambda x: x.detach()), "float32", "RuntimeError"),
    "no copy": (lambda net: Uncopyable(net, lambda x: x), "float32", "TypeError"),
    "beyond float16": (lambda net: Changed(net, lambda x: x * 1e6), "float16", "apart"),
    "softmax output": (lambda net: ChangedLogits(net, lambda logits: (4 * logits).softmax(1)), "float16", "apart"),
    "large offset": (lambda net: ChangedLogits(net, lambda logits: logits + 4000), "float16", "apart"),
    "batch statistics": (batch_statistics, "float16", "apart"),
    "nan without gradient": (lambda net: ChangedLogits(net, nan_without_gradient), "float16", "logits nan"),
}


@pytest.mark.parametrize("name", DEFENSES)
def test_a_network_that_its_surrogate_does_not_reproduce_is_queried_itself(
    name: str, convnet: nn.Module, noisy_images: LabeledImages
) -> None:
    defend, precision, reason = DEFENSES[name]
    defended = defend(convnet).eval()
    queried, description = choose_queried_model(defended, to_pixels(noisy_images.images), precision)
    assert queried is defended
    assert description.startswith(f"network ({precision} surrogate: ") and reason in description


def test_a_network_that_computes_gradients_itself_is_copied_with_them(
    convnet: nn.Module, noisy_images: LabeledImages
) -> None:
    """A trace would lose its `enable_grad`."""
    queried, description = choose_queried_model(
        Adapting(convnet, lambda x: x).eval(), to_pixels(noisy_images.images), "float32"
    )
    assert description == "float32 surrogate" and isinstance(queried, FoldedModel) and not queried.norms


class Overflowing(nn.Module):
    """Images with a bright pixel lead to an overflow in float16."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.far = nn.Linear(1, 1, bias=False)
        nn.init.constant_(self.far.weight, 1e4)

    def forward(self, images: Tensor) -> Tensor:
        bright = (images.flatten(1).amax(1, keepdim=True) - 0.999).clamp(min=0)
        logits: Tensor = self.network(images)
        return logits + (self.far(1e4 * bright) - 1e8 * bright)


@pytest.mark.parametrize("kind", ["pgd", "apgd-ce"])
def test_a_surrogate_that_overflows_during_the_attack_hides_no_broken_image(
    kind: str, convnet: nn.Module, noisy_images: LabeledImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The surrogate is compared on the first clean images; later or adversarial images may overflow."""
    convnet = Overflowing(convnet)
    images = noisy_images.images.clamp(max=240)
    images[len(images) // 2 :, :, 0, 0] = 255
    partly_bright = LabeledImages(images, noisy_images.labels)
    module = evaluation_module
    monkeypatch.setattr(module, "COMPARED_IMAGES", len(images) // 2)
    settings: dict[str, Any] = {
        "kind": kind,
        "eps": 0.03,
        **({"step_size": 0.01, "start": "none"} if kind == "pgd" else {}),
    }
    plain, evaluation = (
        evaluate(convnet, partly_bright, attack(**settings, surrogate=surrogate)) for surrogate in ("none", "float16")
    )
    assert evaluation.queried_model == "float16 surrogate" and evaluation.reattacked > 5
    assert torch.equal(evaluation.columns["correct"], plain.columns["correct"])
    assert (
        0 < int(plain.columns["correct"].sum()) < int((plain.columns["clean_prediction"] == partly_bright.labels).sum())
    )
    assert evaluation.rejected_examples == 0


@pytest.fixture
def surrogate_attack(monkeypatch: pytest.MonkeyPatch) -> SurrogateAttack:
    """An attack that applies a function to the images on a surrogate, and PGD on the network."""

    def put(on_surrogate: Callable[[Tensor], Tensor]) -> AttackConfig:
        def run(model: nn.Module, pixels: Tensor, labels: Tensor, _: AttackConfig, seed: int) -> Tensor:
            return (
                on_surrogate(pixels) if isinstance(model, FoldedModel) else pgd(model, pixels, labels, attack(), seed)
            )

        monkeypatch.setattr(sys.modules[__name__], "installed", run, raising=False)
        monkeypatch.setitem(registry.ATTACKS, "installed", registry.AttackInfo(f"{__name__}:installed"))
        return attack("installed", surrogate="float16")

    return put


def test_invalid_examples_from_a_surrogate_are_attacked_again_on_the_network(
    convnet: nn.Module,
    noisy_images: LabeledImages,
    surrogate_attack: SurrogateAttack,
) -> None:
    evaluation = evaluate(convnet, noisy_images, surrogate_attack(lambda pixels: pixels + 0.2))
    assert torch.equal(evaluation.columns["correct"], correct(convnet, noisy_images, attack(surrogate="none")))
    assert evaluation.reattacked == int((evaluation.columns["clean_prediction"] == noisy_images.labels).sum())
    assert evaluation.rejected_examples == 0, "on the network the attack makes valid examples"


def test_images_with_nan_logits_of_the_surrogate_are_attacked_on_the_network(
    convnet: nn.Module,
    noisy_images: LabeledImages,
    surrogate_attack: SurrogateAttack,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An attack cannot distinguish nan from class 0, and does not attack such images."""
    images = noisy_images.images.clamp(max=240)
    images[len(images) // 2 :, :, 0, 0] = 255
    monkeypatch.setattr(evaluation_module, "COMPARED_IMAGES", len(images) // 2)
    partly_bright = LabeledImages(images, noisy_images.labels)
    evaluation = evaluate(Overflowing(convnet), partly_bright, surrogate_attack(lambda pixels: pixels))
    bright = torch.arange(len(images)) >= len(images) // 2
    assert (
        evaluation.reattacked
        == int((bright & (evaluation.columns["clean_prediction"] == partly_bright.labels)).sum())
        > 0
    )
    broken = evaluation.columns["broken_by"] >= 0
    assert broken[bright].any() and not broken[~bright].any()


@pytest.mark.usefixtures("fewer_queries")
def test_autoattack_checks_the_network_and_not_its_surrogate(convnet: nn.Module, noisy_images: LabeledImages) -> None:
    """A surrogate has no inner gradients, and too few digits to recognize that outputs are probabilities."""
    probabilities = ChangedLogits(convnet, lambda logits: (logits / 8).softmax(1))
    evaluation = evaluate(probabilities, noisy_images.first(20), attack("apgd-ce", surrogate="bfloat16"))
    assert evaluation.queried_model == "bfloat16 surrogate"
    assert any("probability distribution" in warning for warning in evaluation.warnings)


def test_a_resumed_evaluation_names_every_queried_model(
    convnet: nn.Module, noisy_images: LabeledImages, tmp_path: Path
) -> None:
    settings = attack(batch=16)
    evaluate(convnet, noisy_images, settings, state=tmp_path)
    (tmp_path / "batch-00001.pt").unlink()
    evaluation = evaluate(Uncopyable(convnet, lambda x: x), noisy_images, settings, state=tmp_path)
    assert evaluation.queried_model == "float32 surrogate, network (float32 surrogate: TypeError)"


def test_auto_is_float32_without_a_gpu(convnet: nn.Module, noisy_images: LabeledImages) -> None:
    pixels = to_pixels(noisy_images.images)
    queried, description = choose_queried_model(convnet, pixels, "auto")
    assert isinstance(queried, FoldedModel) and description == "float32 surrogate"
    assert choose_queried_model(convnet, pixels, "none") == (convnet, "network")


def test_choosing_the_queried_model_does_not_change_the_network(
    convnet: nn.Module, noisy_images: LabeledImages
) -> None:
    convnet.train()
    try:
        before = {name: value.clone() for name, value in convnet.state_dict().items()}
        choose_queried_model(convnet, to_pixels(noisy_images.images), "float32")
        assert all(module.training for module in convnet.modules())
        assert all(parameter.requires_grad for parameter in convnet.parameters())
        assert all(torch.equal(value, before[name]) for name, value in convnet.state_dict().items())
    finally:
        convnet.eval()


# --- float16 --------------------------------------------------------------------------------------------------


def gradient(network: nn.Module, pixels: Tensor, weight: Tensor) -> Tensor:
    pixels = pixels.clone().requires_grad_()
    return torch.autograd.grad((network(pixels) * weight).sum(), pixels)[0]


@pytest.mark.parametrize("size", [1.0, 1e-12, 1e12])
def test_float16_keeps_the_smallest_gradients(size: float, convnet: nn.Module, noisy_images: LabeledImages) -> None:
    """A cross-entropy's gradient is tiny where a network is confident, and differs by powers of ten between images."""
    pixels = to_pixels(noisy_images.images)
    surrogate = FoldedModel(convnet, torch.float16).refresh(convnet)
    weight = size * torch.tensor([1.0, -1.0, 0.5, 0.25, -2.0]) * (10.0 ** -(torch.arange(len(pixels)) % 7)).view(-1, 1)
    surrogate_gradient, expected = gradient(surrogate, pixels, weight), gradient(convnet, pixels, weight)
    lengths = expected.flatten(1).norm(dim=1)
    distance = (surrogate_gradient - expected).flatten(1).norm(dim=1) / lengths
    assert lengths.min() > 0 and distance.median() < 0.02 and distance.max() < 0.2


def test_a_zero_gradient_stays_zero(convnet: nn.Module, noisy_images: LabeledImages) -> None:
    surrogate = FoldedModel(convnet, torch.float16).refresh(convnet)
    zero_gradient = gradient(surrogate, to_pixels(noisy_images.images), torch.zeros(len(noisy_images), tiny.CLASSES))
    assert torch.equal(zero_gradient, torch.zeros_like(zero_gradient))


def test_pixels_are_normalized_in_float32() -> None:
    """In float16, a standard deviation of 1/1000 would turn half a gray level into noise."""
    network = normalized(nn.Conv2d(1, 1, 1, bias=False), mean=[0.5], std=[0.001])
    surrogate = FoldedModel(network, torch.float16).refresh(network)
    pixels = 0.5 + torch.linspace(-2e-4, 2e-4, 16).view(1, 1, 4, 4)
    with torch.no_grad():
        torch.testing.assert_close(surrogate(pixels), network(pixels), rtol=2e-3, atol=1e-4)


def test_a_surrogate_has_no_training_mode(convnet: nn.Module) -> None:
    surrogate = FoldedModel(convnet, torch.float32).refresh(convnet).train()
    assert not any(module.training for module in surrogate.modules())
