"""A pretended GPU: tensors that say they lie on another device, compute on the CPU, and refuse to meet its own.

What CUDA would refuse is refused: an operation on tensors of both devices, unless it moves them, indexes, or takes a
single number from the CPU. Everything else gives the CPU's numbers, so a training on it must equal one on the CPU in
every bit. Its name is "meta", because autograd knows that device without a driver.
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


class Elsewhere(Tensor):
    """`inner`, lying on the pretended GPU."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Elsewhere:
        made: Elsewhere = Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=DEVICE,
        )
        made.inner = inner
        return made

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def __format__(self, how: str) -> str:
        return format(self.cpu(), how)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} on a tensor of a pretended GPU that is gone")


class Card(TorchDispatchMode):
    """Runs every operation where its tensors lie."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        here = any(isinstance(tensor, Elsewhere) for tensor in tensors)
        if func in INDEXES and isinstance(args[0], Elsewhere):
            tensors = [args[0], *(leaf for leaf in args[2:] if isinstance(leaf, Tensor))]  # indices may lie on the CPU
        foreign = any(not isinstance(tensor, Elsewhere) and tensor.dim() > 0 for tensor in tensors)
        if here and foreign and func is not aten.copy_.default:
            raise RuntimeError(f"Expected all tensors to be on the same device, but {func} found two")
        wanted = kwargs.get("device")
        if func is aten.copy_.default:
            here = isinstance(args[0], Elsewhere)
        elif wanted is not None:
            here = torch.device(wanted) == DEVICE
        result = func(*tree_map(_inner, args), **tree_map(_inner, {**kwargs, **({"device": CPU} if wanted else {})}))
        if not here:
            return result
        placed = tree_map(lambda leaf: Elsewhere(leaf) if isinstance(leaf, Tensor) else leaf, result)
        return return_and_correct_aliasing(func, args, kwargs, placed)


def _inner(leaf: Any) -> Any:
    return leaf.inner if isinstance(leaf, Elsewhere) else leaf


class _Generator(torch.Generator):
    """Draws on the pretended GPU what the CPU would draw."""

    def __new__(cls, device: object = None) -> _Generator:  # noqa: ARG004
        return super().__new__(cls)


def _load(*args: Any, map_location: Any = None, **kwargs: Any) -> Any:
    """torch's own would read shapes alone for a device of this name."""
    content = LOAD(*args, map_location="cpu", **kwargs)
    if torch.device(map_location or "cpu") != DEVICE:
        return content
    return tree_map(lambda leaf: leaf.to(DEVICE) if isinstance(leaf, Tensor) else leaf, content)


def _save(content: Any, *args: Any, **kwargs: Any) -> None:
    SAVE(tree_map(_inner, content), *args, **kwargs)


LOAD, SAVE = torch.load, torch.save


@contextlib.contextmanager
def another_device() -> Iterator[torch.device]:
    """While it lasts, DEVICE is one on which things can be computed."""
    overwritten = torch.__future__.get_overwrite_module_params_on_conversion()
    fused = ["cpu", "cuda", "meta"]
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(torch, "Generator", _Generator))
        stack.enter_context(mock.patch.object(torch, "load", _load))
        stack.enter_context(mock.patch.object(optimizer, "_get_fused_kernels_supported_devices", lambda: fused))
        stack.enter_context(mock.patch.object(torch, "save", _save))
        stack.enter_context(mock.patch.dict(trainer.LOOK_EVERY, {"meta": trainer.LOOK_EVERY["cuda"]}))
        # A module's new weights in the place of its old ones: to put new memory under an old tensor passes this by.
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, overwritten)
        stack.enter_context(Card())
        yield DEVICE
