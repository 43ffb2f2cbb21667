"""Weights as safetensors files, written and read atomically and completely. Works on any `nn.Module`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from dynat.runtime.errors import UserError
from dynat.runtime.files import atomic_write, check_readable


def save_weights(model: nn.Module, path: Path, metadata: Mapping[str, str]) -> None:
    """Parameters and buffers as safetensors, atomically; `metadata` travels in the same file."""
    # Copies: safetensors refuses tensors that share memory, and knows no strides.
    tensors = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in model.state_dict().items()
    }
    content = save(tensors, dict(metadata))
    atomic_write(path, lambda draft: draft.write_bytes(content))


def load_weights(model: nn.Module, path: Path) -> dict[str, str]:
    """Fill `model` from a file of `save_weights` and return the metadata."""
    tensors, metadata = _read(path)
    fill(model, tensors, path)
    return metadata


def fill(model: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Give `model` the weights that were read from `path`.

    All or nothing: a missing or unexpected name, another shape, or a value that no trained network has is a
    `UserError` that leaves `model` unchanged.
    """
    expected = model.state_dict()
    if problems := _differences(expected, tensors):
        raise UserError(f"{path}: these are not the weights of this {type(model).__name__}: {'; '.join(problems)}")
    for name, value in tensors.items():
        if reason := _unusable(name, value, expected[name]):
            raise UserError(f"{path}: {name} {reason}, so no accuracy of this network would mean anything")
    model.load_state_dict(tensors)


def _unusable(name: str, value: Tensor, expected: Tensor) -> str:
    """Why a tensor of the right shape cannot be a weight of a trained network; empty if it can be."""
    if not expected.is_floating_point():
        return ""
    if not value.is_floating_point():
        return f"is of type {str(value.dtype).removeprefix('torch.')} and not of real numbers"
    value = value.to(expected.dtype)
    if not torch.isfinite(value).all():
        return "contains NaN or infinite values"
    if name.endswith("running_var") and (value < 0).any():
        return "contains a negative variance"
    return ""


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    check_readable(path, "file of weights")
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
