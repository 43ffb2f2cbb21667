"""A stranger's file of weights, from the command line to a table: right space, right network, nothing twice."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dynat import data, models
from dynat.attacks import Examination, examine
from dynat.config import Attack, names
from dynat.jobs import exam as exam_job
from dynat.places import Places
from dynat.report.statistics import wilson
from tests import tiny
from tests.conftest import Dynat

MEAN, STD, EPS = 0.4, 0.2, 0.1
TEST = tiny.pictures(6, seed=3, noise=0.5)
"""Hard enough for a network to be wrong on some, and to be broken on some."""


class Standardising(nn.Module):
    """The oracle: what the stranger's own code did around the network."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.network((pixels - MEAN) / STD)
        return logits


@pytest.fixture(scope="module")
def theirs() -> nn.Module:
    """A network that learned on standardised pixels; right on most pictures then, on fewer without."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = models.build("small", classes=tiny.CLASSES, channels=1)
    return fit(network, Standardising(network))


def fit(network: nn.Module, whole: nn.Module) -> nn.Module:
    pictures = tiny.pictures(20, seed=1, noise=0.5)
    pixels, optimiser = data.to_pixels(pictures.images), torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(15):
        optimiser.zero_grad()
        nn.functional.cross_entropy(whole(pixels), pictures.labels).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return network.eval()


@pytest.fixture
def places(tmp_path: Path) -> Places:
    found = Places(tmp_path / "data", tmp_path / "out", tmp_path / "runs")
    data.save(dataclasses.replace(tiny.dataset(), test=TEST), found.pictures("tiny"))
    return found


Ask = Callable[..., tuple[int, str]]


@pytest.fixture
def ask(dynat: Dynat, places: Places, theirs: nn.Module, tmp_path: Path) -> Ask:
    """The call of a stranger; words that are given replace those that are usual."""
    torch.save({"net": theirs.state_dict()}, tmp_path / "theirs.pt")

    def call(**words: object) -> tuple[int, str]:
        usual = {
            "checkpoint": tmp_path / "theirs.pt",
            "arch": "small",
            "dataset": "tiny",
            "attacks": "pgd-4",
            "eps": EPS,
            "batch": 8,
            "mean": MEAN,
            "std": STD,
            "data": places.data,
            "out": places.results,
            "state": places.state,
        }
        given = {key: value for key, value in (usual | words).items() if value is not None}
        return dynat(
            "attack", *(str(part) for key, value in given.items() for part in (f"--{key}", value) if part != "")
        )

    return call


def outcome(places: Places, attack: str) -> list[dict[str, str]]:
    with (places.results / "outcomes" / f"{attack}.csv").open() as file:
        return list(csv.DictReader(file))


def directly(network: nn.Module, eps: float = EPS, **fields: object) -> Examination:
    base = {"kind": "pgd", "steps": 4, "eps": eps, "norm": "linf", "step_size": eps / 4, "start": "uniform", "batch": 8}
    return examine(network, TEST, Attack.model_validate({**base, **fields}))


def test_the_verdicts_are_those_of_the_strangers_own_function(ask: Ask, places: Places, theirs: nn.Module) -> None:
    code, said = ask()
    assert code == 0, said
    rows, expected = outcome(places, "pgd-4"), directly(Standardising(theirs))
    stands = [int(row["correct"]) for row in rows]
    assert stands == expected.columns["correct"].int().tolist() and 0 < sum(stands) < len(stands)
    assert [float(row["margin"]) for row in rows] == pytest.approx(expected.columns["margin"].tolist(), rel=1e-4)
    # In pixels of [0,1]: in standardised pixels the same radius would be five times as large.
    assert EPS * 0.9 < max(float(row["distance"]) for row in rows) <= EPS + 1e-6
    wrong = (theirs, EPS), (Standardising(theirs), EPS * STD), (Standardising(Standardising(theirs)), EPS)
    others = [directly(network, eps) for network, eps in wrong]
    assert all(other.columns["correct"].int().tolist() != stands for other in others), "a wrong space is seen"


def test_a_normalisation_in_the_file_stated_once_more_is_not_done_twice(
    ask: Ask, theirs: nn.Module, tmp_path: Path
) -> None:
    weights = {f"model.{name}": value for name, value in theirs.state_dict().items()}
    standard = {"normalize.mean": torch.tensor([MEAN]), "normalize.std": torch.tensor([STD])}
    torch.save({**standard, **weights}, tmp_path / "theirs.pt")
    expected = directly(Standardising(theirs)).columns["margin"].tolist()
    for folder, stated in (("once", {"mean": None, "std": None}), ("again", {})):
        code, said = ask(out=tmp_path / folder, **stated)
        assert code == 0 and "pixels are standardised first, as the file carries: mean 0.4, std 0.2" in said
        rows = outcome(Places(results=tmp_path / folder), "pgd-4")
        assert [float(row["margin"]) for row in rows] == pytest.approx(expected, rel=1e-4)


def test_the_table_has_intervals_and_is_what_the_files_say(ask: Ask, places: Places) -> None:
    code, said = ask(attacks="pgd-4,cw-2", pictures=20)
    assert code == 0
    metrics = json.loads((places.results / "metrics.json").read_text())
    assert list(metrics["attacks"]) == ["clean", "pgd-4", "cw-2"], "clean comes first, asked for or not"
    table = (places.results / "table.md").read_text()
    assert table in said
    for title, attack in (("Clean", "clean"), ("PGD-4", "pgd-4"), ("CW-2", "cw-2")):
        stands = sum(int(row["correct"]) for row in outcome(places, attack))
        low, high = wilson(stands, 20)
        line = next(line for line in table.splitlines() if line.startswith(f"| {title} "))
        assert (
            f" {100 * stands / 20:.1f} % " in line and f" {100 * low:.1f}–{100 * high:.1f} " in line and " 20 " in line
        )
    assert "| Worst case " in table and "ε = 0.1 " in table


def test_gates_are_asked_for_and_are_of_this_question(ask: Ask, places: Places) -> None:
    few = {"attacks": "clean", "pictures": 6, "batch": None}
    code, said = ask(**few, gates="")
    assert code == 0, said
    assert "Validity gates:" in said and "* passed: Nothing falls at ε = 0 (0 of " in said
    first = json.loads((places.results / "metrics.json").read_text())["examination"]
    assert len(first["gates"]) == 6
    assert "Validity gates" not in ask(**few, eps="0.02")[1], "those of another radius are not those of this one"
    assert not (places.results / "probes.csv").exists()
    ask(**few, eps="0.02", gates="")
    second = json.loads((places.results / "metrics.json").read_text())["examination"]
    assert first["curves"] != second["curves"]


def test_l2_is_l2(ask: Ask, places: Places, theirs: nn.Module) -> None:
    code, said = ask(norm="l2", eps="1.5")
    assert code == 0 and "L2, ε = 1.5" in said
    expected = directly(Standardising(theirs), eps=1.5, norm="l2")
    assert [int(row["correct"]) for row in outcome(places, "pgd-4")] == expected.columns["correct"].int().tolist()


# --- what a file of weights cannot say ------------------------------------------------------------------------


def test_a_network_near_chance_is_doubted_before_the_attacks(ask: Ask, theirs: nn.Module, tmp_path: Path) -> None:
    shuffled = dict(theirs.state_dict())
    shuffled["8.weight"], shuffled["8.bias"] = (shuffled[name].roll(1, 0) for name in ("8.weight", "8.bias"))
    torch.save(shuffled, tmp_path / "theirs.pt")
    code, said = ask()
    assert code == 0
    assert "is near chance (20.0 %). Likely causes: another --arch" in said
    assert said.index("warning: clean accuracy") < said.index("under pgd-4"), "before an hour of attacks"
    assert "Warning: clean accuracy" in (tmp_path / "out" / "table.md").read_text()


def test_an_accuracy_that_is_not_the_reported_one_is_doubted(ask: Ask, places: Places) -> None:
    code, said = ask()
    assert code == 0 and "arning" not in said
    clean = json.loads((places.results / "metrics.json").read_text())["attacks"]["clean"]["accuracy"]
    assert "arning" not in ask(expect=100 * clean)[1]
    assert "is not the 30 % expected (99 % interval " in ask(expect=30)[1]


def strided(first: int, classes: int, channels: int) -> nn.Sequential:
    """The same names and shapes whatever the first stride: what a file of weights cannot tell apart."""
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, stride=first, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=3 - first, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(256, classes),
    )


def early(*, classes: int, channels: int) -> nn.Sequential:
    return strided(2, classes, channels)


def late(*, classes: int, channels: int) -> nn.Sequential:
    return strided(1, classes, channels)


@pytest.mark.parametrize("named", ["early", "late"])
def test_other_strides_with_the_same_names_are_found_out(
    named: str, ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a network that was trained as `early`: loaded as `late` every name fits, and only accuracy tells."""
    for name in ("early", "late"):
        monkeypatch.setitem(names.NETWORKS, name, f"{__name__}:{name}")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        trained = early(classes=tiny.CLASSES, channels=1)
    fit(trained, trained)
    torch.save(trained.state_dict(), tmp_path / "theirs.pt")
    other = {"early": "late", "late": "early"}[named]
    assert ask(arch=other, mean=None, std=None, out=tmp_path / "before")[0] == 0
    code, said = ask(arch=named, mean=None, std=None)
    assert code == 0, said
    # Verdicts of the other one are kept, under the same weights: they are not gone on from.
    assert outcome(Places(results=tmp_path / "before"), "clean") != outcome(Places(results=tmp_path / "out"), "clean")
    assert ("the same file as early gets " in said and "is it --arch early?" in said) == (named == "late")


def test_the_two_strides_of_resnet18_are_known_to_fit_the_same_file() -> None:
    from dynat.jobs.stranger import alike

    config = {"run": {"method": "external"}, "dataset": {"classes": list(range(10)), "channels": 3}}
    assert alike("resnet18", "resnet18-heavy", config) and alike("resnet18-heavy", "resnet18", config)
    assert not alike("small", "resnet18", config) and not alike("wrn<depth>-<width>", "wrn10-1", config)


# --- again, and otherwise -------------------------------------------------------------------------------------


class Killed(BaseException):
    pass


def test_an_examination_that_was_killed_goes_on(ask: Ask, places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    advance, counted = exam_job._advance, []

    def kill(_bar: object, count: int) -> None:
        counted.append(count)
        if len(counted) == 6:  # four batches of clean, then two of PGD
            raise Killed

    monkeypatch.setattr(exam_job, "_advance", kill)
    with pytest.raises(Killed):
        ask()
    monkeypatch.setattr(exam_job, "_advance", advance)
    kept = {file: file.stat().st_mtime_ns for file in places.state.rglob("*.pt")}
    assert len(kept) == 6
    code, said = ask()
    assert code == 0 and "| PGD-4 " in said
    assert all(file.stat().st_mtime_ns == when for file, when in kept.items())
    assert len(outcome(places, "pgd-4")) == 30


def test_one_folder_holds_one_examination(ask: Ask, theirs: nn.Module, tmp_path: Path) -> None:
    assert ask()[0] == 0
    assert ask(attacks="pgd-2", eps="0.05")[0] == 0, "another question about the same file"
    code, said = ask(mean=None, std=None)
    assert code == 2 and "holds the examination of another checkpoint, network or data set" in said
    torch.save({name: 2 * value for name, value in theirs.state_dict().items()}, tmp_path / "theirs.pt")
    assert ask()[0] == 2
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    code, said = ask(out=tmp_path / "mine")
    assert code == 2 and "mine: holds something else" in said
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


REFUSED = [
    ({"arch": None, "eps": None}, "a file of weights says little, so say --arch, --eps too"),
    ({"checkpoint": "no.pt"}, "no.pt: no such checkpoint"),
    (
        {"checkpoint": None},
        "--eps, --batch, --mean, --std, --out: for a file of weights only, say which",
    ),
    ({"arch": "resnet19"}, "unknown network 'resnet19': did you mean 'resnet18'?"),
    ({"arch": "wrn10-1"}, "these are not the weights of this WideResNet: missing: conv1.weight"),
    ({"dataset": "cifar"}, "unknown data set 'cifar', and there is no"),
    ({"attacks": "pdg-20"}, "unknown attack 'pdg-20': did you mean 'pgd-20'?"),
    ({"eps": "8"}, "eps 8 is outside (0,1): pixels are in [0,1], write 8/255 rather than 8"),
    ({"norm": "l1"}, "threat.norm: "),
    ({"std": None}, "mean and std are given together"),
    ({"mean": "125.3", "std": "63"}, "mean 125.3 is not of pixels in [0,1]: divide what is meant for 0..255 by 255"),
    ({"mean": "0.5,0.5", "std": "0.2,0.2"}, "mean and std are of 2 channels, and the pictures have 1"),
    ({"pictures": "0"}, "pictures: "),
]


@pytest.mark.parametrize(("words", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_a_call_that_cannot_be_answered_says_why(words: dict[str, str], message: str, ask: Ask, places: Places) -> None:
    code, said = ask(**words)
    assert code == 2 and message in said and "Traceback" not in said
    assert not (places.results / "outcomes").exists()


def test_a_run_and_a_file_are_not_examined_in_one_call(dynat: Dynat) -> None:
    code, said = dynat("attack", "dynat", "pgd-20", "--checkpoint", "theirs.pt")
    assert code == 2 and "a file of weights is no run of a preset" in said


def test_a_data_set_that_is_not_prepared_is_prepared_as_its_preset_says(
    ask: Ask, places: Places, tmp_path: Path
) -> None:
    from dynat.config import load

    torch.save(models.build("small", classes=10, channels=1).state_dict(), tmp_path / "theirs.pt")
    code, said = ask(dataset="digits", pictures=8, attacks="clean")
    assert code == 0 and "digits: prepared in " in said
    held_out = len(data.load(places.pictures("digits")).validation) / 1438
    assert held_out == pytest.approx(load({"preset": "digits"}).dataset.validation, abs=0.01)
