"""Facts of the image that a plausible edit would break. `make image-check` builds and runs it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

import dynat

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
STATE = {"data", "results", "state", ".snakemake"}
"""Folders that one container writes and the next one reads."""


def instructions(name: str) -> list[str]:
    """All instructions of a kind, each on one line."""
    return re.findall(rf"^{name} (.+)$", DOCKERFILE.replace("\\\n", " "), re.MULTILINE)


def test_the_base_is_pinned_and_can_be_chosen() -> None:
    assert any(re.fullmatch(r"BASE=debian:\d+\.\d+-slim", argument) for argument in instructions("ARG"))
    assert instructions("FROM")[0] == "${BASE} AS system"
    assert {line.split()[0] for line in instructions("FROM")[1:]} == {"system", "image"}, "one base for all stages"


def test_a_change_of_code_does_not_reinstall_packages() -> None:
    """The lock and nothing else of the project is copied before the packages are installed."""
    copied = instructions("COPY")
    assert copied[0].split()[0] == "requirements.lock" and copied[-1] == ". ."
    assert DOCKERFILE.index("uv pip sync") < DOCKERFILE.index("COPY . .")


def test_the_image_lacks_the_packages_of_developers() -> None:
    """They are in the stage that runs the tests; what `docker build` makes is the last stage."""
    assert instructions("FROM")[-1] == "image" and instructions("FROM")[-2] == "image AS tests"
    before, _, tests = DOCKERFILE.partition("FROM image AS tests")
    assert "requirements-dev.lock" not in before and "requirements-dev.lock" in tests
    assert set(packages("requirements.lock")).isdisjoint({"pytest", "mypy", "moto", "boto3", "flask"})


def packages(lock: str) -> dict[str, str]:
    """Name to version line, for every package of a lock file."""
    lines = (ROOT / lock).read_text().splitlines()
    return {line.partition("==")[0]: line for line in lines if re.match(r"[a-z0-9]", line)}


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-dev.lock"])
def test_locks_have_hashes_and_no_address(lock: str) -> None:
    text = (ROOT / lock).read_text()
    assert "://" not in text and "--index" not in text and "--find-links" not in text
    assert not [entry for entry in re.split(r"\n(?=[a-z0-9])", text.strip()) if "--hash=sha256:" not in entry]


def test_the_lock_of_developers_is_an_addition() -> None:
    user, developer = packages("requirements.lock"), packages("requirements-dev.lock")
    assert not set(user) & set(developer)
    assert {"pytest", "mypy", "ruff", "snakefmt", "moto", "dvc-s3"} <= set(developer)


def make(*words: str) -> str:
    return subprocess.run(["make", "-n", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
def test_another_build_of_torch_is_one_variable_of_make() -> None:
    """Resolved before anything changes, without the lock's torch and CUDA, and not repeated for the installed build."""
    commands = make("env", "TORCH=cu126")
    assert "--torch-backend cu126" in commands and "uv pip sync --quiet .venv/requirements-cu126.txt" in commands
    assert commands.index("uv pip compile") < commands.index("rm -f .venv/.synced") < commands.index("uv pip sync")
    expression = re.search(r"sed -E '(.*)' requirements.lock", commands)
    assert expression
    kept = subprocess.run(
        ["sed", "-E", expression[1], "requirements.lock"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    names = set(re.findall(r"^([a-z0-9][\w-]*)==", kept, re.MULTILINE))
    gone = set(packages("requirements.lock")) - names
    assert {"torch", "torchvision", "triton", "cuda-toolkit", "nvidia-cublas"} <= gone
    assert all(re.match("torch|triton|cuda-|nvidia-", name) for name in gone)


def test_the_user_is_not_root_and_the_default_is_the_whole_pipeline() -> None:
    image = DOCKERFILE.partition("FROM image AS tests")[0]
    users = re.findall(r"^USER (.+)$", image, re.MULTILINE)
    assert len(users) == 1 and re.fullmatch(r"[1-9]\d*:[1-9]\d*", users[0])
    assert image.index("USER ") > image.rindex("RUN "), "so the user cannot write to the code"
    assert instructions("CMD") == ['["snakemake", "--cores", "all", "all"]']
    entrypoint = yaml.safe_load(instructions("ENTRYPOINT")[0])[-1]
    script = ROOT / Path(entrypoint).relative_to("/app")
    assert os.access(script, os.X_OK)


def test_stopping_is_an_interrupt_for_all_processes() -> None:
    """On SIGTERM Snakemake waits for its jobs, is killed after ten seconds, and leaves a lock."""
    assert instructions("STOPSIGNAL") == ["SIGINT"]
    assert "-g" in yaml.safe_load(instructions("ENTRYPOINT")[0])


def test_the_environment_for_a_gpu_and_an_unnamed_user() -> None:
    environment = dict(re.findall(r"(\w+)=(\S+)", " ".join(instructions("ENV"))))
    assert environment["NVIDIA_VISIBLE_DEVICES"] == "all"
    assert set(environment["NVIDIA_DRIVER_CAPABILITIES"].split(",")) >= {"compute", "utility"}, "utility: nvidia-smi"
    assert {"HOME", "USER", "LOGNAME"} <= set(environment)
    open_to_all = " ".join(re.findall(r"chmod 1777 ([^;]+)", " ".join(instructions("RUN")))).split()
    assert {environment["HOME"], ".", ".dvc", *STATE} <= set(open_to_all)
    assert "g++" in DOCKERFILE and "python3-dev" in DOCKERFILE, "torch.compile builds extensions"


def test_the_image_has_the_version_of_the_package() -> None:
    assert f"VERSION={dynat.__version__}" in instructions("ARG")
    assert all(service["image"] == f"dynat:{dynat.__version__}" for service in services().values())


def test_no_secret_is_an_argument() -> None:
    """Arguments and variables can be read from the finished image; secrets are mounted."""
    names = re.findall(r"(\w+)=", " ".join(instructions("ARG") + instructions("ENV")))
    assert not [name for name in names if re.search("TOKEN|PASSW|SECRET|KEY|CRED", name, re.IGNORECASE)]
    assert {"ca", "netrc"} == set(re.findall(r"type=secret,id=(\w+)", DOCKERFILE))
    by_apt = [run for run in instructions("RUN") if "CAInfo" in run]
    assert len(by_apt) == 2 and all("id=ca,mode=0444" in run for run in by_apt), "apt reads it as an unprivileged user"
    assert "required=true" not in DOCKERFILE, "a build without them works"


ALLOWED = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]


def test_the_image_has_the_project() -> None:
    """.dockerignore names what may go in; a new folder has to be named too."""
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode or not done.stdout:
        pytest.skip("not a git repository")
    left_out = [
        name
        for name in done.stdout.split()
        if not any(name == entry or name.startswith(f"{entry}/") for entry in ALLOWED)
    ]
    assert left_out == []


@pytest.mark.parametrize("name", [".git", ".env", ".venv", ".netrc", "results", "data", "state", ".snakemake", ".dvc"])
def test_the_image_has_nothing_else(name: str) -> None:
    """.dvc as a whole has a cache, and config.local with its keys."""
    assert (ROOT / ".dockerignore").read_text().splitlines()[1] == "*"
    assert name not in ALLOWED and f"{name}/" not in ALLOWED
    assert {entry for entry in ALLOWED if entry.startswith(".dvc/")} == {".dvc/config", ".dvc/.gitignore", ".dvc/plots"}


# --- compose ------------------------------------------------------------------------------------------------------


def services() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    return content


def test_compose_mounts_the_state_and_runs_as_the_caller() -> None:
    for service in services().values():
        assert set(service["volumes"]) >= {f"./{name}:/app/{name}" for name in STATE}
        assert service["user"].startswith("${DYNAT_USER:-")


def test_only_the_gpu_service_of_compose_requests_a_gpu() -> None:
    gpu = services()["dynat"]["deploy"]["resources"]["reservations"]["devices"][0]
    assert gpu["driver"] == "nvidia" and gpu["capabilities"] == ["gpu"]
    assert "deploy" not in services()["cpu"]


# --- the entrypoint -------------------------------------------------------------------------------------------------


def entrypoint(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([ROOT / "tools/entrypoint", *words], cwd=folder, capture_output=True, text=True, check=False)


def test_the_entrypoint_runs_the_command(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    done = entrypoint(tmp_path, "sh", "-c", 'echo "$1"; exit 3', "-", "two words")
    assert (done.returncode, done.stdout) == (3, "two words\n")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_write_permission_is_reported_at_once(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir(mode=0o555)
    done = entrypoint(tmp_path, "echo", "worked")
    assert done.returncode == 1 and "worked" not in done.stdout
    assert f"user {os.geteuid()} may not write {tmp_path}/results" in done.stderr
    assert "mkdir -p results" in done.stderr and "--user" in done.stderr
