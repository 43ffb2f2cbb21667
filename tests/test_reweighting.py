"""What GAIRAT, MAIL, SAT and AWP do beside their loss: counting, burn-in, curricula, weights and their limits."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from dynat import methods
from dynat.config import ThreatModel
from dynat.methods import AttackResult, StepInputs
from dynat.methods.gairat import Gairat
from dynat.methods.mail import MailAt, MailTrades
from dynat.methods.sat import Sat
from dynat.nn.losses import cross_entropy, probability_gap
from dynat.training.awp import perturbed
from dynat.training.networks import Networks
from dynat.training.step import training_step
from tests.helpers import make_run
from tests.networks import TwoLayers

THREAT = ThreatModel(eps=0.1)


def inputs(target: TwoLayers, batch: tuple[Tensor, Tensor], progress: float, kappa: Tensor | None = None) -> StepInputs:
    images, labels = batch
    return StepInputs(target, images, labels, AttackResult(images, kappa), None, progress)


def test_gairat_weights_are_the_published_curve_brought_to_mean_one(
    target: TwoLayers, batch: tuple[Tensor, Tensor]
) -> None:
    run = make_run(method="gairat", inner={"steps": 10, "eps": 0.1, "step_size": 0.02})
    method = methods.build(run, THREAT)
    assert isinstance(method, Gairat)
    raw = torch.tensor([0.9997, 0.9975, 0.982, 0.881, 0.5, 0.119, 0.018, 0.0025, 0.0003, 5e-5])
    weights = method.weights(inputs(target, batch, 1.0, torch.arange(10.0)))
    assert weights.mean().item() == pytest.approx(1.0)
    torch.testing.assert_close(weights / weights[4] * 0.5, raw, atol=6e-4, rtol=0.0)


@pytest.mark.parametrize(
    ("weighting", "raw"),
    [("sigmoid", [0.98201, 0.88080, 0.26894, 0.00247]), ("discrete", [1.0, 9 / 11, 6 / 11, 1 / 11])],
)
def test_gairats_other_weights_at_known_counts(
    weighting: str, raw: list[float], target: TwoLayers, batch: tuple[Tensor, Tensor]
) -> None:
    """After 0, 2, 5 and 10 of 10 steps."""
    inner = {"steps": 10, "eps": 0.1, "step_size": 0.02}
    method = methods.build(make_run(method="gairat", inner=inner, options={"weighting": weighting}), THREAT)
    assert isinstance(method, Gairat)
    weights = method.weights(inputs(target, batch, 1.0, torch.tensor([0.0, 2.0, 5.0, 10.0])))
    assert weights.tolist() == pytest.approx([4 * value / sum(raw) for value in raw], abs=1e-4)


def test_gairat_counts_every_correct_iterate_before_its_update(target: TwoLayers, batch: tuple[Tensor, Tensor]) -> None:
    run = make_run(method="gairat", inner={"steps": 5, "eps": 0.3, "step_size": 0.1, "start": "none"})
    method = methods.build(run, THREAT)
    images, labels = batch
    result = method.attack(
        target,
        images,
        images,
        labels=labels,
        objective=lambda logits: cross_entropy(logits, labels),
        progress=1.0,
    )
    point, kappa = images, torch.zeros(len(labels))
    target.eval()
    for _ in range(5):  # the count, written out
        point = point.detach().requires_grad_()
        logits = target(point)
        kappa += (logits.argmax(1) == labels).float()
        (gradient,) = torch.autograd.grad(cross_entropy(logits, labels).sum(), point)
        point = torch.clamp(images + (point.detach() + 0.1 * gradient.sign() - images).clamp(-0.3, 0.3), 0, 1)
    assert result.correct_steps is not None
    assert torch.equal(result.correct_steps, kappa)
    assert 0 < kappa.sum() < 50 and kappa.unique().numel() > 1, "else any counter passes"
    torch.testing.assert_close(result.images, point)


@pytest.mark.parametrize(
    ("name", "kind", "margin_to_weight"),
    [
        ("mail-at", MailAt, {-1.0: 0.0, 0.0: 0.02, 0.25: 0.23, 0.5: 1.5, 0.75: 2.77, 1.0: 2.98}),
        ("mail-trades", MailTrades, {-1.0: 0.36, -0.5: 0.81, 0.0: 1.5, 0.5: 2.19, 1.0: 2.64}),
    ],
)
def test_mail_weights_at_published_margins(
    name: str,
    kind: type[MailAt | MailTrades],
    margin_to_weight: dict[float, float],
    target: TwoLayers,
    batch: tuple[Tensor, Tensor],
) -> None:
    method = methods.build(make_run(method=name, consistency=5.0), THREAT)
    assert isinstance(method, kind)
    for margin, weight in margin_to_weight.items():
        p = torch.tensor([[(1 - margin) / 2, (1 + margin) / 2]]).clamp(1e-9, 1 - 1e-9)
        one = inputs(target, (batch[0][:1], torch.tensor([0])), 1.0)
        assert method.weights(one, p.log()).item() == pytest.approx(weight, abs=0.006)


@pytest.mark.parametrize(("name", "burn_in"), [("gairat", 59 / 120), ("mail-at", 76 / 120), ("mail-trades", 76 / 120)])
def test_burn_in_is_plain_until_its_epoch(
    name: str, burn_in: float, target: TwoLayers, batch: tuple[Tensor, Tensor]
) -> None:
    method = methods.build(make_run(method=name, consistency=5.0), THREAT)
    first_weighted = round(burn_in * 120)
    for epoch in range(120):
        step_inputs = inputs(target, batch, epoch / 120, torch.arange(10.0) / 4)
        arguments = (step_inputs,) if name == "gairat" else (step_inputs, target(batch[0]))
        weights = method.weights(*arguments)  # type: ignore[attr-defined]
        assert not weights.requires_grad
        assert bool((weights == 1).all()) == (epoch < first_weighted), epoch


def test_sat_threshold_at_every_epoch() -> None:
    method = methods.build(make_run(method="sat", options={"easy": -0.2, "ramp": 0.5}), THREAT)
    assert isinstance(method, Sat)
    thresholds = [method.threshold(epoch / 100) for epoch in range(100)]
    assert thresholds[0] == pytest.approx(-0.2)
    assert thresholds[25] == pytest.approx(0.4)
    assert thresholds == sorted(thresholds)
    assert thresholds[50:] == [1.0] * 50
    sudden = methods.build(make_run(method="sat", options={"ramp": 0.0}), THREAT)
    assert isinstance(sudden, Sat) and sudden.threshold(0.0) == 1.0


def test_sat_stops_at_hard_images_and_becomes_at(target: TwoLayers, batch: tuple[Tensor, Tensor]) -> None:
    images, labels = batch
    inner = {"steps": 8, "eps": 0.3, "step_size": 0.1, "start": "none"}

    def attacked(name: str, progress: float) -> Tensor:
        return (
            methods.build(make_run(method=name, inner=inner), THREAT)
            .attack(
                target,
                images,
                images,
                labels=labels,
                objective=lambda logits: cross_entropy(logits, labels),
                progress=progress,
            )
            .images
        )

    early, late, full = attacked("sat", 0.0), attacked("sat", 1.0), attacked("at", 0.0)
    assert torch.equal(late, full)
    target.eval()
    gap = probability_gap(target(images), labels)
    untouched = (early == images).flatten(1).all(1)
    assert torch.equal(untouched, gap > 0) and untouched.any() and not untouched.all()
    assert (probability_gap(target(early), labels) <= probability_gap(target(full), labels) + 1e-9).all()


def test_awp_perturbs_each_weight_tensor_by_gamma_along_its_gradient(
    target: TwoLayers, batch: tuple[Tensor, Tensor]
) -> None:
    images, labels = batch
    target.train()
    before = {name: value.clone() for name, value in target.state_dict().items()}

    def loss() -> Tensor:
        return cross_entropy(target(images), labels).mean()

    reference = copy.deepcopy(target)
    cross_entropy(reference(images), labels).mean().backward()
    with perturbed(target, 0.01, loss):
        for name, parameter in target.named_parameters():
            moved = parameter.detach() - before[name]
            if parameter.ndim > 1:
                gradient = dict(reference.named_parameters())[name].grad
                assert gradient is not None
                expected = 0.01 * before[name].norm() * gradient / gradient.norm()
                torch.testing.assert_close(moved, expected)
            else:
                assert torch.equal(moved, torch.zeros_like(moved)), f"{name} must not change"
        assert loss() > cross_entropy(reference(images), labels).mean()
    for name in ("first.weight", "second.weight"):
        torch.testing.assert_close(target.state_dict()[name], before[name])


def test_awp_does_not_change_batchnorm_and_updates_from_the_perturbed_point(
    target: TwoLayers, batch: tuple[Tensor, Tensor]
) -> None:
    """One SGD step under AWP, against the same done by hand on a copy."""
    images, truth = batch
    run = make_run(awp={"gamma": 0.05, "warm_up": 0.5})
    method = methods.build(run, THREAT)
    method.attack = lambda *_, **__: AttackResult(images)  # type: ignore[method-assign]
    results = {}
    for progress in (0.4, 0.5):
        network = copy.deepcopy(target).train()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1, weight_decay=0.1)

        def update(loss: Tensor, optimizer: torch.optim.Optimizer = optimizer) -> None:
            loss.backward()
            optimizer.step()

        training_step(
            Networks(network, None),
            method,
            run,
            images,
            truth,
            images,
            progress=progress,
            update=update,
        )
        results[progress] = network
    plain = copy.deepcopy(target).train()
    cross_entropy(plain(images), truth).mean().backward()
    gradient = plain.first.weight.grad
    assert gradient is not None
    expected_plain = target.first.weight - 0.1 * (gradient + 0.1 * target.first.weight)
    torch.testing.assert_close(results[0.4].first.weight, expected_plain)

    offset = {
        n: 0.05 * p.norm() * dict(plain.named_parameters())[n].grad / dict(plain.named_parameters())[n].grad.norm()  # type: ignore[union-attr]
        for n, p in target.named_parameters()
        if p.ndim > 1
    }
    worse = copy.deepcopy(target).train()
    with torch.no_grad():
        for n, p in worse.named_parameters():
            if n in offset:
                p.add_(offset[n])
    cross_entropy(worse(images), truth).mean().backward()
    assert worse.first.weight.grad is not None
    stepped = worse.first.weight - 0.1 * (worse.first.weight.grad + 0.1 * worse.first.weight)
    torch.testing.assert_close(results[0.5].first.weight, stepped - offset["first.weight"])
    torch.testing.assert_close(results[0.5].norm.running_mean, worse.norm.running_mean)
    assert results[0.5].norm.num_batches_tracked == worse.norm.num_batches_tracked


def test_awp_as_released_perturbs_against_trades_on_true_labels(
    target: TwoLayers, guide: TwoLayers, batch: tuple[Tensor, Tensor]
) -> None:
    """CE(f(x), y) + 6 KL(p(x) || p(x')), whatever loss is then taken at the perturbed weights."""
    images, truth = batch
    adversarial_images = (images + 0.05).clamp(max=1.0)
    run = make_run(labels="dynamic", guide="small", awp={"gamma": 0.05, "warm_up": 0.0, "proxy": "trades"})
    method = methods.build(run, THREAT)
    method.attack = lambda *_, **__: AttackResult(adversarial_images)  # type: ignore[method-assign]
    assert (guide.train()(images).argmax(1) != truth).any(), "dynamic labels that are not the true ones"
    reference = copy.deepcopy(target).train()
    clean, adversarial = reference(images).log_softmax(1), reference(adversarial_images).log_softmax(1)
    divergence = (clean.exp() * (clean - adversarial)).sum(1)
    (-clean[torch.arange(len(truth)), truth] + 6 * divergence).mean().backward()

    moved: dict[str, Tensor] = {}
    before = {name: value.detach().clone() for name, value in target.named_parameters()}

    def update(_: Tensor) -> None:
        moved.update({name: value.detach() - before[name] for name, value in target.named_parameters()})

    networks = Networks(target.train(), guide.train())
    training_step(networks, method, run, images, truth, images, progress=0.0, update=update)
    for name, parameter in reference.named_parameters():
        if parameter.ndim > 1:
            assert parameter.grad is not None
            expected = 0.05 * before[name].norm() * parameter.grad / parameter.grad.norm()
            torch.testing.assert_close(moved[name], expected)


def test_awp_never_changes_the_guide(target: TwoLayers, guide: TwoLayers, batch: tuple[Tensor, Tensor]) -> None:
    run = make_run(method="lbgat", guide="small", clean_forward=True, awp={"gamma": 0.05, "warm_up": 0.0})
    before = copy.deepcopy(guide.state_dict())
    networks = Networks(target.train(), guide.train())
    guide_forwards = []
    guide.register_forward_hook(lambda *_: guide_forwards.append(1))
    training_step(
        networks,
        methods.build(run, THREAT),
        run,
        *batch,
        batch[0] + 0.01,
        progress=0.0,
        update=lambda loss: loss.backward(),
    )
    for name, parameter in guide.named_parameters():
        assert torch.equal(parameter, before[name])
    assert len(guide_forwards) == 1
