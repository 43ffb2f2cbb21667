"""DVC and Snakemake in a copy of the project: what is versioned, what runs again, and what survives."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
import yaml

from dynat.config import Experiment, load
from dynat.files import atomic_text
from dynat.jobs import guard
from dynat.jobs.plots import write_accuracy, write_curves
from dynat.places import Places
from tests import tiny

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
STAGES = ("data", "train", "evaluate", "report")

BETA = {"training_with_guide": 1, "attack": 2} | dict.fromkeys(
    ("curves", "probe", "transfer", "metrics", "accuracy", "report"), 1
)
"""The jobs that a new beta costs: those of the one run that reads it, and the tables."""


class Project:
    """A repository of its own, with all that DVC and Snakemake need and nothing that was computed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def made_in(cls, folder: Path) -> Project:
        for part in ("workflow", "config", "dynat", ".dvc/plots"):
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        for part in ("dvc.yaml", ".dvcignore", ".gitignore", ".dvc/config", ".dvc/.gitignore", "params.yaml"):
            shutil.copyfile(ROOT / part, folder / part)
        for name in ("tiny", "other"):
            (folder / f"config/presets/{name}.yaml").write_text(tiny.PRESET)
        project = cls(folder)
        params = (folder / "params.yaml").read_text()
        (folder / "params.yaml").write_text(params.replace("preset: digits", "preset: tiny"))
        project.git("init", "-q", "-b", "main")
        project.save("code")
        return project

    def copied_to(self, folder: Path) -> Project:
        shutil.copytree(self.folder, folder, symlinks=True)
        return Project(folder)

    @property
    def environment(self) -> dict[str, str]:
        """Nobody's settings but the project's; the environment is not activated, only on PATH."""
        home = self.folder.parent / "home"
        home.mkdir(exist_ok=True)
        names = {f"GIT_{who}_{what}": "t@t" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        own = {"HOME": str(home), "DVC_SITE_CACHE_DIR": str(home / "site"), "DVC_NO_ANALYTICS": "1", "COLUMNS": "200"}
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("DVC_", "GIT_", "PYTHONPATH"))}
        return {**kept, **names, **own, "PATH": f"{BIN}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}

    def said(self, *words: str, code: int | None = 0, **environment: str) -> str:
        done = subprocess.run(
            words,
            cwd=self.folder,
            env={**self.environment, "SNAKEMAKE_OPTS": "--cores 1", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert code is None or done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}"
        return done.stdout

    def dvc(self, *words: str, **options: Any) -> str:
        return self.said("dvc", *words, **options)

    def git(self, *words: str) -> str:
        return self.said("git", *words)

    def snakemake(self, *words: str, **options: Any) -> str:
        return self.said("snakemake", "--cores", "1", *words, **options)

    def save(self, message: str) -> None:
        self.git("add", "-A")
        self.git("commit", "-q", "-m", message)

    def shown(self, *words: str) -> Any:
        """What a command of DVC answers as JSON, without the warnings before it."""
        said = self.dvc(*words, "--json")
        return json.loads(said[said.index("{") :])

    def assert_nothing_to_do(self) -> None:
        assert "Data and pipelines are up to date." in self.dvc("status")
        said = self.dvc("repro")
        assert [f"'{stage}' didn't change, skipping" in said for stage in STAGES] == [True] * 4, said
        assert "Nothing to be done" in self.snakemake("-n", "all")
        assert self.git("status", "--short") == ""

    def cache(self) -> dict[str, str]:
        """The objects of the cache, by name, and what is really in them."""
        objects = (self.folder / ".dvc/cache/files/md5").glob("*/*")
        return {file.parent.name + file.name: hashlib.md5(file.read_bytes()).hexdigest() for file in objects}


def jobs(said: str) -> Counter[str]:
    """The jobs that ran, by rule, without the targets that only collect."""
    rules = Counter(re.findall(r"^(?:local)?rule (\w+):", said, re.MULTILINE))
    return Counter({rule: count for rule, count in rules.items() if rule not in ("train", "evaluate", "all")})


@pytest.fixture
def fresh(tmp_path: Path) -> Project:
    return Project.made_in(tmp_path / "project")


# --- what dvc.yaml says, and what it leaves to Snakemake ----------------------------------------------------------


def stages() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    return content


def test_a_stage_calls_the_target_of_its_name_and_keeps_what_it_finds() -> None:
    assert tuple(stages()) == STAGES
    for name, stage in stages().items():
        assert stage["cmd"] == f"workflow/stage {name}"
        for out in stage["outs"]:
            ((_, options),) = out.items()
            assert options["persist"] is True, (
                "DVC would delete it before each call, and nothing would be left to reuse"
            )


def test_every_file_of_the_dag_is_versioned_and_git_takes_the_small_ones(fresh: Project) -> None:
    said = fresh.snakemake("-n", *STAGES, "all", "--config", "preset=digits")
    files = {file.strip() for line in re.findall(r"^    output: (.*)$", said, re.MULTILINE) for file in line.split(",")}
    outs = [next(iter(out.items())) for stage in stages().values() for out in stage["outs"]]
    kept = {path.replace("${preset}", "digits"): options.get("cache", True) for path, options in outs}
    assert any(file.endswith("target.safetensors") for file in files) and any("metrics/" in file for file in files)
    for file in files:
        (owner,) = [path for path in kept if file == path or file.startswith(f"{path}/")]
        ignored = fresh.said("git", "check-ignore", file, code=None).strip() == file
        assert ignored == kept[owner], f"{file} belongs to {'DVC' if kept[owner] else 'Git'}"


def test_the_cache_is_never_linked_as_shipped() -> None:
    assert 'type = "reflink,copy"' in (ROOT / ".dvc/config").read_text()


@pytest.fixture
def fabricated(fresh: Project) -> Experiment:
    """Two seeds of each run, and the metrics of another run that is no more."""
    experiment = load({"preset": "tiny", "seeds": [0, 1]}, presets=fresh.folder / "config/presets")
    places = in_folder(fresh.folder)
    for run in experiment.runs:
        for seed in (0, 1):
            labels = 0.5 + seed / 10 if run == "dynat" else ""
            history = f"epoch,label_accuracy,clean,pgd\n1,{labels},0.{8 + seed},\n2,{labels},0.9,0.{5 + seed}\n"
            atomic_text(places.seed("tiny", run, seed) / "history.csv", history)
        cell = {"mean": 0.98765, "low": 0.9, "high": 1.0}
        metrics = {"attacks": {"clean": cell, "pgd-5": {**cell, "mean": 0.5}, "dropped": cell}}
        atomic_text(places.run("tiny", run) / "metrics.json", json.dumps(metrics))
    atomic_text(places.metrics("tiny") / "gone.json", "{}")
    return experiment


def in_folder(folder: Path) -> Places:
    return Places(folder / "data", folder / "results", folder / "runs", folder / "metrics", folder / "plots")


def table(file: Path) -> list[list[str]]:
    return list(csv.reader(file.open()))[1:]


def test_the_tables_that_dvc_shows(fresh: Project, fabricated: Experiment) -> None:
    places = in_folder(fresh.folder)
    write_curves(fabricated, places)
    write_accuracy(fabricated, places)
    epochs, labels = (table(places.plots("tiny") / f"{name}.csv") for name in ("epochs", "labels"))
    assert epochs == [[run, *row] for run in ("at", "dynat") for row in (["1", "85.0", ""], ["2", "90.0", "55.0"])]
    assert labels == [["dynat", "1", "55.0"], ["dynat", "2", "55.0"]]
    assert table(places.plots("tiny") / "accuracy.csv")[0] == ["at", "clean", "98.77", "90.0", "100.0"]
    assert sorted(file.name for file in places.metrics("tiny").iterdir()) == ["at.json", "dynat.json"]
    assert json.loads((places.metrics("tiny") / "at.json").read_text()) == {"clean": 98.77, "pgd-5": 50.0}

    shown = fresh.dvc("metrics", "show", "--md")
    assert re.search(r"\| metrics/tiny/dynat.json +\| 98.77 +\| 50.0 ", shown), shown
    plots = fresh.shown("plots", "show")["data"]
    assert len(plots) == 4
    for title, (plot,) in plots.items():
        written = json.dumps(plot["content"])
        assert title in written and "<DVC" not in written
        assert ("Epoch" in written or "Run" in written) and "(percent)" in written


# --- what is refused or set right before the first job ------------------------------------------------------------


@pytest.mark.parametrize("kind", ["hardlink", "symlink"])
def test_neither_our_writer_nor_snakemakes_reaches_the_cache_through_a_link(tmp_path: Path, kind: str) -> None:
    cached, records = tmp_path / "object", tmp_path / "records"
    cached.write_text("cached")
    linked = [tmp_path / "table.csv", records / "cmVj", records / "@ZGV" / "lcA"]
    for file in linked:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.hardlink_to(cached) if kind == "hardlink" else file.symlink_to(cached)
    assert guard.own_records(records) == 2
    assert guard.own_records(records) == 0
    assert all(file.read_text() == "cached" and not file.is_symlink() for file in linked[1:])
    atomic_text(linked[0], "new")
    for file in linked[1:]:
        file.write_text("new")  # in place, as Snakemake writes its records
    assert cached.read_text() == "cached"


def strange(project: Project, beta: float) -> Path:
    """A training as it lies there after a pull without records."""
    spec = load({"preset": "tiny", "beta": beta}, presets=project.folder / "config/presets").training("dynat")
    file = project.folder / "results/tiny/dynat/seed0/config.json"
    atomic_text(file, spec.model_dump_json())
    return file


def test_results_of_other_settings_without_a_record_do_not_pass_for_fresh(fresh: Project) -> None:
    strange(fresh, beta=6.0)
    said = fresh.snakemake("-n", "all", code=2)
    assert "dynat: results/tiny/dynat/seed0/config.json: made with other settings" in said
    assert "dvc checkout" in said and "Traceback" not in said


def test_results_of_these_settings_or_with_a_record_are_snakemakes_to_judge(tmp_path: Path, fresh: Project) -> None:
    experiment = load({"preset": "tiny", "beta": 1.0}, presets=fresh.folder / "config/presets")
    places, records = in_folder(fresh.folder), tmp_path / "records"
    strange(fresh, beta=1.0)
    guard.before_any_job(experiment, places, records)
    file = strange(fresh, beta=6.0)
    with pytest.raises(ValueError, match=r"made with other settings, and .* has no record of it"):
        guard.before_any_job(experiment, places, records)
    record = guard.record(file, records)
    record.parent.mkdir(parents=True)
    record.write_text("{}")
    guard.before_any_job(experiment, places, records)


def test_an_adopted_checkpoint_is_no_stranger(tmp_path: Path) -> None:
    """What was adopted says what was read from the file, which no config says."""
    theirs = {"checkpoint": "theirs.pt", "network": "small"}
    experiment = load({"external": {"theirs": theirs}, "methods": ["at"]})
    places = in_folder(tmp_path)
    spec = json.loads(experiment.training("theirs").model_dump_json())
    spec["run"] = {"method": "external", "target": "small", "checkpoint": "theirs.pt", "options": {"mean": [0.5]}}
    file = places.seed(experiment.preset, "theirs", 0) / "config.json"
    atomic_text(file, json.dumps(spec))
    guard.before_any_job(experiment, places, tmp_path / "records")
    atomic_text(file, json.dumps({**spec, "threat": {"norm": "linf", "eps": 0.5}}))
    with pytest.raises(ValueError, match="made with other settings"):
        guard.before_any_job(experiment, places, tmp_path / "records")


def test_only_what_params_say_is_offered_to_be_kept(fresh: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(fresh.folder)
    assert "dvc commit -f" in guard.how_to_keep(load())
    other = guard.how_to_keep(load({"preset": "tiny", "beta": 6.0}))
    assert "params.yaml does not say" in other and "dvc commit" not in other


# --- the command of a stage ---------------------------------------------------------------------------------------


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """A project whose .venv holds a Snakemake that says how it was called; and an experiment's folder below it."""
    binary = tmp_path / ".venv/bin/snakemake"
    binary.parent.mkdir(parents=True)
    binary.write_text('#!/bin/sh\nprintf "<%s>" "$@"\nexit ${CODE:-0}\n')
    binary.chmod(0o755)
    (tmp_path / "sub").mkdir()
    return tmp_path


def stage(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    call = [ROOT / "workflow/stage", "train"]
    plain = {"PATH": "/usr/bin:/bin", **environment}
    return subprocess.run(call, cwd=folder, env=plain, capture_output=True, text=True, check=False)


def test_a_stage_finds_an_environment_that_nobody_activated(script: Path) -> None:
    done = stage(script / "sub", SNAKEMAKE_OPTS="--cores 8 --keep-going")
    assert (done.returncode, done.stdout, done.stderr) == (0, "<train><--cores><8><--keep-going>", "")
    away = stage(Path("/"))
    assert away.returncode == 127 and "no .venv here: make env" in away.stderr


@pytest.mark.parametrize(
    ("experiment", "locked", "way"),
    [
        ({}, False, "dvc repro"),
        ({}, True, "snakemake --unlock && dvc repro"),
        ({"DVC_EXP_NAME": "big-beta"}, False, "dvc repro && dvc exp save -n big-beta"),
    ],
)
def test_a_stage_that_fails_says_how_to_go_on(script: Path, experiment: dict[str, str], locked: bool, way: str) -> None:
    if locked:
        atomic_text(script / ".snakemake/locks/0.input.lock", "")
    done = stage(script, CODE="3", **experiment)
    assert done.returncode == 3
    assert done.stderr == f"dynat: what is finished is kept. Go on with: {way}\n"


# --- whole cycles -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Reproduced from nothing, in a folder with a space in its name, and committed. To be read only, or copied."""
    project = Project.made_in(tmp_path_factory.mktemp("dvc") / "my project")
    said = project.dvc("repro")
    assert jobs(said)["training"] == jobs(said)["training_with_guide"] == 1
    assert "dvc commit" not in said, "DVC keeps it by itself"
    project.save("beta 1")
    return project


@pytest.fixture
def project(finished: Project, tmp_path: Path) -> Project:
    return finished.copied_to(tmp_path / "another project")


@pytest.mark.slow
def test_again_nothing_runs_and_git_holds_only_text(finished: Project) -> None:
    finished.assert_nothing_to_do()
    held = finished.git("ls-files").splitlines()
    assert {"dvc.lock", "metrics/tiny/at.json", "plots/tiny/labels.csv"} <= set(held)
    assert not [file for file in held if file.startswith(("data/", "results/", "runs/", ".snakemake/"))]


@pytest.mark.slow
def test_what_snakemake_made_alone_dvc_takes_over(fresh: Project) -> None:
    said = fresh.snakemake("all")
    assert "dynat: to keep this as a version: dvc commit -f" in said
    fresh.dvc("commit", "-f")
    fresh.save("by hand")
    fresh.assert_nothing_to_do()


@pytest.mark.slow
def test_an_experiment_retrains_what_reads_beta_and_can_be_compared_undone_and_redone(project: Project) -> None:
    weights = project.folder / "results/tiny/dynat/seed0/target.safetensors"
    before = weights.read_bytes()
    assert jobs(project.dvc("exp", "run", "-n", "six", "-S", "beta=6.0")) == BETA
    after = weights.read_bytes()
    assert after != before

    changed = project.shown("metrics", "diff")
    assert set(changed) == {"metrics/tiny/dynat.json"}
    assert changed["metrics/tiny/dynat.json"]["clean"].keys() == {"old", "new", "diff"}
    assert project.shown("params", "diff") == {"params.yaml": {"beta": {"old": 1.0, "new": 6.0, "diff": 5.0}}}
    shown = project.dvc("exp", "show", "--csv", "--only-changed")
    assert "six" in shown and "metrics/tiny/dynat.json:pgd-5" in shown and "/at.json" not in shown
    (bars,) = project.shown("plots", "diff", "HEAD")["data"]["Test accuracy by attack"]
    assert {bar["rev"] for bar in bars["content"]["data"]["values"]} == {"HEAD", "workspace"}

    project.save("beta 6")
    project.assert_nothing_to_do()
    for revision, content in (("HEAD~1", before), ("main", after)):
        project.git("checkout", "-q", revision)
        project.dvc("checkout")
        assert weights.read_bytes() == content
        project.assert_nothing_to_do()


@pytest.mark.slow
def test_other_presets_seeds_and_methods(project: Project) -> None:
    at = {"metrics": 1, "curves": 1, "accuracy": 1, "report": 1}
    fewer = dict.fromkeys(("curves", "transfer", "accuracy", "report"), 1)
    assert jobs(project.dvc("exp", "run", "-S", "methods=[at]")) == fewer
    assert [file.name for file in (project.folder / "metrics/tiny").iterdir()] == ["at.json"]
    assert jobs(project.dvc("exp", "run", "-S", "seeds=[0,1]")) == {"training": 1, "attack": 2, "probe": 1, **at}
    said = project.dvc("exp", "run", "-n", "other", "-S", "preset=other", "-S", "methods=null", "-S", "seeds=null")
    assert jobs(said)["data"] == 0 and jobs(said)["training"] == 1
    project.save("other")
    project.assert_nothing_to_do()
    assert (project.folder / "metrics/other/dynat.json").exists()


@pytest.mark.slow
def test_experiments_in_folders_of_their_own_and_in_a_queue(project: Project) -> None:
    said = project.dvc("exp", "run", "--temp", "-n", "aside", "-S", "beta=2.0")
    assert jobs(said) == BETA
    assert project.git("status", "--short") == ""
    project.dvc("exp", "run", "--queue", "-S", "beta=3,4")
    project.dvc("queue", "start", "-j", "1")
    for _ in range(600):
        if project.dvc("queue", "status").count("Success") == 2:
            break
        time.sleep(1)
    rows = csv.DictReader(project.dvc("exp", "show", "--csv").splitlines())
    found = {float(row["beta"]): row["metrics/tiny/dynat.json:pgd-5"] for row in rows if row["rev"] != "workspace"}
    assert set(found) == {1.0, 2.0, 3.0, 4.0}
    assert len(set(found.values())) == 4, "each was trained with its own beta"
    project.dvc("exp", "apply", "aside")
    project.save("aside")
    project.assert_nothing_to_do()


# --- sharing ------------------------------------------------------------------------------------------------------


def cloned(project: Project, folder: Path) -> Project:
    subprocess.run(["git", "clone", "-q", project.folder, folder], check=True)
    return Project(folder)


def pulled_has_nothing_to_do(project: Project, folder: Path) -> Project:
    clone = cloned(project, folder)
    clone.dvc("pull")
    clone.assert_nothing_to_do()
    return clone


@pytest.mark.slow
def test_a_clone_that_pulls_from_a_folder_has_nothing_to_do(project: Project, tmp_path: Path) -> None:
    store = tmp_path / "store"
    project.dvc("remote", "add", "-d", "store", str(store))
    project.save("remote")
    project.dvc("push")
    clone = pulled_has_nothing_to_do(project, tmp_path / "clone")
    assert jobs(clone.dvc("exp", "run", "-S", "beta=6.0")) == BETA

    largest = max(store.rglob("*/*"), key=lambda file: file.stat().st_size if file.is_file() else 0)
    largest.unlink()
    said = cloned(project, tmp_path / "second").dvc("pull", code=None)
    name = largest.parent.name + largest.name
    assert f"failed to transfer '{name}'" in said and "No such file" in said


@pytest.fixture
def bucket() -> Iterator[str]:
    """An S3 API on this machine; the address of its server."""
    server = pytest.importorskip("moto.server")
    boto3 = pytest.importorskip("boto3")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    running.start()
    address = f"http://127.0.0.1:{port}"
    keys = {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
    boto3.client("s3", endpoint_url=address, **keys).create_bucket(Bucket="results")
    yield address
    running.stop()


@pytest.mark.slow
def test_a_clone_that_pulls_from_s3_has_nothing_to_do(
    project: Project, tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.dvc("remote", "add", "-d", "store", "s3://results/dynat")
    project.dvc("remote", "modify", "store", "endpointurl", bucket)
    project.save("remote")
    assert "Unable to locate credentials" in project.dvc("push", code=None)
    for name, value in {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}.items():
        monkeypatch.setenv(name, value)
    assert "pushed" in project.dvc("push")
    pulled_has_nothing_to_do(project, tmp_path / "clone")
    from_now_on_no_key_is_right = Request(f"{bucket}/moto-api/reset-auth", b"0", {"Content-Type": "text/plain"})
    urlopen(from_now_on_no_key_is_right).close()
    said = cloned(project, tmp_path / "second").dvc("pull", code=1)
    assert "failed to connect to s3 (results/dynat/files/md5) - Forbidden" in said


# --- links and kills ----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["hardlink", "symlink"])
def test_a_linked_cache_stays_whole(project: Project, kind: str) -> None:
    """Also for root, whom no file mode stops."""
    project.dvc("config", "--local", "cache.type", kind)
    project.dvc("checkout", "--relink")
    before = project.cache()
    assert all(name.removesuffix(".dir") == content for name, content in before.items())
    project.dvc("exp", "run", "-S", "beta=6.0")
    project.snakemake("all", "--config", "beta=3.0")
    after = project.cache()
    assert {name: after[name] for name in before} == before
    assert all(name.removesuffix(".dir") == content for name, content in after.items())


class Killed:
    """A command in a process group of its own, stopped as soon as a job of a rule has begun."""

    def __init__(self, project: Project, words: Sequence[str], rule: str, how: signal.Signals) -> None:
        self.log = project.folder.parent / "said.txt"
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                words,
                cwd=project.folder,
                env={**project.environment, "SNAKEMAKE_OPTS": "--cores 1"},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.wait_for(f"rule {rule}:")
        time.sleep(1)
        os.killpg(self.process.pid, how)
        self.process.wait(60)
        time.sleep(1)

    def wait_for(self, text: str) -> None:
        for _ in range(1200):
            if text in self.said:
                return
            assert self.process.poll() is None, self.said
            time.sleep(0.1)
        os.killpg(self.process.pid, signal.SIGKILL)
        raise AssertionError(f"'{text}' never came:\n{self.said}")

    @property
    def said(self) -> str:
        return self.log.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_killed_repro_goes_on(project: Project, how: signal.Signals) -> None:
    params = project.folder / "params.yaml"
    params.write_text(params.read_text().replace("beta: 1.0", "beta: 6.0"))
    killed = Killed(project, ["dvc", "repro"], "attack", how)
    if how == signal.SIGKILL:
        assert "snakemake --unlock && dvc repro" in project.dvc("repro", code=None)
        project.snakemake("--unlock")
    else:
        assert "Go on with: dvc repro\n" in killed.said
    ran = jobs(project.dvc("repro"))
    assert ran["training_with_guide"] == 0 and ran["attack"] >= 1, "the finished training is not lost"
    project.save("beta 6")
    project.assert_nothing_to_do()


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_killed_experiment_goes_on_and_is_saved_under_its_name(project: Project, how: signal.Signals) -> None:
    killed = Killed(project, ["dvc", "exp", "run", "-n", "six", "-S", "beta=6.0"], "attack", how)
    if how == signal.SIGKILL:
        project.snakemake("--unlock")
    else:
        assert "Go on with: dvc repro && dvc exp save -n six\n" in killed.said
    ran = jobs(project.dvc("repro"))
    assert ran["training_with_guide"] == 0 and ran["attack"] >= 1, "the finished training is not lost"
    project.dvc("exp", "save", "-n", "six")
    assert "six" in project.dvc("exp", "list")
    project.save("beta 6")
    project.assert_nothing_to_do()
