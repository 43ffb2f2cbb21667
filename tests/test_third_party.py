"""Third-party checkpoints: every wrapper in use is read; nothing is loaded partly, no code in a file is run."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from dynat import models
from dynat.checkpoints.third_party import ThirdPartyModel
from dynat.checkpoints.third_party import load_third_party as load_any
from dynat.config import ConfigError, Normalization, load
from dynat.nn.modes import evaluating

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
