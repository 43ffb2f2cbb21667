"""One attack shared among jobs: the same verdicts, bit for bit, and a job that was killed resumes."""

from __future__ import annotations

import csv
import itertools
from pathlib import Path

import pytest

from dynat import data
from dynat.attacks import evaluation as attacks
from dynat.config import EvaluationSpec, load
from dynat.config.base import MAX_SHARDS, ConfigError
from dynat.config.shards import Shard, shard_count
from dynat.jobs.evaluation import run_evaluation, run_shard
from dynat.jobs.job_list import job_title
from dynat.jobs.training import run_training
from dynat.results.outcomes import read_examples
from dynat.results.paths import Paths
from dynat.results.records import OutcomeRecord, read_record
from tests import tiny
from tests.helpers import Killed
from tests.project import BIN, Project

SEEDS = (0, 3)
BATCHES = 4
"""30 images in batches of 8."""


@pytest.mark.parametrize(("count", "seeds", "per_seed"), [(1, 1, 5), (2, 1, 5), (3, 2, 4), (7, 2, 3), (9, 1, 4)])
def test_every_batch_is_in_one_shard_and_shards_are_equally_large(count: int, seeds: int, per_seed: int) -> None:
    taken = [
        [(seed, batch) for seed in range(seeds) for batch in Shard(number, count).batches(seed, per_seed)]
        for number in range(1, count + 1)
    ]
    assert sorted(itertools.chain(*taken)) == [(seed, batch) for seed in range(seeds) for batch in range(per_seed)]
    assert max(map(len, taken)) - min(map(len, taken)) <= 1


@pytest.mark.parametrize("text", ["0-of-4", "5-of-4", "2/4", "2-of-", "1-of-1001", "-1-of-4", "1-of-4\n"])
def test_what_is_no_shard_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="write 2-of-4 for the second of four"):
        Shard.parse(text)
    assert str(Shard.parse("2-of-4")) == "2-of-4"


@pytest.mark.parametrize(
    ("shards", "kind", "images", "seeds", "count"),
    [
        (1, "autoattack", 10_000, 3, 1),
        (4, "autoattack", 10_000, 1, 4),
        (4, "clean", 10_000, 1, 1),  # nothing to share
        (64, "pgd", 10_000, 1, 40),  # a job per batch
        (64, "pgd", 100, 3, 3),
        (4, "autoattack", None, 1, 4),  # the number of images is not known yet
        ("auto", "autoattack", 10_000, 1, 11),
        ("auto", "autoattack", 10_000, 3, 34),
        ("auto", "autoattack", 1_000, 1, 1),
        ("auto", "pgd", 10_000, 1, 1),
        ("auto", "autoattack", None, 1, 1),
        (MAX_SHARDS, "pgd", 1_000_000, 1, MAX_SHARDS),
    ],
)
def test_how_many_jobs_share_an_attack(
    shards: int | str, kind: str, images: int | None, seeds: int, count: int
) -> None:
    attack = tiny.attack(kind, batch=250, **({"steps": 20} if kind == "pgd" else {}))
    assert shard_count(shards, attack, seeds, images) == count
    only_some = attack.model_copy(update={"images": images})
    assert shard_count(shards, only_some, seeds, None) == count


def test_the_key_reaches_no_job_and_its_mistakes_are_named() -> None:
    """Jobs are repeated where what they are given changes."""
    cifar = {"preset": "cifar10-resnet18-fast"}
    shared = load({**cifar, "shards": 7})
    assert shared.shards_of("at", "autoattack-1000") == 4
    assert shared.model_dump() == load(cifar).model_dump()
    for wrong in (0, -1, "all", True, 1001):
        with pytest.raises(ConfigError, match=r"shards: expected a number of jobs from 1 to 1000, or auto"):
            load({**cifar, "shards": wrong})


def test_the_title_of_a_shard() -> None:
    wildcards = {"run": "at", "attack": "autoattack", "shard": "2-of-4"}
    assert job_title("attack_shard", wildcards) == "at autoattack shard 2-of-4"


# --- through files --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Paths:
    """A run with two seeds."""
    paths = tiny.paths_in(tmp_path_factory.mktemp("trained"))
    data.save(tiny.dataset(), paths.dataset("tiny"))
    for seed in SEEDS:
        run_training(tiny.training_spec(tiny.run(epochs=1)), seed=seed, paths=paths, say=lambda _: None)
    return paths


def outcome(paths: Paths, spec: EvaluationSpec) -> tuple[bytes, OutcomeRecord, bytes]:
    """Verdicts, examples and the record without the time."""
    file = run_evaluation(spec, paths=paths, say=lambda _: None)
    run = paths.run_files("tests", "some-run")
    record = read_record(run.outcome_record("some-attack"), OutcomeRecord).model_copy(update={"seconds": {}})
    examples = read_examples(run.examples("some-attack"))
    images = b"".join(array.tobytes() for array in vars(examples).values())
    return file.read_bytes(), record, images


@pytest.mark.parametrize("kind", ["pgd", "square"])
def test_verdicts_do_not_depend_on_the_number_of_shards(kind: str, trained: Paths, tmp_path: Path) -> None:
    spec = tiny.evaluation_spec(kind, seeds=SEEDS)
    whole = outcome(Paths(trained.data, trained.results, tmp_path / "whole"), spec)
    for count in (2, 3, 9):
        paths = Paths(trained.data, trained.results, tmp_path / f"{count}")
        lines: list[str] = []
        for number in range(count, 0, -1):  # in any order
            run_shard(spec, Shard(number, count), paths=paths, say=lines.append)
        done = [int(line.split(": ")[1].split(" of ")[0]) for line in lines]
        assert sum(done) == BATCHES * len(SEEDS)
        assert lines[0].startswith(f"some-run some-attack shard {count}-of-{count}: ")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(attacks, "_evaluate_batch", lambda *_, **__: pytest.fail("nothing is left to attack"))
            assert outcome(paths, spec) == whole


def test_a_killed_shard_resumes_and_a_missing_one_is_made_up_for(
    trained: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, paths = tiny.evaluation_spec(seeds=SEEDS), Paths(trained.data, trained.results, tmp_path / "state")
    evaluate_batch = attacks._evaluate_batch
    attacked: list[object] = []

    def counted(*args: object, **kwargs: object) -> object:
        if len(attacked) == 2:
            raise Killed
        attacked.append(args)
        return evaluate_batch(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(attacks, "_evaluate_batch", counted)
    with pytest.raises(Killed):
        run_shard(spec, Shard(1, 2), paths=paths, say=lambda _: None)
    attacked.clear()
    with pytest.raises(Killed):  # batches 5 and 7 of the first half; then the other half is missing
        run_shard(spec, Shard(1, 2), paths=paths, say=lambda _: None)
        outcome(paths, spec)
    assert len(attacked) == 2
    monkeypatch.setattr(attacks, "_evaluate_batch", evaluate_batch)
    assert outcome(paths, spec) == outcome(Paths(trained.data, trained.results, tmp_path / "whole"), spec)


@pytest.mark.slow
def test_shards_in_the_pipeline(tmp_path: Path) -> None:
    """Three shards and a whole attack give the same file; nothing is left of the shards, and nothing to do."""
    project = Project.create(tmp_path / "project")
    project.params("preset: tiny\nselect: [at]\nseeds: [0, 1]\nattacks: {pgd-5: {batch: 50}}\nshards: 3\n")
    file = "results/tiny/at/outcomes/pgd-5.csv"
    assert project.would_run(file)["attack_shard", "at"] == 3
    code, output = project.snakemake(file)
    assert code == 0 and "at pgd-5 shard 3-of-3: 5 of 16 batches" in output and "output file" not in output, output
    shared = (project.folder / file).read_bytes()
    assert len(list(csv.reader(shared.decode().splitlines()))) == 2 * 359 + 1
    assert not [path for path in (project.folder / "state/shards").rglob("*") if path.is_file()]
    assert project.would_run(file) == {}
    (project.folder / file).unlink()
    project.params("preset: tiny\nselect: [at]\nseeds: [0, 1]\nattacks: {pgd-5: {batch: 50}}\n")
    code, output = project.call(BIN / "dynat", "attack", "at", "pgd-5", "--state", "fresh")
    assert code == 0, output
    assert (project.folder / file).read_bytes() == shared
