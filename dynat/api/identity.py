"""What tells two models apart: weights, buffers, the values of attributes, and the code of their classes.

A state of finished batches is found again by this. Two models can have the same text and the same `state_dict` and
still differ: in a plain attribute such as a temperature, a buffer that is not saved, or an edited `forward`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from types import CodeType, FunctionType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

OWN = ("_parameters", "_buffers", "_modules", "training")
"""Attributes of every module that are read otherwise, or that an evaluation sets."""


def model_digest(model: nn.Module) -> str:
    total = hashlib.sha256(repr(model).encode())
    for part in _parts(model):
        total.update(part + b"\0")
    return total.hexdigest()


def _parts(model: nn.Module) -> Iterator[bytes]:
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        yield name.encode()
        yield _content(tensor)
    classes: dict[type, None] = {}
    for name, module in model.named_modules():
        yield f"{name} {type(module).__module__}.{type(module).__qualname__}".encode()
        classes |= dict.fromkeys(type(module).__mro__)
        for key, value in sorted(vars(module).items()):
            if key not in OWN:
                yield key.encode()
                yield _content(value)
    for kind in classes:
        if not kind.__module__.startswith(("torch.", "builtins")):
            yield from (_content(value) for _, value in sorted(vars(kind).items()))


def _content(value: Any, depth: int = 0) -> bytes:
    """The value, of what can be compared between two processes; of anything else only its type."""
    if isinstance(value, Tensor):
        value = value.detach().cpu().contiguous()
        value = value.reshape(1) if value.ndim == 0 else value
        return f"{value.dtype} {tuple(value.shape)} ".encode() + bytes(value.reshape(-1).view(torch.uint8).numpy())
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape} ".encode() + bytes(value.tobytes())
    if value is None or isinstance(value, bool | int | float | complex | str | bytes | torch.dtype | torch.device):
        return repr(value).encode()
    if isinstance(value, FunctionType):
        return _code(value.__code__) + _content(value.__defaults__, depth + 1)
    if isinstance(value, property | staticmethod | classmethod):
        return _content(getattr(value, "fget", None) or getattr(value, "__func__", None), depth + 1)
    if depth < 8 and isinstance(value, Mapping):
        return b"{" + b",".join(_content(pair, depth + 1) for pair in value.items()) + b"}"
    if depth < 8 and isinstance(value, list | tuple):
        return b"[" + b",".join(_content(each, depth + 1) for each in value) + b"]"
    if depth < 8 and isinstance(value, set | frozenset):
        return b"(" + b",".join(sorted(_content(each, depth + 1) for each in value)) + b")"
    return f"{type(value).__module__}.{type(value).__qualname__}".encode()


def _code(code: CodeType) -> bytes:
    constants = [_code(each) if isinstance(each, CodeType) else _content(each) for each in code.co_consts]
    return code.co_code + repr(code.co_names).encode() + b",".join(constants)
