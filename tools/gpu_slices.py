"""Run an experiment without Snakemake, in slices of a few minutes, on a machine that is bare before each.

    python -m tools.gpu_slices --set preset=cifar10-resnet18-fast --set 'select=[at,dynat]' \\
        --minutes 9 --kept slices --out slices

One slice unpacks what earlier slices left in --kept, runs the jobs of the experiment one after the other until the time
is up (data, then run by run: trainings, attacks, sanity checks, metrics), and leaves in --out:

    <preset>.tar.xz    metrics, histories and verdicts of the finished runs, without weights (tools/results_archive.py)
    work-01.part ...   weights and saved states, in parts of at most --part-mb; what exceeds --parts is left out, and
                       the log says so: those jobs start again on another machine
    slice.log          what ran, how long, and what is left

The call is repeated, with the parts carried to the machine, until the log ends in "finished" (exit code 0; 3 says that
jobs are left, 1 that a job failed). A job that is stopped resumes where its state was kept. Nothing is downloaded: the
machine needs torch, numpy, pandas and scipy, and what it lacks of pydantic, typer, safetensors, tqdm and pyautoattack
can be carried as wheels. A data set of your own is carried as an archive: --unpack cifar10-jpeg.tar.xz, and
--set dataset.path=slice-work/cifar10-jpeg.

With --merge FILE, nothing is run: the finished runs of a slice are added to the archive docs/results/<preset>.tar.xz.
"""

from __future__ import annotations

import argparse
import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from dynat.cli.app import read_experiment
from dynat.config import Experiment, Run
from dynat.results.paths import Paths
from dynat.results.records import AnyRecord, OutcomeRecord, RunMetrics, SanityRecord, TrainingRecord, read_record
from dynat.runtime.errors import UserError
from tools.results_archive import extract, pack, unpack

ROOT = Path(__file__).parents[1]
GRACE = 20
"""Seconds that a stopped job has to end by itself; its state is written after every epoch and every batch anyway."""
FINISHED, FAILED, UNFINISHED = 0, 1, 3


@dataclass(frozen=True)
class Job:
    title: str
    arguments: tuple[str, ...]
    """Of `dynat`."""
    done: bool


def jobs(experiment: Experiment, paths: Paths) -> Iterator[Job]:
    """Every job in order. A generator: whether a job is done is decided when it is its turn."""
    data = paths.dataset_info(experiment.dataset.name)
    yield Job("data", ("job", "data", "--spec", experiment.dataset.model_dump_json()), data.exists())
    files = paths.experiment(experiment.preset)
    for name in experiment.runs:
        run, seeds = files.run(name), experiment.seeds[name]
        spec = experiment.training(name)
        for seed in seeds:
            made = _record(run.seed(seed).config, TrainingRecord)
            done = made is not None and _equal(made.config, spec.run)
            if not done:  # what was made of other weights
                shutil.rmtree(run.outcome("clean").parent, ignore_errors=True)
                run.sanity_record.unlink(missing_ok=True)
                run.metrics.unlink(missing_ok=True)
            words = ("job", "training", "--spec", spec.model_dump_json(), "--seed", str(seed))
            yield Job(f"{name} seed {seed}", words, done)
        for attack in experiment.attacks:
            of_attack = experiment.evaluation(name, attack)
            outcome = _record(run.outcome_record(attack), OutcomeRecord)
            done = outcome is not None and (outcome.attack, outcome.seeds) == (of_attack.attack, of_attack.seeds)
            yield Job(f"{name} {attack}", ("job", "attack", "--spec", of_attack.model_dump_json()), done)
        checks = experiment.sanity_checks(name)
        record = _record(run.sanity_record, SanityRecord)
        done = record is not None and (record.attacks, record.seeds) == (checks.attacks, checks.seeds)
        yield Job(f"{name} sanity", ("job", "sanity", "--spec", checks.model_dump_json()), done)
        metrics = _record(run.metrics, RunMetrics)
        done = metrics is not None and metrics.seeds == seeds and set(metrics.attacks) == set(experiment.attacks)
        names = (f"--attack={attack}" for attack in experiment.attacks)
        yield Job(f"{name} metrics", ("metrics", str(run.folder), *names), done)


def _equal(made: object, run: Run) -> bool:
    return isinstance(made, Run) and made == run


def _record(file: Path, kind: type[AnyRecord]) -> AnyRecord | None:
    try:
        return read_record(file, kind) if file.exists() else None
    except UserError:
        return None


class Slice:
    """The jobs that fit into one slice, and its log."""

    def __init__(self, root: Path, ends: float, device: str, log: io.TextIOBase) -> None:
        self.root, self.ends, self.device, self.log = root, ends, device, log
        self.failed: list[str] = []

    def run(self, experiment: Experiment) -> int:
        paths = Paths(self.root / "data", self.root / "results", self.root / "state")
        for job in jobs(experiment, paths):
            if job.done or self._follows_a_failure(job):
                continue
            left = self.ends - time.monotonic()
            if left <= 0 or not self._call(job, paths, left):
                self.say("time is up; the next slice resumes")
                return UNFINISHED
        self.say("failed: " + ", ".join(self.failed) if self.failed else "finished")
        return FAILED if self.failed else FINISHED

    def say(self, text: str) -> None:
        line = f"{time.strftime('%H:%M:%S')} {text}"
        print(line, flush=True)
        self.log.write(line + "\n")
        self.log.flush()

    def _follows_a_failure(self, job: Job) -> bool:
        """Whether this job needs what a failed job did not make: the data, or something of the same run."""
        row = job.title.split(" ")[0]
        return any(row == title.split(" ")[0] or title == "data" for title in self.failed)

    def _call(self, job: Job, paths: Paths, seconds: float) -> bool:
        """Run a job; False if it was stopped because the time was up."""
        began = time.monotonic()
        folders = (f"--data={paths.data}", f"--results={paths.results}", f"--state={paths.state}")
        options = () if job.arguments[0] == "metrics" else (*folders, f"--device={self.device}")
        process = subprocess.Popen([sys.executable, "-m", "dynat", *job.arguments, *options], cwd=ROOT)
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.terminate()
            try:
                process.wait(GRACE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            self.say(f"{job.title}: stopped after {time.monotonic() - began:.0f} s")
            return False
        self.say(f"{job.title}: {'ok' if code == 0 else f'exit code {code}'}, {time.monotonic() - began:.0f} s")
        if code:
            self.failed.append(job.title)
        return True


def restore(kept: Path, root: Path) -> None:
    """Unpack the parts that earlier slices left."""
    parts = sorted(kept.glob("work-*.part"))
    if parts:
        with tarfile.open(fileobj=io.BytesIO(b"".join(part.read_bytes() for part in parts))) as tar:
            extract(tar, root)


def leave(root: Path, out: Path, *, part_bytes: int, parts: int, say: Slice) -> None:
    """Write weights and states below `root` in parts, the smallest folders first; name what does not fit."""
    for old in out.glob("work-*.part"):
        old.unlink()
    packed = io.BytesIO()
    room = part_bytes * parts
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for folder in sorted(_units(root), key=_size):
            if packed.tell() + _size(folder) + 20_480 > room:  # headers, and the end of the archive
                say.say(f"left out, {_size(folder) / 1e6:.0f} MB: {folder.relative_to(root)}")
                continue
            tar.add(folder, arcname=str(folder.relative_to(root)))
    content = packed.getbuffer()
    for number, start in enumerate(range(0, len(content), part_bytes), 1):
        (out / f"work-{number:02d}.part").write_bytes(content[start : start + part_bytes])


def _units(root: Path) -> Iterator[Path]:
    """What is kept or left out as a whole: the folder of a run, the state of a training or an evaluation."""
    for pattern in ("results/*/*", "state/*/*"):
        yield from (folder for folder in root.glob(pattern) if folder.is_dir())


def _size(folder: Path) -> int:
    return sum(file.stat().st_size + 1536 for file in folder.rglob("*") if file.is_file())


def main(words: Iterable[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as in dynat check --set")
    parser.add_argument("--minutes", type=float, default=9.0, help="the length of a slice, without packing")
    parser.add_argument("--kept", type=Path, default=Path("slices"), help="folder with the parts of earlier slices")
    parser.add_argument("--out", type=Path, default=Path("slices"), help="folder for what this slice leaves")
    parser.add_argument("--root", type=Path, default=Path("slice-work"), help="folder for data, results and states")
    parser.add_argument("--unpack", type=Path, help="an archive of images, unpacked below --root unless that was done")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--part-mb", type=float, default=15.0)
    parser.add_argument("--parts", type=int, default=4)
    parser.add_argument("--merge", type=Path, help="add this archive to docs/results and run nothing")
    given = parser.parse_args(None if words is None else list(words))
    if given.merge:
        print(merge(given.merge, ROOT / "docs" / "results"))
        return FINISHED
    ends = time.monotonic() + 60 * given.minutes
    experiment = read_experiment(ROOT / "params.yaml", given.set)
    given.out.mkdir(parents=True, exist_ok=True)
    given.root.mkdir(parents=True, exist_ok=True)
    restore(given.kept, given.root)
    if given.unpack and not (given.root / ".unpacked").exists():
        with tarfile.open(given.unpack) as tar:
            extract(tar, given.root)
        (given.root / ".unpacked").touch()
    with (given.out / "slice.log").open("a") as log:
        part = Slice(given.root, ends, given.device, log)
        code = part.run(experiment)
        results = Paths(results=given.root / "results").experiment(experiment.preset).folder
        if results.is_dir():
            pack(results, given.out / f"{experiment.preset}.tar.xz")
        leave(given.root, given.out, part_bytes=int(given.part_mb * 1e6), parts=given.parts, say=part)
    return code


def merge(archive: Path, into: Path) -> str:
    """Add the finished runs of one archive to the one of the same name in `into`."""
    with tempfile.TemporaryDirectory() as temporary:
        names = pack(unpack(archive, Path(temporary)).folder, into / archive.name)
    return f"{into / archive.name}: {', '.join(names)}"


if __name__ == "__main__":
    sys.exit(main())
