"""What a long job shows while it runs: lines at fixed times, the time left, history.csv, and event files."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dynat import data
from dynat.attacks.evaluation import evaluate
from dynat.config import ConfigError, ThreatModel, TrainingSpec, load
from dynat.config.attack_cost import expected_cost
from dynat.config.resolve import resolve_attack
from dynat.jobs.epoch_log import EpochLog, EventFiles
from dynat.jobs.preflight import check_before_jobs
from dynat.jobs.training import run_training
from dynat.results.history import read_history
from dynat.results.paths import Paths, SeedFiles
from dynat.runtime import progress
from dynat.runtime.errors import UserError
from dynat.runtime.progress import Progress, duration, time_left_in
from dynat.training import TrainingState, train
from tests import tiny
from tests.fake_results import experiment
from tests.helpers import Killed

ROWS = [
    {"epoch": float(n), "learning_rate": 0.1, "loss": 1.0 / n, "clean": 0.5, "pgd": 0.25, "seconds": 2.0}
    for n in (1, 2)
]


class Clock:
    """A time that the test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def shown(clock: Clock, total: float) -> tuple[Progress, list[str]]:
    lines: list[str] = []
    return Progress("at autoattack", total, say=lines.append, clock=clock), lines


# --- lines and the time left ----------------------------------------------------------------------------------


def test_a_line_at_least_every_minute_and_no_more_than_are_due(clock: Clock) -> None:
    job, lines = shown(clock, 1000)
    for _ in range(600):  # ten minutes
        clock.now += 1
        job.advance()
    assert len(lines) == 600 // progress.LINE_SECONDS and progress.LINE_SECONDS <= 45
    assert lines[0] == "at autoattack: 3 %, 16 min left" and lines[-1] == "at autoattack: 60 %, 7 min left"


def test_the_time_left_counts_this_call_only(clock: Clock) -> None:
    """Half of the work was done by an earlier call; at the rate of this one the rest takes 400 s."""
    job, lines = shown(clock, 100)
    job.skip(50)
    clock.now += 40
    job.tick()
    assert lines == ["at autoattack: 50 %, time left not known yet"]
    clock.now += 40
    job.advance(10)
    assert lines[1] == "at autoattack: 60 %, 5 min left", "80 s for 10, so 320 s for 40"


def test_work_within_a_part_counts_for_the_line_only(clock: Clock) -> None:
    job, lines = shown(clock, 4)
    clock.now += 60
    job.tick(within=0.5)
    assert lines == ["at autoattack: 12 %, 7 min left"] and job.done == 0
    clock.now += 60
    job.tick(within=40.0)
    assert lines[1].startswith("at autoattack: 100 %, 0 s left"), "an estimate that is too large ends at the total"


def test_the_detail_is_read_only_when_a_line_is_due(clock: Clock) -> None:
    """It may wait for the GPU."""
    job, lines = shown(clock, 100)
    reads: list[float] = []

    def read() -> str:
        reads.append(clock.now)
        return "loss 1.25"

    job.describe(read)
    for _ in range(60):
        clock.now += 1
        job.advance()
    assert len(reads) == len(lines) == 2 and lines[0].endswith(" left, loss 1.25")


def test_a_download_of_unknown_size_has_no_share(clock: Clock) -> None:
    job, lines = shown(clock, 0)
    job.describe(lambda: "3 MB")
    clock.now += 60
    job.advance(3e6)
    assert lines == ["at autoattack: 3 MB"]


def test_a_terminal_has_a_bar_and_no_lines(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    lines: list[str] = []
    with Progress("dynat seed 0", 4, say=lines.append, clock=clock) as job:
        job.describe(lambda: "loss 1.25")
        clock.now += 2
        job.advance()
        job.say("epoch 1/4")
    assert lines == ["epoch 1/4"]
    assert "dynat seed 0  25 %" in (bar := capsys.readouterr().err) and "6 s left, loss 1.25" in bar


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (99, "99 s"), (100, "2 min"), (3599, "1 h"), (4800, "1 h 20 min"), (190_800, "2 d 5 h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
    assert time_left_in(f"at seed 0: 4 %, {text} left, loss 1.2") == pytest.approx(seconds, rel=0.21, abs=0.5)
    assert time_left_in(f"at seed 0: trained in {text}, no time left") is None


# --- inside a training and an attack --------------------------------------------------------------------------


class Every(Progress):
    """A line at every tick."""

    def __init__(self, total: float) -> None:
        self.lines: list[str] = []
        times = iter(range(10_000_000))
        super().__init__("job", total, say=self.lines.append, clock=lambda: 60.0 * next(times))


def test_a_training_reports_within_an_epoch_and_within_a_validation(tmp_path: Path) -> None:
    """3 steps an epoch, and 2 steps of PGD in the validation after it."""
    seen = Every(3)
    cpu, state = torch.device("cpu"), TrainingState(tmp_path)
    train(tiny.run(), tiny.THREAT, tiny.dataset(), seed=0, device=cpu, state=state, progress=seen)
    assert len(seen.lines) == 3 * (3 + 2)
    assert seen.lines[0].startswith("job: 11 %, ") and ", epoch 1/3, loss " in seen.lines[0]
    assert seen.lines[3].startswith("job: 33 %, ") and seen.lines[-1].startswith(("job: 99 %, ", "job: 100 %, "))


def test_an_attack_reports_within_a_batch(convnet: torch.nn.Module, noisy_images: data.LabeledImages) -> None:
    attack = tiny.attack("pgd", steps=7, batch=20)
    seen = Every(expected_cost(attack) * len(noisy_images))
    evaluate(convnet, noisy_images, attack, progress=seen)
    assert len(seen.lines) > 2 * 7, "40 images are two batches of seven steps"
    assert any("pgd, " in line and " of the batch's 20 images still correct" in line for line in seen.lines)
    shares = [int(line.split()[1]) for line in seen.lines]
    assert shares == sorted(shares) and shares[-1] == 100
    assert seen.done == pytest.approx(seen.total)


def test_finished_batches_do_not_count_for_the_rate(
    convnet: torch.nn.Module, noisy_images: data.LabeledImages, tmp_path: Path
) -> None:
    attack = tiny.attack("pgd", batch=20)
    total = expected_cost(attack) * len(noisy_images)
    evaluate(convnet, noisy_images, attack, state=tmp_path)
    again = Every(total)
    evaluate(convnet, noisy_images, attack, state=tmp_path, progress=again)
    assert again.done == total and again.lines == []


@pytest.mark.parametrize(
    ("kind", "norm", "cost"),
    [
        ("clean", "linf", 1),
        ("pgd", "linf", 1 + 3 * 5),
        ("square", "linf", 5),
        ("autoattack", "linf", 11_600),
        ("autoattack", "l1", 1_500 + 1_500 + 3_600 + 5_000),  # five restarts of APGD-CE, five target classes
        ("autoattack-plus", "linf", 1_500 + 1_500 + 11_000 + 5_000 + 2_700 + 3_600),
        ("autoattack-rand", "linf", 2 * 20 * 300),
    ],
)
def test_the_expected_cost_of_an_attack(kind: str, norm: str, cost: float) -> None:
    threat = ThreatModel.model_validate({"eps": 0.1, "norm": norm})
    attack = resolve_attack(kind, {"steps": 5} if kind in ("pgd", "square") else {}, threat)
    assert expected_cost(attack) == pytest.approx(cost, rel=0.02)


# --- history.csv ----------------------------------------------------------------------------------------------


def prepared(folder: Path) -> Paths:
    paths = tiny.paths_in(folder)
    data.save(tiny.dataset(), paths.dataset("tiny"))
    return paths


def spec() -> TrainingSpec:
    return tiny.training_spec(tiny.run())


def train_until(epoch: int, paths: Paths, **options: Any) -> str:
    """The history as it stands when this epoch is reported; then the training is killed."""
    files = paths.seed_files("tests", "some-run", 0)

    def say(text: str) -> None:
        if text.startswith(f"epoch {epoch}/"):
            raise Killed

    with pytest.raises(Killed):
        run_training(spec(), seed=0, paths=paths, say=say, **options)
    return files.history.read_text()


def test_the_history_is_written_after_every_epoch_and_whole_when_resumed(tmp_path: Path) -> None:
    paths = prepared(tmp_path)
    files = paths.seed_files("tests", "some-run", 0)
    one = train_until(1, paths)
    assert len(one.splitlines()) == 2
    with pytest.raises(UserError, match=r"config\.json"):
        read_history(files)
    files.history.unlink()  # Snakemake removes the outputs of a job that failed
    two = train_until(2, paths)
    assert two.startswith(one), "the first epoch is there again"
    assert len(two.splitlines()) == 3
    run_training(spec(), seed=0, paths=paths, say=lambda _: None)
    assert files.history.read_text().startswith(two)
    assert [row["epoch"] for row in read_history(files)] == [1, 2, 3]


def test_a_resumed_training_shows_its_history_before_the_next_epoch(tmp_path: Path) -> None:
    files = SeedFiles(tmp_path)
    EpochLog(files, 5, say=lambda _: None).resume(ROWS)
    assert len(files.history.read_text().splitlines()) == 3


def test_an_earlier_result_stays_whole_until_it_is_replaced(tmp_path: Path) -> None:
    paths = prepared(tmp_path)
    files = paths.seed_files("tests", "some-run", 0)
    run_training(spec(), seed=0, paths=paths, say=lambda _: None)
    before = read_history(files)
    train_until(2, paths)
    assert read_history(files) == before


def test_the_last_line_is_the_result(tmp_path: Path) -> None:
    lines: list[str] = []
    run_training(spec(), seed=0, paths=prepared(tmp_path), say=lines.append)
    assert lines[-1].startswith("some-run seed 0: trained in ") and ", PGD-2 " in lines[-1]


# --- event files for TensorBoard ------------------------------------------------------------------------------


def test_the_option_is_no_part_of_a_training(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(tiny.PRESET)
    plain = load({"preset": "tiny"}, presets=tmp_path)
    events = load({"preset": "tiny", "training": {"tensorboard": True}}, presets=tmp_path)
    assert events.runs["at"].tensorboard and not plain.runs["at"].tensorboard
    assert events.training("at") == plain.training("at")
    assert events.model_dump_json() == plain.model_dump_json()
    with pytest.raises(ConfigError, match="tensorboard"):
        load({"preset": "tiny", "training": {"tensorboard": "often"}}, presets=tmp_path)


def test_without_the_package_nothing_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    paths = prepared(tmp_path)
    with pytest.raises(UserError, match=r"training\.tensorboard: the package tensorboard is not installed"):
        run_training(spec(), seed=0, paths=paths, tensorboard=True, say=lambda _: None)
    assert not (paths.state / "trainings").exists() and not paths.results.exists()
    wanted = experiment(tmp_path, training={"target": "small", "guide": "small", "tensorboard": True})
    with pytest.raises(UserError, match=r"training\.tensorboard: the package tensorboard is not installed"):
        check_before_jobs(wanted, paths)
    check_before_jobs(experiment(tmp_path), paths)


def test_event_files_have_every_column_once_per_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for the package, which is not needed for anything else."""
    written: dict[str, list[tuple[str, int]]] = {}

    class Writer:
        def __init__(self, folder: str) -> None:
            Path(folder).mkdir(parents=True)  # fails if the events of an earlier call are there
            self.values = written[folder] = []

        def add_scalar(self, name: str, _value: float, step: int) -> None:
            self.values.append((name, step))

        def flush(self) -> None:
            pass

        close = flush

    monkeypatch.setattr("importlib.util.find_spec", lambda name: SimpleNamespace())
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Writer))
    paths = prepared(tmp_path)
    train_until(2, paths, tensorboard=True)
    run_training(spec(), seed=0, paths=paths, tensorboard=True, say=lambda _: None)
    folder = paths.tensorboard("tests", "some-run", 0)
    steps = [step for name, step in written[str(folder)] if name == "loss"]
    assert steps == [1, 2, 3] and ("pgd", 3) in written[str(folder)]


def test_event_files_can_be_read_back(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for calls in (ROWS[:1], ROWS):  # the second call resumes after the first epoch
        files = EventFiles(tmp_path / "events")
        files.write(calls)
        files.close()
    events = EventAccumulator(str(tmp_path / "events"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 1.0), (2, 0.5)]
    assert "epoch" not in events.Tags()["scalars"]
