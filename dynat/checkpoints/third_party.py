"""Third-party checkpoints: read without running their code, and either loaded completely or refused.

Supported are safetensors and torch files, whatever their name (weights only: tensors, no pickled code); weights inside
`state_dict`, `net`, `model` or `model_state_dict`; names with the prefix of a wrapper (`module.`, `model.`,
`_orig_mod.`, `1.`); the unused `sub_block1` of the TRADES family's WideResNets; and the mean and
standard deviation of a normalization that is part of the network (`mu` and `sigma`, `normalize.mean` and
`normalize.std`, `0.mean` and `0.std`), which becomes the first layer of the loaded network.

A file does not contain everything: networks that differ only in strides have the same names and shapes.
"""

from __future__ import annotations

import argparse
import codecs
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import Tensor, nn

from dynat.checkpoints.network import with_first_layer
from dynat.checkpoints.weights import fill
from dynat.config import Normalization
from dynat.runtime.errors import UserError
from dynat.runtime.files import check_readable

WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
MOST_WRAPPERS = 8
"""How many of them may be inside each other."""
_SCALAR: Any = np.float64(0).__reduce__()[0]
HARMLESS: list[Any] = [
    argparse.Namespace, np.dtype, codecs.encode, (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"), *(type(np.dtype(kind)) for kind in "?bhilBHILefd"),
]  # fmt: skip
"""What training scripts save beside weights, and what runs no code when it is read: options and single numbers."""
UNUSED = ("sub_block1.", "AuxLogits.", "aux1.", "aux2.")
"""Prefixes of weights that no forward pass reads in evaluation in the code they come from."""
MOST_CHANNELS = 1000
"""Of images, and so of their normalization."""
BUFFER_NAMES = (("mean", "std"), ("mu", "sigma"))
"""Names of the two buffers of a normalization."""

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class ThirdPartyModel:
    """A loaded third-party network: a function of pixels in [0,1]."""

    network: nn.Module
    dropped: list[str]
    """Weights in the file that no forward pass reads."""
    normalization: Normalization
    """Applied to pixels first; empty where there is none."""
    from_file: bool
    """Whether the file itself contains the normalization."""


def load_third_party(
    model: nn.Module,
    path: Path,
    *,
    channels: int,
    normalization: Normalization | None = None,
    default: Normalization | None = None,
) -> ThirdPartyModel:
    """Fill `model` from a third-party checkpoint, behind the normalization of the file or the given one.

    `default` is that of a network whose files do not contain it, where neither has one.

    A missing or unexpected name, another shape, a value that no trained network has (NaN, infinite, a negative
    variance), or a `normalization` that contradicts the file is a `UserError` that says which, and leaves `model`
    unchanged.
    """
    expected = model.state_dict()
    weights, in_file, dropped = network_tensors(path, expected)
    given = normalization or Normalization()
    chosen = _consistent(in_file, given, default or Normalization(), channels, path)
    fill(model, weights, path)
    return ThirdPartyModel(with_first_layer(model, chosen), dropped, chosen, from_file=in_file.mean is not None)


def network_tensors(path: Path, expected: Mapping[str, Tensor]) -> tuple[Tensors, Normalization, list[str]]:
    """The weights of a checkpoint under the names of a network whose state is `expected`, the normalization that was
    among them, and the names of weights that were left out because no forward pass reads them."""
    tensors, normalization = _without_wrappers(read_tensors(path), expected, path)
    dropped = [name for name in tensors if name.startswith(UNUSED) and name not in expected]
    weights = {name: value for name, value in tensors.items() if name not in dropped}
    # Old checkpoints do not count batches; the count is not read in evaluation.
    weights |= {
        name: expected[name] for name in expected if name.endswith("num_batches_tracked") and name not in weights
    }
    return weights, normalization, dropped


def read_tensors(path: Path) -> Tensors:
    """The tensors of a checkpoint by the names in the file; a file that holds no weights is a `UserError`."""
    tensors = _tensors_of(_read(path), path)
    for name, value in tensors.items():
        if reason := _not_plain(value):
            raise UserError(f"{path}: {name} is {reason}; save the network's weights as ordinary tensors")
    return tensors


def _read(path: Path) -> Any:
    check_readable(path, "checkpoint")
    try:
        with path.open("rb") as file:
            start = file.read(40)
            if start[8:9] == b"{":  # the header of a safetensors file follows its length
                return load_file(path)
            if start.startswith((b"PK\x03\x04", b"\x80")):  # an archive or a pickle: what torch.save has ever written
                file.seek(0)
                _check_archive(file, path)
                with torch.serialization.safe_globals(HARMLESS):
                    return torch.load(file, map_location="cpu", weights_only=True)
        reason = f"it begins with {start.decode(errors='replace')!r}" if start else "it is empty"
        raise UserError(f"{path}: not a checkpoint: {reason}")
    except UserError:
        raise
    except pickle.UnpicklingError:
        raise UserError(
            f"{path}: contains more than weights, and reading it would run its code; or it is damaged. "
            "Save only its state_dict() where it comes from"
        ) from None
    except Exception as error:  # a damaged pickle can raise anything
        reason = str(error).partition("\n")[0][:120] or type(error).__name__
        raise UserError(f"{path}: not a checkpoint, or damaged ({reason})") from None


def _check_archive(file: BinaryIO, path: Path) -> None:
    """Refuse an archive that is larger unpacked than the file: `torch.save` neither compresses nor repeats a part."""
    if not zipfile.is_zipfile(file):  # a plain pickle
        file.seek(0)
        return
    with zipfile.ZipFile(file) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > (size := path.stat().st_size):
        raise UserError(
            f"{path}: unpacks to {unpacked:,} bytes from {size:,}, which torch.save does not write; it was not read"
        )
    file.seek(0)


def _tensors_of(content: Any, path: Path) -> Tensors:
    """The mapping from names to tensors, inside wrappers; a file with two of them is refused, not guessed."""
    for _ in range(MOST_WRAPPERS):
        if _are_tensors(content):
            return dict(content)
        entries = content if isinstance(content, Mapping) else {}
        known = [key for key in WRAPPERS if isinstance(entries.get(key), Mapping)]
        others = [str(key) for key, value in entries.items() if key not in WRAPPERS and _are_tensors(value)]
        if len(known) + len(others) > 1 and len(known) != 0:
            raise UserError(
                f"{path}: contains several networks ({', '.join([*known, *others])}); save only the one you mean: "
                f"torch.save(torch.load(FILE)['{known[0]}'], 'one.pt')"
            )
        if not known:
            contained = ", ".join(str(key)[:60] for key in list(entries)[:8]) if entries else type(content).__name__
            raise UserError(
                f"{path}: no weights found (it contains: {contained}); expected tensors by name, or one of {WRAPPERS}"
            )
        content = entries[known[0]]
    raise UserError(f"{path}: no weights found within {MOST_WRAPPERS} levels of {WRAPPERS}; does it contain itself?")


def _not_plain(value: Tensor) -> str:
    """What kind of tensor it is, if it has no real numbers that can be read directly."""
    kinds = {
        "a meta tensor, with a shape and no values": value.is_meta,
        "a sparse tensor": value.layout != torch.strided,
        "a quantized tensor": value.is_quantized,
        "a complex tensor": value.is_complex(),
        "a nested tensor": value.is_nested,
    }
    return next((kind for kind, applies in kinds.items() if applies), "")


def _are_tensors(content: Any) -> bool:
    if not isinstance(content, Mapping) or not content:
        return False
    return all(isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items())


def _without_wrappers(tensors: Tensors, expected: Mapping[str, Tensor], path: Path) -> tuple[Tensors, Normalization]:
    """Tensors under the network's own names, and the normalization that was among them."""
    tensors = _without_prefix(tensors, expected)
    pairs = [
        (name, f"{name.removesuffix(mean)}{std}")
        for mean, std in BUFFER_NAMES
        for name in tensors
        if (name == mean or name.endswith(f".{mean}")) and name not in expected
    ]
    pairs = [(mean, std) for mean, std in pairs if std in tensors and std not in expected]
    if not pairs:
        return tensors, Normalization()
    if len(pairs) > 1:
        raise UserError(f"{path}: contains two normalizations ({pairs[0][0]} and {pairs[1][0]})")
    mean, std = pairs[0]
    rest = {name: value for name, value in tensors.items() if name not in pairs[0]}
    if max(tensors[mean].numel(), tensors[std].numel()) > MOST_CHANNELS:  # a small file can hold a tensor of any shape
        raise UserError(f"{path}: {mean} and {std} are no normalization: they have more than {MOST_CHANNELS} values")
    try:
        normalization = Normalization.model_validate(
            {"mean": tensors[mean].double().flatten().tolist(), "std": tensors[std].double().flatten().tolist()}
        )
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise UserError(f"{path}: {mean} and {std} are no normalization of pixels in [0,1] ({reason})") from None
    return _without_prefix(rest, expected), normalization


def _without_prefix(tensors: Tensors, expected: Mapping[str, Tensor]) -> Tensors:
    """Remove the prefixes that wrappers put before every name; a prefix of the network's own names stays."""
    firsts = {name.partition(".")[0] if "." in name else None for name in tensors}
    first = firsts.pop() if len(firsts) == 1 else None
    if first is None or all(name.startswith(f"{first}.") for name in expected):
        return tensors
    return _without_prefix({name.removeprefix(f"{first}."): value for name, value in tensors.items()}, expected)


def _consistent(
    in_file: Normalization, given: Normalization, default: Normalization, channels: int, path: Path
) -> Normalization:
    """The one normalization to apply; the file and the caller must agree, and it is never applied twice."""
    if in_file.mean and given.mean and not same_normalization(in_file, given):
        raise UserError(f"{path}: contains {in_file}, but {given} was given: leave out mean and std to use the file's")
    chosen = in_file if in_file.mean else given if given.mean else default
    chosen = Normalization(mean=chosen.mean, std=chosen.std, padding=given.padding)
    if chosen.mean and len(chosen.mean) not in (1, channels):
        raise UserError(f"{path}: mean and std have {len(chosen.mean)} channels, and the images have {channels}")
    return chosen


def same_normalization(one: Normalization, other: Normalization) -> bool:
    """Up to the rounding of numbers in a file or a paper."""
    first, second = ((*(each.mean or ()), *(each.std or ())) for each in (one, other))
    return len(first) == len(second) and all(abs(a - b) < 1e-4 for a, b in zip(first, second, strict=True))
