"""Other people's checkpoints: every wrapping that is in use is read; nothing is read partly, no code is run."""

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
from dynat.config import ConfigError, load
from dynat.models.foreign import load_foreign

Weights = dict[str, Tensor]


@pytest.fixture
def wide() -> torch.nn.Module:
    return models.build("wrn10-1", classes=10, channels=3)


def other_weights() -> Weights:
    with torch.random.fork_rng():
        torch.manual_seed(99)
        return models.build("wrn10-1", classes=10, channels=3).state_dict()


WRAPPINGS: dict[str, Any] = {
    "plain": lambda w: w,
    "state_dict": lambda w: {"state_dict": w, "epoch": 76},
    "net": lambda w: {"net": w, "acc": 0.5},
    "module.": lambda w: {f"module.{name}": value for name, value in w.items()},
    "state_dict of a compiled parallel model": lambda w: {
        "state_dict": {f"module._orig_mod.{name}": value for name, value in w.items()}
    },
    "robustbench's model.": lambda w: {f"model.{name}": value for name, value in w.items()},
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_every_wrapping_gives_the_same_network(wrapping: str, wide: torch.nn.Module, tmp_path: Path) -> None:
    weights = other_weights()
    torch.save(WRAPPINGS[wrapping](weights), tmp_path / "theirs.pt")
    assert load_foreign(wide, tmp_path / "theirs.pt") == []
    assert all(torch.equal(value, weights[name]) for name, value in wide.state_dict().items())


def test_safetensors_and_old_files_without_batch_counts(wide: torch.nn.Module, tmp_path: Path) -> None:
    weights = {name: value for name, value in other_weights().items() if "num_batches" not in name}
    save_file(weights, tmp_path / "theirs.safetensors")
    load_foreign(wide, tmp_path / "theirs.safetensors")
    assert torch.equal(wide.state_dict()["fc.weight"], weights["fc.weight"])


def test_the_trades_familys_unused_block_is_dropped_and_said(wide: torch.nn.Module, tmp_path: Path) -> None:
    weights = other_weights()
    dead = {f"sub_block1.{name}": value for name, value in weights.items() if name.startswith("block1.")}
    torch.save({name.replace("block1.block1", "block1"): v for name, v in (weights | dead).items()}, tmp_path / "t.pt")
    dropped = load_foreign(wide, tmp_path / "t.pt")
    assert dropped and all(name.startswith("sub_block1.") for name in dropped)
    assert torch.equal(wide.state_dict()["fc.weight"], weights["fc.weight"])


def test_never_partly(wide: torch.nn.Module, tmp_path: Path) -> None:
    before = {name: value.clone() for name, value in wide.state_dict().items()}
    weights = other_weights()
    weights["extra.weight"] = weights.pop("fc.weight")
    torch.save(weights, tmp_path / "theirs.pt")
    with pytest.raises(ValueError, match=r"missing: fc\.weight; unexpected: extra\.weight"):
        load_foreign(wide, tmp_path / "theirs.pt")
    assert all(torch.equal(value, before[name]) for name, value in wide.state_dict().items())


def test_another_number_of_classes_is_named(wide: torch.nn.Module, tmp_path: Path) -> None:
    torch.save(models.build("wrn10-1", classes=100, channels=3).state_dict(), tmp_path / "theirs.pt")
    with pytest.raises(ValueError, match=r"of another shape: fc\.weight \(file \(100, 64\), network \(10, 64\)\)"):
        load_foreign(wide, tmp_path / "theirs.pt")


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
        load_foreign(wide, file)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [({"epoch": 3}, "no weights found .it holds: epoch."), ([1, 2], "no weights found .it holds: list.")],
)
def test_a_file_without_weights_says_what_it_holds(
    content: Any, message: str, wide: torch.nn.Module, tmp_path: Path
) -> None:
    torch.save(content, tmp_path / "theirs.pt")
    with pytest.raises(ValueError, match=message):
        load_foreign(wide, tmp_path / "theirs.pt")


@pytest.mark.parametrize("name", ["theirs.pt", "theirs.safetensors"])
def test_damaged_and_missing_files(name: str, wide: torch.nn.Module, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such checkpoint"):
        load_foreign(wide, tmp_path / name)
    (tmp_path / name).write_bytes(b"not a checkpoint at all")
    with pytest.raises(ValueError, match="theirs"):
        load_foreign(wide, tmp_path / name)


def test_the_external_section_makes_rows() -> None:
    theirs = {"checkpoint": "models/theirs.pt", "network": "wrn34-10"}
    experiment = load({"external": {"theirs": theirs}, "methods": ["at"], "seeds": [3, 4]})
    assert set(experiment.runs) == {"at", "theirs"}
    assert experiment.seeds["theirs"] == (0,)
    assert experiment.runs["theirs"].target == "wrn34-10"


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"theirs": {"checkpoint": "x.pt"}}, r"external.theirs: give checkpoint .* and network"),
        ({"theirs": {"checkpoint": "x.pt", "network": "wrn34-10", "epochs": 3}}, "and nothing else"),
        ({"theirs": {"checkpoint": "x.pt", "network": "resnet19"}}, "unknown network 'resnet19'"),
        ({"at": {"checkpoint": "x.pt", "network": "resnet18"}}, "a run has this name already"),
    ],
)
def test_external_rows_that_cannot_be(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load({"external": section})
