"""The whole pipeline in a copy of the project: what it makes, what a change makes again, and how it resumes."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import time
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests import tiny
from tests.project import BIN, ROOT, Jobs, Project


@pytest.fixture
def fresh(tmp_path: Path) -> Project:
    return Project.create(tmp_path / "project")


# --- without running a job ------------------------------------------------------------------------------------


def test_a_wrong_config_is_refused_before_any_job(fresh: Project) -> None:
    code, output = fresh.snakemake("-n", "all", "--config", "betta=6")
    assert code != 0
    assert "dynat: config: params.yaml or the command line: unknown key 'betta': did you mean 'beta'?" in output
    assert "Traceback" not in output and "Exception" not in output


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
        expected["sanity", name] = expected["metrics", name] = 1
    assert jobs == expected


NAMES = ["dynat", "dynat-kl", "dynat-kl.inner", "dynat_2", "d.nat", "a.t", "at", "seed0", "none", "1"]


def test_similar_names_and_names_like_regular_expressions(fresh: Project) -> None:
    """A dot is no wildcard, and a name that starts with another one is not confused with it."""
    rows = "".join(f'  "{name}": {{method: at, labels: "{"dynamic" if "d" in name else "true"}"}}\n' for name in NAMES)
    (fresh.folder / "config/presets/tiny.yaml").write_text(
        re.sub(r"runs:\n(  .*\n)+", f"runs:\n{rows}", tiny.PRESET).replace("seeds: [0]", "seeds: [0, 10]")
    )
    jobs = fresh.would_run("all")
    for name in NAMES:
        rule, other = ("training_with_guide", "training") if "d" in name else ("training", "training_with_guide")
        assert (jobs[rule, name], jobs[other, name], jobs["attack", name], jobs["metrics", name]) == (2, 0, 2, 1), name


def test_a_single_result_can_be_requested(fresh: Project) -> None:
    jobs = fresh.would_run("results/tiny/dynat/seed7/guide.safetensors")
    assert jobs == {("data", ""): 1, ("training_with_guide", "dynat"): 1}


def test_a_checkpoint_is_imported_instead_of_trained(fresh: Project) -> None:
    (fresh.folder / "theirs.pt").touch()
    jobs = fresh.would_run("all", "--config", "checkpoints={theirs: {file: theirs.pt, arch: small}}", "select=[at]")
    assert jobs["import_checkpoint", "theirs"] == jobs["training", "at"] == 1 and not jobs["training", "theirs"]
    assert (jobs["attack", "theirs"], jobs["sanity", "theirs"], jobs["metrics", "theirs"]) == (2, 1, 1)


def with_extra_images(project: Project) -> Path:
    file = project.folder / "more.npz"
    images, labels = tiny.images(8, seed=9), np.arange(40) % 10
    np.savez(file, image=images.images.permute(0, 2, 3, 1).numpy(), label=labels)
    project.params("preset: tiny\ndataset: {extra: {path: more.npz, ratio: 0.5}}\nruns: {at: {extra: {ratio: 0}}}\n")
    return file


def test_extra_images_are_checked_for_the_runs_that_use_them(fresh: Project) -> None:
    file = with_extra_images(fresh)
    trained = [f"results/tiny/{run}/seed0/target.safetensors" for run in ("at", "dynat")]
    assert fresh.would_run(trained[0]) == {("data", ""): 1, ("training", "at"): 1}
    assert fresh.would_run(trained[1]) == {
        ("data", ""): 1, ("extra_images", ""): 1, ("training_with_guide", "dynat"): 1
    }  # fmt: skip
    assert fresh.would_run("images") == {("data", ""): 1, ("extra_images", ""): 1, ("images", ""): 1}, "as DVC does"
    file.unlink()
    code, output = fresh.snakemake("-n", "train")
    assert code != 0 and "dynat: more.npz: no such file of extra images" in output


def test_corrupted_images_are_evaluated_where_the_config_says_so(fresh: Project) -> None:
    jobs = fresh.would_run("evaluate", "--config", "corruptions={kinds: [contrast]}")
    assert jobs["corruptions", "at"] == jobs["corruptions", "dynat"] == 1
    code, output = fresh.snakemake("-n", "all", "--config", "corruptions={path: CIFAR-10-C}")
    assert code != 0 and "dynat: CIFAR-10-C/labels.npy: no such file of corrupted images" in output


@pytest.mark.slow
def test_what_trains_again_after_a_change_of_extra_images(fresh: Project) -> None:
    file = with_extra_images(fresh)
    code, output = fresh.snakemake("train")
    assert code == 0, output
    assert fresh.would_run("train") == {}
    file.touch()
    fresh.params((fresh.folder / "params.yaml").read_text().replace("0.5", "0.25"))
    jobs = fresh.would_run("train")
    assert jobs["training_with_guide", "dynat"] == 1 and not jobs["training", "at"] and not jobs["data", ""]


def test_the_old_name_of_select_is_accepted_with_a_notice(fresh: Project) -> None:
    code, output = fresh.snakemake("-n", "all", "--config", "methods=[at]")
    assert (
        code == 0
        and "dynat: params.yaml or the command line: methods: is now select: (the old name still works)" in output
    )


@pytest.mark.parametrize("name", ["x$(touch pwned)", "y;touch pwned", "two words", "../../outside"])
def test_a_hostile_name_of_a_preset_runs_nothing(fresh: Project, name: str) -> None:
    if "/" not in name:
        (fresh.folder / f"config/presets/{name}.yaml").write_text(tiny.PRESET)
    fresh.params(json.dumps({"preset": name}))
    code, output = fresh.snakemake("all")
    assert code != 0 and "becomes the name of a folder or file" in output and "Traceback" not in output
    assert not list(fresh.folder.rglob("pwned")) and not (fresh.folder / "results").exists()


@pytest.mark.parametrize("name", ["x$(touch pwned)", "y;touch pwned", "two words", "../../outside"])
def test_a_hostile_name_in_a_target_matches_no_rule(fresh: Project, name: str) -> None:
    targets = [
        f"results/tiny/{name}/seed0/target.safetensors",
        f"results/tiny/at/seed{name}/target.safetensors",
        f"results/tiny/at/outcomes/{name}.csv",
        f"results/{name}/at/metrics.json",
        f"data/{name}/images.safetensors",
    ]
    for target in targets:
        code, output = fresh.snakemake("-n", target)
        assert code != 0 and "MissingRuleException" in output, target
    assert not list(fresh.folder.rglob("pwned"))


def test_values_with_config_are_those_with_set(fresh: Project) -> None:
    """null is null, an empty params.yaml is one without a value, and braces in a path are no wildcard."""
    code, output = fresh.snakemake("-n", "all", "--config", "select=null", "seeds=null")
    assert code == 0, output
    (fresh.folder / "own{x}/train/a").mkdir(parents=True)
    braces = "dataset={path: 'own{x}', name: own, source: folder, size: 8}"
    code, output = fresh.snakemake("-n", "all", "--config", braces)
    assert "Wildcard" not in output and "Traceback" not in output, output
    theirs = "checkpoints={theirs: {file: 'a{b}.pt', arch: small, mean: null}}"
    code, output = fresh.snakemake("-n", "all", "--config", theirs)
    assert code == 2 and "Snakemake reads braces as a wildcard: rename it" in output
    fresh.params("")
    code, output = fresh.snakemake("-n", "all")
    assert code == 0, output


def test_snakemakes_linter_has_only_accepted_complaints(fresh: Project) -> None:
    """The environment is one for all rules: requirements.lock."""
    _, output = fresh.snakemake("--lint")
    complaints = re.findall(r"^    \* (.*)$", output, re.MULTILINE)
    assert set(complaints) <= {"Specify a conda environment or container for each rule.:"}, output


# --- the whole pipeline ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The pipeline run once, in a folder with a space in its name. Tests read it or copy it."""
    project = Project.create(tmp_path_factory.mktemp("pipeline") / "my project")
    code, output = project.snakemake("all")
    assert code == 0, output
    return project


@pytest.fixture
def project(finished: Project, tmp_path: Path) -> Project:
    return finished.copied_to(tmp_path / "another project")


@pytest.mark.slow
def test_every_result_is_made(finished: Project) -> None:
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
    states = finished.folder / "state"
    assert {folder.name for folder in states.iterdir()} == {"trainings", "evaluations"}
    assert not list((states / "trainings").iterdir()), "a finished training needs no state"


@pytest.mark.slow
def test_the_report_of_snakemake_has_a_caption_for_every_table_and_figure(project: Project) -> None:
    code, output = project.snakemake("--report", "snakemake-report.html")
    assert code == 0, output
    page = (project.folder / "snakemake-report.html").read_text()
    for text in ("Clean and robust accuracy of every run", "Clean accuracy against robust accuracy", "Dynamic Label"):
        assert text in page


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
def test_a_change_runs_only_what_depends_on_it(project: Project) -> None:
    """Beta: the runs that read it. A method: its runs. The report's code: the report. A seed: itself."""
    after_dynat = {("attack", "dynat"): 2, ("sanity", "dynat"): 1, ("metrics", "dynat"): 1}
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
    assert more["training", "at"] == more["training_with_guide", "dynat"] == 1, "seed 0 exists"


@pytest.mark.slow
def test_a_removed_seed_and_attack_no_longer_count(project: Project) -> None:
    """Their files stay on disk; no table may count them."""
    before = project.results("at", "metrics.json").read_text()
    project.params("preset: tiny\nselect: [at]\nseeds: [0, 1]\nattacks: {fgsm: {}}\n")
    code, output = project.snakemake("all")
    assert code == 0, output
    more = json.loads(project.results("at", "metrics.json").read_text())
    assert more["seeds"] == [0, 1] and set(more["attacks"]) == {"clean", "pgd-5", "fgsm"}
    project.params("preset: tiny\nselect: [at]\n")
    code, output = project.snakemake("all")
    assert code == 0, output
    after = json.loads(project.results("at", "metrics.json").read_text())
    assert project.results("at", "outcomes", "fgsm.csv").exists() and project.results("at", "seed1").exists()
    assert after["seeds"] == [0] and set(after["attacks"]) == {"clean", "pgd-5"}
    accuracy = {name: attack["accuracy"] for name, attack in after["attacks"].items()}
    assert accuracy == {name: attack["accuracy"] for name, attack in json.loads(before)["attacks"].items()}


@pytest.mark.slow
def test_a_failed_training_shows_its_reason(project: Project) -> None:
    code, output = project.snakemake("all", "--config", "training={schedule: {lr: 1.0e+6}}", "select=[at]")
    assert code != 0
    assert "dynat: the loss became non-finite in epoch" in output


# --- damaged data ---------------------------------------------------------------------------------------------


def flip_a_pixel(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1000] ^= 1
    file.write_bytes(content)


@pytest.mark.slow
def test_damaged_images_are_refused_before_any_job_and_cost_nothing(project: Project) -> None:
    """Also where a file is too large for Snakemake's checksums, as that of CIFAR is, so that its date decides."""
    targets = [project.results(run, "seed0", "target.safetensors") for run in ("at", "dynat")]
    before = [(file.read_bytes(), file.stat().st_mtime_ns) for file in targets]
    images = project.folder / "data/digits/images.safetensors"
    project.params("preset: tiny\nbeta: 2.5\n")  # dynat would be trained again, and fail
    flip_a_pixel(images)
    for target in ("all", "data"):
        code, output = project.snakemake(target)
        assert code != 0 and "Traceback" not in output
        assert "dynat: data/digits/images.safetensors: damaged or cut short" in output
        assert (
            "make it again: dynat data (with the settings of this experiment), which keeps finished results" in output
        )
    project.params("preset: tiny\nbeta: 1.0\n")
    code, output = project.call(BIN / "dynat", "data")
    assert code == 0, output
    for words in ([], ["--max-checksum-file-size", "1"]):
        code, output = project.snakemake("all", *words)
        assert code == 0 and "Nothing to be done" in output, output
    assert [(file.read_bytes(), file.stat().st_mtime_ns) for file in targets] == before


# --- killed ---------------------------------------------------------------------------------------------------


TARGET = "results/tiny/dynat/seed0/target.safetensors"


def start(project: Project) -> subprocess.Popen[bytes]:
    log = (project.folder / "output.txt").open("wb")
    return subprocess.Popen(
        [BIN / "snakemake", "--cores", "1", TARGET],
        cwd=project.folder,
        env=project.environment,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def wait_for_epoch(project: Project, epoch: int, process: subprocess.Popen[bytes]) -> None:
    log = project.folder / "logs/train/tiny/dynat-seed0.log"
    for _ in range(600):
        if log.exists() and f"epoch {epoch}/30" in log.read_text():
            return
        assert process.poll() is None, (project.folder / "output.txt").read_text()
        time.sleep(0.1)
    raise AssertionError(f"epoch {epoch} was never reached")


def trainings(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return [
        child for child in psutil.Process(process.pid).children(recursive=True) if {"dynat", "training"} <= words(child)
    ]


def words(process: psutil.Process) -> set[str]:
    return {Path(word).name for word in process.cmdline()}


@pytest.mark.slow
def test_a_killed_training_resumes_and_ends_with_the_same_bits(project: Project, tmp_path: Path) -> None:
    """First the training alone is killed (out of memory, say), then Snakemake and all its jobs (a power cut)."""
    project.params("preset: tiny\nbeta: 1.0\ntraining: {epochs: 30}\n")
    whole = project.copied_to(tmp_path / "whole")
    assert whole.snakemake(TARGET)[0] == 0

    process = start(project)
    try:
        wait_for_epoch(project, 2, process)
        (training,) = [child for child in trainings(process) if "bash" not in words(child)]
        training.kill()
        assert process.wait(60) != 0
        assert not (project.folder / TARGET).exists(), "Snakemake removes the outputs of a failed job"

        process = start(project)
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

    code, output = project.snakemake(TARGET)
    assert code != 0 and "unlock" in output, "a lock is left, and Snakemake says how to remove it"
    assert project.snakemake("--unlock")[0] == 0
    code, output = project.snakemake(TARGET)
    assert code == 0, output
    log = (project.folder / "logs/train/tiny/dynat-seed0.log").read_text()
    assert "resuming from state/" in log and "epoch 2/30" not in log and "epoch 6/30" not in log
    assert (project.folder / TARGET).read_bytes() == (whole.folder / TARGET).read_bytes()
