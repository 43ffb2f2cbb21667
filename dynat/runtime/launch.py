"""Start the processes of one training, one per GPU of this machine, and stop all of them when one fails.

They find each other through a file and exchange gradients over the loopback interface, so neither the machine's name
nor its network matters. None of them outlives the process that started them, however that ends.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from dynat.runtime.errors import JobError

RENDEZVOUS = "DYNAT_RENDEZVOUS"
"""Environment variable: the file through which the processes of one training find each other."""
STOP_SECONDS = 5.0
"""How long processes have to end after SIGTERM, before SIGKILL."""
LOOPBACK = {"darwin": "lo0"}.get(sys.platform, "lo")


class WorkerFailed(JobError):
    """One of a training's processes failed."""


def launch(count: int, arguments: Sequence[str]) -> None:
    """Run `dynat` with these arguments in `count` processes of one process group."""
    import torch

    from dynat.runtime import gpu_locks

    environment = {}
    if (seen := torch.cuda.device_count()) >= count:
        names = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(seen)))).split(",")
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(names[number] for number in gpu_locks.choose_gpus(count))
    run_processes(count, [sys.executable, "-m", "dynat", *arguments], environment)


def run_processes(count: int, command: Sequence[str], environment: dict[str, str] | None = None) -> None:
    """Run a command in `count` processes, which `dynat.training.distributed` connects, until all have ended."""
    with tempfile.TemporaryDirectory(prefix="dynat-") as folder:
        common = {
            "OMP_NUM_THREADS": "1",  # each process sets its own number
            "GLOO_SOCKET_IFNAME": LOOPBACK,
            **os.environ,
            **(environment or {}),
            RENDEZVOUS: str(Path(folder, "rendezvous")),
            "WORLD_SIZE": str(count),
        }
        processes: list[subprocess.Popen[bytes]] = []
        try:
            for rank in map(str, range(count)):
                own = {**common, "RANK": rank, "LOCAL_RANK": rank}
                # Nothing is ever written to the pipe: it closes when this process ends (`end_with_parent`).
                processes.append(subprocess.Popen(command, env=own, stdin=subprocess.PIPE))
            _wait(processes)
        finally:
            _stop(processes)


def _wait(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Wait until all have ended well; otherwise `WorkerFailed`, or the exit of a process that found a user's error."""
    while None in (codes := [process.poll() for process in processes]) and not any(codes):
        time.sleep(0.05)
    if not any(codes):
        return
    # A process that was killed comes first: those that waited for it failed because of it.
    code, rank = min((code, rank) for rank, code in enumerate(codes) if code)
    if code == 2:  # it has said what the user can correct
        raise SystemExit(code)
    ended = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
    raise WorkerFailed(
        f"process {rank} of {len(processes)} {ended}, so the others were stopped; its output is above. "
        "The same command resumes from the last finished epoch"
    )


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    deadline = time.monotonic() + STOP_SECONDS
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdin:
            process.stdin.close()


def is_worker() -> bool:
    """Whether this process is one of several that `run_processes` started."""
    return RENDEZVOUS in os.environ


def end_with_parent() -> None:
    """End this process when the one that started it ends, even by SIGKILL: the pipe between them then closes."""

    def wait() -> None:
        while os.read(0, 1):  # standard input: empty until the pipe closes
            pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
