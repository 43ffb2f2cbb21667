"""A network that stands still, as a search asks it: the same function in evaluation mode, in fewer operations.

Weights are copied once, BatchNorm is folded into the convolution before it (w' = w s, b' = b - m s, with
s = gamma / sqrt(variance + eps)), convolutions lie channels-last and compute in a precision of choice. A search
then runs neither BatchNorm nor casts of weights. In float32 the logits differ from the network's by rounding alone.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.autograd.function import once_differentiable

from dynat.models.compiled import Compiled


class View(nn.Module):
    """A frozen, folded copy of `net`, its convolutions and products in `dtype`; `refresh` brings it to the weights
    of now."""

    def __init__(self, net: nn.Module, dtype: torch.dtype, *, compiled: bool = False) -> None:
        super().__init__()
        self.dtype = dtype
        self._of = [net]  # in a list, so that its weights are not this module's
        self.net, self.norms = folded(copy.deepcopy(net).eval().requires_grad_(False))
        for module in self.net.modules():
            if isinstance(module, nn.Conv2d | nn.Linear) and dtype != torch.float32:
                module.to(dtype)
                # What stands before the first of them, a standardisation of pixels for one, stays float32.
                module.register_forward_pre_hook(_to_its_weights)
        self.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.eval()
        self._compiled: list[Compiled] = [Compiled(self.net)] if compiled else []

    @property
    def network(self) -> nn.Module:
        """What it is a view of."""
        return self._of[0]

    @torch.no_grad()
    def refresh(self, net: nn.Module) -> View:
        """Copy what has the same name, then fold: a list per operation, so that depth costs few launches."""
        current = {**dict(net.named_parameters()), **dict(net.named_buffers())}
        kept = {**dict(self.net.named_parameters()), **dict(self.net.named_buffers())}
        convolutions = [kept.pop(f"{name}.weight") for name in self.norms]
        shifts = [kept.pop(f"{name}.bias") for name in self.norms]
        torch._foreach_copy_(list(kept.values()), [current[name] for name in kept])
        if not self.norms:
            return self
        gamma, beta, mean, variance = (
            [current[f"{norm}.{part}"] for norm, _ in self.norms.values()]
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        variance = list(torch._foreach_add(variance, [eps for _, eps in self.norms.values()]))
        scale = torch._foreach_mul(torch._foreach_rsqrt(variance), gamma)
        weights = [current[f"{name}.weight"] for name in self.norms]
        torch._foreach_copy_(convolutions, torch._foreach_mul(weights, [s.view(-1, 1, 1, 1) for s in scale]))
        torch._foreach_copy_(shifts, torch._foreach_sub(beta, torch._foreach_mul(mean, scale)))
        return self

    def forward(self, pictures: Tensor) -> Tensor:
        pictures = pictures.contiguous(memory_format=torch.channels_last)
        run = self._compiled[0] if self._compiled else self.net
        if self.dtype != torch.float16:
            logits: Tensor = run(pictures)
            return logits.float()
        scale: list[Tensor] = []
        half = run(_Restored.apply(pictures, scale))  # type: ignore[no-untyped-call]
        return _Scaled.apply(half, scale)  # type: ignore[no-any-return, no-untyped-call]

    def train(self, mode: bool = True) -> View:  # noqa: ARG002
        """It has no other mode than evaluation, whatever an attack asks for."""
        return super().train(False)


def _to_its_weights(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return (inputs[0].to(module.weight.dtype), *inputs[1:])


class _Scaled(torch.autograd.Function):
    """float16 logits to float32; backward, each picture's gradient is brought near 1 by a power of two.

    float16 knows nothing below 6e-8, and the gradient of a cross-entropy on a picture that a network is sure of is
    smaller than that. A picture's gradient passes through the network linearly, so `_Restored` can undo it exactly.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, scale: list[Tensor]) -> Tensor:
        ctx.scale, ctx.dtype = scale, logits.dtype
        return logits.float()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        gradient = gradients[0]
        largest = gradient.abs().amax(1, keepdim=True)
        exponent = torch.frexp(largest).exponent.clamp(-100, 100)
        power = torch.where(largest > 0, torch.ldexp(torch.ones_like(largest), -exponent), 1.0)
        ctx.scale[:] = [power.view(-1, 1, 1, 1)]
        return (gradient * power).to(ctx.dtype), None


class _Restored(torch.autograd.Function):
    """The pictures as they are; backward, what `_Scaled` did to their gradients is undone."""

    @staticmethod
    def forward(ctx: Any, pictures: Tensor, scale: list[Tensor]) -> Tensor:
        ctx.scale = scale
        return pictures.view_as(pictures)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] / ctx.scale[0], None


class _Tracer(fx.Tracer):
    """Takes modules without weights whole: what they ask of a shape in Python, no trace could follow."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        norm = isinstance(m, nn.modules.batchnorm._BatchNorm)
        return norm or next(m.parameters(), None) is None or super().is_leaf_module(m, module_qualified_name)


def folded(net: nn.Module) -> tuple[nn.Module, dict[str, tuple[str, float]]]:
    """`net` without the BatchNorms that follow a convolution, and where those were: {convolution: (norm, eps)}.

    A network that cannot be traced, that shares weights or reads them elsewhere (a plug-in's may) stays as it is, which
    costs speed alone.
    """
    try:
        graph = _Tracer().trace(net)
    except Exception:
        return net, {}
    shared = len(list(net.parameters())) < len(list(net.named_parameters(remove_duplicate=False)))
    if shared or any(node.op == "get_attr" for node in graph.nodes):
        return net, {}
    modules = dict(net.named_modules())
    norms: dict[str, tuple[str, float]] = {}
    for node in list(graph.nodes):
        pair = _pair(node, modules)
        if pair is not None:
            convolution, norm = pair
            shift = torch.zeros_like(modules[norm].get_parameter("bias"))
            modules[convolution].bias = nn.Parameter(shift, requires_grad=False)
            norms[convolution] = norm, float(modules[norm].eps)
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    return fx.GraphModule(net, graph), norms


def _pair(node: fx.Node, modules: dict[str, nn.Module]) -> tuple[str, str] | None:
    """The names of a convolution without bias and of the BatchNorm that alone reads it, if `node` is that norm."""
    before = node.args[0] if node.args else None
    if node.op != "call_module" or not isinstance(before, fx.Node) or before.op != "call_module":
        return None
    norm, convolution = modules[str(node.target)], modules[str(before.target)]
    # Exactly Conv2d: a subclass may make its weight from something else.
    if not isinstance(norm, nn.modules.batchnorm._BatchNorm) or type(convolution) is not nn.Conv2d:
        return None
    alone = len(before.users) == 1 and all(
        sum(other.target == one.target for other in node.graph.nodes) == 1 for one in (node, before)
    )
    made_here = "weight" in convolution._parameters and convolution.bias is None
    plain = made_here and norm.affine and norm.running_var is not None
    return (str(before.target), str(node.target)) if alone and plain else None
