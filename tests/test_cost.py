"""The cost of a training step: its convolutions are counted, and nothing in it waits for the device.

Work is counted in convolutions: a forward is one each, a gradient for a layer's input one, for its weights one.
The first layer of a training pass needs none for its input.
"""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from dynat import methods, models
from dynat.config import Run, registry
from dynat.nn import cuda_graph
from dynat.nn.compiled import CompiledModel
from dynat.nn.cuda_graph import CUDAGraphStep
from dynat.nn.folded import FoldedModel
from dynat.nn.mixed_precision import mixed_precision
from dynat.training.networks import build_networks
from dynat.training.step import training_step
from dynat.training.trainer import Trainer
from tests import tiny
from tests.method_runs import DYNAMIC, GUIDE, RUNS, STEPS, TARGET, method_run

CPU = torch.device("cpu")


class Count(TorchDispatchMode):
    """Convolutions and everything else that reaches the device."""

    def __init__(self) -> None:
        super().__init__()
        self.ops: Counter[str] = Counter()
        self.convolutions = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        self.ops[name] += 1
        if name == "aten.convolution.default":
            self.convolutions += 1
        if name == "aten.convolution_backward.default":
            self.convolutions += sum(args[-1][:2])
        if name.startswith("aten.index") and any(getattr(i, "dtype", None) == torch.bool for i in args[1] or []):
            self.ops["an index by a mask"] += 1
        return func(*args, **(kwargs or {}))


def layers(name: str) -> int:
    network = models.build(name, classes=5, channels=1)
    return sum(isinstance(module, nn.Conv2d) for module in network.modules())


class Passes(NamedTuple):
    """Passes of one training step. Together 24 F + 3 G for DYNAT."""

    forward: int
    """Forwards of the target without gradient."""
    pgd_steps: int
    """A forward and a backward for the images: 2 each."""
    training: int
    """A forward and a backward for the weights: 3 each."""
    guide: int
    """Training passes of the guide: 3 each."""


PASSES: dict[str, Passes] = {
    "natural": Passes(0, 0, 1, 0),
    "at": Passes(0, STEPS, 1, 0),
    "trades": Passes(1, STEPS, 2, 0),
    "mart": Passes(0, STEPS, 2, 0),
    "gairat": Passes(0, STEPS, 1, 0),
    "mail-at": Passes(0, STEPS, 1, 0),
    "mail-trades": Passes(1, STEPS, 2, 0),
    "sat": Passes(0, STEPS, 1, 0),
    "lbgat0": Passes(2, STEPS, 1, 1),
    "lbgat6": Passes(1, STEPS, 2, 1),
    "adagat": Passes(2, STEPS, 1, 1),
    "at-awp": Passes(0, STEPS, 2, 0),
    "dynat": Passes(1, STEPS, 1, 1),
    "dynat-no-clean-forward": Passes(0, STEPS, 1, 1),
    "dynat-kl6": Passes(0, STEPS, 2, 1),
    "dynat-kl-inner": Passes(2, STEPS, 1, 1),
    "dynat-trades": Passes(1, STEPS, 2, 1),
    "dynat-bfloat16": Passes(1, STEPS, 1, 1),
}


def counted(run: Run) -> Count:
    trainer = Trainer(run, tiny.THREAT, tiny.without_test_images(), seed=0, device=CPU)
    trainer.networks.train()
    pixels, truth = torch.rand(16, 1, 8, 8), torch.arange(16) % 5
    trainer.step(pixels, truth)  # the first step creates buffers and surrogates
    with Count() as count:
        trainer.step(pixels, truth)
    return count


def test_every_method_is_counted() -> None:
    builtin = {name for name, info in registry.METHODS.items() if info.where.startswith("dynat.")}
    assert {run.method for run in RUNS.values()} >= builtin
    assert PASSES.keys() == RUNS.keys()


@pytest.mark.parametrize("name", RUNS)
def test_a_step_computes_no_more_than_its_formula(name: str) -> None:
    passes = PASSES[name]
    f, g = layers(TARGET), layers(GUIDE)
    expected = (passes.forward + 2 * passes.pgd_steps) * f + passes.training * (3 * f - 1) + passes.guide * (3 * g - 1)
    assert counted(RUNS[name]).convolutions == expected


def test_dynat_is_24_f_and_3_g() -> None:
    passes = PASSES["dynat"]
    assert (passes.forward + 2 * passes.pgd_steps + 3 * passes.training, 3 * passes.guide) == (24, 3)


WAITING = (
    "_local_scalar_dense",
    "nonzero",
    "is_nonzero",
    "masked_select",
    "unique",
    "equal.default",
    "index by a mask",
)


@pytest.mark.parametrize("name", RUNS)
def test_nothing_in_a_step_waits_for_the_device(name: str) -> None:
    ops = counted(RUNS[name]).ops
    assert [op for op in ops if any(word in op for word in WAITING)] == []


@pytest.mark.parametrize("name", RUNS)
def test_a_step_reads_no_value_of_a_tensor(name: str) -> None:
    """On the meta device tensors have no content, so a step that reads one, or copies one to the host, fails."""
    run = RUNS[name].model_copy(update={"precision": "float32"})
    networks = build_networks(run, classes=5, channels=1, seed=0, device=torch.device("meta"))
    networks.train()
    with torch.device("meta"):
        pixels, truth = torch.rand(16, 1, 8, 8), torch.zeros(16, dtype=torch.int64)
        method = methods.build(run, tiny.THREAT)
        values = training_step(
            networks, method, run, pixels, truth, pixels + 0.01, progress=0.5, update=lambda loss: loss.backward()
        )
    assert all(value.device.type == "meta" for value in values.values())


def test_pgd_runs_no_batchnorm() -> None:
    """The three forwards in training mode do: the guide's, the adversarial and the clean one."""
    ops = counted(method_run("at", target="small", **DYNAMIC)).ops
    norms = sum(count for op, count in ops.items() if "batch_norm" in op and "backward" not in op)
    assert norms == 3 * 3


class Layouts(TorchDispatchMode):
    """Operations of a backward pass that read features and gradients in different memory layouts, and of BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.mixed: list[str] = []
        self.norms: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "backward" in str(func):
            layouts = {arg.stride() for arg in args[:2] if arg.shape == args[0].shape}
            self.mixed += [str(func)] * (len(layouts) > 1)
            self.norms += [str(func)] * ("batch_norm" in str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["resnet8-32", "resnet18", "preact-resnet18", "wrn10-1", "wrn10-1-swish"])
def test_the_gradient_of_the_inner_attack_is_cheap(name: str) -> None:
    """Every gradient is channels-last as the features are: ReLU's is ten times as slow where they differ.

    And BatchNorm that cannot be folded costs a product, not sums over all positions.
    """
    surrogate = FoldedModel(models.build(name, classes=5, channels=3), torch.float32)
    images = torch.rand(2, 3, 32, 32).contiguous(memory_format=torch.channels_last).requires_grad_()
    with Layouts() as seen:
        torch.autograd.grad(surrogate(images).sum(), images)
    assert seen.mixed == [] and seen.norms == []


# --- folding --------------------------------------------------------------------------------------------------


def trained_a_little(net: nn.Module) -> nn.Module:
    net.train()
    for _ in range(3):
        net(torch.rand(16, 3, 16, 16) + 0.2)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(1.0 + 0.2 * torch.rand_like(parameter))
    return net.eval()


class ActiveUnits(TorchDispatchMode):
    """Which ReLUs of each image are active."""

    def __init__(self) -> None:
        super().__init__()
        self.layers: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in (torch.ops.aten.relu.default, torch.ops.aten.relu_.default):
            self.layers.append((result > 0).flatten(1))
        return result

    @property
    def all(self) -> Tensor:
        return torch.cat(self.layers, 1)


class Computed(NamedTuple):
    logits: Tensor
    gradient: Tensor
    active: Tensor


def compute(network: nn.Module, images: Tensor) -> Computed:
    images = images.clone().requires_grad_()
    with ActiveUnits() as units:
        logits = network(images)
    (gradient,) = torch.autograd.grad(logits.square().sum(), images)
    return Computed(logits.detach(), gradient.flatten(1), units.all)


def relative_error(values: Tensor, reference: Tensor) -> Tensor:
    """Per image."""
    return (values - reference).norm(dim=1) / reference.norm(dim=1)


FOLDED = ["small", "resnet18", "resnet18-heavy", "preact-resnet18", "wrn10-2"]


@pytest.mark.parametrize("name", FOLDED)
def test_a_folded_network_is_the_same_function(name: str) -> None:
    """In float64, where rounding hides no mistake."""
    torch.manual_seed(0)
    network = trained_a_little(models.build(name, classes=10, channels=3)).double()
    images = torch.rand(8, 3, 16, 16, dtype=torch.float64)
    surrogate = FoldedModel(network, torch.float64).refresh(network)
    assert surrogate.norms
    reference, folded = compute(network, images), compute(surrogate.net, images)
    assert relative_error(folded.logits, reference.logits).max() < 1e-12
    assert relative_error(folded.gradient, reference.gradient).max() < 1e-12


@pytest.mark.parametrize("name", FOLDED)
def test_a_float32_surrogate_differs_by_rounding_alone(name: str) -> None:
    """A ReLU whose input is nearly zero may round to either side, differently on each processor, and changes that
    image's gradient. On all other images gradients agree closely."""
    torch.manual_seed(0)
    network = mixed_precision(trained_a_little(models.build(name, classes=10, channels=3)), "float32", CPU)
    images = torch.rand(8, 3, 16, 16)
    exact = compute(copy.deepcopy(network.net).double(), images.double())
    reference, surrogate = compute(network, images), compute(network.surrogate(), images)
    scale = reference.logits.abs().max().item()
    torch.testing.assert_close(surrogate.logits, reference.logits, rtol=0.0, atol=1e-5 * scale)
    own_error = relative_error(reference.logits, exact.logits).max()
    assert relative_error(surrogate.logits, exact.logits).max() < 5 * own_error
    same = (surrogate.active == reference.active).all(1)
    assert same.sum() >= 4 and (surrogate.active != reference.active).float().mean() < 5e-5
    assert relative_error(surrogate.gradient, reference.gradient)[same].max() < 1e-5
    assert (surrogate.gradient.sign() == reference.gradient.sign()).float().mean() > 0.99


class Shared(nn.Module):
    """One convolution before two BatchNorms, and one BatchNorm used twice: neither can be folded."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.one, self.two = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        self.again = nn.Conv2d(3, 3, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x = self.one(x) + self.two(x)
        return self.two(self.again(x)).mean((2, 3))


class Branching(nn.Module):
    """Branches on a value, which cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, bias=False), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm(self.conv(x)).mean((2, 3))
        return out if out.sum() > 0 else -out


class Tied(nn.Module):
    """Two convolutions with one weight: folding one would change the other."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = (nn.Conv2d(3, 3, 3, padding=1, bias=False) for _ in range(2))
        self.two.weight = self.one.weight
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.norm(self.one(x))).mean((2, 3))


class Parametrized(nn.Module):
    """A convolution whose weight is computed from another."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 3, 3, bias=False))
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)).mean((2, 3))


class TokenMixing(nn.Module):
    """A linear layer whose output has three dimensions: BatchNorm1d normalizes the second, and the layer made the
    third. Both have the same size."""

    def __init__(self) -> None:
        super().__init__()
        self.flatten, self.linear = nn.Flatten(2), nn.Linear(256, 3, bias=False)
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.linear(self.flatten(x))).mean(2)


@pytest.mark.parametrize("kind", [Shared, Branching, Tied, Parametrized, TokenMixing])
def test_a_network_that_cannot_be_folded_is_copied_unchanged(kind: Callable[[], nn.Module]) -> None:
    network = mixed_precision(trained_a_little(kind()), "float32", CPU)
    images = torch.rand(8, 3, 16, 16)
    assert network.surrogate().norms == {}
    torch.testing.assert_close(network.surrogate()(images), network(images))


# --- compilation and recording --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["small", "resnet18", "preact-resnet18", "wrn10-2", "wrn10-1-swish"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_networks_compile_in_one_piece(name: str, precision: str) -> None:
    """Without the code generator: that the graph has no breaks is a matter of the network's Python."""
    torch._dynamo.reset()
    network = mixed_precision(models.build(name, classes=5, channels=3), precision, CPU)
    images = torch.rand(4, 3, 16, 16)
    for part in (network.net.train(), network.surrogate().get_submodule("net")):
        torch.compile(part, fullgraph=True, dynamic=False, backend="eager")(images).sum()


def test_where_compilation_fails_the_network_runs_eagerly(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object, **__: object) -> Callable[[Tensor], Tensor]:
        def run(_: Tensor) -> Tensor:
            raise RuntimeError("no compiler here")

        return run

    plain = counted(method_run("at", **DYNAMIC))
    monkeypatch.setattr(torch, "compile", failing)
    with pytest.warns(UserWarning, match="torch.compile failed, so this network runs eagerly: no compiler here"):
        broken = counted(method_run("at", compile=True, **DYNAMIC))
    assert broken.ops == plain.ops


def test_a_network_is_compiled_for_one_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[torch.Size] = []

    def compiling(net: nn.Module, **_: object) -> Callable[[Tensor], Tensor]:
        def run(images: Tensor) -> Tensor:
            shapes.append(images.shape)
            return net(images)

        return run

    monkeypatch.setattr(torch, "compile", compiling)
    fast = CompiledModel(nn.Flatten())
    for size in (4, 9, 4):
        fast(torch.zeros(size, 1, 8, 8))
    assert [shape[0] for shape in shapes] == [4, 4]


@pytest.mark.slow
def test_a_compiled_training_has_the_losses_of_a_plain_one() -> None:
    torch._dynamo.reset()
    traces = []
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for flag in (False, True):
            trainer = Trainer(tiny.dynat(compile=flag), tiny.THREAT, tiny.without_test_images(), seed=0, device=CPU)
            traces.append([trainer.epoch()["loss"] for _ in range(3)])
    assert traces[0] == pytest.approx(traces[1], rel=1e-3)


class FakeGraph:
    """Stands in for a CUDA graph: replaying runs the step again on the recorded tensors."""

    owner: CUDAGraphStep

    def replay(self) -> None:
        for name, value in self.owner.step(*self.owner.inputs).items():
            self.owner.values[name].copy_(value)


@pytest.mark.parametrize("broken", [False, True])
def test_a_step_is_recorded_once_and_replayed_or_runs_eagerly(broken: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the order of calls; what a GPU records is checked by benchmarks/gpu.py on a GPU."""
    from contextlib import contextmanager, nullcontext

    class Stream:
        def wait_stream(self, _: object) -> None: ...

    @contextmanager
    def graph(_: FakeGraph, stream: object) -> Any:  # noqa: ARG001
        if broken:
            raise RuntimeError("operation not permitted when stream is capturing")
        yield

    for name, replacement in {
        "Stream": Stream,
        "current_stream": Stream,
        "stream": lambda _: nullcontext(),
        "CUDAGraph": FakeGraph,
        "graph": graph,
        "set_stream": lambda _: None,
        "synchronize": lambda: None,
    }.items():
        monkeypatch.setattr(torch.cuda, name, replacement)

    calls: list[float] = []

    def step(pixels: Tensor, truth: Tensor, start: Tensor) -> dict[str, Tensor]:
        calls.append(pixels.item())
        return {"loss": pixels + truth + start}

    recorded = CUDAGraphStep(step)
    FakeGraph.owner = recorded
    losses: list[float] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for number in range(6):
            value = torch.tensor(float(number))
            values = recorded(value, value, value)
            losses.append(values["loss"].item())
    assert losses == [0.0, 3.0, 6.0, 9.0, 12.0, 15.0]
    assert bool(caught) == broken
    assert (recorded.graph is None) == broken
    assert cuda_graph.WARM_UP == 2

    caught.clear()
    recorded.discard()
    assert recorded.graph is None and recorded(value, value, value)["loss"].item() == 15.0
    assert (recorded.graph is None) == broken, "recorded again, unless a recording failed before"
