"""What the pipeline shows of its jobs: records of Snakemake in, lines out."""

from __future__ import annotations

import io
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dynat.jobs import job_view
from dynat.jobs.job_list import JobList, job_title
from dynat.jobs.job_view import JobView, overview, show_jobs, table_as_text
from dynat.results.paths import Paths

FILES = Paths(results=Path("nowhere")).experiment("digits")
SETTINGS = {"dryrun": False, "quiet": None, "verbose": False, "debug_dag": False, "printshellcmds": False}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def logger() -> logging.Logger:
    """A logger with a handler like Snakemake's."""
    logger = logging.Logger("snakemake")
    handler = logging.StreamHandler(io.StringIO())
    handler.name = "DefaultStreamHandler"
    logger.addHandler(handler)
    return logger


def shown(logger: logging.Logger, **settings: Any) -> JobView:
    view = show_jobs(logger, SimpleNamespace(**{**SETTINGS, **settings}), FILES)
    assert view is not None
    return view


def event(logger: logging.Logger, name: str, **values: Any) -> None:
    logger.info(values.pop("msg", None), extra={"event": name, **values})


def start(logger: logging.Logger, number: int, rule: str, log: Path | None, **wildcards: str) -> None:
    logs = [str(log)] if log else []
    event(logger, "job_info", jobid=number, rule_name=rule, wildcards=wildcards, log=logs)


def lines(view: JobView) -> list[str]:
    stream = view.stream
    assert isinstance(stream, io.StringIO)
    return stream.getvalue().splitlines()


def test_one_line_per_finished_job_with_the_last_words_of_its_log(logger: logging.Logger, tmp_path: Path) -> None:
    view = shown(logger)
    event(logger, "run_info", stats={"training": 1, "attack": 1, "all": 1, "total": 3})
    training, attack = tmp_path / "training.log", tmp_path / "attack.log"
    start(logger, 1, "training", training, run="at", seed="0")
    event(logger, "shellcmd", cmd="dynat job ...", msg="Shell command: dynat job ...")
    training.write_text("at seed 0: 40 %, 2 min left\nat seed 0: trained in 14 s, clean 98.2 %\nsome warning at exit\n")
    event(logger, "job_finished", job_id=1, msg="Finished jobid: 1")
    event(logger, "progress", done=1, total=3)
    logger.info("Select jobs to execute...")
    start(logger, 2, "attack", attack, run="at", attack="pgd-20")
    event(logger, "job_finished", job_id=2)
    start(logger, 0, "all", None)
    event(logger, "job_finished", job_id=0)
    assert lines(view) == [
        "3 jobs; one line for each that is finished",
        "1/3  at seed 0: trained in 14 s, clean 98.2 %",
        "2/3  at pgd-20: done, 0 s",
    ]
    view.succeeded()
    assert lines(view)[-1].startswith("3 jobs finished in ")


def test_a_warning_in_the_log_is_shown_with_the_result(logger: logging.Logger, tmp_path: Path) -> None:
    view, log = shown(logger), tmp_path / "log"
    event(logger, "run_info", stats={"training": 1, "total": 1})
    start(logger, 1, "training", log, run="at", seed="0")
    log.write_text(
        "warning: at seed 0: the target has not learned\nepoch 3/3\nat seed 0: trained in 14 s\n"
        "warning: at seed 0: the target has not learned\nwarning: at seed 0: nor the guide\n"
    )
    event(logger, "job_finished", job_id=1)
    assert lines(view)[1:] == [
        "1/1  at seed 0: trained in 14 s",
        "  warning: at seed 0: the target has not learned",
        "  warning: at seed 0: nor the guide",
    ]


def test_the_end_shows_the_table_only_if_it_was_made_now(
    logger: logging.Logger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    view = shown(logger)
    view.files = Paths(results=tmp_path).experiment("digits")
    event(logger, "run_info", stats={"report": 1, "total": 1})
    view.succeeded()
    assert capsys.readouterr().out == "", "there is none"
    table = view.files.table("main", "md")
    table.parent.mkdir(parents=True)
    table.write_text("| Run | Clean |\n|:---|---:|\n| `at` | 97.8 |\n")
    view.succeeded()
    assert capsys.readouterr().out == "", "it is of an earlier call"
    start(logger, 1, "report", tmp_path / "log")
    event(logger, "job_finished", job_id=1)
    view.succeeded()
    assert capsys.readouterr().out == "\nRun  Clean\nat    97.8\n\n"


def test_a_call_with_nothing_to_do_says_where_the_report_is(logger: logging.Logger, tmp_path: Path) -> None:
    view = shown(logger)
    view.files = Paths(results=tmp_path).experiment("digits")
    logger.info("Nothing to be done (all requested files are present and up to date).")
    assert len(lines(view)) == 1
    view.files.report.parent.mkdir()
    view.files.report.touch()
    logger.info("Nothing to be done (all requested files are present and up to date).")
    assert lines(view)[1:] == [lines(view)[0], f"dynat: open {view.files.report}"]


def test_a_failed_job_shows_the_end_of_its_log_and_the_way_to_continue(
    logger: logging.Logger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    view, log = shown(logger), tmp_path / "training.log"
    event(logger, "run_info", stats={"training": 2, "total": 2})
    start(logger, 1, "training", log, run="at", seed="0")
    log.write_text("".join(f"line {n}\n" for n in range(100)) + "dynat: the loss became non-finite in epoch 1\n")
    logger.error("RuleException:\nCalledProcessError in file train.smk, line 33: ...")
    event(logger, "job_error", jobid=1, rule_name="training", rule_msg="OUT_OF_MEMORY", log=[str(log)])
    logger.error("WorkflowError:\nAt least one job did not complete successfully.")
    logger.error("Another error of Snakemake")
    monkeypatch.setattr("sys.argv", ["/x/bin/snakemake", "--cores", "2", "all", "--config", "select=[at]"])
    view.failed()
    found = lines(view)
    assert found[1] == "FAILED  at seed 0, after 0 s" and found[2] == "  OUT_OF_MEMORY"
    assert found[3] == "  | line 81" and found[22] == "  | dynat: the loss became non-finite in epoch 1"
    assert found[23:] == [
        f"  log: {log}",
        "Another error of Snakemake",
        "dynat: failed: at seed 0; 0 of 2 jobs are finished; continue with: "
        "snakemake --cores 2 all --config 'select=[at]'",
    ]


def test_an_interruption_is_one_line(logger: logging.Logger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYNAT_COMMAND", "make run")
    view = shown(logger)
    event(logger, "run_info", stats={"training": 1, "total": 1})
    start(logger, 1, "training", tmp_path / "log", run="at", seed="0")
    logger.info("Terminating processes on user request, this might take some time.")
    event(logger, "job_error", jobid=1, rule_name="training", rule_msg=None, log=[])
    view.failed()
    assert lines(view)[1:] == [
        "dynat: interrupted: the running jobs are being ended; what is finished is kept; continue with: make run"
    ]
    monkeypatch.setenv("DVC_STAGE", "train")
    assert job_view.continue_with() == "", "DVC's stage says it"


@pytest.mark.parametrize("option", job_view.ITS_OWN)
def test_options_that_request_messages_of_snakemake_keep_them(logger: logging.Logger, option: str) -> None:
    before = list(logger.handlers)
    assert show_jobs(logger, SimpleNamespace(**{**SETTINGS, option: {"rules"}}), FILES) is None
    assert logger.handlers == before


def test_another_logger_plugin_stays(logger: logging.Logger) -> None:
    logger.handlers[0].name = "rich"
    assert show_jobs(logger, SimpleNamespace(**SETTINGS), FILES) is None


def test_an_unknown_record_is_shown_as_snakemake_shows_it(logger: logging.Logger) -> None:
    view = shown(logger)
    logger.warning("Nothing to be done (all requested files are present and up to date).")
    event(logger, "run_info", stats=None)  # not as this view expects it
    assert lines(view)[0] == "Nothing to be done (all requested files are present and up to date)."


def test_a_terminal_has_a_live_view_that_ends(logger: logging.Logger, tmp_path: Path) -> None:
    logger.handlers[0].stream = Terminal()  # type: ignore[attr-defined]
    view, log = shown(logger), tmp_path / "log"
    event(logger, "run_info", stats={"training": 2, "total": 2})
    live = view.live
    assert live is not None
    start(logger, 1, "training", log, run="[at]", seed="0")
    log.write_text("[at] seed 0: 40 %, 2 min left, loss 1.5\n")
    live.refresh()
    text = "".join(lines(view))
    assert "[at] seed 0: 40 %, 2 min left, loss 1.5" in text and "0 of 2 jobs" in text
    event(logger, "job_finished", job_id=1)
    logger.handle(logging.LogRecord("snakemake", logging.INFO, "", 0, "Complete log(s): /tmp/x.log", None, None))
    view.close()
    assert view.live is None and "\x1b[?25h" in "".join(lines(view)), "the cursor is shown again"


def test_many_running_jobs_do_not_fill_the_screen(tmp_path: Path) -> None:
    from rich.console import Console

    jobs = JobList()
    jobs.plan({"training": 40})
    for number in range(40):
        jobs.start(number, "training", {"run": "at", "seed": str(number)}, (tmp_path / str(number),))
    console = Console(file=io.StringIO(), width=80)
    with console.capture() as capture:
        console.print(overview(jobs))
    assert capture.get().count("\n") == job_view.SHOWN_AT_ONCE + 2 and "and 28 more" in capture.get()


# --- the time left --------------------------------------------------------------------------------------------


def test_the_time_left_follows_the_rules_and_the_jobs_at_once() -> None:
    """Two jobs at once: two trainings of 10 s each took 10 s; two more and two attacks are left."""
    now = [0.0]
    jobs = JobList(clock=lambda: now[0])
    jobs.plan({"training": 4, "attack": 2, "all": 1, "total": 7})
    assert jobs.total == 7 and jobs.time_left() == (0.0, False)
    for number in (1, 2):
        jobs.start(number, "training", {}, ())
    now[0] = 10.0
    for number in (1, 2):
        jobs.finish(number)
    assert jobs.time_left() == pytest.approx((2 * 10 / 2, False)), "nothing is known of attacks"
    jobs.start(3, "attack", {}, ())
    now[0] = 12.0
    jobs.finish(3)
    at_once = (10 + 10 + 2) / 12
    assert jobs.time_left() == pytest.approx(((2 * 10 + 1 * 2) / at_once, True))
    jobs.start(4, "training", {}, ())
    now[0] = 40.0
    assert jobs.time_left()[0] > 0, "a job that takes longer than usual leaves no negative time"


def test_the_time_left_before_any_job_is_finished_comes_from_the_logs(tmp_path: Path) -> None:
    """One training at a time: after 100 s the first says that it needs 3 h and 20 min more; two more are left."""
    now = [0.0]
    jobs, log = JobList(clock=lambda: now[0]), tmp_path / "log"
    jobs.plan({"training": 3, "total": 3})
    jobs.start(1, "training", {"run": "at", "seed": "0"}, (log,))
    log.write_text("at seed 0: 50000 images, 100 epochs on cpu\n")
    now[0] = 100.0
    assert jobs.time_left() == (0.0, False)
    log.write_text(
        "at seed 0: 0 %, 9 h left, loss 2\nat seed 0: 1 %, 3 h 20 min left, loss 1.9\nepoch 1/100  loss 1.9\n"
    )
    assert jobs.time_left() == pytest.approx((3 * 12_000 + 2 * 100, True))
    jobs.finish(1)
    assert jobs.time_left() == pytest.approx((2 * 100, True)), "what was measured counts"


def test_a_job_that_is_tried_again_counts_once() -> None:
    """As Slurm's profile does: a job that ran out of time is submitted again."""
    jobs = JobList()
    jobs.plan({"training": 2, "total": 2})
    jobs.start(1, "training", {}, ())
    jobs.fail(1)
    assert [job.rule for job in jobs.failed.values()] == ["training"] and not jobs.running
    jobs.start(1, "training", {}, ())
    assert jobs.waiting == {"training": 1}
    jobs.finish(1)
    assert (jobs.done, jobs.failed) == (1, {})


@pytest.mark.parametrize(
    ("rule", "wildcards", "title"),
    [
        ("training_with_guide", {"run": "dynat_2", "seed": "0"}, "dynat_2 seed 0"),
        ("attack", {"run": "at", "attack": "autoattack"}, "at autoattack"),
        ("sanity", {"run": "at"}, "at sanity"),
        ("import_checkpoint", {"run": "theirs", "seed": "0"}, "theirs import"),
        ("transfer", {}, "transfer"),
    ],
)
def test_titles(rule: str, wildcards: dict[str, str], title: str) -> None:
    assert job_title(rule, wildcards) == title


NOTES = ["Accuracy in percent on digits; n = 359", "† not distinguishable from the best"]


def test_the_table_as_text() -> None:
    markdown = (
        "| Run | Method | AutoAttack<br><sub>n = 50</sub> |\n|:---|:---|---:|\n"
        "| `at` | AT | **79.0** <sub>[50.1–75.9]</sub> |\n| `dynat` | DYNAT | 77.0† ± 1.4 |\n"
        "\nAccuracy in percent on digits; n = 359. Bold: best of the column.\n\n"
        "† not distinguishable from the best (paired test). Networks differ.\n\nA column\n\n| A |\n"
    )
    assert table_as_text(markdown).splitlines() == [
        "Run    Method   AutoAttack",
        "                    n = 50",
        "at     AT             79.0",
        "dynat  DYNAT   77.0† ± 1.4",
        *NOTES,
    ]
    assert table_as_text(markdown, 26) == table_as_text(markdown)
    shorter = ["Run     AutoAttack", "            n = 50", "at            79.0", "dynat  77.0† ± 1.4"]
    assert table_as_text(markdown, 25).splitlines() == [*shorter, *NOTES]
    barest = ["Run    AutoAttack", "           n = 50", "at           79.0", "dynat       77.0†"]
    for width in (17, 3):
        assert table_as_text(markdown, width).splitlines() == [*barest, *NOTES]
    assert table_as_text("no table") == ""
