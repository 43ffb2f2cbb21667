"""The training loop: what is drawn, when it stops, how it resumes, which weights it keeps."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dynat import methods
from dynat.config import Run
from dynat.nn.folded import FoldedModel
from dynat.nn.mixed_precision import MixedPrecision, mixed_precision
from dynat.runtime.progress import Progress
from dynat.training import Diverged, Trained, TrainingState, train, trainer
from dynat.training.batches import epoch_batches
from dynat.training.networks import Weights, build_networks, weights_of
from dynat.training.schedule import learning_rate
from dynat.training.step import training_step
from dynat.training.trainer import Row, Trainer
from tests import tiny
from tests.helpers import Killed

CPU = torch.device("cpu")


def trained(run: Run, folder: Path, seed: int = 0, **hooks: Any) -> Trained:
    return train(
        run,
        tiny.THREAT,
        tiny.without_test_images(),
        seed=seed,
        device=CPU,
        state=TrainingState(folder),
        **hooks,
    )


class KilledWithin(Progress):
    """Kills the training in the middle of an epoch."""

    def __init__(self) -> None:
        super().__init__("", 1, hidden=True)

    def advance(self, amount: float = 1.0) -> None:  # noqa: ARG002
        raise Killed


def same(one: Weights | None, two: Weights | None) -> bool:
    if one is None or two is None:
        return one is two
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def timeless(history: list[Row]) -> list[Row]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in history]


def assert_same_training(one: Trained, two: Trained) -> None:
    assert timeless(one.history) == timeless(two.history)
    assert one.best_epoch == two.best_epoch
    assert same(one.target, two.target) and same(one.target_last, two.target_last) and same(one.guide, two.guide)


RUNS: dict[str, Run] = {
    "dynat-ema": tiny.dynat(ema=0.9),
    "dynat-sparse-validation": tiny.dynat(epochs=4, validation={"steps": 2, "every": 2}),
    "trades-one-cycle": tiny.run(method="trades", consistency=6.0, schedule={"shape": "one-cycle"}),
    "natural": tiny.run(method="natural", validation={"select": "clean", "steps": 2}),
    "dynat-bfloat16": tiny.dynat(epochs=2, precision="bfloat16"),
    "dynat-swa-adamw": tiny.dynat(
        epochs=4,
        swa={"start": 0.4, "bn_batches": 2},
        optimizer={"name": "adamw", "max_grad_norm": 1.0},
        schedule={"shape": "cosine", "lr": 0.003, "warm_up": 0.25},
        label_smoothing=0.1,
        awp={"warm_up": 0.0},
        validation={"steps": 2, "every": 2},
    ),
    "trades-mixed-swa": tiny.run(
        method="trades",
        consistency=6.0,
        augmentation={"padding": 1, "cutmix": 1.0, "mixup": 0.3},
        swa={"start": 0.0, "bn_batches": 3},
    ),
}


# --- resuming -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RUNS)
def test_a_training_killed_in_every_epoch_ends_with_the_same_bits(name: str, tmp_path: Path) -> None:
    """Killed after each epoch and, the next time, in the middle of the one that follows."""
    run = RUNS[name]
    whole = trained(run, tmp_path / "whole")

    def kill_between(_row: Row) -> None:
        raise Killed

    for _ in range(run.epochs):
        with pytest.raises(Killed):
            trained(run, tmp_path / "torn", progress=KilledWithin())
        with pytest.raises(Killed):
            trained(run, tmp_path / "torn", report=kill_between)
    assert_same_training(whole, trained(run, tmp_path / "torn", progress=KilledWithin()))


def test_a_resumed_training_reports_only_the_missing_epochs(tmp_path: Path) -> None:
    rows: list[Row] = []

    def kill_in_second(row: Row) -> None:
        if row["epoch"] == 2:
            raise Killed

    with pytest.raises(Killed):
        trained(tiny.dynat(), tmp_path, report=kill_in_second)
    trained(tiny.dynat(), tmp_path, report=rows.append)
    assert [row["epoch"] for row in rows] == [3]


def interrupted(folder: Path, after: int = 2) -> None:
    """A training of three epochs that was killed after this epoch."""

    def kill(row: Row) -> None:
        if row["epoch"] == after:
            raise Killed

    with pytest.raises(Killed):
        trained(tiny.dynat(), folder, report=kill)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 half a zip", b"not a state"])
def test_a_damaged_state_is_set_aside_and_the_one_before_is_used(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = trained(tiny.dynat(), tmp_path / "whole")
    folder, rows = tmp_path / "0123abcd", list[Row]()
    interrupted(folder)
    (folder / "state.pt").write_bytes(content)
    assert_same_training(whole, trained(tiny.dynat(), folder, report=rows.append))
    assert [row["epoch"] for row in rows] == [2, 3], "one epoch is lost"
    assert f"{folder}/state.pt is damaged (its checksum differs): renamed to state.pt" in capsys.readouterr().err
    assert (folder / "state.pt.damaged").read_bytes() == content


def test_if_no_state_is_intact_the_training_starts_again(tmp_path: Path) -> None:
    whole = trained(tiny.dynat(), tmp_path / "whole")
    interrupted(tmp_path / "torn")
    for name in ("state.pt", "previous.pt"):
        (tmp_path / "torn" / name).write_bytes(b"damaged")
    said: list[str] = []
    assert TrainingState(tmp_path / "torn", said.append).load(CPU) is None
    assert said == ["no saved state is intact: starting again from the first epoch"]
    assert_same_training(whole, trained(tiny.dynat(), tmp_path / "torn"))
    assert TrainingState(tmp_path / "nothing", said.append).load(CPU) is None and len(said) == 1


@pytest.mark.parametrize("seed", range(4))
def test_a_flipped_bit_anywhere_in_a_state_is_noticed(seed: int, tmp_path: Path) -> None:
    """One bit in each 64th of the file. torch itself reads most of these without an error, and as other weights."""
    state = TrainingState(tmp_path)
    state.save({"finished": 3, "weights": torch.rand(500, generator=torch.Generator().manual_seed(0))})
    whole = state.file.read_bytes()
    bits = random.Random(seed)
    for part in range(64):
        damaged = bytearray(whole)
        damaged[(part * len(whole) + bits.randrange(len(whole))) // 64] ^= 1 << bits.randrange(8)
        state.file.write_bytes(damaged)
        assert state.load(CPU) is None
    state.file.write_bytes(whole)
    assert state.load(CPU) is not None


def test_a_training_killed_while_it_saves_resumes_from_the_state_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trained(tiny.dynat(), tmp_path / "whole")
    interrupted(tmp_path / "torn", after=1)

    def kill(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("dynat.training.state.write_with_checksum", kill)
        with pytest.raises(Killed):
            trained(tiny.dynat(), tmp_path / "torn")
    assert [file.name for file in (tmp_path / "torn").iterdir()] == ["previous.pt"]
    rows: list[Row] = []
    assert_same_training(whole, trained(tiny.dynat(), tmp_path / "torn", report=rows.append))
    assert [row["epoch"] for row in rows] == [2, 3]


FULL_DISK = """
import resource, signal, sys, torch
from pathlib import Path
from dynat.training import TrainingState
state = TrainingState(Path(sys.argv[1]))
state.save({"weights": torch.ones(10)})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    state.save({"weights": torch.zeros(10**6)})
except OSError as error:
    assert "File too large" in str(error) and error.filename == str(state.file)
else:
    raise AssertionError("written in spite of the limit")
assert state.load(torch.device("cpu"))["weights"].sum() == 10
"""


def test_a_state_that_cannot_be_written_leaves_the_one_before(tmp_path: Path) -> None:
    """As on a full disk: an OSError (which the command line turns into a sentence), and no half file."""
    subprocess.run([sys.executable, "-c", FULL_DISK, str(tmp_path)], check=True)
    assert [file.name for file in tmp_path.iterdir()] == ["previous.pt"]


# --- what is drawn --------------------------------------------------------------------------------------------


def batches_of(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """The batches that the steps of a training are given."""
    batches: list[tuple[Tensor, Tensor]] = []
    step = training_step

    def recording(networks: Any, method: Any, run: Run, images: Tensor, truth: Tensor, *rest: Any, **more: Any) -> Any:
        batches.append((images.clone(), truth.clone()))
        return step(networks, method, run, images, truth, *rest, **more)

    monkeypatch.setattr(trainer, "training_step", recording)
    trained(run, folder, seed)
    monkeypatch.setattr(trainer, "training_step", step)
    return batches


def test_all_runs_of_a_seed_see_the_same_batches_and_start_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at, dynat = tiny.run(), tiny.dynat()
    one, two = (batches_of(run, tmp_path / name, monkeypatch) for name, run in (("at", at), ("dynat", dynat)))
    assert len(one) == len(two) == 3 * 3
    for (images, truth), (other_images, other_truth) in zip(one, two, strict=True):
        assert torch.equal(images, other_images) and torch.equal(truth, other_truth)
    assert not torch.equal(one[0][0], one[3][0]), "every epoch draws anew"

    starts = [build_networks(run, classes=5, channels=1, seed=0, device=CPU).target for run in (at, dynat)]
    assert same(weights_of(starts[0]), weights_of(starts[1]))


def test_another_seed_is_another_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zero, one = (batches_of(tiny.run(epochs=1), tmp_path / str(seed), monkeypatch, seed) for seed in (0, 1))
    assert not torch.equal(zero[0][0], one[0][0])
    first, second = (build_networks(tiny.dynat(), classes=5, channels=1, seed=seed, device=CPU) for seed in (0, 1))
    assert first.guide is not None
    weights, others = weights_of(first.target), weights_of(second.target)
    guides = weights_of(first.guide)
    for name in weights:
        if name.endswith("weight") and weights[name].ndim > 1:
            assert not torch.equal(weights[name], others[name])
            assert not torch.equal(weights[name], guides[name]), "the guide is not the target's twin"


def test_training_leaves_the_global_random_state_alone(tmp_path: Path) -> None:
    torch.manual_seed(99)
    before = torch.get_rng_state()
    trained(tiny.dynat(epochs=1), tmp_path)
    assert torch.equal(before, torch.get_rng_state())


def test_the_inner_attack_starts_at_another_point_in_every_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A generator seeded per step instead of per epoch would perturb every batch alike."""
    drawn: list[Tensor] = []
    original = methods.Method.starting_point

    def recording(self: methods.Method, clean: Tensor, generator: torch.Generator) -> Tensor:
        start = original(self, clean, generator)
        drawn.append(start - clean)
        return start

    monkeypatch.setattr(methods.Method, "starting_point", recording)
    trained(tiny.run(epochs=2, validation={"every": 2, "steps": 1}), tmp_path)
    assert len(drawn) == 6
    for number, offset in enumerate(drawn):
        assert not any(torch.allclose(offset, other, atol=1e-5) for other in drawn[:number])


def test_only_full_batches_and_no_image_twice() -> None:
    image_set = tiny.images(per_class=2, seed=0)
    batches = list(epoch_batches(image_set, 4, torch.Generator().manual_seed(0)))
    assert [len(batch) for batch in batches] == [4, 4]
    assert len(set(torch.cat(batches).tolist())) == 8
    left_out = set()
    for seed in range(30):
        drawn = torch.cat(list(epoch_batches(image_set, 4, torch.Generator().manual_seed(seed))))
        left_out |= set(range(10)) - set(drawn.tolist())
    assert left_out == set(range(10)), "not always the same images are left out"


def test_fewer_images_than_a_batch_are_one_batch() -> None:
    image_set = tiny.images(per_class=2, seed=0)
    (batch,) = epoch_batches(image_set, 128, torch.Generator().manual_seed(0))
    assert sorted(batch.tolist()) == list(range(10))


# --- the step -------------------------------------------------------------------------------------------------


def a_trainer(run: Run, seed: int = 0) -> Trainer:
    return Trainer(run, tiny.THREAT, tiny.without_test_images(), seed=seed, device=CPU)


def after_each_step(subject: Trainer, check: Callable[[], None]) -> None:
    subject.optimizer.register_step_post_hook(lambda *_: check())


def test_one_optimizer_step_updates_both_networks_by_their_gradients() -> None:
    subject = a_trainer(tiny.dynat(schedule={"lr": 0.5, "factors": {0: 1.0}}))
    guide = subject.networks.guide
    assert guide is not None
    before = {"target": weights_of(subject.networks.target), "guide": weights_of(guide)}
    moved: list[bool] = []

    def check() -> None:
        if not moved:  # first step: no momentum yet, so w - lr (g + decay w) is the whole rule
            for name, network in (("target", subject.networks.target), ("guide", guide)):
                for key, parameter in network.named_parameters():
                    old = before[name][key.removeprefix("net.")]
                    assert parameter.grad is not None and parameter.grad.abs().max() > 0
                    expected = old - 0.5 * (parameter.grad + 2e-4 * old)
                    torch.testing.assert_close(parameter.detach(), expected, rtol=1e-5, atol=1e-6)
        moved.append(True)

    after_each_step(subject, check)
    subject.epoch()
    assert len(moved) == 3, "55 images in batches of 16"


def test_every_parameter_is_in_the_optimizer_once() -> None:
    subject = a_trainer(tiny.dynat(ema=0.5))
    held = [id(parameter) for group in subject.optimizer.param_groups for parameter in group["params"]]
    assert subject.networks.guide is not None and subject.networks.ema is not None
    trained_parameters = [*subject.networks.target.parameters(), *subject.networks.guide.parameters()]
    assert sorted(held) == sorted(map(id, trained_parameters))


def test_natural_training_has_no_guide_and_runs_no_attack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dynat.methods import base

    def never(*_: object, **__: object) -> None:
        raise AssertionError("natural training attacked images")

    monkeypatch.setattr(base, "pgd", never)
    result = trained(RUNS["natural"], tmp_path)
    assert result.guide is None
    assert not [name for name in result.history[0] if "guide" in name or "label" in name]


@pytest.mark.parametrize(
    "run",
    [tiny.dynat(epochs=4), tiny.run(epochs=4, schedule={"shape": "one-cycle", "lr": 0.3})],
    ids=["steps", "cycle"],
)
def test_the_learning_rate_follows_the_schedule_in_every_step_and_in_the_history(run: Run) -> None:
    subject = a_trainer(run)
    rates: list[float] = []
    after_each_step(subject, lambda: rates.extend({group["lr"] for group in subject.optimizer.param_groups}))
    history = [subject.epoch() for _ in range(4)]
    assert rates == [
        learning_rate(run.schedule, epochs=4, progress=epoch + n / 3) for epoch in range(4) for n in range(3)
    ]
    assert [row["learning_rate"] for row in history] == rates[::3]
    assert len(set(rates)) > 2


def test_a_resumed_training_keeps_the_momentum() -> None:
    """Without it the first step after a restart would be a step from rest."""
    subject = a_trainer(tiny.dynat())
    subject.epoch()
    successor = a_trainer(tiny.dynat())
    successor.restore(subject.snapshot())
    for group in successor.optimizer.param_groups:
        for parameter in group["params"]:
            assert successor.optimizer.state[parameter]["momentum_buffer"].abs().max() > 0


@pytest.mark.parametrize("awp", [None, {"gamma": 0.05, "warm_up": 0.0}], ids=["plain", "awp"])
def test_the_average_is_its_formula_over_the_weights_between_steps(awp: dict[str, float] | None) -> None:
    """With AWP too, where the optimizer steps at perturbed weights: those are never what a run keeps."""
    subject = a_trainer(tiny.dynat(ema=0.8, awp=awp))
    assert subject.networks.ema is not None
    expected = weights_of(subject.networks.target)
    step = subject.step

    def stepping(pixels: Tensor, truth: Tensor) -> dict[str, Tensor]:
        values = step(pixels, truth)
        now = weights_of(subject.networks.target)
        trainable = dict(subject.networks.target.named_parameters())
        for name, value in now.items():
            mixed = 0.8 * expected[name] + 0.2 * value if f"net.{name}" in trainable else value
            expected[name] = mixed
        return values

    subject.step = stepping  # type: ignore[method-assign]
    for _ in range(2):
        subject.epoch()
    for name, value in weights_of(subject.networks.ema.module).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6, msg=name)
    assert not same(weights_of(subject.networks.ema.module), weights_of(subject.networks.target))
    assert same(weights_of(subject.networks.ema.module), weights_of(subject.networks.evaluated)), (
        "the average is what is validated and saved"
    )


# --- what stops it --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_non_finite_loss_stops_before_the_update(bad: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of the third epoch: the state is that of the second, and training resumes from there."""
    whole = trained(tiny.dynat(), tmp_path / "whole")
    build, calls = methods.build, []

    def poisoned(*arguments: Any) -> Any:
        method = build(*arguments)
        loss = method.loss

        def failing(inputs: Any) -> Any:
            calls.append(1)
            return {name: part * (bad if len(calls) == 8 else 1.0) for name, part in loss(inputs).items()}

        method.loss = failing  # type: ignore[method-assign]
        return method

    folder = tmp_path / "poisoned"
    with monkeypatch.context() as patch:
        patch.setattr(methods, "build", poisoned)
        advice = "The state after epoch 2 is kept. Lower schedule.lr, or try precision: float32"
        with pytest.raises(Diverged, match=rf"non-finite in epoch 3; the update was skipped. {advice}"):
            trained(tiny.dynat(), folder)
    assert len(calls) == 8
    saved = TrainingState(folder).load(CPU)
    assert saved is not None and saved["finished"] == 2
    assert timeless(saved["history"]) == timeless(whole.history)[:2]
    assert all(value.isfinite().all() for value in saved["target"].values())
    assert_same_training(whole, trained(tiny.dynat(), folder))


def test_a_loss_that_is_non_finite_in_the_first_epoch_leaves_no_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trainer, "step", lambda *_: {"loss": torch.tensor(float("nan"))})
    with pytest.raises(Diverged, match=r"non-finite in epoch 1; .* No state is kept: no epoch was finished. Lower"):
        trained(tiny.dynat(), tmp_path)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_non_finite_loss_changes_no_weight(bad: float) -> None:
    """The optimizer itself leaves the update out, so that nothing waits for the loss."""
    subject = a_trainer(tiny.dynat())
    subject.epoch()
    parameters = subject.networks.parameters()
    before = [parameter.detach().clone() for parameter in parameters]
    subject.update(bad * torch.stack([parameter.sum() for parameter in parameters]).sum())
    assert all(torch.equal(old, new) for old, new in zip(before, parameters, strict=True))
    subject.update(torch.stack([parameter.sum() for parameter in parameters]).sum())
    assert not any(torch.equal(old, new) for old, new in zip(before, parameters, strict=True))


# --- what is kept ---------------------------------------------------------------------------------------------

SCORES: dict[str, tuple[str, list[tuple[float, float]], int]] = {
    # select, (clean, pgd) per epoch, best epoch
    "highest pgd": ("pgd", [(0.9, 0.1), (0.5, 0.4), (0.8, 0.3)], 2),
    "clean breaks a tie": ("pgd", [(0.5, 0.4), (0.9, 0.4), (0.7, 0.4)], 2),
    "the first of equals": ("pgd", [(0.5, 0.4), (0.5, 0.4), (0.5, 0.4)], 1),
    "the last may be best": ("pgd", [(0.5, 0.1), (0.5, 0.2), (0.5, 0.3)], 3),
    "by clean": ("clean", [(0.5, 0.4), (0.7, 0.1), (0.6, 0.4)], 2),
}


@pytest.mark.parametrize("case", SCORES)
def test_which_weights_are_best(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    select, scores, best = SCORES[case]
    at_epoch: list[tuple[Weights, Weights]] = []

    def scripted(target: nn.Module, guide: nn.Module, *_: object, **__: object) -> dict[str, float]:
        at_epoch.append((weights_of(target), weights_of(guide)))
        clean, pgd = scores[len(at_epoch) - 1]
        return {"clean": clean, "pgd": pgd}

    monkeypatch.setattr(trainer, "validate", scripted)
    result = trained(tiny.dynat(validation={"select": select}), tmp_path)
    assert result.best_epoch == best
    assert same(result.target, at_epoch[best - 1][0]) and same(result.guide, at_epoch[best - 1][1])
    assert same(result.target_last, at_epoch[2][0])


def test_validation_is_accuracy_on_the_held_out_images(tmp_path: Path) -> None:
    """Clean accuracy stated anew, from the kept weights; PGD accuracy not above it."""
    from dynat import models
    from dynat.data import to_pixels

    data = tiny.dataset(train=80, validation=20)
    result = train(tiny.dynat(epochs=6), tiny.THREAT, data, seed=0, device=CPU, state=TrainingState(tmp_path))
    for weights, column in ((result.target_last, "clean"), (result.guide, "guide_clean")):
        network = models.build("small", classes=5, channels=1)
        assert weights is not None
        network.load_state_dict(weights)
        network.eval()
        right = network(to_pixels(data.validation.images)).argmax(1) == data.validation.labels
        row = result.history[-1 if column == "clean" else result.best_epoch - 1]
        assert row[column] == pytest.approx(right.float().mean().item())
    assert all(row["pgd"] <= row["clean"] for row in result.history)
    assert max(row["clean"] for row in result.history) > 0.4, "it learns"
    assert any(row["pgd"] < row["clean"] for row in result.history), "the attack has an effect"


def test_validation_every_so_many_epochs_and_in_the_last(tmp_path: Path) -> None:
    result = trained(tiny.run(epochs=5, validation={"every": 2, "steps": 1}), tmp_path)
    assert [row["epoch"] for row in result.history if "pgd" in row] == [2, 4, 5]
    assert result.best_epoch in (2, 4, 5)


def test_validation_does_not_disturb_the_training(tmp_path: Path) -> None:
    """Neither its random numbers nor its mode leak into the weights."""
    often = trained(tiny.dynat(validation={"every": 1, "steps": 3}), tmp_path / "often")
    rarely = trained(tiny.dynat(validation={"every": 3, "steps": 1}), tmp_path / "rarely")
    assert same(often.target_last, rarely.target_last)


GUIDED = ["loss_ce", "loss_guide", "label_accuracy"]


@pytest.mark.parametrize(
    ("run", "columns"),
    [
        (tiny.dynat(epochs=1), [*GUIDED, "clean", "pgd", "guide_clean"]),
        (tiny.run(epochs=1), ["loss_ce", "clean", "pgd"]),
        (tiny.run(epochs=1, method="trades", consistency=6.0), ["loss_ce", "loss_consistency", "clean", "pgd"]),
    ],
    ids=["dynat", "at", "trades"],
)
def test_the_columns_of_the_history(run: Run, columns: list[str], tmp_path: Path) -> None:
    (row,) = trained(run, tmp_path).history
    assert set(row) == {"epoch", "learning_rate", "loss", "seconds", *columns}
    parts = sum(value for name, value in row.items() if name.startswith("loss_") and name != "loss_guide")
    total = row.get("loss_guide", 0.0) + (run.beta or 1.0) * parts
    assert row["loss"] == pytest.approx(total, rel=1e-5), "the mean over steps of what was minimised"
    assert 0 <= row.get("label_accuracy", 0.5) <= 1


# --- bfloat16 -------------------------------------------------------------------------------------------------


def test_in_bfloat16_gradients_reach_every_parameter_of_both_networks() -> None:
    """PGD runs first, without weight gradients: training must not differentiate weights that were cast there."""
    subject = a_trainer(tiny.dynat(precision="bfloat16"))
    steps: list[bool] = []

    def check() -> None:
        for parameter in subject.networks.parameters():
            assert parameter.dtype == torch.float32
            assert parameter.grad is not None and parameter.grad.abs().max() > 0
        steps.append(True)

    after_each_step(subject, check)
    row = subject.epoch()
    assert len(steps) == 3 and row["loss"] == row["loss"]


def test_bfloat16_stays_near_float32(tmp_path: Path) -> None:
    low, full = (trained(tiny.dynat(epochs=2, precision=p), tmp_path / p) for p in ("bfloat16", "float32"))
    for one, two in zip(low.history, full.history, strict=True):
        assert one["loss"] == pytest.approx(two["loss"], rel=0.1)
    assert timeless(low.history) != timeless(full.history), "it was bfloat16"
    assert {value.dtype for name, value in low.target.items() if "num_batches" not in name} == {torch.float32}


def low_precision() -> MixedPrecision:
    from dynat import models

    with torch.random.fork_rng():
        torch.manual_seed(3)
        return mixed_precision(models.build("small", classes=5, channels=1), "bfloat16", CPU)


def test_the_surrogate_is_the_network_in_evaluation_mode_at_its_current_weights() -> None:
    network = low_precision()
    image_set = torch.rand(32, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    network.train()
    network(image_set + 0.3)  # moves the running statistics
    for scale in (1.0, 1.7):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.mul_(scale)
        surrogate = network.surrogate()
        assert isinstance(surrogate, FoldedModel) and not any(module.training for module in surrogate.modules())
        assert all(module.training for module in network.modules()), "the network itself stays as it was"
        reference = network.eval()(image_set)
        network.train()
        torch.testing.assert_close(surrogate(image_set), reference, rtol=0.05, atol=0.05)
        assert not any(parameter.requires_grad for parameter in surrogate.parameters())


def test_the_surrogate_adds_no_weights_to_the_network() -> None:
    network = low_precision()
    names = set(network.state_dict())
    parameters = len(list(network.parameters()))
    network.surrogate()
    assert set(network.state_dict()) == names
    assert len(list(network.parameters())) == parameters
    assert network.surrogate() is network.surrogate(), "one copy, refreshed"
