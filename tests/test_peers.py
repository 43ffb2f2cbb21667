"""Agreement with other libraries: pyautoattack called directly, torchattacks and foolbox give the same verdicts, and
our weights load into networks with RobustBench's names and structure.

All on one small network trained here against FGSM: correct on nearly every digit, broken by attacks on a part of them.
"""

from __future__ import annotations

import importlib.util
import math
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from dynat import data, models
from dynat.attacks import evaluate
from dynat.attacks.evaluation import batch_seed
from dynat.attacks.first_order import pgd
from dynat.checkpoints.weights import load_weights, save_weights
from dynat.config import AttackConfig, Checkpoint, DatasetConfig
from dynat.data import LabeledImages, to_pixels
from dynat.jobs.import_checkpoint import load_checkpoint
from dynat.nn.normalize import normalized
from dynat.pgd import Ball
from dynat.results.statistics import wilson

EPS, STEPS = 0.15, 10


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> data.Dataset:
    folder = tmp_path_factory.mktemp("data")
    return data.load(data.prepare(DatasetConfig(name="digits", source="digits"), folder))


@pytest.fixture(scope="module")
def network(digits: data.Dataset) -> nn.Module:
    pixels, labels = to_pixels(digits.train.images), digits.train.labels
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = models.build("small", classes=10, channels=1)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(4):
        for batch in torch.randperm(len(labels), generator=generator).split(100):
            start = (
                pixels[batch] + EPS * (2 * torch.rand(pixels[batch].shape, generator=generator) - 1)
            ).requires_grad_()
            (gradient,) = torch.autograd.grad(functional.cross_entropy(net(start), labels[batch]), start)
            adversarial = pixels[batch] + (start.detach() + EPS * gradient.sign() - pixels[batch]).clamp(-EPS, EPS)
            optimizer.zero_grad()
            functional.cross_entropy(net(adversarial.clamp(0, 1)), labels[batch]).backward()
            optimizer.step()
    return net.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def image_set(network: nn.Module, digits: data.Dataset) -> LabeledImages:
    """Correctly classified images only: the other libraries attack all images they are given."""
    test = digits.test.first(200)
    return test[(network(to_pixels(test.images)).argmax(1) == test.labels).nonzero()[:, 0]]


def attack(kind: str, norm: str = "linf", eps: float = EPS, **fields: Any) -> AttackConfig:
    defaults = {"steps": STEPS, "step_size": eps / 4, "start": "none"} if kind == "pgd" else {}
    return AttackConfig.model_validate({"kind": kind, "norm": norm, "eps": eps, "batch": 1000, **defaults, **fields})


def is_misclassified(network: nn.Module, adversarial: Tensor, labels: Tensor) -> Tensor:
    return network(adversarial).argmax(1) != labels


# --- pyautoattack ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("norm", "eps", "queries"),
    [
        ("linf", EPS, 300),
        pytest.param("linf", EPS, 5000, marks=pytest.mark.slow),
        pytest.param("l2", 0.7, 5000, marks=pytest.mark.slow),
        pytest.param("l1", 2.5, 5000, marks=pytest.mark.slow),
    ],
)
def test_autoattack_as_published_gives_the_same_verdicts(
    norm: str, eps: float, queries: int, network: nn.Module, image_set: LabeledImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same network, images and seed: the same verdicts, except for its claims that are not valid."""
    import pyautoattack

    published = pyautoattack.AutoAttack._set_version

    def with_queries(self: Any, version: str = "standard") -> None:
        published(self, version)
        self.square.n_queries = queries  # 5,000 as published; they are most of the time

    monkeypatch.setattr(pyautoattack.AutoAttack, "_set_version", with_queries)
    few, auto = image_set.first(24), attack("autoattack", norm, eps)
    evaluation = evaluate(network, few, auto)
    pixels = to_pixels(few.images)
    with torch.random.fork_rng():
        name = {"linf": "Linf", "l2": "L2", "l1": "L1"}[norm]
        peer = pyautoattack.AutoAttack(network, norm=name, eps=eps, seed=batch_seed(auto, 0), version="standard")
        adversarial = peer.run_standard_evaluation(pixels, few.labels, batch_size=len(few))[0]
    offset = (adversarial - pixels).flatten(1)
    distance = offset.double().norm(dim=1, p={"linf": torch.inf, "l2": 2, "l1": 1}[norm])
    tolerance = 1e-5 if norm == "l1" else 1e-6  # their L1 projection is in float32
    valid = (distance <= eps + tolerance) & (adversarial.amin((1, 2, 3)) >= 0) & (adversarial.amax((1, 2, 3)) <= 1)
    theirs = is_misclassified(network, adversarial, few.labels) & valid
    assert 4 <= int(theirs.sum()) <= 20, "some are broken, some are not"
    # The prediction on an image at the decision boundary may depend on the size of the batch.
    differ = evaluation.columns["correct"] == theirs
    assert (evaluation.columns["margin"][differ].abs() < 1e-4).all(), f"{int(differ.sum())} of {len(few)} differ"


# --- torchattacks and foolbox ---------------------------------------------------------------------------------


def by_torchattacks(network: nn.Module, pixels: Tensor, labels: Tensor, *, start: bool) -> Tensor:
    torchattacks = pytest.importorskip("torchattacks")
    adversarial: Tensor = torchattacks.PGD(network, eps=EPS, alpha=EPS / 4, steps=STEPS, random_start=start)(
        pixels, labels
    )
    return adversarial


def by_foolbox(network: nn.Module, pixels: Tensor, labels: Tensor, *, start: bool, l2: float | None = None) -> Tensor:
    foolbox = pytest.importorskip("foolbox")
    kind = foolbox.attacks.LinfPGD if l2 is None else foolbox.attacks.L2ProjectedGradientDescentAttack
    eps = EPS if l2 is None else l2
    peer = kind(abs_stepsize=eps / 4, steps=STEPS, random_start=start)
    # `run` returns the last iterate; calling the attack would reset images that it did not break.
    adversarial: Tensor = peer.run(
        foolbox.PyTorchModel(network, bounds=(0, 1), device="cpu"),
        pixels,
        foolbox.criteria.Misclassification(labels),
        epsilon=eps,
    )
    return adversarial


PEERS = {"torchattacks": by_torchattacks, "foolbox": by_foolbox}


@pytest.mark.parametrize("peer", PEERS)
def test_pgd_from_the_image_equals_theirs_step_by_step(peer: str, network: nn.Module, image_set: LabeledImages) -> None:
    """Nothing is random, so an image that is never broken ends at the same point. We stop at a misclassified image and
    they continue: images broken at their end are broken here too."""
    pixels, labels = to_pixels(image_set.images), image_set.labels
    theirs = PEERS[peer](network, pixels, labels, start=False)
    ours = pgd(network, pixels, labels, attack("pgd"), seed=0)
    broken = is_misclassified(network, ours, labels)
    assert 0.1 < broken.float().mean() < 0.9
    torch.testing.assert_close(ours[~broken], theirs[~broken], rtol=0, atol=1e-5)
    assert not (is_misclassified(network, theirs, labels) & ~broken).any()
    evaluation = evaluate(network, image_set, attack("pgd"))
    assert torch.equal(evaluation.columns["correct"], ~broken)
    assert int(broken.sum()) - int(is_misclassified(network, theirs, labels).sum()) <= 0.05 * len(broken), (
        "a success is seldom undone"
    )


def test_pgd_in_l2_equals_foolboxs_step_by_step(network: nn.Module, image_set: LabeledImages) -> None:
    pixels, labels = to_pixels(image_set.images), image_set.labels
    theirs = by_foolbox(network, pixels, labels, start=False, l2=0.5)
    ours = pgd(network, pixels, labels, attack("pgd", "l2", 0.5), seed=0)
    broken = is_misclassified(network, ours, labels)
    assert 0.1 < broken.float().mean() < 0.9
    torch.testing.assert_close(ours[~broken], theirs[~broken], rtol=0, atol=1e-4)
    assert not (is_misclassified(network, theirs, labels) & ~broken).any()


@pytest.mark.parametrize("eps", [1.0, 1.5, 2.0])
def test_pgd_in_l1_is_at_least_as_strong_as_foolboxs(eps: float, network: nn.Module, image_set: LabeledImages) -> None:
    """The same steps from the image (SLIDE). Theirs projects onto the ball and clips afterwards, ours projects onto the
    intersection, which leaves more of the radius."""
    foolbox = pytest.importorskip("foolbox")
    pixels, labels = to_pixels(image_set.images), image_set.labels
    peer = foolbox.attacks.SparseL1DescentAttack(abs_stepsize=eps / 4, steps=40)
    model = foolbox.PyTorchModel(network, bounds=(0, 1), device="cpu")
    _, theirs, success = peer(model, pixels, labels, epsilons=eps)
    success &= Ball("l1", eps).distance(theirs, pixels) <= eps + 1e-5
    ours = ~evaluate(network, image_set, attack("pgd", "l1", eps, steps=40)).columns["correct"]
    assert 0.05 < success.float().mean() < 0.95
    low, _ = wilson(int(success.sum()), len(success))
    assert ours.float().mean() >= low and (success & ~ours).float().mean() <= 0.03


@pytest.mark.parametrize("peer", PEERS)
def test_pgd_from_a_random_start_agrees_within_the_interval(
    peer: str, network: nn.Module, image_set: LabeledImages
) -> None:
    pixels, labels = to_pixels(image_set.images), image_set.labels
    with torch.random.fork_rng():
        torch.manual_seed(1)
        theirs = ~is_misclassified(network, PEERS[peer](network, pixels, labels, start=True), labels)
    ours = evaluate(network, image_set, attack("pgd", start="uniform")).columns["correct"]
    low, high = wilson(int(ours.sum()), len(ours))
    assert low <= theirs.float().mean() <= high
    assert (ours == theirs).float().mean() >= 0.95, "the same images are broken"


def test_published_weights_give_the_same_predictions_in_other_libraries(
    network: nn.Module, digits: data.Dataset, tmp_path: Path
) -> None:
    foolbox, torchattacks = pytest.importorskip("foolbox"), pytest.importorskip("torchattacks")
    save_weights(network, tmp_path / "target.safetensors", {})
    loaded = models.build("small", classes=10, channels=1).eval()
    load_weights(loaded, tmp_path / "target.safetensors")
    pixels, labels = to_pixels(digits.test.images), digits.test.labels
    clean = evaluate(network, digits.test, attack("clean")).columns
    theirs = foolbox.PyTorchModel(loaded, bounds=(0, 1), device="cpu")
    assert torch.equal(theirs(pixels).argmax(1), clean["prediction"])
    assert foolbox.accuracy(theirs, pixels, labels) == pytest.approx(float(clean["correct"].float().mean()))
    assert torch.equal(torchattacks.PGD(loaded).get_logits(pixels).argmax(1), clean["prediction"])


# --- RobustBench ----------------------------------------------------------------------------------------------
# Its package has many dependencies pinned to old versions, so it is no dependency. The networks of its zoo for TRADES,
# MART, LBGAT and ResNet-18 are restated here; where the package is installed, its own code is tested too.


class Wide(nn.Module):
    """A WideResNet with RobustBench's names: pre-activation, average over 8x8 at the end."""

    def __init__(self, depth: int, width: int, classes: int) -> None:
        super().__init__()
        sizes = [16, 16 * width, 32 * width, 64 * width]
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        for group in (1, 2, 3):
            rows = [nn.Module() for _ in range((depth - 4) // 6)]
            for number, row in enumerate(rows):
                inputs = sizes[group - 1] if number == 0 else sizes[group]
                stride = 2 if number == 0 and group > 1 else 1
                row.bn1, row.bn2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(sizes[group])
                row.conv1 = nn.Conv2d(inputs, sizes[group], 3, stride, 1, bias=False)
                row.conv2 = nn.Conv2d(sizes[group], sizes[group], 3, 1, 1, bias=False)
                if inputs != sizes[group]:
                    row.convShortcut = nn.Conv2d(inputs, sizes[group], 1, stride, bias=False)
            self.add_module(f"block{group}", nn.Module())
            self.get_submodule(f"block{group}").layer = nn.Sequential(*rows)
        self.bn1, self.fc = nn.BatchNorm2d(sizes[3]), nn.Linear(sizes[3], classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        for group in (1, 2, 3):
            for row in self.get_submodule(f"block{group}").layer:  # type: ignore[union-attr]
                first = row.bn1(x).relu()
                inner = row.conv2(row.bn2(row.conv1(first)).relu())
                x = inner + (row.convShortcut(first) if hasattr(row, "convShortcut") else x)
        return self.fc(functional.avg_pool2d(self.bn1(x).relu(), 8).flatten(1))


class Residual(nn.Module):
    """The CIFAR ResNet-18 with its names: strides 1, 2, 2, 2, average over 4x4 at the end."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64)
        inputs = 64
        for layer, (size, stride) in enumerate(((64, 1), (128, 2), (256, 2), (512, 2)), start=1):
            rows = []
            for step in (stride, 1):
                row = nn.Module()
                row.conv1, row.bn1 = nn.Conv2d(inputs, size, 3, step, 1, bias=False), nn.BatchNorm2d(size)
                row.conv2, row.bn2 = nn.Conv2d(size, size, 3, 1, 1, bias=False), nn.BatchNorm2d(size)
                row.shortcut = nn.Sequential()
                if inputs != size:
                    row.shortcut = nn.Sequential(nn.Conv2d(inputs, size, 1, step, bias=False), nn.BatchNorm2d(size))
                rows.append(row)
                inputs = size
            self.add_module(f"layer{layer}", nn.Sequential(*rows))
        self.linear = nn.Linear(512, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv1(x)).relu()
        for layer in (1, 2, 3, 4):
            for row in self.get_submodule(f"layer{layer}"):  # type: ignore[attr-defined]
                x = (row.bn2(row.conv2(row.bn1(row.conv1(x)).relu())) + row.shortcut(x)).relu()
        return self.linear(functional.avg_pool2d(x, 4).flatten(1))


def robustbench_file(name: str) -> Any:
    """A module of its architectures, imported alone: the whole package needs old versions of other packages."""
    package = importlib.util.find_spec("robustbench")
    if package is None or package.origin is None:
        pytest.skip("robustbench is not installed: uv pip install robustbench")
    file = Path(package.origin).parent / "model_zoo" / "architectures" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"robustbench_{name}", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def build_their_resnet(module: Any, *, deep: bool = False) -> nn.Module:
    block, layers = (module.Bottleneck, [3, 4, 6, 3]) if deep else (module.BasicBlock, [2, 2, 2, 2])
    net: nn.Module = module.ResNet(block, layers)
    return net


THEIRS = {
    "wrn10-2 restated": ("wrn10-2", lambda: Wide(10, 2, 10)),
    "resnet18 restated": ("resnet18", lambda: Residual(10)),
    "wrn10-2 of the package": ("wrn10-2", lambda: robustbench_file("wide_resnet").WideResNet(depth=10, widen_factor=2)),
    "resnet18 of the package": ("resnet18", lambda: build_their_resnet(robustbench_file("resnet"))),
    "resnet50 of the package": ("resnet50", lambda: build_their_resnet(robustbench_file("resnet"), deep=True)),
}


@pytest.mark.parametrize("case", THEIRS)
@pytest.mark.parametrize("standard", [False, True], ids=["", "normalized"])
def test_published_weights_load_into_robustbenchs_networks(case: str, standard: bool, tmp_path: Path) -> None:
    """Every name, strictly, and the same logits; also with its normalization layer in front."""
    name, build = THEIRS[case]
    theirs = build()
    with torch.random.fork_rng():
        torch.manual_seed(2)
        ours = models.build(name, classes=10, channels=3)
        pixels = torch.rand(4, 3, 32, 32)
        for _ in range(3):
            ours(pixels)  # BatchNorm statistics other than the initial ones
    if standard:
        mean, std = (0.5, 0.4, 0.3), (0.25, 0.2, 0.15)
        ours = normalized(ours, mean=mean, std=std)
        theirs = with_their_normalization(theirs, mean, std, case)
    save_weights(ours, tmp_path / "target.safetensors", {})
    from safetensors.torch import load_file

    theirs.load_state_dict(load_file(tmp_path / "target.safetensors"), strict=True)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(pixels), theirs.eval()(pixels), rtol=1e-4, atol=1e-4)


SWISH = {
    "wrn10-2-swish": ("DMWideResNet", {"depth": 10, "width": 2}, 0),
    "wrn16-1-swish": ("DMWideResNet", {"depth": 16, "width": 1}, 2),
    "preact-resnet18-swish": ("DMPreActResNet", {}, 0),
}


@pytest.mark.parametrize("name", SWISH)
def test_a_state_of_robustbenchs_swish_networks_gives_their_logits(name: str, tmp_path: Path) -> None:
    """Its mean and std are no part of its state; `padding` is its option for images of 28x28."""
    kind, sizes, padding = SWISH[name]
    module = robustbench_file("dm_wide_resnet")
    with torch.random.fork_rng():
        torch.manual_seed(3)
        theirs = getattr(module, kind)(**sizes, activation_fn=module.Swish, padding=padding)
        pixels = torch.rand(4, 3, 32 - 2 * padding, 32 - 2 * padding)
        with torch.no_grad():
            for _ in range(3):
                theirs(pixels)
    torch.save(theirs.state_dict(), tmp_path / "theirs.pt")
    checkpoint = Checkpoint(file=str(tmp_path / "theirs.pt"), arch=name, padding=padding)
    ours = load_checkpoint(checkpoint, 10, 3, (32 - 2 * padding,) * 2).network
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(pixels), theirs.eval()(pixels), rtol=1e-4, atol=1e-4)


def with_their_normalization(network: nn.Module, mean: Any, std: Any, case: str) -> nn.Module:
    if case.endswith("package"):
        whole: nn.Module = robustbench_file("utils_architectures").normalize_model(network, mean, std)
        return whole

    class Layer(nn.Module):
        mean: Tensor
        std: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", torch.full((1, 3, 1, 1), math.nan))
            self.register_buffer("std", torch.full((1, 3, 1, 1), math.nan))

        def forward(self, x: Tensor) -> Tensor:
            return (x - self.mean) / self.std

    both = nn.Sequential()
    both.add_module("normalize", Layer())
    both.add_module("model", network)
    return both


# --- the documented examples ----------------------------------------------------------------------------------


def test_the_examples_of_the_documents_run_as_printed(
    network: nn.Module, image_set: LabeledImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyautoattack

    published = pyautoattack.AutoAttack._set_version

    def with_apgd_only(self: Any, version: str = "standard") -> None:
        published(self, version)
        self.attacks_to_run = ["apgd-ce"]

    monkeypatch.setattr(pyautoattack.AutoAttack, "_set_version", with_apgd_only)
    page = (Path(__file__).parents[1] / "docs" / "share-a-model.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert [name for block in blocks for name in ("torchattacks", "foolbox", "AutoAttack") if f"import {name}" in block]
    save_weights(network, tmp_path / "model.safetensors", {})
    shutil.copy(Path(models.__file__).parent / "small.py", tmp_path / "network.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "network", raising=False)
    few = image_set.first(40)
    namespace: dict[str, Any] = {"images": to_pixels(few.images), "labels": few.labels}
    shares: list[float] = []
    namespace["print"] = lambda share: shares.append(float(share))
    with torch.random.fork_rng():
        for block in blocks:
            exec(block, namespace)
    assert torch.equal(namespace["logits"].argmax(1), few.labels)
    assert len(shares) == 3 and all(0 < share < 1 for share in shares) and max(shares) - min(shares) < 0.1
