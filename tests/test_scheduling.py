"""What a plan computes, and where jobs run: taking turns on a GPU, and what they request from a cluster."""

from __future__ import annotations

import importlib.util
import json
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

from dynat.config import load
from dynat.jobs.rate_limit import remove_default_rate_limit
from dynat.runtime import gpu_locks, launch
from dynat.runtime.device import choose_device
from tests.project import ROOT, Project, rule_blocks

PROFILES = ROOT / "workflow/profiles"
HEAVY = {"training", "training_with_guide", "attack", "sanity", "transfer"}
LIGHT = {"data", "curves", "metrics", "accuracy", "report", "all"}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project.create(tmp_path / "project")


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that appears to have a GPU: there is an nvidia-smi."""
    program = tmp_path / "bin/nvidia-smi"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 'GPU 0: fake'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{Path(sys.executable).parent}:/usr/bin:/bin")


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A PATH with only what the jobs need."""
    if shutil.which("nvidia-smi", path="/usr/bin:/bin"):
        pytest.skip("this machine has a GPU")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:/usr/bin:/bin")


def resources(output: str) -> dict[str, dict[str, str]]:
    """The resources that each rule of a dry run requests."""
    requests = {}
    for rule, block in rule_blocks(output):
        line = re.search(r"resources: (.*)", block)
        requests[rule] = dict(part.split("=", 1) for part in line[1].split(", ") if "=" in part) if line else {}
    return requests


def requested(project: Project, *words: str) -> dict[str, dict[str, str]]:
    code, output = project.snakemake("-n", "all", *words)
    assert code == 0, output
    return resources(output)


# --- the plan -----------------------------------------------------------------------------------------------------

COUNTED_PLAN = """
import gc, json, sys
from collections import Counter
from snakemake.cli import main
from dynat import config, provenance

calls = Counter()

def count(owner, name):
    original = getattr(owner, name)
    def counted(*args, **options):
        calls[name] += 1
        return original(*args, **options)
    setattr(owner, name, counted)

count(config, "load")
for name in ("training_sources", "evaluation_sources", "sanity_sources"):
    count(provenance, name)
for name in ("training", "evaluation", "sanity_checks"):
    count(config.Experiment, name)
gc.callbacks.append(lambda phase, info: calls.update(collections=bool(calls["evaluation"]) and phase == "start"))
sys.argv = ["snakemake", "-n", "-q", "all", "--cores", "1", "all", "--config", "preset=cifar10-resnet18"]
try:
    main()
except SystemExit as done:
    assert not done.code
print(json.dumps(calls))
"""


def test_the_plan_of_the_full_grid_resolves_everything_once(project: Project) -> None:
    """Counts, not seconds: about 400 jobs of 34 runs, 58 trainings and 8 attacks."""
    experiment = load({"preset": "cifar10-resnet18"})
    code, output = project.call(sys.executable, "-c", COUNTED_PLAN)
    assert code == 0, output
    calls = json.loads(output.splitlines()[-1])
    assert calls["load"] == 1
    assert calls["training_sources"] == len({run.method for run in experiment.runs.values()}) < 15, "not per job"
    assert calls["evaluation_sources"] <= 3 and calls["sanity_sources"] <= 3, "not per job"
    assert calls["training"] == sum(len(experiment.seeds[run]) for run in experiment.runs), "once per job"
    assert calls["evaluation"] == len(experiment.rows) * len(experiment.attacks), "once per job"
    assert calls["sanity_checks"] == len(experiment.rows), "once per job"
    assert calls["collections"] == 0, "of objects, none of which is garbage"


# --- one machine --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("gpu")
def test_only_trainings_and_attacks_request_a_gpu(project: Project) -> None:
    requests = requested(project)
    assert set(requests) == HEAVY | LIGHT
    assert {rule for rule, values in requests.items() if values.get("gpu") == "1"} == HEAVY


@pytest.mark.usefixtures("no_gpu")
def test_without_a_gpu_no_job_requests_one(project: Project) -> None:
    assert not [rule for rule, values in requested(project).items() if values.get("gpu", "0") != "0"]


def test_the_default_profile_has_one_gpu() -> None:
    profile = yaml.safe_load((PROFILES / "default/config.yaml").read_text())
    assert profile["resources"] == {"gpu": 1} and profile["cores"] == "all"


def most_at_once(output: str) -> tuple[int, int]:
    """The most jobs with the GPU that ran at one time, and the most light jobs beside one of them."""
    running: dict[str, str] = {}
    heavy = beside = 0
    rule = ""
    for line in output.splitlines():
        if started := re.match(r"(?:local)?rule (\w+):", line):
            rule = started[1]
        elif number := re.match(r"    jobid: (\d+)", line):
            running[number[1]] = rule
        elif finished := re.match(r"Finished jobid: (\d+)", line):
            running.pop(finished[1], None)
        now = [rule in HEAVY for rule in running.values()]
        heavy = max(heavy, sum(now))
        beside = max(beside, len(now) - sum(now) if any(now) else 0)
    return heavy, beside


def test_jobs_at_one_time_are_counted_from_the_output_of_snakemake() -> None:
    output = "rule attack:\n    jobid: 1\nlocalrule curves:\n    jobid: 2\nFinished jobid: 1 (Rule: attack)\n"
    assert most_at_once(output) == (1, 1)
    assert most_at_once(output + "rule attack:\n    jobid: 3\nrule training:\n    jobid: 4\n") == (2, 1)


@pytest.mark.slow
@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("gpus", [1, 2])
def test_jobs_take_turns_on_the_gpu_and_light_jobs_run_beside_them(project: Project, gpus: int) -> None:
    """Two independent trainings on four cores; with `--resources gpu=2` two run at one time."""
    more = ["--resources", f"gpu={gpus}"] if gpus > 1 else []
    code, output = project.snakemake("all", "--cores", "4", *more)
    assert code == 0, output
    heavy, beside = most_at_once(output)
    assert heavy == gpus
    assert beside >= 1, "the curves are written while the attacks run"


CONSIDERING = """
from dynat.jobs.rate_limit import remove_default_rate_limit
onstart:
    remove_default_rate_limit(workflow.scheduler)
rule all:
    input: expand("{i}.txt", i=range(4))
rule one:
    output: "{i}.txt"
    shell: "sleep 1.2; touch {output}"
"""


def test_waiting_jobs_are_considered_once_per_finished_job(tmp_path: Path) -> None:
    """Not also every second, once more for each job that has finished."""
    assert "\n    remove_default_rate_limit(workflow.scheduler)\n" in (ROOT / "workflow/Snakefile").read_text()
    (tmp_path / "Snakefile").write_text(CONSIDERING)
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--verbose"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert 4 <= done.stderr.count("Ready jobs: ") <= 5


def test_a_limit_that_the_user_gave_is_kept() -> None:
    for limit in (SimpleNamespace(max_jobs=50, timespan=1), SimpleNamespace(max_jobs=100, timespan=60), None):
        scheduler = SimpleNamespace(job_rate_limiter=limit)
        remove_default_rate_limit(scheduler)
        assert scheduler.job_rate_limiter is limit
    remove_default_rate_limit(SimpleNamespace())  # another version of Snakemake


# --- a cluster ----------------------------------------------------------------------------------------------------

with_plugin = pytest.mark.skipif(
    importlib.util.find_spec("snakemake_executor_plugin_slurm") is None, reason="needs the extra: slurm"
)


def test_the_slurm_profile_treats_files_like_the_default_profile() -> None:
    """It replaces the default profile."""
    default, slurm = (yaml.safe_load((PROFILES / name / "config.yaml").read_text()) for name in ("default", "slurm"))
    for key in set(default) - {"cores", "resources"}:
        assert slurm[key] == default[key], key
    assert slurm["executor"] == "slurm" and slurm["retries"] >= 1
    assert "resources" not in slurm, "the cluster knows how many GPUs there are"


@with_plugin
@pytest.mark.usefixtures("no_gpu")
def test_jobs_request_gpus_from_a_login_node_without_one(project: Project) -> None:
    requests = requested(project, "--workflow-profile", "slurm")
    for rule in HEAVY:
        assert requests[rule]["gpu"] == "1"
        assert int(requests[rule]["mem_mb"]) >= 8000 and int(requests[rule]["runtime"]) >= 360
    assert not [rule for rule in LIGHT if requests[rule].get("gpu", "0") != "0"]


def test_light_rules_are_no_cluster_jobs() -> None:
    files = [*(ROOT / "workflow/rules").glob("*.smk")]
    rules = [block for file in files for block in re.split(r"^(?=rule )", file.read_text(), flags=re.MULTILINE)[1:]]
    local = {re.match(r"rule (\w+)", block)[1]: "localrule: True" in block for block in rules}  # type: ignore[index]
    assert set(local) >= LIGHT - {"all"}
    # One of them is a copy of another, and two run only where the config asks for them.
    expected = HEAVY - {"training_with_guide"} | {"adversarial_images", "corruptions"}
    assert {rule for rule in local if not local[rule]} == expected


@with_plugin
def test_a_cluster_without_gpus_works(project: Project) -> None:
    """With the options that the profile names."""
    output = re.search(r"--set-resources ((?:\w+:gpu=0 ?)+)", (PROFILES / "slurm/config.yaml").read_text())
    assert output
    requests = requested(project, "--workflow-profile", "slurm", "--set-resources", *output[1].split())
    assert not [rule for rule, values in requests.items() if values.get("gpu", "0") != "0"]


@pytest.mark.slow
@with_plugin
@pytest.mark.skipif(not shutil.which("slurmctld", path="/usr/sbin:/usr/bin"), reason="needs Slurm's programs")
def test_a_cancelled_training_resumes_in_a_real_slurm() -> None:
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
def test_jobs_in_an_image_use_its_environment(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fake apptainer, whose image has its own `dynat`; the code is still that of this folder."""
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
    code, output = project.snakemake("data/digits/info.json", "--sdm", "apptainer")
    assert code == 0, output
    assert f"{tmp_path}/my.sif" in (tmp_path / "called").read_text()
    assert (tmp_path / "used").read_text().startswith(f"{project.folder}:")


# --- several GPUs ---------------------------------------------------------------------------------------------


@pytest.fixture
def four_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """A machine that appears to have four GPUs; each call is made by another job, until its locks are released."""
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
        monkeypatch.setattr(gpu_locks, "_lock_files", jobs[-1])
        return gpu_locks.choose_gpus(count)

    return job


def test_jobs_at_one_time_take_one_gpu_each(four_gpus: Callable[..., list[int]]) -> None:
    assert four_gpus() == [0]
    assert four_gpus(2) == [1, 2]
    assert four_gpus(2, again=True) == [1, 2], "a job keeps its GPUs"
    assert four_gpus() == [3]
    assert four_gpus(ended=0) == [0], "GPUs of a finished job are free"


def test_without_a_free_gpu_a_job_shares_one(four_gpus: Callable[..., list[int]]) -> None:
    assert sorted(four_gpus(4)) == [0, 1, 2, 3]
    shared = four_gpus(2)
    assert gpu_locks._lock_files == {}, "nothing was free"
    assert len(set(shared)) == 2 and set(shared) <= set(range(4))


def test_a_single_gpu_is_shared(four_gpus: Callable[..., list[int]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert [four_gpus(), four_gpus()] == [[0], [0]]


def test_a_lock_does_not_write_through_a_link(four_gpus: Callable[..., list[int]], tmp_path: Path) -> None:
    """Every user can write to the folder of temporary files: a link or a folder in place of a lock does no harm."""
    victim = tmp_path / "thesis.tex"
    victim.write_text("three years")
    (tmp_path / f"dynat-{os.getuid()}-gpu-card-0.lock").symlink_to(victim)
    (tmp_path / f"dynat-{os.getuid()}-gpu-card-1.lock").mkdir()
    assert four_gpus(2) == [0, 1]
    assert victim.read_text() == "three years"


def test_auto_is_a_free_gpu_and_a_name_is_that_gpu(
    four_gpus: Callable[..., list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    current: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    four_gpus(2)
    monkeypatch.setattr(gpu_locks, "_lock_files", {})
    chosen = [choose_device(name) for name in ("auto", "cuda", "cuda:3")]
    assert [device.index for device in chosen] == [2, 2, 3]
    assert current == chosen
    assert set(gpu_locks._lock_files) == {2, 3}, "a named GPU is locked too"


@pytest.mark.usefixtures("four_gpus")
def test_several_processes_use_their_local_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: pytest.fail("the process group sets the device"))
    monkeypatch.setenv("LOCAL_RANK", "2")
    monkeypatch.setattr(gpu_locks, "_lock_files", {})
    assert choose_device("auto") == torch.device("cuda") and gpu_locks._lock_files == {}


@pytest.mark.parametrize(
    ("visible", "expected"), [(None, "1,2"), ("4,5,6,7", "5,6"), ("GPU-a,GPU-b,GPU-c,GPU-d", "GPU-b,GPU-c")]
)
def test_processes_of_one_training_get_free_gpus(
    visible: str | None, expected: str, four_gpus: Callable[..., list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []
    monkeypatch.setattr(
        launch, "run_processes", lambda _count, _command, variables: started.append(variables["CUDA_VISIBLE_DEVICES"])
    )
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    four_gpus()
    monkeypatch.setattr(gpu_locks, "_lock_files", {})
    launch.launch(2, ["train"])
    assert started == [expected]
