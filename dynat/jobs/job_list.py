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

from dynat.runtime.progress import duration, time_left_in

TAIL_BYTES = 16_384
"""How much of a log's end is read."""
TITLED = ("training", "training_with_guide", "attack", "attack_shard")
"""Rules whose wildcards say enough."""
LONG = (*TITLED, "sanity", "corruptions", "transfer")
"""Rules whose jobs take most of the time."""
RULES = {"import_checkpoint": "import", "adversarial_images": "adversarial images"}
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

    def time_left(self) -> float | None:
        """Seconds, from the last line of the log about its progress; None if there is none yet."""
        lines = [left for log in self.logs for line in tail(log) if (left := time_left_in(line)) is not None]
        return lines[-1] if lines else None

    def warnings(self) -> list[str]:
        """The warnings in the log about this job."""
        start = f"warning: {self.title}: "
        return list(dict.fromkeys(line for log in self.logs for line in tail(log) if line.startswith(start)))


def job_title(rule: str, wildcards: Mapping[str, str]) -> str:
    """What a job is called: `dynat seed 0`, `at autoattack`, `at autoattack shard 2-of-4`, `at sanity`, `transfer`."""
    seed = f"seed {wildcards['seed']}" if rule in (*TITLED, "adversarial_images") and "seed" in wildcards else ""
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

    def time_left(self) -> tuple[float, bool]:
        """Seconds, and whether that is all. From the mean time of the finished jobs of each rule (before one is
        finished, from what the logs of its running jobs say), and from how many jobs ran at once so far. A rule of
        which nothing is known yet counts nothing, and that is not all if its jobs take long.
        """
        now = self.clock()
        spent = {number: now - job.began for number, job in self.running.items()}
        left = {number: job.time_left() for number, job in self.running.items()}
        said: dict[str, list[float]] = {}
        for number, job in self.running.items():
            if (seconds := left[number]) is not None:
                said.setdefault(job.rule, []).append(spent[number] + seconds)
        usual = {rule: fmean(times) for rule, times in (said | self.times).items()}
        total = sum(count * usual.get(rule, 0.0) for rule, count in self.waiting.items())
        for number, job in self.running.items():
            seconds = left[number]
            total += max(0.0, usual.get(job.rule, 0.0) - spent[number]) if seconds is None else seconds
        open_rules = {rule for rule, count in self.waiting.items() if count} | {j.rule for j in self.running.values()}
        busy = sum(seconds for times in self.times.values() for seconds in times) + sum(spent.values())
        at_once = max(busy / max(now - self.began, 1e-3), 1e-3)
        return total / at_once, not (open_rules & set(LONG) - set(usual))
