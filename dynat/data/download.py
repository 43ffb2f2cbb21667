"""A file from a server, whole or not at all, within bounds: a server that stops or only drips ends the job."""

from __future__ import annotations

import urllib.request
from pathlib import Path
from threading import Thread

from dynat.runtime.files import atomic_write
from dynat.runtime.progress import Progress

WINDOW = 60.0
"""Seconds over which the rate is measured, and without a byte after which a connection fails."""
MIN_RATE = 10_000
"""Bytes per second, over a window, below which a download fails: CIFAR would take five hours."""


def download(url: str, file: Path) -> None:
    """Fetch `url` as `file`; `OSError` or `HTTPException` says why it could not."""
    atomic_write(file, lambda draft: _Download(url, draft).run())


class _Download:
    """The transfer runs in a thread of its own, so that slow answers of every kind count: names, headers, content."""

    def __init__(self, url: str, draft: Path) -> None:
        self.url, self.draft = url, draft
        self.received = 0
        self.given_up = False
        self.error: Exception | None = None

    def run(self) -> None:
        thread = Thread(target=self._fetch, daemon=True)
        thread.start()
        while thread.is_alive():
            before = self.received
            thread.join(WINDOW)
            got = self.received - before
            if thread.is_alive() and got < MIN_RATE * WINDOW:
                self.given_up = True
                raise TimeoutError(f"the server sent only {got} bytes in {WINDOW:g} s")
        if self.error is not None:
            raise self.error

    def _fetch(self) -> None:
        try:
            request = urllib.request.Request(self.url, headers={"User-Agent": "dynat"})
            # r+b: a draft that was given up is not made again
            with urllib.request.urlopen(request, timeout=WINDOW) as answer, self.draft.open("r+b") as file:
                total = int(answer.headers.get("Content-Length", 0))
                with Progress(f"data: {self.url}", total) as progress:
                    progress.describe(lambda: f"{self.received / 1e6:.0f} MB")
                    # read1 returns what has arrived; read would wait for a whole block
                    while not self.given_up and (block := answer.read1(1 << 16)):
                        file.write(block)
                        self.received += len(block)
                        progress.advance(len(block))
        except Exception as error:  # raised where the caller is, by `run`
            self.error = error
