"""Training and evaluation through files, and the commands: which files they write, and what they print."""

from __future__ import annotations

import csv
import json
import random
import re
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
from dynat.checkpoints.weights import load_weights
from dynat.config import EvaluationSpec, TrainingSpec
from dynat.data import to_pixels
from dynat.jobs.evaluation import load_target, run_evaluation
from dynat.jobs.training import run_training
from dynat.results import records
from dynat.results.history import read_history
from dynat.results.outcomes import COLUMNS
from dynat.results.paths import Paths
from dynat.results.records import OutcomeRecord, TrainingRecord, read_record
from dynat.runtime.errors import UserError
from dynat.training import TrainingState
from tests import tiny
from tests.helpers import Dynat, Killed

EPS = tiny.THREAT.eps
SEEDS = (0, 3)


def training_spec(run: Any) -> TrainingSpec:
    return TrainingSpec(preset="tests", name="some-run", data="tiny", threat=tiny.THREAT, run=run)


def evaluation_spec(kind: str = "pgd", seeds: tuple[int, ...] = SEEDS, **fields: object) -> EvaluationSpec:
    attack = tiny.attack(kind, **{"steps": 4, "step_size": EPS / 2, "batch": 8, **fields})
    return EvaluationSpec(
        preset="tests", name="some-run", data="tiny", seeds=seeds, attack_name="some-attack", attack=attack
    )


def paths_in(folder: Path) -> Paths:
    return Paths(folder / "data", folder / "results", folder / "state")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Paths:
    """A run with two seeds, trained and attacked; only to be read."""
    paths = paths_in(tmp_path_factory.mktemp("done"))
    data.save(tiny.dataset(), paths.dataset("tiny"))
    for seed in SEEDS:
        run_training(training_spec(tiny.dynat()), seed=seed, paths=paths, say=lambda _: None)
    run_evaluation(evaluation_spec(), paths=paths, say=lambda _: None)
    return paths


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    data.save(tiny.dataset(), paths_in(tmp_path).dataset("tiny"))
    return paths_in(tmp_path)


@pytest.fixture
def trained(done: Paths, tmp_path: Path) -> Paths:
    """The same run, not yet attacked."""
    paths = paths_in(tmp_path)
    shutil.copytree(done.data, paths.data)
    shutil.copytree(done.results, paths.results, ignore=shutil.ignore_patterns("outcomes"))
    return paths


# --- training -------------------------------------------------------------------------------------------------


def test_the_files_of_a_training(done: Paths) -> None:
    folder = done.seed("tests", "some-run", 3)
    names = {file.name for file in folder.iterdir()}
    assert names == {
        "target.safetensors",
        "target-last.safetensors",
        "guide.safetensors",
        "history.csv",
        "config.json",
    }
    assert not list(done.training_state("any").parent.glob("*")), "the state is no longer needed"


@pytest.mark.parametrize("precision", ["float32", "auto"])
def test_float32_is_not_tf32(precision: str, paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch allows convolutions on a GPU ten bits of mantissa by default."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    run_training(training_spec(tiny.run(epochs=1, precision=precision)), seed=0, paths=paths, say=lambda _: None)
    assert torch.backends.cudnn.allow_tf32 == (precision == "auto")


def record_of(paths: Paths, seed: int) -> TrainingRecord:
    return read_record(paths.seed_files("tests", "some-run", seed).config, TrainingRecord)


def test_the_record_beside_the_weights_describes_the_training(done: Paths) -> None:
    spec, record = training_spec(tiny.dynat()), record_of(done, 3)
    written = (record.plugins, record.preset, record.name, record.data, record.threat, record.config)
    assert written == (spec.plugins, spec.preset, spec.name, spec.data, spec.threat, spec.run)
    assert record.seed == 3 and record.digest != record_of(done, 0).digest
    expected = tiny.dataset()
    assert record.dataset.digest == expected.digest
    assert (record.dataset.train, record.dataset.validation, record.dataset.test) == (55, 30, 30)
    count = models.count_parameters(models.build("small", classes=5, channels=1))
    assert (record.parameters.target, record.parameters.guide) == (count, count)
    assert record.versions["torch"] == torch.__version__ and record.compute_dtype == "float32"
    rows = read_history(done.seed_files("tests", "some-run", 3))
    assert record.training_seconds == pytest.approx(sum(row["seconds"] for row in rows))
    scores = [(row["pgd"], row["clean"]) for row in rows]
    assert record.best_epoch == scores.index(max(scores)) + 1


def history(folder: Path) -> list[dict[str, str]]:
    with (folder / "history.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_published_networks_are_those_of_the_history(done: Paths) -> None:
    files = done.seed_files("tests", "some-run", 0)
    best = record_of(done, 0).best_epoch
    assert best is not None
    rows, held_out = read_history(files), data.load(done.dataset("tiny")).validation
    for file, row, column in (
        (files.target(), rows[best - 1], "clean"),
        (files.target("last"), rows[-1], "clean"),
        (files.guide, rows[best - 1], "guide_clean"),
    ):
        network = models.build("small", classes=5, channels=1)
        notes = load_weights(network, file)
        assert notes["training"].startswith("some-run seed 0, digest ")
        with torch.no_grad():
            correct = network.eval()(to_pixels(held_out.images)).argmax(1) == held_out.labels
        assert row[column] == pytest.approx(correct.float().mean().item()), file


def test_the_history_of_a_sparse_validation_has_empty_cells(paths: Paths) -> None:
    run = tiny.run(validation={"every": 2, "steps": 1})
    rows = history(run_training(training_spec(run), seed=0, paths=paths, say=lambda _: None))
    assert [row["pgd"] != "" for row in rows] == [False, True, True]
    assert next(iter(rows[0])) == "epoch" and list(rows[0])[-1] == "seconds"


def test_a_guide_is_published_where_there_is_one_and_an_old_file_is_deleted(paths: Paths) -> None:
    """A run that lost its guide in the config must not keep the file of the one that it had."""
    for run, kept in ((tiny.dynat(epochs=1), True), (tiny.run(epochs=1), False)):
        folder = run_training(training_spec(run), seed=0, paths=paths, say=lambda _: None)
        assert (folder / "guide.safetensors").exists() == kept


def test_a_killed_training_resumes(paths: Paths) -> None:
    printed: list[str] = []
    spec = training_spec(tiny.dynat())
    whole = run_training(spec, seed=0, paths=paths, say=printed.append)
    assert not any("resuming" in line for line in printed)
    weights = {file.name: file.read_bytes() for file in whole.glob("*.safetensors")}

    def kill_in_second(line: str) -> None:
        printed.append(line)
        if line.startswith("epoch 2/"):
            raise Killed

    printed.clear()
    with pytest.raises(Killed):
        run_training(spec, seed=0, paths=paths, say=kill_in_second)
    printed.clear()
    run_training(spec, seed=0, paths=paths, say=printed.append)
    assert any(line.startswith(f"resuming from {paths.training_state('')}") for line in printed)
    assert [line.split()[1] for line in printed if line.startswith("epoch")] == ["3/3"]
    assert {file.name: file.read_bytes() for file in whole.glob("*.safetensors")} == weights


@pytest.mark.parametrize("what", ["run", "seed", "images", "code"])
def test_a_state_is_resumed_only_by_the_training_that_wrote_it(
    what: str, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(line: str) -> None:
        if line.startswith("epoch 1/"):
            raise Killed

    with pytest.raises(Killed):
        run_training(training_spec(tiny.dynat()), seed=0, paths=paths, say=kill)
    run = tiny.dynat(optimizer={"momentum": 0.8}) if what == "run" else tiny.dynat()
    if what == "images":
        data.save(tiny.dataset(train=12), paths.dataset("tiny"))
    if what == "code":
        monkeypatch.setattr(provenance, "code_digest", lambda files: "another")
    printed: list[str] = []
    run_training(training_spec(run), seed=1 if what == "seed" else 0, paths=paths, say=printed.append)
    assert not any("resuming" in line for line in printed)
    assert sum(line.startswith("epoch") for line in printed) == 3


def test_the_state_stays_until_everything_is_published(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training that is killed while it writes its results is not lost."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(records, "atomic_text", full)
        with pytest.raises(OSError, match="No space left"):
            run_training(training_spec(tiny.run()), seed=0, paths=paths, say=lambda _: None)
    (folder,) = paths.training_state("any").parent.iterdir()
    assert TrainingState(folder).load(torch.device("cpu"))["finished"] == 3  # type: ignore[index]
    printed: list[str] = []
    run_training(training_spec(tiny.run()), seed=0, paths=paths, say=printed.append)
    assert not any(line.startswith("epoch") for line in printed), "nothing is trained again"


# --- evaluation ----------------------------------------------------------------------------------------------


def rows_of(paths: Paths) -> list[dict[str, str]]:
    with paths.outcome("tests", "some-run", "some-attack").open() as file:
        return list(csv.DictReader(file))


def test_outcomes_are_a_row_per_seed_and_image(done: Paths) -> None:
    rows = rows_of(done)
    assert tuple(rows[0]) == COLUMNS
    labels = data.load(done.dataset("tiny")).test.labels.tolist()
    assert [(int(row["seed"]), int(row["index"]), int(row["label"])) for row in rows] == [
        (seed, index, label) for seed in SEEDS for index, label in enumerate(labels)
    ]


def test_every_row_is_consistent_with_itself(done: Paths) -> None:
    rows = rows_of(done)
    for row in rows:
        label, clean, prediction = int(row["label"]), int(row["clean_prediction"]), int(row["prediction"])
        assert row["correct"] == str(int(clean == label and prediction == label))
        assert row["broken_by"] == ("" if row["correct"] == "1" else "clean" if clean != label else "pgd")
        assert float(row["distance"]) <= EPS + 1e-6
        if float(row["margin"]) != 0:
            assert (float(row["margin"]) > 0) == (prediction == label)
        if clean != label:
            assert float(row["distance"]) == 0
    assert 0 < sum(int(row["correct"]) for row in rows) < len(rows)


def test_verdicts_of_another_evaluation_are_refused_with_the_reason(
    trained: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    def evaluate(seed: int) -> None:
        run_evaluation(evaluation_spec(seeds=(seed,)), paths=trained, say=lambda _: None)

    def states() -> set[Path]:
        return set(trained.evaluation_state("any").parent.iterdir())

    evaluate(0)
    (first,) = states()
    evaluate(3)
    (other,) = states() - {first}
    shutil.rmtree(first)
    other.rename(first)
    with pytest.raises(UserError, match=r"another evaluation: weights differ .* remove that folder"):
        evaluate(0)
    (first / "key.json").unlink()
    with pytest.raises(UserError, match=r"holds verdicts, and there is no key.json"):
        evaluate(0)
    (first / "key.json").write_bytes(b"\xff{")
    capsys.readouterr()
    evaluate(0)
    assert f"key.json is damaged: {first.name} renamed to {first.name}.damaged" in capsys.readouterr().err
    shutil.rmtree(first)
    first.mkdir()  # killed before anything was written: it holds no verdict of another evaluation
    evaluate(0)


EVALUATION = """
import sys
from pathlib import Path
from dynat.config import EvaluationSpec
from dynat.jobs.evaluation import run_evaluation
from dynat.results.paths import Paths
folder = Path(sys.argv[1])
paths = Paths(folder / "data", folder / "results", folder / "state")
run_evaluation(EvaluationSpec.model_validate_json(sys.argv[2]), paths=paths)
"""


def test_autoattack_killed_anywhere_ends_with_the_same_verdicts(paths: Paths) -> None:
    """SIGKILL at a random moment after a finished batch: the verdicts are those of an uninterrupted evaluation."""
    learned = tiny.dynat(epochs=8, augmentation={"padding": 0, "flip": False})  # images that stand take longest
    run_training(training_spec(learned), seed=0, paths=paths, say=lambda _: None)
    spec = evaluation_spec("autoattack", seeds=(0,), batch=1, images=3, eps=0.05).model_dump_json()
    folder = paths.data.parent
    whole = folder.with_name(f"{folder.name} whole")
    shutil.copytree(folder, whole)

    def started(folder: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", EVALUATION, str(folder), spec]
        return subprocess.Popen(
            command, cwd=Path(__file__).parents[1], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def finished() -> int:
        return len(list(paths_in(folder).evaluation_state("any").parent.rglob("batch-*.pt")))

    assert started(whole).wait() == 0
    delays, kills = random.Random(7), 0
    for _ in range(2):
        before, job = finished(), started(folder)
        while job.poll() is None and finished() == before:
            time.sleep(0.01)
        time.sleep(delays.uniform(0, 0.4))
        job.kill()
        kills += job.wait() != 0  # a test that is slow may find it finished
    assert kills and started(folder).wait() == 0
    resumed, uninterrupted = (paths_in(each).run_files("tests", "some-run") for each in (folder, whole))
    for file in (resumed.outcome("some-attack"), resumed.examples("some-attack")):
        other = uninterrupted.folder / file.relative_to(resumed.folder)
        assert file.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("position", [0.2, 0.5, 0.99])
def test_a_flipped_bit_in_the_weights_is_refused(position: float, trained: Paths) -> None:
    file = trained.seed_files("tests", "some-run", 0).target()
    content = bytearray(file.read_bytes())
    content[int(position * len(content))] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(UserError, match=r"target\.safetensors: damaged or exchanged: its SHA-256 is not"):
        load_target(trained.seed_files("tests", "some-run", 0))


def test_a_seed_without_a_training_is_named_before_the_first_attack(trained: Paths) -> None:
    shutil.rmtree(trained.seed_files("tests", "some-run", SEEDS[-1]).folder)
    said: list[str] = []
    message = rf"some-run: seed {SEEDS[-1]} is not trained: dynat train some-run --seed .*--set 'seeds=\[{SEEDS[0]}"
    with pytest.raises(UserError, match=message):
        run_evaluation(evaluation_spec("clean"), paths=trained, say=said.append)
    assert not said


@pytest.mark.parametrize("which", ["best", "last"])
def test_clean_outcomes_are_the_predictions_of_the_chosen_weights(which: str, done: Paths, tmp_path: Path) -> None:
    paths = Paths(done.data, done.results, tmp_path)
    spec = evaluation_spec("clean", weights=which).model_copy(update={"attack_name": f"clean-{which}"})
    table = run_evaluation(spec, paths=paths, say=lambda _: None)
    test = data.load(done.dataset("tiny")).test
    with table.open() as file:
        rows = list(csv.DictReader(file))
    for seed in SEEDS:
        network = models.build("small", classes=5, channels=1)
        load_weights(network, done.seed_files("tests", "some-run", seed).target(which))
        with torch.no_grad():
            expected = network.eval()(to_pixels(test.images)).argmax(1).tolist()
        assert [int(row["clean_prediction"]) for row in rows if row["seed"] == str(seed)] == expected
    table.unlink()


def test_the_record_of_an_outcome_holds_settings_and_cost(done: Paths) -> None:
    record = read_record(done.run_files("tests", "some-run").outcome_record("some-attack"), OutcomeRecord)
    assert record.attack == evaluation_spec().attack
    assert record.seeds == SEEDS and record.rejected_examples == 0
    correct = sum(int(row["clean_prediction"] == row["label"]) for row in rows_of(done))
    assert set(record.queried_model.values()) == {"float32 surrogate"} and record.reattacked == 0
    assert record.backward_passes <= correct * 4 and record.forward_passes <= 60 + correct * 7
    assert record.forward_passes >= 60 + 2 * correct
    assert set(record.seconds) == set(record.digest) == {0, 3}


def test_examples_are_images_of_the_first_seed(done: Paths) -> None:
    with safe_open(done.run_files("tests", "some-run").examples("some-attack"), framework="pt") as content:
        assert json.loads(content.metadata()["examples"])["classes"] == list("abcde")
        clean, adversarial = content.get_tensor("clean"), content.get_tensor("adversarial")
        prediction = content.get_tensor("prediction")
    network = models.build("small", classes=5, channels=1)
    load_weights(network, done.seed_files("tests", "some-run", SEEDS[0]).target())
    with torch.no_grad():
        assert torch.equal(network.eval()(adversarial).argmax(1), prediction)
    assert (adversarial - clean).abs().max() <= EPS + 1e-6


def test_a_finished_evaluation_is_not_repeated(done: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("evaluated again")

    before = done.outcome("tests", "some-run", "some-attack").read_bytes()
    monkeypatch.setattr(sys.modules["dynat.attacks.evaluation"], "_evaluate_batch", never)
    run_evaluation(evaluation_spec(), paths=done, say=lambda _: None)
    assert done.outcome("tests", "some-run", "some-attack").read_bytes() == before
    with pytest.raises(AssertionError, match="evaluated again"):
        run_evaluation(evaluation_spec(eps=2 * EPS), paths=done, say=lambda _: None)


# --- the command line -----------------------------------------------------------------------------------------

REFUSED: list[tuple[list[str], str]] = [
    (["train", "dynta"], "dynat: config: unknown run 'dynta': did you mean 'dynat'?"),
    (["train"], "dynat: config: say which run: "),
    (["attack", "dynat", "pgd20"], "dynat: config: unknown attack 'pgd20': did you mean 'pgd-20'?"),
    (["attack", "dynat"], "dynat: config: say which attack: "),
    (["train", "dynat", "--data", "nowhere"], "nowhere/digits/info.json: no such file; run `dynat data`"),
    (["train", "dynat", "--device", "cuda"], "'cuda' was requested, but torch sees no GPU here: use --device auto"),
    (["train", "dynat", "--device", "gpu"], "unknown device 'gpu': auto, cpu, cuda or cuda:1"),
    (["train", "dynat", "--device", "meta"], "unknown device 'meta': auto, cpu, cuda or cuda:1"),
    (["train", "dynat", "--seed", "-1"], "--seed"),
    (["train", "--spec", "{}"], "--spec"),
    (["check", "--set", "beta"], "--set beta: write KEY=VALUE"),
    (["check", "--set", "seeds=[0"], "--set seeds=[0: not valid YAML"),
    (["check", "--set", "training.epoch=3"], "unknown key 'epoch': did you mean 'epochs'?"),
    (["check", "--params", "no.yaml"], "no.yaml: no such file"),
    (["nonsense"], "nonsense"),
]


@pytest.mark.parametrize(("words", "message"), REFUSED, ids=[" ".join(words) for words, _ in REFUSED])
def test_a_mistake_of_the_user_is_a_sentence(
    words: list[str], message: str, dynat: Dynat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, printed = dynat(*words)
    assert code == 2
    assert message in printed and "Traceback" not in printed


def test_results_that_cannot_be_written_are_found_before_any_work(
    trained: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("work was started")

    monkeypatch.setattr("dynat.jobs.training.train", never)
    monkeypatch.setattr("dynat.jobs.evaluation.evaluate", never)
    outcomes = trained.run_files("tests", "some-run").outcome("some-attack").parent
    outcomes.write_text("a file where the folder should be")
    with pytest.raises(UserError, match=f"{outcomes}: cannot be written .*nothing was started"):
        run_evaluation(evaluation_spec(), paths=trained, say=lambda _: None)
    seed = trained.seed("tests", "some-run", 9)
    seed.write_text("a file where the folder should be")
    with pytest.raises(UserError, match=f"{seed}: cannot be written .*nothing was started"):
        run_training(training_spec(tiny.dynat()), seed=9, paths=trained, say=lambda _: None)


def test_a_missing_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from dynat.runtime.device import choose_device

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match="'cuda:2' was requested, but torch sees 2: cuda:0 to cuda:1"):
        choose_device("cuda:2")


def test_check_shows_the_values_of_set(dynat: Dynat) -> None:
    code, printed = dynat("check", "--set", "beta=6", "--set", "training.epochs=7", "--set", "seeds=[4, 5]")
    assert code == 0
    assert "dynat: at, dynamic labels, target small, guide small, beta 6, 7 epochs, seeds 4,5" in printed
    code, printed = dynat("check", "--set", "training.epochs=3", "--set", "training.epochs=9")
    assert code == 0 and "9 epochs" in printed and "3 epochs" not in printed, "the last value counts"


def test_list_names_every_known_name(dynat: Dynat) -> None:
    from dynat.config import registry

    code, printed = dynat("list")
    assert code == 0
    for table in (registry.METHODS, registry.NETWORKS, registry.SOURCES, registry.ATTACKS):
        assert all(name in printed for name in table)


def test_train_and_attack_by_name(dynat: Dynat, tmp_path: Path) -> None:
    """The commands of the README, on small images in place of the preset's."""
    paths = paths_in(tmp_path)
    data.save(tiny.dataset(), paths.dataset("digits"))
    folders = ["--results", paths.results, "--data", paths.data, "--state", paths.state]
    small = ["--set", "training.epochs=1", "--set", "seeds=2", *folders]

    code, printed = dynat("attack", "dynat", "pgd-20", *small)
    missing = paths.seed_files("digits", "dynat", 2).config
    assert code == 2 and f"{missing}: no such file; make it with: snakemake" in printed

    code, printed = dynat("train", "dynat", "--seed", "2", *small)
    assert code == 0, printed
    assert "epoch 1/1  loss " in printed and f"written to {paths.seed('digits', 'dynat', 2)}" in printed

    code, printed = dynat("attack", "dynat", "pgd-20", *small)
    assert code == 0, printed
    assert re.search(r"^dynat pgd-20: accuracy \d+\.\d % on 30 images, \d+ s$", printed, re.MULTILINE), printed
    assert len(paths.outcome("digits", "dynat", "pgd-20").read_text().splitlines()) == 31

    paths.seed_files("digits", "dynat", 2).target().write_bytes(b"half")
    code, printed = dynat("attack", "dynat", "clean", *small)
    assert code == 2 and "target.safetensors: not a complete safetensors file" in printed


def test_a_training_that_diverges_exits_with_code_1(dynat: Dynat, tmp_path: Path) -> None:
    """So its rule fails, and the log of the rule shows the reason in a sentence."""
    paths = paths_in(tmp_path)
    data.save(tiny.dataset(), paths.dataset("digits"))
    folders = ["--results", paths.results, "--data", paths.data, "--state", paths.state]
    code, printed = dynat("train", "at", *folders, "--set", "training.schedule.lr=1.0e+6", "--set", "training.batch=5")
    assert code == 1
    assert "dynat: the loss became non-finite in epoch" in printed and "Lower schedule.lr" in printed


def test_a_full_disk_is_reported(dynat: Dynat, monkeypatch: pytest.MonkeyPatch) -> None:
    from dynat.cli import configure

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "results/at")

    monkeypatch.setattr(configure, "read_experiment", full)
    code, printed = dynat("check")
    assert code == 1 and "dynat: No space left on device: results/at (is the disk full or read-only?)" in printed
