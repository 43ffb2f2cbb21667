"""The L1 ball within [0,1]: the projection against slow ones, the step, the sample, and what counts as inside."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch import Tensor, nn

from dynat import l1_ball
from dynat.attacks import evaluate
from dynat.attacks.evaluation import CORRECT
from dynat.config import AttackConfig, registry
from dynat.data import LabeledImages, to_pixels
from dynat.pgd import Ball
from tests import tiny


def candidates(count: int, values: int, seed: int, scale: float) -> tuple[Tensor, Tensor]:
    """Images, some with black and white pixels, and points around them."""
    generator = torch.Generator().manual_seed(seed)
    center = (1.6 * torch.rand(count, 1, 1, values, generator=generator, dtype=torch.float64) - 0.3).clamp(0, 1)
    return center + scale * torch.randn(center.shape, generator=generator, dtype=torch.float64), center


def by_bisection(candidate: Tensor, center: Tensor, eps: float) -> Tensor:
    """Each image by itself: the multiplier of the L1 constraint by 200 halvings; the box by a clamp of every offset."""
    nearest = []
    for point, middle in zip(candidate.flatten(1), center.flatten(1), strict=True):
        offset = point - middle

        def shrunk(by: float, offset: Tensor = offset, middle: Tensor = middle) -> Tensor:
            return torch.clamp(offset.sign() * (offset.abs() - by).clamp(min=0), -middle, 1 - middle)

        low, high = 0.0, float(offset.abs().max())
        if shrunk(0.0).abs().sum() > eps:
            for _ in range(200):
                middle_value = (low + high) / 2
                low, high = (middle_value, high) if shrunk(middle_value).abs().sum() > eps else (low, middle_value)
        nearest.append(middle + shrunk(low))
    return torch.stack(nearest).view_as(candidate)


@settings(max_examples=25, deadline=None)
@given(
    values=st.sampled_from([1, 2, 7, 64]),
    eps=st.floats(1e-3, 40.0),
    scale=st.sampled_from([0.01, 0.3, 3.0, 100.0]),
    seed=st.integers(0, 10**6),
)
def test_the_projection_equals_that_by_bisection(values: int, eps: float, scale: float, seed: int) -> None:
    candidate, center = candidates(5, values, seed, scale)
    projected = l1_ball.project(candidate, center, eps)
    torch.testing.assert_close(projected, by_bisection(candidate, center, eps), rtol=0, atol=1e-9)
    torch.testing.assert_close(l1_ball.project(projected, center, eps), projected, rtol=0, atol=1e-9)


def test_the_projection_solves_the_quadratic_program() -> None:
    """Nearest in L2 under sum |d| <= eps and 0 <= x + d <= 1, by a solver that knows nothing of this problem. The
    offset is split into its positive and negative part, which makes the constraints linear."""
    candidate, center = candidates(6, 5, seed=3, scale=0.8)
    for point, middle in zip(candidate.view(6, 5).numpy(), center.view(6, 5).numpy(), strict=True):
        found = minimize(
            lambda parts, point=point, middle=middle: np.square(middle + parts[:5] - parts[5:] - point).sum(),
            np.zeros(10),
            bounds=[(0, 1 - value) for value in middle] + [(0, value) for value in middle],
            constraints={"type": "ineq", "fun": lambda parts: 0.7 - parts.sum()},
            method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 500},
        )
        ours = l1_ball.project(torch.tensor(point).view(1, 1, 1, 5), torch.tensor(middle).view(1, 1, 1, 5), 0.7)
        np.testing.assert_allclose(ours.flatten().numpy(), middle + found.x[:5] - found.x[5:], atol=1e-5)


@pytest.mark.parametrize(("values", "eps"), [(64, 2.0), (3072, 12.0), (3072, 0.01), (64, 0.0)])
def test_a_projected_float32_image_is_inside_without_a_tolerance(values: int, eps: float) -> None:
    candidate, center = (batch.float() for batch in candidates(50, values, seed=0, scale=1.0))
    projected = l1_ball.project(candidate, center, eps)
    exact = (projected.double() - center.double()).abs().flatten(1).sum(1)
    assert (exact <= eps).all() and projected.min() >= 0 and projected.max() <= 1
    assert (exact >= eps * (1 - 1e-5)).all(), "and not further inside than rounding needs"


def test_a_step_changes_the_largest_gradients_that_point_into_the_box() -> None:
    point = torch.full((2, 1, 1, 201), 0.5)
    point[0, 0, 0, 7] = 1.0
    gradient = torch.zeros_like(point)
    gradient[0, 0, 0, [7, 8, 9, 10]] = torch.tensor([9.0, -5.0, 4.0, 3.0])
    direction = l1_ball.direction(point, gradient)
    expected = torch.zeros_like(point)  # two of 201 values; a white pixel cannot become whiter
    expected[0, 0, 0, 8], expected[0, 0, 0, 9] = -0.5, 0.5
    assert torch.equal(direction, expected), "an image without a gradient does not move"


def test_the_sample_is_uniform_in_the_ball() -> None:
    """The share of the volume within r of the center is r^n, and every value has the same distribution."""
    center = torch.full((20_000, 1, 1, 3), 0.5)
    offset = l1_ball.sample(center, 0.4, torch.Generator().manual_seed(0))
    length = offset.flatten(1).abs().sum(1)
    assert length.max() <= 0.4 + 1e-6
    for radius in (0.2, 0.3):
        assert (length < radius).double().mean().item() == pytest.approx((radius / 0.4) ** 3, abs=0.015)
    assert offset.flatten(1).mean(0).abs().max() < 0.005
    assert offset.flatten(1).abs().mean(0).std() < 0.002


# --- attacks --------------------------------------------------------------------------------------------------


class Halves(nn.Module):
    """Two logits from the sums of the left and the right half, so that only the L1 norm of a change matters."""

    def forward(self, images: Tensor) -> Tensor:
        sums = images.flatten(2).sum(1)
        return torch.stack([sums[:, :32].sum(1), sums[:, 32:].sum(1)], 1)


EPS = 2.0


def halves() -> tuple[LabeledImages, Tensor]:
    """Gray images whose first logit is the larger one; its lead is the L1 distance to the decision boundary."""
    images = torch.full((40, 1, 8, 8), 120, dtype=torch.uint8)
    more = torch.arange(40, dtype=torch.uint8)
    images.view(40, 64)[:, :20] += more[:, None]
    return LabeledImages(images, torch.zeros(40, dtype=torch.int64)), more.double() * 20 / 255


@pytest.mark.parametrize("kind", ["pgd", "cw", "apgd-ce", "apgd-t", "fab-t"])
def test_an_attack_in_l1_breaks_exactly_what_the_ball_allows(kind: str) -> None:
    images, lead = halves()
    settings_ = {"steps": 40, "step_size": EPS / 10} if kind in ("pgd", "cw") else {}
    evaluation = evaluate(Halves(), images, tiny.attack(kind, norm="l1", eps=EPS, batch=40, **settings_))
    assert evaluation.rejected_examples == 0
    distance = evaluation.columns["distance"]
    assert (distance <= EPS).all()
    robust = lead > EPS + 1e-3
    assert (evaluation.columns["broken_by"][robust] == CORRECT).all()
    broken = evaluation.columns["correct"][(lead > 0) & (lead < 0.93 * EPS)]
    assert not broken.any(), "also close to the boundary"


def too_far(model: nn.Module, images: Tensor, labels: Tensor, attack: AttackConfig, seed: int) -> Tensor:  # noqa: ARG001
    """An adversarial image inside the L2 and the L-infinity ball of this radius, and 1 % outside the L1 ball."""
    offset = torch.zeros_like(images)
    offset.view(len(images), 64)[:, 20:32] = -1.01 * EPS / 24
    offset.view(len(images), 64)[:, 32:44] = 1.01 * EPS / 24
    return images + offset


def test_an_image_outside_the_l1_ball_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.ATTACKS, "too-far", registry.AttackInfo(f"{__name__}:too_far"))
    images, lead = halves()
    some = images[(lead > 0) & (lead < EPS)]
    evaluation = evaluate(Halves(), some, AttackConfig(kind="too-far", norm="l1", eps=EPS))
    assert evaluation.columns["correct"].all() and evaluation.rejected_examples == len(some)
    claimed = too_far(Halves(), to_pixels(some.images), some.labels, AttackConfig(kind="clean"), 0)
    assert (Halves()(claimed).argmax(1) == 1).all() and (
        Ball("l2", EPS).distance(claimed, to_pixels(some.images)) < EPS
    ).all()
    wider = evaluate(Halves(), some, AttackConfig(kind="too-far", norm="l1", eps=1.02 * EPS))
    assert not wider.columns["correct"].any()
