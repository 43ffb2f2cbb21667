"""Weights as safetensors files, written and read atomically and completely. Works on any `nn.Module`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from dynat.runtime.errors import UserError
from dynat.runtime.files import atomic_write


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

    All or nothing: a missing or unexpected name, or another shape, is a `UserError` that leaves `model` unchanged.
    """
    if problems := _differences(model.state_dict(), tensors):
        raise UserError(f"{path}: these are not the weights of this {type(model).__name__}: {'; '.join(problems)}")
    model.load_state_dict(tensors)


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except SafetensorError as error:
        raise UserError(f"{path}: not a complete safetensors file ({error})") from None


def _differences(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> list[str]:
    reshaped = [
        f"{name} (file {tuple(tensors[name].shape)}, network {tuple(expected[name].shape)})"
        for name in expected
        if name in tensors and tensors[name].shape != expected[name].shape
    ]
    groups = {
        "missing": [name for name in expected if name not in tensors],
        "unexpected": [name for name in tensors if name not in expected],
        "of another shape": reshaped,
    }
    return [f"{what}: {_listed(names)}" for what, names in groups.items() if names]


def _listed(names: list[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
