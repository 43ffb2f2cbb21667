"""Each method against an independent, slow statement of its formula: values, and gradients in float64.

The slow side loops over images and classes and takes its gradients by finite differences, so it shares
neither code nor autograd with the method.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from dynat import methods
from dynat.config import Run, ThreatModel
from dynat.methods import AttackResult, StepInputs
from dynat.training.networks import Networks
from dynat.training.step import training_step
from tests.helpers import make_run
from tests.networks import TwoLayers

THREAT = ThreatModel(eps=0.1)
GUIDED = {"guide": "small", "clean_forward": True}
DYNAMIC = {"labels": "dynamic", "beta": 0.7, "guide": "small"}
RUNS: dict[str, Run] = {
    "natural": make_run(method="natural"),
    "at": make_run(method="at"),
    "trades": make_run(method="trades", consistency=6.0),
    "mart": make_run(method="mart", consistency=5.0),
    "gairat": make_run(method="gairat"),
    "mail-at": make_run(method="mail-at"),
    "mail-trades": make_run(method="mail-trades", consistency=5.0),
    "sat": make_run(method="sat"),
    "lbgat0": make_run(method="lbgat", **GUIDED),
    "lbgat6": make_run(method="lbgat", consistency=6.0, **GUIDED),
    "adagat": make_run(method="adagat", **GUIDED),
    "dynat": make_run(**DYNAMIC, clean_forward=True),
    "dynat-kl6": make_run(consistency=6.0, **DYNAMIC, clean_forward=True),
    "dynat-trades": make_run(method="trades", consistency=6.0, **DYNAMIC),
    "dynat-mart": make_run(method="mart", consistency=5.0, **DYNAMIC),
    "dynat-gairat": make_run(method="gairat", **DYNAMIC, clean_forward=True),
    "dynat-mail": make_run(method="mail-at", **DYNAMIC, clean_forward=True),
}
KAPPA = torch.tensor([0, 1, 2, 3, 3, 2, 1, 0, 3, 1])
LATE = 0.9  # after every burn-in


def slow_ce(logits: list[float], label: int) -> float:
    return -math.log(math.exp(logits[label]) / sum(math.exp(value) for value in logits))


def slow_kl(clean: list[float], other: list[float]) -> float:
    p = [math.exp(value) / sum(map(math.exp, clean)) for value in clean]
    q = [math.exp(value) / sum(map(math.exp, other)) for value in other]
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def softmax(logits: list[float]) -> list[float]:
    total = sum(math.exp(value) for value in logits)
    return [math.exp(value) / total for value in logits]


def slow_gap(adv: list[float], label: int) -> float:
    p = softmax(adv)
    return max(value for k, value in enumerate(p) if k != label) - p[label]


def slow_weights(name: str, f_adv: Tensor, labels: Tensor) -> list[float]:
    """Weights that carry no gradient: taken once, at the weights of the network as they are."""
    rows = [(f_adv[i].tolist(), int(labels[i])) for i in range(len(labels))]
    if name.endswith("gairat"):
        raw = [(1 + math.tanh(-1 + 5 * (1 - 2 * int(kappa) / 3))) / 2 for kappa in KAPPA]
        return [value * len(raw) / sum(raw) for value in raw]
    if name in ("mail-at", "dynat-mail"):
        return [3 / (1 + math.exp(-10 * (slow_gap(adv, label) - 0.5))) for adv, label in rows]
    if name == "mail-trades":
        return [3 / (1 + math.exp(-2 * slow_gap(adv, label))) for adv, label in rows]
    return [1.0] * len(rows)


@dataclass(frozen=True)
class Image:
    """What one image contributes to a loss: logits of both networks, labels, a weight."""

    clean: list[float]
    adversarial: list[float]
    adversarial_before: list[float]
    """The target's adversarial logits as a constant."""
    guide: list[float]
    label: int
    truth: int
    weight: float

    @property
    def natural(self) -> float:
        return slow_ce(self.clean, self.label)

    @property
    def robust(self) -> float:
        return slow_ce(self.adversarial, self.label)

    @property
    def divergence(self) -> float:
        return slow_kl(self.clean, self.adversarial)

    @property
    def guided(self) -> float:
        """The guide's own loss on the true label."""
        return slow_ce(self.guide, self.truth)

    def distance(self, logits: list[float]) -> float:
        return sum((a - b) ** 2 for a, b in zip(logits, self.guide, strict=True)) / len(logits)

    @property
    def mart(self) -> float:
        wrong = max(value for k, value in enumerate(softmax(self.adversarial)) if k != self.label)
        boosted = self.robust - math.log(1.0001 - wrong + 1e-12)
        return boosted + 5 * self.divergence * (1.0000001 - softmax(self.clean)[self.label])


SLOW_LOSSES: dict[str, Callable[[Image], float]] = {
    "natural": lambda x: x.natural,
    "at": lambda x: x.robust,
    "sat": lambda x: x.robust,
    "gairat": lambda x: x.weight * x.robust,
    "mail-at": lambda x: x.weight * x.robust,
    "trades": lambda x: x.natural + 6 * x.divergence,
    "mail-trades": lambda x: x.natural + 5 * x.weight * x.divergence,
    "mart": lambda x: x.mart,
    "lbgat0": lambda x: x.guided + x.distance(x.adversarial),
    "lbgat6": lambda x: x.guided + x.distance(x.adversarial) + 6 * x.divergence,
    "adagat": lambda x: x.guided + x.distance(x.adversarial) + 2.5 * x.distance(x.adversarial_before),
    "dynat": lambda x: x.guided + 0.7 * x.robust,
    "dynat-kl6": lambda x: x.guided + 0.7 * (x.robust + 6 * x.divergence),
    "dynat-trades": lambda x: x.guided + 0.7 * (x.natural + 6 * x.divergence),
    "dynat-mart": lambda x: x.guided + 0.7 * x.mart,
    "dynat-gairat": lambda x: x.guided + 0.7 * x.weight * x.robust,
    "dynat-mail": lambda x: x.guided + 0.7 * x.weight * x.robust,
}
"""The loss of each run on one image."""


def slow_loss(
    name: str,
    f_clean: Tensor,
    f_adv: Tensor,
    g_clean: Tensor | None,
    labels: Tensor,
    truth: Tensor,
    weights: list[float],
    f_adv_before: Tensor,
) -> float:
    """The whole loss of a run from its logits, one image at a time."""
    images = [
        Image(
            clean=f_clean[i].tolist(),
            adversarial=f_adv[i].tolist(),
            adversarial_before=f_adv_before[i].tolist(),
            guide=[] if g_clean is None else g_clean[i].tolist(),
            label=int(labels[i]),
            truth=int(truth[i]),
            weight=weights[i],
        )
        for i in range(len(truth))
    ]
    return sum(map(SLOW_LOSSES[name], images)) / len(images)


def step(
    networks: Networks, method: methods.Method, run: Run, images: Tensor, truth: Tensor, progress: float = LATE
) -> dict[str, Tensor]:
    """A training step up to its gradients, without an optimizer."""
    return training_step(
        networks,
        method,
        run,
        images,
        truth,
        method.starting_point(images, torch.Generator().manual_seed(0)),
        progress=progress,
        update=lambda loss: loss.backward(),
    )


def fixed_attack(method: methods.Method, adversarial: Tensor) -> None:
    """Take PGD out of the step, so that the loss is a function of the weights alone."""
    method.attack = lambda *_, **__: AttackResult(adversarial, KAPPA.double())  # type: ignore[method-assign]


@pytest.mark.parametrize("name", RUNS)
def test_loss_and_gradients_equal_the_slow_statement(
    name: str, target: TwoLayers, guide: TwoLayers, batch: tuple[Tensor, Tensor]
) -> None:
    run, (images, truth) = RUNS[name], batch
    adversarial = (images + 0.1 * torch.randn(images.shape, generator=torch.Generator().manual_seed(3))).clamp(0, 1)
    networks = Networks(target, guide if run.guide else None)
    networks.train()
    with torch.no_grad():
        decisions = guide(images).argmax(1)
    assert (decisions != truth).any(), "else dynamic and true labels are the same test"
    labels = decisions if run.labels == "dynamic" else truth

    def logits(images: Tensor, network: TwoLayers) -> Tensor:
        """In train mode, as the step is; a copy keeps BatchNorm's running statistics out of it."""
        with torch.no_grad():
            out: Tensor = copy.deepcopy(network)(images)
        return out

    before = logits(adversarial, target)
    weights = slow_weights(name, before, labels)

    def slow() -> float:
        return slow_loss(
            name,
            logits(images, target),
            logits(adversarial, target),
            logits(images, guide) if run.guide else None,
            labels,
            truth,
            weights,
            before,
        )

    expected = slow()
    slopes = {parameter: finite_difference(slow, parameter) for parameter in networks.parameters()}
    method = methods.build(run, THREAT)
    fixed_attack(method, adversarial)
    values = step(networks, method, run, images, truth)
    assert values["loss"].item() == pytest.approx(expected, rel=1e-10)
    for parameter, (index, slope) in slopes.items():
        got = 0.0 if parameter.grad is None else parameter.grad.flatten()[index].item()
        assert got == pytest.approx(slope, rel=1e-4, abs=1e-7)
    if run.guide:
        assert values["label_accuracy"] == pytest.approx((decisions == truth).double().mean().item())


def finite_difference(function: Callable[[], float], parameter: Tensor) -> tuple[int, float]:
    """The slope at one number of a parameter, by moving it."""
    index, step = parameter.numel() // 2, 1e-6
    with torch.no_grad():
        flat = parameter.view(-1)
        value = flat[index].item()
        flat[index] = value + step
        above = function()
        flat[index] = value - step
        below = function()
        flat[index] = value
    return index, (above - below) / (2 * step)


def test_no_gradient_of_the_target_loss_reaches_the_guide_of_dynat(
    target: TwoLayers, guide: TwoLayers, batch: tuple[Tensor, Tensor]
) -> None:
    """beta scales the target's loss only: the guide's gradient knows neither it nor the target."""
    gradients = []
    for beta, other in ((0.0, target), (50.0, TwoLayers(seed=9))):
        run = RUNS["dynat"].model_copy(update={"beta": beta})
        networks = Networks(copy.deepcopy(other), copy.deepcopy(guide))
        networks.train()
        step(networks, methods.build(run, THREAT), run, *batch)
        assert networks.guide is not None
        gradients.append([parameter.grad for parameter in networks.guide.parameters()])
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two)


def test_the_mse_of_lbgat_has_gradients_for_both_networks(
    target: TwoLayers, guide: TwoLayers, batch: tuple[Tensor, Tensor]
) -> None:
    images, truth = batch
    method = methods.build(RUNS["lbgat0"], THREAT)
    logits = guide(images)
    terms = method.loss(StepInputs(target, images, truth, AttackResult(images), logits, 0.0))
    terms["mse"].mean().backward()
    assert guide.first.weight.grad is not None and guide.first.weight.grad.abs().max() > 0
    assert target.first.weight.grad is not None and target.first.weight.grad.abs().max() > 0


def test_both_sides_of_the_kl_of_trades_have_gradients(target: TwoLayers, batch: tuple[Tensor, Tensor]) -> None:
    """Against the same loss with the clean side detached: a bug that costs accuracy and shows nowhere else."""
    from dynat.nn.losses import kl

    images, _ = batch
    target.eval()
    moved = (images + 0.05).clamp(0, 1)
    (full,) = torch.autograd.grad(kl(target(images), target(moved)).mean(), target.second.weight)
    (half,) = torch.autograd.grad(kl(target(images).detach(), target(moved)).mean(), target.second.weight)
    assert not torch.allclose(full, half, rtol=1e-2)


EXPECTED_FORWARDS: dict[str, list[bool]] = {
    # (is it the clean batch?) in the order of the train-mode forwards of the target: BatchNorm's recipe
    "natural": [True],
    **{name: [False] for name in ("at", "sat", "gairat", "mail-at")},
    **{name: [True, False] for name in ("trades", "mart", "mail-trades", "dynat-trades", "dynat-mart")},
    **{name: [False, True] for name in RUNS if RUNS[name].guide and RUNS[name].method not in ("trades", "mart")},
}


@pytest.mark.parametrize("name", RUNS)
def test_which_images_feed_batchnorm(
    name: str, target: TwoLayers, guide: TwoLayers, batch: tuple[Tensor, Tensor]
) -> None:
    run, (images, truth) = RUNS[name], batch
    forwards: list[bool] = []
    target.register_forward_pre_hook(
        lambda module, inputs: forwards.append(torch.equal(inputs[0], images)) if module.training else None
    )
    guide_forwards: list[bool] = []
    guide.register_forward_hook(lambda module, *_: guide_forwards.append(module.training))
    networks = Networks(target, guide if run.guide else None)
    networks.train()
    step(networks, methods.build(run, THREAT), run, images, truth)
    assert forwards == EXPECTED_FORWARDS[name]
    assert guide_forwards == ([True] if run.guide else []), "one forward of the guide per step, in train mode"


def test_the_clean_forward_changes_batchnorm_statistics_only(
    target: TwoLayers, guide: TwoLayers, batch: tuple[Tensor, Tensor]
) -> None:
    results = []
    for shown in (True, False):
        run = RUNS["dynat"].model_copy(update={"clean_forward": shown})
        networks = Networks(copy.deepcopy(target), copy.deepcopy(guide))
        networks.train()
        values = step(networks, methods.build(run, THREAT), run, *batch)
        results.append((values["loss"].item(), networks.target.first.weight.grad, networks.target.norm.running_mean))  # type: ignore[union-attr]
    (loss_on, gradient_on, mean_on), (loss_off, gradient_off, mean_off) = results
    assert loss_on == loss_off and torch.equal(gradient_on, gradient_off)  # type: ignore[arg-type]
    assert not torch.equal(mean_on, mean_off)  # type: ignore[arg-type]


@pytest.mark.parametrize(("objective", "by"), [("method", "decisions"), ("ce-true", "truth"), ("kl", "clean")])
def test_what_the_inner_attack_maximizes(
    objective: str, by: str, target: TwoLayers, guide: TwoLayers, batch: tuple[Tensor, Tensor]
) -> None:
    from dynat.nn.losses import cross_entropy, kl

    images, truth = batch
    inner = RUNS["dynat"].inner.model_copy(update={"objective": objective})
    method = methods.build(RUNS["dynat"].model_copy(update={"inner": inner}), THREAT)
    decisions = guide(images).argmax(1)
    got = method.objective(target.train(), images, labels=decisions, truth=truth)
    assert target.training
    logits = torch.randn(10, 4, dtype=torch.float64)
    reference = copy.deepcopy(target).eval()(images)
    expected = {
        "decisions": cross_entropy(logits, decisions),
        "truth": cross_entropy(logits, truth),
        "clean": kl(reference, logits),
    }
    torch.testing.assert_close(got(logits), expected[by])


def test_guide_mode_eval_labels_with_running_statistics(
    target: TwoLayers, guide: TwoLayers, batch: tuple[Tensor, Tensor]
) -> None:
    images, truth = batch
    guide.norm.running_mean.fill_(3.0)  # type: ignore[union-attr]
    by_mode = {}
    for mode in ("train", "eval"):
        run = RUNS["dynat"].model_copy(update={"guide_mode": mode})
        networks = Networks(copy.deepcopy(target), copy.deepcopy(guide))
        networks.train()
        values = step(networks, methods.build(run, THREAT), run, images, truth)
        assert networks.guide is not None and networks.guide.training
        by_mode[mode] = values["label_accuracy"]
    decisions = copy.deepcopy(guide).eval()(images).argmax(1)
    assert by_mode["eval"] == (decisions == truth).float().mean()
    assert by_mode["eval"] != by_mode["train"]
