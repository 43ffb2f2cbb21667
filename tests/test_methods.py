"""Each method against an independent, slow statement of its formula: values, and gradients in float64.

The slow side loops over pictures and classes and takes its gradients by finite differences, so it shares
neither code nor autograd with the method.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dynat import methods
from dynat.config import Run, Threat
from dynat.methods import Found, Lesson
from dynat.training.step import Pair, joint_step
from tests.conftest import TwoLayers, make_run

THREAT = Threat(eps=0.1)
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
    """The whole loss of a run from its logits, one picture at a time."""
    total = 0.0
    for i in range(len(truth)):
        clean, adv, y, label = f_clean[i].tolist(), f_adv[i].tolist(), int(truth[i]), int(labels[i])
        guide = None if g_clean is None else g_clean[i].tolist()
        lesson = 0.0 if guide is None else slow_ce(guide, y)
        natural, robust, drift = slow_ce(clean, label), slow_ce(adv, label), slow_kl(clean, adv)

        def squares(other: list[float], guide: list[float] | None = guide) -> float:
            return sum((a - b) ** 2 for a, b in zip(other, guide or [], strict=True)) / len(other)

        match name:
            case "natural":
                total += natural
            case "at" | "sat":
                total += robust
            case "gairat" | "mail-at":
                total += weights[i] * robust
            case "trades":
                total += natural + 6 * drift
            case "mail-trades":
                total += natural + 5 * weights[i] * drift
            case "mart" | "dynat-mart":
                wrong = max(value for k, value in enumerate(softmax(adv)) if k != label)
                mart = robust - math.log(1.0001 - wrong + 1e-12) + 5 * drift * (1.0000001 - softmax(clean)[label])
                total += mart if name == "mart" else lesson + 0.7 * mart
            case "lbgat0":
                total += lesson + squares(adv)
            case "lbgat6":
                total += lesson + squares(adv) + 6 * drift
            case "adagat":
                total += lesson + squares(adv) + 2.5 * squares(f_adv_before[i].tolist())
            case "dynat":
                total += lesson + 0.7 * robust
            case "dynat-gairat" | "dynat-mail":
                total += lesson + 0.7 * weights[i] * robust
            case "dynat-kl6":
                total += lesson + 0.7 * (robust + 6 * drift)
            case "dynat-trades":
                total += lesson + 0.7 * (natural + 6 * drift)
            case _:
                raise AssertionError(f"no slow statement of {name}")
    return total / len(truth)


def step(
    pair: Pair, method: methods.Method, run: Run, pictures: Tensor, truth: Tensor, progress: float = LATE
) -> dict[str, Tensor]:
    """A joint step up to its gradients, without an optimiser."""
    return joint_step(
        pair,
        method,
        run,
        pictures,
        truth,
        method.start(pictures, torch.Generator().manual_seed(0)),
        progress=progress,
        update=lambda loss: loss.backward(),
    )


def fixed_search(method: methods.Method, adversarial: Tensor) -> None:
    """Take the search out of the step, so that the loss is a function of the weights alone."""
    method.search = lambda *_, **__: Found(adversarial, KAPPA.double())  # type: ignore[method-assign]


@pytest.mark.parametrize("name", RUNS)
def test_loss_and_gradients_equal_the_slow_statement(
    name: str, target: TwoLayers, guide: TwoLayers, batch: tuple[Tensor, Tensor]
) -> None:
    run, (pictures, truth) = RUNS[name], batch
    adversarial = (pictures + 0.1 * torch.randn(pictures.shape, generator=torch.Generator().manual_seed(3))).clamp(0, 1)
    pair = Pair(target, guide if run.guide else None)
    pair.train()
    with torch.no_grad():
        decisions = guide(pictures).argmax(1)
    assert (decisions != truth).any(), "else dynamic and true labels are the same test"
    labels = decisions if run.labels == "dynamic" else truth

    def logits(pictures: Tensor, network: TwoLayers) -> Tensor:
        """In train mode, as the step is; a copy keeps BatchNorm's running statistics out of it."""
        with torch.no_grad():
            out: Tensor = copy.deepcopy(network)(pictures)
        return out

    before = logits(adversarial, target)
    weights = slow_weights(name, before, labels)

    def slow() -> float:
        return slow_loss(
            name,
            logits(pictures, target),
            logits(adversarial, target),
            logits(pictures, guide) if run.guide else None,
            labels,
            truth,
            weights,
            before,
        )

    expected = slow()
    wanted = {parameter: finite_difference(slow, parameter) for parameter in pair.parameters()}
    method = methods.build(run, THREAT)
    fixed_search(method, adversarial)
    seen = step(pair, method, run, pictures, truth)
    assert seen["loss"].item() == pytest.approx(expected, rel=1e-10)
    for parameter, (index, slope) in wanted.items():
        got = 0.0 if parameter.grad is None else parameter.grad.flatten()[index].item()
        assert got == pytest.approx(slope, rel=1e-4, abs=1e-7)
    if run.guide:
        assert seen["label_accuracy"] == pytest.approx((decisions == truth).double().mean().item())


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


def test_no_gradient_from_the_targets_loss_reaches_dynats_guide(
    target: TwoLayers, guide: TwoLayers, batch: tuple[Tensor, Tensor]
) -> None:
    """beta scales the target's loss only: the guide's gradient knows neither it nor the target."""
    gradients = []
    for beta, other in ((0.0, target), (50.0, TwoLayers(seed=9))):
        run = RUNS["dynat"].model_copy(update={"beta": beta})
        pair = Pair(copy.deepcopy(other), copy.deepcopy(guide))
        pair.train()
        step(pair, methods.build(run, THREAT), run, *batch)
        assert pair.guide is not None
        gradients.append([parameter.grad for parameter in pair.guide.parameters()])
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two)


def test_lbgat_moves_both_networks_by_its_mse(
    target: TwoLayers, guide: TwoLayers, batch: tuple[Tensor, Tensor]
) -> None:
    pictures, truth = batch
    method = methods.build(RUNS["lbgat0"], THREAT)
    logits = guide(pictures)
    parts = method.loss(Lesson(target, pictures, truth, Found(pictures), logits, 0.0))
    parts["mse"].mean().backward()
    assert guide.first.weight.grad is not None and guide.first.weight.grad.abs().max() > 0
    assert target.first.weight.grad is not None and target.first.weight.grad.abs().max() > 0


def test_both_sides_of_trades_kl_are_alive(target: TwoLayers, batch: tuple[Tensor, Tensor]) -> None:
    """Against the same loss with the clean side detached: a bug that costs points and shows nowhere else."""
    from dynat.losses import kl

    pictures, _ = batch
    target.eval()
    moved = (pictures + 0.05).clamp(0, 1)
    (full,) = torch.autograd.grad(kl(target(pictures), target(moved)).mean(), target.second.weight)
    (half,) = torch.autograd.grad(kl(target(pictures).detach(), target(moved)).mean(), target.second.weight)
    assert not torch.allclose(full, half, rtol=1e-2)


EXPECTED_FORWARDS: dict[str, list[bool]] = {
    # (is it the clean batch?) in the order of the train-mode forwards of the target: BatchNorm's recipe
    "natural": [True],
    **{name: [False] for name in ("at", "sat", "gairat", "mail-at")},
    **{name: [True, False] for name in ("trades", "mart", "mail-trades", "dynat-trades", "dynat-mart")},
    **{name: [False, True] for name in RUNS if RUNS[name].guide and RUNS[name].method not in ("trades", "mart")},
}


@pytest.mark.parametrize("name", RUNS)
def test_which_pictures_feed_batchnorm(
    name: str, target: TwoLayers, guide: TwoLayers, batch: tuple[Tensor, Tensor]
) -> None:
    run, (pictures, truth) = RUNS[name], batch
    seen: list[bool] = []
    target.register_forward_pre_hook(
        lambda module, inputs: seen.append(torch.equal(inputs[0], pictures)) if module.training else None
    )
    guide_forwards: list[bool] = []
    guide.register_forward_hook(lambda module, *_: guide_forwards.append(module.training))
    pair = Pair(target, guide if run.guide else None)
    pair.train()
    step(pair, methods.build(run, THREAT), run, pictures, truth)
    assert seen == EXPECTED_FORWARDS[name]
    assert guide_forwards == ([True] if run.guide else []), "the guide looks once per step, in train mode"


def test_the_clean_forward_is_a_switch_that_only_batchnorm_notices(
    target: TwoLayers, guide: TwoLayers, batch: tuple[Tensor, Tensor]
) -> None:
    results = []
    for shown in (True, False):
        run = RUNS["dynat"].model_copy(update={"clean_forward": shown})
        pair = Pair(copy.deepcopy(target), copy.deepcopy(guide))
        pair.train()
        seen = step(pair, methods.build(run, THREAT), run, *batch)
        results.append((seen["loss"].item(), pair.target.first.weight.grad, pair.target.norm.running_mean))  # type: ignore[union-attr]
    (loss_on, gradient_on, mean_on), (loss_off, gradient_off, mean_off) = results
    assert loss_on == loss_off and torch.equal(gradient_on, gradient_off)  # type: ignore[arg-type]
    assert not torch.equal(mean_on, mean_off)  # type: ignore[arg-type]


@pytest.mark.parametrize(("objective", "by"), [("own", "decisions"), ("ce-true", "truth"), ("kl", "clean")])
def test_what_the_inner_search_makes_large(
    objective: str, by: str, target: TwoLayers, guide: TwoLayers, batch: tuple[Tensor, Tensor]
) -> None:
    from dynat.losses import cross_entropy, kl
    from dynat.methods import objective_for

    pictures, truth = batch
    inner = RUNS["dynat"].inner.model_copy(update={"objective": objective})
    method = methods.build(RUNS["dynat"].model_copy(update={"inner": inner}), THREAT)
    decisions = guide(pictures).argmax(1)
    got = objective_for(method, target.train(), pictures, labels=decisions, truth=truth)
    assert target.training
    logits = torch.randn(10, 4, dtype=torch.float64)
    reference = copy.deepcopy(target).eval()(pictures)
    wanted = {
        "decisions": cross_entropy(logits, decisions),
        "truth": cross_entropy(logits, truth),
        "clean": kl(reference, logits),
    }
    torch.testing.assert_close(got(logits), wanted[by])


def test_guide_mode_eval_labels_with_running_statistics(
    target: TwoLayers, guide: TwoLayers, batch: tuple[Tensor, Tensor]
) -> None:
    pictures, truth = batch
    guide.norm.running_mean.fill_(3.0)  # type: ignore[union-attr, operator]
    by_mode = {}
    for mode in ("train", "eval"):
        run = RUNS["dynat"].model_copy(update={"guide_mode": mode})
        pair = Pair(copy.deepcopy(target), copy.deepcopy(guide))
        pair.train()
        seen = step(pair, methods.build(run, THREAT), run, pictures, truth)
        assert pair.guide is not None and pair.guide.training
        by_mode[mode] = seen["label_accuracy"]
    wanted = copy.deepcopy(guide).eval()(pictures).argmax(1)
    assert by_mode["eval"] == (wanted == truth).float().mean()
    assert by_mode["eval"] != by_mode["train"]
