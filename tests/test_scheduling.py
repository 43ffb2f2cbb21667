"""Where jobs run and beside which others: turns on a GPU, and what a cluster is asked for."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from dynat.jobs import gpus, ranks
from dynat.jobs.terminal import choose_device
from tests.test_pipeline import ROOT, Project

PROFILES = ROOT / "workflow/profiles"
HEAVY = {"training", "training_with_guide", "attack", "probe", "transfer"}
LIGHT = {"data", "curves", "metrics", "accuracy", "report", "all"}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project.made_in(tmp_path / "project")


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that seems to have a GPU: it has an nvidia-smi."""
    program = tmp_path / "bin/nvidia-smi"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 'GPU 0: pretended'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{Path(sys.executable).parent}:/usr/bin:/bin")


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of the PATH but what the jobs need."""
    if shutil.which("nvidia-smi", path="/usr/bin:/bin"):
        pytest.skip("this machine has a GPU")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:/usr/bin:/bin")


def resources(said: str) -> dict[str, dict[str, str]]:
    """What each rule of a dry run asks for."""
    found = {}
    for block in re.split(r"\n(?=(?:local)?rule )", said)[1:]:
        rule = re.match(r"(?:local)?rule (\w+):", block)
        asked = re.search(r"resources: (.*)", block)
        assert rule
        found[rule[1]] = dict(part.split("=", 1) for part in asked[1].split(", ") if "=" in part) if asked else {}
    return found


def asked_for(project: Project, *words: str) -> dict[str, dict[str, str]]:
    code, said = project.snakemake("-n", "all", *words)
    assert code == 0, said
    return resources(said)


# --- one machine --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("gpu")
def test_with_a_gpu_only_trainings_and_attacks_want_it(project: Project) -> None:
    asked = asked_for(project)
    assert set(asked) == HEAVY | LIGHT
    assert {rule for rule, values in asked.items() if values.get("gpu") == "1"} == HEAVY


@pytest.mark.usefixtures("no_gpu")
def test_without_a_gpu_nobody_waits_for_one(project: Project) -> None:
    assert not [rule for rule, values in asked_for(project).items() if values.get("gpu", "0") != "0"]


def test_by_default_there_is_one_gpu_to_take_turns_on() -> None:
    profile = yaml.safe_load((PROFILES / "default/config.yaml").read_text())
    assert profile["resources"] == {"gpu": 1} and profile["cores"] == "all"


def most_at_once(said: str) -> tuple[int, int]:
    """The most jobs with the GPU that ran at one time, and the most light jobs beside one of them."""
    running: dict[str, str] = {}
    heavy = beside = 0
    rule = ""
    for line in said.splitlines():
        if begun := re.match(r"(?:local)?rule (\w+):", line):
            rule = begun[1]
        elif number := re.match(r"    jobid: (\d+)", line):
            running[number[1]] = rule
        elif finished := re.match(r"Finished jobid: (\d+)", line):
            running.pop(finished[1], None)
        now = [rule in HEAVY for rule in running.values()]
        heavy = max(heavy, sum(now))
        beside = max(beside, len(now) - sum(now) if any(now) else 0)
    return heavy, beside


def test_most_at_once_is_counted_from_what_snakemake_says() -> None:
    said = "rule attack:\n    jobid: 1\nlocalrule curves:\n    jobid: 2\nFinished jobid: 1 (Rule: attack)\n"
    assert most_at_once(said) == (1, 1)
    assert most_at_once(said + "rule attack:\n    jobid: 3\nrule training:\n    jobid: 4\n") == (2, 1)


@pytest.mark.slow
@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("gpus", [1, 2])
def test_jobs_take_turns_on_the_gpu_and_light_jobs_run_beside_them(project: Project, gpus: int) -> None:
    """Two independent trainings, four cores; `--resources gpu=2` lets two share, or use two GPUs."""
    more = ["--resources", f"gpu={gpus}"] if gpus > 1 else []
    code, said = project.snakemake("all", "--cores", "4", *more)
    assert code == 0, said
    heavy, beside = most_at_once(said)
    assert heavy == gpus
    assert beside >= 1, "the curves are drawn while the attacks run"


# --- a cluster ----------------------------------------------------------------------------------------------------

with_plugin = pytest.mark.skipif(
    importlib.util.find_spec("snakemake_executor_plugin_slurm") is None, reason="needs the extra: slurm"
)


def test_the_profile_for_slurm_keeps_what_the_default_says_of_files() -> None:
    """It takes the default's place."""
    default, slurm = (yaml.safe_load((PROFILES / name / "config.yaml").read_text()) for name in ("default", "slurm"))
    for key in set(default) - {"cores", "resources"}:
        assert slurm[key] == default[key], key
    assert slurm["executor"] == "slurm" and slurm["retries"] >= 1
    assert "resources" not in slurm, "how many GPUs there are is the cluster's business"


@with_plugin
@pytest.mark.usefixtures("no_gpu")
def test_a_cluster_is_asked_for_gpus_even_from_a_login_node_without(project: Project) -> None:
    asked = asked_for(project, "--workflow-profile", "slurm")
    for rule in HEAVY:
        assert asked[rule]["gpu"] == "1"
        assert int(asked[rule]["mem_mb"]) >= 8000 and int(asked[rule]["runtime"]) >= 360
    assert not [rule for rule in LIGHT if asked[rule].get("gpu", "0") != "0"]


def test_light_rules_are_no_jobs_of_a_cluster() -> None:
    files = [*(ROOT / "workflow/rules").glob("*.smk")]
    rules = [block for file in files for block in re.split(r"^(?=rule )", file.read_text(), flags=re.MULTILINE)[1:]]
    local = {re.match(r"rule (\w+)", block)[1]: "localrule: True" in block for block in rules}  # type: ignore[index]
    assert set(local) >= LIGHT - {"all"}
    assert {rule for rule in local if not local[rule]} == HEAVY - {"training_with_guide"}, "which is a copy of training"


@with_plugin
def test_a_cluster_without_gpus_can_be_used(project: Project) -> None:
    """As the profile says it."""
    said = re.search(r"--set-resources ((?:\w+:gpu=0 ?)+)", (PROFILES / "slurm/config.yaml").read_text())
    assert said
    asked = asked_for(project, "--workflow-profile", "slurm", "--set-resources", *said[1].split())
    assert not [rule for rule, values in asked.items() if values.get("gpu", "0") != "0"]


@pytest.mark.slow
@with_plugin
@pytest.mark.skipif(not shutil.which("slurmctld", path="/usr/sbin:/usr/bin"), reason="needs Slurm's programs")
def test_through_a_real_slurm_a_cancelled_training_goes_on() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "tools/slurm_check.py", "--only", "survives", "--epochs", "15"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


APPTAINER = """#!/bin/sh
[ "$1" = --version ] && echo "apptainer version 1.3.4" && exit
for command; do :; done
echo "$*" >> {folder}/called
PATH={folder}/image:/usr/bin:/bin exec sh -c "$command"
"""


@pytest.mark.slow
def test_in_an_image_the_jobs_use_the_images_environment(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pretended apptainer, whose image has a `dynat` of its own; the code is still that of this folder."""
    (tmp_path / "image").mkdir()
    programs = {
        "apptainer": APPTAINER.format(folder=tmp_path),
        "image/dynat": f'#!/bin/sh\necho $PYTHONPATH > {tmp_path}/used\nexec {sys.executable} -m dynat "$@"\n',
    }
    for name, text in programs.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "my.sif").touch()
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("DYNAT_IMAGE", str(tmp_path / "my.sif"))
    code, said = project.snakemake("data/digits/info.json", "--sdm", "apptainer")
    assert code == 0, said
    assert f"{tmp_path}/my.sif" in (tmp_path / "called").read_text()
    assert (tmp_path / "used").read_text().startswith(f"{project.folder}:")


# --- several GPUs ---------------------------------------------------------------------------------------------


@pytest.fixture
def four_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """A machine that seems to have four; each call is another job's, until that job's locks are given back."""
    jobs: list[dict[int, int | None]] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: SimpleNamespace(uuid=f"card-{number}"))
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))

    def job(count: int = 1, *, again: bool = False, ended: int | None = None) -> list[int]:
        if ended is not None:
            for file in jobs[ended].values():
                os.close(file or 0)
        if not again:
            jobs.append({})
        monkeypatch.setattr(gpus, "_held", jobs[-1])
        return gpus.take(count)

    return job


def test_jobs_side_by_side_take_a_gpu_each(four_gpus: Callable[..., list[int]]) -> None:
    assert four_gpus() == [0]
    assert four_gpus(2) == [1, 2]
    assert four_gpus(2, again=True) == [1, 2], "a job keeps what it has"
    assert four_gpus() == [3]
    assert four_gpus(ended=0) == [0], "what a job held is free when it has ended"


def test_with_no_gpu_free_a_job_shares_one(four_gpus: Callable[..., list[int]]) -> None:
    assert sorted(four_gpus(4)) == [0, 1, 2, 3]
    shared = four_gpus(2)
    assert gpus._held == {}, "nothing was free"
    assert len(set(shared)) == 2 and set(shared) <= set(range(4))


def test_one_gpu_is_shared(four_gpus: Callable[..., list[int]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert [four_gpus(), four_gpus()] == [[0], [0]]


def test_a_lock_is_no_way_into_another_file(four_gpus: Callable[..., list[int]], tmp_path: Path) -> None:
    """Folders for temporary files are everybody's: a link or a folder in the lock's place harms nothing."""
    victim = tmp_path / "thesis.tex"
    victim.write_text("three years")
    (tmp_path / f"dynat-{os.getuid()}-gpu-card-0.lock").symlink_to(victim)
    (tmp_path / f"dynat-{os.getuid()}-gpu-card-1.lock").mkdir()
    assert four_gpus(2) == [0, 1]
    assert victim.read_text() == "three years"


def test_auto_is_a_free_gpu_and_a_named_one_is_that_one(
    four_gpus: Callable[..., list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    current: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    four_gpus(2)
    monkeypatch.setattr(gpus, "_held", {})
    chosen = [choose_device(name) for name in ("auto", "cuda", "cuda:3")]
    assert [device.index for device in chosen] == [2, 2, 3]
    assert current == chosen
    assert set(gpus._held) == {2, 3}, "a GPU that was named is held too"


@pytest.mark.usefixtures("four_gpus")
def test_torchruns_processes_choose_by_their_own_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: pytest.fail("jobs.ranks.joined does"))
    monkeypatch.setenv("LOCAL_RANK", "2")
    monkeypatch.setattr(gpus, "_held", {})
    assert choose_device("auto") == torch.device("cuda") and gpus._held == {}


@pytest.mark.parametrize(
    ("visible", "expected"), [(None, "1,2"), ("4,5,6,7", "5,6"), ("GPU-a,GPU-b,GPU-c,GPU-d", "GPU-b,GPU-c")]
)
def test_processes_of_one_training_get_free_gpus(
    visible: str | None, expected: str, four_gpus: Callable[..., list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch.distributed.run

    started: list[str] = []
    monkeypatch.setattr(torch.distributed.run, "main", lambda _: started.append(os.environ["CUDA_VISIBLE_DEVICES"]))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    four_gpus()
    monkeypatch.setattr(gpus, "_held", {})
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    ranks.launch(2, ["train"])
    assert started == [expected]
