"""Others measure the same, and our weights run in their hands: pyautoattack called directly, torchattacks, foolbox,
and networks named and wired as RobustBench's are.

On one small network that was trained here against FGSM: right on nearly every digit, broken on a part.
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
from dynat.attacks import examine
from dynat.attacks.examine import batch_seed
from dynat.attacks.first_order import pgd
from dynat.config import Attack, Dataset
from dynat.data import Pictures, to_pixels
from dynat.models import load_weights, save_weights
from dynat.report.statistics import wilson

EPS, STEPS = 0.15, 10


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> data.Dataset:
    folder = tmp_path_factory.mktemp("data")
    return data.load(data.prepare(Dataset(name="digits", source="digits"), folder))


@pytest.fixture(scope="module")
def network(digits: data.Dataset) -> nn.Module:
    pixels, labels = to_pixels(digits.train.images), digits.train.labels
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = models.build("small", classes=10, channels=1)
    optimiser = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(4):
        for batch in torch.randperm(len(labels), generator=generator).split(100):
            start = (
                pixels[batch] + EPS * (2 * torch.rand(pixels[batch].shape, generator=generator) - 1)
            ).requires_grad_()
            (slope,) = torch.autograd.grad(functional.cross_entropy(net(start), labels[batch]), start)
            found = pixels[batch] + (start.detach() + EPS * slope.sign() - pixels[batch]).clamp(-EPS, EPS)
            optimiser.zero_grad()
            functional.cross_entropy(net(found.clamp(0, 1)), labels[batch]).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    return net.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def pictures(network: nn.Module, digits: data.Dataset) -> Pictures:
    """Those that are classified correctly: the peers attack whatever they are given."""
    test = digits.test.first(200)
    return test[(network(to_pixels(test.images)).argmax(1) == test.labels).nonzero()[:, 0]]


def attack(kind: str, norm: str = "linf", eps: float = EPS, **fields: Any) -> Attack:
    own = {"steps": STEPS, "step_size": eps / 4, "start": "none"} if kind == "pgd" else {}
    return Attack.model_validate({"kind": kind, "norm": norm, "eps": eps, "batch": 1000, **own, **fields})


def broken(network: nn.Module, found: Tensor, labels: Tensor) -> Tensor:
    return network(found).argmax(1) != labels


# --- pyautoattack ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("norm", "eps", "queries"),
    [
        ("linf", EPS, 300),
        pytest.param("linf", EPS, 5000, marks=pytest.mark.slow),
        pytest.param("l2", 0.7, 5000, marks=pytest.mark.slow),
    ],
)
def test_autoattack_as_published_gives_the_same_verdicts(
    norm: str, eps: float, queries: int, network: nn.Module, pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same checkpoint, pictures and seed: what it claims is what is found, but for claims that are not sound."""
    import pyautoattack

    published = pyautoattack.AutoAttack._set_version

    def with_queries(self: Any, version: str = "standard") -> None:
        published(self, version)
        self.square.n_queries = queries  # 5,000 as published; they are most of the time

    monkeypatch.setattr(pyautoattack.AutoAttack, "_set_version", with_queries)
    few, auto = pictures.first(24), attack("autoattack", norm, eps)
    exam = examine(network, few, auto)
    pixels = to_pixels(few.images)
    with torch.random.fork_rng():
        peer = pyautoattack.AutoAttack(
            network, norm={"linf": "Linf", "l2": "L2"}[norm], eps=eps, seed=batch_seed(auto, 0), version="standard"
        )
        found = peer.run_standard_evaluation(pixels, few.labels, batch_size=len(few))[0]
    offset = (found - pixels).flatten(1)
    distance = offset.abs().amax(1) if norm == "linf" else offset.norm(dim=1)
    sound = (distance <= eps + 1e-6) & (found.flatten(1).amin(1) >= 0) & (found.flatten(1).amax(1) <= 1)
    theirs = broken(network, found, few.labels) & sound
    assert 4 <= int(theirs.sum()) <= 20, "some fall and some stand"
    # A picture on the very boundary may fall on either side of it with the size of a batch.
    differ = exam.columns["correct"] == theirs
    assert (exam.columns["margin"][differ].abs() < 1e-4).all(), f"{int(differ.sum())} of {len(few)} differ"


# --- torchattacks and foolbox ---------------------------------------------------------------------------------


def by_torchattacks(network: nn.Module, pixels: Tensor, labels: Tensor, *, start: bool) -> Tensor:
    torchattacks = pytest.importorskip("torchattacks")
    found: Tensor = torchattacks.PGD(network, eps=EPS, alpha=EPS / 4, steps=STEPS, random_start=start)(pixels, labels)
    return found


def by_foolbox(network: nn.Module, pixels: Tensor, labels: Tensor, *, start: bool, l2: float | None = None) -> Tensor:
    foolbox = pytest.importorskip("foolbox")
    kind = foolbox.attacks.LinfPGD if l2 is None else foolbox.attacks.L2ProjectedGradientDescentAttack
    eps = EPS if l2 is None else l2
    peer = kind(abs_stepsize=eps / 4, steps=STEPS, random_start=start)
    # `run` gives what it found last; calling it would set back what did not succeed.
    found: Tensor = peer.run(
        foolbox.PyTorchModel(network, bounds=(0, 1), device="cpu"),
        pixels,
        foolbox.criteria.Misclassification(labels),
        epsilon=eps,
    )
    return found


PEERS = {"torchattacks": by_torchattacks, "foolbox": by_foolbox}


@pytest.mark.parametrize("peer", PEERS)
def test_pgd_from_the_picture_is_theirs_step_by_step(peer: str, network: nn.Module, pictures: Pictures) -> None:
    """Nothing is random, so a picture that never falls is led to the same place. One that falls we leave there, and
    they walk on: what they end up breaking is broken here too."""
    pixels, labels = to_pixels(pictures.images), pictures.labels
    theirs = PEERS[peer](network, pixels, labels, start=False)
    ours = pgd(network, pixels, labels, attack("pgd"), seed=0)
    fell = broken(network, ours, labels)
    assert 0.1 < fell.float().mean() < 0.9
    torch.testing.assert_close(ours[~fell], theirs[~fell], rtol=0, atol=1e-5)
    assert not (broken(network, theirs, labels) & ~fell).any()
    exam = examine(network, pictures, attack("pgd"))
    assert torch.equal(exam.columns["correct"], ~fell)
    assert int(fell.sum()) - int(broken(network, theirs, labels).sum()) <= 0.05 * len(fell), (
        "a success is seldom undone"
    )


def test_pgd_in_l2_is_foolboxs_step_by_step(network: nn.Module, pictures: Pictures) -> None:
    pixels, labels = to_pixels(pictures.images), pictures.labels
    theirs = by_foolbox(network, pixels, labels, start=False, l2=0.5)
    ours = pgd(network, pixels, labels, attack("pgd", "l2", 0.5), seed=0)
    fell = broken(network, ours, labels)
    assert 0.1 < fell.float().mean() < 0.9
    torch.testing.assert_close(ours[~fell], theirs[~fell], rtol=0, atol=1e-4)
    assert not (broken(network, theirs, labels) & ~fell).any()


@pytest.mark.parametrize("peer", PEERS)
def test_pgd_from_a_random_start_agrees_within_the_interval(peer: str, network: nn.Module, pictures: Pictures) -> None:
    pixels, labels = to_pixels(pictures.images), pictures.labels
    with torch.random.fork_rng():
        torch.manual_seed(1)
        theirs = ~broken(network, PEERS[peer](network, pixels, labels, start=True), labels)
    ours = examine(network, pictures, attack("pgd", start="uniform")).columns["correct"]
    low, high = wilson(int(ours.sum()), len(ours))
    assert low <= theirs.float().mean() <= high
    assert (ours == theirs).float().mean() >= 0.95, "and it is the same pictures that fall"


def test_published_weights_say_the_same_in_their_hands(
    network: nn.Module, digits: data.Dataset, tmp_path: Path
) -> None:
    foolbox, torchattacks = pytest.importorskip("foolbox"), pytest.importorskip("torchattacks")
    save_weights(network, tmp_path / "target.safetensors", {})
    again = models.build("small", classes=10, channels=1).eval()
    load_weights(again, tmp_path / "target.safetensors")
    pixels, labels = to_pixels(digits.test.images), digits.test.labels
    clean = examine(network, digits.test, attack("clean")).columns
    theirs = foolbox.PyTorchModel(again, bounds=(0, 1), device="cpu")
    assert torch.equal(theirs(pixels).argmax(1), clean["prediction"])
    assert foolbox.accuracy(theirs, pixels, labels) == pytest.approx(float(clean["correct"].float().mean()))
    assert torch.equal(torchattacks.PGD(again).get_logits(pixels).argmax(1), clean["prediction"])


# --- RobustBench ----------------------------------------------------------------------------------------------
# Its package asks for much and is pinned to old versions, so it is no dependency. What its zoo builds for TRADES,
# MART, LBGAT and the ResNet-18 entries is said again here, in other words; where it is installed, it is asked itself.


class Wide(nn.Module):
    """A WideResNet under RobustBench's names: pre-activation, average over 8x8 at the end."""

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
    """The CIFAR ResNet-18 under its names: strides 1, 2, 2, 2, average over 4x4 at the end."""

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
    """A module of its architectures, read by itself: the package as a whole asks for packages of other years."""
    package = importlib.util.find_spec("robustbench")
    if package is None or package.origin is None:
        pytest.skip("robustbench is not installed: uv pip install robustbench")
    file = Path(package.origin).parent / "model_zoo" / "architectures" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"robustbench_{name}", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def their_resnet(module: Any) -> nn.Module:
    net: nn.Module = module.ResNet(module.BasicBlock, [2, 2, 2, 2])
    return net


THEIRS = {
    "wrn10-2 as said again": ("wrn10-2", lambda: Wide(10, 2, 10)),
    "resnet18 as said again": ("resnet18", lambda: Residual(10)),
    "wrn10-2 of the package": ("wrn10-2", lambda: robustbench_file("wide_resnet").WideResNet(depth=10, widen_factor=2)),
    "resnet18 of the package": ("resnet18", lambda: their_resnet(robustbench_file("resnet"))),
}


@pytest.mark.parametrize("case", THEIRS)
@pytest.mark.parametrize("standard", [False, True], ids=["", "standardised"])
def test_published_weights_load_into_robustbenchs_networks(case: str, standard: bool, tmp_path: Path) -> None:
    """Every name, strictly, and the same logits; also behind the layer that it puts before a network."""
    name, build = THEIRS[case]
    theirs = build()
    with torch.random.fork_rng():
        torch.manual_seed(2)
        ours = models.build(name, classes=10, channels=3)
        pixels = torch.rand(4, 3, 32, 32)
        for _ in range(3):
            ours(pixels)  # statistics of BatchNorm that are not those it starts with
    if standard:
        mean, std = (0.5, 0.4, 0.3), (0.25, 0.2, 0.15)
        ours = models.normalised(ours, mean=mean, std=std)
        theirs = behind_their_layer(theirs, mean, std, case)
    save_weights(ours, tmp_path / "target.safetensors", {})
    from safetensors.torch import load_file

    theirs.load_state_dict(load_file(tmp_path / "target.safetensors"), strict=True)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(pixels), theirs.eval()(pixels), rtol=1e-4, atol=1e-4)


def behind_their_layer(network: nn.Module, mean: Any, std: Any, case: str) -> nn.Module:
    if case.endswith("package"):
        whole: nn.Module = robustbench_file("utils_architectures").normalize_model(network, mean, std)
        return whole

    class Layer(nn.Module):
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


# --- the page that says how -----------------------------------------------------------------------------------


def test_the_page_on_other_hands_runs_as_printed(
    network: nn.Module, pictures: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyautoattack

    published = pyautoattack.AutoAttack._set_version

    def quick(self: Any, version: str = "standard") -> None:
        published(self, version)
        self.attacks_to_run = ["apgd-ce"]

    monkeypatch.setattr(pyautoattack.AutoAttack, "_set_version", quick)
    page = (Path(__file__).parents[1] / "docs" / "examine-a-checkpoint.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert [name for block in blocks for name in ("torchattacks", "foolbox", "AutoAttack") if f"import {name}" in block]
    save_weights(network, tmp_path / "target-seed0.safetensors", {})
    shutil.copy(Path(models.__file__).parent / "small.py", tmp_path / "network.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "network", raising=False)
    few = pictures.first(40)
    said: dict[str, Any] = {"pictures": to_pixels(few.images), "labels": few.labels}
    shares: list[float] = []
    said["print"] = lambda share: shares.append(float(share))
    with torch.random.fork_rng():
        for block in blocks:
            exec(block, said)
    assert torch.equal(said["logits"].argmax(1), few.labels)
    assert len(shares) == 3 and all(0 < share < 1 for share in shares) and max(shares) - min(shares) < 0.1
