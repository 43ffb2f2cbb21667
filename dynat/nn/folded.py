"""A frozen copy of a network with BatchNorm folded into the layers before it, used by attacks.

The same function in evaluation mode, in fewer operations: w' = w s, b' = b - m s, with s = gamma / sqrt(variance +
eps); convolutions are channels-last and compute in a chosen precision. An attack then runs neither BatchNorm nor casts
of weights. In float32 the logits differ from the network's by rounding only.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from dynat.nn.compiled import CompiledModel
from dynat.nn.sync_batchnorm import CPUSyncBatchNorm

CAST: tuple[type[nn.Module], ...] = (nn.Conv2d, nn.Linear)
"""The layers that hold most weights, and compute in the chosen precision."""
NORMS: tuple[type[nn.Module], ...] = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm, CPUSyncBatchNorm)
"""Exactly these types: a subclass may do more, such as an activation, or make its weight from something else."""


class FoldedModel(nn.Module):
    """A frozen, folded copy of `net` that computes in `dtype`; `refresh` copies the current weights."""

    def __init__(self, net: nn.Module, dtype: torch.dtype, *, compiled: bool = False) -> None:
        super().__init__()
        self.dtype = dtype
        self._original = [net]  # in a list, so that its weights are not this module's
        self.net, self.norms = folded(copy.deepcopy(net).eval().requires_grad_(False))
        self._autocast = dtype != torch.float32 and not _casts_by_layer(self.net)
        for module in self.net.modules():
            if type(module) in CAST and dtype != torch.float32 and not self._autocast:
                module.to(dtype)
                # Layers before the first of them, such as a normalization of pixels, stay float32.
                module.register_forward_pre_hook(_to_weight_dtype)
        self.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.eval()
        self._compiled: list[CompiledModel] = [CompiledModel(self.net)] if compiled else []

    @property
    def network(self) -> nn.Module:
        """The network that this is a copy of."""
        return self._original[0]

    @torch.no_grad()
    def refresh(self, net: nn.Module) -> FoldedModel:
        """Copy the weights of `net` by name, then fold. Foreach operations, so that depth costs few launches."""
        current = {**dict(net.named_parameters()), **dict(net.named_buffers())}
        copied = {**dict(self.net.named_parameters()), **dict(self.net.named_buffers())}
        scaled = [copied.pop(f"{name}.weight") for name in self.norms]
        shifts = [copied.pop(f"{name}.bias") for name in self.norms]
        if copied:  # else all is folded, and foreach operations refuse empty lists
            torch._foreach_copy_(list(copied.values()), [current[name] for name in copied])
        if not self.norms:
            return self
        gamma, beta, mean, variance = (
            [current[f"{norm}.{part}"] for norm, _ in self.norms.values()]
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        variance = list(torch._foreach_add(variance, [eps for _, eps in self.norms.values()]))
        scale = torch._foreach_mul(torch._foreach_rsqrt(variance), gamma)
        weights = [current[f"{name}.weight"] for name in self.norms]
        factors = [s.view(-1, *[1] * (weight.dim() - 1)) for s, weight in zip(scale, weights, strict=True)]
        torch._foreach_copy_(scaled, torch._foreach_mul(weights, factors))
        torch._foreach_copy_(shifts, torch._foreach_sub(beta, torch._foreach_mul(mean, scale)))
        return self

    def forward(self, images: Tensor) -> Tensor:
        images = images.contiguous(memory_format=torch.channels_last)
        run = self._compiled[0] if self._compiled else self.net
        cast = torch.autocast(images.device.type, dtype=self.dtype) if self._autocast else nullcontext()
        if self.dtype != torch.float16:
            with cast:
                logits: Tensor = run(images)
            return logits.float()
        scale: list[Tensor] = []
        with cast:
            half = run(_Restored.apply(images, scale))  # type: ignore[no-untyped-call]
        return _Scaled.apply(half, scale)  # type: ignore[no-any-return, no-untyped-call]

    def train(self, mode: bool = True) -> FoldedModel:  # noqa: ARG002
        """Its only mode is evaluation, whatever mode an attack sets."""
        return super().train(False)


def _casts_by_layer(net: nn.Module) -> bool:
    """Whether it computes with weights in convolutions, linear layers and BatchNorm only, each called as a module.

    Other layers, such as LayerNorm or attention, do not take inputs of one type and weights of another: their weights
    stay float32, and autocast chooses the type of each operation.
    """
    holders = [module for module in net.modules() if next(module.parameters(recurse=False), None) is not None]
    known = (*CAST, *NORMS, FrozenBatchNorm2d)
    return isinstance(net, fx.GraphModule) and all(type(module) in known for module in holders)


def _to_weight_dtype(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return (inputs[0].to(module.weight.dtype), *inputs[1:])


class _Scaled(torch.autograd.Function):
    """float16 logits to float32; backward, each image's gradient is brought near 1 by a power of two.

    float16 has no numbers below 6e-8, and the gradient of a cross-entropy on a confidently classified image is smaller
    than that. An image's gradient passes through the network linearly, so `_Restored` can undo it exactly.
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
    """The images unchanged; backward, the scaling of `_Scaled` is undone."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, scale: list[Tensor]) -> Tensor:
        ctx.scale = scale
        return images.view_as(images)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] / ctx.scale[0], None


class FrozenBatchNorm2d(nn.BatchNorm2d):
    """One that could not be folded. Its gradient is a product; that of torch also sums over all positions."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__(norm.num_features, eps=norm.eps, device=norm.weight.device, dtype=norm.weight.dtype)
        self.load_state_dict(norm.state_dict())
        self.requires_grad_(False)

    def forward(self, input: Tensor) -> Tensor:
        output: Tensor = _EvaluatedBatchNorm.apply(  # type: ignore[no-untyped-call]
            input, self.weight, self.bias, self.running_mean, self.running_var, self.eps
        )
        return output


class _EvaluatedBatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, images: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, eps: float
    ) -> Tensor:
        ctx.scale = (weight * torch.rsqrt(variance + eps)).view(-1, 1, 1).to(images.dtype)
        return functional.batch_norm(images, mean, variance, weight, bias, training=False, eps=eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return gradients[0] * ctx.scale, None, None, None, None, None


class _Tracer(fx.Tracer):
    """Treats modules without weights as leaves: their Python code may depend on shapes, which a trace cannot follow."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        norm = isinstance(m, nn.modules.batchnorm._BatchNorm)
        return norm or next(m.parameters(), None) is None or super().is_leaf_module(m, module_qualified_name)


def folded(net: nn.Module) -> tuple[nn.Module, dict[str, tuple[str, float]]]:
    """`net` without the BatchNorms that can be folded, and which those were: {layer before it: (norm, eps)}.

    A network that cannot be traced, that shares weights or reads them elsewhere (one of a plug-in may) is returned
    unchanged, which costs only speed.
    """
    try:
        with _refused_in_traces():
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
            layer, norm = pair
            shift = torch.zeros_like(modules[norm].get_parameter("bias"))
            modules[layer].bias = nn.Parameter(shift, requires_grad=False)
            norms[layer] = norm, float(modules[norm].eps)
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    for name, module in modules.items():
        if type(module) is nn.BatchNorm2d and module.affine and module.track_running_stats and not _has_hooks(module):
            net.set_submodule(name, FrozenBatchNorm2d(module))
    return fx.GraphModule(net, graph), norms


@contextmanager
def _refused_in_traces() -> Iterator[None]:
    """Stops a trace at code whose effect on gradients or types it would not record, and so lose."""

    def refuse(*_: object, **__: object) -> None:
        raise NotImplementedError("a trace does not record this")

    unseen = (
        *((torch.autograd.Function, "apply"), (torch.set_grad_enabled, "__init__")),
        *((scope, "__enter__") for scope in (torch.no_grad, torch.enable_grad, torch.inference_mode, torch.autocast)),
    )
    before = [(owner, name, vars(owner)[name]) for owner, name in unseen]
    try:
        for owner, name in unseen:
            setattr(owner, name, refuse)
        yield
    finally:
        for owner, name, method in before:
            setattr(owner, name, method)


def _pair(node: fx.Node, modules: dict[str, nn.Module]) -> tuple[str, str] | None:
    """The names of a layer without bias and of the BatchNorm that alone reads it, if `node` is that norm."""
    before = node.args[0] if node.args else None
    if node.op != "call_module" or not isinstance(before, fx.Node) or before.op != "call_module":
        return None
    norm, layer = modules[str(node.target)], modules[str(before.target)]
    if type(norm) is nn.BatchNorm1d:
        suitable = type(layer) is nn.Linear and _is_flat(before.args[0], modules)
    else:
        suitable = type(norm) in NORMS and type(layer) is nn.Conv2d
    if not suitable or _has_hooks(norm) or _has_hooks(layer):
        return None
    alone = len(before.users) == 1 and all(
        sum(other.target == one.target for other in node.graph.nodes) == 1 for one in (node, before)
    )
    has_own_weight = "weight" in layer._parameters and layer.bias is None
    foldable = has_own_weight and norm.affine and norm.running_var is not None
    return (str(before.target), str(node.target)) if alone and foldable else None


def _has_hooks(module: nn.Module) -> bool:
    """Whether forward hooks see or change its inputs or outputs."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _is_flat(value: object, modules: dict[str, nn.Module]) -> bool:
    """Whether `value` is known to have two dimensions. Of three, BatchNorm1d normalizes the second, not the last."""
    flatten = modules[str(value.target)] if isinstance(value, fx.Node) and value.op == "call_module" else None
    return type(flatten) is nn.Flatten and (flatten.start_dim, flatten.end_dim) == (1, -1)
