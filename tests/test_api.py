"""The Python functions: they give what the pipeline gives, and refuse what would give a wrong number."""

from __future__ import annotations

import copy
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import dynat
from dynat import attacks, data, models
from dynat.api import Result
from dynat.api.inputs import digests
from dynat.config import DatasetConfig, ThreatModel, TrainingSpec
from dynat.config.preset_input import PresetInput
from dynat.config.resolve import resolve_attack, resolve_run
from dynat.data import LabeledImages, to_pixels
from dynat.jobs.training import run_training
from dynat.pgd import Ball
from dynat.results.paths import Paths
from dynat.runtime.errors import UserError
from tests import tiny

EPS = tiny.THREAT.eps


def test_importing_dynat_does_not_import_torch() -> None:
    code = "import sys, dynat; assert 'torch' not in sys.modules; dynat.evaluate; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert {"attack", "compare", "evaluate", "load", "train"} <= set(dir(dynat))
    with pytest.raises(AttributeError):
        dynat.evaluat  # noqa: B018 - what is tested


def test_an_evaluation_gives_the_verdicts_of_the_pipeline(mlp: nn.Module, noisy_images: LabeledImages) -> None:
    result = dynat.evaluate(
        mlp, noisy_images.images, noisy_images.labels, attacks=["pgd-10", "fgsm"], eps=EPS, progress=False
    )
    assert list(result.attacks) == ["clean", "pgd-10", "fgsm"]
    for name in result.attacks:
        expected = attacks.evaluate(mlp, noisy_images, resolve_attack(name, {}, ThreatModel(eps=EPS)))
        assert torch.equal(result[name].correct, expected.columns["correct"])
        assert result[name].accuracy == float(expected.columns["correct"].float().mean())
    low, high = result["pgd-10"].interval
    assert low < result["pgd-10"].accuracy < high
    both = result["pgd-10"].correct & result["fgsm"].correct
    assert torch.equal(result.worst_case.correct, both & result["clean"].correct)
    assert "pgd-10" in str(result) and list(result.table().index) == list(result.attacks)
    with pytest.raises(KeyError, match="pgd-10"):
        result["pgd-20"]


@pytest.mark.parametrize("form", ["bytes", "pixels", "array", "pixels in float64"])
def test_images_may_be_bytes_or_pixels(form: str, mlp: nn.Module, noisy_images: LabeledImages) -> None:
    pixels = to_pixels(noisy_images.images)
    forms = {
        "bytes": noisy_images.images,
        "pixels": pixels,
        "array": pixels.numpy(),
        "pixels in float64": pixels.double(),
    }
    labels = noisy_images.labels.tolist() if form == "array" else noisy_images.labels
    given: Any = forms[form]
    result = dynat.evaluate(mlp, given, labels, attacks="pgd-5", eps=EPS, progress=False)
    again = dynat.evaluate(mlp, noisy_images.images, noisy_images.labels, attacks="pgd-5", eps=EPS, progress=False)
    assert torch.equal(result["pgd-5"].margin, again["pgd-5"].margin) and result.images == again.images


def test_pixels_that_are_no_bytes_are_not_rounded(mlp: nn.Module, noisy_images: LabeledImages) -> None:
    pixels = (to_pixels(noisy_images.images) + 0.3 / 255).clamp(0, 1)
    result = dynat.evaluate(mlp, pixels, noisy_images.labels, attacks=(), eps=EPS, progress=False)
    with torch.no_grad():
        assert torch.equal(result["clean"].prediction, mlp(pixels).argmax(1))
    adversarial = dynat.attack(mlp, pixels, noisy_images.labels, "pgd-3", eps=EPS, progress=False)
    assert Ball("linf", EPS).distance(adversarial.images, pixels).max() <= EPS + 1e-6


@pytest.mark.parametrize("name", ["pgd-10", "cw-l2"])
def test_an_attack_returns_images_that_break_the_network(
    name: str, mlp: nn.Module, noisy_images: LabeledImages
) -> None:
    norm, eps = ("l2", 0.5) if name == "cw-l2" else ("linf", EPS)
    settings = {"steps": 20, "batch": 16} if name == "cw-l2" else {"batch": 16}
    images, broken = dynat.attack(
        mlp, noisy_images.images, noisy_images.labels, name, eps=eps, norm=norm, progress=False, **settings
    )
    pixels = to_pixels(noisy_images.images)
    with torch.no_grad():
        assert torch.equal(mlp(images).argmax(1) != noisy_images.labels, broken)
    assert broken.any() and not broken.all()
    assert (Ball(norm, eps).distance(images, pixels) <= eps + 1e-6).all()
    assert images.min() >= 0 and images.max() <= 1 and len(images) == len(pixels)


def test_the_model_is_left_as_it_was(mlp: nn.Module, noisy_images: LabeledImages) -> None:
    mlp.train()
    before = {name: value.clone() for name, value in mlp.state_dict().items()}
    flags = (torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32)
    torch.backends.cudnn.benchmark = True
    try:
        dynat.evaluate(mlp, noisy_images.images, noisy_images.labels, attacks="pgd-2", eps=EPS, progress=False)
        assert torch.backends.cudnn.benchmark
    finally:
        torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32 = flags
    assert mlp.training and all(parameter.requires_grad for parameter in mlp.parameters())
    assert all(torch.equal(before[name], value) for name, value in mlp.state_dict().items())


class Counter:
    """Not an attribute of the network itself, which would make it another one."""

    def __init__(self, left: int) -> None:
        self.left = left


class Counted(nn.Module):
    """A network that is interrupted after so many forward passes."""

    def __init__(self, net: nn.Module, left: int) -> None:
        super().__init__()
        self.net, self.passes = net, Counter(left)

    def forward(self, pixels: Tensor) -> Tensor:
        if not self.passes.left:
            raise KeyboardInterrupt
        self.passes.left -= 1
        logits: Tensor = self.net(pixels)
        return logits


def test_an_interrupted_evaluation_resumes(mlp: nn.Module, noisy_images: LabeledImages, tmp_path: Path) -> None:
    enough = 10_000

    def call(model: nn.Module, state: Path | None) -> Result:
        attack = {"pgd-5": {"batch": 16, "surrogate": "none"}}
        return dynat.evaluate(
            model, noisy_images.images, noisy_images.labels, attacks=attack, eps=EPS, state=state, progress=False
        )

    fresh = Counted(mlp, enough)
    expected = call(fresh, None)
    with pytest.raises(KeyboardInterrupt):
        call(Counted(mlp, 25), tmp_path)
    resumed = Counted(mlp, enough)
    assert torch.equal(call(resumed, tmp_path)["pgd-5"].margin, expected["pgd-5"].margin)
    assert enough - resumed.passes.left < enough - fresh.passes.left - 10, "finished batches are not repeated"

    other = copy.deepcopy(mlp)
    with torch.no_grad():
        next(other.parameters()).neg_()
    assert torch.equal(
        call(Counted(other, enough), tmp_path)["pgd-5"].margin, call(Counted(other, enough), None)["pgd-5"].margin
    ), "other weights resume nothing"


class Scaled(nn.Module):
    """What `repr` and `state_dict` show of it is always the same."""

    scale: Tensor

    def __init__(self, net: nn.Module, mean: float, scale: float, clip: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.net, self.mean, self.clip = net, mean, clip
        self.register_buffer("scale", torch.tensor(scale), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.net(self.clip((pixels - self.mean) / self.scale))
        return logits


class Inverted(Scaled):
    def forward(self, pixels: Tensor) -> Tensor:
        return super().forward(1 - pixels)


Inverted.__qualname__ = Inverted.__name__ = "Scaled"


def test_another_model_resumes_nothing_whatever_tells_them_apart(mlp: nn.Module, noisy_images: LabeledImages) -> None:
    models = {
        "itself": Scaled(copy.deepcopy(mlp), 0.0, 1.0, lambda pixels: pixels),
        "attribute": Scaled(mlp, 0.5, 1.0, lambda pixels: pixels),
        "buffer": Scaled(mlp, 0.0, 0.5, lambda pixels: pixels),
        "function": Scaled(mlp, 0.0, 1.0, lambda pixels: pixels * 2),
        "forward": Inverted(mlp, 0.0, 1.0, lambda pixels: pixels),
    }
    first = Scaled(mlp, 0.0, 1.0, lambda pixels: pixels)
    assert {name for name, each in models.items() if digests(each, noisy_images) == digests(first, noisy_images)} == {
        "itself"
    }
    assert len({repr(each) for each in models.values()}) == 1


def test_a_model_is_the_same_in_another_process() -> None:
    script = (
        "import torch; from torch import nn; from dynat.api.identity import model_digest\n"
        "class Net(nn.Module):\n"
        "    def __init__(self): super().__init__(); self.names = {'a', 'b', 'c'}; self.net = object()\n"
        "    def forward(self, x): return x if self.names & {'a', 'd', 'e'} else -x\n"
        "print(model_digest(Net()))"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", script], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        )
        for seed in ("1", "2")
    ]
    assert runs[0].stdout == runs[1].stdout != b""


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"images": torch.randn(4, 1, 8, 8)}, r"expected pixels in \[0,1\]"),
        ({"images": torch.rand(4, 1, 8, 8) * 255}, r"expected pixels in \[0,1\]"),
        ({"images": torch.full((4, 1, 8, 8), float("nan"))}, "nan"),
        ({"images": torch.randint(0, 255, (4, 1, 8, 8))}, "uint8"),
        ({"images": torch.rand(4, 64)}, "N x C x H x W"),
        ({"labels": [0, 1, 2]}, "4 class numbers"),
        ({"labels": torch.zeros(4)}, "float32"),
        ({"labels": [0, 1, 2, tiny.CLASSES]}, f"the model has {tiny.CLASSES} classes"),
        ({"labels": [0, 1, 2, -1]}, "from -1"),
        ({"eps": 8}, "eps"),
        ({"eps": "8/25x"}, "eps"),
        ({"norm": "l1x"}, "norm"),
        ({"attacks": "pdg-20"}, "pgd-20"),
        ({"attacks": {"pgd-20": {"restart": 3}}}, "restarts"),
        ({"model": nn.Conv2d(1, 3, 3)}, "logits"),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),  # random tensors are no names
)
def test_what_would_give_a_wrong_number_is_refused(changed: dict[str, Any], message: str, mlp: nn.Module) -> None:
    given: dict[str, Any] = {
        "model": mlp,
        "images": torch.rand(4, 1, 8, 8),
        "labels": [0, 1, 2, 3],
        "eps": EPS,
        "attacks": "pgd-2",
        **changed,
    }
    with pytest.raises(UserError, match=message):
        dynat.evaluate(given.pop("model"), given.pop("images"), given.pop("labels"), **given, progress=False)


def test_accuracy_at_chance_is_a_warning(mlp: nn.Module, noisy_images: LabeledImages) -> None:
    shuffled = (noisy_images.labels + torch.arange(len(noisy_images))) % tiny.CLASSES
    result = dynat.evaluate(mlp, noisy_images.images, shuffled, attacks=(), eps=EPS, progress=False)
    assert any("near chance" in warning for warning in result.warnings) and "warning: clean" in str(result)
    right = dynat.evaluate(mlp, noisy_images.images, noisy_images.labels, attacks=(), eps=EPS, progress=False)
    assert not right.warnings


def test_a_comparison_is_paired(mlp: nn.Module, noisy_images: LabeledImages) -> None:
    def result(eps: float) -> Result:
        return dynat.evaluate(
            mlp, noisy_images.images, noisy_images.labels, attacks={"pgd-5": {"eps": eps}}, eps=EPS, progress=False
        )

    weak, strong = result(EPS / 4), result(EPS)
    found = dynat.compare(weak, strong, "pgd-5")
    lost = (weak["pgd-5"].correct & ~strong["pgd-5"].correct).sum()
    assert found.only_first == lost > 0 and found.n == len(noisy_images)
    assert found.difference == pytest.approx(weak["pgd-5"].accuracy - strong["pgd-5"].accuracy)
    assert found.interval[0] < found.difference < found.interval[1]
    assert found.only_second == 0 and found.p == pytest.approx(min(1.0, 2 * 0.5**found.only_first))
    same = dynat.compare(weak, weak, "pgd-5")
    assert same.difference == 0 and same.p == 1
    fewer = dynat.evaluate(
        mlp, noisy_images.images[:20], noisy_images.labels[:20], attacks="pgd-5", eps=EPS, progress=False
    )
    with pytest.raises(UserError, match="different images"):
        dynat.compare(weak, fewer, "pgd-5")


RECIPE = {
    "method": "at",
    "labels": "dynamic",
    "target": "small",
    "guide": "small",
    "epochs": 2,
    "batch": 16,
    "inner": {"steps": 2},
    "augmentation": {"padding": 0, "flip": False},
    "schedule": {"lr": 0.05},
    "precision": "float32",
}


def test_training_gives_networks_of_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = tiny.images(20, seed=1)
    trained = dynat.train(RECIPE, images.images, images.labels, eps=EPS, device="cpu", progress=False)
    again = dynat.train(RECIPE, images.images, images.labels, eps=EPS, device="cpu", state=tmp_path, progress=False)
    assert trained.guide is not None and [row["epoch"] for row in trained.history] == [1, 2]
    assert not trained.target.training
    test = tiny.images(20, seed=2)
    with torch.no_grad():
        logits = trained.target(to_pixels(test.images))
        assert torch.equal(logits, again.target(to_pixels(test.images))), "the same training twice"
    assert (logits.argmax(1) == test.labels).float().mean() > 1.5 / tiny.CLASSES
    assert any(tmp_path.rglob("state.pt"))
    monkeypatch.setattr("dynat.api.training.compute_dtype", lambda *_: torch.bfloat16)
    dynat.train(RECIPE, images.images, images.labels, eps=EPS, device="cpu", state=tmp_path, progress=False)
    assert len(list(tmp_path.iterdir())) == 2, "a state of another precision is not resumed"
    other = dynat.train(
        RECIPE | {"labels": "true", "guide": None}, images.images, images.labels, eps=EPS, device="cpu", progress=False
    )
    assert other.guide is None


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"methd": "at"}, "method"),
        ({"method": "at", "labels": "dynamic", "target": "small"}, "needs a guide"),
        ({"method": "at", "target": "smal"}, "small"),
        ({"method": "at", "target": "small", "gpus": 2, "batch": 16}, "gpus"),
    ],
    ids=str,
)
def test_an_impossible_recipe_is_refused(recipe: dict[str, Any], message: str) -> None:
    images = tiny.images(4, seed=1)
    with pytest.raises(UserError, match=message):
        dynat.train(recipe, images.images, images.labels, eps=EPS, progress=False)


def test_load_reads_trained_seeds_and_files_of_weights(tmp_path: Path) -> None:
    paths = Paths(data=tmp_path / "data", results=tmp_path / "results", state=tmp_path / "state")
    data.save(tiny.dataset(), paths.dataset("tiny"))
    run = resolve_run("at", {**RECIPE, "labels": "true", "guide": None}, PresetInput(), tiny.THREAT)
    spec = TrainingSpec(preset="tiny", name="at", data="tiny", threat=tiny.THREAT, run=run)
    folder = run_training(spec, seed=0, paths=paths, device="cpu", say=lambda text: None)

    pixels = to_pixels(tiny.images(2, seed=3).images)
    network = models.build("small", classes=tiny.CLASSES, channels=1).eval()
    network.load_state_dict(load_file(folder / "target.safetensors"))
    last = models.build("small", classes=tiny.CLASSES, channels=1).eval()
    last.load_state_dict(load_file(folder / "target-last.safetensors"))
    file = tmp_path / "theirs.pt"
    torch.save({"state_dict": network.state_dict()}, file)
    with torch.no_grad():
        loaded = dynat.load(folder)
        assert torch.equal(loaded(pixels), network(pixels)) and not loaded.training
        assert torch.equal(dynat.load(folder, weights="last")(pixels), last(pixels))
        theirs = dynat.load(file, arch="small", classes=tiny.CLASSES, channels=1)
        assert torch.equal(theirs(pixels), network(pixels))
    with pytest.raises(UserError, match="arch="):
        dynat.load(file)
    with pytest.raises(UserError, match=r"config\.json"):
        dynat.load(tmp_path)


def test_a_prepared_data_set_has_tensors_for_these_functions(tmp_path: Path, mlp: nn.Module) -> None:
    data.save(tiny.dataset(), tmp_path)
    test = data.load(tmp_path).test
    result = dynat.evaluate(mlp, test.images, np.asarray(test.labels), attacks="fgsm", eps="2/255", progress=False)
    assert result["fgsm"].n == len(test)


def test_the_examples_of_the_documentation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[1] / "docs" / "api.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) >= 6
    monkeypatch.chdir(tmp_path)
    paths = Paths(data=Path("data"), results=Path("results"), state=Path("state"))
    data.prepare(DatasetConfig(name="digits", source="digits"), paths.data)
    run = resolve_run("dynat", RECIPE | {"epochs": 1}, PresetInput(), ThreatModel(eps=0.15))
    spec = TrainingSpec(preset="digits", name="dynat", data="digits", threat=ThreatModel(eps=0.15), run=run)
    run_training(spec, seed=0, paths=paths, device="cpu", say=lambda text: None)
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, "docs/api.md", "exec"), names)
    assert names["result"]["pgd-20"].accuracy > 0.3, "the networks of the page are robust"
