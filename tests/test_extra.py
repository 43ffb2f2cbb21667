"""Extra images: what a file must hold, which ones a batch takes, who labels them, and what does not change."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dynat import data, prepared
from dynat.config import ConfigError, ExtraImagesConfig, ExtraSpec, Run, load
from dynat.data import DataError, extra, npz
from dynat.jobs import preflight
from dynat.jobs.training import run_training
from dynat.nn.losses import cross_entropy
from dynat.report.model_card import _about_extra
from dynat.results.records import TrainingRecord, read_record
from dynat.runtime.errors import UserError
from dynat.training import TrainingState, train
from dynat.training.step import training_step
from dynat.training.trainer import Trainer
from tests import tiny
from tests.helpers import Killed

CPU = torch.device("cpu")


def example_images(count: int = 40, seed: int = 9) -> tuple[Any, Any]:
    """Images N x H x W x C and labels in the form of a published file."""
    made = tiny.images(count // tiny.CLASSES, seed=seed)
    return made.images.permute(0, 2, 3, 1).numpy(), made.labels.numpy()


def saved(folder: Path, writer: Callable[..., None] = np.savez, name: str = "more.npz", **arrays: Any) -> Path:
    """A file of extra images beside the prepared tiny data set."""
    data.save(tiny.dataset(), folder / "data" / "tiny")
    writer(folder / name, **arrays)
    return folder / name


def prepare(file: Path) -> extra.ExtraImages:
    spec = ExtraSpec(data="tiny", images=ExtraImagesConfig(path=str(file), ratio=0.5))
    return extra.load(extra.prepare(spec, file.parent / "data").parent)


def made(folder: Path, **changes: Any) -> extra.ExtraImages:
    images, labels = example_images()
    return prepare(saved(folder, **{"image": images, "label": labels, **changes}))


# --- the file -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("writer", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("names", [("image", "label"), ("data", "extrapolated_targets")])
def test_both_published_forms_are_read_stored_or_compressed(
    writer: Callable[..., None], names: tuple[str, str], tmp_path: Path
) -> None:
    images, labels = example_images()
    arrays: dict[str, Any] = dict(zip(names, (images, labels.astype(np.int32)), strict=True))
    file = saved(tmp_path, writer, **arrays)
    found = prepare(file)
    assert isinstance(found.images, np.memmap), "not in memory"
    assert np.array_equal(found.images, images) and np.array_equal(found.labels, labels)
    assert found.info.images == 40 and found.info.per_class == (8,) * 5 and found.info.unlabeled == 0
    unpacked = sorted(path.name for path in (tmp_path / "data/tiny/extra").rglob("*.npy"))
    assert unpacked == ([] if writer is np.savez else sorted(f"{name}.npy" for name in names))
    chosen = found.take(torch.tensor([3, 3, 39]))
    assert torch.equal(chosen.images, torch.from_numpy(images[[3, 3, 39]]).permute(0, 3, 1, 2))
    assert chosen.labels.tolist() == labels[[3, 3, 39]].tolist() and chosen.labels.dtype == torch.int64


def test_an_array_in_fortran_order_is_read_as_it_is(tmp_path: Path) -> None:
    images, _ = example_images()
    assert np.array_equal(made(tmp_path, image=np.asfortranarray(images)).images, images)


def test_every_array_of_an_archive_is_mapped_where_it_lies(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    arrays: dict[str, Any] = {
        "a": random.integers(9, size=(3, 5)),
        "b" * 40: random.random(7),
        "c": np.zeros((0, 4), np.uint8),
    }
    saved(tmp_path, name="some.npz", **arrays)
    found = npz.arrays(tmp_path / "some.npz")
    for name, array in arrays.items():
        assert np.array_equal(npz.mapped(tmp_path / "some.npz", found[name]), array)
        assert np.array_equal(npz.read(tmp_path / "some.npz", found[name]), array)


class Evil:
    """Something whose unpickling has a consequence."""

    def __reduce__(self) -> Any:
        return (os.mkdir, ("unpickled",))


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "reals": ({"image": example_images()[0] / 255}, r"images are float64, not bytes .*\(255 \* image\).round"),
    "zeros-and-ones": ({"image": example_images()[0] // 128}, "pixels are 0 or 1: were images in .0,1. saved as bytes"),
    "size": ({"image": np.full((40, 9, 8, 1), 7, np.uint8)}, "are 40 x 9 x 8 x 1, and tiny needs N x 8 x 8 x 1"),
    "channels-first": ({"image": np.full((40, 3, 8, 8), 7, np.uint8)}, "N x 8 x 8 x 1 .height, width, channels"),
    "empty": ({"image": example_images()[0][:0], "label": example_images()[1][:0]}, "has no images"),
    "class": ({"label": example_images()[1] + 1}, "labels are from 1 to 5, and tiny has 5 classes, 0 to 4"),
    "below": ({"label": example_images()[1] - 2}, r"labels are from -2 to 2, .*\(-1: no label\)"),
    "count": ({"label": example_images()[1][:39]}, "40 images, but labels are int64 of shape 39"),
    "one-hot": ({"label": np.eye(5)[example_images()[1]]}, "labels are float64 of shape 40 x 5, not a whole number"),
    "objects": ({"label": np.array([Evil()] * 40, dtype=object)}, "'label' holds Python objects, which are not read"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_file_that_does_not_fit_is_refused(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    changes, message = REFUSED[case]
    with pytest.raises(DataError, match=message):
        made(tmp_path, **changes)
    assert not list((tmp_path / "data").rglob("extra/*/info.json")) and not (tmp_path / "unpickled").exists()


def test_a_file_without_the_arrays_is_refused_with_their_names(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no array 'image' .with 'label'. or 'data' .*, only: x, y"):
        prepare(saved(tmp_path, x=example_images()[0], y=example_images()[1]))


@pytest.mark.parametrize("content", ["pickle", "text", "cut", "flipped"])
def test_a_damaged_or_other_file_is_refused(content: str, tmp_path: Path) -> None:
    images, labels = example_images()
    file = saved(tmp_path, image=images, label=labels)
    whole = bytearray(file.read_bytes())
    if content == "flipped":
        whole[len(whole) // 2] ^= 1
    pickled = pickle.dumps({"data": images})
    other = {"pickle": pickled, "text": b"<html>", "cut": bytes(whole[:-30]), "flipped": bytes(whole)}
    file.write_bytes(other[content])
    with pytest.raises(DataError, match=r"more.npz: damaged, or not an .npz file"):
        prepare(file)


def test_a_file_that_changed_after_its_check_is_refused_and_a_new_date_is_not(tmp_path: Path) -> None:
    images, labels = example_images()
    file = saved(tmp_path, image=images, label=labels)
    folder = (tmp_path / "data/tiny/extra") / ExtraImagesConfig(path=str(file), ratio=0.5).name
    digest = prepare(file).info.sha256
    os.utime(file, (1, 1))
    assert extra.load(folder).info.sha256 == digest
    np.savez(file, image=images[::-1], label=labels)
    with pytest.raises(DataError, match="is not the file that was checked, it has changed; check it again"):
        extra.load(folder)
    assert prepare(file).info.sha256 != digest
    assert len(np.load(file)["label"]) == 40, "nothing is written into the user's file"


def test_test_images_among_the_extra_ones_and_absent_classes_are_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, labels = example_images()
    test = tiny.dataset().test.images.permute(0, 2, 3, 1).numpy()
    images = np.concatenate([images[labels != 2], test[:3]])
    found = made(tmp_path, image=images, label=np.concatenate([labels[labels != 2], [0, 0, 0]]))
    assert found.info.test_images == 3
    printed = capsys.readouterr().err
    assert "3 of 35 extra images are test images of tiny, pixel for pixel" in printed
    assert "no image has the label c" in printed


def test_a_stored_array_in_an_archive_with_long_headers(tmp_path: Path) -> None:
    """`numpy.savez` writes ZIP64 fields before the bytes; other programs write none, and put other files between."""
    images, labels = example_images()
    np.save(tmp_path / "image.npy", images)
    np.save(tmp_path / "label.npy", labels)
    file = saved(tmp_path, image=images)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("README.txt", "x" * 1001)
        for name in ("label", "image"):
            archive.write(tmp_path / f"{name}.npy", f"{name}.npy")
    assert np.array_equal(prepare(file).images, images)


# --- batches --------------------------------------------------------------------------------------------------


def with_extra(run: Run, ratio: float = 0.5, labels: str = "file") -> Run:
    return Run.model_validate({**run.model_dump(), "extra": {"ratio": ratio, "labels": labels}})


def batches_of(run: Run, images: extra.ExtraImages | None, epoch: int = 0) -> list[tuple[Tensor, Tensor]]:
    """The batches of an epoch before augmentation and PGD."""
    seen: list[tuple[Tensor, Tensor]] = []
    plain = run.model_copy(update={"augmentation": run.augmentation.model_copy(update={"padding": 0, "flip": False})})
    trainer = Trainer(plain, tiny.THREAT, tiny.without_test_images(), seed=0, device=CPU, extra=images)
    trainer.finished = epoch

    def step(pixels: Tensor, truth: Tensor) -> dict[str, Tensor]:
        seen.append(((pixels * 255).round().to(torch.uint8), truth))
        return {"loss": torch.zeros(())}

    trainer.step = step  # type: ignore[method-assign]
    trainer.epoch()
    return seen


@pytest.mark.parametrize(("ratio", "count"), [(0.5, 8), (0.7, 11), (0.95, 15), (0.04, 1)])
def test_a_batch_holds_the_share_of_extra_images_and_the_original_order(
    ratio: float, count: int, tmp_path: Path
) -> None:
    images = made(tmp_path)
    plain, mixed = batches_of(tiny.run(), None), batches_of(with_extra(tiny.run(), ratio), images)
    assert len(mixed) == len(plain) == 3, "an epoch has as many steps as without extra images"
    known = {image.tobytes(): label for image, label in zip(images.images, images.labels, strict=True)}
    for (pixels, truth), (original, labels) in zip(mixed, plain, strict=True):
        kept = 16 - count
        assert torch.equal(pixels[:kept], original[:kept]) and torch.equal(truth[:kept], labels[:kept])
        for image, label in zip(pixels[kept:].permute(0, 2, 3, 1).numpy(), truth[kept:].tolist(), strict=True):
            assert known[image.tobytes()] == label


def test_every_epoch_draws_other_extra_images_and_reaches_all_of_them(tmp_path: Path) -> None:
    images, run = made(tmp_path), with_extra(tiny.run())
    seen = [{image.numpy().tobytes() for pixels, _ in batches_of(run, images, n) for image in pixels[8:]}
            for n in range(12)]  # fmt: skip
    assert seen[0] != seen[1] and len(set.union(*seen)) == 40


@pytest.mark.parametrize("name", ["at", "dynat", "unlabeled"])
def test_a_killed_training_resumes_with_the_same_bits(name: str, tmp_path: Path) -> None:
    images = made(tmp_path)
    run = {
        "at": with_extra(tiny.run()),
        "dynat": with_extra(tiny.dynat()),
        "unlabeled": with_extra(tiny.dynat(), labels="guide"),
    }[name]

    def trained(folder: Path, **hooks: Any) -> Any:
        state = TrainingState(folder)
        return train(
            run, tiny.THREAT, tiny.without_test_images(), seed=0, device=CPU, extra=images, state=state, **hooks
        )

    def kill(_: object) -> None:
        raise Killed

    whole = trained(tmp_path / "whole")
    for _ in range(run.epochs):
        with pytest.raises(Killed):
            trained(tmp_path / "torn", report=kill)
    torn = trained(tmp_path / "torn")
    assert all(torch.equal(whole.target[key], torn.target[key]) for key in whole.target)
    for one, two in zip(whole.history, torn.history, strict=True):
        assert {**one, "seconds": 0} == {**two, "seconds": 0}


def test_extra_images_change_neither_the_data_set_nor_what_is_held_out(tmp_path: Path) -> None:
    before = tiny.dataset().digest
    made(tmp_path)
    assert data.load(tmp_path / "data/tiny").digest == before
    specs = [load({"dataset": {"extra": more}}).dataset for more in (None, {"path": "a.npz", "ratio": 0.5})]
    first, second = (spec.model_dump_json(exclude={"extra"}) for spec in specs)
    assert first == second, "the job that prepares the images does not run again"


# --- labels ---------------------------------------------------------------------------------------------------


def test_the_guide_learns_from_labeled_images_and_labels_the_others() -> None:
    """Against the loss written out for each image."""
    run = with_extra(tiny.dynat(inner={"eps": 0.05, "step_size": 0.02, "steps": 1}))
    trainer = Trainer(run, tiny.THREAT, tiny.dataset(), seed=0, device=CPU, extra=NO_IMAGES)
    batch = tiny.images(4, seed=3)
    truth = torch.where(torch.arange(20) % 3 == 0, -1, batch.labels)
    pixels, networks = data.to_pixels(batch.images), trainer.networks
    networks.train()
    updates: list[Tensor] = []
    values = training_step(networks, trainer.method, run, pixels, truth, pixels, progress=0.0, update=updates.append)
    logits = networks.guide(pixels) if networks.guide else pixels
    losses = [cross_entropy(logits[i : i + 1], truth[i : i + 1]).item() for i in range(20) if truth[i] >= 0]
    right = [float(logits[i].argmax() == truth[i]) for i in range(20) if truth[i] >= 0]
    assert values["loss_guide"].item() == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    assert values["label_accuracy"].item() == pytest.approx(sum(right) / len(right))
    assert torch.isfinite(updates[0])


NO_IMAGES = extra.ExtraImages(
    np.zeros((1, 8, 8, 1), np.uint8),
    np.zeros(1, np.int64),
    prepared.ExtraInfo(
        format=1, path="x.npz", images=1, unlabeled=0, per_class=(1, 0, 0, 0, 0), test_images=0, sha256="0"
    ),
)


def test_with_a_label_for_every_image_the_step_is_the_usual_one() -> None:
    """Bit for bit, for every method: whether a run has extra images changes nothing for labeled ones."""
    for run in (tiny.dynat(), tiny.run(method="lbgat", guide="small", consistency=1.0)):
        traces = []
        for used in (run, with_extra(run)):
            trainer = Trainer(used, tiny.THREAT, tiny.dataset(), seed=0, device=CPU, extra=NO_IMAGES)
            trainer.begin_epoch()
            traces.append([trainer.step(data.to_pixels(x), y)["loss"].item() for x, y in tiny.images(9, 1).batches(15)])
        assert traces[0] == traces[1]


def test_a_guide_alone_labels_extra_images_where_the_run_says_so(tmp_path: Path) -> None:
    images = made(tmp_path)
    mixed = batches_of(with_extra(tiny.dynat(), labels="guide"), images)
    assert all((truth[8:] == -1).all() and (truth[:8] >= 0).all() for _, truth in mixed)


@pytest.mark.parametrize("awp", [None, {"gamma": 0.01, "warm_up": 0.0, "proxy": "trades"}])
@pytest.mark.parametrize("objective", ["method", "ce-true"])
def test_unlabeled_images_train_with_every_setting_that_reads_true_labels(
    awp: Any, objective: str, tmp_path: Path
) -> None:
    inner = {"eps": 0.05, "step_size": 0.02, "steps": 1, "objective": objective}
    run = with_extra(tiny.dynat(epochs=1, awp=awp, inner=inner), labels="guide")
    result = train(run, tiny.THREAT, tiny.without_test_images(), seed=0, device=CPU, extra=made(tmp_path))
    assert np.isfinite(result.history[0]["loss"])


@pytest.mark.parametrize("form", ["absent", "some"])
def test_images_without_a_label_need_dynamic_labels(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = example_images()
    arrays = {"image": images} if form == "absent" else {"image": images, "label": np.where(labels == 0, -1, labels)}
    file = saved(tmp_path, **arrays)
    unlabeled = prepare(file).info.unlabeled
    assert unlabeled == (40 if form == "absent" else 8)
    name, paths = ExtraImagesConfig(path=str(file), ratio=0.5).name, tiny.paths_in(tmp_path)
    spec = tiny.training_spec(with_extra(tiny.run())).model_copy(update={"extra": name})
    with pytest.raises(
        UserError, match=rf"runs.some-run: trains on true labels, and {unlabeled} of 40 images .*labels: dynamic"
    ):
        run_training(spec, seed=0, paths=paths, say=lambda text: None)
    monkeypatch.chdir(Path(__file__).parents[1])
    config = {"name": "tiny", "extra": {"path": str(file), "ratio": 0.5}}
    experiment = load({"preset": "digits", "dataset": config, "select": ["at", "dynat"]})
    with pytest.raises(UserError, match=r"runs.at: trains on true labels"):
        preflight.check_extra_images(experiment, paths)
    preflight.check_extra_images(experiment.model_copy(update={"runs": {"dynat": experiment.runs["dynat"]}}), paths)


# --- the job and its record -----------------------------------------------------------------------------------


def test_a_training_records_its_extra_images_and_depends_on_them(tmp_path: Path) -> None:
    images, labels = example_images()
    file = saved(tmp_path, image=images, label=labels)
    digest = prepare(file).info.sha256
    spec = tiny.training_spec(with_extra(tiny.run(epochs=1)))
    spec = spec.model_copy(update={"extra": ExtraImagesConfig(path=str(file), ratio=0.5).name})
    paths, said = tiny.paths_in(tmp_path), list[str]()
    record = read_record(run_training(spec, seed=0, paths=paths, say=said.append) / "config.json", TrainingRecord)
    assert record.dataset.extra is not None and record.dataset.extra.digest == digest
    assert any("8 of 16 images of a batch are from" in text for text in said)
    (text,) = _about_extra(record.config, record.dataset)
    assert text.startswith(
        "Extra images: 8 of the 16 images of every batch are from more.npz, 40 images, with the labels"
    )
    np.savez(file, image=images[::-1], label=labels[::-1])
    prepare(file)
    again = read_record(run_training(spec, seed=0, paths=paths, say=said.append) / "config.json", TrainingRecord)
    assert again.digest != record.digest


# --- the config -----------------------------------------------------------------------------------------------

EXTRA = {"path": "a.npz", "ratio": 0.5}


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"dataset": {"extra": {"path": "a.pickle", "ratio": 0.5}}}, "is not an .npz file; see docs/extra-images.md"),
        ({"dataset": {"extra": {**EXTRA, "labels": "guide"}}}, "runs.natural: extra.labels: guide is for labels: dyn"),
        ({"dataset": {"extra": {**EXTRA, "ratio": 1}}}, "dataset.extra.ratio: .*less than 1"),
        ({"dataset": {"extra": {**EXTRA, "ratio": 0.001}}}, "0.001 of a batch of 64 is 0 images"),
        ({"dataset": {"extra": {**EXTRA, "path": "a{b}.npz"}}}, "dataset.extra.path: .*Snakemake reads braces"),
        ({"runs": {"at": {"extra": {"ratio": 0.5}}}}, "runs.at.extra: there are no extra images: set dataset.extra"),
        ({"dataset": {"extra": EXTRA}, "runs": {"at": {"extra": {"ratoi": 0.5}}}}, "did you mean 'ratio'"),
    ],
)
def test_impossible_settings_are_refused(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(params)


def test_a_run_changes_the_use_of_extra_images_or_does_without() -> None:
    rows = {"at": {"extra": {"ratio": 0}}, "dynat": {"extra": {"labels": "guide"}}}
    plain, experiment = load({}), load({"dataset": {"extra": EXTRA}, "runs": rows})
    assert experiment.training("at") == plain.training("at"), "nothing of it changes"
    dynat, trades = experiment.runs["dynat"].extra, experiment.runs["trades"].extra
    assert dynat is not None and (dynat.ratio, dynat.labels) == (0.5, "guide")
    assert trades is not None and (trades.ratio, trades.labels) == (0.5, "file")
    assert experiment.training("trades").extra == ExtraImagesConfig.model_validate(EXTRA).name
    for name in experiment.runs:
        spec = experiment.training(name)
        assert type(spec).model_validate_json(spec.model_dump_json()) == spec, "as a rule passes it to its job"
