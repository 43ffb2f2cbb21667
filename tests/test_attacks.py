"""The examination believes nothing it has not checked; the attacks do what their names say."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dynat.attacks import Examination, examine
from dynat.attacks.auto import apgd_ce, apgd_t
from dynat.attacks.examine import STANDS, TOLERANCE, WRONG_BEFORE, batch_seed
from dynat.attacks.first_order import cw, fgsm, pgd
from dynat.attacks.minimal import cw_l2, nearest_wrong
from dynat.config import Attack, names
from dynat.data import Pictures, to_pixels
from dynat.inner import Ball, maximise
from dynat.losses import cross_entropy, margin
from tests import tiny

EPS = tiny.THREAT.eps
NOISE = 0.6


attack = tiny.attack


def fit(network: nn.Module, pictures: Pictures, steps: int = 40) -> nn.Module:
    optimiser = torch.optim.Adam(network.parameters(), lr=0.01)
    pixels = to_pixels(pictures.images)
    for _ in range(steps):
        optimiser.zero_grad()
        nn.functional.cross_entropy(network(pixels), pictures.labels).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return network.eval()


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """Right on most test pictures, wrong on some; breakable on most, not on all."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = (nn.Flatten(), nn.Linear(64, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, tiny.CLASSES))
        return fit(nn.Sequential(*layers), tiny.pictures(20, seed=1, noise=NOISE))


@pytest.fixture(scope="module")
def pictures() -> Pictures:
    return tiny.pictures(per_class=8, seed=3, noise=NOISE)


def stands(exam: Examination) -> Tensor:
    return exam.columns["correct"]


def plain(network: nn.Module, pictures: Pictures) -> Tensor:
    return plain_pixels(network, to_pixels(pictures.images))


def plain_pixels(network: nn.Module, pixels: Tensor) -> Tensor:
    with torch.no_grad():
        predictions: Tensor = network(pixels).argmax(1)
    return predictions


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., Tensor]], Attack]:
    """Put a function into the table of attacks; the attack that names it comes back."""

    def put(function: Callable[..., Tensor]) -> Attack:
        monkeypatch.setattr(sys.modules[__name__], "installed", function, raising=False)
        monkeypatch.setitem(names.ATTACKS, "installed", names.AttackKind(f"{__name__}:installed"))
        return attack("installed")

    return put


Install = Callable[[Callable[..., Tensor]], Attack]

# --- the examination ------------------------------------------------------------------------------------------


def test_the_world_of_these_tests_is_neither_perfect_nor_hopeless(network: nn.Module, pictures: Pictures) -> None:
    clean, attacked = stands(examine(network, pictures, attack("clean"))), stands(examine(network, pictures, attack()))
    assert 0.6 < clean.float().mean() < 1
    assert 0 < attacked.float().mean() < clean.float().mean()


def test_no_attack_gives_plain_accuracy(network: nn.Module, pictures: Pictures) -> None:
    exam = examine(network, pictures, attack("clean"))
    predictions = plain(network, pictures)
    assert torch.equal(stands(exam), predictions == pictures.labels)
    assert torch.equal(exam.columns["clean"], predictions) and torch.equal(exam.columns["prediction"], predictions)
    assert torch.equal(exam.columns["label"], pictures.labels)
    assert not exam.columns["distance"].any()


def test_only_what_is_right_is_attacked(network: nn.Module, pictures: Pictures, install: Install) -> None:
    handed: list[Tensor] = []

    def spy(model: nn.Module, pixels: Tensor, labels: Tensor, _attack: Attack, _seed: int) -> Tensor:
        assert (model(pixels).argmax(1) == labels).all()
        assert not model.training and not any(p.requires_grad for p in model.parameters())
        handed.append(pixels)
        return pixels

    network.train()
    exam = examine(network, pictures, install(spy))
    assert network.training and all(p.requires_grad for p in network.parameters()), "left as it was found"
    network.eval()
    right = plain(network, pictures) == pictures.labels
    assert torch.equal(torch.cat(handed), to_pixels(pictures.images)[right])
    assert torch.equal(stands(exam), right)


def test_a_batch_with_nothing_right_is_not_attacked(network: nn.Module, pictures: Pictures, install: Install) -> None:
    def never(*_: object) -> Tensor:
        raise AssertionError("nothing was right, and yet it was attacked")

    predictions = plain(network, pictures)
    wrong = Pictures(pictures.images, (predictions + 1) % tiny.CLASSES)
    exam = examine(network, wrong, install(never))
    assert not stands(exam).any() and (exam.columns["margin"] < 0).all()


def _beyond(pixels: Tensor) -> Tensor:
    return (pixels + torch.where(pixels < 0.5, 1.1 * EPS, -1.1 * EPS)).clamp(0, 1)


LIES: dict[str, Callable[[Tensor], Tensor]] = {
    "outside the ball": _beyond,
    "below black": lambda pixels: torch.where(pixels < 0.01, -0.02, pixels),
    "above white": lambda pixels: torch.where(pixels > 0.99, 1.02, pixels),
    "no number": lambda pixels: torch.where(pixels == pixels, float("nan"), pixels),
    "one pixel no number": lambda pixels: pixels.clone().index_fill_(3, torch.tensor([2]), float("nan")),
    "infinite": lambda pixels: pixels.clone().index_fill_(3, torch.tensor([2]), float("inf")),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_claim_against_the_rules_is_refuted_and_counted(
    lie: str, network: nn.Module, pictures: Pictures, install: Install
) -> None:
    """Whatever the network says of such a picture: it counts as not broken, and somebody is told."""
    lying = install(lambda _m, pixels, *_: LIES[lie](pixels))
    pixels, labels = to_pixels(pictures.images), pictures.labels
    assert ((pixels == 0).flatten(1).any(1) & (pixels == 1).flatten(1).any(1)).all(), "so that every lie is one"
    exam = examine(network, pictures, lying)
    right = plain(network, pictures) == labels
    assert torch.equal(stands(exam), right)
    assert exam.refuted_claims == int(right.sum())
    assert not exam.columns["distance"].any() and exam.columns["margin"].isfinite().all()
    assert all(tensor.isfinite().all() for tensor in exam.examples.values())


def test_rounding_on_the_surface_of_the_ball_is_no_lie(
    network: nn.Module, pictures: Pictures, install: Install
) -> None:
    def corner(_m: nn.Module, pixels: Tensor, *_: object) -> Tensor:
        return (pixels + EPS + 0.5 * TOLERANCE).clamp(0, 1)

    assert examine(network, pictures, install(corner)).refuted_claims == 0


def test_a_claim_that_does_not_fool_the_network_breaks_nothing(
    network: nn.Module, pictures: Pictures, install: Install
) -> None:
    """There is no way to say `broken`: the network is asked, whatever else the attack believes."""
    honest = examine(network, pictures, install(lambda _m, pixels, *_: pixels.clone()))
    assert torch.equal(stands(honest), plain(network, pictures) == pictures.labels)


def test_the_verdict_is_the_networks_in_evaluation_mode(
    network: nn.Module, pictures: Pictures, install: Install
) -> None:
    def careless(model: nn.Module, pixels: Tensor, *_: object) -> Tensor:
        model.train()
        return pixels

    before = {name: value.clone() for name, value in network.state_dict().items()}
    exam = examine(network, pictures, install(careless))
    assert torch.equal(stands(exam), plain(network.eval(), pictures) == pictures.labels)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_columns_say_the_same_thing_in_several_ways(network: nn.Module, pictures: Pictures) -> None:
    columns = examine(network, pictures, attack("cw")).columns
    label, prediction = columns["label"], columns["prediction"]
    assert torch.equal(columns["correct"], (columns["clean"] == label) & (prediction == label))
    assert torch.equal(columns["margin"] > 0, prediction == label)
    assert (columns["distance"] <= EPS + TOLERANCE).all()
    broken = (columns["clean"] == label) & ~columns["correct"]
    assert (columns["distance"][broken] > 0).all()
    assert not columns["distance"][columns["clean"] != label].any(), "what was wrong already is left alone"


def test_the_first_pictures_only_and_examples_to_show(network: nn.Module, pictures: Pictures) -> None:
    exam = examine(network, pictures, attack(pictures=20))
    whole = examine(network, pictures, attack())
    assert len(stands(exam)) == 20
    assert torch.equal(exam.columns["label"], pictures.labels[:20])
    # The first batch is the same batch with the same seed; the second is shorter.
    assert torch.equal(stands(exam)[:16], stands(whole)[:16])
    adversarial, clean = exam.examples["adversarial"], exam.examples["clean"]
    assert len(adversarial) == len(clean) > 0
    assert ((adversarial - clean).abs() <= EPS + TOLERANCE).all()
    with torch.no_grad():
        assert torch.equal(network(adversarial).argmax(1), exam.examples["prediction"])
        assert torch.equal(network(clean).argmax(1), exam.examples["clean_prediction"])


def test_every_batch_has_its_own_seed(network: nn.Module, pictures: Pictures, install: Install) -> None:
    seeds: list[int] = []

    def spy(_m: nn.Module, pixels: Tensor, _labels: Tensor, _attack: Attack, seed: int) -> Tensor:
        seeds.append(seed)
        return pixels

    spied = install(spy)
    for seed in (0, 1):
        examine(network, pictures, spied.model_copy(update={"seed": seed}))
    assert seeds == [batch_seed(attack(seed=seed), number) for seed in (0, 1) for number in range(3)]
    assert len(set(seeds)) == 6


def test_the_seed_decides_the_verdicts(network: nn.Module, pictures: Pictures) -> None:
    one, again, other = (examine(network, pictures, attack(steps=1, seed=seed)) for seed in (0, 0, 1))
    assert torch.equal(one.columns["margin"], again.columns["margin"])
    assert not torch.equal(one.columns["margin"], other.columns["margin"])


# --- going on -------------------------------------------------------------------------------------------------


class Killed(BaseException):
    pass


@pytest.mark.parametrize("finished", [0, 1, 2])
def test_an_examination_killed_between_batches_goes_on(
    finished: int, network: nn.Module, pictures: Pictures, tmp_path: Path
) -> None:
    whole = examine(network, pictures, attack())
    counts: list[int] = []

    def kill(count: int) -> None:
        counts.append(count)
        if len(counts) > finished:
            raise Killed

    with pytest.raises(Killed):
        examine(network, pictures, attack(), state=tmp_path, progress=kill)
    kept = {file.name: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    assert len(kept) == finished + 1
    counts.clear()
    torn = examine(network, pictures, attack(), state=tmp_path, progress=counts.append)
    assert counts == [16, 16, 8], "what was done is counted too"
    assert all(file.stat().st_mtime_ns == kept.get(file.name, file.stat().st_mtime_ns) for file in tmp_path.iterdir())
    for name, column in whole.columns.items():
        assert torch.equal(torn.columns[name], column), name
    assert (torn.forward_passes, torn.backward_passes) == (whole.forward_passes, whole.backward_passes)
    assert all(torch.equal(torn.examples[name], value) for name, value in whole.examples.items())


def test_a_damaged_batch_is_examined_again(network: nn.Module, pictures: Pictures, tmp_path: Path) -> None:
    whole = examine(network, pictures, attack(), state=tmp_path)
    (tmp_path / "batch-00001.pt").write_bytes(b"PK half a zip")
    again = examine(network, pictures, attack(), state=tmp_path)
    assert torch.equal(again.columns["margin"], whole.columns["margin"])


# --- first-order attacks --------------------------------------------------------------------------------------


def test_passes_equal_a_count_by_hand(network: nn.Module, pictures: Pictures) -> None:
    """Clean for every picture; for each right one and restart the steps and a look at the end; then the verdict."""
    n, right = len(pictures), int((plain(network, pictures) == pictures.labels).sum())
    exam = examine(network, pictures, attack(steps=3, view="none"))
    assert exam.forward_passes == n + right * (3 + 1) + right
    assert exam.backward_passes == right * 3
    clean = examine(network, pictures, attack("clean", view="none"))
    assert (clean.forward_passes, clean.backward_passes) == (n + right, 0)
    # With a view, the view is asked too whether what the network stands had fooled it.
    exam = examine(network, pictures, attack(steps=3))
    assert exam.forward_passes == n + right * (3 + 1) + right + int(stands(exam).sum())
    assert exam.backward_passes == right * 3


@pytest.mark.parametrize("restarts", [1, 3])
def test_what_has_fallen_is_dropped_and_nothing_else_changes(
    restarts: int, network: nn.Module, pictures: Pictures
) -> None:
    """Against the search that carries every picture along to the end."""
    settings = attack(steps=13, restarts=restarts, view="none")
    pixels, labels = to_pixels(pictures.images), pictures.labels
    found = pgd(network, pixels, labels, settings, seed=3)
    generator = torch.Generator().manual_seed(3)
    slow, open_ = pixels.clone(), torch.ones(len(pixels), dtype=torch.bool)
    for _ in range(restarts):
        tried = maximise(
            network, pixels, objective=lambda logits: cross_entropy(logits, labels), ball=Ball("linf", EPS),
            steps=13, step_size=settings.step_size or 0.0, start="uniform", generator=generator,
            stop=lambda logits: logits.argmax(1) != labels,
        )  # fmt: skip
        slow = torch.where(open_.view(-1, 1, 1, 1), tried, slow)
        open_ &= plain_pixels(network, tried) == labels
    torch.testing.assert_close(found, slow)
    assert 0 < int(open_.sum()) < len(pixels)
    exam = examine(network, pictures, settings)
    right = int((plain(network, pictures) == labels).sum())
    assert exam.backward_passes < 0.95 * restarts * 13 * right


class Linear(nn.Module):
    """logits = W x + b: where the gradient goes is known without computing one."""

    def __init__(self, classes: int, scale: float = 1.0) -> None:
        super().__init__()
        self.weight = torch.randn(classes, 16, generator=torch.Generator().manual_seed(4)) * scale
        self.bias = torch.zeros(classes)

    def forward(self, pictures: Tensor) -> Tensor:
        return pictures.flatten(1) @ self.weight.T + self.bias


def corner(model: Linear, pixels: Tensor, towards: Tensor, away: Tensor) -> Tensor:
    direction = (model.weight[towards] - model.weight[away]).sign().view_as(pixels)
    return (pixels + EPS * direction).clamp(0, 1)


def grey(count: int = 12) -> Tensor:
    return torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(7))


def test_fgsm_is_one_signed_step_of_eps() -> None:
    model, pixels = Linear(2), grey()
    labels = model(pixels).argmax(1)
    found = fgsm(model, pixels, labels, attack("fgsm", step_size=EPS, start="none"), 0)
    torch.testing.assert_close(found, corner(model, pixels, 1 - labels, labels), rtol=0, atol=1e-6)


def test_pgd_on_a_linear_network_finds_the_best_corner_or_stops_when_it_has_won() -> None:
    model, pixels = Linear(2), grey()
    labels = model(pixels).argmax(1)
    found = pgd(model, pixels, labels, attack(steps=40), 0)
    best = corner(model, pixels, 1 - labels, labels)
    won, can_be_won = model(found).argmax(1) != labels, model(best).argmax(1) != labels
    assert torch.equal(won, can_be_won) and won.any() and not won.all()
    torch.testing.assert_close(found[~won], best[~won], rtol=0, atol=1e-6)
    moved = (found - pixels).abs().flatten(1).amax(1)
    assert (moved <= EPS + TOLERANCE).all()


def test_a_picture_that_is_fooled_stays_as_it_is() -> None:
    """With 40 steps it is what it was with the few that it needed: nothing is undone, nothing wanders on."""
    model, pixels = Linear(3), grey()
    labels = model(pixels).argmax(1)
    few, many = (pgd(model, pixels, labels, attack(steps=steps, start="none", eps=0.1), 0) for steps in (3, 40))
    won = model(few).argmax(1) != labels
    assert won.any() and not won.all()
    assert torch.equal(few[won], many[won])
    assert ((many - pixels).abs().flatten(1).amax(1)[won] < 0.09).all(), "and not at the end of the ball"


def test_cw_makes_the_margin_large_and_not_the_cross_entropy() -> None:
    """One step from the picture: towards the runner-up alone, where CE follows every class by its share."""
    model, pixels = Linear(6, scale=0.3), grey()
    logits = model(pixels)
    labels = logits.argmax(1)
    runner_up = logits.scatter(1, labels[:, None], float("-inf")).argmax(1)
    one_step = attack("cw", steps=1, step_size=EPS, start="none")
    found = cw(model, pixels, labels, one_step, 0)
    torch.testing.assert_close(found, corner(model, pixels, runner_up, labels), rtol=0, atol=1e-6)
    by_ce = pgd(model, pixels, labels, one_step, 0)
    assert not torch.equal(found, by_ce)
    gained = margin(model(found), labels) - margin(logits, labels)
    assert (gained > 0).all()


@pytest.mark.parametrize("kind", ["pgd", "cw"])
def test_restarts_never_help_the_network(kind: str, network: nn.Module, pictures: Pictures) -> None:
    """And what the first start broke stays broken: the starts of fewer are the first starts of more."""
    shy = {"eps": 0.12, "steps": 1, "step_size": 0.02}
    verdicts = [stands(examine(network, pictures, attack(kind, **shy, restarts=r))) for r in (1, 2, 8)]
    for fewer, more in itertools.pairwise(verdicts):
        assert not (more & ~fewer).any()
    assert verdicts[-1].sum() < verdicts[0].sum(), "eight one-step starts break more than one does"


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_ball_of_almost_nothing_breaks_nothing_and_a_huge_one_everything(
    norm: str, network: nn.Module, pictures: Pictures
) -> None:
    clean = stands(examine(network, pictures, attack("clean")))
    least = examine(network, pictures, attack(norm=norm, eps=1e-7, step_size=1e-7))
    most = examine(network, pictures, attack(norm=norm, eps=0.99 if norm == "linf" else 8.0, step_size=0.1, steps=60))
    assert torch.equal(stands(least), clean)
    assert not stands(most).any() and most.refuted_claims == 0


# --- the nearest wrong picture ---------------------------------------------------------------------------------


class TwoSides(nn.Module):
    """Which side of a plane a picture lies on; its distance from the plane is known."""

    def __init__(self, direction: Tensor, offset: float) -> None:
        super().__init__()
        self.direction, self.offset = direction, offset

    def forward(self, pictures: Tensor) -> Tensor:
        height = 7.0 * (pictures.flatten(1) @ self.direction - self.offset)
        return torch.stack([height, -height], 1)


def test_cw_l2_finds_the_plane_where_it_is() -> None:
    direction = torch.randn(64, generator=torch.Generator().manual_seed(2))
    model = TwoSides(direction, offset=float(direction.sum()) * 0.5)
    pixels = 0.5 + 0.06 * torch.randn(12, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    logits = model(pixels)
    true = logits[:, 0].abs() / 7.0 / direction.norm()
    found, distance = nearest_wrong(model, pixels, logits.argmax(1), steps=400, rate=0.01, searches=9)
    assert (model(found).argmax(1) != logits.argmax(1)).all()
    assert torch.allclose((found - pixels).flatten(1).norm(dim=1), distance, atol=1e-6)
    assert (distance >= true - 1e-5).all(), "nothing wrong is nearer than the plane"
    assert (distance <= 1.03 * true + 1e-3).all()


def test_cw_l2_counts_what_lies_inside_the_ball_alone() -> None:
    direction = torch.zeros(64)
    direction[0] = 1.0
    model = TwoSides(direction, offset=0.5)
    pixels = torch.full((4, 1, 8, 8), 0.5)
    pixels[:, 0, 0, 0] = torch.tensor([0.51, 0.58, 0.7, 1.0])
    labels = model(pixels).argmax(1)
    found = cw_l2(model, pixels, labels, attack("cw-l2", norm="l2", eps=0.1, steps=200, step_size=0.01, searches=9), 0)
    assert (model(found).argmax(1) != labels).tolist() == [True, True, False, False]
    assert torch.equal(found[2:], pixels[2:]), "a nearest picture out of reach is no claim"


def test_cw_l2_is_about_as_strong_as_pgd_in_l2(network: nn.Module, pictures: Pictures) -> None:
    """Two roads to the same verdicts; PGD follows another loss, so a picture may differ."""
    for eps in (0.3, 0.8):
        by_pgd = stands(examine(network, pictures, attack("cw", norm="l2", eps=eps, steps=50, step_size=eps / 8)))
        nearest = attack("cw-l2", norm="l2", eps=eps, steps=200, step_size=0.02, searches=9)
        by_nearest = stands(examine(network, pictures, nearest))
        assert abs(int(by_pgd.sum()) - int(by_nearest.sum())) <= 2, eps


# --- AutoAttack -----------------------------------------------------------------------------------------------


@pytest.fixture
def fewer_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Square's 5,000 queries are most of the time, and break nothing here that 300 do not."""
    import pyautoattack

    set_version = pyautoattack.AutoAttack._set_version

    def with_fewer(self: Any, version: str = "standard") -> None:
        set_version(self, version)
        self.square.n_queries = 300

    monkeypatch.setattr(pyautoattack.AutoAttack, "_set_version", with_fewer)


@pytest.mark.usefixtures("fewer_queries")
def test_autoattack_is_at_least_as_strong_and_repeats_itself(network: nn.Module, pictures: Pictures) -> None:
    few = pictures.first(20)
    auto = attack("autoattack")
    torch.manual_seed(5)
    before = torch.get_rng_state()
    exam = examine(network, few, auto)
    assert torch.equal(torch.get_rng_state(), before), "it seeds torch's global generator only inside"
    again = examine(network, few, auto)
    assert torch.equal(stands(exam), stands(again)) and torch.equal(exam.columns["margin"], again.columns["margin"])
    assert 0 < stands(exam).sum() < 20
    others = [stands(examine(network, few, attack(kind, steps=20))) for kind in ("pgd", "cw")]
    assert stands(exam).sum() <= min(int(other.sum()) for other in others)
    assert exam.refuted_claims == 0 and exam.backward_passes > 0


@pytest.mark.usefixtures("fewer_queries")
def test_every_part_sees_what_the_parts_before_it_left(network: nn.Module, pictures: Pictures) -> None:
    few = pictures.first(20)
    exam = examine(network, few, attack("autoattack"))
    parts = names.attack_parts("autoattack")
    fell_to = exam.columns["fell_to"]
    assert torch.equal(fell_to == WRONG_BEFORE, plain(network, few) != few.labels)
    assert torch.equal(fell_to == STANDS, stands(exam))
    first = examine(network, few, attack("apgd-ce"))
    assert torch.equal(fell_to == 0, first.columns["fell_to"] == 0), "the first part alone breaks what it breaks here"
    assert int(fell_to.max()) < len(parts)


def test_a_part_that_breaks_the_rules_leaves_the_picture_to_the_next(
    network: nn.Module, pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    def outside(_model: nn.Module, pixels: Tensor, *_: object) -> Tensor:
        return pixels + 10

    monkeypatch.setattr(sys.modules[__name__], "outside", outside, raising=False)
    monkeypatch.setitem(names.ATTACKS, "outside", names.AttackKind(f"{__name__}:outside"))
    facts = names.AttackKind(parts=("outside", "pgd"), reads=("steps", "step_size", "start", "restarts"))
    monkeypatch.setitem(names.ATTACKS, "both", facts)
    both, alone = examine(network, pictures, attack("both")), examine(network, pictures, attack("pgd"))
    assert torch.equal(stands(both), stands(alone)) and torch.equal(both.columns["margin"], alone.columns["margin"])
    right = int((plain(network, pictures) == pictures.labels).sum())
    assert both.refuted_claims == right
    assert set(both.columns["fell_to"].tolist()) == {STANDS, WRONG_BEFORE, 1}


def test_autoattack_on_a_single_picture(network: nn.Module, pictures: Pictures) -> None:
    """The last batch may hold one: the library squeezes shapes, and must not squeeze this one away."""
    right = (plain(network, pictures) == pictures.labels).nonzero()[:1, 0]
    exam = examine(network, pictures[right], attack("autoattack", eps=0.3))
    assert stands(exam).tolist() == [False]


def test_autoattack_refuses_fewer_than_four_classes() -> None:
    model, pixels = Linear(3), grey()
    with pytest.raises(ValueError, match=r"at least 4 classes and this network has 3: use pgd and cw with restarts"):
        apgd_t(model, pixels, model(pixels).argmax(1), attack("apgd-t"), 0)
    with pytest.raises(ValueError, match="at least 4 classes"):  # whether or not its first part leaves anything
        apgd_ce(model, pixels, model(pixels).argmax(1), attack("autoattack"), 0)


class Probabilities(nn.Module):
    """A defence by mistake: softmax as the last layer."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, pictures: Tensor) -> Tensor:
        return torch.softmax(self.inner(pictures), 1)


def test_what_autoattack_warns_of_becomes_a_flag(
    network: nn.Module, pictures: Pictures, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    few = pictures.first(2)
    strong = attack("autoattack", eps=0.3)
    exam = examine(Probabilities(network), few, strong, state=tmp_path)
    assert any("probability distribution" in flag for flag in exam.flags)
    assert not caplog.records, "kept as data, not printed"
    assert not any("probability" in flag for flag in examine(network, few, strong).flags)
    resumed = examine(Probabilities(network), few, strong, state=tmp_path)
    assert resumed.flags == exam.flags, "kept over an interruption"


def test_every_attack_of_the_table_keeps_the_rules(network: nn.Module, pictures: Pictures) -> None:
    few: Any = pictures.first(6)
    for kind, facts in names.ATTACKS.items():
        for norm, eps in (("linf", 0.2), ("l2", 1.0)):
            if norm not in facts.norms:
                continue
            exam = examine(network, few, attack(kind, norm=norm, eps=eps, step_size=eps / 4, steps=10))
            assert exam.refuted_claims == 0, (kind, norm)
            assert (exam.columns["distance"] <= eps + TOLERANCE).all(), (kind, norm)
