"""The state of a network: frozen for a while, evaluating for a while, written and read back whole.

Works on any `nn.Module`; nothing here knows a network of this package.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from dynat.files import atomic_write


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """No parameter asks for a gradient inside; afterwards each is as it was found."""
    found = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        for parameter, _ in found:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter, wanted in found:
            parameter.requires_grad_(wanted)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards each submodule is in the mode it was found in."""
    found = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        # Set on each module alone: `train(mode)` reaches into children, and a child may have several parents.
        for module, mode in found:
            module.training = mode


def save_weights(model: nn.Module, path: Path, metadata: Mapping[str, str]) -> None:
    """Parameters and buffers as safetensors, atomically; `metadata` travels in the same file."""
    # Copies: safetensors refuses tensors that share memory, and knows no strides.
    tensors = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in model.state_dict().items()
    }
    atomic_write(path, lambda draft: save_file(tensors, draft, metadata=dict(metadata)))


def load_weights(model: nn.Module, path: Path) -> dict[str, str]:
    """Fill `model` from a file of `save_weights` and return the metadata."""
    tensors, metadata = _read(path)
    fill(model, tensors, path)
    return metadata


def fill(model: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Give `model` the weights that were read from `path`.

    All or nothing: a name too many or too few, or another shape, is a `ValueError` that leaves `model` as it
    was.
    """
    if problems := _differences(model.state_dict(), tensors):
        raise ValueError(f"{path}: these are not the weights of this {type(model).__name__}: {'; '.join(problems)}")
    model.load_state_dict(tensors)


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path}: not a complete safetensors file ({error})") from None


def _differences(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[str]:
    reshaped = [
        f"{name} (file {tuple(found[name].shape)}, network {tuple(wanted[name].shape)})"
        for name in wanted
        if name in found and found[name].shape != wanted[name].shape
    ]
    groups = {
        "missing": [name for name in wanted if name not in found],
        "unexpected": [name for name in found if name not in wanted],
        "of another shape": reshaped,
    }
    return [f"{what}: {_listed(names)}" for what, names in groups.items() if names]


def _listed(names: list[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
