"""The search: never leaves its rules, solves a problem whose answer is known, leaves the network as it was."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dynat.inner import Ball, climb, maximise
from dynat.losses import cross_entropy, margin
from tests.conftest import TwoLayers


def ascend(model: nn.Module, pictures: Tensor, labels: Tensor, ball: Ball, **changes: object) -> Tensor:
    settings_ = {"steps": 5, "step_size": ball.eps / 4, "start": "uniform", **changes}
    generator = settings_.pop("generator", None) or torch.Generator().manual_seed(0)
    return maximise(
        model,
        pictures,
        objective=lambda logits: cross_entropy(logits, labels),
        ball=ball,
        generator=generator,
        **settings_,  # type: ignore[arg-type]
    )


@settings(max_examples=40, deadline=None)
@given(
    norm=st.sampled_from(["linf", "l2"]),
    eps=st.floats(1e-3, 0.9),
    step=st.floats(1e-3, 2.0),
    start=st.sampled_from(["gauss", "uniform", "none"]),
    steps=st.integers(1, 4),
    seed=st.integers(0, 10**6),
)
def test_never_leaves_the_ball_or_the_pixel_range(
    norm: str, eps: float, step: float, start: str, steps: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    pictures = torch.rand(4, 3, 2, 2, generator=generator, dtype=torch.float64)
    ball = Ball(norm, eps)
    found = ascend(
        TwoLayers(1),
        pictures,
        torch.arange(4),
        ball,
        steps=steps,
        step_size=step * eps,
        start=start,
        generator=generator,
    )
    assert (ball.distance(found, pictures) <= eps + 1e-9).all()
    assert found.min() >= 0 and found.max() <= 1


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_linear_model_is_attacked_optimally(norm: str) -> None:
    """For logits w.x the worst picture is known: x - eps*sign(w), or x - eps*w/|w|, if no pixel is clamped."""
    linear = nn.Linear(12, 2, bias=False, dtype=torch.float64)
    with torch.no_grad():
        linear.weight[1] = -linear.weight[0]
    model = nn.Sequential(nn.Flatten(), linear)
    pictures = torch.full((1, 3, 2, 2), 0.5, dtype=torch.float64)
    direction = linear.weight[0].detach().view(1, 3, 2, 2)
    unit = direction.sign() if norm == "linf" else direction / direction.norm()
    found = ascend(model, pictures, torch.tensor([0]), Ball(norm, 0.1), steps=20, start="none")
    torch.testing.assert_close(found, pictures - 0.1 * unit)


def test_projection_comes_before_the_clamp() -> None:
    ball = Ball("linf", 0.1)
    clean = torch.tensor([0.95, 0.05, 0.5]).view(1, 1, 1, 3)
    moved = ball.project(clean + torch.tensor([0.3, -0.3, 0.3]).view(1, 1, 1, 3), clean)
    torch.testing.assert_close(moved, torch.tensor([1.0, 0.0, 0.6]).view(1, 1, 1, 3))


def test_uniform_start_fills_the_ball() -> None:
    centre = torch.full((4000, 1, 1, 2), 0.5)
    for norm, inner_share in (("linf", 0.25), ("l2", 0.25)):
        ball = Ball(norm, 0.2)
        distance = ball.distance(ball.sample(centre, torch.Generator().manual_seed(0)), centre)
        assert distance.max() <= 0.2 + 1e-6 and distance.max() > 0.19
        share = (distance < 0.1).float().mean().item()
        assert share == pytest.approx(inner_share, abs=0.03), "half the radius holds a quarter of the area"


def test_gauss_start_is_tiny_and_needs_no_clamp_first() -> None:
    black = torch.zeros(1, 1, 8, 8)
    seen: list[Tensor] = []

    class Look(nn.Module):
        def forward(self, pictures: Tensor) -> Tensor:
            seen.append(pictures.detach())
            return torch.stack([pictures.flatten(1).sum(1), -pictures.flatten(1).sum(1)], 1)

    ascend(Look(), black, torch.tensor([0]), Ball("linf", 0.1), start="gauss", steps=1)
    assert seen[0].min() < 0 and 5e-4 < seen[0].std() < 2e-3


def test_the_network_is_left_as_it_was(target: TwoLayers) -> None:
    pictures, labels = torch.rand(6, 3, 2, 2, dtype=torch.float64), torch.zeros(6, dtype=torch.int64)
    target.train()
    target.second.bias.requires_grad_(False)
    before = {name: value.clone() for name, value in target.state_dict().items()}
    ascend(target, pictures, labels, Ball("linf", 0.1))
    assert all(torch.equal(before[name], value) for name, value in target.state_dict().items())
    assert target.training and target.norm.training
    assert [p.requires_grad for p in target.parameters()] == [True, True, True, True, True, False]
    assert all(parameter.grad is None for parameter in target.parameters())


def test_the_search_sees_the_network_in_evaluation_mode(target: TwoLayers) -> None:
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


def test_same_generator_same_pictures(target: TwoLayers) -> None:
    pictures, labels = torch.rand(6, 3, 2, 2, dtype=torch.float64), torch.zeros(6, dtype=torch.int64)
    one, two, other = (
        ascend(
            target,
            pictures,
            labels,
            Ball("linf", 0.1),
            steps=1,
            generator=torch.Generator().manual_seed(seed),
        )
        for seed in (3, 3, 4)
    )
    assert torch.equal(one, two) and not torch.equal(one, other)


def test_a_picture_that_is_finished_stays_and_the_others_go_on(target: TwoLayers) -> None:
    pictures, labels = torch.rand(6, 3, 2, 2, dtype=torch.float64), torch.zeros(6, dtype=torch.int64)
    first = torch.tensor([True, False, True, False, False, False])
    found = maximise(
        target,
        pictures,
        objective=lambda logits: cross_entropy(logits, labels),
        ball=Ball("linf", 0.1),
        steps=3,
        step_size=0.03,
        start="none",
        generator=torch.Generator(),
        stop=lambda logits: first,
    )
    still = (found == pictures).flatten(1).all(1)
    assert torch.equal(still, first)


def test_watch_sees_every_iterate_before_its_update(target: TwoLayers) -> None:
    pictures, labels = torch.rand(6, 3, 2, 2, dtype=torch.float64), torch.zeros(6, dtype=torch.int64)
    seen: list[Tensor] = []
    climb(
        target,
        pictures,
        pictures,
        objective=lambda logits: cross_entropy(logits, labels),
        ball=Ball("linf", 0.1),
        steps=4,
        step_size=0.03,
        watch=seen.append,
    )
    assert len(seen) == 4
    target.eval()
    torch.testing.assert_close(seen[0], target(pictures))


def test_margin_is_the_lead_of_the_best_other_class() -> None:
    logits = torch.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, 1.0]])
    torch.testing.assert_close(margin(logits, torch.tensor([0, 0])), torch.tensor([-1.0, 5.0]))
