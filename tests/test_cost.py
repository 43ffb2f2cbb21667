"""It stays fast: what a step computes is counted, and nothing in it waits for the device.

Work is counted in convolutions: a forward is one each, a gradient for a layer's input one, for its weights one.
The first layer of a training pass needs none for its input.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from dynat import methods, models
from dynat.config import Run
from dynat.models.compiled import Compiled
from dynat.training import captured
from dynat.training.captured import Captured
from dynat.training.networks import build_pair
from dynat.training.precision import precise
from dynat.training.step import joint_step
from dynat.training.trainer import Trainer
from tests import tiny

CPU = torch.device("cpu")
STEPS = 10
TARGET, GUIDE = "wrn10-1", "small"


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


def a_run(method: str, **fields: object) -> Run:
    guide = GUIDE if fields.get("labels") == "dynamic" or method in ("lbgat", "adagat") else None
    inner = {"eps": 0.05, "step_size": 0.02, "steps": STEPS}
    return tiny.run(**{"method": method, "target": TARGET, "guide": guide, "inner": inner, **fields})


DYNAMIC: dict[str, object] = {"labels": "dynamic", "clean_forward": True}
# Passes through the target: forwards without gradient, search steps (2 each), training passes (3 each);
# and training passes through the guide. Together 24 F + 3 G for DYNAT.
COSTS: dict[str, tuple[Run, tuple[int, int, int, int]]] = {
    "natural": (a_run("natural"), (0, 0, 1, 0)),
    "at": (a_run("at"), (0, STEPS, 1, 0)),
    "trades": (a_run("trades", consistency=6.0), (1, STEPS, 2, 0)),
    "mart": (a_run("mart", consistency=6.0), (0, STEPS, 2, 0)),
    "gairat": (a_run("gairat"), (0, STEPS, 1, 0)),
    "mail-at": (a_run("mail-at"), (0, STEPS, 1, 0)),
    "mail-trades": (a_run("mail-trades", consistency=6.0), (1, STEPS, 2, 0)),
    "sat": (a_run("sat"), (0, STEPS, 1, 0)),
    "lbgat0": (a_run("lbgat", clean_forward=True), (2, STEPS, 1, 1)),
    "lbgat6": (a_run("lbgat", consistency=6.0), (1, STEPS, 2, 1)),
    "adagat": (a_run("adagat", clean_forward=True), (2, STEPS, 1, 1)),
    "at-awp": (a_run("at", awp={"warm_up": 0.0}), (0, STEPS, 2, 0)),
    "dynat": (a_run("at", **DYNAMIC), (1, STEPS, 1, 1)),
    "dynat-no-clean-forward": (a_run("at", labels="dynamic"), (0, STEPS, 1, 1)),
    "dynat-kl6": (a_run("at", labels="dynamic", consistency=6.0), (0, STEPS, 2, 1)),
    "dynat-kl-inner": (
        a_run("at", **{**DYNAMIC, "inner": {"eps": 0.05, "step_size": 0.02, "objective": "kl"}}),
        (2, STEPS, 1, 1),
    ),
    "dynat-trades": (a_run("trades", labels="dynamic", consistency=6.0), (1, STEPS, 2, 1)),
    "dynat-bfloat16": (a_run("at", precision="bfloat16", **DYNAMIC), (1, STEPS, 1, 1)),
}


def counted(run: Run) -> Count:
    trainer = Trainer(run, tiny.THREAT, tiny.without_test_pictures(), seed=0, device=CPU)
    trainer.pair.train()
    pixels, truth = torch.rand(16, 1, 8, 8), torch.arange(16) % 5
    trainer._step(pixels, truth)  # buffers and views are made in the first step
    with Count() as count:
        trainer._step(pixels, truth)
    return count


def test_every_method_has_its_cost() -> None:
    from dynat.config import names

    assert {run.method for run, _ in COSTS.values()} >= set(names.METHODS) - {"external"} - set(_plugins())


def _plugins() -> list[str]:
    from dynat.config import names

    return [name for name, facts in names.METHODS.items() if not facts.where.startswith("dynat.")]


@pytest.mark.parametrize("name", COSTS)
def test_a_step_computes_no_more_than_its_formula(name: str) -> None:
    run, (looks, searches, lessons, guides) = COSTS[name]
    f, g = layers(TARGET), layers(GUIDE)
    count = counted(run)
    assert count.convolutions == (looks + 2 * searches) * f + lessons * (3 * f - 1) + guides * (3 * g - 1)


def test_dynat_is_24_f_and_3_g() -> None:
    _, (looks, searches, lessons, guides) = COSTS["dynat"]
    assert (looks + 2 * searches + 3 * lessons, 3 * guides) == (24, 3)


WAITING = (
    "_local_scalar_dense",
    "nonzero",
    "is_nonzero",
    "masked_select",
    "unique",
    "equal.default",
    "index by a mask",
)


@pytest.mark.parametrize("name", COSTS)
def test_nothing_in_a_step_waits_for_the_device(name: str) -> None:
    ops = counted(COSTS[name][0]).ops
    assert [op for op in ops if any(word in op for word in WAITING)] == []


@pytest.mark.parametrize("name", COSTS)
def test_a_step_needs_no_value_and_no_host(name: str) -> None:
    """On the meta device tensors have no content, so a step that looks at one, or copies one to the host, fails."""
    run = COSTS[name][0].model_copy(update={"precision": "float32"})
    pair = build_pair(run, classes=5, channels=1, seed=0, device=torch.device("meta"))
    pair.train()
    with torch.device("meta"):
        pixels, truth = torch.rand(16, 1, 8, 8), torch.zeros(16, dtype=torch.int64)
        method = methods.build(run, tiny.THREAT)
        seen = joint_step(
            pair, method, run, pixels, truth, pixels + 0.01, progress=0.5, update=lambda loss: loss.backward()
        )
    assert all(value.device.type == "meta" for value in seen.values())


def test_the_search_runs_no_batchnorm_after_a_convolution() -> None:
    """The three forwards in training mode do: the guide's, the adversarial and the clean one."""
    ops = counted(a_run("at", target="small", **DYNAMIC)).ops
    norms = sum(count for op, count in ops.items() if "batch_norm" in op and "backward" not in op)
    assert norms == 3 * 2


# --- folding --------------------------------------------------------------------------------------------------


def trained_a_little(net: nn.Module) -> nn.Module:
    net.train()
    for _ in range(3):
        net(torch.rand(16, 3, 16, 16) + 0.2)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(1.0 + 0.2 * torch.rand_like(parameter))
    return net.eval()


@pytest.mark.parametrize("name", ["small", "resnet18", "resnet18-heavy", "preact-resnet18", "wrn10-2"])
def test_the_searched_view_differs_by_rounding_alone(name: str) -> None:
    torch.manual_seed(0)
    network = precise(trained_a_little(models.build(name, classes=10, channels=3)), "float32", CPU)
    pictures = torch.rand(8, 3, 16, 16, requires_grad=True)
    view = network.searched()
    logits, seen = network(pictures), view(pictures)
    assert view.norms  # type: ignore[attr-defined]
    scale = logits.abs().max().item()
    torch.testing.assert_close(seen, logits, rtol=0.0, atol=1e-5 * scale)
    gradients = [torch.autograd.grad(out.square().sum(), pictures)[0] for out in (logits, seen)]
    # A relu whose input is nearly zero may open or close: rare, and it moves the gradient a little.
    assert (gradients[0] - gradients[1]).norm() < 0.01 * gradients[0].norm()
    assert (gradients[0].sign() == gradients[1].sign()).float().mean() > 0.99


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
    """Looks at a value: no trace can follow."""

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


class Parametrised(nn.Module):
    """A convolution whose weight is computed from another."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 3, 3, bias=False))
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)).mean((2, 3))


@pytest.mark.parametrize("kind", [Shared, Branching, Tied, Parametrised])
def test_what_cannot_be_folded_stays_as_it_is(kind: Callable[[], nn.Module]) -> None:
    network = precise(trained_a_little(kind()), "float32", CPU)
    pictures = torch.rand(8, 3, 16, 16)
    assert network.searched().norms == {}  # type: ignore[attr-defined]
    torch.testing.assert_close(network.searched()(pictures), network(pictures))


# --- compilation and recording --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["small", "resnet18", "preact-resnet18", "wrn10-2"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_networks_compile_in_one_piece(name: str, precision: str) -> None:
    """Without the code generator: that the graph has no breaks is a matter of the network's Python."""
    torch._dynamo.reset()
    network = precise(models.build(name, classes=5, channels=3), precision, CPU)
    pictures = torch.rand(4, 3, 16, 16)
    for part in (network.net.train(), network.searched().net):
        torch.compile(part, fullgraph=True, dynamic=False, backend="eager")(pictures).sum()


def test_where_compilation_fails_the_network_runs_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object, **__: object) -> Callable[[Tensor], Tensor]:
        def run(_: Tensor) -> Tensor:
            raise RuntimeError("no compiler here")

        return run

    plain = counted(a_run("at", **DYNAMIC))
    monkeypatch.setattr(torch, "compile", failing)
    with pytest.warns(UserWarning, match="torch.compile failed, so this network runs plainly: no compiler here"):
        broken = counted(a_run("at", compiled=True, **DYNAMIC))
    assert broken.ops == plain.ops


def test_compiled_code_is_for_one_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[torch.Size] = []

    def compiling(net: nn.Module, **_: object) -> Callable[[Tensor], Tensor]:
        def run(pictures: Tensor) -> Tensor:
            shapes.append(pictures.shape)
            return net(pictures)

        return run

    monkeypatch.setattr(torch, "compile", compiling)
    fast = Compiled(nn.Flatten())
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
            trainer = Trainer(tiny.dynat(compiled=flag), tiny.THREAT, tiny.without_test_pictures(), seed=0, device=CPU)
            traces.append([trainer.epoch(lambda steps, *_: steps)["loss"] for _ in range(3)])
    assert traces[0] == pytest.approx(traces[1], rel=1e-3)


class FakeGraph:
    """A recording on the CPU: replaying runs the step again on the recorded tensors."""

    owner: Captured

    def replay(self) -> None:
        for name, value in self.owner.step(*self.owner.inputs).items():
            self.owner.seen[name].copy_(value)


@pytest.mark.parametrize("broken", [False, True])
def test_a_step_is_recorded_once_and_replayed_or_runs_plainly(broken: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The protocol alone; what a GPU records is checked by benchmarks/gpu.py on a GPU."""
    from contextlib import contextmanager, nullcontext

    class Stream:
        def wait_stream(self, _: object) -> None: ...

    @contextmanager
    def graph(_: FakeGraph, stream: object) -> Any:  # noqa: ARG001
        if broken:
            raise RuntimeError("operation not permitted when stream is capturing")
        yield

    for name, value in {
        "Stream": Stream,
        "current_stream": Stream,
        "stream": lambda _: nullcontext(),
        "CUDAGraph": FakeGraph,
        "graph": graph,
        "set_stream": lambda _: None,
        "synchronize": lambda: None,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)

    calls: list[float] = []

    def step(pixels: Tensor, truth: Tensor, start: Tensor) -> dict[str, Tensor]:
        calls.append(pixels.item())
        return {"loss": pixels + truth + start}

    recorded = Captured(step)
    FakeGraph.owner = recorded
    said: list[float] = []
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        for number in range(6):
            value = torch.tensor(float(number))
            seen = recorded(value, value, value)
            said.append(seen["loss"].item())
    assert said == [0.0, 3.0, 6.0, 9.0, 12.0, 15.0]
    assert bool(heard) == broken
    assert (recorded.graph is None) == broken
    assert captured.WARM_UP == 2

    heard.clear()
    recorded.forget()
    assert recorded.graph is None and recorded(value, value, value)["loss"].item() == 15.0
    assert (recorded.graph is None) == broken, "recorded anew, and not tried again where it failed"
