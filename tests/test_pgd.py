"""PGD: stays in the ball and in [0,1], solves a problem with a known solution, leaves the network unchanged."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dynat.attacks.evaluation import TOLERANCE
from dynat.nn.losses import cross_entropy, margin
from dynat.pgd import Ball, pgd, starting_point
from tests.networks import TwoLayers


def ascend(model: nn.Module, images: Tensor, labels: Tensor, ball: Ball, **changes: object) -> Tensor:
    settings_ = {"steps": 5, "step_size": ball.eps / 4, "start": "uniform", **changes}
    generator = settings_.pop("generator", torch.Generator().manual_seed(0))
    assert isinstance(generator, torch.Generator)
    start = starting_point(images, ball, str(settings_.pop("start")), generator)
    return pgd(
        model,
        images,
        start,
        objective=lambda logits: cross_entropy(logits, labels),
        ball=ball,
        **settings_,  # type: ignore[arg-type]
    )


@settings(max_examples=40, deadline=None)
@given(
    norm=st.sampled_from(["linf", "l2", "l1"]),
    eps=st.floats(1e-3, 0.9),
    step=st.floats(1e-3, 2.0),
    start=st.sampled_from(["gauss", "uniform", "none"]),
    steps=st.integers(1, 4),
    seed=st.integers(0, 10**6),
)
def test_pgd_never_leaves_the_ball_or_the_pixel_range(
    norm: str, eps: float, step: float, start: str, steps: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(4, 3, 2, 2, generator=generator, dtype=torch.float64)
    ball = Ball(norm, eps)
    adversarial = ascend(
        TwoLayers(1),
        images,
        torch.arange(4),
        ball,
        steps=steps,
        step_size=step * eps,
        start=start,
        generator=generator,
    )
    assert (ball.distance(adversarial, images) <= eps + 1e-9).all()
    assert adversarial.min() >= 0 and adversarial.max() <= 1


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_a_linear_model_is_attacked_optimally(norm: str) -> None:
    """For logits w.x the worst image is known if no pixel is clamped: x - eps*sign(w), x - eps*w/|w|, or, in L1, all of
    eps at the largest |w|."""
    linear = nn.Linear(12, 2, bias=False, dtype=torch.float64)
    with torch.no_grad():
        linear.weight[1] = -linear.weight[0]
    model = nn.Sequential(nn.Flatten(), linear)
    images = torch.full((1, 3, 2, 2), 0.5, dtype=torch.float64)
    direction = linear.weight[0].detach().view(1, 3, 2, 2)
    largest = direction.abs() == direction.abs().max()
    unit = {"linf": direction.sign(), "l2": direction / direction.norm(), "l1": direction.sign() * largest}[norm]
    adversarial = ascend(model, images, torch.tensor([0]), Ball(norm, 0.1), steps=20, start="none")
    torch.testing.assert_close(adversarial, images - 0.1 * unit)


def test_projection_comes_before_the_clamp() -> None:
    ball = Ball("linf", 0.1)
    clean = torch.tensor([0.95, 0.05, 0.5]).view(1, 1, 1, 3)
    moved = ball.project(clean + torch.tensor([0.3, -0.3, 0.3]).view(1, 1, 1, 3), clean)
    torch.testing.assert_close(moved, torch.tensor([1.0, 0.0, 0.6]).view(1, 1, 1, 3))


@pytest.mark.parametrize("eps", [1.0, 3.0, 10.0])
def test_an_image_on_the_surface_of_a_large_l2_ball_is_not_outside(eps: float) -> None:
    """In float32 the length of 150,528 numbers rounds by more than the evaluation tolerates."""
    generator = torch.Generator().manual_seed(0)
    clean = 0.25 + 0.5 * torch.rand(8, 3, 224, 224, generator=generator)
    far = clean + torch.randn(clean.shape, generator=generator) * 1.2 * eps / 150_528**0.5
    ball = Ball("l2", eps)
    distance = ball.distance(ball.project(far, clean), clean)
    assert (distance <= eps + TOLERANCE).all() and (distance >= eps - 2 * TOLERANCE).all()
    inside = clean + (far - clean) / 2
    assert torch.equal(ball.project(inside, clean), inside.clamp(0, 1))


@pytest.mark.parametrize("eps", [1.0, 10.0])
def test_an_image_just_outside_a_large_l2_ball_is_moved_inside(eps: float) -> None:
    """What each value should change by is less than half of the distance to the next float32 number."""
    generator = torch.Generator().manual_seed(0)
    clean = torch.randint(64, 192, (4, 3, 224, 224), generator=generator) / 255
    far = clean + torch.randn(clean.shape, generator=generator)
    ball, larger = Ball("l2", eps), Ball("l2", eps + 2e-6)
    outside = larger.project(far, clean)
    assert (ball.distance(outside, clean) > eps + 1.5 * TOLERANCE).all()
    distance = ball.distance(ball.project(outside, clean), clean)
    assert (distance <= eps + TOLERANCE / 5).all() and (distance >= eps - 2e-5).all()


def test_uniform_start_fills_the_ball() -> None:
    centre = torch.full((4000, 1, 1, 2), 0.5)
    for norm, inner_share in (("linf", 0.25), ("l2", 0.25), ("l1", 0.25)):
        ball = Ball(norm, 0.2)
        distance = ball.distance(ball.sample(centre, torch.Generator().manual_seed(0)), centre)
        assert distance.max() <= 0.2 + 1e-6 and distance.max() > 0.19
        share = (distance < 0.1).float().mean().item()
        assert share == pytest.approx(inner_share, abs=0.03), "half the radius holds a quarter of the area"


def test_gauss_start_is_tiny_and_needs_no_clamp_first() -> None:
    black = torch.zeros(1, 1, 8, 8)
    logits_seen: list[Tensor] = []

    class Look(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            logits_seen.append(images.detach())
            return torch.stack([images.flatten(1).sum(1), -images.flatten(1).sum(1)], 1)

    ascend(Look(), black, torch.tensor([0]), Ball("linf", 0.1), start="gauss", steps=1)
    assert logits_seen[0].min() < 0 and 5e-4 < logits_seen[0].std() < 2e-3


def test_the_network_is_left_unchanged(target: TwoLayers) -> None:
    images, labels = torch.rand(6, 3, 2, 2, dtype=torch.float64), torch.zeros(6, dtype=torch.int64)
    target.train()
    target.second.bias.requires_grad_(False)
    before = {name: value.clone() for name, value in target.state_dict().items()}
    ascend(target, images, labels, Ball("linf", 0.1))
    assert all(torch.equal(before[name], value) for name, value in target.state_dict().items())
    assert target.training and target.norm.training
    assert [p.requires_grad for p in target.parameters()] == [True, True, True, True, True, False]
    assert all(parameter.grad is None for parameter in target.parameters())


def test_the_network_is_in_evaluation_mode_during_pgd(target: TwoLayers) -> None:
    modes = []
    target.norm.register_forward_hook(lambda module, *_: modes.append(module.training))
    target.train()
    ascend(
        target,
        torch.rand(6, 3, 2, 2, dtype=torch.float64),
        torch.zeros(6, dtype=torch.int64),
        Ball("linf", 0.1),
    )
    assert modes == [False] * 5


def test_same_generator_same_images(target: TwoLayers) -> None:
    images, labels = torch.rand(6, 3, 2, 2, dtype=torch.float64), torch.zeros(6, dtype=torch.int64)
    one, two, other = (
        ascend(
            target,
            images,
            labels,
            Ball("linf", 0.1),
            steps=1,
            generator=torch.Generator().manual_seed(seed),
        )
        for seed in (3, 3, 4)
    )
    assert torch.equal(one, two) and not torch.equal(one, other)


def test_a_stopped_image_is_not_moved_and_the_others_are(target: TwoLayers) -> None:
    images, labels = torch.rand(6, 3, 2, 2, dtype=torch.float64), torch.zeros(6, dtype=torch.int64)
    first = torch.tensor([True, False, True, False, False, False])
    adversarial = pgd(
        target,
        images,
        images,
        objective=lambda logits: cross_entropy(logits, labels),
        ball=Ball("linf", 0.1),
        steps=3,
        step_size=0.03,
        stop=lambda logits: first,
    )
    still = (adversarial == images).flatten(1).all(1)
    assert torch.equal(still, first)


def test_observe_sees_every_iterate_before_its_update(target: TwoLayers) -> None:
    images, labels = torch.rand(6, 3, 2, 2, dtype=torch.float64), torch.zeros(6, dtype=torch.int64)
    logits_seen: list[Tensor] = []
    pgd(
        target,
        images,
        images,
        objective=lambda logits: cross_entropy(logits, labels),
        ball=Ball("linf", 0.1),
        steps=4,
        step_size=0.03,
        observe=logits_seen.append,
    )
    assert len(logits_seen) == 4
    target.eval()
    torch.testing.assert_close(logits_seen[0], target(images))


def test_margin_is_the_best_other_logit_minus_the_label_logit() -> None:
    logits = torch.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, 1.0]])
    torch.testing.assert_close(margin(logits, torch.tensor([0, 0])), torch.tensor([-1.0, 5.0]))
