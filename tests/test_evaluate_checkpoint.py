"""`dynat evaluate`: a third-party checkpoint from the command line to its table."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from dynat import data, models
from dynat.attacks import Evaluation, evaluate
from dynat.attacks import evaluation as attacks
from dynat.config import AttackConfig, load, registry
from dynat.data import to_pixels
from dynat.data.corruptions import corrupt
from dynat.data.images import stratified
from dynat.jobs.checkpoint_warnings import same_shapes
from dynat.jobs.import_checkpoint import run_import
from dynat.results.paths import Paths, RunFiles, SingleRunPaths
from dynat.results.statistics import wilson
from dynat.runtime.errors import UserError
from dynat.runtime.progress import Progress
from tests import tiny
from tests.helpers import Dynat, Killed, fit

MEAN, STD, EPS = 0.4, 0.2, 0.1
TRAIN = tiny.images(20, seed=1, noise=0.5)
TEST = tiny.images(6, seed=3, noise=0.5)
"""Noisy enough that some images are misclassified, and an attack breaks some others."""


class Normalizing(nn.Module):
    """The oracle: the network as its authors use it, behind their normalization."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.network((pixels - MEAN) / STD)
        return logits


@pytest.fixture(scope="module")
def theirs() -> nn.Module:
    """A network trained on normalized pixels: correct on most images with the normalization, on fewer without."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = models.build("small", classes=tiny.CLASSES, channels=1)
    return fit(network, TRAIN, steps=15, forward=Normalizing(network))


@pytest.fixture
def paths(tmp_path: Path) -> SingleRunPaths:
    folders = SingleRunPaths(tmp_path / "data", tmp_path / "out", tmp_path / "state")
    one = tiny.dataset()
    noisy = data.Dataset.from_splits(
        name="tiny", classes=one.classes, origin=one.origin, train=one.train, validation=one.validation, test=TEST
    )
    data.save(noisy, folders.dataset("tiny"))
    return folders


Evaluate = Callable[..., tuple[int, str]]


@pytest.fixture
def run(dynat: Dynat, paths: SingleRunPaths, theirs: nn.Module, tmp_path: Path) -> Evaluate:
    """The command with its usual options, changed by those that are given; None leaves one out."""
    torch.save({"net": theirs.state_dict()}, tmp_path / "theirs.pt")

    def call(**words: object) -> tuple[int, str]:
        usual = {
            "arch": "small",
            "dataset": "tiny",
            "attacks": "pgd-4",
            "eps": EPS,
            "batch": 8,
            "mean": MEAN,
            "std": STD,
            "data": paths.data,
            "out": paths.results,
            "state": paths.state,
        }
        options = {key: value for key, value in (usual | words).items() if value is not None and key != "file"}
        texts = [str(part) for key, value in options.items() for part in (f"--{key}", value) if part != ""]
        return dynat("evaluate", str(words.get("file", tmp_path / "theirs.pt")), *texts)

    return call


def outcome(folder: Path, attack: str) -> list[dict[str, str]]:
    with RunFiles(folder).outcome(attack).open() as file:
        return list(csv.DictReader(file))


def directly(network: nn.Module, eps: float = EPS, **fields: object) -> Evaluation:
    base = {"kind": "pgd", "steps": 4, "eps": eps, "norm": "linf", "step_size": eps / 4, "start": "uniform", "batch": 8}
    return evaluate(network, TEST, AttackConfig.model_validate({**base, **fields}))


def test_verdicts_are_those_of_the_network_as_its_authors_use_it(
    run: Evaluate, paths: SingleRunPaths, theirs: nn.Module
) -> None:
    code, output = run()
    assert code == 0, output
    rows, expected = outcome(paths.results, "pgd-4"), directly(Normalizing(theirs))
    correct = [int(row["correct"]) for row in rows]
    assert correct == expected.columns["correct"].int().tolist() and 0 < sum(correct) < len(correct)
    assert [float(row["margin"]) for row in rows] == pytest.approx(expected.columns["margin"].tolist(), rel=1e-4)
    # In pixels of [0,1]: in normalized pixels the same radius would be five times as large.
    assert EPS * 0.9 < max(float(row["distance"]) for row in rows) <= EPS + 1e-6
    wrong = (theirs, EPS), (Normalizing(theirs), EPS * STD), (Normalizing(Normalizing(theirs)), EPS)
    others = [directly(network, eps) for network, eps in wrong]
    assert all(other.columns["correct"].int().tolist() != correct for other in others), "in a wrong space"


def test_a_normalization_in_the_file_that_is_given_too_is_applied_once(
    run: Evaluate, theirs: nn.Module, tmp_path: Path
) -> None:
    weights = {f"model.{name}": value for name, value in theirs.state_dict().items()}
    normalization = {"normalize.mean": torch.tensor([MEAN]), "normalize.std": torch.tensor([STD])}
    torch.save({**normalization, **weights}, tmp_path / "theirs.pt")
    expected = directly(Normalizing(theirs)).columns["margin"].tolist()
    for folder, given in (("once", {"mean": None, "std": None}), ("again", {})):
        code, output = run(out=tmp_path / folder, **given)
        assert code == 0 and "pixels are normalized first, from the file: mean 0.4, std 0.2" in output
        rows = outcome(tmp_path / folder, "pgd-4")
        assert [float(row["margin"]) for row in rows] == pytest.approx(expected, rel=1e-4)


def test_the_table_shows_intervals_and_agrees_with_the_files(run: Evaluate, paths: SingleRunPaths) -> None:
    code, output = run(attacks="pgd-4,cw-2", images=20)
    assert code == 0
    metrics = json.loads((paths.results / "metrics.json").read_text())
    assert list(metrics["attacks"]) == ["clean", "pgd-4", "cw-2"], "clean comes first even if it is not named"
    table = (paths.results / "table.md").read_text()
    assert table in output
    for title, attack in (("Clean", "clean"), ("PGD-4", "pgd-4"), ("CW-2", "cw-2")):
        correct = sum(int(row["correct"]) for row in outcome(paths.results, attack))
        low, high = wilson(correct, 20)
        line = next(line for line in table.splitlines() if line.startswith(f"| {title} "))
        assert (
            f" {100 * correct / 20:.1f} % " in line and f" {100 * low:.1f}–{100 * high:.1f} " in line and " 20 " in line
        )
    assert "| Worst case " in table and "ε = 0.1 " in table


def test_sanity_checks_are_optional_and_belong_to_this_request(run: Evaluate, paths: SingleRunPaths) -> None:
    few = {"attacks": "clean", "images": 6, "batch": None}
    code, output = run(**few, sanity="")
    assert code == 0, output
    assert "Sanity checks:" in output and "* passed: No misclassification at ε = 0 (0 of " in output
    first = json.loads((paths.results / "metrics.json").read_text())["sanity"]
    assert len(first["checks"]) == 6
    assert "Sanity checks" not in run(**few, eps="0.02")[1], "checks at another radius do not count"
    assert not (paths.results / "sanity.csv").exists()
    run(**few, eps="0.02", sanity="")
    second = json.loads((paths.results / "metrics.json").read_text())["sanity"]
    assert first["curves"] != second["curves"]


def test_the_norm_is_used(run: Evaluate, paths: SingleRunPaths, theirs: nn.Module) -> None:
    code, output = run(norm="l2", eps="1.5")
    assert code == 0 and "L2, ε = 1.5" in output
    expected = directly(Normalizing(theirs), eps=1.5, norm="l2")
    assert [int(row["correct"]) for row in outcome(paths.results, "pgd-4")] == expected.columns[
        "correct"
    ].int().tolist()


def test_the_adversarial_images_of_every_attack_are_written(
    run: Evaluate, paths: SingleRunPaths, theirs: nn.Module
) -> None:
    code, output = run(attacks="pgd-4,cw-2", images=20, adversarial="safetensors")
    assert code == 0, output
    assert sorted(file.name for file in (paths.results / "seed0").glob("*.safetensors") if "adv" in file.name) == [
        "cw-2.adversarial.safetensors",
        "pgd-4.adversarial.safetensors",
    ], "none of the clean images"
    written = load_file(paths.results / "seed0" / "pgd-4.adversarial.safetensors")
    with torch.no_grad():
        correct = Normalizing(theirs.eval())(written["images"]).argmax(1) == written["labels"]
    assert correct.int().tolist() == [int(row["correct"]) for row in outcome(paths.results, "pgd-4")]
    assert 0 < correct.sum() < 20


def test_shards_do_all_the_work_of_the_attacks(
    run: Evaluate, paths: SingleRunPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = {"attacks": "pgd-4", "adversarial": "pt", "corruptions": "{kinds: [brightness]}", "sanity": ""}
    assert run(out=tmp_path / "whole", state=tmp_path / "other", **words)[0] == 0
    for shard in ("1-of-2", "2-of-2"):
        code, output = run(shard=shard, **words)
        assert code == 0 and "theirs clean: accuracy " in output and "2 of 4 batches" in output
        assert RunFiles(paths.results).attacks() == ["clean"] and "written to" not in output
        assert "corruptions" not in output and "sanity" not in output, "those are for the command without --shard"
    monkeypatch.setattr(attacks, "_evaluate_batch", lambda *_, **__: pytest.fail("the batches are finished"))
    code, output = run(**words | {"sanity": None})
    assert code == 0, output
    for file in ("outcomes/pgd-4.csv", "seed0/pgd-4.adversarial.pt", "corruptions.csv"):
        assert (paths.results / file).read_bytes() == (tmp_path / "whole" / file).read_bytes(), file


def test_corruptions_are_evaluated_before_the_attacks(run: Evaluate, paths: SingleRunPaths, theirs: nn.Module) -> None:
    words = {"corruptions": "{kinds: [contrast, brightness], severities: [1, 5]}", "images": 20}
    code, output = run(**words)
    assert code == 0 and output.index("theirs corruptions: ") < output.index("theirs pgd-4: ")
    table, accuracy = (paths.results / "table.md").read_text(), {}
    for kind in ("contrast", "brightness"):
        right = 0
        for severity in (1, 5):
            pixels = TEST.images[:20].permute(0, 2, 3, 1).numpy()
            images = to_pixels(torch.from_numpy(corrupt(pixels, kind, severity, seed=0, first=0)).permute(0, 3, 1, 2))
            with torch.no_grad():
                right += int((Normalizing(theirs.eval())(images).argmax(1) == TEST.labels[:20]).sum())
        accuracy[kind] = 100 * right / 40
        assert re.search(rf"^\| {kind} +\| +{accuracy[kind]:.1f} % \|$", table, re.MULTILINE), table
    assert accuracy["contrast"] != accuracy["brightness"]
    assert f"| mean       |   {sum(accuracy.values()) / 2:.1f} % |" in table and "on 20 test images per" in table
    assert "Corruption" not in run(images=20)[1]
    code, output = run(corruptions="{path: nowhere}", attacks="pgd-2")
    assert code == 2 and "nowhere/labels.npy: no such file" in output and "theirs pgd-2" not in output


# --- what a file of weights does not contain ------------------------------------------------------------------------


def test_accuracy_near_chance_is_reported_before_the_attacks(run: Evaluate, theirs: nn.Module, tmp_path: Path) -> None:
    shuffled = dict(theirs.state_dict())
    for name in ("8.weight", "9.weight", "9.bias", "9.running_mean", "9.running_var"):
        shuffled[name] = shuffled[name].roll(1, 0)
    torch.save(shuffled, tmp_path / "theirs.pt")
    code, output = run()
    assert code == 0
    assert "is near chance (20.0 %). Likely causes: another --arch" in output
    assert output.index("warning: clean accuracy") < output.index("theirs pgd-4"), "before the long attacks"
    assert "Warning: clean accuracy" in (tmp_path / "out" / "table.md").read_text()


def test_an_accuracy_other_than_the_expected_one_is_reported(run: Evaluate, paths: SingleRunPaths) -> None:
    code, output = run()
    assert code == 0 and "arning" not in output
    clean = json.loads((paths.results / "metrics.json").read_text())["attacks"]["clean"]["accuracy"]
    assert "arning" not in run(expect=100 * clean)[1]
    assert "is not the 30 % expected (99 % interval " in run(expect=30)[1]


def strided(first: int, classes: int, channels: int) -> nn.Sequential:
    """The same names and shapes for both values of the first stride: a file of weights fits both."""
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, stride=first, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=3 - first, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(256, classes),
    )


def early(*, classes: int, channels: int) -> nn.Sequential:
    return strided(2, classes, channels)


def late(*, classes: int, channels: int) -> nn.Sequential:
    return strided(1, classes, channels)


@pytest.mark.parametrize("named", ["early", "late"])
def test_a_network_with_other_strides_is_suggested(
    named: str, run: Evaluate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network trained as `early` and loaded as `late`: every name fits, and only the accuracy shows it."""
    for name in ("early", "late"):
        monkeypatch.setitem(registry.NETWORKS, name, f"{__name__}:{name}")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        trained = early(classes=tiny.CLASSES, channels=1)
    fit(trained, TRAIN, steps=15)
    torch.save(trained.state_dict(), tmp_path / "theirs.pt")
    other = {"early": "late", "late": "early"}[named]
    assert run(arch=other, mean=None, std=None, out=tmp_path / "before")[0] == 0
    code, output = run(arch=named, mean=None, std=None)
    assert code == 0, output
    # Verdicts of the other network are saved under the same weights: they are not reused.
    assert outcome(tmp_path / "before", "clean") != outcome(tmp_path / "out", "clean")
    assert ("as early the same file classifies " in output and "is it --arch early?" in output) == (named == "late")


def test_both_stride_layouts_of_resnet18_fit_the_same_file() -> None:
    same = partial(same_shapes, classes=10, channels=3)
    assert same("resnet18", "resnet18-heavy") and same("resnet18-heavy", "resnet18")
    assert not same("small", "resnet18") and not same("wrn<depth>-<width>", "wrn10-1")


# --- resumed, and refused -------------------------------------------------------------------------------------


def test_a_killed_evaluation_resumes(run: Evaluate, paths: SingleRunPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    advance, counted = Progress.advance, []

    def kill(progress: Progress, amount: float = 1.0) -> None:
        advance(progress, amount)
        counted.append(amount)
        if len(counted) == 6:  # four batches of clean, then two of PGD
            raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(Progress, "advance", kill)
        run()
    kept = {file: file.stat().st_mtime_ns for file in paths.state.rglob("*.pt")}
    assert len(kept) == 6
    code, output = run()
    assert code == 0 and "| PGD-4 " in output
    assert all(file.stat().st_mtime_ns == when for file, when in kept.items())
    assert len(outcome(paths.results, "pgd-4")) == 30


def test_one_folder_holds_one_evaluation(run: Evaluate, theirs: nn.Module, tmp_path: Path) -> None:
    assert run()[0] == 0
    assert run(attacks="pgd-2", eps="0.05")[0] == 0, "another attack on the same file"
    code, output = run(mean=None, std=None)
    assert code == 2 and "contains the evaluation of another checkpoint, network or data set" in output
    torch.save({name: 2 * value for name, value in theirs.state_dict().items()}, tmp_path / "theirs.pt")
    assert run()[0] == 2
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    code, output = run(out=tmp_path / "mine")
    assert code == 2 and "mine: contains something else" in output
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def test_another_padding_is_another_network(run: Evaluate, tmp_path: Path) -> None:
    """It has no weights, so nothing else tells the two apart."""
    seen = []
    for padding in (0, 3):
        assert run(padding=padding, out=tmp_path / f"out-{padding}")[0] == 0
        seen.append([row["margin"] for row in outcome(tmp_path / f"out-{padding}", "clean")])
    assert seen[0] != seen[1]


def test_a_size_that_the_images_do_not_have_is_refused(run: Evaluate) -> None:
    code, output = run(size=16)
    assert code == 2 and "--size 16: the images of tiny are 8 x 8 pixels; only those of a folder are resized" in output
    assert run(size=8)[0] == 0


REFUSED = [
    ({"arch": None}, "Missing option '--arch'"),
    ({"eps": None}, "Missing option '--eps'"),
    ({"file": "no.pt"}, "no.pt: no such checkpoint"),
    ({"arch": "resnet19"}, "unknown network 'resnet19': did you mean 'resnet18'?"),
    ({"arch": "wrn10-1"}, "these are not the weights of this WideResNet: missing: conv1.weight"),
    ({"dataset": "cifar"}, "unknown data set 'cifar', and there is neither a folder of images of that name nor"),
    ({"attacks": "pdg-20"}, "unknown attack 'pdg-20': did you mean 'pgd-20'?"),
    ({"eps": "8"}, "eps 8 is outside (0,1): pixels are in [0,1], write 8/255 rather than 8"),
    ({"norm": "l3"}, "threat.norm: "),
    ({"std": None}, "mean and std are given together"),
    ({"mean": "125.3", "std": "63"}, "mean 125.3 is not of pixels in [0,1]: divide values meant for 0..255 by 255"),
    ({"mean": "0.5,0.5", "std": "0.2,0.2"}, "mean and std have 2 channels, and the images have 1"),
    ({"images": "0"}, "images: "),
    ({"adversarial": "npz"}, "attacks.pgd-4.adversarial_images: "),
    ({"shard": "3-of-2"}, "shard '3-of-2': write 2-of-4 for the second of four"),
    ({"corruptions": "CIFAR-10-C"}, "--corruptions CIFAR-10-C: write a mapping, such as {} or {path: CIFAR-10-C}"),
    ({"corruptions": "{kind: [fog]}"}, "corruptions: unknown key 'kind': did you mean 'kinds'?"),
]


@pytest.mark.parametrize(("words", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_impossible_requests_are_refused(
    words: dict[str, str], message: str, run: Evaluate, paths: SingleRunPaths
) -> None:
    code, output = run(**words)
    assert code == 2 and message in output and "Traceback" not in output
    assert not paths.results.exists() and not paths.state.exists(), "it leaves nothing behind"


def test_a_useless_checkpoint_is_refused_before_images_are_prepared(
    run: Evaluate, paths: SingleRunPaths, tmp_path: Path
) -> None:
    (tmp_path / "theirs.pt").write_bytes(b"\x80")
    code, output = run(dataset="digits")
    assert code == 2 and "theirs.pt: not a checkpoint, or damaged" in output
    (tmp_path / "theirs.pt").unlink()
    os.mkfifo(tmp_path / "theirs.pt")
    code, output = run(dataset="digits")
    assert code == 2 and "theirs.pt: is not a regular file but a FIFO" in output
    assert not paths.dataset("digits").exists() and not paths.results.exists() and not paths.state.exists()


@pytest.mark.parametrize("option", ["state", "out"])
def test_a_folder_that_is_a_file_is_refused_before_anything_is_written(
    option: str, run: Evaluate, paths: SingleRunPaths, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    code, output = run(**{option: tmp_path / "file"})
    assert code == 2 and f"{tmp_path / 'file'}: cannot be written" in output and "nothing was started" in output
    assert not paths.results.exists() and not paths.state.exists()


def test_a_checkpoint_with_nan_is_not_attacked(
    run: Evaluate, paths: SingleRunPaths, theirs: nn.Module, tmp_path: Path
) -> None:
    weights = dict(theirs.state_dict())
    weights["9.bias"] = weights["9.bias"] * float("nan")
    torch.save(weights, tmp_path / "theirs.pt")
    code, output = run()
    assert code == 2 and "theirs.pt: 9.bias contains NaN or infinite values, so no accuracy of this" in output
    assert not paths.results.exists() and not paths.state.exists()


def test_a_refused_import_leaves_nothing(paths: SingleRunPaths, theirs: nn.Module, tmp_path: Path) -> None:
    torch.save({"net": theirs.state_dict() | {"extra": torch.ones(1)}}, tmp_path / "theirs.pt")
    section = {"theirs": {"file": str(tmp_path / "theirs.pt"), "arch": "small"}}
    spec = load({"checkpoints": section}).checkpoint_import("theirs").model_copy(update={"data": "tiny"})
    before = set(tmp_path.rglob("*"))
    with pytest.raises(UserError, match="unexpected: extra"):
        run_import(spec, paths=Paths(paths.data, tmp_path / "results", paths.state))
    assert set(tmp_path.rglob("*")) == before


def test_a_data_set_that_a_preset_names_is_prepared(run: Evaluate, paths: SingleRunPaths, tmp_path: Path) -> None:
    torch.save(models.build("small", classes=10, channels=1).state_dict(), tmp_path / "theirs.pt")
    code, output = run(dataset="digits", images=8, attacks="clean")
    assert code == 0 and "digits: prepared in " in output
    held_out = len(data.load(paths.dataset("digits")).validation) / 1438
    assert held_out == pytest.approx(load({"preset": "digits"}).dataset.validation, abs=0.01)


# --- an image folder ------------------------------------------------------------------------------------------


def save_images(folder: Path, side: int = 8) -> Path:
    """A PNG per test image, in a folder per class."""
    for index, (image, label) in enumerate(zip(TEST.images, TEST.labels.tolist(), strict=True)):
        file = folder / f"class{label}" / f"{index}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0].numpy()).resize((side, side), Image.Resampling.NEAREST).save(file)
    return folder


@pytest.fixture
def color(tmp_path: Path) -> Path:
    """A checkpoint for images of a folder, which have three channels."""
    file = tmp_path / "color.pt"
    torch.save(models.build("small", classes=tiny.CLASSES, channels=3).state_dict(), file)
    return file


@pytest.mark.parametrize("layout", [".", "test", "test and train"])
def test_a_path_of_an_image_folder_is_prepared_once(
    layout: str, run: Evaluate, paths: SingleRunPaths, color: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "My Images"
    for part in layout.split(" and "):
        save_images(folder / part)
    words = {"file": color, "dataset": folder, "attacks": "pgd-2", "mean": None, "std": None}
    code, output = run(**words)
    assert code == 0, output
    assert f"{folder}: prepared in {paths.data}/my-images-" in output and "8 x 8 pixels" in output
    (prepared,) = paths.data.glob("my-images-*")
    dataset = data.load(prepared)
    by_class = TEST[TEST.labels.argsort(stable=True)]
    assert torch.equal(dataset.test.images[:, 0], stratified(by_class).images[:, 0])
    assert (len(dataset.train) > 0) == ("train" in layout)
    code, output = run(**words)
    assert code == 0 and "prepared in" not in output, "prepared once"
    (prepared / "images.safetensors").write_bytes(b"damaged")
    code, output = run(**words)
    assert code == 0 and "images.safetensors: damaged or cut short" in output and "prepared again" in output
    assert data.load(prepared).digest == dataset.digest
    assert ("test images are also training" in output) == ("train" in layout)
    save_images(folder / layout.partition(" ")[0] / "class0" / "more")
    assert "contains the evaluation of another" in run(**words)[1], "a changed folder is another data set"


def test_a_checkpoint_of_other_classes_is_refused_before_images_are_prepared(
    run: Evaluate, paths: SingleRunPaths, tmp_path: Path
) -> None:
    folder = save_images(tmp_path / "images")
    torch.save(models.build("small", classes=tiny.CLASSES + 1, channels=3).state_dict(), tmp_path / "color.pt")
    before = sorted(paths.data.iterdir())
    code, output = run(file=tmp_path / "color.pt", dataset=folder, attacks="clean", mean=None, std=None)
    assert code == 2 and "color.pt: these are not the weights of this Sequential: of another shape" in output
    assert sorted(paths.data.iterdir()) == before and not paths.results.exists() and not paths.state.exists()


def test_images_of_several_sizes_need_a_size(run: Evaluate, color: Path, tmp_path: Path) -> None:
    folder = save_images(tmp_path / "images")
    Image.new("RGB", (9, 7)).save(folder / "class0" / "other.png")
    words = {"file": color, "dataset": folder, "attacks": "clean", "mean": None, "std": None}
    code, output = run(**words)
    assert code == 2 and "the images are not squares of one size (8x8, 9x7); say with --size" in output
    code, output = run(**words, size=8)
    assert code == 0, output


def test_classes_in_another_order_than_torchvisions_are_a_warning(run: Evaluate, color: Path, tmp_path: Path) -> None:
    folder = save_images(tmp_path / "images")
    words = {"file": color, "dataset": folder, "attacks": "clean", "mean": None, "std": None}
    assert "ImageFolder" not in run(**words)[1]
    (folder / "class0").rename(folder / "class10")
    output = run(**words, out=tmp_path / "other")[1]
    assert (
        "the classes are numbered in the order class1, class2, class3, class4, ...; torchvision's ImageFolder has the "
        "order class1, class10, class2, class3, ..." in output
    )


def test_a_folder_without_classes_says_what_is_expected(run: Evaluate, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    code, output = run(dataset=tmp_path / "images")
    assert code == 2 and "images: expected a folder per class with its images, in <path>/<class>/ or" in output
    code, output = run(dataset=tmp_path / "nowhere")
    assert code == 2 and "there is neither a folder of images of that name nor" in output
