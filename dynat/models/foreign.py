"""Checkpoints of other people: read without running their code, never loaded partly in silence.

Understood are safetensors and torch files (weights only: tensors, no pickled code); weights inside
`state_dict`, `net`, `model` or `model_state_dict`; names behind the prefix of a wrapper (`module.`, `model.`,
`_orig_mod.`, `1.`); the unused `sub_block1` that the TRADES family's WideResNets carry; and the mean and
standard deviation of a normalisation that is part of the network (`mu` and `sigma`, `normalize.mean` and
`normalize.std`, `0.mean` and `0.std`), which becomes the first layer of what is loaded.

What a file cannot tell: networks that differ in strides alone have the same names and shapes.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from dynat.config.options import External
from dynat.models.normalised import normalised
from dynat.models.state import fill

WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
UNUSED = ("sub_block1.",)
"""Weights that no forward reads in the code they come from."""
MEASURES = (("mean", "std"), ("mu", "sigma"))
"""What the two buffers of a normalisation are called."""

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Adopted:
    """Somebody's network, whole: a function of pixels in [0,1]."""

    network: nn.Module
    dropped: list[str]
    """Weights in the file that nothing reads."""
    standard: External
    """What is done to pixels first; empty where nothing is."""
    carried: bool
    """Whether the file itself says so."""


def load_foreign(model: nn.Module, path: Path, *, channels: int, standard: External | None = None) -> Adopted:
    """Fill `model` from anybody's checkpoint, behind the normalisation that the file carries or `standard` states.

    A name too many or too few, another shape, or a `standard` that contradicts the file is a `ValueError` that
    says which, and leaves `model` as it was.
    """
    tensors, carried = _bare(_unwrapped(_read(path), path), model.state_dict(), path)
    chosen = _agreed(carried, standard or External(), channels, path)
    wanted = model.state_dict()
    dropped = [name for name in tensors if name.startswith(UNUSED) and name not in wanted]
    kept = {name: value for name, value in tensors.items() if name not in dropped}
    # Old checkpoints count no batches; the count is read by nobody who evaluates.
    kept |= {name: wanted[name] for name in wanted if name.endswith("num_batches_tracked") and name not in kept}
    fill(model, kept, path)
    whole = normalised(model, mean=chosen.mean, std=chosen.std) if chosen.mean and chosen.std else model
    return Adopted(whole, dropped, chosen, carried=carried.mean is not None)


def _read(path: Path) -> Any:
    if not path.exists():
        raise ValueError(f"{path}: no such checkpoint")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with path.open("rb") as file:
            begins = file.read(40)
        if not begins.startswith((b"PK", b"\x80")):  # an archive or a pickle: what torch.save has ever written
            what = f"it begins with {begins.decode(errors='replace')!r}" if begins else "it is empty"
            raise ValueError(f"{path}: not a checkpoint: {what}")
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ValueError(
            f"{path}: holds more than weights, and reading it would run its code; or it is damaged. "
            "Save its state_dict() alone where it comes from"
        ) from None
    except (SafetensorError, RuntimeError, EOFError, KeyError, OSError) as error:
        said = str(error).partition("\n")[0][:120] or type(error).__name__
        raise ValueError(f"{path}: not a checkpoint, or damaged ({said})") from None


def _unwrapped(content: Any, path: Path) -> Tensors:
    """The mapping from names to tensors, wherever it was put; a file with two of them must not be guessed at."""
    if _are_tensors(content):
        return dict(content)
    entries = content if isinstance(content, Mapping) else {}
    known = [key for key in WRAPPERS if isinstance(entries.get(key), Mapping)]
    others = [str(key) for key, value in entries.items() if key not in WRAPPERS and _are_tensors(value)]
    if len(known) + len(others) > 1 and len(known) != 0:
        raise ValueError(
            f"{path}: holds several networks ({', '.join([*known, *others])}); save the one that is meant alone: "
            f"torch.save(torch.load(FILE)['{known[0]}'], 'one.pt')"
        )
    if known:
        return _unwrapped(entries[known[0]], path)
    held = ", ".join(map(str, list(entries)[:8])) if entries else type(content).__name__
    raise ValueError(f"{path}: no weights found (it holds: {held}); expected tensors by name, or one of {WRAPPERS}")


def _are_tensors(content: Any) -> bool:
    return isinstance(content, Mapping) and bool(content) and all(isinstance(v, Tensor) for v in content.values())


def _bare(tensors: Tensors, wanted: Mapping[str, Tensor], path: Path) -> tuple[Tensors, External]:
    """Names as the network itself has them, and the normalisation that stood among them."""
    tensors = _unprefixed(tensors, wanted)
    pairs = [
        (name, f"{name.removesuffix(mean)}{std}")
        for mean, std in MEASURES
        for name in tensors
        if (name == mean or name.endswith(f".{mean}")) and name not in wanted
    ]
    pairs = [(mean, std) for mean, std in pairs if std in tensors and std not in wanted]
    if not pairs:
        return tensors, External()
    if len(pairs) > 1:
        raise ValueError(f"{path}: carries two normalisations ({pairs[0][0]} and {pairs[1][0]})")
    mean, std = pairs[0]
    rest = {name: value for name, value in tensors.items() if name not in pairs[0]}
    try:
        found = External.model_validate(
            {"mean": tensors[mean].double().flatten().tolist(), "std": tensors[std].double().flatten().tolist()}
        )
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise ValueError(f"{path}: {mean} and {std} are no normalisation of pixels in [0,1] ({reason})") from None
    return _unprefixed(rest, wanted), found


def _unprefixed(tensors: Tensors, wanted: Mapping[str, Tensor]) -> Tensors:
    """Wrappers put their prefix before every name, and the network has none that all its names share."""
    firsts = {name.partition(".")[0] if "." in name else None for name in tensors}
    first = firsts.pop() if len(firsts) == 1 else None
    if first is None or all(name.startswith(f"{first}.") for name in wanted):
        return tensors
    return _unprefixed({name.removeprefix(f"{first}."): value for name, value in tensors.items()}, wanted)


def _agreed(carried: External, stated: External, channels: int, path: Path) -> External:
    """What is to be done to pixels; two sources must say the same, and never is it done twice."""
    if carried.mean and stated.mean and not _same(carried, stated):
        raise ValueError(
            f"{path}: carries {carried}, and {stated} was stated: leave mean and std out to go by the file"
        )
    chosen = carried if carried.mean else stated
    if chosen.mean and len(chosen.mean) not in (1, channels):
        raise ValueError(f"{path}: mean and std are of {len(chosen.mean)} channels, and the pictures have {channels}")
    return chosen


def _same(one: External, other: External) -> bool:
    """As numbers are the same that were rounded for a file or a paper."""
    first, second = ((*(standard.mean or ()), *(standard.std or ())) for standard in (one, other))
    return len(first) == len(second) and all(abs(a - b) < 1e-4 for a, b in zip(first, second, strict=True))
