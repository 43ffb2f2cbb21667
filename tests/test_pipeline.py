"""The DAG as a whole, in a copy of the project: what it makes, what it makes again, and what it does not."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from tests import tiny

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent

Jobs = Counter[tuple[str, str]]


class Project:
    """A copy of what the pipeline is made of, the package too, so that nobody's edits disturb it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def made_in(cls, folder: Path) -> Project:
        for part in ("workflow", "config", "dynat"):
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        (folder / "config/presets/tiny.yaml").write_text(tiny.PRESET)
        project = cls(folder)
        project.params("preset: tiny\nbeta: 1.0\n")
        return project

    def copied_to(self, folder: Path) -> Project:
        shutil.copytree(self.folder, folder)
        return Project(folder)

    def params(self, text: str) -> None:
        (self.folder / "params.yaml").write_text(text)

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(self.folder), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}

    def snakemake(self, *words: str) -> tuple[int, str]:
        """Exit code and all that was said."""
        done = subprocess.run(
            [BIN / "snakemake", "--cores", "1", *words],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout

    def would_run(self, *words: str) -> Jobs:
        """The jobs of a dry run, by rule and run."""
        code, said = self.snakemake("-n", *words)
        assert code == 0, said
        found: Jobs = Counter()
        for block in re.split(r"\n(?=(?:local)?rule )", said)[1:]:
            rule = re.match(r"(?:local)?rule (\w+):", block)
            run = re.search(r"wildcards: (?:.*, )?run=([^,\n]+)", block)
            assert rule
            found[rule[1], run[1] if run else ""] += 1
        return found

    def results(self, *parts: str) -> Path:
        return self.folder.joinpath("results", "tiny", *parts)


@pytest.fixture
def fresh(tmp_path: Path) -> Project:
    return Project.made_in(tmp_path / "project")


# --- without running a job ------------------------------------------------------------------------------------


def test_a_wrong_config_is_a_sentence_before_anything_runs(fresh: Project) -> None:
    code, said = fresh.snakemake("-n", "all", "--config", "betta=6")
    assert code != 0
    assert "dynat: config: params.yaml: unknown key 'betta': did you mean 'beta'?" in said
    assert "Traceback" not in said and "Exception" not in said


def test_the_jobs_of_the_shipped_preset(fresh: Project) -> None:
    from dynat.config import load

    fresh.params((ROOT / "params.yaml").read_text())
    digits = load({"preset": "digits"}, presets=ROOT / "config/presets")
    jobs = fresh.would_run("all", "--config", "preset=digits")
    expected: Jobs = Counter(
        dict.fromkeys([(rule, "") for rule in ("data", "curves", "transfer", "accuracy", "report", "all")], 1)
    )
    for name, run in digits.runs.items():
        expected["training_with_guide" if run.guide else "training", name] = len(digits.seeds[name])
        expected["attack", name] = len(digits.attacks)
        expected["probe", name] = expected["metrics", name] = 1
    assert jobs == expected


ODD = ["dynat", "dynat-kl", "dynat-kl.inner", "dynat_2", "d.nat", "a.t", "at", "seed0", "none", "1"]


def test_names_that_resemble_each_other_or_a_regular_expression(fresh: Project) -> None:
    """A dot is no wildcard, and a name that begins with another's is not taken for it."""
    rows = "".join(f'  "{name}": {{method: at, labels: "{"dynamic" if "d" in name else "true"}"}}\n' for name in ODD)
    (fresh.folder / "config/presets/tiny.yaml").write_text(
        re.sub(r"runs:\n(  .*\n)+", f"runs:\n{rows}", tiny.PRESET).replace("seeds: [0]", "seeds: [0, 10]")
    )
    jobs = fresh.would_run("all")
    for name in ODD:
        rule, other = ("training_with_guide", "training") if "d" in name else ("training", "training_with_guide")
        assert (jobs[rule, name], jobs[other, name], jobs["attack", name], jobs["metrics", name]) == (2, 0, 2, 1), name


def test_a_single_result_can_be_asked_for(fresh: Project) -> None:
    jobs = fresh.would_run("results/tiny/dynat/seed7/guide.safetensors")
    assert jobs == {("data", ""): 1, ("training_with_guide", "dynat"): 1}


def test_snakemakes_linter_finds_no_more_than_we_accept(fresh: Project) -> None:
    """The environment is one for all rules: requirements.lock."""
    _, said = fresh.snakemake("--lint")
    found = re.findall(r"^    \* (.*)$", said, re.MULTILINE)
    assert set(found) <= {"Specify a conda environment or container for each rule.:"}, said


# --- the whole of it ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Everything run once, in a folder with a space in its name. To be read only, or copied."""
    project = Project.made_in(tmp_path_factory.mktemp("pipeline") / "my project")
    code, said = project.snakemake("all")
    assert code == 0, said
    return project


@pytest.fixture
def project(finished: Project, tmp_path: Path) -> Project:
    return finished.copied_to(tmp_path / "another project")


@pytest.mark.slow
def test_everything_is_there(finished: Project) -> None:
    for run, guided in (("at", False), ("dynat", True)):
        assert finished.results(run, "seed0", "target.safetensors").stat().st_size > 10_000
        assert finished.results(run, "seed0", "guide.safetensors").exists() == guided
        metrics = json.loads(finished.results(run, "metrics.json").read_text())
        assert set(metrics["attacks"]) == {"clean", "pgd-5"} and metrics["seeds"] == [0]
        for attack in ("clean", "pgd-5"):
            with finished.results(run, "outcomes", f"{attack}.csv").open() as file:
                right = [int(row["correct"]) for row in csv.DictReader(file)]
            assert metrics["attacks"][attack]["accuracy"] == pytest.approx(sum(right) / len(right))
    assert "<html" in finished.results("report.html").read_text()
    assert finished.results("tables", "main.tex").stat().st_size > 0
    states = finished.folder / "runs"
    assert [folder.name for folder in states.iterdir()] == ["exams"], "what is trained needs no state"


@pytest.mark.slow
def test_a_second_run_has_nothing_to_do_even_if_every_date_changed(project: Project) -> None:
    assert "Nothing to be done" in project.snakemake("all")[1]
    for part in ("workflow", "config", "dynat", "data", "results", "params.yaml"):
        path = project.folder / part
        for file in path.rglob("*") if path.is_dir() else [path]:
            if file.is_file():
                file.touch()
    assert "Nothing to be done" in project.snakemake("all")[1]


@pytest.mark.slow
def test_what_a_change_makes_anew(project: Project) -> None:
    """Beta: the runs that read it. A method: its runs. The report's code: the report. A seed: itself."""
    after_dynat = {("attack", "dynat"): 2, ("probe", "dynat"): 1, ("metrics", "dynat"): 1}
    after_dynat |= dict.fromkeys([(rule, "") for rule in ("curves", "transfer", "accuracy", "report", "all")], 1)
    project.params("preset: tiny\nbeta: 2.5\n")
    assert project.would_run("all") == {("training_with_guide", "dynat"): 1, **after_dynat}
    project.params("preset: tiny\nbeta: 1\n")
    assert project.would_run("all") == {}, "1 is 1.0"

    def edited(file: str) -> Jobs:
        path = project.folder / "dynat" / file
        before = path.read_text()
        path.write_text(before + "\n# edited\n")
        jobs = project.would_run("all")
        path.write_text(before)
        return jobs

    assert edited("methods/lbgat.py") == {}, "no run of this preset uses it"
    assert edited("report/page.py") == {("report", ""): 1, ("all", ""): 1}
    attacked = edited("attacks/first_order.py")
    assert attacked["attack", "at"] == attacked["attack", "dynat"] == 2
    assert not attacked["training", "at"] and not attacked["training_with_guide", "dynat"]
    at = edited("methods/at.py")
    assert at["training", "at"] == at["training_with_guide", "dynat"] == 1 and not at["data", ""]
    more = project.would_run("all", "--config", "seeds=[0,1]")
    assert more["training", "at"] == more["training_with_guide", "dynat"] == 1, "seed 0 is there"


@pytest.mark.slow
def test_a_seed_and_an_attack_that_were_dropped_leave_the_numbers(project: Project) -> None:
    """Their files stay on disk; no table may count them."""
    before = project.results("at", "metrics.json").read_text()
    project.params("preset: tiny\nmethods: [at]\nseeds: [0, 1]\nattacks: {fgsm: {}}\n")
    code, said = project.snakemake("all")
    assert code == 0, said
    more = json.loads(project.results("at", "metrics.json").read_text())
    assert more["seeds"] == [0, 1] and set(more["attacks"]) == {"clean", "pgd-5", "fgsm"}
    project.params("preset: tiny\nmethods: [at]\n")
    code, said = project.snakemake("all")
    assert code == 0, said
    after = json.loads(project.results("at", "metrics.json").read_text())
    assert project.results("at", "outcomes", "fgsm.csv").exists() and project.results("at", "seed1").exists()
    assert after["seeds"] == [0] and set(after["attacks"]) == {"clean", "pgd-5"}
    accuracy = {name: attack["accuracy"] for name, attack in after["attacks"].items()}
    assert accuracy == {name: attack["accuracy"] for name, attack in json.loads(before)["attacks"].items()}


@pytest.mark.slow
def test_a_training_that_fails_shows_its_reason(project: Project) -> None:
    code, said = project.snakemake("all", "--config", "training={schedule: {lr: 1.0e+30}}", "methods=[at]")
    assert code != 0
    assert "dynat: the loss is not finite in epoch" in said


# --- killed ---------------------------------------------------------------------------------------------------


TARGET = "results/tiny/dynat/seed0/target.safetensors"


def begin(project: Project) -> subprocess.Popen[bytes]:
    output = (project.folder / "said.txt").open("wb")
    return subprocess.Popen(
        [BIN / "snakemake", "--cores", "1", TARGET],
        cwd=project.folder,
        env=project.environment,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def wait_for_epoch(project: Project, epoch: int, process: subprocess.Popen[bytes]) -> None:
    log = project.folder / "logs/train/tiny/dynat-seed0.log"
    for _ in range(600):
        if log.exists() and f"epoch {epoch}/30" in log.read_text():
            return
        assert process.poll() is None, (project.folder / "said.txt").read_text()
        time.sleep(0.1)
    raise AssertionError(f"epoch {epoch} never came")


def trainings(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return [
        child for child in psutil.Process(process.pid).children(recursive=True) if {"dynat", "train"} <= words(child)
    ]


def words(process: psutil.Process) -> set[str]:
    return {Path(word).name for word in process.cmdline()}


@pytest.mark.slow
def test_what_is_killed_goes_on_and_ends_with_the_same_bits(project: Project, tmp_path: Path) -> None:
    """First the training alone is killed (out of memory, say), then Snakemake and all its jobs (a power cut)."""
    project.params("preset: tiny\nbeta: 1.0\ntraining: {epochs: 30}\n")
    whole = project.copied_to(tmp_path / "whole")
    assert whole.snakemake(TARGET)[0] == 0

    process = begin(project)
    try:
        wait_for_epoch(project, 2, process)
        (training,) = [child for child in trainings(process) if "bash" not in words(child)]
        training.kill()
        assert process.wait(60) != 0
        assert not (project.folder / TARGET).exists(), "the old result is gone, as the rule promises"

        process = begin(project)
        wait_for_epoch(project, 6, process)
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        for member in family:
            member.kill()
        process.wait(60)
    finally:
        if process.poll() is None:
            for member in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
                member.kill()
            process.wait(60)

    code, said = project.snakemake(TARGET)
    assert code != 0 and "unlock" in said, "a lock is left, and Snakemake says how to remove it"
    assert project.snakemake("--unlock")[0] == 0
    code, said = project.snakemake(TARGET)
    assert code == 0, said
    log = (project.folder / "logs/train/tiny/dynat-seed0.log").read_text()
    assert "going on from runs/" in log and "epoch 2/30" not in log and "epoch 6/30" not in log
    assert (project.folder / TARGET).read_bytes() == (whole.folder / TARGET).read_bytes()
