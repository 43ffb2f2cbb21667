"""Verify the pipeline with a real Slurm, started on this machine for the time of the check.

make slurm-check

Starts munge, slurmctld and slurmd (Debian: apt-get install slurm-wlm munge) on free ports and in a temporary folder,
with one node of two CPUs and two fake GPUs (/dev/null and /dev/zero). Then it
1. runs a small pipeline as jobs, cancels a training in the middle, and compares the numbers with a run without Slurm;
2. times four independent trainings with two slots and with one.
All that it started is stopped at the end; the system's own Slurm, if any, is not touched.
"""

from __future__ import annotations

import argparse
import getpass
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
SMALL = ("preset=digits", "select=[at,dynat]", "seeds=[0]", "attacks=[clean,pgd-20]", "headline=pgd-20")
LIMIT = 0.6
"""Two slots may take at most this share of the time of one."""

SLURM_CONF = """
ClusterName=check
SlurmctldHost=localhost
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={slurmctld_port}
SlurmdPort={slurmd_port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/none
MpiDefault=none
ReturnToService=2
MinJobAge=300
SchedulerParameters=sched_interval=5
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs={slots} RealMemory=1000 Gres=gpu:{slots} State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


class Cluster:
    """One node with `slots` slots: a CPU and a fake GPU each."""

    def __init__(self, folder: Path, slots: int) -> None:
        self.folder, self.slots = folder, slots
        self.callers: list[subprocess.Popen[bytes]] = []
        self.processes: list[subprocess.Popen[bytes]] = []
        self.environment = {
            **os.environ,
            "SLURM_CONF": str(folder / "slurm.conf"),
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        }

    def __enter__(self) -> Cluster:
        for name in ("state", "spool", "bin"):
            (self.folder / name).mkdir(parents=True)
        # Inside a job Snakemake's plugin drops SLURM_CONF, and srun would then use the system's configuration.
        srun = self.folder / "bin" / "srun"
        srun.write_text(f'#!/bin/sh\nSLURM_CONF={self.folder}/slurm.conf exec {shutil.which("srun")} "$@"\n')
        srun.chmod(0o755)
        host = socket.gethostname().partition(".")[0]
        (self.folder / "slurm.conf").write_text(
            SLURM_CONF.format(
                user=getpass.getuser(),
                folder=self.folder,
                host=host,
                slots=self.slots,
                slurmctld_port=free_port(),
                slurmd_port=free_port(),
            )
        )
        devices = ("/dev/null", "/dev/zero")[: self.slots]  # files that exist, and that no job opens
        (self.folder / "gres.conf").write_text("".join(f"Name=gpu File={device}\n" for device in devices))
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o600)
        try:
            munge = {
                "key-file": "munge.key",
                "socket": "munge.socket",
                "pid-file": "munge.pid",
                "seed-file": "munge.seed",
            }
            options = [f"--{option}={self.folder / name}" for option, name in munge.items()]
            self._start("munged", "--foreground", "--force", *options, f"--log-file={self.folder / 'munge.log'}")
            wait_until("munge answers", (self.folder / "munge.socket").exists)
            self._start("slurmctld", "-D", "-i")
            self._start("slurmd", "-D", "-N", host)
            wait_until("the node is idle", lambda: self.output_of("sinfo", "-h", "-o", "%T") == "idle", 30)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for caller in self.callers:  # a caller that still runs would wait forever for its jobs
            if caller.poll() is None:
                caller.kill()
                caller.wait()
        if self.processes and self.output_of("squeue", "-h"):
            self.output_of("scancel", "--user", getpass.getuser())
            time.sleep(3)
        for process in reversed(self.processes):
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _start(self, *words: str) -> None:
        with (self.folder / f"{words[0]}.log").open("wb") as log:
            self.processes.append(subprocess.Popen(words, env=self.environment, stdout=log, stderr=log))

    def output_of(self, *words: str) -> str:
        """The output of a Slurm command; empty if it fails."""
        done = subprocess.run(words, env=self.environment, capture_output=True, text=True, check=False)
        return done.stdout.strip()


class Project:
    """A copy of the project, so that existing results are not touched."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        files = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        for name in files.stdout.splitlines():
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)

    def snakemake(self, *words: str, cluster: Cluster | None = None) -> subprocess.Popen[bytes]:
        """Start Snakemake; its output goes to a file. Without accounting it polls the queue, and often."""
        options = ["--cores", "2"]
        if cluster:
            options = ["--workflow-profile", "slurm", "--slurm-status-command", "squeue", "--slurm-no-account"]
            options += ["--default-resources", "mem_mb=100", "runtime=30", "--latency-wait", "10"]
            options += ["--slurm-init-seconds-before-status-checks", "2", "--seconds-between-status-checks", "2"]
        with (self.folder / "output.txt").open("wb") as output:
            process = subprocess.Popen(
                [BIN / "snakemake", *options, *words],
                cwd=self.folder,
                env=cluster.environment if cluster else None,
                stdout=output,
                stderr=output,
            )
        if cluster:
            cluster.callers.append(process)
        return process

    def finish(self, process: subprocess.Popen[bytes]) -> None:
        if process.wait() != 0:
            sys.exit(f"snakemake failed:\n{self.output}")

    @property
    def output(self) -> str:
        return (self.folder / "output.txt").read_text()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def wait_until(what: str, true: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            sys.exit(f"waited {seconds:.0f} s in vain: {what}")
        time.sleep(0.2)


def survives(work: Path, epochs: int) -> None:
    """The pipeline through Slurm, with one training cancelled, gives the numbers of a run without Slurm."""
    settings = ["--config", *SMALL, f"training={{epochs: {epochs}}}"]
    through, plain = Project(work / "through"), Project(work / "plain")
    log = through.folder / "logs/train/digits/at-seed0.log"
    started = time.monotonic()
    with Cluster(work / "slurm", slots=2) as cluster:
        process = through.snakemake("all", *settings, cluster=cluster)
        wait_until("epoch 3 of a training", lambda: log.exists() and "epoch 3/" in log.read_text())
        queue = cluster.output_of("squeue", "-h", "-O", "JobID:8,tres-per-job:16,State:12,Comment:80").splitlines()
        print("in the queue:", *map(str.rstrip, queue), sep="\n  ")
        (job,) = [line.split()[0] for line in queue if re.search(r"rule_training_wildcards_at", line)]
        assert all("gpu:1" in line for line in queue), "each training requests one GPU"
        cluster.output_of("scancel", job)
        print(f"job {job} cancelled after {log.read_text().splitlines()[-1]!r}")
        through.finish(process)
    text = log.read_text()
    resumed = re.search(r"resuming from state/.*\nepoch (\d+)/", text)
    assert resumed and int(resumed[1]) >= 3, f"it did not resume from its last epoch:\n{text}"
    submitted = re.findall(r"has been submitted with SLURM jobid (\d+)", through.output)
    finished = re.search(r"^(\d+) jobs finished in", through.output, re.MULTILINE)
    assert finished, through.output
    light = int(finished[1]) - len(submitted) + 1  # one was submitted twice
    print(f"submitted again, it resumed with epoch {resumed[1]} of {epochs}")
    print(f"{len(submitted)} Slurm jobs, {light} light jobs beside Snakemake, {time.monotonic() - started:.0f} s")
    plain.finish(plain.snakemake("all", *settings))
    same = subprocess.run(
        [sys.executable, "-m", "dynat", "diff", through.folder / "results", plain.folder / "results"],
        cwd=ROOT,
        check=False,
    )
    sys.exit("Slurm changed numbers") if same.returncode else None


def is_faster(work: Path, epochs: int) -> None:
    """Four independent trainings, with two slots and with one."""
    settings = ["--config", *SMALL, "select=[at]", "seeds=[0,1,2,3]", f"training={{epochs: {epochs}}}"]
    targets = [f"results/digits/at/seed{seed}/target.safetensors" for seed in range(4)]
    seconds = {}
    for slots in (2, 1):
        project = Project(work / f"slots{slots}")
        project.finish(project.snakemake("data/digits/info.json", *settings))
        with Cluster(work / f"slurm{slots}", slots=slots) as cluster:
            started = time.monotonic()
            project.finish(project.snakemake(*targets, *settings, cluster=cluster))
            seconds[slots] = time.monotonic() - started
        alone = [sum_of_seconds(project.folder / file) for file in targets]
        each = " ".join(f"{value:.0f}" for value in alone)
        print(f"four trainings with {slots} slot(s): {seconds[slots]:.0f} s (of training: {each} s)")
    ratio = seconds[2] / seconds[1]
    print(f"two slots take {ratio:.2f} of the time of one")
    if ratio > LIMIT:
        sys.exit(f"more than {LIMIT}: is the machine busy?")


def sum_of_seconds(weights: Path) -> float:
    rows = (weights.parent / "history.csv").read_text().splitlines()
    return sum(float(row.rpartition(",")[2]) for row in rows[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=30, help="of the trainings of the DAG (default: 30)")
    parser.add_argument("--long", type=int, default=70, help="epochs of the trainings that are timed (default: 70)")
    parser.add_argument("--only", choices=["survives", "faster"], help="one of the two parts")
    given = parser.parse_args()
    for program in ("munged", "slurmctld", "slurmd", "sbatch"):
        if not shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin"):
            sys.exit(f"{program} is missing: apt-get install slurm-wlm munge")
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    os.environ["OMP_NUM_THREADS"] = "1"
    work = Path(tempfile.mkdtemp(prefix="slurm-check-"))
    try:
        if given.only != "faster":
            survives(work, given.epochs)
        if given.only != "survives":
            is_faster(work, given.long)
    except BaseException:
        print(f"logs: {work}", file=sys.stderr)
        raise
    shutil.rmtree(work)
    print("all passed")


if __name__ == "__main__":
    main()
