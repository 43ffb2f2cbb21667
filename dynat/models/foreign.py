"""Checkpoints of other people: read without running their code, never loaded partly in silence.

Understood are safetensors and torch files (weights only: tensors, no pickled code); weights inside
`state_dict`, `net`, `model` or `model_state_dict`; names behind `module.`, `model.` or `_orig_mod.` (parallel
and compiled wrappers); and the unused `sub_block1` that the TRADES family's WideResNets carry.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from dynat.models.state import fill

WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
PREFIXES = ("module.", "model.", "_orig_mod.")
UNUSED = ("sub_block1.",)
"""Weights that no forward reads in the code they come from."""


def load_foreign(model: nn.Module, path: Path) -> list[str]:
    """Fill `model` from anybody's checkpoint; says what it dropped because nothing reads it.

    Any other name too many or too few, or another shape, is a `ValueError` that lists them.
    """
    tensors = _unprefixed(_unwrapped(_read(path), path))
    wanted = model.state_dict()
    dropped = [name for name in tensors if name.startswith(UNUSED) and name not in wanted]
    kept = {name: value for name, value in tensors.items() if name not in dropped}
    # Old checkpoints count no batches; the count is read by nobody who evaluates.
    kept |= {name: wanted[name] for name in wanted if name.endswith("num_batches_tracked") and name not in kept}
    fill(model, kept, path)
    return dropped


def _read(path: Path) -> Any:
    if not path.exists():
        raise ValueError(f"{path}: no such checkpoint")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path}: holds more than weights, and reading it would run its code ({str(error).splitlines()[0][:120]}). "
            "Save its state_dict() alone where it comes from"
        ) from None
    except (SafetensorError, RuntimeError, EOFError, KeyError) as error:
        raise ValueError(f"{path}: not a checkpoint, or damaged ({str(error)[:120]})") from None


def _unwrapped(content: Any, path: Path) -> dict[str, Tensor]:
    """The mapping from names to tensors, wherever it was put."""
    if isinstance(content, dict):
        if content and all(isinstance(value, Tensor) for value in content.values()):
            return content
        for key in WRAPPERS:
            if isinstance(content.get(key), dict):
                return _unwrapped(content[key], path)
    held = ", ".join(map(str, list(content)[:8])) if isinstance(content, dict) else type(content).__name__
    raise ValueError(f"{path}: no weights found (it holds: {held}); expected tensors by name, or one of {WRAPPERS}")


def _unprefixed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names as the network itself has them: wrappers put their prefix before every one."""
    for prefix in PREFIXES:
        if tensors and all(name.startswith(prefix) for name in tensors):
            return _unprefixed({name.removeprefix(prefix): value for name, value in tensors.items()})
    return tensors
