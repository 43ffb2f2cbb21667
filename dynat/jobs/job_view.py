"""What a person sees while the pipeline runs: a bar, the jobs that run, and one line per finished job with its result.

`show_jobs` takes the place of the handler by which Snakemake writes to the terminal. Snakemake's log file keeps every
message. A handler of one's own (`--logger`) stays, and so do Snakemake's messages with the options in `ITS_OWN`.
"""

from __future__ import annotations

import html
import logging
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from dynat.jobs.job_list import Job, JobList
from dynat.results.paths import ExperimentFiles
from dynat.runtime.progress import duration

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

ITS_OWN = ("dryrun", "quiet", "verbose", "debug_dag", "printshellcmds")
"""Options with which Snakemake's own messages are wanted."""
SWALLOWED = ("job_started", "shellcmd", "progress", "resources_info", "workflow_started", "rulegraph")
"""Events of Snakemake that are shown in no other way here."""
NOISE = (
    "Assuming unrestricted shared filesystem",
    "host: ",
    "Building DAG of jobs",
    "Using shell: ",
    "Singularity containers: ignored",
    "Select jobs to execute",
    "Removing output files of failed job",
    "Shutting down, this might take some time",
    "Exiting because a job execution failed",
    "Elapsed time: ",
    "Touching output file ",
    "Removing temporary output ",
    "RuleException:\nCalledProcessError",
    "WorkflowError:\nAt least one job did not complete",
)
"""Messages that say nothing that a line of this view does not say."""
INTERRUPTED = "Terminating processes on user request"
NOTHING_TO_DO = "Nothing to be done"
LOG_FILE = "Complete log(s): "
NOTES = ("Accuracy in percent", "†", "‡", "§")
"""How the notes below a table begin that are shown with it in the terminal."""
SHOWN_AT_ONCE = 12
"""Jobs that run, in the terminal."""
LINES_OF_FAILED = 20
"""Last lines of a failed job's log."""


class JobView(logging.Handler):
    """Shows the records of Snakemake; the base class lets one thread at a time do so."""

    def __init__(self, own: logging.Handler, stream: TextIO, files: ExperimentFiles) -> None:
        super().__init__()
        self.own, self.stream, self.files = own, stream, files
        self.jobs = JobList()
        self.live: Live | None = None
        self.interrupted = False

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._show(record)
        except Exception:  # what this view cannot show, Snakemake's handler can
            self.handleError(record)
            self.own.handle(record)

    def _show(self, record: logging.LogRecord) -> None:
        event, message = str(getattr(record, "event", None) or ""), record.getMessage()
        act: Mapping[str, Callable[[Any], None]] = {
            "run_info": self._plan,
            "job_info": self._start,
            "job_finished": self._finish,
            "job_error": self._fail,
        }
        if event in act:
            act[event](record)
        elif message.startswith(INTERRUPTED):
            self.interrupted = True
            self.write(
                f"dynat: interrupted: the running jobs are being ended; what is finished is kept{continue_with()}"
            )
        elif message.startswith(NOTHING_TO_DO) and self.files.report.exists():
            self.write(f"{message}\ndynat: open {self.files.report}")
        elif message.startswith(LOG_FILE):
            self.write(f"Snakemake's log: {os.path.relpath(message.removeprefix(LOG_FILE))}")
        elif event not in SWALLOWED and not message.startswith(NOISE):
            self.write(self.own.format(record))

    def _plan(self, record: Any) -> None:
        self.jobs.plan(record.stats)
        if self.live is not None:  # Snakemake counts again after a checkpoint
            return
        self.write(f"{self.jobs.total} jobs; one line for each that is finished")
        if self.stream.isatty() and os.environ.get("TERM") != "dumb":
            self.live = _live(self.stream, self.jobs)

    def _start(self, record: Any) -> None:
        logs = tuple(Path(log) for log in record.log)
        self.jobs.start(record.jobid, record.rule_name, dict(record.wildcards or {}), logs)

    def _finish(self, record: Any) -> None:
        job = self.jobs.finish(record.job_id)
        if job is not None and job.logs:  # a rule without a log only collects the files of others
            result = job.result() or f"done, {self.jobs.took(job)}"
            width = len(str(self.jobs.total))
            line = f"{self.jobs.done:{width}}/{self.jobs.total}  {job.title}: {result}"
            self.write("\n".join([line, *(f"  {warning}" for warning in job.warnings())]))

    def _fail(self, record: Any) -> None:
        logs = tuple(Path(log) for log in record.log)
        job = self.jobs.fail(record.jobid) or Job(record.rule_name, record.rule_name, logs, self.jobs.clock())
        if self.interrupted:
            return
        lines = [f"FAILED  {job.title}, after {self.jobs.took(job)}"]
        if record.rule_msg and record.rule_msg != "None":  # what the executor knows: out of memory, out of time
            lines.append(f"  {record.rule_msg}")
        lines += [f"  | {line}" for line in job.last_lines(LINES_OF_FAILED)]
        lines += [f"  log: {log}" for log in logs]
        self.write("\n".join(lines))

    def write(self, text: str) -> None:
        """Lines that stay, above the bar where there is one."""
        if self.live is None:
            print(text, file=self.stream, flush=True)
        else:
            self.live.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def succeeded(self) -> None:
        """The end of the pipeline: how long it took, and the main table if it was made in this call."""
        self.stop()
        self.write(f"{self.jobs.done} jobs finished in {duration(self.jobs.clock() - self.jobs.began)}")
        table = self.files.table("main", "md")
        if "report" in self.jobs.times and table.exists():
            width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
            print(f"\n{table_as_text(table.read_text(), width)}\n", flush=True)

    def failed(self) -> None:
        """The end of a pipeline that could not be finished: what failed, and how to continue."""
        self.stop()
        if not self.interrupted:
            names = ", ".join(job.title for job in self.jobs.failed.values()) or "a job"
            self.write(
                f"dynat: failed: {names}; {self.jobs.done} of {self.jobs.total} jobs are finished{continue_with()}"
            )

    def stop(self) -> None:
        """End the live view; lines that follow are plain."""
        live, self.live = self.live, None
        if live is not None:
            live.stop()

    def flush(self) -> None:
        self.stream.flush()

    def close(self) -> None:
        self.stop()
        super().close()


def show_jobs(logger: logging.Logger, settings: Any, files: ExperimentFiles) -> JobView | None:
    """Put this view in the place of the handler that writes Snakemake's messages to the terminal, unless an option of
    Snakemake (its output settings) or another handler is there instead."""
    own = next((handler for handler in logger.handlers if handler.name == "DefaultStreamHandler"), None)
    if not isinstance(own, logging.StreamHandler) or any(getattr(settings, name, None) for name in ITS_OWN):
        return None
    view = JobView(own, own.stream, files)
    for rule in own.filters:
        view.addFilter(rule)
    logger.removeHandler(own)
    logger.addHandler(view)
    return view


def continue_with() -> str:
    """The command that continues; DVC's stage prints its own."""
    if "DVC_STAGE" in os.environ:
        return ""
    return f"; continue with: {os.environ.get('DYNAT_COMMAND') or shlex.join(['snakemake', *sys.argv[1:]])}"


def table_as_text(markdown: str, width: int | None = None) -> str:
    """The first table of a Markdown file in columns of text, without the intervals in small print, then the first
    words of the notes on its numbers and marks. A table that is wider than `width` is without its second column, the
    method; one that still is, without the deviations over seeds."""
    rows: list[list[str]] = []
    notes: list[str] = []
    for line in markdown.splitlines():
        if not line.startswith("|"):
            if line.startswith(NOTES):
                notes.append(re.split(r" \(|\. ", line)[0])
        elif not notes and not set(line) <= set("|:- "):
            cells = re.split(r"(?<!\\)\|", re.sub(r" <sub>.*?</sub>", "", line).strip("|"))
            rows.append([_as_text(cell) for cell in cells])
    shorter = [[cell for place, cell in enumerate(row) if place != 1] for row in rows]
    barest = [[re.sub(r" ± [0-9.]+$", "", cell) for cell in row] for row in shorter]
    texts = [_columns(table) for table in (rows, shorter, barest)]
    fits = (text for text in texts if width is None or max(map(len, text), default=0) <= width)
    return "\n".join([*next(fits, texts[-1]), *notes])


def _as_text(cell: str) -> str:
    """A cell without its marks; <br> is a new line."""
    plain = re.sub(r"</?sub>|[`*]", "", cell.strip()).replace("<br>", "\n")
    return html.unescape(re.sub(r"\\(.)", r"\1", plain))


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of text: names on the left, numbers on the right, a heading of two lines in two."""
    lines: list[list[str]] = []
    for row in rows:
        cells = [cell.split("\n") for cell in row]
        high = max(map(len, cells))
        lines += [[cell[n] if n < len(cell) else "" for cell in cells] for n in range(high)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    numbers = [place > 0 and any(re.match(r"[0-9–]", row[place]) for row in rows[1:]) for place in range(len(widths))]
    return [
        "  ".join(f"{cell:{'>' if numbers[n] else '<'}{widths[n]}}" for n, cell in enumerate(line)).rstrip()
        for line in lines
    ]


def _live(stream: TextIO, jobs: JobList) -> Live:
    from rich.console import Console
    from rich.live import Live

    live = Live(
        get_renderable=lambda: overview(jobs), console=Console(file=stream), refresh_per_second=2, transient=True
    )
    live.start()
    return live


def overview(jobs: JobList) -> RenderableType:
    """The jobs that run, each with the last words of its log, and a bar over all jobs."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    running = [job for job in list(jobs.running.values()) if job.logs]
    lines = [
        Text(f"  {job.title}: {job.state() or jobs.took(job)}", no_wrap=True, overflow="ellipsis") for job in running
    ]
    if len(lines) > SHOWN_AT_ONCE:
        lines[SHOWN_AT_ONCE:] = [Text(f"  and {len(lines) - SHOWN_AT_ONCE} more")]
    left, complete = jobs.time_left()
    about = f", {'' if complete else 'at least '}{duration(left)} left" if complete or left >= 1 else ""
    text = f"{jobs.done} of {jobs.total} jobs{about}"
    bar = Table.grid(padding=(0, 1))
    bar.add_row(ProgressBar(total=max(1, jobs.total), completed=jobs.done, width=30), text)
    return Group(*lines, bar)
