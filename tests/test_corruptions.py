"""Corrupted test images against slow statements of their definitions; the archive; counts, means, table and figure."""

from __future__ import annotations

import colorsys
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib import rc_context
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from torch import nn

from dynat import data
from dynat.config import ConfigError, CorruptionsConfig, CorruptionsSpec, Experiment, load
from dynat.config.corruptions import ADDITIONAL, BENCHMARK, NOT_MADE
from dynat.data import DataError, corruptions
from dynat.data.corruption_archive import CorruptedImages
from dynat.jobs import corruptions as job
from dynat.jobs import preflight
from dynat.jobs.training import run_training
from dynat.report import corruptions as report
from dynat.report import plotting
from dynat.results.corruptions import CorruptionsRecord, read_corruptions, write_corruptions
from dynat.results.paths import ExperimentFiles, Paths
from dynat.runtime.errors import UserError
from tests import tiny
from tests.helpers import Killed
from tests.test_large_report import assert_no_text_covers_another

Bytes = NDArray[np.uint8]
Pixels = NDArray[Any]
PHOTO = (np.indices((32, 32)).sum(0)[..., None] * [4, 2, 3]).astype(np.uint8)
PHOTO[8:20, 10:22] = (250, 30, 90)
PHOTO[0, :4] = 0
BATCH = np.stack([PHOTO, PHOTO[::-1], 255 - PHOTO])


def slow_hsv(image: Bytes, change: Any) -> Pixels:
    """Pixel by pixel through the standard library."""
    out = np.empty(image.shape)
    for place in np.ndindex(image.shape[:2]):
        out[place] = colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*(image[place] / 255))))
    return out


def slow_zoom(image: Bytes, end: float) -> Pixels:
    """With scipy's own zoom, one image and one factor after the other."""
    pixels, factors = image / 255, np.arange(1, end, 0.01)
    total = pixels.copy()
    for factor in factors:
        inner = int(np.ceil(32 / factor))
        first = (32 - inner) // 2
        large = ndimage.zoom(pixels[first : first + inner, first : first + inner], (factor, factor, 1), order=1)
        cut = (large.shape[0] - 32) // 2
        total += large[cut : cut + 32, cut : cut + 32]
    return total / (len(factors) + 1)


def slow_defocus(image: Bytes, radius: float, smoothing: float) -> Pixels:
    """The weights of the nine pixels around each, the border mirrored without its last pixel."""
    disk = {(r, c): 1.0 for r in range(-8, 9) for c in range(-8, 9) if r * r + c * c <= radius**2}
    line = np.exp(-np.array([1.0, 0.0, 1.0]) / (2 * smoothing**2))
    line /= line.sum()
    kernel: dict[tuple[int, int], float] = {}
    for (r, c), weight in disk.items():
        for i in (-1, 0, 1):
            for j in (-1, 0, 1):
                place = (r + i, c + j)
                kernel[place] = kernel.get(place, 0) + weight / len(disk) * line[i + 1] * line[j + 1]
    mirror = [abs(i) if i < 32 else 62 - i for i in range(-8, 40)]
    out = np.zeros(image.shape)
    for place in np.ndindex(32, 32):
        for (r, c), weight in kernel.items():
            out[place] += weight * image[mirror[place[0] + r + 8], mirror[place[1] + c + 8]] / 255
    return out


def slow_jpeg(image: Bytes, quality: int) -> Pixels:
    content = io.BytesIO()
    Image.fromarray(image).save(content, "JPEG", quality=quality)
    return np.asarray(Image.open(content)) / 255


def slow_pixelate(image: Bytes, share: float) -> Pixels:
    side = int(32 * share)
    small = Image.fromarray(image).resize((side, side), Image.Resampling.BOX)
    return np.asarray(small.resize((32, 32), Image.Resampling.BOX)) / 255


SLOW: dict[tuple[str, int], Any] = {
    ("brightness", 2): lambda x: slow_hsv(x, lambda h, s, v: (h, s, min(v + 0.1, 1))),
    ("brightness", 5): lambda x: slow_hsv(x, lambda h, s, v: (h, s, min(v + 0.3, 1))),
    ("saturate", 1): lambda x: slow_hsv(x, lambda h, s, v: (h, 0.3 * s, v)),
    ("saturate", 5): lambda x: slow_hsv(x, lambda h, s, v: (h, min(2.5 * s + 0.2, 1), v)),
    ("contrast", 3): lambda x: 0.4 * x / 255 + 0.6 * (x / 255).mean((0, 1)),
    ("zoom_blur", 1): lambda x: slow_zoom(x, 1.06),
    ("zoom_blur", 5): lambda x: slow_zoom(x, 1.26),
    ("defocus_blur", 1): lambda x: slow_defocus(x, 0.3, 0.4),
    ("defocus_blur", 5): lambda x: slow_defocus(x, 1.5, 0.1),
    ("gaussian_blur", 4): lambda x: np.stack(
        [ndimage.gaussian_filter(x[..., c] / 255, 0.8, mode="nearest") for c in range(3)], -1
    ),
    ("jpeg_compression", 1): lambda x: slow_jpeg(x, 80),
    ("jpeg_compression", 5): lambda x: slow_jpeg(x, 40),
    ("pixelate", 5): lambda x: slow_pixelate(x, 0.65),
}


@pytest.mark.parametrize(("kind", "severity"), SLOW)
def test_a_corruption_is_its_definition(kind: str, severity: int) -> None:
    made = corruptions.CORRUPTIONS[kind](BATCH / 255, severity - 1, [])
    expected = np.stack([SLOW[kind, severity](image) for image in BATCH])
    assert np.abs(made - expected).max() < 1e-5


def test_bytes_are_cut_off_as_published() -> None:
    image = np.array([10, 20, 30, 241], dtype=np.uint8).reshape(1, 2, 2, 1)
    expected = [int(75.25 + 0.5 * (value - 75.25)) for value in (10, 20, 30, 241)]
    assert corruptions.corrupt(image, "contrast", 2, seed=0).ravel().tolist() == expected


FLAT = np.full((40, 32, 32, 3), 128, dtype=np.uint8)


@pytest.mark.parametrize(
    ("kind", "scales"),
    [
        ("gaussian_noise", [0.04, 0.06, 0.08, 0.09, 0.10]),
        ("shot_noise", [(0.502 / c) ** 0.5 for c in (500, 250, 100, 75, 50)]),
        ("speckle_noise", [0.502 * c for c in (0.06, 0.1, 0.12, 0.16, 0.2)]),
    ],
)
def test_noise_has_the_published_spread(kind: str, scales: list[float]) -> None:
    for severity, scale in enumerate(scales, 1):
        noise = corruptions.corrupt(FLAT, kind, severity, seed=0) / 255 - 0.502
        assert noise.std() == pytest.approx(scale, rel=0.02) and abs(noise.mean() + 0.5 / 255) < 0.002


def test_impulses_are_black_or_white_in_the_published_shares() -> None:
    for severity, share in enumerate((0.01, 0.02, 0.03, 0.05, 0.07), 1):
        made = corruptions.corrupt(FLAT, "impulse_noise", severity, seed=0)
        assert set(np.unique(made)) == {0, 128, 255}
        assert (made != 128).mean() == pytest.approx(share, rel=0.1)
        assert (made == 0).sum() == pytest.approx((made == 255).sum(), rel=0.15)


def test_glass_moves_pixels_to_their_neighbors() -> None:
    """With next to no blur, every inner pixel has the value of one in its 3 x 3 square, the border none but its own."""
    image = np.random.default_rng(0).integers(256, size=(2, 16, 16, 1), dtype=np.uint8)
    made = corruptions.corrupt(image, "glass_blur", 1, seed=0)
    moved = 0
    for n, row, column in np.ndindex(2, 16, 16):
        around = image[n, max(row - 2, 0) : row + 2, max(column - 2, 0) : column + 2]
        assert np.abs(around.astype(int) - int(made[n, row, column, 0])).min() <= 1
        moved += made[n, row, column, 0] != image[n, row, column, 0]
    assert moved > 200
    assert np.abs(made[:, :2].astype(int) - image[:, :2]).max() <= 1, "the first rows stay"


@pytest.mark.parametrize("kind", corruptions.CORRUPTIONS)
def test_an_image_is_corrupted_alike_in_every_batch_and_worse_with_severity(kind: str) -> None:
    whole = corruptions.corrupt(BATCH, kind, 3, seed=1)
    parts = [corruptions.corrupt(BATCH[n : n + 1], kind, 3, seed=1, first=n) for n in range(3)]
    assert np.array_equal(whole, np.concatenate(parts)) and whole.dtype == np.uint8
    random = kind.endswith("noise") or kind == "glass_blur"
    assert np.array_equal(whole, corruptions.corrupt(BATCH, kind, 3, seed=2)) != random
    mild, strong = (
        np.abs(corruptions.corrupt(BATCH, kind, severity, seed=1).astype(int) - BATCH).mean()
        for severity in ((1, 5) if kind != "saturate" else (4, 5))
    )
    assert mild < strong
    if kind != "saturate":
        gray = corruptions.corrupt(BATCH[..., :1], kind, 2, seed=0)
        assert gray.shape == (3, 32, 32, 1) and not np.array_equal(gray, BATCH[..., :1])


def test_every_corruption_is_made_or_known_not_to_be() -> None:
    assert {*corruptions.CORRUPTIONS, *NOT_MADE} == {*BENCHMARK, *ADDITIONAL}
    assert not {*corruptions.CORRUPTIONS} & {*NOT_MADE}


# --- the archive ----------------------------------------------------------------------------------------------


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Two corruptions of the 30 tiny test images: 10 and 20 levels darker for each severity."""
    test = tiny.dataset().test
    images = test.images.permute(0, 2, 3, 1).numpy().astype(int)
    folder = tmp_path / "TINY-C"
    folder.mkdir()
    np.save(folder / "labels.npy", np.tile(test.labels.numpy(), 5).astype(np.uint8))
    for kind, step in (("fog", 10), ("frost", 20)):
        dark = [np.clip(images - step * severity, 0, 255) for severity in range(1, 6)]
        np.save(folder / f"{kind}.npy", np.concatenate(dark).astype(np.uint8))
    return folder


def test_an_archive_is_read_by_corruption_and_severity(archive: Path) -> None:
    test = tiny.dataset().test
    given = {"path": str(archive), "kinds": ["fog", "frost"], "images": 20}
    images = CorruptedImages(CorruptionsConfig.model_validate(given), test)
    found = list(images.batches("frost", 3, 8))
    assert [len(labels) for _, labels in found] == [8, 8, 4]
    assert torch.equal(torch.cat([labels for _, labels in found]), test.labels[:20])
    assert torch.equal(torch.cat([x for x, _ in found]).int(), (test.images[:20].int() - 60).clamp(0))


def damaged(archive: Path, change: str) -> None:
    if change == "labels":
        np.save(archive / "labels.npy", np.roll(np.load(archive / "labels.npy"), 1))
    if change == "shape":
        np.save(archive / "fog.npy", np.load(archive / "fog.npy")[:-1])
    if change == "missing":
        (archive / "fog.npy").unlink()
    if change == "pickle":
        np.save(archive / "fog.npy", np.array([{}], dtype=object))
    if change == "text":
        (archive / "fog.npy").write_bytes(b"<html>")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("labels", "labels.npy: not the labels of these 30 test images, five times over"),
        ("shape", "fog.npy: uint8 of shape 149 x 8 x 8 x 1, not bytes of shape 150 x 8 x 8 x 1"),
        ("missing", "fog.npy: no such file; corruptions.path names an unpacked CIFAR-10-C"),
        ("pickle", "fog.npy: damaged, or not an .npy file"),
        ("text", "fog.npy: damaged, or not an .npy file"),
    ],
)
def test_an_archive_of_something_else_is_refused(change: str, message: str, archive: Path) -> None:
    damaged(archive, change)
    with pytest.raises(DataError, match=message):
        config = CorruptionsConfig(path=str(archive), kinds=("fog",))
        list(CorruptedImages(config, tiny.dataset().test).batches("fog", 1, 9))


# --- the config -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"corruptions": {"kinds": ["fogg"]}}, "corruptions.kinds: unknown corruption 'fogg': did you mean 'fog'"),
        ({"corruptions": {"kinds": ["fog"]}}, "corruptions.kinds: 'fog' cannot be made from test images: name the"),
        ({"corruptions": {"severities": [0]}}, "corruptions.severities.0: .*greater than or equal to 1"),
        ({"corruptions": {"severities": [1, 1]}}, "names one twice"),
        ({"corruptions": {"reference": "dynta"}}, "unknown run 'dynta': did you mean 'dynat'"),
        ({"corruptions": {"reference": "at"}, "select": ["dynat"]}, "corruptions.reference: .*has to be selected too"),
        ({"corruptions": {"path": "x"}, "dataset": {"classes": ["1", "2"]}}, "corruptions.path: the archive holds all"),
        ({"corruptions": {"path": "{x}"}}, "corruptions.path: .*braces"),
    ],
)
def test_impossible_settings_are_refused(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(params)


def test_a_missing_file_is_reported_before_any_job(archive: Path) -> None:
    experiment = load({"corruptions": {"path": str(archive)}})
    with pytest.raises(UserError, match=r"gaussian_noise.npy: no such file of corrupted images"):
        preflight.check_corruption_archive(experiment)


def test_the_reference_is_no_reason_to_evaluate_again() -> None:
    one, two = (load({"corruptions": more}) for more in ({}, {"reference": "at"}))
    assert one.corrupted("at") == two.corrupted("at") and one != two
    assert one.corrupted("at").corruptions.chosen == tuple(kind for kind in BENCHMARK if kind not in NOT_MADE)
    with pytest.raises(ConfigError, match="this experiment has none"):
        load({}).corrupted("at")


# --- the job --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Paths:
    """A trained run on the tiny data set."""
    paths = tiny.paths_in(tmp_path_factory.mktemp("project"))
    data.save(tiny.dataset(), paths.dataset("tiny"))
    run_training(tiny.training_spec(tiny.run(epochs=2)), seed=0, paths=paths, say=lambda text: None)
    return paths


def spec(**settings: Any) -> CorruptionsSpec:
    config = CorruptionsConfig.model_validate(
        {"kinds": ["gaussian_noise", "contrast"], "severities": [1, 5], **settings}
    )
    return CorruptionsSpec(preset="tests", name="some-run", data="tiny", seeds=(0,), corruptions=config)


def test_counts_are_those_of_a_loop_over_images(project: Paths) -> None:
    said: list[str] = []
    job.run_corruptions(spec(), paths=project, say=said.append)
    found = read_corruptions(project.run_files("tests", "some-run"))
    from dynat.jobs.evaluation import load_target

    network, test = load_target(project.seed_files("tests", "some-run", 0))[0].eval(), tiny.dataset().test
    for kind in ("gaussian_noise", "contrast"):
        for severity in (1, 5):
            right = 0
            for number, image in enumerate(test.images.permute(0, 2, 3, 1).numpy()):
                bad = corruptions.corrupt(image[None], kind, severity, seed=0, first=number)
                logits = network(torch.from_numpy(bad).permute(0, 3, 1, 2) / 255)
                right += int(logits.argmax() == test.labels[number])
            assert found.accuracy.loc[kind, severity] == right / 30
    assert said[-1].startswith(f"some-run corruptions: mean accuracy {100 * found.mean:.1f} % under 2 corruptions")
    assert found.record.made and found.record.images == 30 and len(found.record.digests) == 2


def test_an_interrupted_evaluation_resumes_with_the_same_counts(
    project: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    job.run_corruptions(spec(), paths=project, say=lambda text: None)
    file = project.run_files("tests", "some-run").corruptions
    whole = file.read_bytes()
    count, original = [], CorruptedImages.batches

    def batches(self: CorruptedImages, kind: str, severity: int, size: int) -> Any:
        count.append(kind)
        if kind == "contrast" and len(count) == 3:
            raise Killed
        return original(self, kind, severity, size)

    monkeypatch.setattr(CorruptedImages, "batches", batches)
    with pytest.raises(Killed):
        job.run_corruptions(spec(), paths=project, say=lambda text: None)
    job.run_corruptions(spec(), paths=project, say=lambda text: None)
    assert count == ["gaussian_noise", "gaussian_noise", "contrast", "contrast", "contrast"]
    assert file.read_bytes() == whole
    assert not list((project.state / "corruptions").iterdir())


def test_a_repaired_archive_is_not_mixed_with_the_damaged_one(
    project: Paths, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    test = tiny.dataset().test
    folder = tmp_path / "Tiny-C"
    folder.mkdir()
    np.save(folder / "labels.npy", np.tile(test.labels.numpy(), 5))
    images = np.tile(test.images.permute(0, 2, 3, 1).numpy(), (5, 1, 1, 1))
    for kind in ("contrast", "fog"):
        np.save(folder / f"{kind}.npy", images)
    settings = spec(kinds=["contrast", "fog"], severities=[1], path=str(folder))
    job.run_corruptions(settings, paths=project, say=lambda text: None)
    expected = read_corruptions(project.run_files("tests", "some-run")).accuracy

    np.save(folder / "contrast.npy", np.zeros_like(images))
    original = CorruptedImages.batches

    def batches(self: CorruptedImages, kind: str, severity: int, size: int) -> Any:
        if kind == "fog":
            raise Killed
        return original(self, kind, severity, size)

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(CorruptedImages, "batches", batches)
        job.run_corruptions(settings, paths=project, say=lambda text: None)
    np.save(folder / "contrast.npy", images)
    job.run_corruptions(settings, paths=project, say=lambda text: None)
    assert read_corruptions(project.run_files("tests", "some-run")).accuracy.equals(expected)


def test_gray_images_have_no_saturation(project: Paths) -> None:
    with pytest.raises(DataError, match=r"corruptions.kinds: 'saturate' cannot be made of gray images"):
        job.run_corruptions(spec(kinds=["saturate"]), paths=project, say=lambda text: None)


# --- means, table and figure ----------------------------------------------------------------------------------


def results(folder: Path, **settings: Any) -> tuple[ExperimentFiles, Experiment]:
    """Two runs, one wrong twice as often as the other at severity 1 and as often at severity 5."""
    settings = {"kinds": ["contrast", "pixelate"], "severities": [1, 5], **settings}
    experiment = load({"select": ["at", "dynat"], "corruptions": settings, "seeds": [0, 1]})
    files = ExperimentFiles(folder)
    for name, wrong in (("at", (10, 40)), ("dynat", (20, 40))):
        record = CorruptionsRecord(
            run=name,
            seeds=(0, 1),
            corruptions=experiment.corrupted(name).corruptions,
            made=True,
            images=100,
            digests={},
            seconds=1.0,
            device="CPU",
        )
        counts = {
            (seed, kind, severity): 100 - error - (5 if kind == "pixelate" else 0)
            for seed in (0, 1)
            for kind in ("contrast", "pixelate")
            for severity, error in zip((1, 5), wrong, strict=True)
        }
        write_corruptions(files.run(name), record, counts)
    return files, experiment


def test_the_mean_corruption_error_is_its_definition(tmp_path: Path) -> None:
    files, experiment = results(tmp_path)
    at, dynat = report.read_all(files, experiment).values()
    assert dynat.by_corruption == pytest.approx({"contrast": 0.7, "pixelate": 0.65})
    assert dynat.by_severity == pytest.approx({1: 0.775, 5: 0.575})
    assert dynat.mean_corruption_error() == pytest.approx(1 - 0.675)
    assert dynat.mean_corruption_error(at) == pytest.approx((60 / 50 + 70 / 60) / 2)
    assert at.mean_corruption_error(at) == pytest.approx(1)


def test_there_is_no_error_relative_to_a_network_without_errors(tmp_path: Path) -> None:
    """Not infinity, and not the mean over the other corruptions."""
    files, experiment = results(tmp_path, reference="at")
    read = dict(report.read_all(files, experiment))
    perfect = read["at"].accuracy.copy()
    perfect.loc["contrast"] = 1.0
    read["at"] = replace(read["at"], accuracy=perfect)
    text = report.to_markdown(read, experiment)
    for run in ("at", "dynat"):
        row = next(line for line in text.splitlines() if line.startswith(f"| `{run}`"))
        assert row.split("|")[3].strip() == "–"
    assert "`at` makes no error under contrast" in text


@pytest.mark.parametrize("reference", [None, "at"])
def test_the_table_says_what_its_error_is_relative_to(reference: str | None, tmp_path: Path) -> None:
    files, experiment = results(tmp_path, reference=reference)
    text = report.to_markdown(report.read_all(files, experiment), experiment)
    row = next(line for line in text.splitlines() if "`dynat`" in line)
    assert [cell.strip() for cell in row.split("|")[2:-1]] == ["67.5", "118.3" if reference else "32.5", "70.0", "65.0"]
    assert ("mCE relative to `at`" in text) == (reference is not None)
    assert ("not relative to a reference network" in text) == (reference is None)
    assert "made from the test images; compare them with each other" in text and "100 test images" in text


def test_the_csv_is_not_rounded_and_the_figure_names_every_corruption(tmp_path: Path) -> None:
    files, experiment = results(tmp_path)
    accuracies = report.read_all(files, experiment)
    assert "dynat,pixelate,5,0.55,100,2" in report.to_csv(accuracies).splitlines()
    drawn = report.figure(experiment, accuracies, ["at", "dynat"])
    assert drawn is not None
    shown = [text.get_text() for axes in drawn.figure.axes for text in axes.get_yticklabels()]
    assert "contrast" in shown and "pixelate" in shown and "n = 100" in str(drawn.figure.texts)
    assert report.figure(experiment, accuracies, []) is None


def test_no_text_of_the_figure_covers_another(tmp_path: Path) -> None:
    files, experiment = results(tmp_path)
    found = report.read_all(files, experiment)["at"]
    names = [f"a-run-with-quite-a-long-name-{number}" for number in range(12)]
    many = experiment.model_copy(update={"runs": dict.fromkeys(names, experiment.runs["at"])})
    for shown in (names, names[:1]):
        with rc_context(plotting.STYLE):
            drawn = report.figure(many, dict.fromkeys(names, found), shown)
        assert drawn is not None
        assert_no_text_covers_another(drawn.figure, "corruptions")


def test_counts_that_were_changed_are_refused(tmp_path: Path) -> None:
    files, experiment = results(tmp_path)
    file = files.run("at").corruptions
    file.write_text(file.read_text().replace("90", "91"))
    with pytest.raises(UserError, match=r"corruptions.csv: cut or changed"):
        report.read_all(files, experiment)
    content = json.loads(files.run("at").corruptions_record.read_text())
    assert content["corruptions"]["severities"] == [1, 5]


def test_a_network_in_training_mode_is_evaluated_in_evaluation_mode() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.Dropout(0.9))
    images = CorruptedImages(spec().corruptions, tiny.dataset().test)
    counts = [job._counts({0: network}, images, "contrast", (1,), torch.device("cpu"))[0] for _ in range(2)]
    assert counts[0] == counts[1] and network.training
