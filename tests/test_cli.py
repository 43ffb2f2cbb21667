"""The command line: which exceptions become a sentence, their exit codes, and messages for renamed commands."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from dynat.cli import configure, job
from dynat.cli.results import _metrics_lines
from dynat.config import ConfigError
from dynat.data import DataError
from dynat.results.metrics import read_metrics
from dynat.results.paths import ExperimentFiles
from dynat.runtime.errors import JobError, UserError
from dynat.runtime.launch import WorkerFailed
from dynat.training.trainer import Diverged
from tests.fake_results import experiment, write_fake_results
from tests.helpers import Dynat


def raises(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Let `dynat check` fail with this exception."""

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(configure, "read_experiment", fail)


@pytest.mark.parametrize(
    ("error", "message", "code"),
    [
        (UserError("no such run"), "dynat: no such run", 2),
        (ConfigError("beta: unknown"), "dynat: config: beta: unknown", 2),
        (DataError("data/own: damaged"), "dynat: data/own: damaged", 2),
        (JobError("the node is gone"), "dynat: the node is gone", 1),
        (Diverged("the loss became non-finite"), "dynat: the loss became non-finite", 1),
        (WorkerFailed("process 1 of 2 ended"), "dynat: process 1 of 2 ended", 1),
        (
            OSError(errno.ENOSPC, "No space left on device", "results/at"),
            "dynat: No space left on device: results/at (is the disk full or read-only?)",
            1,
        ),
        (OSError(errno.EROFS, "Read-only file system", "state"), "dynat: Read-only file system: state", 1),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_errors_that_a_person_can_act_on_are_a_sentence(
    error: Exception, message: str, code: int, dynat: Dynat, monkeypatch: pytest.MonkeyPatch
) -> None:
    raises(monkeypatch, error)
    exit_code, output = dynat("check")
    assert exit_code == code and message in output


@pytest.mark.parametrize(
    "error",
    [
        ValueError("arrays must have the same length"),
        RuntimeError("shapes cannot be multiplied"),
        KeyError("correct"),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "a file of our own"),
        type("Diverged", (RuntimeError,), {})("a class with the same name"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_every_other_exception_keeps_its_traceback(
    error: Exception, dynat: Dynat, monkeypatch: pytest.MonkeyPatch
) -> None:
    raises(monkeypatch, error)
    with pytest.raises(type(error)) as caught:
        dynat("check")
    assert caught.value is error


@pytest.mark.parametrize(
    ("words", "now"),
    [
        (("adopt", "theirs"), "'dynat adopt' is now 'dynat import NAME'"),
        (("probe", "dynat", "--device", "cpu"), "'dynat probe' is now 'dynat sanity RUN'"),
        (("card", "dynat"), "'dynat card' is now 'dynat export RUN'"),
        (("same", "one", "other"), "'dynat same' is now 'dynat diff FOLDER FOLDER'"),
        (("attack", "--checkpoint", "x.pt", "--arch", "small"), "is now 'dynat evaluate FILE --arch NAME"),
        (("attack", "--checkpoint=x.pt"), "is now 'dynat evaluate FILE --arch NAME"),
    ],
)
def test_a_renamed_command_names_the_new_one(words: tuple[str, ...], now: str, dynat: Dynat) -> None:
    code, output = dynat(*words)
    assert code == 2 and now in output


def test_an_unknown_command_names_a_known_one(dynat: Dynat) -> None:
    code, output = dynat("evalute")
    assert code == 2 and "evaluate" in output


def test_the_help_lists_what_people_call(dynat: Dynat) -> None:
    code, output = dynat("--help")
    assert code == 0
    for command in ("check", "data", "train", "import", "attack", "evaluate", "sanity", "report", "export", "diff"):
        assert f" {command} " in output
    assert " job " not in output, "for rules only"


def test_a_job_needs_a_known_kind(dynat: Dynat) -> None:
    code, output = dynat("job", "trainig", "--spec", "{}")
    assert code == 2 and "unknown kind of job 'trainig': did you mean 'training'?" in output
    assert set(job.JOBS) >= {"data", "training", "import", "attack", "sanity", "transfer", "report"}


def test_metrics_say_the_worst_case_the_checks_and_every_doubt(dynat: Dynat, tmp_path: Path) -> None:
    plan = experiment(tmp_path, runs={"at": {"method": "at"}})
    run = write_fake_results(ExperimentFiles(tmp_path / "results"), plan).run("at")
    code, output = dynat("metrics", str(run.folder))
    metrics = read_metrics(run)
    assert metrics.worst_case is not None and metrics.sanity is not None
    worst = f"{100 * metrics.worst_case.accuracy:.1f}"
    assert code == 0
    assert output.splitlines()[-1] == f"at metrics: worst case {worst} % on 100 images, 6 of 6 sanity checks passed"
    failed = metrics.sanity.checks["steps"].model_copy(update={"passed": False, "detail": "20 to 100 steps: 40 → 60"})
    checks = metrics.sanity.model_copy(update={"checks": {**metrics.sanity.checks, "steps": failed}})
    cells = {**metrics.attacks, "fgsm": metrics.attacks["fgsm"].model_copy(update={"warnings": ("few images",)})}
    assert _metrics_lines(metrics.model_copy(update={"sanity": checks, "attacks": cells})) == [
        f"at metrics: worst case {worst} % on 100 images, 5 of 6 sanity checks passed",
        "warning: at metrics: sanity check failed: More steps never raise accuracy: 20 to 100 steps: 40 → 60",
        "warning: at metrics: fgsm: few images",
    ]
