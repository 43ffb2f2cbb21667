"""The learning rate at every epoch, against the published schedule written out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

from dynat.config.training import ScheduleConfig
from dynat.training.schedule import boundaries, learning_rate


def test_the_papers_hundred_epochs() -> None:
    published = [0.02] + [0.1] * 74 + [0.01] * 15 + [0.001] * 10
    rates = [learning_rate(ScheduleConfig(), epochs=100, progress=epoch) for epoch in range(100)]
    assert rates == pytest.approx(published)


def test_the_rate_holds_within_an_epoch() -> None:
    assert learning_rate(ScheduleConfig(), epochs=100, progress=0.99) == pytest.approx(0.02)
    assert learning_rate(ScheduleConfig(), epochs=100, progress=74.99) == pytest.approx(0.1)
    assert learning_rate(ScheduleConfig(), epochs=100, progress=75.0) == pytest.approx(0.01)


@pytest.mark.parametrize("epochs", range(6, 201))
def test_every_drop_happens_at_every_budget(epochs: int) -> None:
    rates = [round(learning_rate(ScheduleConfig(), epochs=epochs, progress=epoch), 9) for epoch in range(epochs)]
    warm_up = max(1, round(epochs / 100))
    assert rates[:warm_up] == [0.02] * warm_up
    assert rates[warm_up:] == sorted(rates[warm_up:], reverse=True)
    assert set(rates[warm_up:]) == {0.1, 0.01, 0.001}


def test_scaled_boundaries() -> None:
    assert boundaries(ScheduleConfig(), 20) == [(0, 0.2), (1, 1.0), (15, 0.1), (18, 0.01)]


def test_one_cycle_rises_to_its_peak_and_falls_to_zero() -> None:
    schedule = ScheduleConfig(shape="one-cycle", lr=0.2, peak=0.3)
    rate = [learning_rate(schedule, epochs=30, progress=step / 10) for step in range(301)]
    assert rate[0] == 0 and rate[300] == pytest.approx(0)
    assert max(rate) == pytest.approx(0.2) and rate.index(max(rate)) == 90
    assert rate[45] == pytest.approx(0.1) and rate[195] == pytest.approx(0.1)


def test_cosine_at_every_epoch_and_within() -> None:
    schedule = ScheduleConfig(shape="cosine", lr=0.2)
    for tenth in range(301):
        expected = 0.2 * (1 + math.cos(math.pi * tenth / 300)) / 2
        assert learning_rate(schedule, epochs=30, progress=tenth / 10) == pytest.approx(expected, abs=1e-12)
    assert [learning_rate(schedule, epochs=30, progress=epoch) for epoch in (0, 15, 30)] == pytest.approx([0.2, 0.1, 0])


@pytest.mark.parametrize(("epochs", "warm_up", "final"), [(20, 0, 0.0), (20, 5, 0.1), (8, 2, 1.0), (1, 0, 0.5)])
def test_cosine_with_a_warm_up_is_torchs_at_every_epoch(epochs: int, warm_up: int, final: float) -> None:
    schedule = ScheduleConfig(shape="cosine", lr=0.2, warm_up=warm_up / epochs, final=final)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.2)
    cosine = CosineAnnealingLR(optimizer, epochs - warm_up, eta_min=0.2 * final)
    torchs = (
        SequentialLR(optimizer, [LinearLR(optimizer, 1e-12, total_iters=warm_up), cosine], [warm_up])
        if warm_up
        else cosine
    )
    for epoch in range(epochs):
        rate = learning_rate(schedule, epochs=epochs, progress=epoch)
        assert rate == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9)
        optimizer.step()
        torchs.step()
