"""What is handed over: a card with the run's numbers, weights that load as it says, code that needs torch alone."""

from __future__ import annotations

import ast
import copy
import csv
import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from dynat import data, models
from dynat.config import Experiment, names
from dynat.config.load import of_content
from dynat.data import to_pixels
from dynat.jobs.card import write_card
from dynat.jobs.exam import run_exam
from dynat.jobs.stranger import OneFolder, Question, examine_checkpoint
from dynat.jobs.training import run_training
from dynat.places import Places
from dynat.provenance import PACKAGE
from dynat.report import card, latex, tables, write_metrics
from dynat.report.comparisons import compare
from tests import tiny
from tests.conftest import Dynat

NOISY = 0.5
SEEDS = (0, 3)
CONTENT: dict[str, Any] = {
    "dataset": {"name": "tiny", "source": "folder", "path": "pictures", "size": 8},
    "threat": {"eps": 0.1},
    "training": {
        "target": "small",
        "guide": "small",
        "epochs": 3,
        "batch": 16,
        "inner": {"steps": 2},
        "augmentation": {"padding": 0, "flip": False},
        "validation": {"steps": 2},
    },
    "runs": {"at": {"method": "at"}, "dynat": {"method": "at", "labels": "dynamic"}},
    "seeds": list(SEEDS),
    "attacks": {
        "clean": {},
        "pgd-4": {},
        "pgd-2": {"pictures": 20},
        "pgd-4-last": {"kind": "pgd", "steps": 4, "weights": "last"},
    },
}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Experiment, Places]:
    """Two runs of two seeds, trained and attacked. To be read only."""
    folder = tmp_path_factory.mktemp("done")
    places = Places(folder / "data", folder / "results", folder / "runs")
    pictures = tiny.dataset()
    data.save(
        pictures.of(
            name="tiny",
            classes=pictures.classes,
            about=pictures.about,
            train=tiny.pictures(20, seed=1, noise=NOISY),
            validation=pictures.validation,
            test=tiny.pictures(8, seed=3, noise=NOISY),
        ),
        places.pictures("tiny"),
    )
    experiment = of_content(CONTENT, "tests")
    for run in experiment.runs:
        for seed in SEEDS:
            run_training(experiment.training(run), seed=seed, places=places, say=lambda _: None)
        for attack in experiment.attacks:
            run_exam(experiment.exam(run, attack), places=places, say=lambda _: None)
        write_metrics(places.run("tests", run), list(experiment.attacks))
    return experiment, places


@pytest.fixture(scope="module")
def handed(done: tuple[Experiment, Places], tmp_path_factory: pytest.TempPathFactory) -> Path:
    experiment, places = done
    return write_card(experiment, "dynat", places, out=tmp_path_factory.mktemp("handed"), say=lambda _: None).parent


def metrics_of(done: tuple[Experiment, Places], run: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((done[1].run("tests", run) / "metrics.json").read_text())
    return content


def example(folder: Path) -> str:
    found = re.search(r"```python\n(.*?)```", (folder / "card.md").read_text(), re.DOTALL)
    assert found
    return found[1]


def answers(folder: Path, pictures: torch.Tensor) -> list[int]:
    """What the card's example says of these pictures, in a process that has no dynat."""
    save_file({"pictures": pictures}, folder / "asked.safetensors")
    code = f"""
import sys
sys.modules["dynat"] = None
from safetensors.torch import load_file as read
pictures = read("asked.safetensors")["pictures"]
{example(folder)}
print(logits.argmax(1).tolist())
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, capture_output=True, text=True)
    found: list[int] = json.loads(done.stdout)
    return found


def predictions(outcomes: Path, seed: int) -> list[int]:
    with (outcomes / "clean.csv").open() as file:
        return [int(row["prediction"]) for row in csv.DictReader(file) if int(row["seed"]) == seed]


def test_the_example_runs_as_printed_and_without_this_package(done: tuple[Experiment, Places], handed: Path) -> None:
    assert len([line for line in example(handed).splitlines() if line]) == 5
    pictures = to_pixels(data.load(done[1].pictures("tiny")).test.images)
    own = predictions(done[1].run("tests", "dynat") / "outcomes", seed=0)
    assert answers(handed, pictures) == own
    assert own != predictions(done[1].run("tests", "dynat") / "outcomes", seed=3), "the other seed says otherwise"


def test_a_strangers_network_is_handed_on_with_its_normalisation(
    done: tuple[Experiment, Places], tmp_path: Path, dynat: Dynat
) -> None:
    """Also from the command line, by the folder of the examination."""
    torch.manual_seed(5)
    theirs = models.build("small", classes=tiny.CLASSES, channels=1)
    torch.save(theirs.state_dict(), tmp_path / "theirs.pt")
    question = Question(
        checkpoint=tmp_path / "theirs.pt",
        network="small",
        dataset="tiny",
        attacks=("pgd-4",),
        threat={"eps": 0.1},
        settings={},
        standard={"mean": 0.7, "std": 0.1},
    )
    places = OneFolder(done[1].data, tmp_path / "examined", tmp_path / "runs")
    examine_checkpoint(question, name="theirs", places=places, say=lambda _: None)
    code, said = dynat("card", tmp_path / "examined", "--out", tmp_path / "card")
    assert code == 0 and "card.md, target-seed0.safetensors" in said
    pictures = to_pixels(data.load(done[1].pictures("tiny")).test.images)
    with models.evaluating(theirs), torch.no_grad():
        expected, bare = (theirs(x).argmax(1).tolist() for x in ((pictures - 0.7) / 0.1, pictures))
    assert answers(tmp_path / "card", pictures) == expected != bare
    text = (tmp_path / "card" / "card.md").read_text()
    assert "Trained elsewhere: what it learned from" in text and "No test picture chose anything" not in text


@pytest.mark.parametrize("name", [name for name in names.NETWORKS if "<" not in name] + ["wrn10-2"])
def test_the_code_of_every_network_needs_torch_alone(name: str) -> None:
    """It is handed over as a file by itself."""
    for module in (names.network_entry(name)[0].partition(":")[0], "dynat.models.normalised"):
        tree = ast.parse((PACKAGE.parent / f"{module.replace('.', '/')}.py").read_text())
        imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert {each.partition(".")[0] for each in imported} <= {"__future__", "collections", "math", "torch"}


def test_the_files_are_those_of_the_run(done: tuple[Experiment, Places], handed: Path) -> None:
    text = (handed / "card.md").read_text()
    for seed in SEEDS:
        content = (handed / f"target-seed{seed}.safetensors").read_bytes()
        assert content == (done[1].seed("tests", "dynat", seed) / "target.safetensors").read_bytes()
        assert hashlib.sha256(content).hexdigest() in text
    names_ = {file.name for file in handed.iterdir()} - {"asked.safetensors"}
    weights = {f"target-seed{seed}.safetensors" for seed in SEEDS}
    assert names_ - {"__pycache__"} == {"card.md", "row.tex", "network.py", *weights}, "no claim without AutoAttack"


def test_the_table_of_the_card_is_that_of_the_metrics(done: tuple[Experiment, Places], handed: Path) -> None:
    text, metrics = (handed / "card.md").read_text(), metrics_of(done, "dynat")
    for title, name in (
        ("Clean", "clean"),
        ("PGD-4", "pgd-4"),
        ("PGD-2", "pgd-2"),
        ("pgd-4-last, last epoch", "pgd-4-last"),
    ):
        cell = metrics["attacks"][name]
        line = next(line for line in text.splitlines() if line.startswith(f"| {title} "))
        shown = (
            f"{100 * cell['mean']:.1f} % ± {100 * cell['std']:.1f}",
            f"{100 * cell['low']:.1f}–{100 * cell['high']:.1f}",
        )
        assert all(f" {part} |" in line for part in (*shown, str(cell["n"]), "0, 3"))


def test_the_row_is_the_line_of_the_table_without_its_marks(done: tuple[Experiment, Places], handed: Path) -> None:
    experiment, places = done
    metrics = {run: metrics_of(done, run) for run in experiment.runs}
    compared = compare(places.results / "tests", metrics, tables.columns(experiment, metrics))
    whole = latex.to_tex(tables.build(experiment, metrics, compared))
    (line,) = (line.strip() for line in whole.splitlines() if line.strip().startswith(r"\texttt{dynat}"))
    plain = re.sub(r"\\textbf\{(.*?)\}|\$\^\{\\d?dagger\}\$", lambda mark: mark[1] or "", line)
    *comments, row = (handed / "row.tex").read_text().splitlines()
    assert row == plain
    assert all(comment.startswith("% ") for comment in comments)
    assert "Bold" not in comments[-1] and "n = 40 test pictures unless the column says otherwise" in comments[-1]


# --- honesty --------------------------------------------------------------------------------------------------


def with_autoattack(metrics: dict[str, Any], **over: Any) -> dict[str, Any]:
    """The metrics as if the fewest pictures had been attacked by AutoAttack."""
    cell = copy.deepcopy(metrics["attacks"]["pgd-2"])
    cell["attack"] |= {"kind": "autoattack"} | over.pop("attack", {})
    return {**metrics, "attacks": {**metrics["attacks"], "autoattack": cell | over}}


def card_of(metrics: dict[str, Any]) -> str:
    weights = {seed: card.Weights(f"target-seed{seed}.safetensors", "0" * 64, None) for seed in metrics["seeds"]}
    return card.to_markdown(card.Handed(metrics=metrics, weights=weights, example="pass", sources=()))


Change = Callable[[dict[str, Any]], dict[str, Any]]
SAID: dict[str, tuple[Change, str]] = {
    "no AutoAttack": (lambda m: m, "AutoAttack was not run in this ball. PGD alone often flatters"),
    "AutoAttack in another ball": (
        lambda m: with_autoattack(m, attack={"eps": 0.01}),
        "AutoAttack was not run in this ball",
    ),
    "few pictures": (with_autoattack, "AutoAttack examined the first 20 of 40 test pictures: what it says is "),
    "a flag": (
        lambda m: with_autoattack(m, flags=["it seems to be a randomized defense"]),
        "AutoAttack warned: it seems to be a randomized defense",
    ),
    "refuted claims": (
        lambda m: with_autoattack(m, refuted_claims=3),
        "AutoAttack claimed 3 pictures that did not hold",
    ),
    "no gates": (lambda m: m, "No validity gates were run on it."),
    "a failed gate": (
        lambda m: {**m, "examination": {"gates": {"steps": {"passed": False, "said": "61 to 64"}}}},
        "**Validity gates failed (More steps never help the model): do not quote its robust accuracy.**",
    ),
    "one seed": (lambda m: {**m, "seeds": [0], "training": {"0": m["training"]["0"]}}, "One seed: how far another"),
    "no leaderboard": (lambda m: m, "RobustBench has no leaderboard for this data set"),
    "another radius": (
        lambda m: {**m, "dataset": {**m["dataset"], "name": "cifar10"}, "threat": {"norm": "linf", "eps": 0.031}},
        "RobustBench compares at ε = 8/255; this is another radius.",
    ),
    "a guide": (lambda m: m, "The guide, which labelled pictures in training, is not handed over"),
    "the last epoch": (lambda m: m, "Rows that say last epoch are about weights that are not handed over"),
}


@pytest.mark.parametrize("what", SAID)
def test_the_card_says_what_to_beware_of(what: str, done: tuple[Experiment, Places]) -> None:
    change, said = SAID[what]
    assert said in card_of(change(metrics_of(done, "dynat")))


def test_what_is_not_so_is_not_said(done: tuple[Experiment, Places]) -> None:
    metrics = with_autoattack(metrics_of(done, "at"), n=40)
    metrics["examination"] = {"gates": {"steps": {"passed": True, "said": "61 to 61"}}}
    metrics["dataset"]["name"], metrics["threat"]["eps"] = "cifar10", 8 / 255
    for cell in metrics["attacks"].values():
        cell["attack"]["eps"] = 8 / 255
    text = card_of(metrics)
    for said in (
        "was not run",
        "examined the first",
        "failed",
        "One seed",
        "leaderboard",
        "another radius",
        "guide, which",
    ):
        assert said not in text
    assert "* passed: More steps never help the model (61 to 61)" in text


# Every field that RobustBench's model_info has of a network in an Lp ball, but `external`, which is for others to fill.
FIELDS = {
    "link", "name", "authors", "additional_data", "number_forward_passes", "dataset", "venue", "architecture", "eps",
    "clean_acc", "reported", "autoattack_acc", "footnote", "unreliable",
}  # fmt: skip


def test_the_claim_is_in_robustbenchs_form_and_of_one_seed(done: tuple[Experiment, Places]) -> None:
    metrics = with_autoattack(metrics_of(done, "dynat"))
    metrics["threat"] = {"norm": "linf", "eps": 8 / 255}
    metrics["attacks"]["autoattack"]["attack"]["eps"] = 8 / 255
    for seed in SEEDS:
        claim = card.claim(metrics, seed)
        assert claim is not None and set(claim) == FIELDS
        robust = f"{100 * metrics['attacks']['autoattack']['per_seed'][str(seed)]:.2f}"
        assert claim["autoattack_acc"] == claim["reported"] == robust
        assert claim["clean_acc"] == f"{100 * metrics['attacks']['clean']['per_seed'][str(seed)]:.2f}"
        assert claim["eps"] == "8/255" and claim["additional_data"] is False and claim["unreliable"] is False
        assert "first 20 of 40 test pictures" in claim["footnote"]
    flagged = with_autoattack(metrics_of(done, "dynat"), flags=["zero gradient"])
    assert (card.claim(flagged, 0) or {})["unreliable"] is True
    assert card.claim(metrics_of(done, "dynat"), 0) is None
    assert card.architecture("wrn34-10") == "WideResNet-34-10"


def test_a_claim_of_an_earlier_card_does_not_stay(done: tuple[Experiment, Places], tmp_path: Path) -> None:
    (tmp_path / "claim-seed0.json").write_text("{}")
    write_card(done[0], "at", done[1], out=tmp_path, say=lambda _: None)
    assert not (tmp_path / "claim-seed0.json").exists()


def test_a_run_that_is_not_there_is_named(dynat: Dynat, tmp_path: Path) -> None:
    code, said = dynat("card", "dynta")
    assert code == 2 and "unknown run 'dynta': did you mean 'dynat'?" in said
    code, said = dynat("card", "dynat", "--results", tmp_path, "--out", tmp_path / "out")
    assert code == 2 and "metrics.json: no such file; make it with: snakemake" in said
    assert not (tmp_path / "out").exists()
