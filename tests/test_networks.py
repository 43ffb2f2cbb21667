"""Networks with Swish, ResNet-50 and the networks of timm and torchvision: the published functions, normalized first,
for the size of the images or refused; and starts from files of weights."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from dynat import data, models, provenance, training
from dynat.checkpoints.network import build_network
from dynat.checkpoints.start import start_from_file
from dynat.checkpoints.weights import save_weights
from dynat.config import Checkpoint, ConfigError, Normalization, ThreatModel, load, registry
from dynat.data import Dataset, LabeledImages, to_pixels
from dynat.jobs.import_checkpoint import load_checkpoint
from dynat.nn.folded import FoldedModel
from dynat.nn.mixed_precision import mixed_precision
from dynat.runtime.errors import UserError
from tests import tiny
from tests.helpers import Dynat

CPU = torch.device("cpu")
CIFAR10 = ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616))
CIFAR100 = ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))
SHUFFLE = "torchvision/shufflenet_v2_x0_5"


def with_statistics(network: nn.Module, size: int = 32, channels: int = 3) -> nn.Module:
    """In evaluation mode, with BatchNorm that is not the identity and weights that are not the initial ones."""
    torch.manual_seed(1)
    network.train()
    with torch.no_grad():
        for _ in range(3):
            network(torch.rand(8, channels, size, size))
        for weight in network.parameters():
            weight.mul_(1 + 0.2 * torch.rand_like(weight))
    return network.eval()


def made(name: str, **shape: Any) -> nn.Module:
    torch.manual_seed(0)
    return models.build(name, **{"classes": 10, "channels": 3, **shape})


# --- Swish -----------------------------------------------------------------------------------------------------------


def swish(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


def restated(weights: dict[str, Tensor], pixels: Tensor, *, padding: int = 0) -> Tensor:
    """Gowal et al. 2020, appendix; `SAME` convolutions of TensorFlow: the missing pixel is at the end."""

    def norm(x: Tensor, name: str) -> Tensor:
        mean, variance, scale, shift = (
            weights[f"{name}.{part}"].view(1, -1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (variance + 1e-5).sqrt() * scale + shift

    def conv(x: Tensor, name: str, stride: int) -> Tensor:
        kernel = weights[f"{name}.weight"]
        total = max((-(-x.shape[-1] // stride) - 1) * stride + kernel.shape[-1] - x.shape[-1], 0)
        before, after = total // 2, total - total // 2
        return F.conv2d(F.pad(x, (before, after, before, after)), kernel, stride=stride)

    x = F.pad(pixels, (padding,) * 4)
    x = (x - torch.tensor(CIFAR10[0]).view(3, 1, 1)) / torch.tensor(CIFAR10[1]).view(3, 1, 1)
    x = conv(x, "init_conv", 1)
    for group in range(3):
        for block in range(100):
            at = f"layer.{group}.block.{block}"
            if f"{at}.conv_0.weight" not in weights:
                break
            stride = 2 if group > 0 and block == 0 else 1
            a = swish(norm(x, f"{at}.batchnorm_0"))
            kept = conv(a, f"{at}.shortcut", stride) if f"{at}.shortcut.weight" in weights else x
            x = kept + conv(swish(norm(conv(a, f"{at}.conv_0", stride), f"{at}.batchnorm_1")), f"{at}.conv_1", 1)
    x = swish(norm(x, "batchnorm")).mean((2, 3))
    return x @ weights["logits.weight"].T + weights["logits.bias"]


@pytest.mark.parametrize(("name", "size"), [("wrn10-2-swish", 32), ("wrn16-1-swish", 20), ("wrn10-1-swish", 7)])
def test_a_swish_wide_resnet_is_the_published_function(name: str, size: int) -> None:
    network = with_statistics(made(name), size)
    pixels = torch.rand(4, 3, size, size)
    expected = restated(network.get_submodule("model").state_dict(), pixels)
    with torch.no_grad():
        torch.testing.assert_close(network(pixels), expected, rtol=1e-4, atol=1e-4)


def test_a_file_of_robustbench_has_no_constants_and_gets_them(tmp_path: Path) -> None:
    """Its state has neither mean nor std; 28x28 images are padded with black pixels before they are normalized."""
    weights = with_statistics(models.bare("wrn10-1-swish", classes=10, channels=3)).state_dict()
    torch.save({"state_dict": {f"module.{key}": value for key, value in weights.items()}}, tmp_path / "theirs.pt")
    row = Checkpoint(file=str(tmp_path / "theirs.pt"), arch="wrn10-1-swish", padding=2)
    loaded = load_checkpoint(row, 10, 3, (28, 28))
    pixels = torch.rand(4, 3, 28, 28)
    with torch.no_grad():
        logits = loaded.network.eval()(pixels)
    torch.testing.assert_close(logits, restated(weights, pixels, padding=2), rtol=1e-4, atol=1e-4)
    assert (loaded.normalization.mean, loaded.normalization.padding, loaded.from_file) == (CIFAR10[0], 2, False)
    save_weights(loaded.network, tmp_path / "target.safetensors", {})
    recorded = row.model_copy(update={"mean": loaded.normalization.mean, "std": loaded.normalization.std})
    again = build_network(recorded, classes=10, channels=3, size=(28, 28))
    again.load_state_dict(loaded.network.state_dict())
    assert torch.equal(again.eval()(pixels), logits)
    stated = load_checkpoint(row.model_copy(update={"mean": (0.5,), "std": (0.5,)}), 10, 3)
    assert stated.normalization == Normalization(mean=(0.5,), std=(0.5,), padding=2), "what is given comes first"


@pytest.mark.parametrize(
    ("classes", "channels", "constants"),
    [(10, 3, CIFAR10), (100, 3, CIFAR100), (200, 3, CIFAR10), (10, 1, ((0.5,),) * 2)],
)
@pytest.mark.parametrize("name", ["wrn10-1-swish", "preact-resnet18-swish"])
def test_the_constants_of_swish_networks(name: str, classes: int, channels: int, constants: Any) -> None:
    own = models.normalization(name, classes=classes, channels=channels)
    assert (own.mean, own.std) == constants


def test_a_preactivation_block_with_swish_is_the_formula() -> None:
    network: Any = with_statistics(models.bare("preact-resnet18-swish", classes=10, channels=3), 8)
    x = torch.randn(2, 64, 8, 8)
    block = network.layer_1[0]
    same = F.pad(x, (0, 1, 0, 1))
    active = F.pad(swish(block.batchnorm_0(x)), (0, 1, 0, 1))
    inner = F.conv2d(active, block.conv_2d_1.weight, stride=2)
    expected = F.conv2d(same, block.shortcut.weight, stride=2) + block.conv_2d_2(swish(block.batchnorm_1(inner)))
    torch.testing.assert_close(block(x), expected)
    block = network.layer_1[1]
    y = torch.randn(2, 128, 4, 4)
    inner = block.conv_2d_1(swish(block.batchnorm_0(y)))
    torch.testing.assert_close(block(y), y + block.conv_2d_2(swish(block.batchnorm_1(inner))))


def test_a_folded_swish_network_is_the_same_function() -> None:
    network = with_statistics(made("wrn10-1-swish"), 16).double()
    images = torch.rand(4, 3, 16, 16, dtype=torch.float64, requires_grad=True)
    surrogate = FoldedModel(network, torch.float64).refresh(network)
    assert len(surrogate.norms) == 3, "one per block: the others come before a sum or an activation"
    weights = torch.randn(4, 10, dtype=torch.float64)
    results = [
        (net(images), torch.autograd.grad((net(images) * weights).sum(), images)[0]) for net in (network, surrogate.net)
    ]
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


# --- ResNet-50 -------------------------------------------------------------------------------------------------------


def test_resnet50_is_torchvisions_behind_another_stem() -> None:
    """A 3x3 convolution of stride 1 and no pooling; everything else is the same, under other names."""
    from torchvision.models import resnet50

    ours = with_statistics(made("resnet50"), 4)
    theirs: Any = resnet50(num_classes=10)
    theirs.conv1, theirs.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    names = {"downsample": "shortcut", "fc": "linear"}
    weights = ours.state_dict()
    renamed = {key: ".".join(names.get(part, part) for part in key.split(".")) for key in theirs.state_dict()}
    theirs.load_state_dict({key: weights[name] for key, name in renamed.items()})
    pixels = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(ours(pixels), theirs.eval()(pixels), rtol=1e-4, atol=1e-4)


# --- names -----------------------------------------------------------------------------------------------------------

NAMES = {
    "wrn27-10-swish": "'wrn27-10-swish': a WideResNet's depth is 6n",
    "wrn28-99-swish": "width at most 32",
    "wrn28-10-swisch": "unknown network 'wrn28-10-swisch': did you mean 'wrn28-10-swish'",
    "tim/resnet50": "unknown network 'tim/resnet50': did you mean 'timm/resnet50'",
    "torchvision/": "after 'torchvision/' comes the name of one of its networks, as in torchvision/resnet50",
    "timm/hf_hub:someone/network": "after 'timm/' comes the name",
    "torchvision/../resnet18": "after 'torchvision/' comes the name",
    "torchvision/resnet5": "did you mean 'torchvision/resnet50' or .*`dynat list torchvision` lists all",
    "torchvision/fasterrcnn_resnet50_fpn": "unknown network 'torchvision/fasterrcnn",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_is_no_network_is_refused_with_the_nearest(name: str) -> None:
    for field in ("target", "guide"):
        row = {"method": "at", "labels": "dynamic", field: name}
        with pytest.raises(ConfigError, match=rf"runs.mine.{field}: (.*: )?.*{NAMES[name]}"):
            load({"runs": {"mine": row}})
    with pytest.raises(ConfigError, match=NAMES[name]):
        load({"checkpoints": {"theirs": {"file": "x.pt", "arch": name}}})


def test_results_are_read_where_the_package_is_not_installed() -> None:
    """A record names the network; only who writes a config needs the package."""
    row = Checkpoint(file="x.pt", arch="timm/resnet50")
    assert registry.network_entry(row.arch)[1] == {"name": "resnet50"}
    code = "import sys; from dynat.config import Checkpoint; Checkpoint(file='x.pt', arch='timm/resnet50')"
    code += "; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_the_manual_lists_every_network() -> None:
    manual = (provenance.PACKAGE.parent / "config" / "README.md").read_text()
    own = {name for name, where in registry.NETWORKS.items() if where.startswith("dynat.")}
    assert own == set(
        re.findall(r"^\| `([^`]+)` \|", manual.partition("## Networks")[2].partition("\n## ")[0], re.MULTILINE)
    )


def test_a_missing_package_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.delitem(sys.modules, "dynat.models.timm_networks", raising=False)
    with pytest.raises(ConfigError, match=r"runs.mine.target: networks of timm need it .*: pip install timm"):
        load({"runs": {"mine": {"method": "at", "target": "timm/resnet18"}}})


# --- packages --------------------------------------------------------------------------------------------------------


def test_a_network_of_torchvision_is_normalized_first() -> None:
    network = with_statistics(made(SHUFFLE, size=(32, 32)))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    pixels = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(network(pixels), network.get_submodule("model")((pixels - mean) / std))
    assert network.state_dict()["normalize.mean"].flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])


@pytest.mark.parametrize("side", [32, 64])
def test_a_vision_transformer_is_made_for_the_size_of_the_images(side: int) -> None:
    with torch.device("meta"):
        network = made("torchvision/vit_b_16", size=(side, side))
    assert network.state_dict()["model.encoder.pos_embedding"].shape[1] == 1 + (side // 16) ** 2


@pytest.mark.parametrize(
    ("name", "channels", "size", "reason"),
    [
        ("torchvision/inception_v3", 3, (32, 32), r"\(3 x 32 x 32\): .*Kernel size can't be greater"),
        ("torchvision/vit_b_16", 3, (40, 40), "Input shape indivisible by patch size"),
        ("torchvision/vit_b_16", 3, (32, 48), "images that are not square"),
        ("torchvision/resnet18", 1, (32, 32), "color images only"),
    ],
)
def test_a_size_that_a_network_cannot_take_is_refused_with_the_reason(
    name: str, channels: int, size: tuple[int, int], reason: str
) -> None:
    with pytest.raises(UserError, match=f"{name} cannot be used on these images .*{reason}"), torch.device("meta"):
        made(name, channels=channels, size=size)


@pytest.fixture
def timm_like(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """A package with timm's four functions and two networks, one of which is made for one size."""
    calls: list[dict[str, Any]] = []

    class Fixed(nn.Module):
        def __init__(self, size: tuple[int, int], channels: int, classes: int) -> None:
            super().__init__()
            self.size, self.head = size, nn.Linear(channels * size[0] * size[1], classes)

        def forward(self, x: Tensor) -> Tensor:
            assert x.shape[-2:] == self.size, f"made for {self.size}"
            return self.head(x.flatten(1))

    def create_model(name: str, *, pretrained: bool, num_classes: int, in_chans: int, **options: Any) -> nn.Module:
        calls.append({"name": name, "pretrained": pretrained, **options})
        return Fixed(options.get("img_size", (8, 8)), in_chans, num_classes)

    config = {
        name: SimpleNamespace(mean=(0.3, 0.6, 0.6), std=(0.5,) * 3, fixed_input_size=name == "vit")
        for name in ("vit", "net")
    }
    fake = SimpleNamespace(
        list_models=lambda: ["net", "vit"],
        list_pretrained=lambda: ["vit.tag"],
        get_pretrained_cfg=lambda name: config[name],
        create_model=create_model,
    )
    monkeypatch.setitem(sys.modules, "timm", fake)
    monkeypatch.delitem(sys.modules, "dynat.models.timm_networks", raising=False)
    yield calls
    sys.modules.pop("dynat.models.timm_networks", None)


def test_timm_is_asked_for_the_size_and_never_for_weights(timm_like: list[dict[str, Any]]) -> None:
    network = made("timm/vit", size=(12, 16), channels=1)
    assert timm_like == [{"name": "vit", "pretrained": False, "img_size": (12, 16)}]
    assert network.get_buffer("normalize.mean").item() == pytest.approx(0.5), "of gray images: the mean of the channels"
    assert made("timm/net", size=(8, 8)) is not None and "img_size" not in timm_like[-1]
    with pytest.raises(UserError, match=r"timm/net cannot be used on these images \(3 x 32 x 32\): made for \(8, 8\)"):
        made("timm/net", size=(32, 32))
    with pytest.raises(ConfigError, match="unknown network 'timm/vita': did you mean 'timm/vit'"):
        made("timm/vita")


@pytest.mark.parametrize("name", ["timm/resnet10t", "timm/vit_tiny_patch16_224", "timm/mobilenetv3_small_050"])
def test_networks_of_timm_itself(name: str) -> None:
    """Built for 32x32, folded and in bfloat16; a file of its weights for 1000 classes starts one of ten."""
    pytest.importorskip("timm", reason="timm is not installed: pip install timm")
    network = with_statistics(made(name, size=(32, 32)))
    pixels = torch.rand(4, 3, 32, 32)
    with torch.no_grad():
        logits = network(pixels)
        torch.testing.assert_close(
            FoldedModel(network, torch.float32).refresh(network)(pixels), logits, rtol=1e-3, atol=1e-4
        )
        half = mixed_precision(network, "bfloat16", CPU)
        assert half.surrogate()(pixels).shape == half.eval()(pixels).shape == (4, 10)
    assert {key.split(".")[-2] for key in models.classifier(name, classes=10, channels=3)} <= {
        "fc",
        "head",
        "classifier",
    }


def color_dataset(size: int) -> Dataset:
    def color(images: LabeledImages) -> LabeledImages:
        wide = F.interpolate(images.images.float(), (size, size)).to(torch.uint8).expand(-1, 3, -1, -1)
        return LabeledImages(wide.contiguous(), images.labels)

    return Dataset.from_splits(
        name="color",
        classes=tuple("abcde"),
        origin={"source": "tests"},
        train=color(tiny.images(4, seed=1)),
        validation=color(tiny.images(2, seed=2)),
        test=color(tiny.images(2, seed=3)),
    )


@pytest.mark.parametrize(
    ("target", "guide", "size", "precision"),
    [(SHUFFLE, "wrn10-1-swish", 64, "float32"), ("wrn10-1-swish", SHUFFLE, 32, "bfloat16")],
)
def test_they_train_as_target_and_as_guide(target: str, guide: str, size: int, precision: str) -> None:
    run = tiny.run(
        labels="dynamic", target=target, guide=guide, beta=1.0, clean_forward=True, epochs=1, precision=precision
    )
    dataset = color_dataset(size)
    trained = training.train(run, ThreatModel(eps=0.05), dataset, seed=0, device=CPU)
    assert len(trained.history) == 1 and trained.guide is not None
    for name, weights in ((target, trained.target), (guide, trained.guide)):
        fresh = models.build(name, classes=5, channels=3, size=dataset.size)
        before = {key: value.clone() for key, value in fresh.state_dict().items()}
        fresh.load_state_dict(weights)
        assert torch.equal(fresh.get_buffer("normalize.mean"), before["normalize.mean"]), "a constant is not trained"


@pytest.mark.parametrize(
    ("arch", "padding", "library"),
    [(SHUFFLE, 0, "torch and torchvision"), ("wrn10-1-swish", 2, "torch alone")],
)
def test_they_are_evaluated_and_exported(
    arch: str, padding: int, library: str, tmp_path: Path, dynat: Dynat, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In files named after the checkpoint, not the network; the card's example gives the same predictions elsewhere."""
    monkeypatch.chdir(tmp_path)
    bare = with_statistics(models.bare(arch, classes=5, channels=3))
    torch.save(bare.state_dict(), "theirs.pt")
    dataset = color_dataset(32)
    data.save(dataset, Path("data/color"))
    options = ("--dataset", "color", "--attacks", "pgd-2", "--eps", "0.03", "--padding", str(padding))
    code, output = dynat("evaluate", "theirs.pt", "--arch", arch, *options)
    assert code == 0, output
    assert f"pixels are normalized first, as the published weights of {arch} expect" in output
    code, output = dynat("export", "evaluations/theirs", "--out", "exported")
    assert code == 0, output
    card = Path("exported/README.md").read_text()
    assert f"{library}." in card and ("padding: 2" in card) == (padding == 2)
    pixels = to_pixels(dataset.test.images)
    save_file({"images": pixels}, "exported/input.safetensors")
    (example,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    images = "from safetensors.torch import load_file\nimages = load_file('input.safetensors')['images']\n"
    script = f"import sys\nsys.modules['dynat'] = None\n{images}{example}\nprint(logits.argmax(1).tolist())"
    done = subprocess.run([sys.executable, "-c", script], cwd="exported", capture_output=True, text=True)
    outcome = pd.read_csv("evaluations/theirs/outcomes/clean.csv")
    assert done.stdout.strip() == str(outcome["prediction"].tolist()), done.stderr


def test_the_version_of_the_package_is_a_part_of_a_result() -> None:
    assert models.package_versions("resnet18", None) == {}
    assert models.package_versions("resnet18", SHUFFLE) == {"torchvision": version("torchvision")}


@pytest.mark.parametrize("module", ["timm_networks", "torchvision_networks", "swish"])
def test_the_code_of_a_network_is_a_source_and_can_be_exported_alone(module: str) -> None:
    file = provenance.PACKAGE / "models" / f"{module}.py"
    assert file in provenance.training_sources("at") and file in provenance.evaluation_sources()
    imports = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ImportFrom)]
    assert not [node for node in imports if str(node.module).startswith("dynat")]


# --- starts from files -----------------------------------------------------------------------------------------------


def test_a_start_takes_everything_but_a_classifier_of_other_classes(tmp_path: Path) -> None:
    theirs = with_statistics(models.bare(SHUFFLE, classes=7, channels=3))
    torch.save(theirs.state_dict(), tmp_path / "theirs.pt")
    shape: dict[str, Any] = {"classes": 10, "channels": 3, "size": (32, 32)}
    network = made(SHUFFLE, **shape)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    start = start_from_file(network, tmp_path / "theirs.pt", name=SHUFFLE, **shape)
    assert start.fresh == ("fc.weight", "fc.bias")
    state, weights = network.state_dict(), theirs.state_dict()
    assert all(torch.equal(state[f"model.{key}"], value) for key, value in weights.items() if key not in start.fresh)
    assert all(torch.equal(state[f"model.{key}"], before[f"model.{key}"]) for key in start.fresh)
    assert torch.equal(state["normalize.mean"], before["normalize.mean"])


def test_a_start_without_a_classifier_and_a_complete_one(tmp_path: Path) -> None:
    weights = with_statistics(made("wrn10-1")).state_dict()
    torch.save({key: value for key, value in weights.items() if not key.startswith("fc.")}, tmp_path / "body.pt")
    save_weights(with_statistics(made("wrn10-1")), tmp_path / "whole.safetensors", {})
    network = made("wrn10-1")
    shape: dict[str, Any] = {"name": "wrn10-1", "classes": 10, "channels": 3}
    assert start_from_file(network, tmp_path / "body.pt", **shape).fresh == ("fc.weight", "fc.bias")
    assert start_from_file(network, tmp_path / "whole.safetensors", **shape).fresh == ()
    assert all(torch.equal(value, weights[key]) for key, value in network.state_dict().items())


def test_the_classifier_is_what_depends_on_the_classes() -> None:
    """BatchNorm after the last layer too."""
    names = models.classifier("small", classes=10, channels=1)
    assert names == {"8.weight", "9.weight", "9.bias", "9.running_mean", "9.running_var"}


STARTS: dict[str, tuple[str, Any, str]] = {
    "another network": ("wrn10-2", None, r"of another shape: block1.layer.0.conv1.weight \(file \(32, 16, 3, 3\)"),
    "a missing tensor": ("wrn10-1", lambda w: w.pop("bn1.bias"), "missing: bn1.bias"),
    "an unknown tensor": ("wrn10-1", lambda w: w.update(extra=torch.ones(1)), "unexpected: extra"),
    "NaN": ("wrn10-1", lambda w: w["conv1.weight"].fill_(torch.nan), "conv1.weight contains NaN"),
    "a normalization": (
        "wrn10-1",
        lambda w: w.update({"mean": torch.full((3,), 0.5), "std": torch.full((3,), 0.25)}),
        "its network normalizes pixels first .*mean 0.5.* and wrn10-1 reads pixels",
    ),
}


@pytest.mark.parametrize("case", STARTS)
def test_a_start_that_does_not_fit_names_the_tensor_and_changes_nothing(case: str, tmp_path: Path) -> None:
    made_as, change, message = STARTS[case]
    weights = made(made_as, classes=7).state_dict()
    if change:
        change(weights)
    torch.save(weights, tmp_path / "theirs.pt")
    network = made("wrn10-1")
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(UserError, match=rf"theirs.pt: .*{message}"):
        start_from_file(network, tmp_path / "theirs.pt", name="wrn10-1", classes=10, channels=3)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_a_start_brings_the_normalization_that_its_weights_were_trained_behind(tmp_path: Path) -> None:
    weights = models.bare("wrn10-1-swish", classes=10, channels=3).state_dict()
    torch.save({**weights, "mean": torch.tensor([0.1, 0.2, 0.3]), "std": torch.ones(3)}, tmp_path / "theirs.pt")
    network = made("wrn10-1-swish")
    start = start_from_file(network, tmp_path / "theirs.pt", name="wrn10-1-swish", classes=10, channels=3)
    assert start.normalization.mean == pytest.approx((0.1, 0.2, 0.3))
    assert network.get_buffer("normalize.mean").flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert torch.equal(network.get_buffer("normalize.std"), torch.ones(1, 3, 1, 1))
