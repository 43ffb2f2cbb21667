"""A fake GPU: tensors that report another device, compute on the CPU, and cannot be combined with CPU tensors.

What CUDA would refuse is refused: an operation on tensors of both devices, unless it copies, indexes, or takes a single
number from the CPU. Everything else gives the CPU's numbers, so a training on it must equal one on the CPU bit for bit.
The device is called "meta", because autograd knows that device without a driver.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
import torch._dynamo  # annotates with torch.Generator, so it must see the real one
from torch import Tensor
from torch.optim import optimizer
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

from dynat.training import trainer

DEVICE = torch.device("meta")
CPU = torch.device("cpu")
aten = torch.ops.aten

INDEXES = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default)


class FakeGPUTensor(Tensor):
    """`cpu_tensor`, stored on the fake GPU."""

    cpu_tensor: Tensor

    @staticmethod
    def __new__(cls, cpu_tensor: Tensor) -> FakeGPUTensor:
        tensor: FakeGPUTensor = Tensor._make_wrapper_subclass(
            cls,
            cpu_tensor.shape,
            strides=cpu_tensor.stride(),
            storage_offset=cpu_tensor.storage_offset(),
            dtype=cpu_tensor.dtype,
            device=DEVICE,
        )
        tensor.cpu_tensor = cpu_tensor
        return tensor

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def __format__(self, how: str) -> str:
        return format(self.cpu(), how)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        raise AssertionError(f"{func} on a tensor of the fake GPU outside `fake_gpu()`")


class FakeGPU(TorchDispatchMode):
    """Runs every operation on the device of its tensors."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        on_gpu = any(isinstance(tensor, FakeGPUTensor) for tensor in tensors)
        if func in INDEXES and isinstance(args[0], FakeGPUTensor):
            tensors = [args[0], *(leaf for leaf in args[2:] if isinstance(leaf, Tensor))]  # indices may be on the CPU
        has_cpu_tensor = any(not isinstance(tensor, FakeGPUTensor) and tensor.dim() > 0 for tensor in tensors)
        if on_gpu and has_cpu_tensor and func is not aten.copy_.default:
            raise RuntimeError(f"Expected all tensors to be on the same device, but {func} found two")
        device = kwargs.get("device")
        if func is aten.copy_.default:
            on_gpu = isinstance(args[0], FakeGPUTensor)
        elif device is not None:
            on_gpu = torch.device(device) == DEVICE
        result = func(*tree_map(_to_cpu, args), **tree_map(_to_cpu, {**kwargs, **({"device": CPU} if device else {})}))
        if not on_gpu:
            return result
        moved = tree_map(lambda leaf: FakeGPUTensor(leaf) if isinstance(leaf, Tensor) else leaf, result)
        return return_and_correct_aliasing(func, args, kwargs, moved)


def _to_cpu(leaf: Any) -> Any:
    return leaf.cpu_tensor if isinstance(leaf, FakeGPUTensor) else leaf


class _Generator(torch.Generator):
    """Draws on the fake GPU what the CPU would draw."""

    def __new__(cls, device: object = None) -> _Generator:  # noqa: ARG004
        return super().__new__(cls)


def _load(*args: Any, map_location: Any = None, **kwargs: Any) -> Any:
    """torch.load would read only shapes for a device of this name."""
    content = LOAD(*args, **{**kwargs, "map_location": "cpu"})
    if torch.device(map_location or "cpu") != DEVICE:
        return content
    return tree_map(lambda leaf: leaf.to(DEVICE) if isinstance(leaf, Tensor) else leaf, content)


def _save(content: Any, *args: Any, **kwargs: Any) -> None:
    SAVE(tree_map(_to_cpu, content), *args, **kwargs)


LOAD, SAVE = torch.load, torch.save


@contextlib.contextmanager
def fake_gpu() -> Iterator[torch.device]:
    """Inside, DEVICE can compute."""
    overwritten = torch.__future__.get_overwrite_module_params_on_conversion()
    fused = ["cpu", "cuda", "meta"]
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(torch, "Generator", _Generator))
        stack.enter_context(mock.patch.object(torch, "load", _load))
        stack.enter_context(mock.patch.object(optimizer, "_get_fused_kernels_supported_devices", lambda: fused))
        stack.enter_context(mock.patch.object(torch, "save", _save))
        stack.enter_context(mock.patch.dict(trainer.CHECK_EVERY, {"meta": trainer.CHECK_EVERY["cuda"]}))
        # Module.to replaces parameters by new ones: exchanging the memory of a parameter would bypass FakeGPUTensor.
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, overwritten)
        stack.enter_context(FakeGPU())
        yield DEVICE
