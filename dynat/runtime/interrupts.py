"""SIGINT and SIGTERM as an exception: files that are being written are cleaned up, and a command ends with one line."""

from __future__ import annotations

import _thread
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
RETRY_SECONDS = 0.05
"""A signal that arrives during an import has its effect after it; checked this often."""


class Interrupted(BaseException):
    """The user or the scheduler ends this process. No `Exception`, so that nothing takes it for a failure."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


@contextmanager
def interruptible() -> Iterator[None]:
    """Inside, SIGINT and SIGTERM raise `Interrupted`, unless this process was started to ignore them.

    Afterwards they have the effect that they had before; after an interruption they have none, while the process ends.
    """
    after = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in after.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, _interrupt)
    try:
        yield
    except Interrupted:
        after = dict.fromkeys(SIGNALS, signal.SIG_IGN)
        raise
    finally:
        for number, handler in after.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    if _is_importing(frame):
        main_thread = threading.main_thread().ident  # to it alone: it may be in a system call
        again = threading.Timer(RETRY_SECONDS, signal.pthread_kill, (main_thread, number))
        again.daemon = True
        again.start()
    else:
        raise Interrupted(number)


def _is_importing(frame: FrameType | None) -> bool:
    """Whether a module is being imported. Torch's C code clears any exception while it imports numpy: the signal would
    have no effect, and numpy would be incomplete."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def handle_in_a_thread(number: int) -> None:
    """Let the present handler of a signal run in a thread of its own. Snakemake's handler of SIGTERM waits for a lock;
    if the code that it interrupts holds that lock, both wait for ever."""
    handler = signal.getsignal(number)
    if callable(handler):

        def start(number: int, frame: FrameType | None) -> None:
            _thread.start_new_thread(handler, (number, frame))  # `threading` would wait for locks of its own here

        signal.signal(number, start)
