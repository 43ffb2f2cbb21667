"""A folded copy is the same function, also of networks that are written in unusual ways; or it is not folded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynat.nn.folded import FoldedModel


class Blocks(nn.Module):
    """Two convolutions with BatchNorm; the kinds below change how they are put together."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = (nn.Conv2d(3, 3, 3, padding=1, bias=False) for _ in range(2))
        self.first, self.second = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.two(F.relu(self.first(self.one(x)))) + x).mean((2, 3))


class InPlace(Blocks):
    """The output of a BatchNorm is changed in place, and read again."""

    def forward(self, x: Tensor) -> Tensor:
        kept = self.first(self.one(x))
        active = F.relu(kept, inplace=True)
        return (kept + self.two(active)).mul_(0.5).mean((2, 3))


class InPlaceBefore(Blocks):
    """A convolution's output is changed in place before BatchNorm reads it."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(x)
        F.relu_(x)
        return self.second(self.two(self.first(x))).mean((2, 3))


class Twice(Blocks):
    """One convolution and one BatchNorm are applied twice."""

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.two(self.first(self.one(self.first(self.one(x)))))).mean((2, 3))


class Named(Blocks):
    """One module has two names."""

    def __init__(self) -> None:
        super().__init__()
        self.again = self.one

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.again(self.first(self.one(x)))).mean((2, 3))


class Functional(Blocks):
    """Layers are called as functions of the modules' weights."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(x, self.one.weight, padding=1)
        x = F.batch_norm(x, self.first.running_mean, self.first.running_var, self.first.weight, self.first.bias)
        return self.second(self.two(x)).mean((2, 3))


class WeightRead(Blocks):
    """A weight is read beside the layer that has it."""

    def forward(self, x: Tensor) -> Tensor:
        return self.first(self.one(x)).mean((2, 3)) + self.one.weight.mean()


class NormWithActivation(nn.BatchNorm2d):
    """As in timm: a subclass of BatchNorm that does more."""

    def forward(self, input: Tensor) -> Tensor:
        return F.silu(super().forward(input))


class ActivatedNorm(Blocks):
    def __init__(self) -> None:
        super().__init__()
        self.first = NormWithActivation(3)


class StandardizedConv(nn.Conv2d):
    """A subclass whose weight is computed from the one it holds."""

    def forward(self, input: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return self._conv_forward(input, weight, self.bias)


class Standardized(Blocks):
    def __init__(self) -> None:
        super().__init__()
        self.one = StandardizedConv(3, 3, 3, padding=1, bias=False)


class Rounded(torch.autograd.Function):
    """A straight-through estimator: it rounds, and its gradient is that of the identity."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ARG004
        return (x * 8).round() / 8

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ARG004
        return gradient


class StraightThrough(Blocks):
    def forward(self, x: Tensor) -> Tensor:
        rounded: Tensor = Rounded.apply(x)
        return super().forward(rounded)


class PartlyDetached(Blocks):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            blurred = F.avg_pool2d(x, 3, 1, 1)
        return super().forward(x + blurred)


class DetachedByADecorator(Blocks):
    @torch.no_grad()
    def blurred(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + self.blurred(x))


class Hooked(Blocks):
    """Somebody's hook changes what comes out of a BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.first.register_forward_hook(lambda module, inputs, output: output.abs())


class Repeated(Blocks):
    """Its blocks are in lists that are called in a loop, backwards too."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.BatchNorm2d(3), nn.BatchNorm2d(3)])

    def forward(self, x: Tensor) -> Tensor:
        for conv, norm in zip((self.two, self.one), reversed(self.norms), strict=True):
            x = F.relu(norm(conv(x)), inplace=True)
        return x.mean((2, 3))


# How many of the two BatchNorms are folded: fewer than could be is slower, and never wrong.
KINDS: dict[type[Blocks], int] = {
    Blocks: 1,
    InPlace: 1,
    InPlaceBefore: 1,
    Twice: 1,
    Named: 0,
    Functional: 0,
    WeightRead: 0,
    ActivatedNorm: 0,
    Standardized: 0,
    StraightThrough: 0,
    PartlyDetached: 0,
    DetachedByADecorator: 0,
    Hooked: 0,
    Repeated: 2,
}


def trained(kind: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    network = kind().train()
    with torch.no_grad():
        for _ in range(3):
            network(torch.rand(16, 3, 8, 8) + 0.2)
        for parameter in network.parameters():
            parameter.mul_(1 + 0.5 * torch.rand_like(parameter))
    return network.double().eval()


def logits_and_gradient(network: nn.Module, pixels: Tensor) -> tuple[Tensor, Tensor]:
    pixels = pixels.clone().requires_grad_()
    logits = network(pixels)
    (gradient,) = torch.autograd.grad((logits * torch.tensor([1.0, -2.0, 0.5], dtype=logits.dtype)).sum(), pixels)
    return logits.detach(), gradient


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_is_the_same_function_however_the_network_is_written(kind: type[Blocks]) -> None:
    """Logits and gradients in float64, also after the weights have changed."""
    network = trained(kind)
    folded = FoldedModel(network, torch.float64)
    assert len(folded.norms) == KINDS[kind]
    pixels = torch.rand(4, 3, 8, 8, dtype=torch.float64)
    for _ in range(2):
        folded.refresh(network)
        expected, found = logits_and_gradient(network, pixels), logits_and_gradient(folded.net, pixels)
        for one, other in zip(expected, found, strict=True):
            torch.testing.assert_close(other, one, rtol=1e-10, atol=1e-12)
        with torch.no_grad():
            for value in [*network.parameters(), *(b for b in network.buffers() if b.is_floating_point())]:
                value.mul_(1.1).add_(0.01)


def test_a_trace_that_is_refused_leaves_torch_as_it_was() -> None:
    before = (torch.no_grad.__enter__, vars(torch.autograd.Function)["apply"], torch.set_grad_enabled.__init__)
    FoldedModel(trained(PartlyDetached), torch.float64)
    FoldedModel(trained(StraightThrough), torch.float64)
    after = (torch.no_grad.__enter__, vars(torch.autograd.Function)["apply"], torch.set_grad_enabled.__init__)
    assert after == before
    x = torch.zeros(2, requires_grad=True)
    with torch.no_grad():
        assert not torch.is_grad_enabled() and not (x * 2).requires_grad
    assert torch.is_grad_enabled()


class Attention(nn.Module):
    """A block of a transformer: LayerNorm, attention with weights of its own, a weight that is read directly."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, stride=4)
        self.position = nn.Parameter(torch.randn(4, 8))
        self.norm, self.attention = nn.LayerNorm(8), nn.MultiheadAttention(8, 2, batch_first=True)
        self.qkv, self.head = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.position
        mixed = self.norm(F.linear(tokens, self.qkv.weight, self.qkv.bias))
        logits: Tensor = self.head((tokens + self.attention(mixed, mixed, mixed)[0]).mean(1))
        return logits


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_other_layers_than_convolutions_compute_in_low_precision_too(dtype: torch.dtype) -> None:
    """Their inputs and weights must be of one type, so casting by layer would fail."""
    torch.manual_seed(0)
    network = Attention().eval()
    surrogate = FoldedModel(network, dtype).refresh(network)
    pixels = torch.rand(4, 3, 8, 8)
    (expected, gradient), (logits, other) = (logits_and_gradient(net, pixels) for net in (network, surrogate))
    assert logits.dtype == torch.float32 and not torch.equal(logits, expected)
    torch.testing.assert_close(logits, expected, rtol=0.05, atol=0.05)
    assert F.cosine_similarity(other.flatten(1), gradient.flatten(1)).min() > 0.98
