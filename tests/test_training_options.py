"""What a training has beyond its method: AdamW, clipping, smoothing, mixed images, SWA, early stopping, a start."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchvision.transforms import v2

from dynat import data, methods, models
from dynat.config import ConfigError, Run, digest, load, registry
from dynat.jobs.training import run_training
from dynat.methods import AttackResult, StepInputs
from dynat.nn.normalize import normalized
from dynat.nn.sync_batchnorm import CPUSyncBatchNorm
from dynat.results.history import read_history
from dynat.results.records import TrainingRecord, read_record
from dynat.runtime.errors import UserError
from dynat.training import swa as swa_module
from dynat.training.batches import Batches, epoch_batches, mixed, mixing
from dynat.training.networks import Networks, Weights, build_networks, weights_of
from dynat.training.optimizer import build_optimizer, clip_gradients
from dynat.training.step import training_step
from dynat.training.swa import cumulative_statistics
from dynat.training.trainer import Trainer
from tests import tiny
from tests.networks import TwoLayers
from tests.project import Project


def linear(*, classes: int, channels: int) -> nn.Module:
    """A network whose predictions depend on its weights alone."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64 * channels, classes))


registry.NETWORKS["plain-linear"] = "tests.test_training_options:linear"

CPU = torch.device("cpu")
EVERY_METHOD: dict[str, dict[str, Any]] = {
    "natural": {},
    "at": {},
    "trades": {"consistency": 6.0},
    "mart": {"consistency": 6.0},
    "gairat": {"options": {"burn_in": 0.0}},
    "mail-at": {"options": {"burn_in": 0.0}},
    "mail-trades": {"consistency": 6.0, "options": {"burn_in": 0.0}},
    "sat": {},
    "lbgat": {"guide": "small"},
    "adagat": {"guide": "small"},
}


def trainer(run: Run, **given: Any) -> Trainer:
    return Trainer(run, tiny.THREAT, tiny.without_test_images(), seed=0, device=CPU, **given)


def random_like(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


# --- optimizer ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{"weight_decay": 0.05}, {"betas": [0.8, 0.95], "weight_decay": 0.0}])
def test_adamw_is_torchs(settings: dict[str, Any]) -> None:
    """Target and guide, five steps, against torch's plain AdamW on copies with the rate as an argument."""
    run = tiny.dynat(optimizer={"name": "adamw", **settings}, schedule={"lr": 0.003})
    networks = build_networks(run, classes=5, channels=1, seed=0, device=CPU)
    copies = [copy.deepcopy(network) for network in networks.trained]
    plain = torch.optim.AdamW(
        [parameter for network in copies for parameter in network.parameters()],
        lr=0.003,
        betas=tuple(settings.get("betas", (0.9, 0.999))),
        weight_decay=settings["weight_decay"],
        foreach=False,
    )
    optimizer = build_optimizer(run, networks, CPU, recorded=False)
    for step in range(5):
        images, labels = random_like((16, 1, 8, 8), step), torch.arange(16) % 5
        for one, model in ((optimizer, networks.trained), (plain, copies)):
            one.zero_grad()
            sum(F.cross_entropy(network(images), labels) for network in model).backward()  # type: ignore[union-attr]
            one.step()
    for network, other in zip(networks.trained, copies, strict=True):
        torch.testing.assert_close(network.state_dict(), other.state_dict())


def test_adamw_skips_a_step_whose_loss_is_not_finite() -> None:
    subject = trainer(tiny.run(optimizer={"name": "adamw"}, schedule={"lr": 0.001}))
    before = weights_of(subject.networks.target)
    parameter = next(subject.networks.target.parameters())
    subject.update((parameter * float("nan")).sum())
    after = weights_of(subject.networks.target)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_clipping_is_torchs_network_by_network() -> None:
    """A long gradient of the target is cut; the short one of the guide is not, as it is when they share one norm."""
    networks = build_networks(tiny.dynat(), classes=5, channels=1, seed=0, device=CPU)
    assert networks.guide is not None
    for network, scale in ((networks.target, 10.0), (networks.guide, 1e-4)):
        for number, parameter in enumerate(network.parameters()):
            parameter.grad = scale * random_like(tuple(parameter.shape), number)
    guide_before = [parameter.grad.clone() for parameter in networks.guide.parameters()]  # type: ignore[union-attr]
    expected = copy.deepcopy(networks.target)
    for one, other in zip(expected.parameters(), networks.target.parameters(), strict=True):
        one.grad = other.grad.clone()  # type: ignore[union-attr]
    nn.utils.clip_grad_norm_(expected.parameters(), 0.5)
    clip_gradients(networks.trained, 0.5)
    for one, other in zip(expected.parameters(), networks.target.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)
    squares = [parameter.grad.square().sum() for parameter in networks.target.parameters()]  # type: ignore[union-attr]
    assert torch.stack(squares).sum().sqrt() == pytest.approx(0.5, rel=1e-4)
    for before, parameter in zip(guide_before, networks.guide.parameters(), strict=True):
        assert parameter.grad is not None and torch.equal(before, parameter.grad)


def test_a_trainer_clips_before_its_update() -> None:
    """With SGD, no momentum and no decay, a step moves each network by at most the rate times the norm."""
    run = tiny.dynat(optimizer={"momentum": 0, "weight_decay": 0, "max_grad_norm": 0.01}, schedule={"lr": 0.5})
    subject = trainer(run)
    before = [[p.detach().clone() for p in network.parameters()] for network in subject.networks.trained]
    subject.begin_epoch()
    subject.step(random_like((16, 1, 8, 8)), torch.arange(16) % 5)
    for old, network in zip(before, subject.networks.trained, strict=True):
        moved = torch.stack([(a - b.detach()).square().sum() for a, b in zip(old, network.parameters(), strict=True)])
        assert moved.sum().sqrt() == pytest.approx(0.5 * 0.01, rel=1e-3)


# --- labels -------------------------------------------------------------------------------------------------------


def slow_cross_entropy(logits: Tensor, label: Tensor, smoothing: float) -> float:
    """One image, class by class; `label` is the share of each class."""
    classes = len(logits)
    log_sum = torch.logsumexp(logits, 0).item()
    return -sum(
        ((1 - smoothing) * label[k].item() + smoothing / classes) * (logits[k].item() - log_sum) for k in range(classes)
    )


@pytest.mark.parametrize("mix", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_the_loss_equals_its_slow_statement(
    mix: bool, smoothing: float, target: TwoLayers, guide: TwoLayers, batch: tuple[Tensor, Tensor]
) -> None:
    """LBGAT's guide and AT's target, with smoothed and with mixed labels."""
    images, truth = batch
    shares = F.one_hot(truth, 4).double()
    if mix:
        shares = 0.7 * shares + 0.3 * shares.roll(1, 0)
    labels = shares if mix else truth
    for name, network, key in (("at", target, "loss_ce"), ("lbgat", guide, "loss_guide")):
        run = tiny.run(method=name, guide=None if name == "at" else "small", label_smoothing=smoothing)
        method = methods.build(run, tiny.THREAT)
        method.attack = lambda *_, **__: AttackResult(images)  # type: ignore[method-assign]
        with torch.no_grad():
            logits = copy.deepcopy(network)(images)
        networks = Networks(target, None if name == "at" else guide)
        values = training_step(networks, method, run, images, labels, images, progress=0.0, update=lambda loss: None)
        slow = [slow_cross_entropy(row, share, smoothing) for row, share in zip(logits, shares, strict=True)]
        assert values[key].item() == pytest.approx(sum(slow) / len(slow), rel=1e-5)


def test_the_inner_attack_sees_mixed_labels_and_no_smoothing() -> None:
    run = tiny.run(label_smoothing=0.5)
    method = methods.build(run, tiny.THREAT)
    logits, shares = random_like((6, 5)), random_like((6, 5), 1).softmax(1)
    objective = method.objective(nn.Identity(), logits, labels=shares, truth=shares)
    expected = torch.tensor([slow_cross_entropy(row, share, 0.0) for row, share in zip(logits, shares, strict=True)])
    torch.testing.assert_close(objective(logits), expected)


def test_where_a_method_needs_one_class_a_mixed_image_has_its_larger_one() -> None:
    """Weights of MAIL, the boosted term of MART and the count of GAIRAT are those of that class."""
    truth = torch.arange(8) % 5
    mostly = 0.8 * F.one_hot(truth, 5).float() + 0.2 * F.one_hot((truth + 1) % 5, 5).float()
    network = models.build("small", classes=5, channels=1).eval()
    images = random_like((8, 1, 8, 8))
    for name in ("mail-at", "mart", "gairat"):
        method = methods.build(tiny.run(method=name, **EVERY_METHOD[name]), tiny.THREAT)
        found: list[Any] = []
        for labels in (truth, mostly):
            start = images.clone()
            objective = method.objective(network, images, labels=truth, truth=truth)
            attack = method.attack(network, images, start, labels=labels, objective=objective, progress=0.9)
            inputs = StepInputs(network, images, labels, attack, None, 0.9)
            terms = method.loss(inputs)
            logits = network(attack.images)
            ce = F.cross_entropy(logits, labels, reduction="none")
            # What is left is a function of one class per image.
            found.append(terms["ce"] / ce if "ce" in terms else terms["bce"] - ce)
        torch.testing.assert_close(found[0], found[1], msg=name)


# --- CutMix and MixUp ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"cutmix": 1.0}, v2.CutMix(alpha=1.0, num_classes=5)),
        ({"mixup": 0.2}, v2.MixUp(alpha=0.2, num_classes=5)),
        (
            {"cutmix": 0.5, "mixup": 0.4},
            v2.RandomChoice([v2.CutMix(alpha=0.5, num_classes=5), v2.MixUp(alpha=0.4, num_classes=5)]),
        ),
    ],
    ids=["cutmix", "mixup", "both"],
)
def test_batches_are_mixed_as_torchvision_mixes_them(settings: dict[str, float], expected: v2.Transform) -> None:
    """Each batch of an epoch against torchvision's own transform after torch.manual_seed; torch's state stays."""
    run = tiny.run(augmentation={"padding": 0, "flip": False, **settings})
    train = tiny.dataset().train
    seeds = {"order": 11, "crops": 12, "mix": 13}
    before = torch.get_rng_state()
    count, batches = Batches(train, run, CPU, classes=5).epoch(seeds.__getitem__)
    made = list(batches)
    assert torch.equal(before, torch.get_rng_state())
    order = list(epoch_batches(train, 16, torch.Generator().manual_seed(11)))
    assert count == len(made) == len(order) == 3
    kinds = set()
    for number, ((pixels, labels), index) in enumerate(zip(made, order, strict=True)):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(13 + number)
            its_pixels, its_labels = expected(data.to_pixels(train.images[index]), train.labels[index])
        assert torch.equal(pixels, its_pixels) and torch.equal(labels, its_labels)
        assert labels.sum(1).tolist() == pytest.approx([1.0] * 16)
        kinds.add(labels[labels > 0].min().item())
    assert len(kinds) > 1, "each batch draws a share of its own"


def test_a_mixed_batch_by_hand() -> None:
    """The share of each class is that of the pixels: black and white images, each class one color."""
    pixels = torch.tensor([0.0, 1.0] * 4).view(8, 1, 1, 1).expand(8, 1, 16, 16).contiguous()
    labels = torch.tensor([0, 1] * 4)
    for settings in ({"cutmix": 1.0}, {"mixup": 1.0}):
        transform = mixing(tiny.run(augmentation=settings), classes=2)
        for seed in range(5):
            images, shares = mixed(transform, pixels, labels, seed)
            torch.testing.assert_close(images.mean((1, 2, 3)), shares[:, 1])
    assert mixing(tiny.run(), classes=2) is None


@pytest.mark.parametrize("method", EVERY_METHOD)
def test_every_method_takes_every_option(method: str) -> None:
    fields = EVERY_METHOD[method]
    awp = {} if method == "natural" else {"awp": {"warm_up": 0.0}}
    run = tiny.run(
        method=method,
        epochs=2,
        **fields,
        **awp,
        label_smoothing=0.1,
        augmentation={"padding": 1, "cutmix": 1.0, "mixup": 0.2},
        optimizer={"name": "adamw", "max_grad_norm": 1.0},
        schedule={"shape": "cosine", "lr": 0.001, "warm_up": 0.2},
        swa={"start": 0.0, "bn_batches": 2},
        validation={"steps": 2, "patience": 2},
    )
    subject = trainer(run)
    rows = [subject.epoch() for _ in range(2)]
    assert all(row["loss"] > 0 for row in rows)


# --- stochastic weight averaging ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("start", "first"), [(0.0, 1), (0.5, 3), (0.75, 4), (0.99, 4)])
def test_swa_is_the_plain_mean_of_the_weights_after_its_epochs(start: float, first: int) -> None:
    subject = trainer(tiny.dynat(epochs=4, swa={"start": start, "bn_batches": 2}, awp={"warm_up": 0.0}))
    kept: list[Weights] = []
    for epoch in range(1, 5):
        subject.epoch()
        if epoch >= first:
            kept.append(weights_of(subject.networks.target))
        averaged = subject.networks.evaluated
        assert (averaged is subject.networks.target) == (epoch < first)
        for name, value in averaged.named_parameters() if kept else ():
            mean = torch.stack([weights[name.removeprefix("net.")] for weights in kept]).double().mean(0)
            torch.testing.assert_close(value.double(), mean, rtol=1e-5, atol=1e-7)


def test_the_statistics_of_the_average_are_the_means_over_the_forwards_of_training(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """AT without a clean forward: the mean over batches of the statistics of adversarial images, and nothing else."""
    seen: list[Tensor] = []

    def watched(networks: Networks, method: methods.Method, *given: Any, **more: Any) -> dict[str, Tensor]:
        found = method.attack

        def attack(*arguments: Any, **keywords: Any) -> AttackResult:
            result = found(*arguments, **keywords)
            seen.append(result.images)
            return result

        method.attack = attack  # type: ignore[method-assign]
        try:
            return training_step(networks, method, *given, **more)
        finally:
            method.attack = found  # type: ignore[method-assign]

    monkeypatch.setattr(swa_module, "training_step", watched)
    subject = trainer(tiny.run(epochs=1, swa={"start": 0.0, "bn_batches": 2}, target="wrn10-1", batch=8))
    subject.epoch()
    assert len(seen) == 2
    inputs: dict[str, list[Tensor]] = {}
    average = copy.deepcopy(subject.networks.evaluated).train()
    kept = norms_of(subject.networks.evaluated)
    for name, norm in norms_of(average).items():
        inputs[name] = []
        norm.register_forward_pre_hook(lambda _, given, into=inputs[name]: into.append(given[0].detach()))
    for images in seen:
        average(images)
    for name, batches in inputs.items():
        mean = torch.stack([batch.mean((0, 2, 3)) for batch in batches]).mean(0)
        variance = torch.stack([batch.transpose(0, 1).flatten(1).var(1) for batch in batches]).mean(0)
        torch.testing.assert_close(kept[name].running_mean, mean, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(kept[name].running_var, variance, rtol=1e-4, atol=1e-6)


def norms_of(network: nn.Module) -> dict[str, nn.BatchNorm2d]:
    return {name: module for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)}


def test_computing_statistics_changes_neither_guide_nor_target_nor_what_follows() -> None:
    """The epochs of a training with SWA have the losses of the training without it."""
    plain, averaged = trainer(tiny.dynat()), trainer(tiny.dynat(swa={"start": 0.3, "bn_batches": 2}))
    for _ in range(3):
        assert plain.epoch()["loss"] == averaged.epoch()["loss"]
    for one, other in zip(plain.networks.trained, averaged.networks.trained, strict=True):
        torch.testing.assert_close(one.state_dict(), other.state_dict(), rtol=0, atol=0)
    assert all(norm.momentum == 0.1 for norm in averaged.networks.evaluated.modules() if hasattr(norm, "momentum"))


def test_cumulative_statistics_are_restored_and_synchronized(monkeypatch: pytest.MonkeyPatch) -> None:
    """In several processes on a CPU too; here in one whose sums over processes are its own."""
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 1)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: tensor)
    plain = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3, momentum=0.2)).eval()
    shared = copy.deepcopy(plain)
    shared[1].__class__ = CPUSyncBatchNorm
    for network in (plain, shared):
        with cumulative_statistics(network):
            for seed in range(3):
                network(random_like((4, 1, 6, 6), seed))
        assert network[1].momentum == 0.2 and not network.training and not network[1].training
    torch.testing.assert_close(plain.state_dict(), shared.state_dict())


# --- early stopping -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accuracies", "every", "patience", "epochs"),
    [
        ([0.1, 0.3, 0.2, 0.2, 0.9], 1, 2, 4),
        ([0.1, 0.3, 0.2, 0.4, 0.3, 0.3], 1, 2, 6),
        ([0.1, 0.2, 0.3, 0.4], 1, 1, 4),
        ([0.5, 0.5, 0.5], 1, 1, 2),
        ([0.1, 0.4, 0.2, 0.3, 0.1, 0.3, 0.9, 0.9], 2, 2, 6),
        ([0.3, 0.2, 0.1], 1, None, 3),
    ],
)
def test_a_training_stops_when_its_patience_ends(
    accuracies: list[float], every: int, patience: int | None, epochs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Validations with made results, the n-th of them for epoch n; also for a trainer that resumes at each epoch."""
    run = tiny.run(epochs=len(accuracies), validation={"steps": 1, "every": every, "patience": patience})
    subject = trainer(run)
    monkeypatch.setattr(
        "dynat.training.trainer.validate",
        lambda *_, **__: {"clean": 0.5, "pgd": accuracies[subject.finished - 1]},
    )
    monkeypatch.setattr(Trainer, "step", lambda *_: {"loss": torch.tensor(1.0)})
    while subject.finished < run.epochs and not subject.stopped_early:
        subject.epoch()
        saved, subject = subject.snapshot(), trainer(run)
        subject.restore(saved)
    assert subject.finished == epochs
    assert subject.result().best_epoch == max(
        range(every, epochs + 1, every), key=lambda epoch: (accuracies[epoch - 1], -epoch)
    )


def test_an_early_stop_is_said_and_the_history_ends_there(tmp_path: Path) -> None:
    """A rate that moves nothing brings no better epoch after the first."""
    paths, said = prepared(tmp_path), list[str]()
    run = tiny.run(
        epochs=6, schedule={"lr": 1e-9}, optimizer={"weight_decay": 0}, validation={"steps": 1, "patience": 2},
        clean_forward=False, target="plain-linear",
    )  # fmt: skip
    run_training(spec("run", run), seed=0, paths=paths, say=said.append)
    assert [row["epoch"] for row in read_history(paths.seed_files("tests", "run", 0))] == [1, 2, 3]
    assert any("and stopped early, after epoch 3 of 6, clean" in line for line in said)


# --- first weights ------------------------------------------------------------------------------------------------


def prepared(folder: Path) -> Any:
    paths = tiny.paths_in(folder)
    data.save(tiny.dataset(), paths.dataset("tiny"))
    return paths


def spec(name: str, run: Run) -> Any:
    return tiny.training_spec(run).model_copy(update={"name": name})


def test_a_run_starts_from_the_networks_of_another_with_the_same_seed(tmp_path: Path) -> None:
    """Target and guide, after a training whose rate is too small to move a weight; the record says from what."""
    paths, said = prepared(tmp_path), list[str]()
    for seed in (0, 3):
        run_training(spec("source", tiny.dynat(epochs=1)), seed=seed, paths=paths, say=said.append)
    init = {"target": {"run": "source", "weights": "last"}, "guide": {"run": "source", "network": "guide"}}
    still = {"lr": 1e-9}
    run = tiny.dynat(epochs=1, init=init, schedule=still, optimizer={"weight_decay": 0})
    run_training(spec("second", run), seed=3, paths=paths, say=said.append)
    first, second = (paths.seed_files("tests", name, 3) for name in ("source", "second"))
    for ours, theirs in ((second.target(), first.target("last")), (second.guide, first.guide)):
        expected = load_file(theirs)
        for name, value in load_file(ours).items():
            if "running" not in name and "num_batches" not in name:
                torch.testing.assert_close(value, expected[name], atol=1e-6, rtol=0)
    of_seed_0 = load_file(paths.seed_files("tests", "source", 0).target("last"))
    assert not torch.allclose(of_seed_0["0.weight"], load_file(second.target())["0.weight"], atol=1e-3)
    records = [read_record(files.config, TrainingRecord) for files in (first, second)]
    assert records[1].init == {
        "target": records[0].weights["target-last.safetensors"],
        "guide": records[0].weights["guide.safetensors"],
    }
    assert records[0].init == {}
    assert f"second seed 3: the target starts from {first.target('last')}" in said


def test_another_start_is_another_training(tmp_path: Path) -> None:
    """A file under the same path with other weights: the saved state of the first is not resumed."""
    paths, digests = prepared(tmp_path), set()
    for seed in range(2):
        torch.manual_seed(seed)
        network = models.build("small", classes=5, channels=1)
        torch.save({"state_dict": network.state_dict()}, tmp_path / "start.pt")
        run = tiny.run(epochs=1, init={"target": {"file": str(tmp_path / "start.pt")}})
        run_training(spec("run", run), seed=0, paths=paths, say=lambda _: None)
        digests.add(read_record(paths.seed_files("tests", "run", 0).config, TrainingRecord).digest)
    assert len(digests) == 2


def test_a_file_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    paths = prepared(tmp_path)
    file = tmp_path / "start.safetensors"
    run = tiny.run(epochs=1, init={"target": {"file": str(file)}})
    network = models.build("small", classes=5, channels=1)
    save_file(normalized(network, mean=[0.5], std=[0.5]).state_dict(), file)
    with pytest.raises(UserError, match=r"init.target.file: .*start.safetensors: its network normalizes pixels first"):
        run_training(spec("run", run), seed=0, paths=paths, say=lambda _: None)
    save_file(models.build("small", classes=5, channels=3).state_dict(), file)
    with pytest.raises(UserError, match=r"init.target.file: .*not the weights of this .*of another shape"):
        run_training(spec("run", run), seed=0, paths=paths, say=lambda _: None)


def test_a_file_of_other_classes_gives_all_but_the_classifier(tmp_path: Path) -> None:
    """The classifier is the one that the seed draws, as without a file."""
    paths, file = prepared(tmp_path), tmp_path / "seven.safetensors"
    said: list[str] = []
    still = {"shape": "steps", "lr": 1e-9}
    torch.manual_seed(7)
    theirs = models.build("small", classes=7, channels=1).state_dict()
    save_file(theirs, file)
    plain = tiny.run(epochs=1, schedule=still, optimizer={"weight_decay": 0})
    started = tiny.run(epochs=1, schedule=still, optimizer={"weight_decay": 0}, init={"target": {"file": str(file)}})
    weights = {}
    for name, run in (("plain", plain), ("started", started)):
        run_training(spec(name, run), seed=0, paths=paths, say=said.append)
        weights[name] = load_file(paths.seed_files("tests", name, 0).target())
    head = models.classifier("small", classes=5, channels=1)
    for key, value in weights["started"].items():
        if "running" in key or "tracked" in key:
            continue
        torch.testing.assert_close(value, weights["plain"][key] if key in head else theirs[key])
    assert any("without its classifier (" in text for text in said)


TUNED = """
preset: tiny
seeds: [0, 1]
training: {epochs: 1}
runs: {tuned: {method: at, init: {target: {run: dynat}}}}
"""


def test_the_pipeline_would_train_the_source_first_and_only_for_the_same_seed(tmp_path: Path) -> None:
    project = Project.create(tmp_path / "project")
    project.params(TUNED)
    jobs = project.would_run("results/tiny/tuned/seed1/target.safetensors")
    trained = {job: count for job, count in jobs.items() if job[0].startswith("training")}
    assert trained == {("training_with_guide", "dynat"): 1, ("training", "tuned"): 1}
    project.params("preset: tiny\nruns: {at: {init: {target: {file: nothing.pt}}}}\n")
    code, output = project.snakemake("-n", "train")
    assert code == 2 and "runs.at.init.target.file: nothing.pt does not exist" in output


@pytest.mark.slow
def test_the_pipeline_trains_from_the_source_and_again_when_it_changed(tmp_path: Path) -> None:
    project = Project.create(tmp_path / "project")
    project.params(TUNED)
    file = "results/tiny/tuned/seed1/target.safetensors"
    code, output = project.snakemake(file)
    assert code == 0, output
    log = project.folder / "logs/train/tiny/tuned-seed1.log"
    assert "the target starts from results/tiny/dynat/seed1/target.safetensors" in log.read_text()
    assert not project.would_run(file)
    project.params(TUNED + "beta: 2.0\n")
    assert set(project.would_run(file)) >= {("training_with_guide", "dynat"), ("training", "tuned")}


# --- config -------------------------------------------------------------------------------------------------------

ADAMW = {"optimizer": {"name": "adamw"}, "schedule": {"lr": 0.001}}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"runs": {"dynat": {"augmentation": {"cutmix": 1}}}}, r"runs.dynat: augmentation.cutmix: a mixed image has two"),
    (
        {"runs": {"dynat": {"augmentation": {"mixup": 1}}}},
        r"runs.dynat: augmentation.mixup: .* set mixup: 0, or",
    ),
    ({"training": {"augmentation": {"cutmix": -1}}}, r"augmentation.cutmix: .*greater than or equal to 0"),
    ({"training": {"label_smoothing": 1}}, r"label_smoothing: .*less than 1"),
    ({"training": {"swa": {}, "ema": 0.9}}, "swa and ema are two averages of the target"),
    ({"training": {"swa": {"start": 1}}}, r"swa.start: .*less than 1"),
    ({"training": {"validation": {"patience": 0}}}, r"validation.patience: .*greater than or equal to 1"),
    ({"training": {"optimizer": {"max_grad_norm": 0}}}, r"optimizer.max_grad_norm: .*greater than 0"),
    ({"training": {"optimizer": {"name": "adam"}}}, r"optimizer.name: .*'sgd' or 'adamw'"),
    ({"training": {"optimizer": {"name": "adamw"}}}, r"schedule.lr: 0.3 is a rate for SGD; .*write 0.001"),
    ({"training": {**ADAMW, "optimizer": {"name": "adamw", "nesterov": True}}}, "nesterov is a setting of 'sgd'"),
    ({"training": {"optimizer": {"betas": [0.5, 0.9]}}}, "betas is a setting of 'adamw', and the optimizer is 'sgd'"),
    ({"training": {"schedule": {"warm_up": 0.1}}}, "warm_up has an effect with shape 'cosine' only"),
    ({"training": {"schedule": {"shape": "one-cycle", "final": 0.1}}}, "final has an effect with shape 'cosine' only"),
    ({"training": {"schedule": {"shape": "cosine", "factors": {0: 1.0}}}}, "factors has an effect with shape 'steps'"),
    ({"runs": {"at": {"init": {}}}}, "runs.at.init: name target or guide"),
    ({"runs": {"at": {"init": {"target": {}}}}}, "init.target: give either run .* or file"),
    ({"runs": {"at": {"init": {"target": {"run": "dynat", "file": "x"}}}}}, "init.target: give either run .* or file"),
    ({"runs": {"at": {"init": {"target": {"file": "a{b}.pt"}}}}}, "init.target.file: .*braces"),
    ({"runs": {"at": {"init": {"guide": {"run": "dynat"}}}}}, "init.guide has an effect on runs with a guide only"),
    ({"runs": {"at": {"init": {"target": {"run": "dynta"}}}}}, "init.target.run: unknown run 'dynta': did you mean"),
    ({"runs": {"at": {"init": {"target": {"run": "at"}}}}}, "runs.at.init: a circle: at <- at"),
    (
        {"runs": {"at": {"init": {"target": {"run": "dynat"}}}, "dynat": {"init": {"guide": {"run": "at"}}}}},
        "runs.at.init: a circle: at <- dynat <- at",
    ),
    (
        {"select": ["at"], "runs": {"at": {"init": {"target": {"run": "dynat"}}}}},
        "runs.at.init.target.run: 'dynat' is not selected: add it to select",
    ),
    (
        {"runs": {"at": {"target": "resnet18", "init": {"target": {"run": "dynat"}}}}},
        "the target of 'at' is resnet18, and the target of 'dynat' is small",
    ),
    (
        {"runs": {"at": {"init": {"target": {"run": "trades", "network": "guide"}}}}},
        "'trades' has no guide: remove network: guide",
    ),
    (
        {"runs": {"at": {"seeds": [0, 7], "init": {"target": {"run": "dynat"}}}, "dynat": {"seeds": [0]}}},
        "seed 7 would start from seed 7 of 'dynat', which has the seeds \\[0\\]",
    ),
    (
        {
            "checkpoints": {"theirs": {"file": "x.pt", "arch": "small"}},
            "runs": {"at": {"init": {"target": {"run": "theirs"}}}},
        },
        "'theirs' is a checkpoint and no run: write file: x.pt",
    ),
]


@pytest.mark.parametrize(("params", "message"), REFUSED, ids=[message[:45] for _, message in REFUSED])
def test_what_makes_no_sense_is_refused_with_its_field(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(params)


def test_what_is_off_is_not_written_down() -> None:
    """So that the digest of a training without these options is the one from before they existed."""
    run = load({}).runs["dynat"]
    written = run.model_dump(mode="json")
    assert not {"swa", "init", "label_smoothing"} & set(written)
    assert set(written["optimizer"]) == {"momentum", "weight_decay", "nesterov"}
    assert set(written["schedule"]) == {"shape", "lr", "reference_epochs", "factors", "peak"}
    assert Run.model_validate(written) == run
    assert digest(run) != digest(run.model_copy(update={"label_smoothing": 0.1}))


def test_smoothing_of_dynamic_labels_is_accepted() -> None:
    assert load({"training": {"label_smoothing": 0.1}}).runs["dynat"].label_smoothing == 0.1
