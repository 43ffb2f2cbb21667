"""The sanity checks fail a defense that only hides its gradients, and pass an undefended network."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from dynat import data
from dynat.attacks.gradients import count_zero_gradients
from dynat.attacks.transfer import transfer_verdicts
from dynat.config import SanityConfig, SanitySpec, ThreatModel
from dynat.data import LabeledImages, to_pixels
from dynat.jobs.sanity import run_sanity_checks
from dynat.results.paths import Paths, RunFiles
from dynat.results.records import Check, GradientCount, SanityRecord, read_record
from dynat.results.sanity import TITLES, curves, read_sanity, sanity_checks
from tests import fake_results, helpers, tiny

THREAT = ThreatModel(eps=0.3)
TABLE_HEAD = "| sanity check | undefended |"
SANITY = SanityConfig(images=30, steps=(1, 5, 20, 60), restarts=3, queries=300)


def fit(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, tiny.CLASSES))
        return helpers.fit(network, tiny.images(20, seed=1), steps=60)


class Rounded(nn.Module):
    """Rounds pixels, which has a gradient of zero; a small change can still move a pixel to another value."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.inner((images * 8).round() / 8)
        return logits


class Saturated(Rounded):
    """Logits so far apart that the softmax is 0 or 1 and the cross-entropy has no gradient."""

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.inner(images) * 1e4
        return logits


class Noisy(Rounded):
    """Adds noise to the logits of every forward pass."""

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.inner(images)
        return logits + 6 * torch.randn_like(logits)


def paths_in(folder: Path) -> Paths:
    return Paths(folder / "data", folder / "results", folder / "state")


def checks_of(model: nn.Module, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Check]:
    """The sanity checks of a network that stands in for a run's, through the same job as in the DAG."""
    paths = paths_in(folder)
    data.save(tiny.dataset(), paths.dataset("tiny"))
    monkeypatch.setattr("dynat.jobs.evaluation.load_target", lambda *_: (model, type(model).__name__))
    monkeypatch.setattr("dynat.jobs.evaluation.Evaluator.identity", lambda *_: {})
    attacks = SANITY.attacks(THREAT)
    spec = SanitySpec(preset="tests", name="toy", data="tiny", seeds=(0,), attacks=attacks)
    run_sanity_checks(spec, paths=paths, say=lambda _: None)
    sanity = read_sanity(paths.run_files("tests", "toy"))
    assert sanity is not None
    return sanity_checks(*sanity)


def failed(checks: dict[str, Check]) -> set[str]:
    assert list(checks) == list(TITLES)
    return {name for name, check in checks.items() if not check.passed}


def documented(column: int) -> list[str]:
    """What the manual's table says of a network."""
    text = (Path(__file__).parents[1] / "docs/evaluation.md").read_text()
    rows = text.partition(TABLE_HEAD)[2].partition("\n\n")[0].splitlines()[2:]
    return [_without_chance(row.split("|")[column + 2].strip()) for row in rows]


def _without_chance(detail: str) -> str:
    """Which images Square breaks depends on numbers that torch may draw differently on another machine."""
    return re.sub(r"Square [\d.]+", "Square", detail)


@pytest.mark.parametrize(
    ("column", "mask", "expected"),
    [
        (0, lambda network: network, set()),
        (1, Rounded, {"gradients", "large_eps", "black-box"}),
        (2, Saturated, {"gradients", "large_eps", "black-box"}),
    ],
    ids=["undefended", "rounded", "saturated"],
)
def test_masked_gradients_fail_the_checks_that_the_manual_shows(
    column: int,
    mask: Callable[[nn.Module], nn.Module],
    expected: set[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checks = checks_of(mask(fit()), tmp_path, monkeypatch)
    assert failed(checks) == expected, checks
    details = [_without_chance(check.detail.rpartition(": ")[2]) for check in checks.values()]
    shown = [text if check.passed else f"**{text}**" for text, check in zip(details, checks.values(), strict=True)]
    assert shown == documented(column)


def test_a_network_with_random_logits_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert "eps-0" in failed(checks_of(Noisy(fit()), tmp_path, monkeypatch))


def test_sanity_checks_resume_from_saved_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def saved() -> list[int]:
        return sorted(file.stat().st_mtime_ns for file in paths_in(tmp_path).state.rglob("*.pt"))

    model = fit()
    first = checks_of(model, tmp_path, monkeypatch)
    before = saved()
    assert len(before) == len({attack.model_dump_json() for attack in SANITY.attacks(THREAT).values()})
    assert checks_of(model, tmp_path, monkeypatch) == first
    assert saved() == before


def test_an_attack_with_two_names_is_run_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checks_of(fit(), tmp_path, monkeypatch)
    batches = [torch.load(file) for file in paths_in(tmp_path).state.rglob("*.pt")]
    record = read_record(paths_in(tmp_path).run_files("tests", "toy").sanity_record, SanityRecord)
    assert record.seconds == pytest.approx(sum(batch["seconds"] for batch in batches))


@pytest.mark.parametrize("settings", [{"steps": (1, 20)}, {"restarts": 1}])
def test_a_check_that_could_not_fail_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"above 20|greater than or equal to 2"):
        SanityConfig(**settings)


# --- each sanity check by itself ------------------------------------------------------------------------------

Sanity = tuple[pd.DataFrame, SanityRecord]


@pytest.fixture
def sanity(tmp_path: Path) -> Sanity:
    plan = fake_results.experiment(tmp_path)
    run = RunFiles(tmp_path / "at")
    fake_results.write_sanity(run, plan, 0.86)
    found = read_sanity(run)
    assert found is not None
    return found


def test_made_up_sound_results_pass(sanity: Sanity) -> None:
    assert failed(sanity_checks(*sanity)) == set()


@pytest.mark.parametrize(
    ("attack", "correct", "check"),
    [
        ("eps-0", 0, "eps-0"),
        ("large_eps", 1, "large_eps"),
        ("steps-100", 1, "steps"),
        ("restarts-5", 1, "restarts"),
        ("square", 0, "black-box"),
    ],
)
def test_each_check_fails_by_itself(sanity: Sanity, attack: str, correct: int, check: str) -> None:
    table, record = sanity
    table.loc[table["attack"] == attack, "correct"] = correct
    assert failed(sanity_checks(table, record)) == {check}


def test_a_difference_that_chance_explains_fails_nothing(sanity: Sanity) -> None:
    table, record = sanity
    broken = table[(table["attack"] == "steps-100") & (table["correct"] == 0) & (table["seed"] == 0)].index
    table.loc[broken[:3], "correct"] = 1
    assert failed(sanity_checks(table, record)) == set()


def test_gradients_of_zero(sanity: Sanity) -> None:
    table, record = sanity
    counts = {0: GradientCount(zero=0, correct=50), 1: GradientCount(zero=2, correct=50)}
    changed = record.model_copy(update={"gradients": counts})
    assert failed(sanity_checks(table, changed)) == {"gradients"}
    assert sanity_checks(table, changed)["gradients"].detail == "2 of 100 are zero"


def test_curves_are_in_order(sanity: Sanity) -> None:
    drawn = curves(*sanity)
    assert [point.eps for point in drawn.eps] == pytest.approx([0.15 * k / 4 for k in range(9)])
    assert [point.steps for point in drawn.steps] == [1, 2, 5, 10, 20, 50, 100]
    assert drawn.eps[0].accuracy > drawn.eps[-1].accuracy


# --- what the checks count --------------------------------------------------------------------------------------


def test_zero_gradients_are_counted_among_correct_images() -> None:
    image_set = tiny.images(6, seed=3)
    model = fit()
    correct = int((model(to_pixels(image_set.images)).argmax(1) == image_set.labels).sum())
    assert count_zero_gradients(model, image_set, batch=7) == (0, correct)
    rounded = Rounded(model)
    correct = int((rounded(to_pixels(image_set.images)).argmax(1) == image_set.labels).sum())
    assert count_zero_gradients(rounded, image_set) == (correct, correct)


def test_transfer_is_strongest_on_the_network_it_was_made_against() -> None:
    image_set = tiny.images(8, seed=3, noise=0.6)
    source, other = fit(), fit(seed=1)
    attack = tiny.attack(eps=0.12, step_size=0.03, steps=20)
    verdicts = transfer_verdicts(source, {"source": source, "other": other}, image_set, attack)
    clean = source(to_pixels(image_set.images)).argmax(1) == image_set.labels
    assert verdicts["source"].sum() < verdicts["other"].sum() and verdicts["source"].sum() < clean.sum()
    nothing = transfer_verdicts(source, {"source": source}, image_set, tiny.attack(eps=0.0, step_size=0.0, steps=2))
    assert torch.equal(nothing["source"], clean)


def test_a_network_that_draws_random_numbers_is_evaluated_alike_each_time(
    convnet: nn.Module, noisy_images: LabeledImages
) -> None:
    noisy, attack = Noisy(convnet), tiny.attack(eps=0.05, steps=3)
    torch.manual_seed(1)
    first = transfer_verdicts(noisy, {"other": noisy}, noisy_images, attack), count_zero_gradients(noisy, noisy_images)
    torch.manual_seed(2)
    again = transfer_verdicts(noisy, {"other": noisy}, noisy_images, attack), count_zero_gradients(noisy, noisy_images)
    assert torch.equal(first[0]["other"], again[0]["other"]) and first[1] == again[1]
    assert torch.initial_seed() == 2, "the caller's generator is left alone"
