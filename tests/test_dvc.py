"""DVC and Snakemake in a copy of the project: what is versioned, what runs again, and what resumes."""

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
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self
from urllib.request import Request, urlopen

import pytest
import yaml

from dynat.config import Checkpoint, Experiment, ThreatModel, load
from dynat.jobs import preflight
from dynat.jobs.plots import write_accuracy, write_curves
from dynat.results.history import write_history
from dynat.results.metrics import run_metrics
from dynat.results.paths import Paths, RunFiles
from dynat.results.records import write_record
from dynat.runtime.errors import UserError
from dynat.runtime.files import atomic_text
from tests import tiny
from tests.fake_results import ATTACK, CLEAN, training_record, verdicts
from tests.project import BIN, ROOT, Project

STAGES = ("data", "train", "evaluate", "report")

OPTIONS = "--cores 1 --printshellcmds"
"""With the commands, Snakemake's own messages are printed, which name the rule of every job."""

BETA = {"training_with_guide": 1, "attack": 2} | dict.fromkeys(
    ("curves", "sanity", "transfer", "metrics", "accuracy", "report"), 1
)
"""The jobs that a new beta needs: those of the one run that reads it, and the tables."""


class Repository(Project):
    """A repository of its own, with all that DVC and Snakemake need and no results."""

    @classmethod
    def create(cls, folder: Path) -> Self:
        repository = super().create(folder)
        shutil.copytree(ROOT / ".dvc/plots", folder / ".dvc/plots")
        for part in ("dvc.yaml", ".dvcignore", ".gitignore", ".dvc/config", ".dvc/.gitignore"):
            shutil.copyfile(ROOT / part, folder / part)
        (folder / "config/presets/other.yaml").write_text(tiny.PRESET)
        repository.params((ROOT / "params.yaml").read_text().replace("preset: digits", "preset: tiny"))
        repository.git("init", "-q", "-b", "main")
        repository.save("code")
        return repository

    @property
    def environment(self) -> dict[str, str]:
        """Only the settings of the project; the environment is not activated, only on PATH."""
        home = self.folder.parent / "home"
        home.mkdir(exist_ok=True)
        names = {f"GIT_{who}_{what}": "t@t" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        own = {"HOME": str(home), "DVC_SITE_CACHE_DIR": str(home / "site"), "DVC_NO_ANALYTICS": "1", "COLUMNS": "200"}
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("DVC_", "GIT_", "PYTHONPATH"))}
        return {**kept, **names, **own, "PATH": f"{BIN}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}

    def output_of(self, *words: str, code: int | None = 0, **environment: str) -> str:
        """The output of a command, after a check of its exit code."""
        exit_code, output = self.call(*words, **{"SNAKEMAKE_OPTS": OPTIONS, **environment})
        assert code is None or exit_code == code, f"{words}: {exit_code}\n{output}"
        return output

    def dvc(self, *words: str, **options: Any) -> str:
        return self.output_of("dvc", *words, **options)

    def git(self, *words: str) -> str:
        return self.output_of("git", *words)

    def snakemake(self, *words: str, **options: Any) -> str:
        return self.output_of("snakemake", *OPTIONS.split(), *words, **options)

    def save(self, message: str) -> None:
        self.git("add", "-A")
        self.git("commit", "-q", "-m", message)

    def shown(self, *words: str) -> Any:
        """The JSON output of a DVC command, without the warnings before it."""
        output = self.dvc(*words, "--json")
        return json.loads(output[output.index("{") :])

    def assert_nothing_to_do(self) -> None:
        assert "Data and pipelines are up to date." in self.dvc("status")
        output = self.dvc("repro")
        assert [f"'{stage}' didn't change, skipping" in output for stage in STAGES] == [True] * 4, output
        assert "Nothing to be done" in self.snakemake("-n", "all")
        assert self.git("status", "--short") == ""

    def cache(self) -> dict[str, str]:
        """The objects of the cache by name, each with the MD5 of its content."""
        objects = (self.folder / ".dvc/cache/files/md5").glob("*/*")
        return {file.parent.name + file.name: hashlib.md5(file.read_bytes()).hexdigest() for file in objects}


def jobs(output: str) -> Counter[str]:
    """The jobs that ran, by rule, without rules that have no files of their own."""
    rules = Counter(re.findall(r"^(?:local)?rule (\w+):", output, re.MULTILINE))
    return Counter({rule: count for rule, count in rules.items() if rule not in ("train", "evaluate", "all")})


@pytest.fixture
def fresh(tmp_path: Path) -> Repository:
    return Repository.create(tmp_path / "project")


# --- dvc.yaml: outputs and stages ---------------------------------------------------------------------------------


def stages() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    return content


def test_a_stage_calls_the_target_of_its_name_and_keeps_existing_files() -> None:
    assert tuple(stages()) == STAGES
    for name, stage in stages().items():
        assert stage["cmd"] == f"workflow/stage {({'data': 'images', 'report': 'all'}).get(name, name)}"
        for out in stage["outs"]:
            ((_, options),) = out.items()
            assert options["persist"] is True, (
                "otherwise DVC deletes it before each call, and Snakemake has nothing to reuse"
            )


def test_every_file_of_the_dag_is_versioned_by_dvc_or_by_git(fresh: Repository) -> None:
    output = fresh.snakemake("-n", *STAGES, "all", "--config", "preset=digits")
    files = {
        file.strip() for line in re.findall(r"^    output: (.*)$", output, re.MULTILINE) for file in line.split(",")
    }
    outs = [next(iter(out.items())) for stage in stages().values() for out in stage["outs"]]
    kept = {path.replace("${preset}", "digits"): options.get("cache", True) for path, options in outs}
    assert any(file.endswith("target.safetensors") for file in files) and any("metrics/" in file for file in files)
    for file in files:
        (owner,) = [path for path in kept if file == path or file.startswith(f"{path}/")]
        ignored = fresh.output_of("git", "check-ignore", file, code=None).strip() == file
        assert ignored == kept[owner], f"{file} belongs to {'DVC' if kept[owner] else 'Git'}"


def test_the_artifact_is_a_network_of_the_shipped_experiment(fresh: Repository) -> None:
    """Its name in dvc.yaml, its path in the results, and a run that the preset has."""
    with pytest.importorskip("dvc.repo").Repo(str(fresh.folder)) as repository:
        ((_, artifacts),) = repository.artifacts.read().items()
    assert list(artifacts) == ["model"] and artifacts["model"].type == "model"
    assert artifacts["model"].path == str(Paths().seed_files("tiny", "dynat", 0).target())
    experiment = load()
    assert "dynat" in experiment.runs and 0 in experiment.seeds["dynat"]


@pytest.mark.slow
def test_the_artifact_can_be_fetched_by_name_and_by_path(project: Repository, tmp_path: Path) -> None:
    weights = "results/tiny/dynat/seed0/target.safetensors"
    content = (project.folder / weights).read_bytes()
    project.git("tag", "-a", "model@v1.0.0", "-m", "first version")
    for number, words in enumerate((("artifacts", "get", ".", "model"), ("get", ".", weights))):
        out = tmp_path / f"{number}.safetensors"
        project.dvc(*words, "-o", str(out))
        assert out.read_bytes() == content


def test_the_shipped_config_never_links_the_cache() -> None:
    assert 'type = "reflink,copy"' in (ROOT / ".dvc/config").read_text()


@pytest.fixture
def fake_experiment(fresh: Repository) -> Experiment:
    """Histories and metrics of two seeds of each run, and metrics of a run that no longer exists."""
    experiment = load({"preset": "tiny", "seeds": [0, 1]}, presets=fresh.folder / "config/presets")
    paths = in_folder(fresh.folder)
    for run in experiment.runs:
        for seed in (0, 1):
            labels = {"label_accuracy": 0.5 + seed / 10} if run == "dynat" else {}
            first = {"epoch": 1, **labels, "clean": 0.8 + seed / 10, "seconds": 1.0}
            second = {"epoch": 2, **labels, "clean": 0.9, "pgd": 0.5 + seed / 10, "seconds": 1.0}
            table = write_history(paths.seed_files("tiny", run, seed).history, [first, second])
            write_record(paths.seed_files("tiny", run, seed).config, training_record(run, seed, table=table))
        write_fake_metrics(paths.run_files("tiny", run), {"clean": 0.98765, "pgd-5": 0.5, "dropped": 0.98765})
    atomic_text(paths.run_accuracy("tiny", "gone"), "{}")
    return experiment


def write_fake_metrics(run: RunFiles, accuracy: dict[str, float]) -> None:
    for attack in accuracy:
        verdicts(run, attack, {0: "11", 1: "10"}, CLEAN if attack == "clean" else ATTACK)
    metrics = run_metrics(run)
    interval = {"low": 0.9, "high": 1.0}
    cells = {
        name: cell.model_copy(update={"mean": accuracy[name], **interval}) for name, cell in metrics.attacks.items()
    }
    write_record(run.metrics, metrics.model_copy(update={"attacks": cells}))


def in_folder(folder: Path) -> Paths:
    return Paths(folder / "data", folder / "results", folder / "state", folder / "metrics", folder / "plots")


def table(file: Path) -> list[list[str]]:
    return list(csv.reader(file.open()))[1:]


def test_the_tables_that_dvc_shows(fresh: Repository, fake_experiment: Experiment) -> None:
    paths = in_folder(fresh.folder)
    write_curves(fake_experiment, paths)
    write_accuracy(fake_experiment, paths)
    epochs, labels = (table(paths.plot("tiny", name)) for name in ("epochs", "labels"))
    assert epochs == [[run, *row] for run in ("at", "dynat") for row in (["1", "85.0", ""], ["2", "90.0", "55.0"])]
    assert labels == [["dynat", "1", "55.0"], ["dynat", "2", "55.0"]]
    assert table(paths.plot("tiny", "accuracy"))[0] == ["at", "clean", "98.77", "90.0", "100.0"]
    assert sorted(file.name for file in (paths.metrics_root / "tiny").iterdir()) == ["at.json", "dynat.json"]
    assert json.loads(paths.run_accuracy("tiny", "at").read_text()) == {"clean": 98.77, "pgd-5": 50.0}

    shown = fresh.dvc("metrics", "show", "--md")
    assert re.search(r"\| metrics/tiny/dynat.json +\| 98.77 +\| 50.0 ", shown), shown
    plots = fresh.shown("plots", "show")["data"]
    assert len(plots) == 4
    for title, (plot,) in plots.items():
        written = json.dumps(plot["content"])
        assert title in written and "<DVC" not in written
        assert ("Epoch" in written or "Run" in written) and "(percent)" in written


# --- checks before the first job ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["hardlink", "symlink"])
def test_nothing_is_written_to_the_cache_through_a_link(tmp_path: Path, kind: str) -> None:
    cached, records = tmp_path / "object", tmp_path / "records"
    cached.write_text("cached")
    linked = [tmp_path / "table.csv", records / "cmVj", records / "@ZGV" / "lcA"]
    for file in linked:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.hardlink_to(cached) if kind == "hardlink" else file.symlink_to(cached)
    assert preflight.unlink_records(records) == 2
    assert preflight.unlink_records(records) == 0
    assert all(file.read_text() == "cached" and not file.is_symlink() for file in linked[1:])
    atomic_text(linked[0], "new")
    for file in linked[1:]:
        file.write_text("new")  # in place, as Snakemake writes its records
    assert cached.read_text() == "cached"


def write_training(project: Repository, beta: float) -> Path:
    """The record of a training, as it is after a pull without Snakemake's records."""
    spec = load({"preset": "tiny", "beta": beta}, presets=project.folder / "config/presets").training("dynat")
    made = training_record("dynat", preset="tiny", threat=spec.threat, config=spec.run)
    file = in_folder(project.folder).seed_files("tiny", "dynat", 0).config
    write_record(file, made)
    return file


def test_results_of_other_settings_without_a_record_are_refused(fresh: Repository) -> None:
    write_training(fresh, beta=6.0)
    output = fresh.snakemake("-n", "all", code=2)
    assert "dynat: results/tiny/dynat/seed0/config.json: made with other settings" in output
    assert "dvc checkout" in output and "Traceback" not in output


def test_results_of_these_settings_or_with_a_record_are_left_to_snakemake(tmp_path: Path, fresh: Repository) -> None:
    experiment = load({"preset": "tiny", "beta": 1.0}, presets=fresh.folder / "config/presets")
    paths, records = in_folder(fresh.folder), tmp_path / "records"
    write_training(fresh, beta=1.0)
    preflight.check_before_jobs(experiment, paths, records)
    file = write_training(fresh, beta=6.0)
    with pytest.raises(ValueError, match=r"made with other settings, and .* has no record of it"):
        preflight.check_before_jobs(experiment, paths, records)
    record = preflight.record(file, records)
    record.parent.mkdir(parents=True)
    record.write_text("{}")
    preflight.check_before_jobs(experiment, paths, records)


def test_an_imported_checkpoint_without_a_record_is_recognized(tmp_path: Path) -> None:
    """Its record has the normalization of the file, which is not in the config."""
    theirs = {"file": "theirs.pt", "arch": "small"}
    experiment = load({"checkpoints": {"theirs": theirs}, "select": ["at"]})
    paths = in_folder(tmp_path)
    config = Checkpoint(file=theirs["file"], arch=theirs["arch"], mean=(0.5,), std=(0.2,))
    made = training_record("theirs", preset=experiment.preset, threat=experiment.threat, config=config)
    file = paths.seed_files(experiment.preset, "theirs", 0).config
    write_record(file, made)
    preflight.check_before_jobs(experiment, paths, tmp_path / "records")
    write_record(file, made.model_copy(update={"threat": ThreatModel(eps=0.5)}))
    with pytest.raises(UserError, match="made with other settings"):
        preflight.check_before_jobs(experiment, paths, tmp_path / "records")


def test_only_settings_in_params_yaml_can_be_kept(fresh: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(fresh.folder)
    assert "dvc commit -f" in preflight.how_to_keep(load())
    other = preflight.how_to_keep(load({"preset": "tiny", "beta": 6.0}))
    assert "params.yaml does not contain" in other and "dvc commit" not in other


# --- the command of a stage ---------------------------------------------------------------------------------------


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """A project whose .venv has a Snakemake that prints its arguments; and an experiment's folder below it."""
    binary = tmp_path / ".venv/bin/snakemake"
    binary.parent.mkdir(parents=True)
    binary.write_text('#!/bin/sh\nprintf "<%s>" "$@"\nexit ${CODE:-0}\n')
    binary.chmod(0o755)
    (tmp_path / "sub").mkdir()
    return tmp_path


def stage(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    call = [str(ROOT / "workflow/stage"), "train"]
    plain = {"PATH": "/usr/bin:/bin", **environment}
    return subprocess.run(call, cwd=folder, env=plain, capture_output=True, text=True, check=False)


def test_a_stage_finds_an_inactive_environment(script: Path) -> None:
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
def test_a_failed_stage_says_how_to_resume(script: Path, experiment: dict[str, str], locked: bool, way: str) -> None:
    if locked:
        atomic_text(script / ".snakemake/locks/0.input.lock", "")
    done = stage(script, CODE="3", **experiment)
    assert done.returncode == 3
    assert done.stderr == f"dynat: finished jobs are kept. Resume with: {way}\n"


# --- whole cycles -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """Reproduced from an empty state, in a folder with a space in its name, and committed. Tests read it or copy it."""
    project = Repository.create(tmp_path_factory.mktemp("dvc") / "my project")
    output = project.dvc("repro")
    assert jobs(output)["training"] == jobs(output)["training_with_guide"] == 1
    assert "dvc commit" not in output, "DVC keeps it by itself"
    project.save("beta 1")
    return project


@pytest.fixture
def project(finished: Repository, tmp_path: Path) -> Repository:
    return finished.copied_to(tmp_path / "another project")


@pytest.mark.slow
def test_a_second_time_nothing_runs_and_git_has_only_text(finished: Repository) -> None:
    finished.assert_nothing_to_do()
    held = finished.git("ls-files").splitlines()
    assert {"dvc.lock", "metrics/tiny/at.json", "plots/tiny/labels.csv"} <= set(held)
    assert not [file for file in held if file.startswith(("data/", "results/", "state/", ".snakemake/"))]


@pytest.mark.slow
def test_dvc_keeps_what_snakemake_made(fresh: Repository) -> None:
    output = fresh.snakemake("all")
    assert "dynat: to keep this as a version: dvc commit -f" in output
    fresh.dvc("commit", "-f")
    fresh.save("by hand")
    fresh.assert_nothing_to_do()


@pytest.mark.slow
def test_an_experiment_retrains_what_reads_beta_and_can_be_compared_undone_and_redone(project: Repository) -> None:
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
def test_other_presets_seeds_and_runs(project: Repository) -> None:
    at = {"metrics": 1, "curves": 1, "accuracy": 1, "report": 1}
    fewer = dict.fromkeys(("curves", "transfer", "accuracy", "report"), 1)
    assert jobs(project.dvc("exp", "run", "-S", "select=[at]")) == fewer
    assert [file.name for file in (project.folder / "metrics/tiny").iterdir()] == ["at.json"]
    assert jobs(project.dvc("exp", "run", "-S", "seeds=[0,1]")) == {"training": 1, "attack": 2, "sanity": 1, **at}
    output = project.dvc("exp", "run", "-n", "other", "-S", "preset=other", "-S", "select=null", "-S", "seeds=null")
    assert jobs(output)["data"] == 0 and jobs(output)["training"] == 1
    project.save("other")
    project.assert_nothing_to_do()
    assert (project.folder / "metrics/other/dynat.json").exists()


@pytest.mark.slow
def test_experiments_in_folders_of_their_own_and_in_a_queue(project: Repository) -> None:
    output = project.dvc("exp", "run", "--temp", "-n", "aside", "-S", "beta=2.0")
    assert jobs(output) == BETA
    assert project.git("status", "--short") == ""
    project.dvc("exp", "run", "--queue", "-S", "beta=3,4")
    project.dvc("queue", "start", "-j", "1")
    for _ in range(600):
        if project.dvc("queue", "status").count("Success") == 2:
            break
        time.sleep(1)
    rows = csv.DictReader(project.dvc("exp", "show", "--csv").splitlines())
    by_beta = {float(row["beta"]): row["metrics/tiny/dynat.json:pgd-5"] for row in rows if row["rev"] != "workspace"}
    assert set(by_beta) == {1.0, 2.0, 3.0, 4.0}
    assert len(set(by_beta.values())) == 4, "each was trained with its own beta"
    project.dvc("exp", "apply", "aside")
    project.save("aside")
    project.assert_nothing_to_do()


# --- sharing ------------------------------------------------------------------------------------------------------


def cloned(project: Repository, folder: Path) -> Repository:
    subprocess.run(["git", "clone", "-q", project.folder, folder], check=True)
    return Repository(folder)


def pulled_has_nothing_to_do(project: Repository, folder: Path) -> Repository:
    clone = cloned(project, folder)
    clone.dvc("pull")
    clone.assert_nothing_to_do()
    return clone


@pytest.mark.slow
def test_a_clone_that_pulls_from_a_folder_has_nothing_to_do(project: Repository, tmp_path: Path) -> None:
    store = tmp_path / "store"
    project.dvc("remote", "add", "-d", "store", str(store))
    project.save("remote")
    project.dvc("push")
    clone = pulled_has_nothing_to_do(project, tmp_path / "clone")
    assert jobs(clone.dvc("exp", "run", "-S", "beta=6.0")) == BETA

    largest = max(store.rglob("*/*"), key=lambda file: file.stat().st_size if file.is_file() else 0)
    largest.unlink()
    output = cloned(project, tmp_path / "second").dvc("pull", code=None)
    name = largest.parent.name + largest.name
    assert f"failed to transfer '{name}'" in output and "No such file" in output


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
    project: Repository, tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
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
    output = cloned(project, tmp_path / "second").dvc("pull", code=1)
    assert "failed to connect to s3 (results/dynat/files/md5) - Forbidden" in output


# --- links and kills ----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["hardlink", "symlink"])
def test_a_linked_cache_is_not_modified(project: Repository, kind: str) -> None:
    """Also for root, for whom file modes have no effect."""
    project.dvc("config", "--local", "cache.type", kind)
    project.dvc("checkout", "--relink")
    before = project.cache()
    assert all(name.removesuffix(".dir") == content for name, content in before.items())
    project.dvc("exp", "run", "-S", "beta=6.0")
    project.snakemake("all", "--config", "beta=3.0")
    after = project.cache()
    assert {name: after[name] for name in before} == before
    assert all(name.removesuffix(".dir") == content for name, content in after.items())


class KilledCommand:
    """A command in its own process group, killed as soon as a job of a rule has started."""

    def __init__(self, project: Repository, words: Sequence[str], rule: str, how: signal.Signals) -> None:
        self.log = project.folder.parent / "output.txt"
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                words,
                cwd=project.folder,
                env={**project.environment, "SNAKEMAKE_OPTS": OPTIONS},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                # A test run in the background of a shell ignores SIGINT, and its children inherit that.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )
        self.wait_for(f"rule {rule}:")
        time.sleep(1)
        os.killpg(self.process.pid, how)
        self.process.wait(60)
        time.sleep(1)

    def wait_for(self, text: str) -> None:
        for _ in range(1200):
            if text in self.output:
                return
            assert self.process.poll() is None, self.output
            time.sleep(0.1)
        os.killpg(self.process.pid, signal.SIGKILL)
        raise AssertionError(f"'{text}' was never printed:\n{self.output}")

    @property
    def output(self) -> str:
        return self.log.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_killed_repro_resumes(project: Repository, how: signal.Signals) -> None:
    params = project.folder / "params.yaml"
    params.write_text(params.read_text().replace("beta: 1.0", "beta: 6.0"))
    killed = KilledCommand(project, ["dvc", "repro"], "attack", how)
    if how == signal.SIGKILL:
        assert "snakemake --unlock && dvc repro" in project.dvc("repro", code=None)
        project.snakemake("--unlock")
    else:
        assert "Resume with: dvc repro\n" in killed.output
    ran = jobs(project.dvc("repro"))
    assert ran["training_with_guide"] == 0 and ran["attack"] >= 1, "the finished training is not lost"
    project.save("beta 6")
    project.assert_nothing_to_do()


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_killed_experiment_resumes_and_is_saved_under_its_name(project: Repository, how: signal.Signals) -> None:
    killed = KilledCommand(project, ["dvc", "exp", "run", "-n", "six", "-S", "beta=6.0"], "attack", how)
    if how == signal.SIGKILL:
        project.snakemake("--unlock")
    else:
        assert "Resume with: dvc repro && dvc exp save -n six\n" in killed.output
    ran = jobs(project.dvc("repro"))
    assert ran["training_with_guide"] == 0 and ran["attack"] >= 1, "the finished training is not lost"
    project.dvc("exp", "save", "-n", "six")
    assert "six" in project.dvc("exp", "list")
    project.save("beta 6")
    project.assert_nothing_to_do()
