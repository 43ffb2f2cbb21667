"""Progress of a long job: a bar in a terminal, otherwise a line in the log at least once a minute.

Both show the share that is done, the time left, and a detail such as the loss. The time left comes from the rate in
this call: what an interrupted call did before counts as done, but not for the rate.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from typing import Any

from tqdm import tqdm

Say = Callable[[str], None]

LINE_SECONDS = 30.0
"""Time between two lines of a log. A line waits for a step of the job to end, and must not wait for a minute."""
UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
"""Of a time in words, in seconds."""
BAR_SECONDS = 1.0
"""Time between two updates of a bar."""


def say(text: str) -> None:
    """Write a line to standard output at once."""
    print(text, flush=True)


class Progress:
    """How much of a job is done, in any unit. Whoever works on it calls `tick` often and `advance` after each part.

    The detail is a function because it may read a value from the GPU: it is called only when a line is due.
    """

    def __init__(
        self,
        title: str,
        total: float,
        *,
        say: Say = say,
        hidden: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.title, self.total, self.done = title, total, 0.0
        self._detail: Callable[[], str] = lambda: ""
        self._say, self._clock, self._hidden = say, clock, hidden
        self._bar: tqdm[Any] | None = None
        if not hidden and sys.stderr.isatty():
            layout = "{desc} {percentage:3.0f} %|{bar:20}| {postfix}"
            self._bar = tqdm(total=total or None, desc=title, leave=False, bar_format=layout)
        self._started, self._done_before = clock(), 0.0
        self._due = self._started + self._interval

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def describe(self, detail: Callable[[], str]) -> None:
        """What to show beside the share from now on."""
        if not self._hidden:
            self._detail = detail

    def advance(self, amount: float = 1.0) -> None:
        """A part of the job is finished."""
        self.done += amount
        self.tick()

    def skip(self, amount: float) -> None:
        """A part was finished by an earlier call."""
        self.done += amount
        self._done_before += amount

    def tick(self, within: float = 0.0) -> None:
        """Show the progress if that is due. `within`: how much of the part that is being worked on is done."""
        if self._hidden or self._clock() < self._due:
            return
        done, detail = min(self.done + within, self.total), self._detail()
        now = self._clock()  # the detail may have waited for the GPU
        self._due = now + self._interval
        parts = (
            [self._time_left(done, now), detail] if self.total else [detail]
        )  # a server may not say how much it sends
        if self._bar is not None:
            self._bar.n = done
            self._bar.set_postfix_str(", ".join(filter(None, parts)))
            return
        shown = [share(done, self.total), *parts] if self.total else parts
        self._say(f"{self.title}: {', '.join(filter(None, shown))}")

    def say(self, text: str) -> None:
        """A line of its own, above the bar where there is one."""
        if self._hidden:
            return
        if self._bar is None:
            self._say(text)
        else:
            with tqdm.external_write_mode():
                self._say(text)

    @property
    def _interval(self) -> float:
        return LINE_SECONDS if self._bar is None else BAR_SECONDS

    def _time_left(self, done: float, now: float) -> str:
        measured = done - self._done_before
        if measured <= 0:
            return "time left not known yet"
        return f"{duration((now - self._started) * (self.total - done) / measured)} left"


HIDDEN = Progress("", 1.0, hidden=True)
"""Shows nothing: for tests, and for the processes of a training that do not report."""


def share(done: float, total: float) -> str:
    """A share in percent; what is not finished is never 100 %."""
    return f"{int(100 * done / total)} %"


def duration(seconds: float) -> str:
    """A time as a person says it: 12 s, 3 min, 1 h 20 min, 2 d 5 h."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def time_left_in(line: str) -> float | None:
    """The seconds left according to a line that `Progress` wrote; None if it is another line."""
    found = re.search(r": \d+ %, ((?:\d+ (?:s|min|h|d) )+)left", line)
    if found is None:
        return None
    words = found[1].split()
    return sum(UNITS[unit] * int(number) for number, unit in zip(words[::2], words[1::2], strict=True))
