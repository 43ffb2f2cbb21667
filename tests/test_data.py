"""Every source becomes the same kind of data set with fixed splits, and is read from disk as it was written."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from dynat.config import DatasetConfig
from dynat.data import DataError, Dataset, LabeledImages, augment, load, prepare, save, split, to_pixels
from dynat.data.augmentation import crop
from dynat.data.images import stratified
from dynat.jobs.preflight import check_prepared_data
from dynat.runtime.errors import UserError


def image_set(count: int, *, seed: int = 0, classes: int = 3) -> LabeledImages:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (count, 3, 4, 5), dtype=torch.uint8, generator=generator)
    return LabeledImages(images, torch.arange(count) % classes)


def dataset(seed: int = 0) -> Dataset:
    return Dataset.from_splits(
        name="tiny",
        classes=("a", "b", "c"),
        origin={"source": "folder", "split_seed": 0},
        train=image_set(9, seed=seed),
        validation=image_set(3, seed=seed + 1),
        test=image_set(6, seed=seed + 2),
    )


@pytest.mark.parametrize("count", [3, 4, 9])
def test_a_chosen_number_of_training_images_holds_every_class_in_equal_shares(count: int) -> None:
    whole = dataset()
    chosen = whole.with_train_images(count, seed=0)
    per_class = torch.bincount(chosen.train.labels, minlength=3)
    assert len(chosen.train) == count
    assert per_class.max() - per_class.min() <= 1
    known = {
        image.numpy().tobytes(): label for image, label in zip(whole.train.images, whole.train.labels, strict=True)
    }
    assert len({image.numpy().tobytes() for image in chosen.train.images}) == count, "no image twice"
    for image, label in zip(chosen.train.images, chosen.train.labels, strict=True):
        assert known[image.numpy().tobytes()] == label
    assert torch.equal(chosen.validation.images, whole.validation.images)
    assert torch.equal(chosen.test.images, whole.test.images)
    assert chosen.origin["train_images"] == count
    assert chosen.digest != whole.digest or count == 9
    assert torch.equal(whole.with_train_images(count, seed=0).train.images, chosen.train.images)


@pytest.mark.parametrize(
    ("count", "reason"),
    [(10, "dataset.train_images: 10, and tiny has 9 training images"), (2, "2 are too few: class '.' has none")],
)
def test_an_impossible_number_of_training_images_is_refused(count: int, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        dataset().with_train_images(count, seed=0)


def test_the_number_of_training_images_is_a_setting_of_every_source(tmp_path: Path) -> None:
    config = DatasetConfig(name="digits-100", source="digits", validation=0.1, train_images=100)
    saved = load(prepare(config, tmp_path))
    assert len(saved.train) == 100
    assert torch.bincount(saved.train.labels).tolist() == [10] * 10
    assert saved.origin["train_images"] == 100


# --- images and pixels ---


def test_pixels_are_in_the_unit_interval() -> None:
    levels = to_pixels(torch.tensor([0, 51, 255], dtype=torch.uint8))
    assert levels.dtype == torch.float32
    assert levels.tolist() == [0.0, pytest.approx(0.2), 1.0]


@pytest.mark.parametrize("order", [None, torch.tensor([4, 0, 3, 1, 6, 2, 5]), torch.tensor([6, 6, 1])])
@pytest.mark.parametrize("size", [1, 3, 7, 100])
def test_batches_are_the_images_in_order(order: Tensor | None, size: int) -> None:
    some = image_set(7)
    batches = list(some.batches(size, order))
    expected = some if order is None else some[order]
    assert torch.equal(torch.cat([images for images, _ in batches]), expected.images)
    assert torch.equal(torch.cat([labels for _, labels in batches]), expected.labels)
    assert all(len(labels) == size for _, labels in batches[:-1])


def test_first_is_at_most_all_images() -> None:
    some = image_set(7)
    assert torch.equal(some.first(2).images, some.images[:2])
    assert [len(some.first(count)) for count in (2, 7, 100)] == [2, 7, 7]


# Splits


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(2, 40), min_size=1, max_size=5),
    share=st.floats(0.01, 0.49),
    seed=st.integers(0, 2**32),
    shuffle=st.randoms(use_true_random=False),
)
def test_a_split_is_stratified_and_complete(counts: list[int], share: float, seed: int, shuffle: Any) -> None:
    flat = [label for label, count in enumerate(counts) for _ in range(count)]
    shuffle.shuffle(flat)
    labels = torch.tensor(flat)
    kept, held_out = split(labels, share, seed)
    assert sorted(kept.tolist() + held_out.tolist()) == list(range(len(labels)))
    assert kept.tolist() == sorted(kept.tolist()) and held_out.tolist() == sorted(held_out.tolist())
    for label, count in enumerate(counts):
        out = int((labels[held_out] == label).sum())
        assert 1 <= out <= count - 1
        assert abs(out - share * count) <= 1


def test_a_split_depends_on_the_seed_alone() -> None:
    """The literal fails if a change of algorithm or library would change the splits of published results."""
    labels = torch.arange(40) % 2
    torch.manual_seed(1)
    np.random.seed(1)
    first = split(labels, 0.2, 7)
    assert torch.equal(first[1], split(labels, 0.2, 7)[1])
    assert not torch.equal(first[1], split(labels, 0.2, 8)[1])
    assert first[1].tolist() == [6, 20, 21, 23, 24, 32, 37, 39]


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    equal=st.booleans(),
    shuffle=st.randoms(use_true_random=False),
)
def test_every_first_n_of_a_stratified_order_hold_each_class_in_its_share(
    counts: list[int], equal: bool, shuffle: Any
) -> None:
    counts = [counts[0]] * len(counts) if equal else counts
    flat = [label for label, count in enumerate(counts) for _ in range(count)]
    shuffle.shuffle(flat)
    images = torch.arange(len(flat)).to(torch.uint8).view(-1, 1, 1, 1)
    ordered = stratified(LabeledImages(images, torch.tensor(flat)))
    numbers = ordered.images.flatten().tolist()
    assert sorted(numbers) == list(range(len(flat))), "every image once"
    assert ordered.labels.tolist() == [flat[number] for number in numbers]
    share = torch.tensor(counts) / len(flat)
    for n in range(1, len(flat) + 1):
        found = torch.bincount(ordered.labels[:n], minlength=len(counts))
        assert ((found - n * share).abs() <= 0.5 + share * len(counts) / 2 + 1e-4).all()
        assert not equal or found.max() - found.min() <= 1


def test_the_stratified_order_is_fixed() -> None:
    """The literal fails if a change of algorithm or library would change which images "the first n" are."""
    torch.manual_seed(1)
    np.random.seed(1)
    ordered = stratified(LabeledImages(torch.arange(12, dtype=torch.uint8).view(-1, 1, 1, 1), torch.arange(12) // 4))
    assert ordered.images.flatten().tolist() == [11, 3, 6, 2, 8, 7, 1, 4, 10, 0, 5, 9]
    assert ordered.labels.view(4, 3).sort().values.tolist() == [[0, 1, 2]] * 4


def test_a_class_of_one_image_cannot_be_split() -> None:
    with pytest.raises(DataError, match="class 1 has 1 image"):
        split(torch.tensor([0, 0, 1]), 0.1, 0)


# Augmentation


def slow_crop(images: Tensor, padding: int, corner: Tensor, mirrored: Tensor) -> Tensor:
    """The same, one image and one pixel at a time, written as loops."""
    result = torch.zeros_like(images)
    count, channels, height, width = images.shape
    for n in range(count):
        for row in range(height):
            for column in range(width):
                from_row = row + int(corner[n, 0]) - padding
                at = width - 1 - column if mirrored[n] else column
                from_column = at + int(corner[n, 1]) - padding
                if 0 <= from_row < height and 0 <= from_column < width:
                    for channel in range(channels):
                        result[n, channel, row, column] = images[n, channel, from_row, from_column]
    return result


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(1, 4),
    height=st.integers(1, 5),
    width=st.integers(1, 5),
    padding=st.integers(0, 3),
    seed=st.integers(0, 10**6),
)
def test_crop_equals_its_slow_restatement(count: int, height: int, width: int, padding: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(1, 256, (count, 2, height, width), dtype=torch.uint8, generator=generator)
    corner = torch.randint(2 * padding + 1, (count, 2), generator=generator)
    mirrored = torch.randint(2, (count,), generator=generator).bool()
    expected = slow_crop(images, padding, corner, mirrored)
    assert torch.equal(crop(images, padding, corner, mirrored), expected)


def all_crops(image: Tensor, padding: int, flip: bool) -> set[bytes]:
    """Every image that augmentation may make of one image."""
    corners = [(r, c) for r in range(2 * padding + 1) for c in range(2 * padding + 1)]
    mirrors = (False, True) if flip else (False,)
    return {
        slow_crop(image[None], padding, torch.tensor([corner]), torch.tensor([mirror])).numpy().tobytes()
        for corner in corners
        for mirror in mirrors
    }


@pytest.mark.parametrize(("padding", "flip"), [(1, True), (1, False), (0, True)])
def test_augment_gives_every_crop_of_an_image_and_no_other(padding: int, flip: bool) -> None:
    """Images are never mixed, no shift or mirror is impossible, and none is drawn for the whole batch."""
    images = torch.arange(1, 1 + 2 * 3 * 3 * 3, dtype=torch.uint8).view(2, 3, 3, 3)
    generator = torch.Generator().manual_seed(0)
    allowed = [all_crops(image, padding, flip) for image in images]
    seen: list[set[bytes]] = [set(), set()]
    for _ in range(200):
        made = augment(images, padding=padding, flip=flip, generator=generator)
        assert made.shape == images.shape and made.dtype == torch.uint8
        for place, image in enumerate(made):
            seen[place].add(image.numpy().tobytes())
    assert seen == allowed


def test_the_images_of_a_batch_are_augmented_independently() -> None:
    """The same image many times: half of them mirrored, all shifts equally often."""
    images = torch.arange(1, 10, dtype=torch.uint8).view(1, 1, 3, 3).expand(4000, 1, 3, 3)
    made = augment(images, padding=1, flip=True, generator=torch.Generator().manual_seed(0))
    crops, times = torch.unique(made.flatten(1), dim=0, return_counts=True)
    assert len(crops) == 18
    expected = 4000 / 18
    assert (times - expected).abs().max() < 5 * expected**0.5


def test_augment_depends_on_the_generator_alone() -> None:
    images = image_set(16).images
    before = images.clone()
    made = []
    for place, seed in enumerate((0, 0, 1)):
        torch.manual_seed(place)
        generator = torch.Generator().manual_seed(seed)
        made.append(augment(images, padding=2, flip=True, generator=generator))
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])
    assert torch.equal(images, before)


def test_without_padding_and_flip_nothing_changes() -> None:
    images, generator = image_set(3).images, torch.Generator().manual_seed(0)
    state = generator.get_state()
    assert augment(images, padding=0, flip=False, generator=generator) is images
    assert torch.equal(generator.get_state(), state)


# The format on disk


def same_content(left: Dataset, right: Dataset) -> bool:
    return all(
        torch.equal(mine.images, yours.images) and torch.equal(mine.labels, yours.labels)
        for mine, yours in zip(left.splits.values(), right.splits.values(), strict=True)
    )


def test_a_data_set_is_read_as_it_was_written(tmp_path: Path) -> None:
    source = dataset()
    save(source, tmp_path / "tiny")
    loaded = load(tmp_path / "tiny")
    assert same_content(source, loaded)
    assert (loaded.name, loaded.classes, loaded.digest) == ("tiny", ("a", "b", "c"), source.digest)
    assert (loaded.channels, loaded.size, loaded.origin) == (3, (4, 5), source.origin)
    info = json.loads((tmp_path / "tiny" / "info.json").read_text())
    assert info["images"] == {"train": 9, "validation": 3, "test": 6}
    assert info["per_class"]["test"] == [2, 2, 2]


def test_the_digest_depends_on_the_content() -> None:
    source = dataset()
    assert dataset().digest == source.digest
    assert dataset(seed=5).digest != source.digest
    build = partial(Dataset.from_splits, name="tiny", classes=source.classes, origin={})
    other = LabeledImages(source.test.images, source.test.labels.flip(0))
    relabeled = build(train=source.train, validation=source.validation, test=other)
    swapped = build(train=source.test, validation=source.validation, test=source.train)
    assert len({source.digest, relabeled.digest, swapped.digest}) == 3


@pytest.mark.parametrize("missing", ["info.json", "images.safetensors"])
def test_a_missing_data_set(missing: str, tmp_path: Path) -> None:
    save(dataset(), tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(DataError, match=rf"{missing}: no such file; run `dynat data` or `snakemake data` first"):
        load(tmp_path)


@pytest.mark.parametrize("damaged", ["info.json", "images.safetensors"])
def test_a_truncated_data_set(damaged: str, tmp_path: Path) -> None:
    save(dataset(), tmp_path)
    file = tmp_path / damaged
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(DataError, match=r"damaged or cut short.*make it again"):
        load(tmp_path)


def test_files_of_two_data_sets_are_refused(tmp_path: Path) -> None:
    save(dataset(seed=0), tmp_path / "a")
    save(dataset(seed=9), tmp_path / "b")
    (tmp_path / "b" / "info.json").replace(tmp_path / "a" / "info.json")
    with pytest.raises(DataError, match="two different data sets"):
        load(tmp_path / "a")


def change_tensor(file: Path, name: str, change: Any) -> None:
    """Change a tensor of a safetensors file; its notes, with the digest of the original, stay."""
    with safe_open(file, framework="pt") as opened:
        notes, tensors = opened.metadata(), {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    tensors[name] = change(tensors[name])
    save_file(tensors, file, notes)


def flip(place: int, value: int) -> Any:
    def change(tensor: Tensor) -> Tensor:
        tensor.view(-1)[place] = value
        return tensor

    return change


@pytest.mark.parametrize(
    ("tensor", "change", "reason"),
    [
        ("train.images", flip(17, 3), "the SHA-256 differs"),
        ("validation.labels", flip(1, 2), "the SHA-256 differs"),
        ("train.labels", flip(1, 77), "train: label 77 is not one of 3 classes"),
        ("test.labels", flip(0, -1), "test: label -1 is not one of 3 classes"),
        ("test.images", lambda images: images.float(), r"test: images are float32 of shape \(3, 4, 5\), not uint8"),
        ("train.images", lambda images: images[:, :, :, :2].contiguous(), r"not uint8 of shape \(3, 4, 5\)"),
        ("train.labels", lambda labels: labels.int(), "9 images, but labels are int32"),
        ("train.labels", lambda labels: labels[:5].contiguous(), r"9 images, but labels are int64 of shape \(5,\)"),
    ],
)
def test_changed_images_and_labels_are_refused(tensor: str, change: Any, reason: str, tmp_path: Path) -> None:
    save(dataset(), tmp_path)
    change_tensor(tmp_path / "images.safetensors", tensor, change)
    with pytest.raises(
        DataError, match=rf"images.safetensors: damaged or cut short \(.*{reason}.*make it again: dynat da"
    ):
        load(tmp_path)
    with pytest.raises(DataError, match=reason):
        check_prepared_data(tmp_path)


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    save(dataset(), tmp_path)
    file = tmp_path / "images.safetensors"
    whole = file.read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")  # after the header, whose padding may be any white space
    for place in range(start, len(whole), 7):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        file.write_bytes(damaged)
        with pytest.raises(DataError, match="damaged"):
            load(tmp_path)


@pytest.mark.parametrize(
    "content", ["", "[]", "null", '"text"', "{", "\udcff", '{"format": 2}', '{"format": 2, "name": 3}', "[" * 5000]
)
def test_a_damaged_info(content: str, tmp_path: Path) -> None:
    save(dataset(), tmp_path)
    (tmp_path / "info.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(DataError, match=r"info.json: damaged or cut short .*make it again"):
        load(tmp_path)


def test_data_prepared_by_an_earlier_version_is_refused(tmp_path: Path) -> None:
    save(dataset(), tmp_path)
    info = json.loads((tmp_path / "info.json").read_text())
    for key in ("format", "test_order", "test_in_train"):
        del info[key]
    (tmp_path / "info.json").write_text(json.dumps(info))
    with pytest.raises(DataError, match=r"info.json: prepared by another version of dynat: format 1, .*make it again"):
        load(tmp_path)


def test_data_that_may_not_be_read_is_not_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(dataset(), tmp_path)
    monkeypatch.setattr("os.access", lambda *_: False)  # root may read everything
    with pytest.raises(UserError, match=r"info.json: permission denied"):
        load(tmp_path)


def test_files_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        save(dataset(), tmp_path)
    finally:
        os.umask(before)
    assert {file.name: file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {
        "info.json": 0o640,
        "images.safetensors": 0o640,
    }


def times(folder: Path) -> dict[str, int]:
    return {name: (folder / name).stat().st_mtime_ns for name in ("info.json", "images.safetensors")}


def test_damaged_data_made_again_is_as_old_as_before(tmp_path: Path) -> None:
    """Snakemake would train again for a file that is newer than the weights."""
    save(dataset(), tmp_path)
    for name in times(tmp_path):
        os.utime(tmp_path / name, ns=(10**18, 10**18))
    before, whole = times(tmp_path), (tmp_path / "images.safetensors").read_bytes()
    save(dataset(), tmp_path)
    assert times(tmp_path) == before, "nothing to do"
    change_tensor(tmp_path / "images.safetensors", "train.images", flip(17, 3))
    save(dataset(), tmp_path)
    assert times(tmp_path) == before and (tmp_path / "images.safetensors").read_bytes() == whole
    (tmp_path / "info.json").write_text("{")
    save(dataset(), tmp_path)
    assert times(tmp_path)["images.safetensors"] == 10**18, "info.json is small: Snakemake compares its content"
    save(dataset(seed=3), tmp_path)
    assert all(time > 10**18 for time in times(tmp_path).values()), "other images are new"


# Digits


def test_digits(tmp_path: Path) -> None:
    config = DatasetConfig(name="digits", source="digits", validation=0.1)
    folder = prepare(config, tmp_path / "one")
    digits = load(folder)
    assert folder == tmp_path / "one" / "digits"
    assert (digits.channels, digits.size, digits.classes) == (1, (8, 8), tuple("0123456789"))
    assert sum(len(part) for part in digits.splits.values()) == 1797
    assert len(digits.test) == pytest.approx(0.2 * 1797, abs=5)
    assert len(digits.validation) == pytest.approx(0.1 * 0.8 * 1797, abs=5)
    assert digits.train.images.max() == 255 and digits.train.images.min() == 0
    everything = torch.cat([part.images for part in digits.splits.values()])
    # 17 gray levels: truncation instead of rounding would give others
    assert sorted(set(everything.flatten().tolist())) == [round(level * 255 / 16) for level in range(17)]
    assert (digits.test_order, digits.test_in_train) == ("stratified, seed 0", 0)
    assert torch.bincount(digits.test.first(50).labels).tolist() == [5] * 10, "what AutoAttack attacks"
    again = prepare(config, tmp_path / "two")
    for name in ("info.json", "images.safetensors"):
        assert (folder / name).read_bytes() == (again / name).read_bytes()


def test_images_of_another_source_are_not_overwritten(tmp_path: Path) -> None:
    digits = DatasetConfig.model_validate({"name": "digits", "source": "digits"})
    prepare(digits, tmp_path)
    before = (tmp_path / "digits" / "info.json").read_bytes()
    mine = DatasetConfig.model_validate({"name": "digits", "source": "folder", "path": "images", "size": 8})
    with pytest.raises(UserError, match=r"digits: holds the images of the source 'digits'; give this data set another"):
        prepare(mine, tmp_path)
    assert (tmp_path / "digits" / "info.json").read_bytes() == before
    prepare(digits, tmp_path)
