"""Kill trainings, evaluations and pipelines, flip bits, fill a disk; check that every result is as without all that.

make storm                    python -m tools.storm --seed 3 --pipelines 16

Works on a small project in a temporary folder (handwritten digits, a small network). First the pipeline runs without a
disturbance. Then each kind of disturbance is tried at moments and places drawn from the seed; the result has to be
equal, bit for bit, to the undisturbed one, or the damage has to be refused with a message. Prints a table in Markdown;
the exit code is 1 if anything failed. Starts no process that it does not end, and ends no others.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from dynat.results.paths import Paths
from tools.storm_project import ATTACK, PRESET, RUN, Project, dynat, kill, snakemake

FILES = Paths()
SEED = FILES.seed_files(PRESET, RUN, 0)
OUTCOME = FILES.outcome(PRESET, RUN, ATTACK)
METRICS = FILES.run_files(PRESET, RUN).metrics
TRAIN = dynat("train", RUN, "--device", "cpu", "--threads", "1")
EVALUATE = dynat("attack", RUN, ATTACK, "--device", "cpu", "--threads", "1")
COUNT = dynat("metrics", str(FILES.run(PRESET, RUN)))
PIPELINE = snakemake("all")
MADE = {
    TRAIN: (SEED.folder, FILES.state),
    EVALUATE: (OUTCOME, FILES.state),
    COUNT: (),
    PIPELINE: (FILES.results, FILES.state),
}
"""Commands, and what to delete so that they compute again."""


class TooLate(Exception):
    """The command had ended before it was to be disturbed: the try does not count."""


@dataclass
class Row:
    """A kind of disturbance in the table."""

    what: str
    tries: int = 0
    passed: int = 0
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)


class Storm:
    """All disturbances of one undisturbed project."""

    def __init__(self, reference: Project, folder: Path, random_: random.Random) -> None:
        self.reference, self.folder, self.random = reference, folder, random_
        self.seconds: dict[tuple[str, ...], float] = {}
        """How long each command takes without a disturbance."""
        self.rows: list[Row] = []
        self.copies = 0

    def measure(self) -> None:
        """Time every command that is killed."""
        for words in (TRAIN, EVALUATE, PIPELINE):
            copy = self.reference.copied_to(self.folder / "timed")
            forget(copy, words)
            began = time.monotonic()
            code, output = copy.call(*words)
            self.seconds[words] = time.monotonic() - began
            assert code == 0, output
            shutil.rmtree(copy.folder)

    def try_(self, what: str, count: int, once: Callable[[Project], str | None]) -> None:
        """Do `once` in `count` fresh copies of the finished project; it returns what went wrong, if anything did."""
        row = Row(what)
        while row.tries < count:
            self.copies += 1
            copy = self.reference.copied_to(self.folder / f"try{self.copies}")
            began = time.monotonic()
            try:
                failure = once(copy)
            except TooLate:
                continue
            finally:
                shutil.rmtree(copy.folder)
            row.seconds += time.monotonic() - began
            row.tries += 1
            row.passed += failure is None
            if failure is not None:
                row.failures.append(failure)
                print(f"FAILED: {what}: {failure}", file=sys.stderr, flush=True)
        if count:
            self.rows.append(row)
            print(f"{what}: {row.passed} of {row.tries} passed in {row.seconds:.0f} s", file=sys.stderr, flush=True)

    # --- kills -------------------------------------------------------------------------------------------------------

    def kill_training(self, project: Project) -> str | None:
        return self.end_early(project, TRAIN) or self.finish(project, TRAIN, SEED.target(), SEED.target("last"))

    def kill_evaluation(self, project: Project) -> str | None:
        return self.end_early(project, EVALUATE) or self.finish(project, EVALUATE, OUTCOME)

    def kill_pipeline(self, project: Project) -> str | None:
        if failure := self.end_early(project, PIPELINE):
            return failure
        project.snakemake("--unlock")
        code, output = project.snakemake("--rerun-incomplete", "all")
        if code:
            return f"not resumed: {output[-500:]}"
        here, there = (str(p.folder / FILES.results / PRESET) for p in (project, self.reference))
        code, output = project.dynat("diff", here, there)
        return f"other numbers: {output[-500:]}" if code else None

    def end_early(self, project: Project, words: tuple[str, ...]) -> str | None:
        """Start a command, and send SIGKILL or SIGTERM to its process group at a random moment before its end."""
        number = self.random.choice((signal.SIGKILL, signal.SIGTERM))
        moment = self.random.uniform(0.1, self.seconds[words])
        forget(project, words)
        process = project.start(*words)
        try:
            process.wait(moment)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, number)
        else:
            raise TooLate
        try:
            process.wait(project.limit)
        except subprocess.TimeoutExpired:
            kill(process)
            return f"does not end after {number.name} after {moment:.1f} s"
        output = project.output()
        return f"{number.name} after {moment:.1f} s: {output[-300:]}" if "Traceback" in output else None

    def finish(self, project: Project, words: tuple[str, ...], *results: Path) -> str | None:
        """Run a command to its end; its results have to be those of the undisturbed project."""
        code, output = project.call(*words)
        if code:
            return f"not resumed: {output[-500:]}"
        different = [str(file) for file in results if not self.equal(project, file)]
        return f"not equal: {', '.join(different)}" if different else None

    def equal(self, project: Project, file: Path) -> bool:
        return (project.folder / file).read_bytes() == (self.reference.folder / file).read_bytes()

    # --- damage ------------------------------------------------------------------------------------------------------

    def flip(self, file: Path) -> str:
        """Flip one random bit of a file; where."""
        content = bytearray(file.read_bytes())
        place, bit = self.random.randrange(len(content)), self.random.randrange(8)
        content[place] ^= 1 << bit
        file.write_bytes(content)
        return f"bit {bit} of byte {place} of {file.name}"

    def damage_state(self, project: Project) -> str | None:
        return self.damage_of_killed(project, TRAIN, "trainings/*/state.pt", (SEED.target(), SEED.target("last")))

    def damage_batch(self, project: Project) -> str | None:
        return self.damage_of_killed(project, EVALUATE, "evaluations/*/batch-00003.pt", (OUTCOME,))

    def damage_of_killed(
        self, project: Project, words: tuple[str, ...], pattern: str, results: tuple[Path, ...]
    ) -> str | None:
        """Kill a command when it has saved a file, damage that, and resume."""
        forget(project, words)
        process, deadline = project.start(*words), time.monotonic() + project.limit
        while not (found := list((project.folder / FILES.state).glob(pattern))):
            if process.poll() is not None or time.monotonic() > deadline:
                kill(process)
                return "saved nothing to damage"
            time.sleep(0.01)
        kill(process)
        where = self.flip(self.random.choice(found))
        failure = self.finish(project, words, *results)
        return failure and f"{where}: {failure}"

    def damage_file(self, file: Path, words: tuple[str, ...], result: Path) -> Callable[[Project], str | None]:
        """Damage a finished file: a command that reads it refuses it by name, or gives the undisturbed result."""

        def once(project: Project) -> str | None:
            where = self.flip(project.folder / file)
            forget(project, words)
            code, output = project.call(*words)
            if code:
                refused = "Traceback" not in output and str(file.parent) in output
                return None if refused else f"{where}: {output[-300:]}"
            return None if self.equal(project, result) else f"{where}: accepted in silence"

        return once

    def damage_metrics(self, project: Project) -> str | None:
        """Damaged metrics are refused by name, or only their layout changed; they never show another number."""
        where = self.flip(project.folder / METRICS)
        code, output = project.dynat(
            "diff", *(str(p.folder / FILES.results / PRESET) for p in (project, self.reference))
        )
        refused = code == 2 and METRICS.name in output and "Traceback" not in output
        return None if refused or code == 0 else f"{where}: exit code {code}: {output[-300:]}"

    # --- full disks --------------------------------------------------------------------------------------------------

    def fill_disk(self, words: tuple[str, ...], *results: Path) -> Callable[[Project], str | None]:
        """The disk of the states is full: an error that says so; with space again, the command gives its result."""

        def once(project: Project) -> str | None:
            forget(project, words)
            state = project.folder / "full"
            state.mkdir()
            options = ["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", str(state)]
            mounted = os.geteuid() == 0 and subprocess.run(options, capture_output=True, check=False).returncode == 0
            command = (*words, "--state", "full")
            try:
                limited = ["sh", "-c", f"ulimit -f 8; exec {shlex.join(command)}"]
                code, output = project.call(*(command if mounted else limited))
            finally:
                if mounted:
                    subprocess.run(["umount", str(state)], check=False)
            if code != 1 or "Traceback" in output or "full" not in output:
                return f"exit code {code}: {output[-300:]}"
            return self.finish(project, words, *results)

        return once


def forget(project: Project, words: tuple[str, ...]) -> None:
    """Delete what a command makes."""
    for made in MADE[words]:
        path = project.folder / made
        path.unlink() if path.is_file() else shutil.rmtree(path, ignore_errors=True)


def table(rows: list[Row], seed: int) -> str:
    lines = ["| disturbance | tries | passed | seconds |", "|---|---:|---:|---:|"]
    lines += [f"| {row.what} | {row.tries} | {row.passed} | {row.seconds:.0f} |" for row in rows]
    machine = f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"
    return "\n".join([*lines, "", f"Seed {seed}; {machine}."])


def storm(seed: int, counts: argparse.Namespace, folder: Path) -> list[Row]:
    reference = Project.create(folder / "undisturbed")
    reference.run_undisturbed()
    print(f"undisturbed pipeline finished in {folder}", file=sys.stderr, flush=True)
    here = Storm(reference, folder, random.Random(seed))
    if counts.trainings + counts.evaluations + counts.pipelines:
        here.measure()
    here.try_("a training is killed and resumed", counts.trainings, here.kill_training)
    here.try_("an evaluation is killed and resumed", counts.evaluations, here.kill_evaluation)
    here.try_("a pipeline is killed and resumed", counts.pipelines, here.kill_pipeline)
    here.try_("a bit flips in the state of a training", counts.flips, here.damage_state)
    here.try_("a bit flips in a finished batch of an evaluation", counts.flips, here.damage_batch)
    for what, file, words, result in (
        ("images", FILES.dataset_images(PRESET), TRAIN, SEED.target()),
        ("weights", SEED.target(), EVALUATE, OUTCOME),
        ("outcomes", OUTCOME, COUNT, METRICS),
        ("the history", SEED.history, COUNT, METRICS),
        ("the record of a training", SEED.config, COUNT, METRICS),
        ("the record of outcomes", FILES.run_files(PRESET, RUN).outcome_record(ATTACK), COUNT, METRICS),
    ):
        here.try_(f"a bit flips in {what}", counts.flips, here.damage_file(file, words, result))
    here.try_("a bit flips in the metrics", counts.flips, here.damage_metrics)
    here.try_("the disk is full: training", counts.disks, here.fill_disk(TRAIN, SEED.target()))
    here.try_("the disk is full: evaluation", counts.disks, here.fill_disk(EVALUATE, OUTCOME))
    return here.rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    counts = {"trainings": 10, "evaluations": 10, "pipelines": 4, "flips": 8, "disks": 1}
    for name, count in counts.items():
        parser.add_argument(f"--{name}", type=int, default=count, help=f"tries (default: {count})")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dynat-storm-") as folder:
        rows = storm(options.seed, options, Path(folder))
    print(table(rows, options.seed))
    sys.exit(any(row.failures for row in rows))


if __name__ == "__main__":
    main()
