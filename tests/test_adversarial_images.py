"""Adversarial images as a file: what is in it, and that a file which is not what its record says is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dynat import data
from dynat.attacks import evaluation as attacks
from dynat.config import load
from dynat.data import to_pixels
from dynat.jobs.adversarial import check_adversarial, run_adversarial
from dynat.jobs.evaluation import load_target, run_evaluation
from dynat.jobs.training import run_training
from dynat.nn.modes import evaluating
from dynat.results.outcomes import read_outcome
from dynat.results.paths import Paths, SeedFiles
from dynat.results.records import AdversarialRecord, read_record, write_record
from dynat.results.weights import file_sha256
from dynat.runtime.errors import UserError
from tests import tiny
from tests.project import Project

SEEDS = (0, 3)
SPEC = tiny.evaluation_spec("pgd", seeds=SEEDS, images=25, eps=0.08, step_size=0.03)
NAME = SPEC.attack_name


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Paths:
    """A run with two seeds, trained and attacked; the batches hold their images."""
    paths = tiny.paths_in(tmp_path_factory.mktemp("attacked"))
    data.save(tiny.dataset(), paths.dataset("tiny"))
    for seed in SEEDS:
        run_training(tiny.training_spec(tiny.run(epochs=12)), seed=seed, paths=paths, say=lambda _: None)
    run_evaluation(SPEC, paths=paths, say=lambda _: None, keep_images=True)
    return paths


def recorded(paths: Paths, seed: int) -> torch.Tensor:
    verdicts = read_outcome(paths.run_files("tests", "some-run"), NAME).verdicts
    return torch.tensor(verdicts[verdicts["seed"] == seed]["correct"].to_numpy() == 1)


@pytest.mark.parametrize("ending", ["pt", "safetensors"])
def test_the_file_holds_what_the_verdicts_are_about(
    ending: str, attacked: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attacks, "_evaluate_batch", lambda *_, **__: pytest.fail("the batches are finished"))
    lines: list[str] = []
    file = run_adversarial(SPEC, 3, ending, paths=attacked, say=lines.append)
    assert file == attacked.seed_files("tests", "some-run", 3).folder / f"{NAME}.adversarial.{ending}"
    if ending == "pt":
        images = torch.load(file, weights_only=True)
    else:
        content = load_file(file)
        images = content["images"]
        assert torch.equal(content["labels"], tiny.dataset().test.first(25).labels)
    test = tiny.dataset().test.first(25)
    assert images.dtype == torch.float32 and images.shape == test.images.shape, "in the order of the test set"
    assert images.min() >= 0 and images.max() <= 1
    assert ((images - to_pixels(test.images)).abs() <= 0.08 + 1e-6).all()
    model = load_target(attacked.seed_files("tests", "some-run", 3))[0]
    with torch.no_grad(), evaluating(model):
        correct = model(images).argmax(1) == test.labels
    assert torch.equal(correct, recorded(attacked, 3)) and 0 < correct.sum() < 25
    record = read_record(file.with_name(f"{file.name}.json"), AdversarialRecord)
    assert (record.correct, record.shape) == (int(correct.sum()), (25, 1, 8, 8))
    assert record.file_sha256 == file_sha256(file.read_bytes())
    assert f"all inside the ball, {record.correct} classified correctly, as recorded" in lines[-1]


def test_images_that_were_not_kept_are_made_again(attacked: Paths, tmp_path: Path) -> None:
    kept = run_adversarial(SPEC, 0, "safetensors", paths=attacked, say=lambda _: None).read_bytes()
    fresh = Paths(attacked.data, tmp_path / "results", tmp_path / "state")
    shutil.copytree(attacked.results, fresh.results)
    before = run_evaluation(SPEC, paths=fresh, say=lambda _: None).read_bytes()
    again = run_adversarial(SPEC, 0, "safetensors", paths=fresh, say=lambda _: None)
    assert again.read_bytes() == kept
    assert run_evaluation(SPEC, paths=fresh, say=lambda _: None).read_bytes() == before, (
        "batches with images still count"
    )


def damaged(images: torch.Tensor, kind: str) -> torch.Tensor:
    images = images.clone()
    if kind == "outside the ball":
        images[7, 0, 0, 0] += 0.2 if images[7, 0, 0, 0] < 0.5 else -0.2
        images[7, 0, 0, 1] += 0.2 if images[7, 0, 0, 1] < 0.5 else -0.2
    if kind == "another verdict":
        images = to_pixels(tiny.dataset().test.first(25).images)
    return images[:20] if kind == "other images" else images


@pytest.mark.parametrize("kind", ["changed after it was", "outside the ball", "another verdict", "other images"])
def test_a_file_that_is_not_what_its_record_says_is_refused(kind: str, attacked: Paths, tmp_path: Path) -> None:
    file = run_adversarial(SPEC, 0, "safetensors", paths=attacked, say=lambda _: None)
    record_file = file.with_name(f"{file.name}.json")
    for part in (file, record_file):
        shutil.copy(part, tmp_path)
    files, copy = SeedFiles(tmp_path), tmp_path / file.name
    save_file({"images": damaged(load_file(file)["images"], kind).contiguous()}, copy)
    if kind != "changed after it was":
        record = read_record(record_file, AdversarialRecord)
        changed = record.model_copy(update={"file_sha256": file_sha256(copy.read_bytes())})
        write_record(tmp_path / record_file.name, changed)
    model = load_target(attacked.seed_files("tests", "some-run", 0))[0]
    with pytest.raises(UserError, match=kind):
        check_adversarial(files, NAME, "safetensors", model, tiny.dataset().test.first(25), recorded(attacked, 0))


def test_the_key_adds_files_and_changes_nothing_else() -> None:
    with_images = load({"preset": "digits", "attacks": {"pgd-20": {"adversarial_images": "pt"}}})
    plain = load({"preset": "digits"})
    assert with_images.attacks["pgd-20"].adversarial_images == "pt"
    assert with_images.evaluation("at", "pgd-20") == plain.evaluation("at", "pgd-20")
    assert json.loads(with_images.model_dump_json()) == json.loads(plain.model_dump_json())


@pytest.mark.slow
def test_the_pipeline_writes_them_beside_the_weights(tmp_path: Path) -> None:
    project = Project.create(tmp_path / "project")
    attacks_ = "attacks: {pgd-5: {images: 40, adversarial_images: pt}}\nsanity: {images: 5}\n"
    project.params(f"preset: tiny\nselect: [at]\nseeds: [0, 1]\n{attacks_}")
    assert project.would_run("all")["adversarial_images", "at"] == 2
    code, output = project.snakemake("all")
    assert code == 0 and "at pgd-5 seed 1 adversarial images: 40 images in" in output, output
    assert torch.load(project.results("at", "seed1", "pgd-5.adversarial.pt"), weights_only=True).shape == (40, 1, 8, 8)
    assert project.would_run("all") == {}
