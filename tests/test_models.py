"""The networks are the published ones; modes are restored; weights are written and read completely."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from dynat.checkpoints.weights import load_weights, save_weights
from dynat.models import build, count_parameters
from dynat.nn.modes import evaluating, frozen

WEIGHTS = [  # name, classes, channels, trainable parameters
    ("resnet18", 10, 3, 11_173_962),
    ("resnet18-heavy", 10, 3, 11_173_962),
    ("resnet18", 100, 3, 11_220_132),
    ("resnet18", 10, 1, 11_172_810),
    ("preact-resnet18", 10, 3, 11_172_170),
    ("preact-resnet18-bare", 10, 3, 11_171_146),
    ("wrn34-10", 10, 3, 46_160_474),
    ("wrn28-10-swish", 10, 3, 36_479_194),
    ("wrn70-16-swish", 10, 3, 266_796_506),
    ("preact-resnet18-swish", 10, 3, 12_548_426),
    ("resnet50", 10, 3, 23_520_842),
    ("small", 10, 1, 9_988),
    ("resnet8-32", 10, 3, 308_650),
    ("resnet8-16", 10, 3, 78_042),
]
GIGA_MACS = [("resnet18", 0.555), ("resnet18-heavy", 1.763), ("wrn34-10", 6.659), ("resnet50", 1.298)]
GIGA_MACS += [("resnet8-32", 0.012)]
SHAPES = [  # name, module, its output on a 32x32 image
    ("resnet18", "layer1", (64, 32, 32)),
    ("resnet18", "layer2", (128, 16, 16)),
    ("resnet18", "layer3", (256, 8, 8)),
    ("resnet18", "layer4", (512, 4, 4)),
    ("resnet18-heavy", "layer2", (128, 32, 32)),
    ("resnet18-heavy", "layer4", (512, 8, 8)),
    ("preact-resnet18", "layer2", (128, 16, 16)),
    ("preact-resnet18-bare", "layer4", (512, 4, 4)),
    ("resnet50", "layer1", (256, 32, 32)),
    ("resnet50", "layer4", (2048, 4, 4)),
    ("wrn16-2-swish", "model.layer.1", (64, 16, 16)),
    ("preact-resnet18-swish", "model.layer_3", (512, 4, 4)),
    ("wrn16-2", "block1", (32, 32, 32)),
    ("wrn16-2", "block2", (64, 16, 16)),
    ("wrn16-2", "block3", (128, 8, 8)),
    ("resnet8-32", "layer1", (32, 16, 16)),
    ("resnet8-32", "layer3", (128, 4, 4)),
]
CHEAP = (
    *("small", "resnet18", "resnet18-heavy", "preact-resnet18", "preact-resnet18-bare"),
    *("wrn10-1", "wrn16-2", "resnet8-8", "wrn10-1-swish", "preact-resnet18-swish"),
)


def on_meta(name: str, classes: int = 10, channels: int = 3) -> nn.Module:
    """Shapes without values: large networks take no memory."""
    with torch.device("meta"):
        return build(name, classes=classes, channels=channels)


def outputs(network: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """The output of each submodule, by its name."""
    seen: dict[str, Tensor] = {}

    def note(name: str, _: nn.Module, __: object, output: Tensor) -> None:
        seen[name] = output

    for name, module in network.named_modules():
        module.register_forward_hook(partial(note, name))
    network(images)
    return seen


@pytest.mark.parametrize(("name", "classes", "channels", "expected"), WEIGHTS)
def test_number_of_parameters(name: str, classes: int, channels: int, expected: int) -> None:
    assert count_parameters(on_meta(name, classes, channels)) == expected


@pytest.mark.parametrize(("name", "expected"), GIGA_MACS)
def test_multiply_adds_are_the_published_ones(name: str, expected: float) -> None:
    network = on_meta(name)
    seen = outputs(network, torch.empty(1, 3, 32, 32, device="meta"))
    macs = 0
    for where, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            positions = seen[where].numel() // module.weight.shape[0]
            macs += positions * module.weight.numel()
    assert macs / 1e9 == pytest.approx(expected, abs=5e-4)


@pytest.mark.parametrize(("name", "module", "shape"), SHAPES)
def test_shapes_inside(name: str, module: str, shape: tuple[int, ...]) -> None:
    seen = outputs(on_meta(name), torch.empty(2, 3, 32, 32, device="meta"))
    assert seen[module].shape[1:] == shape


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet18", {"conv1.weight", "bn1.weight", "layer1.0.bn2.bias", "layer2.0.shortcut.1.running_var"}),
        ("resnet18", {"layer4.0.shortcut.0.weight", "layer4.1.conv2.weight", "linear.bias"}),
        ("preact-resnet18", {"conv1.weight", "layer1.0.bn1.weight", "layer2.0.shortcut.0.weight", "bn.weight"}),
        ("preact-resnet18-bare", {"layer4.1.bn2.running_mean", "linear.weight"}),
        ("wrn34-10", {"conv1.weight", "block1.layer.0.convShortcut.weight", "block3.layer.4.conv2.weight"}),
        ("wrn34-10", {"block2.layer.0.bn1.weight", "bn1.running_mean", "fc.weight"}),
    ],
)
def test_names_of_the_releases(name: str, expected: set[str]) -> None:
    assert expected <= set(on_meta(name).state_dict())


@pytest.mark.parametrize("name", CHEAP)
def test_no_parameter_is_dead(name: str) -> None:
    torch.manual_seed(0)
    network = build(name, classes=3, channels=3)
    functional.cross_entropy(network(torch.rand(4, 3, 16, 16)), torch.tensor([0, 1, 2, 0])).backward()
    dead = [where for where, weight in network.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert not dead


@pytest.mark.parametrize("name", CHEAP)
@pytest.mark.parametrize("size", [(8, 8), (20, 28)])
def test_any_image_size(name: str, size: tuple[int, int]) -> None:
    network = on_meta(name, classes=7)
    assert network(torch.empty(2, 3, *size, device="meta")).shape == (2, 7)


@pytest.mark.parametrize(
    ("name", "paths", "shortcut"),
    [
        ("wrn16-2", {"block2.layer.0": 32, "block2.layer.1": 64}, "convShortcut"),
        ("preact-resnet18", {"layer2.0": 64, "layer2.1": 128}, "shortcut"),
    ],
)
def test_a_block_that_activates_first_is_the_formula(name: str, paths: dict[str, int], shortcut: str) -> None:
    """x (or its projection) + conv(relu(BN(conv(a)))), a = relu(BN(x)), with both kinds of block."""
    torch.manual_seed(0)
    network = build(name, classes=10, channels=3).eval()
    for place, inputs in paths.items():
        block: Any = network.get_submodule(place)
        x = torch.randn(2, inputs, 8, 8)
        a = block.bn1(x).relu()
        projection = getattr(block, shortcut)
        kept = x if projection is None else projection(a)
        expected = kept + block.conv2(block.bn2(block.conv1(a)).relu())
        torch.testing.assert_close(block(x), expected)


def test_the_end_of_a_preactivation_network() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 16, 16)
    for name in ("preact-resnet18", "preact-resnet18-bare"):
        network: Any = build(name, classes=10, channels=3).eval()
        last = outputs(network, x)["layer4"]
        last = last if name.endswith("bare") else network.bn(last).relu()
        torch.testing.assert_close(network(x), last.mean((2, 3)) @ network.linear.weight.T + network.linear.bias)


def test_a_basic_block_is_the_formula() -> None:
    torch.manual_seed(0)
    network = build("resnet18", classes=10, channels=3).eval()
    for place, inputs in (("layer2.0", 64), ("layer2.1", 128)):
        block: Any = network.get_submodule(place)
        x = torch.randn(2, inputs, 8, 8)
        residual = block.bn2(block.conv2(block.bn1(block.conv1(x)).relu()))
        torch.testing.assert_close(block(x), (residual + block.shortcut(x)).relu())


def test_wide_networks_use_he_initialization() -> None:
    torch.manual_seed(0)
    network = build("wrn16-4", classes=10, channels=3)
    conv = network.get_parameter("block3.layer.0.conv1.weight")  # from 128 to 256 channels
    assert conv.std().item() == pytest.approx((2 / (9 * 256)) ** 0.5, rel=0.02)
    assert not network.get_parameter("fc.bias").any()
    assert network.get_parameter("bn1.weight").eq(1).all()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet81", "unknown network 'resnet81': did you mean 'resnet18'"),
        ("wrn33-10", "'wrn33-10': a WideResNet's depth is 6n"),
        ("resnet8-0", "'resnet8-0': the width of a ResNet-8 is from 1 to 512 channels"),
        ("resnet8-513", "'resnet8-513': the width of a ResNet-8 is from 1 to 512 channels"),
    ],
)
def test_an_unknown_network_names_the_known_ones(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(name, classes=10, channels=3)


# State


def mixed() -> nn.Sequential:
    """A network of which part is frozen and part evaluating already, as in fine-tuning."""
    torch.manual_seed(0)
    dropout = nn.Dropout()
    head = nn.Sequential(nn.Linear(4, 2), dropout)
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), head, nn.Sequential(dropout))
    network.get_parameter("0.weight").requires_grad_(False)
    for part in list(network)[1:]:
        part.eval()
    dropout.train()  # in training although both of its parents are not
    return network


def wanting(network: nn.Module) -> list[bool]:
    return [parameter.requires_grad for parameter in network.parameters()]


def modes(network: nn.Module) -> list[bool]:
    return [module.training for module in network.modules()]


SCOPES = [(frozen, wanting), (evaluating, modes)]


@pytest.mark.parametrize(("scope", "state"), SCOPES)
def test_a_scope_switches_every_module_and_restores_each(
    scope: Callable[[nn.Module], object], state: Callable[[nn.Module], list[bool]]
) -> None:
    network = mixed()
    before = state(network)
    assert {True, False} == set(before)
    with scope(network):  # type: ignore[attr-defined]
        assert not any(state(network))
        with scope(network):  # type: ignore[attr-defined]
            pass
        assert not any(state(network)), "the inner scope must restore what the outer one set"
    assert state(network) == before


@pytest.mark.parametrize(("scope", "state"), SCOPES)
def test_a_scope_restores_after_an_exception(
    scope: Callable[[nn.Module], object], state: Callable[[nn.Module], list[bool]]
) -> None:
    network = mixed()
    before = state(network)
    with pytest.raises(KeyError, match="inside"), scope(network):  # type: ignore[attr-defined]
        raise KeyError("inside")
    assert state(network) == before


def test_frozen_keeps_the_gradient_of_the_images() -> None:
    network, x = mixed().eval(), torch.rand(2, 3, requires_grad=True)
    with frozen(network):
        network(x).sum().backward()
    assert x.grad is not None and x.grad.any()
    assert all(parameter.grad is None for parameter in network.parameters())


def test_weights_are_read_as_they_were_written(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source: Any = build("small", classes=10, channels=1)
    source.to(memory_format=torch.channels_last)
    source(torch.rand(8, 1, 8, 8))  # moves the running statistics, which must travel too
    save_weights(source, tmp_path / "deep" / "target.safetensors", {"epoch": "7"})
    copy = build("small", classes=10, channels=1)
    assert load_weights(copy, tmp_path / "deep" / "target.safetensors") == {"epoch": "7"}
    for name, tensor in source.state_dict().items():
        assert torch.equal(copy.state_dict()[name], tensor), name


def test_shared_weights_can_be_saved(tmp_path: Path) -> None:
    tied = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    tied[1].weight = tied[0].weight
    save_weights(tied, tmp_path / "tied.safetensors", {})
    load_weights(tied, tmp_path / "tied.safetensors")


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (nn.Sequential(nn.Linear(3, 2)), "unexpected: 1.bias, 1.weight$"),
        (nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2), nn.Linear(2, 2)), "missing: 2.weight, 2.bias$"),
        (
            nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 5)),
            r"of another shape: 1.weight \(file \(2, 2\), network \(5, 2\)\)",
        ),
    ],
)
def test_weights_of_another_network_are_refused(other: nn.Module, message: str, tmp_path: Path) -> None:
    file = tmp_path / "target.safetensors"
    save_weights(nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2)), file, {})
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(ValueError, match=message) as caught:
        load_weights(other, file)
    assert str(file) in str(caught.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in other.state_dict().items())


@pytest.mark.parametrize("damage", ["text", "cut"])
def test_a_damaged_file_is_named(damage: str, tmp_path: Path) -> None:
    file, network = tmp_path / "target.safetensors", nn.Linear(3, 2)
    save_weights(network, file, {})
    file.write_bytes(b"not weights at all" if damage == "text" else file.read_bytes()[:-4])
    with pytest.raises(ValueError, match=r"target\.safetensors: not a complete safetensors file"):
        load_weights(network, file)
