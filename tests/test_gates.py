"""The gates fail a defence that only hides its gradients, and pass an honest network."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from dynat import data
from dynat.attacks.gradients import without_gradient
from dynat.attacks.transfer import transferred
from dynat.config import ProbeSpec, Threat
from dynat.config.attacks import Probing
from dynat.data import to_pixels
from dynat.jobs.probe import run_probe
from dynat.places import Places
from dynat.report.gates import TITLES, curves, gates, read_probes
from tests import fabricated, tiny

THREAT = Threat(eps=0.3)
PROBING = Probing(pictures=30, steps=(1, 5, 20, 60), restarts=3, queries=300)


def fit(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, tiny.CLASSES))
        pictures = tiny.pictures(20, seed=1)
        optimiser = torch.optim.Adam(network.parameters(), lr=0.01)
        for _ in range(60):
            optimiser.zero_grad()
            loss = nn.functional.cross_entropy(network(to_pixels(pictures.images)), pictures.labels)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    return network.eval()


class Rounded(nn.Module):
    """Sees coarse pictures: rounding has a gradient of zero, and a small push moves a pixel over the edge."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, pictures: Tensor) -> Tensor:
        logits: Tensor = self.inner((pictures * 8).round() / 8)
        return logits


class Saturated(Rounded):
    """Logits so far apart that the softmax is exact and the cross-entropy has no gradient left."""

    def forward(self, pictures: Tensor) -> Tensor:
        logits: Tensor = self.inner(pictures) * 1e4
        return logits


class Noisy(Rounded):
    """A die decides at every look."""

    def forward(self, pictures: Tensor) -> Tensor:
        logits: Tensor = self.inner(pictures)
        return logits + 6 * torch.randn_like(logits)


def examined(model: nn.Module, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    """The gates of a network that stands in for a run's, through the same job as in the DAG."""
    places = Places(folder / "data", folder / "results", folder / "runs")
    data.save(tiny.dataset(), places.pictures("tiny"))
    monkeypatch.setattr("dynat.jobs.exam.load_target", lambda *_: (model, type(model).__name__))
    attacks = PROBING.attacks(THREAT)
    spec = ProbeSpec(preset="tests", name="toy", data="tiny", seeds=(0,), attacks=attacks)
    run_probe(spec, places=places, say=lambda _: None)
    probes = read_probes(places.run("tests", "toy"))
    assert probes is not None
    return gates(*probes)


def failed(verdicts: dict[str, dict[str, Any]]) -> set[str]:
    assert list(verdicts) == list(TITLES)
    return {name for name, gate in verdicts.items() if not gate["passed"]}


def documented(column: int) -> list[str]:
    """What the manual's table says of a network."""
    text = (Path(__file__).parents[1] / "docs/examination.md").read_text()
    rows = text.partition("| gate | honest |")[2].partition("\n\n")[0].splitlines()[2:]
    return [_without_chance(row.split("|")[column + 2].strip()) for row in rows]


def _without_chance(said: str) -> str:
    """Which pictures fall to Square depends on numbers that torch may draw differently elsewhere."""
    return re.sub(r"Square [\d.]+", "Square", said)


@pytest.mark.parametrize(
    ("column", "mask", "caught"),
    [
        (0, lambda network: network, set()),
        (1, Rounded, {"gradients", "large", "black-box"}),
        (2, Saturated, {"gradients", "large", "black-box"}),
    ],
    ids=["honest", "rounded", "saturated"],
)
def test_masks_are_found_out_as_the_manual_shows(
    column: int,
    mask: Callable[[nn.Module], nn.Module],
    caught: set[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    verdicts = examined(mask(fit()), tmp_path, monkeypatch)
    assert failed(verdicts) == caught, verdicts
    said = [_without_chance(gate["said"].rpartition(": ")[2]) for gate in verdicts.values()]
    shown = [text if gate["passed"] else f"**{text}**" for text, gate in zip(said, verdicts.values(), strict=True)]
    assert shown == documented(column)


def test_a_die_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert "eps-0" in failed(examined(Noisy(fit()), tmp_path, monkeypatch))


def test_probes_are_kept_and_gone_on_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = fit()
    first = examined(honest, tmp_path, monkeypatch)
    kept = sorted(file.stat().st_mtime_ns for file in (tmp_path / "runs" / "exams").rglob("*.pt"))
    assert len(kept) == len({attack.model_dump_json() for attack in PROBING.attacks(THREAT).values()})
    assert examined(honest, tmp_path, monkeypatch) == first
    assert sorted(file.stat().st_mtime_ns for file in (tmp_path / "runs" / "exams").rglob("*.pt")) == kept


def test_what_has_two_names_is_paid_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    examined(fit(), tmp_path, monkeypatch)
    batches = [torch.load(file) for file in (tmp_path / "runs" / "exams").rglob("*.pt")]
    account = json.loads((tmp_path / "results/tests/toy/probes.json").read_text())
    assert account["seconds"] == pytest.approx(sum(batch["seconds"] for batch in batches))


@pytest.mark.parametrize("settings", [{"steps": (1, 20)}, {"restarts": 1}])
def test_a_gate_that_could_not_fail_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"above 20|greater than or equal to 2"):
        Probing(**settings)


# --- each gate by itself --------------------------------------------------------------------------------------


@pytest.fixture
def probes(tmp_path: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    plan = fabricated.experiment(tmp_path)
    (tmp_path / "at").mkdir()
    fabricated.write_probes(tmp_path / "at", plan, 0.86)
    found = read_probes(tmp_path / "at")
    assert found is not None
    return found


def test_the_fabricated_ones_pass(probes: tuple[pd.DataFrame, dict[str, Any]]) -> None:
    assert failed(gates(*probes)) == set()


@pytest.mark.parametrize(
    ("probe", "correct", "gate"),
    [
        ("eps-0", 0, "eps-0"),
        ("large", 1, "large"),
        ("steps-100", 1, "steps"),
        ("restarts-5", 1, "restarts"),
        ("square", 0, "black-box"),
    ],
)
def test_one_gate_each(probes: tuple[pd.DataFrame, dict[str, Any]], probe: str, correct: int, gate: str) -> None:
    table, account = probes
    table.loc[table["probe"] == probe, "correct"] = correct
    assert failed(gates(table, account)) == {gate}


def test_a_difference_that_chance_explains_fails_nothing(probes: tuple[pd.DataFrame, dict[str, Any]]) -> None:
    table, account = probes
    fallen = table[(table["probe"] == "steps-100") & (table["correct"] == 0) & (table["seed"] == 0)].index
    table.loc[fallen[:3], "correct"] = 1
    assert failed(gates(table, account)) == set()


def test_gradients_of_zero(probes: tuple[pd.DataFrame, dict[str, Any]]) -> None:
    table, account = probes
    account["gradients"] = {"0": {"zero": 0, "right": 50}, "1": {"zero": 2, "right": 50}}
    assert failed(gates(table, account)) == {"gradients"}
    assert gates(table, account)["gradients"]["said"] == "2 of 100 without"


def test_curves_are_in_order(probes: tuple[pd.DataFrame, dict[str, Any]]) -> None:
    drawn = curves(*probes)
    assert [point["eps"] for point in drawn["eps"]] == pytest.approx([0.15 * k / 4 for k in range(9)])
    assert [point["steps"] for point in drawn["steps"]] == [1, 2, 5, 10, 20, 50, 100]
    assert drawn["eps"][0]["accuracy"] > drawn["eps"][-1]["accuracy"]


# --- where the figures come from --------------------------------------------------------------------------------


def test_without_gradient_counts_what_is_right() -> None:
    pictures = tiny.pictures(6, seed=3)
    honest = fit()
    right = int((honest(to_pixels(pictures.images)).argmax(1) == pictures.labels).sum())
    assert without_gradient(honest, pictures, batch=7) == (0, right)
    coarse = Rounded(honest)
    right = int((coarse(to_pixels(pictures.images)).argmax(1) == pictures.labels).sum())
    assert without_gradient(coarse, pictures) == (right, right)


def test_transfer_is_strongest_on_the_network_it_was_made_against() -> None:
    pictures = tiny.pictures(8, seed=3, noise=0.6)
    source, other = fit(), fit(seed=1)
    attack = tiny.attack(eps=0.12, step_size=0.03, steps=20)
    found = transferred(source, {"source": source, "other": other}, pictures, attack)
    clean = source(to_pixels(pictures.images)).argmax(1) == pictures.labels
    assert found["source"].sum() < found["other"].sum() and found["source"].sum() < clean.sum()
    nothing = transferred(source, {"source": source}, pictures, tiny.attack(eps=0.0, step_size=0.0, steps=2))
    assert torch.equal(nothing["source"], clean)
