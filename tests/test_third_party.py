"""Third-party checkpoints: every wrapper in use is read; nothing is loaded partly, no code in a file is run."""

from __future__ import annotations

import argparse
import copy
import os
import pickle
import random
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from dynat import models
from dynat.checkpoints.third_party import ThirdPartyModel
from dynat.checkpoints.third_party import load_third_party as load_any
from dynat.checkpoints.weights import load_weights
from dynat.config import ConfigError, Normalization, load
from dynat.jobs import preflight
from dynat.nn.modes import evaluating
from dynat.results.paths import Paths
from dynat.runtime.errors import UserError

Weights = dict[str, Tensor]


def load_third_party(model: torch.nn.Module, path: Path, normalization: Normalization | None = None) -> ThirdPartyModel:
    return load_any(model, path, channels=3, normalization=normalization)


@pytest.fixture
def wide() -> torch.nn.Module:
    return models.build("wrn10-1", classes=10, channels=3)


def other_weights() -> Weights:
    with torch.random.fork_rng():
        torch.manual_seed(99)
        return models.build("wrn10-1", classes=10, channels=3).state_dict()


WRAPPERS: dict[str, Any] = {
    "plain": lambda w: w,
    "state_dict": lambda w: {"state_dict": w, "epoch": 76},
    "net": lambda w: {"net": w, "acc": 0.5},
    "module.": lambda w: {f"module.{name}": value for name, value in w.items()},
    "state_dict of a compiled parallel model": lambda w: {
        "state_dict": {f"module._orig_mod.{name}": value for name, value in w.items()}
    },
    "robustbench's model.": lambda w: {f"model.{name}": value for name, value in w.items()},
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_every_wrapper_gives_the_same_network(wrapper: str, wide: torch.nn.Module, tmp_path: Path) -> None:
    weights = other_weights()
    torch.save(WRAPPERS[wrapper](weights), tmp_path / "theirs.pt")
    loaded = load_third_party(wide, tmp_path / "theirs.pt")
    assert loaded.network is wide and loaded.dropped == [] and loaded.normalization == Normalization()
    assert all(torch.equal(value, weights[name]) for name, value in wide.state_dict().items())


def test_safetensors_and_old_files_without_batch_counts(wide: torch.nn.Module, tmp_path: Path) -> None:
    weights = {name: value for name, value in other_weights().items() if "num_batches" not in name}
    save_file(weights, tmp_path / "theirs.safetensors")
    load_third_party(wide, tmp_path / "theirs.safetensors")
    assert torch.equal(wide.state_dict()["fc.weight"], weights["fc.weight"])


def test_the_unused_block_of_the_trades_family_is_dropped_and_reported(wide: torch.nn.Module, tmp_path: Path) -> None:
    weights = other_weights()
    dead = {f"sub_block1.{name}": value for name, value in weights.items() if name.startswith("block1.")}
    torch.save({name.replace("block1.block1", "block1"): v for name, v in (weights | dead).items()}, tmp_path / "t.pt")
    dropped = load_third_party(wide, tmp_path / "t.pt").dropped
    assert dropped and all(name.startswith("sub_block1.") for name in dropped)
    assert torch.equal(wide.state_dict()["fc.weight"], weights["fc.weight"])


def released_resnet18() -> list[str]:
    """Names of the CIFAR ResNet-18 of TRADES, LBGAT and MART, written down by hand; two stride layouts share them."""
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    names = ["conv1.weight", *(f"bn1.{part}" for part in norm)]
    for layer in (1, 2, 3, 4):
        for block in (0, 1):
            for number in (1, 2):
                names.append(f"layer{layer}.{block}.conv{number}.weight")
                names += [f"layer{layer}.{block}.bn{number}.{part}" for part in norm]
            if layer > 1 and block == 0:
                names.append(f"layer{layer}.0.shortcut.0.weight")
                names += [f"layer{layer}.0.shortcut.1.{part}" for part in norm]
    return [*names, "linear.weight", "linear.bias"]


def released_wide(blocks: int, groups: tuple[str, ...] = ("block1", "sub_block1", "block2", "block3")) -> list[str]:
    """Names of the WideResNets of TRADES, LBGAT, MART and AWP, by hand; the first two come with `sub_block1`."""
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    names = ["conv1.weight"]
    for group in groups:
        for block in range(blocks):
            here = f"{group}.layer.{block}"
            names += [f"{here}.bn{number}.{part}" for number in (1, 2) for part in norm]
            names += [f"{here}.conv1.weight", f"{here}.conv2.weight"]
            names += [f"{here}.convShortcut.weight"] if block == 0 else []
    return [*names, *(f"bn1.{part}" for part in norm), "fc.weight", "fc.bias"]


@pytest.mark.parametrize(
    ("network", "names"),
    [
        ("resnet18", released_resnet18()),
        ("resnet18-heavy", released_resnet18()),
        ("wrn34-10", released_wide(5)),
        ("wrn28-10", released_wide(4, ("block1", "block2", "block3"))),
    ],
)
def test_released_names_load_whole(network: str, names: list[str], tmp_path: Path) -> None:
    """Every tensor of a release goes to the place of its name; what is left over is the unused block alone."""
    with torch.device("meta"):
        shapes = {
            name: value.shape for name, value in models.build(network, classes=10, channels=3).state_dict().items()
        }
    live = [name for name in names if not name.startswith("sub_block1.")]
    assert set(live) == set(shapes)
    generator = torch.Generator().manual_seed(1)
    weights = {
        # A scalar, seen in the shape that it must have, takes no memory.
        f"module.{name}": torch.rand((), generator=generator).expand(shapes.get(name, (1,)))
        for name in names
    }
    torch.save({"state_dict": weights, "epoch": 76}, tmp_path / "released.pt")
    model = models.build(network, classes=10, channels=3)
    loaded = load_third_party(model, tmp_path / "released.pt")
    assert len(loaded.dropped) == len(names) - len(live)
    state = model.state_dict()
    assert all(torch.equal(state[name], weights[f"module.{name}"].to(state[name].dtype)) for name in live)


# --- normalization ----------------------------------------------------------------------------------------------

MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.15)
NORMALIZATION = Normalization(mean=MEAN, std=STD)


def buffers(first: str, second: str, shape: tuple[int, ...] = (1, 3, 1, 1)) -> Weights:
    return {first: torch.tensor(MEAN).view(shape), second: torch.tensor(STD).view(shape)}


def behind(prefix: str, weights: Weights) -> Weights:
    return {f"{prefix}{name}": value for name, value in weights.items()}


FILES_WITH_NORMALIZATION: dict[str, Any] = {
    "mu and sigma in the network": lambda w: {**buffers("mu", "sigma"), **w},
    "mean and std in the network, flat": lambda w: {**buffers("mean", "std", (3,)), **w},
    "robustbench's normalize_model": lambda w: {**buffers("normalize.mean", "normalize.std"), **behind("model.", w)},
    "a sequence of two": lambda w: {**buffers("0.mean", "0.std", (3, 1, 1)), **behind("1.", w)},
    "a parallel sequence of two": lambda w: {
        "state_dict": behind("module.", {**buffers("0.mean", "0.std"), **behind("1.module.", w)})
    },
    "mu and sigma of a parallel network": lambda w: {"net": behind("module.", {**buffers("mu", "sigma"), **w})},
    "not in the file: it was given": lambda w: w,
}


SOURCES = [(file_kind, stated) for file_kind in FILES_WITH_NORMALIZATION for stated in (True, False)]


@pytest.mark.parametrize(("file_kind", "stated"), SOURCES[:-1])  # one of the two must give it
def test_a_normalization_is_read_and_used_once(
    file_kind: str, stated: bool, wide: torch.nn.Module, tmp_path: Path
) -> None:
    """The result is a function of pixels in [0,1]: the bare network on (x - mean) / std, applied once."""
    weights = other_weights()
    torch.save(FILES_WITH_NORMALIZATION[file_kind](weights), tmp_path / "theirs.pt")
    loaded = load_third_party(wide, tmp_path / "theirs.pt", NORMALIZATION if stated else None)
    assert loaded.from_file == (not file_kind.startswith("not in the file")) and loaded.dropped == []
    assert loaded.normalization.mean == pytest.approx(MEAN) and loaded.normalization.std == pytest.approx(STD)
    bare = models.build("wrn10-1", classes=10, channels=3)
    bare.load_state_dict(weights)
    pixels = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    seen = torch.stack([(pixels[:, c] - MEAN[c]) / STD[c] for c in range(3)], 1)
    with evaluating(loaded.network), evaluating(bare), torch.no_grad():
        torch.testing.assert_close(loaded.network(pixels), bare(seen))
        assert not torch.allclose(loaded.network(pixels), bare(pixels)), "it makes a difference here"


REFUSED: dict[str, tuple[Any, Normalization | None, str]] = {
    "of 0 to 255": (
        lambda w: {"mu": torch.tensor([125.3, 123.0, 113.9]), "sigma": torch.tensor([63.0, 62.1, 66.7]), **w},
        None,
        r"mu and sigma are no normalization of pixels in \[0,1\] .mean 125.3, 123, 113.9 is not of pixels",
    ),
    "different from the given one": (
        lambda w: {**buffers("mu", "sigma"), **w},
        Normalization(mean=MEAN, std=(0.2, 0.2, 0.2)),
        "contains mean 0.5, 0.4, 0.3, std 0.25, 0.2, 0.15, but mean 0.5, 0.4, 0.3, std 0.2, 0.2, 0.2 was given",
    ),
    "two of them": (
        lambda w: {**buffers("mu", "sigma"), **buffers("normalize.mean", "normalize.std"), **w},
        None,
        "contains two normalizations",
    ),
    "of more values than memory holds": (
        lambda w: {"mu": torch.zeros(1).expand(10**12), "sigma": torch.ones(3), **w},
        None,
        "mu and sigma are no normalization: they have more than 1000 values",
    ),
    "half of one": (lambda w: {"mu": torch.tensor(MEAN), **w}, None, "unexpected: mu"),
    "of two channels": (lambda w: w, Normalization(mean=(0.5, 0.5), std=(0.2, 0.2)), "2 channels, and the images"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_impossible_normalization_is_refused(case: str, wide: torch.nn.Module, tmp_path: Path) -> None:
    file_kind, stated, message = REFUSED[case]
    before = {name: value.clone() for name, value in wide.state_dict().items()}
    torch.save(file_kind(other_weights()), tmp_path / "theirs.pt")
    with pytest.raises(ValueError, match=message):
        load_third_party(wide, tmp_path / "theirs.pt", stated)
    assert all(torch.equal(value, before[name]) for name, value in wide.state_dict().items())


class Own(torch.nn.Module):
    """A network that normalizes by itself: its own buffers are weights like others."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("std", torch.ones(3))
        self.fc = torch.nn.Linear(3, 2)


def test_a_network_with_a_normalization_of_its_own_keeps_it(tmp_path: Path) -> None:
    torch.save(behind("module.", {**Own().state_dict(), "mean": torch.tensor(MEAN)}), tmp_path / "theirs.pt")
    loaded = load_third_party(model := Own(), tmp_path / "theirs.pt")
    assert loaded.network is model and torch.equal(model.state_dict()["mean"], torch.tensor(MEAN))


def test_a_file_with_two_networks_is_refused(wide: torch.nn.Module, tmp_path: Path) -> None:
    weights = other_weights()
    torch.save({"net": weights, "ema": {k: v.double() for k, v in weights.items()}, "epoch": 3}, tmp_path / "two.pt")
    with pytest.raises(ValueError, match=r"contains several networks \(net, ema\); save only the one you mean"):
        load_third_party(wide, tmp_path / "two.pt")
    optimizer = torch.optim.SGD(wide.parameters(), lr=0.1, momentum=0.9).state_dict()
    torch.save({"net": weights, "optimizer": optimizer, "epoch": 3}, tmp_path / "one.pt")
    load_third_party(wide, tmp_path / "one.pt")
    assert torch.equal(wide.state_dict()["fc.weight"], weights["fc.weight"])


def test_weights_are_never_loaded_partly(wide: torch.nn.Module, tmp_path: Path) -> None:
    before = {name: value.clone() for name, value in wide.state_dict().items()}
    weights = other_weights()
    weights["extra.weight"] = weights.pop("fc.weight")
    torch.save(weights, tmp_path / "theirs.pt")
    with pytest.raises(ValueError, match=r"missing: fc\.weight; unexpected: extra\.weight"):
        load_third_party(wide, tmp_path / "theirs.pt")
    assert all(torch.equal(value, before[name]) for name, value in wide.state_dict().items())


def test_another_number_of_classes_is_named(wide: torch.nn.Module, tmp_path: Path) -> None:
    torch.save(models.build("wrn10-1", classes=100, channels=3).state_dict(), tmp_path / "theirs.pt")
    with pytest.raises(ValueError, match=r"of another shape: fc\.weight \(file \(100, 64\), network \(10, 64\)\)"):
        load_third_party(wide, tmp_path / "theirs.pt")


class Bomb:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("torch_format", [True, False])
def test_code_in_a_checkpoint_is_never_run(torch_format: bool, wide: torch.nn.Module, tmp_path: Path) -> None:
    content, file = {"state_dict": other_weights(), "note": Bomb(tmp_path / "ran")}, tmp_path / "theirs.pt"
    if torch_format:
        torch.save(content, file)
    else:
        file.write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match="would run its code"):
        load_third_party(wide, file)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [({"epoch": 3}, "no weights found .it contains: epoch."), ([1, 2], "no weights found .it contains: list.")],
)
def test_a_file_without_weights_lists_its_content(
    content: Any, message: str, wide: torch.nn.Module, tmp_path: Path
) -> None:
    torch.save(content, tmp_path / "theirs.pt")
    with pytest.raises(ValueError, match=message):
        load_third_party(wide, tmp_path / "theirs.pt")


@pytest.mark.parametrize("name", ["theirs.pt", "theirs.safetensors"])
def test_damaged_and_missing_files(name: str, wide: torch.nn.Module, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such checkpoint"):
        load_third_party(wide, tmp_path / name)
    (tmp_path / name).write_bytes(b"not a checkpoint at all")
    with pytest.raises(ValueError, match="theirs"):
        load_third_party(wide, tmp_path / name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<!DOCTYPE html><title>404</title>", "not a checkpoint: it begins with '<!DOCTYPE html>"),
        (b"version https://git-lfs.github.com/spec/v1", "begins with 'version https"),
        (b"", "it is empty"),
    ],
)
def test_the_first_bytes_of_another_file_are_shown(
    content: bytes, message: str, wide: torch.nn.Module, tmp_path: Path
) -> None:
    (tmp_path / "theirs.pt").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_third_party(wide, tmp_path / "theirs.pt")


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.99])
def test_a_broken_download_is_damaged(kept: float, wide: torch.nn.Module, tmp_path: Path) -> None:
    torch.save(wide.state_dict(), tmp_path / "theirs.pt")
    content = (tmp_path / "theirs.pt").read_bytes()
    (tmp_path / "theirs.pt").write_bytes(content[: int(kept * len(content))])
    with pytest.raises(ValueError, match=r"theirs.pt: not a checkpoint, or damaged \(.+\)"):
        load_third_party(wide, tmp_path / "theirs.pt")


# --- files that hold no weights of a network ------------------------------------------------------------------------


def containing_itself() -> dict[str, Any]:
    content: dict[str, Any] = {"epoch": 3}
    content["state_dict"] = content
    return content


def nested(depth: int) -> Any:
    content: Any = {"epoch": 3}
    for _ in range(depth):
        content = {"net": content}
    return content


def saved(content: Any) -> Callable[[Path], object]:
    return lambda path: torch.save(content, path)


def written(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


NO_WEIGHTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "FIFO": (os.mkfifo, "is not a regular file but a FIFO, a socket or a device; name a checkpoint"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "is not a regular file but a FIFO, a socket or a device"),
    "folder": (Path.mkdir, "is a folder; name the checkpoint itself, which is a file"),
    "nothing": (lambda path: None, "no such checkpoint"),
    "link to nothing": (lambda path: path.symlink_to("nowhere.pt"), "no such checkpoint"),
    "one byte": (written(b"\x80"), "not a checkpoint, or damaged"),
    "two bytes": (written(b"PK"), "not a checkpoint: it begins with 'PK'"),
    "a cut header": (written(b"\xff" * 7 + b"\x7f{"), "not a checkpoint"),
    "integer keys": (saved({0: torch.ones(2), 1: torch.ones(2)}), "it contains: 0, 1"),
    "some integer keys": (saved({"a": torch.ones(2), 1: torch.ones(2)}), "contains: a, 1"),
    "itself": (saved(containing_itself()), "no weights found within 8 levels of .*does it contain itself"),
    "nested": (saved(nested(200)), "no weights found within 8 levels"),
    "long keys": (saved({"k" * 10_000: 1}), "it contains: k{60}[)]"),
}


@pytest.mark.parametrize("name", ["theirs.pt", "theirs.safetensors"])
@pytest.mark.parametrize("case", NO_WEIGHTS)
def test_what_holds_no_weights_is_refused_with_the_reason(
    case: str, name: str, wide: torch.nn.Module, tmp_path: Path
) -> None:
    make, message = NO_WEIGHTS[case]
    make(tmp_path / name)
    with pytest.raises(UserError, match=rf"{name}: .*{message}"):
        load_third_party(wide, tmp_path / name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_checkpoint_that_may_not_be_read_is_not_missing(wide: torch.nn.Module, tmp_path: Path) -> None:
    torch.save(other_weights(), tmp_path / "theirs.pt")
    (tmp_path / "theirs.pt").chmod(0)
    with pytest.raises(UserError, match=r"theirs.pt: permission denied; make the checkpoint readable"):
        load_third_party(wide, tmp_path / "theirs.pt")


@pytest.mark.parametrize("seed", range(3))
def test_a_damaged_pickle_is_a_message_and_not_a_traceback(seed: int, wide: torch.nn.Module, tmp_path: Path) -> None:
    """Random bytes after the mark of a pickle, cut pickles and pickles with a changed byte: whatever they raise."""
    whole = pickle.dumps({"state_dict": {"weight": [1, 2, 3]}, "epoch": 3}, protocol=2)
    draw = random.Random(seed)
    for _ in range(60):
        changed = bytearray(whole)
        changed[draw.randrange(1, len(whole))] = draw.randrange(256)
        for content in (b"\x80\x02" + draw.randbytes(30), whole[: draw.randrange(1, len(whole))], bytes(changed)):
            (tmp_path / "theirs.pt").write_bytes(content)
            with pytest.raises(UserError, match=r"theirs.pt: "):
                load_third_party(wide, tmp_path / "theirs.pt")


def test_the_content_decides_the_format_and_not_the_name(tmp_path: Path) -> None:
    weights = other_weights()
    save_file(weights, tmp_path / "theirs.pt")
    torch.save(weights, tmp_path / "theirs.safetensors")
    for name in ("theirs.pt", "theirs.safetensors"):
        model = models.build("wrn10-1", classes=10, channels=3)
        load_third_party(model, tmp_path / name)
        assert torch.equal(model.state_dict()["fc.weight"], weights["fc.weight"])


def test_the_pipeline_refuses_a_fifo_before_any_job(tmp_path: Path) -> None:
    """Snakemake would open it, to compute its checksum."""
    os.mkfifo(tmp_path / "theirs.pt")
    section = {"theirs": {"file": str(tmp_path / "theirs.pt"), "arch": "resnet18"}}
    with pytest.raises(UserError, match=r"theirs.pt: is not a regular file but a FIFO"):
        preflight.check_before_jobs(load({"checkpoints": section}), Paths(tmp_path / "data", tmp_path / "results"))


# --- values that no trained network has -----------------------------------------------------------------------------


def with_entry(value: float) -> Callable[[Tensor], Tensor]:
    """One entry of a tensor, not its first one, has this value."""

    def change(tensor: Tensor) -> Tensor:
        changed = tensor.clone()
        changed.view(-1)[-1] = value
        return changed

    return change


def quantized(tensor: Tensor) -> Tensor:
    return torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8)


BAD_VALUES: dict[str, tuple[str, Callable[[Tensor], Tensor], str]] = {
    "NaN": ("fc.weight", with_entry(float("nan")), "contains NaN or infinite values"),
    "infinity": ("conv1.weight", with_entry(float("inf")), "contains NaN or infinite values"),
    "minus infinity": ("bn1.bias", with_entry(-float("inf")), "contains NaN or infinite values"),
    "too large for float32": ("fc.bias", lambda t: t.double() + 1e300, "contains NaN or infinite values"),
    "NaN statistics": ("bn1.running_mean", with_entry(float("nan")), "contains NaN or infinite values"),
    "negative variance": ("block2.layer.0.bn2.running_var", with_entry(-1e-6), "contains a negative variance"),
    "integers": ("fc.weight", lambda t: (100 * t).long(), "is of type int64 and not of real numbers"),
    "bytes": ("fc.bias", lambda t: (100 * t).to(torch.uint8), "is of type uint8 and not of real numbers"),
    "booleans": ("fc.bias", lambda t: t > 0, "is of type bool and not of real numbers"),
    "complex numbers": ("fc.weight", lambda t: t.to(torch.complex64), "is a complex tensor"),
    "a sparse tensor": ("fc.weight", Tensor.to_sparse, "is a sparse tensor"),
    "compressed rows": ("fc.weight", Tensor.to_sparse_csr, "is a sparse tensor"),
    "a quantized tensor": ("fc.weight", quantized, "is a quantized tensor"),
    "a meta tensor": ("fc.weight", lambda t: t.to("meta"), "is a meta tensor, with a shape and no values"),
}


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("case", BAD_VALUES)
@pytest.mark.filterwarnings("ignore:.*torch.quantize_per_tensor:UserWarning", "ignore:Sparse CSR:UserWarning")
def test_weights_of_no_trained_network_are_refused_by_name(
    case: str, prefix: str, wide: torch.nn.Module, tmp_path: Path
) -> None:
    name, change, message = BAD_VALUES[case]
    weights = other_weights()
    weights[name] = change(weights[name])
    before = {key: value.clone() for key, value in wide.state_dict().items()}
    torch.save({"state_dict": behind(prefix, weights)}, tmp_path / "theirs.pt")
    with pytest.raises(UserError, match=rf"theirs.pt: .*{re.escape(name)} {message}"):
        load_third_party(wide, tmp_path / "theirs.pt")
    assert all(torch.equal(value, before[key]) for key, value in wide.state_dict().items())


@pytest.mark.parametrize("case", ["NaN", "infinity", "negative variance", "integers", "booleans"])
def test_own_weights_are_checked_alike(case: str, wide: torch.nn.Module, tmp_path: Path) -> None:
    name, change, message = BAD_VALUES[case]
    weights = other_weights()
    weights[name] = change(weights[name])
    save_file(weights, tmp_path / "target.safetensors")
    with pytest.raises(UserError, match=rf"target.safetensors: {re.escape(name)} {message}"):
        load_weights(wide, tmp_path / "target.safetensors")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_real_numbers_of_any_precision_are_read(dtype: torch.dtype, wide: torch.nn.Module, tmp_path: Path) -> None:
    weights = other_weights()
    torch.save({name: value.to(dtype) for name, value in weights.items()}, tmp_path / "theirs.pt")
    load_third_party(wide, tmp_path / "theirs.pt")
    torch.testing.assert_close(wide.state_dict()["fc.weight"], weights["fc.weight"], rtol=1e-2, atol=1e-2)


def test_buffers_of_integers_that_the_network_has_are_read(tmp_path: Path) -> None:
    class WithIndex(torch.nn.Linear):
        def __init__(self) -> None:
            super().__init__(3, 2)
            self.register_buffer("index", torch.zeros(2, dtype=torch.int64))

    torch.save({**WithIndex().state_dict(), "index": torch.tensor([1, 0])}, tmp_path / "theirs.pt")
    load_third_party(model := WithIndex(), tmp_path / "theirs.pt")
    assert model.state_dict()["index"].tolist() == [1, 0]


FILE = {"file": "x.pt", "arch": "wrn34-10"}


def test_the_section_checkpoints_makes_rows() -> None:
    experiment = load({"checkpoints": {"theirs": FILE}, "select": ["at"], "seeds": [3, 4]})
    assert set(experiment.rows) == {"at", "theirs"} and set(experiment.runs) == {"at"}
    assert experiment.seeds["theirs"] == (0,)
    assert experiment.checkpoints["theirs"].arch == "wrn34-10"


def test_the_section_checkpoints_gives_a_normalization() -> None:
    theirs = {**FILE, "mean": ["125/255", 0.5, 0.4], "std": [0.2, 0.2, 0.2]}
    checkpoint = load({"checkpoints": {"theirs": theirs}}).checkpoints["theirs"]
    assert (checkpoint.mean, checkpoint.std) == ((125 / 255, 0.5, 0.4), (0.2, 0.2, 0.2))


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"theirs": {"file": "x.pt"}}, r"checkpoints.theirs.arch: Field required"),
        ({"theirs": {**FILE, "mean": [0.5, 0.5, 0.5]}}, "theirs: mean and std are given together"),
        ({"theirs": {**FILE, "mean": [125.3], "std": [63]}}, r"mean 125.3 is not of pixels in \[0,1\]: divide .* 255"),
        ({"theirs": {**FILE, "mean": 0.5, "std": 0}}, r"std 0 is not of pixels"),
        ({"theirs": {**FILE, "mean": [0.5, 0.5], "std": 0.2}}, "mean has 2 channels and std has 1"),
        ({"theirs": {**FILE, "epochs": 3}}, "unknown key 'epochs'"),
        ({"theirs": {"checkpoint": "x.pt", "arch": "wrn34-10"}}, "unknown key 'checkpoint': it is now 'file'"),
        ({"theirs": {"file": "x.pt", "arch": "resnet19"}}, "unknown network 'resnet19'"),
        ({"at": {"file": "x.pt", "arch": "resnet18"}}, "a run has this name already"),
    ],
)
def test_impossible_checkpoint_rows_are_refused(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load({"checkpoints": section})


@pytest.mark.parametrize("trick", ["compressed", "repeated"])
def test_an_archive_that_is_larger_unpacked_is_refused(trick: str, wide: torch.nn.Module, tmp_path: Path) -> None:
    torch.save({"conv1.weight": torch.zeros(1_000_000)}, tmp_path / "plain.pt")
    with zipfile.ZipFile(tmp_path / "plain.pt") as plain, zipfile.ZipFile(tmp_path / "theirs.pt", "w") as theirs:
        for entry in plain.infolist():
            kind = zipfile.ZIP_DEFLATED if trick == "compressed" else zipfile.ZIP_STORED
            theirs.writestr(entry.filename, plain.read(entry), kind)
        if trick == "repeated":  # entries that share their bytes in the file
            theirs.filelist += 3 * [copy.copy(max(theirs.filelist, key=lambda entry: entry.file_size))]
    with pytest.raises(UserError, match=r"theirs.pt: unpacks to [\d,]+ bytes from [\d,]+, which torch.save does not"):
        load_third_party(wide, tmp_path / "theirs.pt")


def test_what_training_scripts_save_beside_the_weights_is_no_obstacle(wide: torch.nn.Module, tmp_path: Path) -> None:
    weights, options = other_weights(), argparse.Namespace(lr=0.1, name="run")
    content = {"net": weights, "args": options, "best_acc": np.float32(0.5), "epoch": np.int64(3)}
    torch.save(content, tmp_path / "theirs.pt")
    load_third_party(wide, tmp_path / "theirs.pt")
    assert torch.equal(wide.state_dict()["fc.weight"], weights["fc.weight"])
