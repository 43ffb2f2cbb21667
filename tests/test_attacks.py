"""The evaluation verifies every claim of an attack, and each attack does what its name says."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dynat.attacks import Evaluation, evaluate
from dynat.attacks.cw_l2 import closest_adversarial, cw_l2
from dynat.attacks.evaluation import CORRECT, MISCLASSIFIED, TOLERANCE, batch_seed
from dynat.attacks.first_order import cw, fgsm, pgd
from dynat.attacks.randomized import suited_to
from dynat.config import AttackConfig, registry
from dynat.config.attack_cost import expected_cost
from dynat.data import LabeledImages, to_pixels
from dynat.nn.losses import cross_entropy, margin
from dynat.pgd import Ball, starting_point
from dynat.pgd import pgd as inner_pgd
from dynat.runtime.progress import Progress
from tests import tiny
from tests.helpers import Killed

EPS = tiny.THREAT.eps
attack = tiny.attack


def correct(evaluation: Evaluation) -> Tensor:
    """Which images are classified correctly under attack."""
    return evaluation.columns["correct"]


def predict(network: nn.Module, image_set: LabeledImages) -> Tensor:
    return predict_pixels(network, to_pixels(image_set.images))


def predict_pixels(network: nn.Module, pixels: Tensor) -> Tensor:
    with torch.no_grad():
        predictions: Tensor = network(pixels).argmax(1)
    return predictions


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., Tensor]], AttackConfig]:
    """Put a function into the table of attacks; returns an attack of that kind."""

    def put(function: Callable[..., Tensor]) -> AttackConfig:
        monkeypatch.setattr(sys.modules[__name__], "installed", function, raising=False)
        monkeypatch.setitem(registry.ATTACKS, "installed", registry.AttackInfo(f"{__name__}:installed"))
        return attack("installed")

    return put


Install = Callable[[Callable[..., Tensor]], AttackConfig]

# --- the evaluation ------------------------------------------------------------------------------------------


def test_the_network_of_these_tests_is_partly_accurate_and_partly_robust(
    mlp: nn.Module, noisy_images: LabeledImages
) -> None:
    clean, attacked = (
        correct(evaluate(mlp, noisy_images, attack("clean"))),
        correct(evaluate(mlp, noisy_images, attack())),
    )
    assert 0.6 < clean.float().mean() < 1
    assert 0 < attacked.float().mean() < clean.float().mean()


def test_no_attack_gives_plain_accuracy(mlp: nn.Module, noisy_images: LabeledImages) -> None:
    evaluation = evaluate(mlp, noisy_images, attack("clean"))
    predictions = predict(mlp, noisy_images)
    assert torch.equal(correct(evaluation), predictions == noisy_images.labels)
    assert torch.equal(evaluation.columns["clean_prediction"], predictions) and torch.equal(
        evaluation.columns["prediction"], predictions
    )
    assert torch.equal(evaluation.columns["label"], noisy_images.labels)
    assert not evaluation.columns["distance"].any()


def test_only_correctly_classified_images_are_attacked(
    mlp: nn.Module, noisy_images: LabeledImages, install: Install
) -> None:
    attacked: list[Tensor] = []

    def spy(model: nn.Module, pixels: Tensor, labels: Tensor, _attack: AttackConfig, _seed: int) -> Tensor:
        assert (model(pixels).argmax(1) == labels).all()
        assert not model.training and not any(p.requires_grad for p in model.parameters())
        attacked.append(pixels)
        return pixels

    mlp.train()
    evaluation = evaluate(mlp, noisy_images, install(spy))
    assert mlp.training and all(p.requires_grad for p in mlp.parameters()), "the modes are restored"
    mlp.eval()
    right = predict(mlp, noisy_images) == noisy_images.labels
    assert torch.equal(torch.cat(attacked), to_pixels(noisy_images.images)[right])
    assert torch.equal(correct(evaluation), right)


def test_a_batch_without_correct_images_is_not_attacked(
    mlp: nn.Module, noisy_images: LabeledImages, install: Install
) -> None:
    def never(*_: object) -> Tensor:
        raise AssertionError("no image was classified correctly, and yet the batch was attacked")

    predictions = predict(mlp, noisy_images)
    wrong = LabeledImages(noisy_images.images, (predictions + 1) % tiny.CLASSES)
    evaluation = evaluate(mlp, wrong, install(never))
    assert not correct(evaluation).any() and (evaluation.columns["margin"] < 0).all()


def _beyond(pixels: Tensor) -> Tensor:
    return (pixels + torch.where(pixels < 0.5, 1.1 * EPS, -1.1 * EPS)).clamp(0, 1)


INVALID: dict[str, Callable[[Tensor], Tensor]] = {
    "outside the ball": _beyond,
    "below black": lambda pixels: torch.where(pixels < 0.01, -0.02, pixels),
    "above white": lambda pixels: torch.where(pixels > 0.99, 1.02, pixels),
    "nan": lambda pixels: torch.where(pixels == pixels, float("nan"), pixels),
    "one pixel nan": lambda pixels: pixels.clone().index_fill_(3, torch.tensor([2]), float("nan")),
    "infinite": lambda pixels: pixels.clone().index_fill_(3, torch.tensor([2]), float("inf")),
}


@pytest.mark.parametrize("change", INVALID)
def test_an_invalid_example_is_rejected_and_counted(
    change: str, mlp: nn.Module, noisy_images: LabeledImages, install: Install
) -> None:
    """Whatever the network predicts for such an image, it counts as not broken, and the rejection is reported."""
    invalid = install(lambda _m, pixels, *_: INVALID[change](pixels))
    pixels, labels = to_pixels(noisy_images.images), noisy_images.labels
    assert ((pixels == 0).flatten(1).any(1) & (pixels == 1).flatten(1).any(1)).all(), (
        "so that every change makes every image invalid"
    )
    evaluation = evaluate(mlp, noisy_images, invalid)
    right = predict(mlp, noisy_images) == labels
    assert torch.equal(correct(evaluation), right)
    assert evaluation.rejected_examples == int(right.sum())
    assert evaluation.warnings == (
        f"{int(right.sum())} of its images were outside the ball or outside [0,1], or not finite; they count as not "
        f"broken ({int(right.sum())} images were attacked)",
    ), "otherwise the network looks robust"
    assert not evaluation.columns["distance"].any() and evaluation.columns["margin"].isfinite().all()
    assert all(tensor.isfinite().all() for tensor in evaluation.examples.values())


def test_rounding_on_the_surface_of_the_ball_is_tolerated(
    mlp: nn.Module, noisy_images: LabeledImages, install: Install
) -> None:
    def corner(_m: nn.Module, pixels: Tensor, *_: object) -> Tensor:
        return (pixels + EPS + 0.5 * TOLERANCE).clamp(0, 1)

    assert evaluate(mlp, noisy_images, install(corner)).rejected_examples == 0


def test_a_claim_that_does_not_fool_the_network_breaks_nothing(
    mlp: nn.Module, noisy_images: LabeledImages, install: Install
) -> None:
    """An attack cannot declare an image broken: the network's prediction decides."""
    unchanged = evaluate(mlp, noisy_images, install(lambda _m, pixels, *_: pixels.clone()))
    assert torch.equal(correct(unchanged), predict(mlp, noisy_images) == noisy_images.labels)


def test_the_verdict_is_the_networks_in_evaluation_mode(
    mlp: nn.Module, noisy_images: LabeledImages, install: Install
) -> None:
    def careless(model: nn.Module, pixels: Tensor, *_: object) -> Tensor:
        model.train()
        return pixels

    before = {name: value.clone() for name, value in mlp.state_dict().items()}
    evaluation = evaluate(mlp, noisy_images, install(careless))
    assert torch.equal(correct(evaluation), predict(mlp.eval(), noisy_images) == noisy_images.labels)
    assert all(torch.equal(value, before[name]) for name, value in mlp.state_dict().items())


def test_columns_are_consistent(mlp: nn.Module, noisy_images: LabeledImages) -> None:
    columns = evaluate(mlp, noisy_images, attack("cw")).columns
    label, prediction = columns["label"], columns["prediction"]
    assert torch.equal(columns["correct"], (columns["clean_prediction"] == label) & (prediction == label))
    assert torch.equal(columns["margin"] > 0, prediction == label)
    assert (columns["distance"] <= EPS + TOLERANCE).all()
    broken = (columns["clean_prediction"] == label) & ~columns["correct"]
    assert (columns["distance"][broken] > 0).all()
    assert not columns["distance"][columns["clean_prediction"] != label].any(), (
        "images already misclassified are not attacked"
    )


def test_an_attack_on_the_first_images_and_its_examples(mlp: nn.Module, noisy_images: LabeledImages) -> None:
    evaluation = evaluate(mlp, noisy_images, attack(images=20))
    whole = evaluate(mlp, noisy_images, attack())
    assert len(correct(evaluation)) == 20
    assert torch.equal(evaluation.columns["label"], noisy_images.labels[:20])
    # The first batch is the same batch with the same seed; the second is shorter.
    assert torch.equal(correct(evaluation)[:16], correct(whole)[:16])
    adversarial, clean = evaluation.examples["adversarial"], evaluation.examples["clean"]
    assert len(adversarial) == len(clean) > 0
    assert ((adversarial - clean).abs() <= EPS + TOLERANCE).all()
    with torch.no_grad():
        assert torch.equal(mlp(adversarial).argmax(1), evaluation.examples["prediction"])
        assert torch.equal(mlp(clean).argmax(1), evaluation.examples["clean_prediction"])


def test_every_batch_has_its_own_seed(mlp: nn.Module, noisy_images: LabeledImages, install: Install) -> None:
    seeds: list[int] = []

    def spy(_m: nn.Module, pixels: Tensor, _labels: Tensor, _attack: AttackConfig, seed: int) -> Tensor:
        seeds.append(seed)
        return pixels

    spied = install(spy)
    for seed in (0, 1):
        evaluate(mlp, noisy_images, spied.model_copy(update={"seed": seed}))
    assert seeds == [batch_seed(attack(seed=seed), number) for seed in (0, 1) for number in range(3)]
    assert len(set(seeds)) == 6


def test_the_seed_decides_the_verdicts(mlp: nn.Module, noisy_images: LabeledImages) -> None:
    one, again, other = (evaluate(mlp, noisy_images, attack(steps=1, seed=seed)) for seed in (0, 0, 1))
    assert torch.equal(one.columns["margin"], again.columns["margin"])
    assert not torch.equal(one.columns["margin"], other.columns["margin"])


# --- resuming ------------------------------------------------------------------------------------------------


class BatchCount(Progress):
    """Counts batches, new ones and those of an earlier call, by their images; killed when so many new ones are done."""

    def __init__(self, cost: float, kill_at: int | None = None) -> None:
        super().__init__("attack", 0, say=lambda _: None)
        self.cost, self.kill_at = cost, kill_at
        self.new: list[float] = []
        self.earlier: list[float] = []

    def advance(self, amount: float = 1.0) -> None:
        self.new.append(amount / self.cost)
        if len(self.new) == self.kill_at:
            raise Killed

    def skip(self, amount: float) -> None:
        self.earlier.append(amount / self.cost)


@pytest.mark.parametrize("finished", [1, 2, 3])
def test_an_evaluation_killed_between_batches_resumes(
    finished: int, mlp: nn.Module, noisy_images: LabeledImages, tmp_path: Path
) -> None:
    whole = evaluate(mlp, noisy_images, attack())
    cost, batches = expected_cost(attack()), [16, 16, 8]
    with pytest.raises(Killed):
        evaluate(mlp, noisy_images, attack(), state=tmp_path, progress=BatchCount(cost, kill_at=finished))
    saved = {file.name: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    assert len(saved) == finished
    count = BatchCount(cost)
    resumed = evaluate(mlp, noisy_images, attack(), state=tmp_path, progress=count)
    assert (count.earlier, count.new) == (batches[:finished], batches[finished:]), "saved batches are counted too"
    assert all(file.stat().st_mtime_ns == saved.get(file.name, file.stat().st_mtime_ns) for file in tmp_path.iterdir())
    for name, column in whole.columns.items():
        assert torch.equal(resumed.columns[name], column), name
    assert (resumed.forward_passes, resumed.backward_passes) == (whole.forward_passes, whole.backward_passes)
    assert all(torch.equal(resumed.examples[name], value) for name, value in whole.examples.items())


@pytest.mark.parametrize("damage", ["other content", "cut", "a flipped bit"])
def test_a_damaged_batch_is_set_aside_and_evaluated_again(
    damage: str, mlp: nn.Module, noisy_images: LabeledImages, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = evaluate(mlp, noisy_images, attack(), state=tmp_path)
    file = tmp_path / "batch-00001.pt"
    content = file.read_bytes()
    place = content.index(whole.columns["margin"][16:32].numpy().tobytes())
    flipped = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
    file.write_bytes({"other content": b"PK half a zip", "cut": content[:-1], "a flipped bit": flipped}[damage])
    again = evaluate(mlp, noisy_images, attack(), state=tmp_path)
    assert torch.equal(again.columns["margin"], whole.columns["margin"])
    assert f"dynat: {file} is damaged" in capsys.readouterr().err
    assert (tmp_path / "batch-00001.pt.damaged").exists() and Evaluation.load(file) is not None


def test_a_flipped_bit_anywhere_in_a_batch_is_noticed(
    mlp: nn.Module, noisy_images: LabeledImages, tmp_path: Path
) -> None:
    """One bit in each 64th of the file: torch itself reads most of them, and some as other verdicts."""
    evaluate(mlp, noisy_images.first(16), attack(), state=tmp_path)
    (file,) = tmp_path.glob("batch-*.pt")
    whole, bits = file.read_bytes(), random.Random(0)
    for part in range(64):
        damaged = bytearray(whole)
        damaged[(part * len(whole) + bits.randrange(len(whole))) // 64] ^= 1 << bits.randrange(8)
        file.write_bytes(damaged)
        assert Evaluation.load(file) is None


FULL_DISK = """
import resource, signal, sys, torch
from pathlib import Path
from dynat.attacks import Evaluation
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
try:
    Evaluation({"label": torch.zeros(10**5)}, {}).save(Path(sys.argv[1]))
except OSError as error:
    print(error)
"""


def test_a_full_disk_names_the_batch(tmp_path: Path) -> None:
    file = tmp_path / "batch-00000.pt"
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(file)], check=True, capture_output=True, text=True)
    assert done.stdout == f"[Errno 27] File too large: '{file}'\n"
    assert not any(tmp_path.iterdir())


# --- first-order attacks --------------------------------------------------------------------------------------


def test_passes_equal_a_count_by_hand(mlp: nn.Module, noisy_images: LabeledImages) -> None:
    """Every image clean; per correct image and restart the steps and a check at the end; then the verdict."""
    n, right = len(noisy_images), int((predict(mlp, noisy_images) == noisy_images.labels).sum())
    evaluation = evaluate(mlp, noisy_images, attack(steps=3, surrogate="none"))
    assert evaluation.forward_passes == n + right * (3 + 1) + right
    assert evaluation.backward_passes == right * 3
    clean = evaluate(mlp, noisy_images, attack("clean", surrogate="none"))
    assert (clean.forward_passes, clean.backward_passes) == (n + right, 0)
    # A surrogate is also queried whether it misclassifies the images on which the network is correct.
    evaluation = evaluate(mlp, noisy_images, attack(steps=3))
    assert evaluation.forward_passes == n + right * (3 + 1) + right + int(correct(evaluation).sum())
    assert evaluation.backward_passes == right * 3


@pytest.mark.parametrize("restarts", [1, 3])
def test_images_already_misclassified_are_removed_and_nothing_else_changes(
    restarts: int, mlp: nn.Module, noisy_images: LabeledImages
) -> None:
    """Compared with PGD that keeps every image in the batch to the end."""
    settings = attack(steps=13, restarts=restarts, surrogate="none")
    pixels, labels = to_pixels(noisy_images.images), noisy_images.labels
    adversarial = pgd(mlp, pixels, labels, settings, seed=3)
    generator = torch.Generator().manual_seed(3)
    slow, remaining = pixels.clone(), torch.ones(len(pixels), dtype=torch.bool)
    for _ in range(restarts):
        ball = Ball("linf", EPS)
        candidate = inner_pgd(
            mlp,
            pixels,
            starting_point(pixels, ball, "uniform", generator),
            objective=lambda logits: cross_entropy(logits, labels),
            ball=ball,
            steps=13,
            step_size=settings.step_size or 0.0,
            stop=lambda logits: logits.argmax(1) != labels,
        )
        slow = torch.where(remaining.view(-1, 1, 1, 1), candidate, slow)
        remaining &= predict_pixels(mlp, candidate) == labels
    torch.testing.assert_close(adversarial, slow)
    assert 0 < int(remaining.sum()) < len(pixels)
    evaluation = evaluate(mlp, noisy_images, settings)
    right = int((predict(mlp, noisy_images) == labels).sum())
    assert evaluation.backward_passes < 0.95 * restarts * 13 * right


class Linear(nn.Module):
    """logits = W x + b, whose gradient is known in closed form."""

    def __init__(self, classes: int, scale: float = 1.0) -> None:
        super().__init__()
        self.weight = torch.randn(classes, 16, generator=torch.Generator().manual_seed(4)) * scale
        self.bias = torch.zeros(classes)

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ self.weight.T + self.bias


def corner(model: Linear, pixels: Tensor, towards: Tensor, away: Tensor) -> Tensor:
    direction = (model.weight[towards] - model.weight[away]).sign().view_as(pixels)
    return (pixels + EPS * direction).clamp(0, 1)


def gray(count: int = 12) -> Tensor:
    return torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(7))


def test_fgsm_is_one_signed_step_of_eps() -> None:
    model, pixels = Linear(2), gray()
    labels = model(pixels).argmax(1)
    adversarial = fgsm(model, pixels, labels, attack("fgsm", step_size=EPS, start="none"), 0)
    torch.testing.assert_close(adversarial, corner(model, pixels, 1 - labels, labels), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["fgsm", "pgd", "apgd-ce"])
def test_no_example_of_a_large_image_is_outside_the_l2_ball(kind: str) -> None:
    """It would be rejected, and its image counted as correct."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(64, 192, (6, 3, 224, 224), dtype=torch.uint8, generator=generator)
    layer = nn.Linear(3 * 224 * 224, 4)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) / 100)
    model = nn.Sequential(nn.Flatten(), layer)
    labels = model(pixels.float() / 255).argmax(1)
    chosen = attack(kind, norm="l2", eps=10.0, steps=10, step_size=2.5)
    evaluation = evaluate(model, LabeledImages(pixels, labels), chosen)
    assert evaluation.rejected_examples == 0 and not evaluation.columns["correct"].any()


def test_pgd_on_a_linear_network_reaches_the_best_corner_or_stops_at_success() -> None:
    model, pixels = Linear(2), gray()
    labels = model(pixels).argmax(1)
    adversarial = pgd(model, pixels, labels, attack(steps=40), 0)
    best = corner(model, pixels, 1 - labels, labels)
    misclassified, can_be_misclassified = model(adversarial).argmax(1) != labels, model(best).argmax(1) != labels
    assert torch.equal(misclassified, can_be_misclassified) and misclassified.any() and not misclassified.all()
    torch.testing.assert_close(adversarial[~misclassified], best[~misclassified], rtol=0, atol=1e-6)
    moved = (adversarial - pixels).abs().flatten(1).amax(1)
    assert (moved <= EPS + TOLERANCE).all()


def test_an_image_that_is_misclassified_stays_as_it_is() -> None:
    """With 40 steps it is the same image as with the few steps that it needed."""
    model, pixels = Linear(3), gray()
    labels = model(pixels).argmax(1)
    few, many = (pgd(model, pixels, labels, attack(steps=steps, start="none", eps=0.1), 0) for steps in (3, 40))
    misclassified = model(few).argmax(1) != labels
    assert misclassified.any() and not misclassified.all()
    assert torch.equal(few[misclassified], many[misclassified])
    assert ((many - pixels).abs().flatten(1).amax(1)[misclassified] < 0.09).all(), "and not on the surface of the ball"


def test_cw_makes_the_margin_large_and_not_the_cross_entropy() -> None:
    """One step from the image: towards the runner-up alone, where CE follows every class by its share."""
    model, pixels = Linear(6, scale=0.3), gray()
    logits = model(pixels)
    labels = logits.argmax(1)
    runner_up = logits.scatter(1, labels[:, None], float("-inf")).argmax(1)
    one_step = attack("cw", steps=1, step_size=EPS, start="none")
    adversarial = cw(model, pixels, labels, one_step, 0)
    torch.testing.assert_close(adversarial, corner(model, pixels, runner_up, labels), rtol=0, atol=1e-6)
    by_ce = pgd(model, pixels, labels, one_step, 0)
    assert not torch.equal(adversarial, by_ce)
    gained = margin(model(adversarial), labels) - margin(logits, labels)
    assert (gained > 0).all()


@pytest.mark.parametrize("kind", ["pgd", "cw"])
def test_restarts_never_help_the_network(kind: str, mlp: nn.Module, noisy_images: LabeledImages) -> None:
    """An image that one start broke stays broken: more restarts begin with the same starting points."""
    weak = {"eps": 0.12, "steps": 1, "step_size": 0.02}
    verdicts = [correct(evaluate(mlp, noisy_images, attack(kind, **weak, restarts=r))) for r in (1, 2, 8)]
    for fewer, more in itertools.pairwise(verdicts):
        assert not (more & ~fewer).any()
    assert verdicts[-1].sum() < verdicts[0].sum(), "eight one-step starts break more than one does"


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_tiny_ball_breaks_no_image_and_a_huge_one_every_image(
    norm: str, mlp: nn.Module, noisy_images: LabeledImages
) -> None:
    clean = correct(evaluate(mlp, noisy_images, attack("clean")))
    least = evaluate(mlp, noisy_images, attack(norm=norm, eps=1e-7, step_size=1e-7))
    most = evaluate(mlp, noisy_images, attack(norm=norm, eps=0.99 if norm == "linf" else 8.0, step_size=0.1, steps=60))
    assert torch.equal(correct(least), clean)
    assert not correct(most).any() and most.rejected_examples == 0


# --- the nearest misclassified image ---------------------------------------------------------------------------------


class TwoSides(nn.Module):
    """Classifies by the side of a plane; an image's distance from the plane is known."""

    def __init__(self, direction: Tensor, offset: float) -> None:
        super().__init__()
        self.direction, self.offset = direction, offset

    def forward(self, images: Tensor) -> Tensor:
        height = 7.0 * (images.flatten(1) @ self.direction - self.offset)
        return torch.stack([height, -height], 1)


def test_cw_l2_finds_the_distance_to_a_plane() -> None:
    direction = torch.randn(64, generator=torch.Generator().manual_seed(2))
    model = TwoSides(direction, offset=float(direction.sum()) * 0.5)
    pixels = 0.5 + 0.06 * torch.randn(12, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    logits = model(pixels)
    true = logits[:, 0].abs() / 7.0 / direction.norm()
    adversarial, distance = closest_adversarial(
        model, pixels, logits.argmax(1), steps=400, rate=0.01, binary_search_steps=9
    )
    assert (model(adversarial).argmax(1) != logits.argmax(1)).all()
    assert torch.allclose((adversarial - pixels).flatten(1).norm(dim=1), distance, atol=1e-6)
    assert (distance >= true - 1e-5).all(), "no misclassified image is nearer than the plane"
    assert (distance <= 1.03 * true + 1e-3).all()


def test_cw_l2_claims_only_images_inside_the_ball() -> None:
    direction = torch.zeros(64)
    direction[0] = 1.0
    model = TwoSides(direction, offset=0.5)
    pixels = torch.full((4, 1, 8, 8), 0.5)
    pixels[:, 0, 0, 0] = torch.tensor([0.51, 0.58, 0.7, 1.0])
    labels = model(pixels).argmax(1)
    adversarial = cw_l2(
        model, pixels, labels, attack("cw-l2", norm="l2", eps=0.1, steps=200, step_size=0.01, binary_search_steps=9), 0
    )
    assert (model(adversarial).argmax(1) != labels).tolist() == [True, True, False, False]
    assert torch.equal(adversarial[2:], pixels[2:]), "a nearest image outside the ball is not claimed"


def test_cw_l2_is_about_as_strong_as_pgd_in_l2(mlp: nn.Module, noisy_images: LabeledImages) -> None:
    """The verdicts agree; PGD follows another loss, so an image may differ."""
    for eps in (0.3, 0.8):
        by_pgd = correct(evaluate(mlp, noisy_images, attack("cw", norm="l2", eps=eps, steps=50, step_size=eps / 8)))
        nearest = attack("cw-l2", norm="l2", eps=eps, steps=200, step_size=0.02, binary_search_steps=9)
        by_nearest = correct(evaluate(mlp, noisy_images, nearest))
        assert abs(int(by_pgd.sum()) - int(by_nearest.sum())) <= 2, eps


# --- AutoAttack -----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("fewer_queries")
def test_autoattack_is_at_least_as_strong_as_pgd_and_deterministic(mlp: nn.Module, noisy_images: LabeledImages) -> None:
    few = noisy_images.first(20)
    auto = attack("autoattack")
    torch.manual_seed(5)
    before = torch.get_rng_state()
    evaluation = evaluate(mlp, few, auto)
    assert torch.equal(torch.get_rng_state(), before), "torch's global generator is as before"
    again = evaluate(mlp, few, auto)
    assert torch.equal(correct(evaluation), correct(again)) and torch.equal(
        evaluation.columns["margin"], again.columns["margin"]
    )
    assert 0 < correct(evaluation).sum() < 20
    others = [correct(evaluate(mlp, few, attack(kind, steps=20))) for kind in ("pgd", "cw")]
    assert correct(evaluation).sum() <= min(int(other.sum()) for other in others)
    assert evaluation.rejected_examples == 0 and evaluation.backward_passes > 0


@pytest.mark.usefixtures("fewer_queries")
def test_every_part_attacks_the_images_that_the_parts_before_it_left(
    mlp: nn.Module, noisy_images: LabeledImages
) -> None:
    few = noisy_images.first(20)
    evaluation = evaluate(mlp, few, attack("autoattack"))
    parts = registry.attack_parts("autoattack")
    broken_by = evaluation.columns["broken_by"]
    assert torch.equal(broken_by == MISCLASSIFIED, predict(mlp, few) != few.labels)
    assert torch.equal(broken_by == CORRECT, correct(evaluation))
    first = evaluate(mlp, few, attack("apgd-ce"))
    assert torch.equal(broken_by == 0, first.columns["broken_by"] == 0), "the first part alone breaks the same images"
    assert int(broken_by.max()) < len(parts)


def test_an_image_with_an_invalid_example_is_left_to_the_next_part(
    mlp: nn.Module, noisy_images: LabeledImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    def outside(_model: nn.Module, pixels: Tensor, *_: object) -> Tensor:
        return pixels + 10

    monkeypatch.setattr(sys.modules[__name__], "outside", outside, raising=False)
    monkeypatch.setitem(registry.ATTACKS, "outside", registry.AttackInfo(f"{__name__}:outside"))
    info = registry.AttackInfo(parts=("outside", "pgd"), reads=("steps", "step_size", "start", "restarts"))
    monkeypatch.setitem(registry.ATTACKS, "both", info)
    both, alone = evaluate(mlp, noisy_images, attack("both")), evaluate(mlp, noisy_images, attack("pgd"))
    assert torch.equal(correct(both), correct(alone)) and torch.equal(both.columns["margin"], alone.columns["margin"])
    right = int((predict(mlp, noisy_images) == noisy_images.labels).sum())
    assert both.rejected_examples == right
    assert set(both.columns["broken_by"].tolist()) == {CORRECT, MISCLASSIFIED, 1}


def test_autoattack_on_a_single_image(mlp: nn.Module, noisy_images: LabeledImages) -> None:
    """The last batch may hold one image: the library squeezes shapes, and must not squeeze this dimension."""
    right = (predict(mlp, noisy_images) == noisy_images.labels).nonzero()[:1, 0]
    evaluation = evaluate(mlp, noisy_images[right], attack("autoattack", eps=0.3))
    assert correct(evaluation).tolist() == [False]


@pytest.mark.parametrize("classes", [2, 3])
def test_autoattack_with_few_classes_breaks_what_can_be_broken(classes: int) -> None:
    """A linear network, whose robust images are known: those whose margin is larger than eps times the L1 norm of the
    difference of two weight vectors, for every other class."""
    generator = torch.Generator().manual_seed(0)
    linear = nn.Linear(64, classes, bias=False)
    weights = torch.randn(classes, 64, generator=generator)
    linear.weight = nn.Parameter(weights, requires_grad=False)
    model = nn.Sequential(nn.Flatten(), linear)
    images = torch.randint(70, 180, (24, 1, 8, 8), dtype=torch.uint8, generator=generator)  # no pixel is clamped
    logits = model(to_pixels(images))
    labels = logits.argmax(1)
    gaps = logits.gather(1, labels[:, None]) - logits
    reach = (weights[labels][:, None] - weights).abs().sum(2)
    radii = (gaps / reach)[gaps > 0].view(24, classes - 1).amin(1)
    eps = float(radii.median()) * 1.01
    evaluation = evaluate(model, LabeledImages(images, labels), attack("autoattack", eps=eps, batch=24))
    assert torch.equal(evaluation.columns["correct"], radii > eps)
    for kind in ("apgd-t", "apgd-dlr"):
        alone = evaluate(model, LabeledImages(images, labels), attack(kind, eps=eps, batch=24))
        assert torch.equal(alone.columns["correct"], radii > eps), kind
        needed = {"apgd-t": 4, "apgd-dlr": 3}[kind]
        said = [f"needs {needed} classes, and the network has {classes}" in warning for warning in alone.warnings]
        assert any(said) == (classes < needed) and len(said) == (classes < needed)


class Noisy(nn.Module):
    """A defense that adds noise to its input."""

    def __init__(self, inner: nn.Module, scale: float) -> None:
        super().__init__()
        self.inner, self.scale = inner, scale

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.inner(images + self.scale * torch.randn_like(images))
        return logits


def test_a_network_that_answers_differently_each_time_is_attacked_as_such(
    mlp: nn.Module, noisy_images: LabeledImages
) -> None:
    standard = attack("autoattack", eps=0.1)
    same, silent = suited_to(mlp, noisy_images, standard)
    assert same == standard and not silent
    noisy = Noisy(mlp, 0.3)
    state = torch.random.get_rng_state()
    chosen, (warning,) = suited_to(noisy, noisy_images, standard)
    assert torch.equal(torch.random.get_rng_state(), state), "other random numbers are not touched"
    assert (chosen.kind, chosen.eot) == ("autoattack-rand", 20) and "answers differently each time" in warning
    assert suited_to(noisy, noisy_images, attack("apgd-ce"))[0].kind == "apgd-ce", "only AutoAttack has versions"
    few = noisy_images.first(4)
    evaluation = evaluate(noisy, few, chosen)
    again = evaluate(noisy, few, chosen)
    assert torch.equal(evaluation.columns["margin"], again.columns["margin"]), "the noise has a seed"
    assert evaluation.kind == "autoattack-rand" and not any("randomized" in text for text in evaluation.warnings)
    attacked = int((evaluation.columns["broken_by"] != MISCLASSIFIED).sum())
    assert evaluation.backward_passes >= 20 * 101 * int(evaluation.columns["correct"].sum())
    assert evaluation.backward_passes <= 2 * 20 * 101 * attacked


def test_more_gradients_per_step_find_more_through_noise(mlp: nn.Module, noisy_images: LabeledImages) -> None:
    noisy, broken = Noisy(mlp, 0.6), {}
    for eot in (1, 20):
        evaluation = evaluate(noisy, noisy_images, attack("apgd-ce", eps=0.12, eot=eot, batch=40))
        broken[eot] = int((evaluation.columns["broken_by"] == 0).sum())
    assert broken[20] > broken[1]


class Probabilities(nn.Module):
    """Softmax as the last layer: a defense by mistake."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, images: Tensor) -> Tensor:
        return torch.softmax(self.inner(images), 1)


def test_warnings_of_autoattack_are_kept(
    mlp: nn.Module, noisy_images: LabeledImages, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    few = noisy_images.first(2)
    strong = attack("autoattack", eps=0.3)
    evaluation = evaluate(Probabilities(mlp), few, strong, state=tmp_path)
    assert any("probability distribution" in warning for warning in evaluation.warnings)
    assert not caplog.records, "kept as data, not printed"
    assert not any("probability" in warning for warning in evaluate(mlp, few, strong).warnings)
    resumed = evaluate(Probabilities(mlp), few, strong, state=tmp_path)
    assert resumed.warnings == evaluation.warnings, "saved with the batches"


def test_every_registered_attack_makes_valid_examples(mlp: nn.Module, noisy_images: LabeledImages) -> None:
    few: Any = noisy_images.first(6)
    for kind, info in registry.ATTACKS.items():
        for norm, eps in (("linf", 0.2), ("l2", 1.0), ("l1", 4.0)):
            if norm not in info.norms:
                continue
            evaluation = evaluate(mlp, few, attack(kind, norm=norm, eps=eps, step_size=eps / 4, steps=10))
            assert evaluation.rejected_examples == 0, (kind, norm)
            assert (evaluation.columns["distance"] <= eps + TOLERANCE).all(), (kind, norm)
