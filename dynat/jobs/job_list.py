"""The jobs of a run of the pipeline, as Snakemake reports them: what runs, what each one's log says, the time left.

A line in a job's log that is about its progress or its result begins with the job's title.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from dynat.runtime.progress import duration

TAIL_BYTES = 16_384
"""How much of a log's end is read."""
TITLED = ("training", "training_with_guide", "attack", "attack_shard")
"""Rules whose wildcards say enough."""
RULES = {"import_checkpoint": "import"}
"""What a rule is called, where that is not its name."""


@dataclass(frozen=True)
class Job:
    """A job that was started."""

    rule: str
    title: str
    logs: tuple[Path, ...]
    began: float

    def last_lines(self, most: int) -> list[str]:
        """The end of the log, or of the first of several that is not empty."""
        return next((lines[-most:] for log in self.logs if (lines := tail(log))), [])

    def state(self) -> str:
        """The last line of the log, without the title; empty if there is none yet."""
        return "".join(self.last_lines(1)).removeprefix(f"{self.title}: ")

    def result(self) -> str:
        """What the last line that begins with the title says; empty if there is none."""
        start = f"{self.title}: "
        lines = [line for log in self.logs for line in tail(log) if line.startswith(start)]
        return lines[-1].removeprefix(start) if lines else ""

    def warnings(self) -> list[str]:
        """The warnings in the log about this job."""
        start = f"warning: {self.title}: "
        return list(dict.fromkeys(line for log in self.logs for line in tail(log) if line.startswith(start)))


def job_title(rule: str, wildcards: Mapping[str, str]) -> str:
    """What a job is called: `dynat seed 0`, `at autoattack`, `at autoattack shard 2-of-4`, `at sanity`, `transfer`."""
    seed = f"seed {wildcards['seed']}" if rule in TITLED and "seed" in wildcards else ""
    words = [
        wildcards.get("run", ""),
        wildcards.get("attack", ""),
        seed,
        f"shard {wildcards['shard']}" if "shard" in wildcards else "",
        "" if rule in TITLED else RULES.get(rule, rule),
    ]
    return " ".join(filter(None, words))


def tail(log: Path) -> list[str]:
    """The last lines of a file, without empty ones."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - TAIL_BYTES))
            content = file.read()
    except OSError:  # not written yet, or not visible on this node yet
        return []
    return [line.rstrip() for line in content.decode(errors="replace").splitlines() if line.strip()]


class JobList:
    """The state of all jobs. Times are measured in this call."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.began = clock()
        self.total = self.done = 0
        self.waiting: Counter[str] = Counter()
        self.running: dict[int, Job] = {}
        self.failed: dict[int, Job] = {}
        """Without those that finished when they were tried again."""
        self.times: dict[str, list[float]] = {}
        """Durations of the finished jobs of each rule."""

    def plan(self, stats: Mapping[str, int]) -> None:
        """How many jobs each rule will have, as Snakemake counts them."""
        self.waiting = Counter({rule: count for rule, count in stats.items() if rule != "total"})
        self.total = self.waiting.total()

    def start(self, number: int, rule: str, wildcards: Mapping[str, str], logs: tuple[Path, ...]) -> None:
        if number not in self.running and number not in self.failed:
            self.waiting[rule] = max(0, self.waiting[rule] - 1)
        self.running[number] = Job(rule, job_title(rule, wildcards), logs, self.clock())

    def finish(self, number: int) -> Job | None:
        """The job, if it was started here."""
        self.done += 1
        self.failed.pop(number, None)
        job = self.running.pop(number, None)
        if job is not None:
            self.times.setdefault(job.rule, []).append(self.clock() - job.began)
        return job

    def fail(self, number: int) -> Job | None:
        job = self.running.pop(number, None)
        if job is not None:
            self.failed[number] = job
        return job

    def took(self, job: Job) -> str:
        return duration(self.clock() - job.began)

    def time_left(self) -> float | None:
        """From the mean time of the finished jobs of each rule, and from how many jobs ran at once so far.

        A rule of which none is finished is taken for the mean of the others; None before the first job is finished.
        """
        measured = [seconds for times in self.times.values() for seconds in times]
        if not measured:
            return None
        means = {rule: fmean(times) for rule, times in self.times.items()}
        usual, now = fmean(measured), self.clock()
        spent = [now - job.began for job in self.running.values()]
        left = sum(count * means.get(rule, usual) for rule, count in self.waiting.items())
        for job, seconds in zip(self.running.values(), spent, strict=True):
            left += max(0.0, means.get(job.rule, usual) - seconds)
        at_once = (sum(measured) + sum(spent)) / max(now - self.began, 1e-3)
        return left / max(at_once, 1e-3)
