"""Training and examination through files, and the commands a person types: what lies where, what is said."""

from __future__ import annotations

import csv
import json
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from dynat import data, models, provenance
from dynat.config import ExamSpec, TrainingSpec
from dynat.data import to_pixels
from dynat.jobs import training as training_job
from dynat.jobs.exam import run_exam
from dynat.jobs.training import run_training
from dynat.models import load_weights
from dynat.places import Places
from dynat.training import TrainingState
from tests import tiny
from tests.conftest import Dynat

EPS = tiny.THREAT.eps
SEEDS = (0, 3)


def training_spec(run: Any) -> TrainingSpec:
    return TrainingSpec(preset="tests", name="some-run", data="tiny", threat=tiny.THREAT, run=run)


def exam_spec(kind: str = "pgd", seeds: tuple[int, ...] = SEEDS, **fields: object) -> ExamSpec:
    attack = tiny.attack(kind, **{"steps": 4, "step_size": EPS / 2, "batch": 8, **fields})
    return ExamSpec(preset="tests", name="some-run", data="tiny", seeds=seeds, attack_name="some-attack", attack=attack)


def places_in(folder: Path) -> Places:
    return Places(folder / "data", folder / "results", folder / "runs")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Places:
    """A run with two seeds, trained and attacked. To be read only."""
    places = places_in(tmp_path_factory.mktemp("done"))
    data.save(tiny.dataset(), places.pictures("tiny"))
    for seed in SEEDS:
        run_training(training_spec(tiny.dynat()), seed=seed, places=places, say=lambda _: None)
    run_exam(exam_spec(), places=places, say=lambda _: None)
    return places


@pytest.fixture
def places(tmp_path: Path) -> Places:
    data.save(tiny.dataset(), places_in(tmp_path).pictures("tiny"))
    return places_in(tmp_path)


@pytest.fixture
def trained(done: Places, tmp_path: Path) -> Places:
    """The same run, not yet attacked."""
    places = places_in(tmp_path)
    shutil.copytree(done.data, places.data)
    shutil.copytree(done.results, places.results, ignore=shutil.ignore_patterns("outcomes"))
    return places


# --- training -------------------------------------------------------------------------------------------------


def test_what_a_training_leaves(done: Places) -> None:
    folder = done.seed("tests", "some-run", 3)
    names = {file.name for file in folder.iterdir()}
    assert names == {
        "target.safetensors",
        "target-last.safetensors",
        "guide.safetensors",
        "history.csv",
        "config.json",
    }
    assert [file.name for file in done.state.iterdir()] == ["exams"], "the state is no longer needed"


@pytest.mark.parametrize("precision", ["float32", "auto"])
def test_float32_is_not_tf32(precision: str, places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch allows convolutions on a GPU ten bits of mantissa by default."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    run_training(training_spec(tiny.run(epochs=1, precision=precision)), seed=0, places=places, say=lambda _: None)
    assert torch.backends.cudnn.allow_tf32 == (precision == "auto")


def test_the_config_beside_the_weights_says_what_was_trained(done: Places) -> None:
    spec, written = training_spec(tiny.dynat()), {}
    for seed in SEEDS:
        written[seed] = json.loads((done.seed("tests", "some-run", seed) / "config.json").read_text())
    config = written[3]
    assert {key: config[key] for key in spec.model_dump()} == spec.model_dump(mode="json")
    assert TrainingSpec.model_validate({key: config[key] for key in spec.model_dump()}) == spec
    assert config["seed"] == 3 and config["digest"] != written[0]["digest"]
    expected = tiny.dataset()
    assert config["dataset"]["digest"] == expected.digest
    assert [config["dataset"][part] for part in ("train", "validation", "test")] == [55, 30, 30]
    network = models.build("small", classes=5, channels=1)
    assert config["parameters"] == dict.fromkeys(("target", "guide"), models.count_parameters(network))
    assert config["versions"]["torch"] == torch.__version__
    rows = history(done.seed("tests", "some-run", 3))
    assert config["training_seconds"] == pytest.approx(sum(float(row["seconds"]) for row in rows))
    scores = [(float(row["pgd"]), float(row["clean"])) for row in rows]
    assert config["best_epoch"] == scores.index(max(scores)) + 1


def history(folder: Path) -> list[dict[str, str]]:
    with (folder / "history.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_published_networks_are_those_of_the_history(done: Places) -> None:
    folder = done.seed("tests", "some-run", 0)
    best = json.loads((folder / "config.json").read_text())["best_epoch"]
    rows, held_out = history(folder), data.load(done.pictures("tiny")).validation
    for name, row, column in (
        ("target", rows[best - 1], "clean"),
        ("target-last", rows[-1], "clean"),
        ("guide", rows[best - 1], "guide_clean"),
    ):
        network = models.build("small", classes=5, channels=1)
        notes = load_weights(network, folder / f"{name}.safetensors")
        assert notes["training"].startswith("some-run seed 0, digest ")
        with torch.no_grad():
            right = network.eval()(to_pixels(held_out.images)).argmax(1) == held_out.labels
        assert float(row[column]) == pytest.approx(right.float().mean().item()), name


def test_the_history_of_a_sparse_validation_has_empty_cells(places: Places) -> None:
    run = tiny.run(validation={"every": 2, "steps": 1})
    rows = history(run_training(training_spec(run), seed=0, places=places, say=lambda _: None))
    assert [row["pgd"] != "" for row in rows] == [False, True, True]
    assert next(iter(rows[0])) == "epoch" and list(rows[0])[-1] == "seconds"


def test_a_guide_is_published_where_there_is_one_and_an_old_one_does_not_stay(places: Places) -> None:
    """A run that lost its guide in the config must not keep the file of the one that it had."""
    for run, kept in ((tiny.dynat(epochs=1), True), (tiny.run(epochs=1), False)):
        folder = run_training(training_spec(run), seed=0, places=places, say=lambda _: None)
        assert (folder / "guide.safetensors").exists() == kept


class Killed(BaseException):
    pass


def test_a_killed_training_goes_on_and_says_so(places: Places) -> None:
    said: list[str] = []
    spec = training_spec(tiny.dynat())
    whole = run_training(spec, seed=0, places=places, say=said.append)
    assert not any("going on" in line for line in said)
    weights = {file.name: file.read_bytes() for file in whole.glob("*.safetensors")}

    def kill_in_second(line: str) -> None:
        said.append(line)
        if line.startswith("epoch 2/"):
            raise Killed

    said.clear()
    with pytest.raises(Killed):
        run_training(spec, seed=0, places=places, say=kill_in_second)
    said.clear()
    run_training(spec, seed=0, places=places, say=said.append)
    assert any(line.startswith(f"going on from {places.state}") for line in said)
    assert [line.split()[1] for line in said if line.startswith("epoch")] == ["3/3"]
    assert {file.name: file.read_bytes() for file in whole.glob("*.safetensors")} == weights


@pytest.mark.parametrize("what", ["run", "seed", "pictures", "code"])
def test_a_state_is_resumed_only_by_the_training_that_wrote_it(
    what: str, places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(line: str) -> None:
        if line.startswith("epoch 1/"):
            raise Killed

    with pytest.raises(Killed):
        run_training(training_spec(tiny.dynat()), seed=0, places=places, say=kill)
    run = tiny.dynat(optimiser={"momentum": 0.8}) if what == "run" else tiny.dynat()
    if what == "pictures":
        data.save(tiny.dataset(train=12), places.pictures("tiny"))
    if what == "code":
        monkeypatch.setattr(provenance, "code_digest", lambda files: "another")
    said: list[str] = []
    run_training(training_spec(run), seed=1 if what == "seed" else 0, places=places, say=said.append)
    assert not any("going on" in line for line in said)
    assert sum(line.startswith("epoch") for line in said) == 3


def test_the_state_stays_until_everything_is_published(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is killed while writing results has not lost the training."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(training_job, "atomic_text", full)
        with pytest.raises(OSError, match="No space left"):
            run_training(training_spec(tiny.run()), seed=0, places=places, say=lambda _: None)
    (folder,) = places.state.iterdir()
    assert TrainingState(folder).load(torch.device("cpu"))["finished"] == 3  # type: ignore[index]
    said: list[str] = []
    run_training(training_spec(tiny.run()), seed=0, places=places, say=said.append)
    assert not any(line.startswith("epoch") for line in said), "nothing is trained again"


# --- examination ----------------------------------------------------------------------------------------------


def rows_of(places: Places) -> list[dict[str, str]]:
    with places.outcomes("tests", "some-run", "some-attack").open() as file:
        return list(csv.DictReader(file))


def test_outcomes_are_a_row_per_seed_and_picture(done: Places) -> None:
    rows = rows_of(done)
    columns = ["seed", "index", "label", "clean", "prediction", "correct", "margin", "distance", "fell_to"]
    assert list(rows[0]) == columns
    labels = data.load(done.pictures("tiny")).test.labels.tolist()
    assert [(int(row["seed"]), int(row["index"]), int(row["label"])) for row in rows] == [
        (seed, index, label) for seed in SEEDS for index, label in enumerate(labels)
    ]


def test_every_row_is_consistent_with_itself(done: Places) -> None:
    rows = rows_of(done)
    for row in rows:
        label, clean, prediction = int(row["label"]), int(row["clean"]), int(row["prediction"])
        assert row["correct"] == str(int(clean == label and prediction == label))
        assert row["fell_to"] == ("" if row["correct"] == "1" else "clean" if clean != label else "pgd")
        assert float(row["distance"]) <= EPS + 1e-6
        if float(row["margin"]) != 0:
            assert (float(row["margin"]) > 0) == (prediction == label)
        if clean != label:
            assert float(row["distance"]) == 0
    assert 0 < sum(int(row["correct"]) for row in rows) < len(rows)


def test_verdicts_of_another_examination_are_refused_with_the_reason(trained: Places) -> None:
    run_exam(exam_spec(seeds=(0,)), places=trained, say=lambda _: None)
    (kept,) = (trained.state / "exams").iterdir()
    run_exam(exam_spec(seeds=(3,)), places=trained, say=lambda _: None)
    (other,) = (folder for folder in (trained.state / "exams").iterdir() if folder != kept)
    shutil.rmtree(kept)
    other.rename(kept)
    with pytest.raises(ValueError, match=r"another examination: weights differ .* remove that folder"):
        run_exam(exam_spec(seeds=(0,)), places=trained, say=lambda _: None)
    (kept / "about.json").unlink()
    with pytest.raises(ValueError, match=r"another examination: attack, weights, pictures"):
        run_exam(exam_spec(seeds=(0,)), places=trained, say=lambda _: None)
    shutil.rmtree(kept)
    kept.mkdir()  # killed before anything was said about it: there is nothing in it that could be another's
    run_exam(exam_spec(seeds=(0,)), places=trained, say=lambda _: None)


EXAM = """
import sys
import time
from pathlib import Path
from dynat.config import ExamSpec
from dynat.jobs.exam import run_exam
from dynat.places import Places
folder = Path(sys.argv[1])
places = Places(folder / "data", folder / "results", folder / "runs")
run_exam(ExamSpec.model_validate_json(sys.argv[2]), places=places)
"""


def test_autoattack_killed_anywhere_ends_with_the_same_verdicts(trained: Places) -> None:
    """SIGKILL at a random moment after every finished batch: every row is as if it had never happened."""
    spec = exam_spec("autoattack", seeds=(0,), batch=1, pictures=4, eps=0.15).model_dump_json()
    folder = trained.data.parent
    whole = folder.with_name(f"{folder.name} whole")
    shutil.copytree(folder, whole)

    def started(folder: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", EXAM, str(folder), spec]
        return subprocess.Popen(
            command, cwd=Path(__file__).parents[1], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def finished() -> int:
        return len(list((folder / "runs" / "exams").rglob("batch-*.pt")))

    assert started(whole).wait() == 0
    dice, kills = random.Random(7), 0
    while True:
        before, job = finished(), started(folder)
        while job.poll() is None and finished() == before:
            time.sleep(0.01)
        time.sleep(dice.uniform(0, 0.4))
        job.kill()
        if job.wait() == 0:
            break
        kills += 1
    assert kills >= 2
    outcome = Places(results=Path("results")).outcomes("tests", "some-run", "some-attack")
    assert (folder / outcome).read_bytes() == (whole / outcome).read_bytes()
    examples = outcome.with_suffix(".examples.safetensors")
    assert (folder / examples).read_bytes() == (whole / examples).read_bytes()


@pytest.mark.parametrize("which", ["best", "last"])
def test_clean_outcomes_are_the_predictions_of_the_checkpoint_asked_for(
    which: str, done: Places, tmp_path: Path
) -> None:
    places = Places(done.data, done.results, tmp_path)
    spec = exam_spec("clean", weights=which).model_copy(update={"attack_name": f"clean-{which}"})
    table = run_exam(spec, places=places, say=lambda _: None)
    test = data.load(done.pictures("tiny")).test
    with table.open() as file:
        rows = list(csv.DictReader(file))
    for seed in SEEDS:
        network = models.build("small", classes=5, channels=1)
        name = "target" if which == "best" else "target-last"
        load_weights(network, done.seed("tests", "some-run", seed) / f"{name}.safetensors")
        with torch.no_grad():
            wanted = network.eval()(to_pixels(test.images)).argmax(1).tolist()
        assert [int(row["clean"]) for row in rows if row["seed"] == str(seed)] == wanted
    table.unlink()


def test_the_account_says_what_was_asked_and_what_it_cost(done: Places) -> None:
    file = done.outcomes("tests", "some-run", "some-attack").with_suffix(".json")
    account = json.loads(file.read_text())
    assert account["attack"] == exam_spec().attack.model_dump(mode="json")
    assert account["seeds"] == list(SEEDS) and account["refuted_claims"] == 0
    right = sum(int(row["clean"] == row["label"]) for row in rows_of(done))
    assert set(account["asked"].values()) == {"float32 view"} and account["attacked_again"] == 0
    assert account["backward_passes"] <= right * 4 and account["forward_passes"] <= 60 + right * 7
    assert account["forward_passes"] >= 60 + 2 * right
    assert set(account["seconds"]) == set(account["digest"]) == {"0", "3"}


def test_examples_are_pictures_of_the_first_seed(done: Places) -> None:
    file = done.outcomes("tests", "some-run", "some-attack").with_suffix(".examples.safetensors")
    with safe_open(file, framework="pt") as content:
        assert json.loads(content.metadata()["classes"]) == list("abcde")
        clean, adversarial = content.get_tensor("clean"), content.get_tensor("adversarial")
        prediction = content.get_tensor("prediction")
    network = models.build("small", classes=5, channels=1)
    load_weights(network, done.seed("tests", "some-run", SEEDS[0]) / "target.safetensors")
    with torch.no_grad():
        assert torch.equal(network.eval()(adversarial).argmax(1), prediction)
    assert (adversarial - clean).abs().max() <= EPS + 1e-6


def test_another_seed_is_added_without_examining_the_others_again(
    done: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("examined again")

    before = done.outcomes("tests", "some-run", "some-attack").read_bytes()
    monkeypatch.setattr(sys.modules["dynat.attacks.examine"], "_batch", never)
    run_exam(exam_spec(), places=done, say=lambda _: None)
    assert done.outcomes("tests", "some-run", "some-attack").read_bytes() == before
    with pytest.raises(AssertionError, match="examined again"):
        run_exam(exam_spec(eps=2 * EPS), places=done, say=lambda _: None)


# --- the command line -----------------------------------------------------------------------------------------

REFUSED: list[tuple[list[str], str]] = [
    (["train", "dynta"], "dynat: unknown run 'dynta': did you mean 'dynat'?"),
    (["train"], "dynat: config: say which run: "),
    (["attack", "dynat", "pgd20"], "dynat: unknown attack 'pgd20': did you mean 'pgd-20'?"),
    (["attack", "dynat"], "dynat: config: say which attack: "),
    (["train", "dynat", "--data", "nowhere"], "nowhere/digits/info.json: no such file; run `dynat data`"),
    (["train", "dynat", "--device", "cuda"], "'cuda' was asked for, but torch sees no GPU here: use --device auto"),
    (["train", "dynat", "--device", "gpu"], "unknown device 'gpu': auto, cpu, cuda or cuda:1"),
    (["train", "dynat", "--device", "meta"], "unknown device 'meta': auto, cpu, cuda or cuda:1"),
    (["train", "dynat", "--seed", "-1"], "--seed"),
    (["train", "--spec", "{}"], "TrainingSpec"),
    (["check", "--set", "beta"], "--set beta: write KEY=VALUE"),
    (["check", "--set", "seeds=[0"], "--set seeds=[0: '[0' is not valid YAML"),
    (["check", "--set", "training.epoch=3"], "unknown key 'epoch': did you mean 'epochs'?"),
    (["check", "--params", "no.yaml"], "no.yaml: no such file"),
    (["nonsense"], "nonsense"),
]


@pytest.mark.parametrize(("words", "message"), REFUSED, ids=[" ".join(words) for words, _ in REFUSED])
def test_what_a_person_did_wrong_is_a_sentence(
    words: list[str], message: str, dynat: Dynat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, said = dynat(*words)
    assert code == 2
    assert message in said and "Traceback" not in said


def test_a_device_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from dynat.jobs.terminal import choose_device

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match="'cuda:2' was asked for, but torch sees 2: cuda:0 to cuda:1"):
        choose_device("cuda:2")


def test_check_shows_what_set_asks_for(dynat: Dynat) -> None:
    code, said = dynat("check", "--set", "beta=6", "--set", "training.epochs=7", "--set", "seeds=[4, 5]")
    assert code == 0
    assert "dynat: at, dynamic labels, target small, guide small, beta 6, 7 epochs, seeds 4,5" in said
    code, said = dynat("check", "--set", "training.epochs=3", "--set", "training.epochs=9")
    assert code == 0 and "9 epochs" in said and "3 epochs" not in said, "the last word counts"


def test_list_names_all_that_can_be_named(dynat: Dynat) -> None:
    from dynat.config import names

    code, said = dynat("list")
    assert code == 0
    for table in (names.METHODS, names.NETWORKS, names.SOURCES, names.ATTACKS):
        assert all(name in said for name in table)


def test_train_and_attack_by_name(dynat: Dynat, tmp_path: Path) -> None:
    """What a person types, on pictures that stand in for the preset's own."""
    places = places_in(tmp_path)
    data.save(tiny.dataset(), places.pictures("digits"))
    folders = ["--results", places.results, "--data", places.data, "--state", places.state]
    small = ["--set", "training.epochs=1", "--set", "seeds=2", *folders]

    code, said = dynat("attack", "dynat", "pgd-20", *small)
    missing = places.seed("digits", "dynat", 2) / "config.json"
    assert code == 2 and f"{missing}: no such file; make it with: snakemake" in said

    code, said = dynat("train", "dynat", "--seed", "2", *small)
    assert code == 0, said
    assert "epoch 1/1  loss " in said and f"written to {places.seed('digits', 'dynat', 2)}" in said

    code, said = dynat("attack", "dynat", "pgd-20", *small)
    assert code == 0, said
    assert "dynat seed 2 under pgd-20: " in said and "of 30 pictures stand" in said
    assert len(places.outcomes("digits", "dynat", "pgd-20").read_text().splitlines()) == 31

    (places.seed("digits", "dynat", 2) / "target.safetensors").write_bytes(b"half")
    code, said = dynat("attack", "dynat", "clean", *small)
    assert code == 2 and "target.safetensors: not a complete safetensors file" in said


def test_a_training_that_diverges_leaves_with_one(dynat: Dynat, tmp_path: Path) -> None:
    """Exit code 1, so that a rule fails; the reason in a sentence, so that its log says why."""
    places = places_in(tmp_path)
    data.save(tiny.dataset(), places.pictures("digits"))
    folders = ["--results", places.results, "--data", places.data, "--state", places.state]
    code, said = dynat("train", "at", *folders, "--set", "training.schedule.lr=1.0e+30", "--set", "training.epochs=4")
    assert code == 1
    assert "dynat: the loss is not finite in epoch" in said and "Lower schedule.lr" in said


def test_a_full_disk_is_said(dynat: Dynat, monkeypatch: pytest.MonkeyPatch) -> None:
    from dynat.cli import computing

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "results/at")

    monkeypatch.setattr(computing, "read_experiment", full)
    code, said = dynat("check")
    assert code == 1 and "dynat: No space left on device: results/at (is the disk full or read-only?)" in said
