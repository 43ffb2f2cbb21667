"""From fabricated outcome files to metrics, tables, figures and the page."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from safetensors.numpy import save_file

from dynat.config import Experiment, load
from dynat.report import comparisons, figures, page, read_metrics, tables, words, write_metrics, write_report
from dynat.report.comparisons import Comparison
from dynat.report.drawing import colours, spread
from dynat.report.metrics import run_metrics
from dynat.report.statistics import wilson

PRESET = """
dataset: {name: digits, source: digits}
threat: {norm: linf, eps: 0.15}
training: {target: small, guide: small, epochs: 20}
seeds: [0, 1]
runs:
  natural: {method: natural, seeds: [0]}
  at: {method: at}
  trades: {method: trades, consistency: 6.0}
  lbgat6: {method: lbgat, consistency: 6.0}
  dynat: {method: at, labels: dynamic}
  dynat-kl-inner: {method: at, labels: dynamic, inner: {objective: kl}, seeds: [0]}
attacks: {clean: {}, fgsm: {}, pgd-20: {}, autoattack: {pictures: 100}}
headline: autoattack
"""
ATTACK = {"kind": "pgd", "eps": 0.15, "norm": "linf", "weights": "best"}
CLEAN = {**ATTACK, "kind": "clean"}
HARDNESS = {"clean": 0.0, "fgsm": 0.2, "pgd": 0.32, "cw": 0.34, "autoattack": 0.38}
SKILL = {"natural": 0.99, "at": 0.86, "trades": 0.845, "lbgat6": 0.7, "dynat": 0.88, "dynat-kl-inner": 0.875}


def experiment(folder: Path, **over: Any) -> Experiment:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "small.yaml").write_text(yaml.safe_dump({**yaml.safe_load(PRESET), **over}, sort_keys=False))
    return load({"preset": "small"}, presets=folder)


def fabricate(results: Path, plan: Experiment, *, pictures: int = 200, classes: int = 10) -> Path:
    """Files as training and evaluation write them, from skills and hardnesses."""
    for number, (run, settings) in enumerate(plan.runs.items()):
        for seed in plan.seeds[run]:
            _train(results / run / f"seed{seed}", plan, run, seed, classes)
        for name, attack in plan.attacks.items():
            count = min(attack.pictures or pictures, pictures)
            hardness = HARDNESS[attack.kind] * (3 if settings.method == "natural" else 1)
            rows = [
                row
                for seed in plan.seeds[run]
                for row in _verdicts(seed, number, SKILL.get(run, 0.8) - hardness, pictures, classes)[:count]
            ]
            write_outcome(results / run, name, rows, attack=attack.model_dump(mode="json"))
            _examples(results / run / "outcomes" / f"{name}.examples.safetensors", attack.eps or 0.1)
    return results


def _verdicts(seed: int, run: int, skill: float, pictures: int, classes: int) -> list[tuple[int, int, int, int]]:
    shared = np.random.default_rng(0).uniform(size=pictures)
    own = np.random.default_rng([seed, run]).normal(0, 0.04, size=pictures)
    return [(seed, i, i % classes, int(shared[i] + own[i] < skill - 0.02 * (i % 5))) for i in range(pictures)]


def write_outcome(folder: Path, name: str, rows: list[tuple[int, int, int, int]], *, attack: dict[str, Any]) -> None:
    """rows: seed, index, label, correct."""
    (folder / "outcomes").mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame(rows, columns=["seed", "index", "label", "correct"])
    table = table.assign(clean=table.label, prediction=table.label + 1 - table.correct, margin=0.5, distance=0.1)
    order = ["seed", "index", "label", "clean", "prediction", "correct", "margin", "distance"]
    table[order].to_csv(folder / "outcomes" / f"{name}.csv", index=False)
    seeds = sorted({row[0] for row in rows})
    facts = {
        "run": folder.name,
        "attack_name": name,
        "attack": attack,
        "seeds": seeds,
        "seconds": {str(seed): 1.25 + seed for seed in seeds},
        "forward_passes": 21 * len(rows),
        "backward_passes": 20 * len(rows),
        "refuted_claims": 0,
        "flags": [],
        "device": "x86_64 CPU, 2 cores, 1 threads used",
        "digest": {str(seed): "0123456789abcdef" for seed in seeds},
    }
    (folder / "outcomes" / f"{name}.json").write_text(json.dumps(facts))


def write_config(folder: Path, **over: Any) -> None:
    """The least that a seed's config.json and history.csv say."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "preset": "small",
        "name": folder.parent.name,
        "run": {"method": "at", "beta": None},
        "threat": {"norm": "linf", "eps": 0.15},
        "dataset": {"name": "digits", "classes": list("0123456789")},
        "digest": "0123456789abcdef",
        "best_epoch": 18,
        "training_seconds": 16.0,
        "parameters": {"target": 24_634, "guide": None},
        "versions": {"dynat": "0.1.0", "torch": "2.13.0", "python": "3.11.9"},
        "machine": "x86_64 CPU, 2 cores",
        **over,
    }
    (folder / "config.json").write_text(json.dumps(config))
    if not (folder / "history.csv").exists():
        (folder / "history.csv").write_text("epoch,loss,clean,pgd,seconds\n1,2.0,0.5,0.2,0.8\n")


def _train(folder: Path, plan: Experiment, run: str, seed: int, classes: int) -> None:
    folder.mkdir(parents=True)
    settings = plan.runs[run]
    epoch = np.arange(1, 21)
    noise = np.random.default_rng([seed, len(run)]).normal(0, 0.006, size=20)
    skill = SKILL.get(run, 0.8)
    history = pd.DataFrame({"epoch": epoch, "learning_rate": 0.1, "loss": 2 / epoch})
    if settings.guide:
        history["label_accuracy"] = 1 - np.exp(-epoch / (6 * skill + seed)) * 0.7 - 0.1 * (1 - skill)
    history["clean"] = skill * (1 - 0.8 * np.exp(-epoch / 3)) + noise
    history["pgd"] = (0 if settings.method == "natural" else skill - 0.3) * (1 - np.exp(-epoch / 5)) + np.abs(noise)
    history.loc[history.epoch % 2 == 1, ["clean", "pgd"]] = np.nan
    history["seconds"] = 0.8
    history.to_csv(folder / "history.csv", index=False)
    write_config(
        folder,
        **plan.training(run).model_dump(mode="json"),
        seed=seed,
        dataset={"name": plan.dataset.name, "classes": [f"class {c}" for c in range(classes)]},
        parameters={"target": 24_634, "guide": 24_634 if settings.guide else None},
    )


def _examples(file: Path, eps: float) -> None:
    rng = np.random.default_rng(3)
    clean = rng.uniform(size=(8, 1, 8, 8)).astype(np.float32)
    adversarial = np.clip(clean + rng.choice([-eps, eps], size=clean.shape), 0, 1).astype(np.float32)
    label = np.arange(8)
    seen = {"label": label, "clean_prediction": label, "prediction": label + (label % 2)}
    save_file({"clean": clean, "adversarial": adversarial, **seen}, file, {"classes": json.dumps(list("0123456789"))})


def reported(results: Path, plan: Experiment, **options: Any) -> Path:
    fabricate(results, plan, **options)
    for run in plan.runs:
        write_metrics(results / run)
    write_report(results, plan)
    return results


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    return experiment(tmp_path_factory.mktemp("presets"))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, plan: Experiment) -> Path:
    """Six runs, some with two seeds, some with one, reported; only to be read."""
    return reported(tmp_path_factory.mktemp("results") / "small", plan)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of two seeds and five pictures whose every number is known by hand."""
    folder = tmp_path / "results" / "small" / "at"
    for seed in (0, 1):
        write_config(folder / f"seed{seed}")
    verdicts(folder, "clean", {0: "11110", 1: "11100"}, CLEAN)
    verdicts(folder, "pgd-20", {0: "11010", 1: "11000"}, ATTACK)
    verdicts(folder, "cw-20", {0: "01100", 1: "10100"}, ATTACK)
    return folder


def verdicts(folder: Path, name: str, by_seed: dict[int, str], attack: dict[str, Any]) -> None:
    """Outcomes from strings of 1 and 0; the class of a picture is its index modulo 2."""
    rows = [(seed, i, i % 2, int(v)) for seed, text in by_seed.items() for i, v in enumerate(text)]
    write_outcome(folder, name, rows, attack=attack)


# Metrics


def test_metrics_by_hand(run: Path) -> None:
    cell = run_metrics(run)["attacks"]["pgd-20"]
    assert cell["accuracy"] == pytest.approx(0.5)
    assert (cell["n"], cell["seeds"]) == (5, [0, 1])
    assert cell["per_seed"] == {"0": 0.6, "1": 0.4}
    assert cell["mean"] == pytest.approx(0.5)
    assert cell["std"] == pytest.approx(np.std([0.6, 0.4], ddof=1))
    assert cell["per_class"] == {"0": pytest.approx(2 / 6), "1": pytest.approx(3 / 4)}
    assert cell["cost"]["seconds"] == pytest.approx(1.25 + 2.25)


def test_the_interval_counts_pictures_not_seeds(run: Path) -> None:
    cell = run_metrics(run)["attacks"]["pgd-20"]
    assert (cell["low"], cell["high"]) == wilson(2.5, 5)


def test_worst_case_is_per_picture_not_per_column(run: Path) -> None:
    worst = run_metrics(run)["worst"]
    assert worst["per_seed"] == {"0": 0.2, "1": 0.2}  # pgd-20 leaves 0.6 and 0.4, cw-20 0.4 and 0.4
    assert sorted(worst["attacks"]) == ["clean", "cw-20", "pgd-20"]


def test_worst_case_is_over_the_pictures_that_all_attacks_examined(run: Path) -> None:
    verdicts(run, "autoattack", {0: "11", 1: "01"}, ATTACK)
    worst = run_metrics(run)["worst"]
    assert worst["n"] == 2
    assert worst["per_seed"] == {"0": 0.5, "1": 0.0}


@pytest.mark.parametrize("other", [{"weights": "last"}, {"eps": 0.3}, {"norm": "l2"}])
def test_worst_case_is_of_one_checkpoint_and_one_ball(run: Path, other: dict[str, Any]) -> None:
    before = run_metrics(run)["worst"]
    verdicts(run, "pgd-other", {0: "00000", 1: "00000"}, {**ATTACK, **other})
    after = run_metrics(run)
    assert after["worst"] == before
    assert after["attacks"]["pgd-other"]["accuracy"] == 0


def test_one_seed_has_no_spread(run: Path) -> None:
    verdicts(run, "pgd-20", {0: "11010"}, ATTACK)
    cell = run_metrics(run, ["pgd-20"])["attacks"]["pgd-20"]
    assert (cell["std"], cell["mean"], cell["n"]) == (None, pytest.approx(0.6), 5)


def test_metrics_hold_the_attacks_asked_for_and_no_stale_one(run: Path) -> None:
    assert list(run_metrics(run, ["pgd-20", "clean"])["attacks"]) == ["pgd-20", "clean"]


def test_training_is_summarised_per_seed(results: Path) -> None:
    training = read_json(results / "dynat" / "metrics.json")["training"]
    assert list(training) == ["0", "1"]
    assert (training["0"]["epochs"], training["0"]["best_epoch"]) == (20, 18)
    assert 0.95 < training["0"]["final_label_accuracy"] < 1
    assert read_json(results / "at" / "metrics.json")["training"]["0"]["final_label_accuracy"] is None


def test_metrics_are_the_same_bytes_twice(run: Path) -> None:
    assert write_metrics(run).read_bytes() == write_metrics(run).read_bytes()


def read_json(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.read_text())
    return content


# What is refused


def _remove(name: str) -> Any:
    return lambda run: (run / name).unlink()


def _same_row_twice(run: Path) -> None:
    write_outcome(run, "pgd-20", [(0, 7, 0, 1), (0, 7, 0, 0)], attack=ATTACK)


def _half_a_verdict(run: Path) -> None:
    write_outcome(run, "pgd-20", [(0, 0, 0, 2)], attack=ATTACK)


def _no_picture(run: Path) -> None:
    write_outcome(run, "pgd-20", [], attack=ATTACK)


def _foreign_seeds(run: Path) -> None:
    file = run / "outcomes" / "pgd-20.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "seeds": [0, 4]}))


def _no_json(run: Path) -> None:
    (run / "outcomes" / "pgd-20.json").write_text("{")


def _other_settings(run: Path) -> None:
    write_config(run / "seed1", run={"method": "at", "beta": 6.0})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_remove("outcomes/pgd-20.csv"), r"pgd-20\.csv: no such file; make it with: snakemake --cores all \S+csv"),
        (_remove("outcomes/pgd-20.json"), r"pgd-20\.json: no such file; make it with: snakemake"),
        (_remove("seed1/config.json"), r"seed1/config\.json: no such file; make it with: snakemake"),
        (_remove("seed1/history.csv"), r"seed1/history\.csv: no such file; make it with: snakemake"),
        (_same_row_twice, r"pgd-20\.csv: seed 0 has two verdicts on picture 7"),
        (_half_a_verdict, r"pgd-20\.csv: column 'correct' holds something other than 0 and 1"),
        (_no_picture, r"pgd-20\.csv: not one picture was examined"),
        (_foreign_seeds, r"pgd-20\.csv: its seeds are not those of pgd-20\.json"),
        (_no_json, r"pgd-20\.json: not valid JSON"),
        (_other_settings, r"seed1/config\.json: run\.beta is not that of seed 0, so they are not one run"),
    ],
)
def test_damage_is_named_with_the_way_out(run: Path, damage: Any, message: str) -> None:
    damage(run)
    with pytest.raises(ValueError, match=message):
        run_metrics(run, ["clean", "pgd-20", "cw-20"])


def test_a_run_without_outcomes_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"no outcome of any attack; make one with: snakemake --cores all .*clean\.csv"
    ):
        run_metrics(tmp_path / "at")


def test_a_report_names_the_metrics_that_are_missing(tmp_path: Path, results: Path, plan: Experiment) -> None:
    copy = shutil.copytree(results, tmp_path / "small")
    (copy / "trades" / "metrics.json").unlink()
    with pytest.raises(ValueError, match=r"trades/metrics\.json: no such file; make it with: snakemake --cores all"):
        write_report(copy, plan)


def test_a_report_refuses_metrics_without_one_of_its_attacks(results: Path, plan: Experiment, tmp_path: Path) -> None:
    copy = shutil.copytree(results, tmp_path / "small")
    write_metrics(copy / "at", ["clean", "autoattack"])
    with pytest.raises(ValueError, match=r"at/metrics\.json: knows nothing of attack 'fgsm'"):
        read_metrics(copy, plan)
    (copy / "at" / "outcomes" / "fgsm.csv").unlink()
    with pytest.raises(ValueError, match=r"at/outcomes/fgsm\.csv: no such file; make it with"):
        read_metrics(copy, plan)


def test_a_report_refuses_a_worst_case_over_attacks_it_does_not_name(results: Path, tmp_path: Path) -> None:
    fewer = experiment(tmp_path, attacks={"clean": {}, "autoattack": {"pictures": 100}})
    with pytest.raises(ValueError, match=r"worst case counts 'fgsm', an attack that the experiment does not name"):
        read_metrics(results, fewer)


# Bold and daggers


def contest(tmp_path: Path, **by_run: dict[int, str]) -> tuple[tables.Table, list[Comparison]]:
    """The table of runs with these verdicts under one attack."""
    names = list(by_run)
    plan = experiment(
        tmp_path,
        runs={name: {"method": "at", "seeds": list(by_run[name])} for name in names},
        attacks={"pgd-20": {}},
        headline="pgd-20",
    )
    results = tmp_path / "results"
    for name, seeds in by_run.items():
        for seed in seeds:
            write_config(results / name / f"seed{seed}")
        verdicts(results / name, "pgd-20", seeds, ATTACK)
        write_metrics(results / name)
    metrics = read_metrics(results, plan)
    compared = comparisons.compare(results, metrics, tables.columns(plan, metrics))
    return tables.build(plan, metrics, compared), compared


def marks(table: tables.Table) -> dict[str, tuple[bool, str]]:
    return {row.run: (cell.best, cell.mark) for row, _, cell in table.cells()}


def test_a_run_that_wins_on_many_pictures_is_told_apart(tmp_path: Path) -> None:
    table, _ = contest(tmp_path, a={0: "1" * 40}, b={0: "1" * 20 + "0" * 20}, c={0: "1" * 39 + "0"})
    assert marks(table) == {"a": (True, ""), "b": (False, ""), "c": (False, "†")}


def test_holm_is_over_the_column(tmp_path: Path) -> None:
    """Six discordant pictures alone are p = 0.03; beside another comparison they are no longer enough."""
    better, worse = {0: "1" * 6 + "10"}, {0: "0" * 6 + "10"}
    alone, _ = contest(tmp_path / "alone", a=better, b=worse)
    assert marks(alone)["b"] == (False, "")
    beside, compared = contest(tmp_path / "beside", a=better, b=worse, c=worse)
    assert marks(beside)["b"] == marks(beside)["c"] == (False, "†")
    assert [c.p for c in compared] == [pytest.approx(2 / 64)] * 2
    assert [c.p_holm for c in compared] == [pytest.approx(4 / 64)] * 2


def test_ties_are_all_bold_and_need_no_dagger(tmp_path: Path) -> None:
    table, _ = contest(tmp_path, a={0: "1100"}, b={0: "0011"}, c={0: "1000"})
    assert marks(table) == {"a": (True, ""), "b": (True, ""), "c": (False, "†")}


def test_pairs_are_over_common_seeds(tmp_path: Path) -> None:
    table, compared = contest(tmp_path, a={0: "1111", 1: "1111"}, b={1: "1000", 2: "0000"}, c={5: "0000"})
    assert [(c.run, c.seeds, c.pictures, c.only_best) for c in compared] == [("b", (1,), 4, 3), ("c", (), 0, 0)]
    assert marks(table)["c"] == (False, "‡")
    assert tables.notes(table)[1].startswith("‡ no seed in common")


def test_a_single_run_is_compared_with_nothing(tmp_path: Path) -> None:
    table, compared = contest(tmp_path, a={0: "1010"})
    assert compared == []
    assert marks(table) == {"a": (True, "")}
    assert "†" not in tables.to_markdown(table)


# Tables


def test_csv_holds_every_number_of_the_metrics(results: Path, plan: Experiment) -> None:
    frame = pd.read_csv(results / "tables" / "main.csv")
    assert list(frame["run"].unique()) == list(plan.runs)
    assert list(frame["attack"].unique()) == [*plan.attacks, "worst"]
    for row in frame.to_dict("records"):
        cell = comparisons.column_metrics(read_json(results / row["run"] / "metrics.json"), row["attack"])
        assert cell is not None
        for name in ("accuracy", "low", "high", "mean", "n"):
            assert row[name] == pytest.approx(cell[name], abs=0)
        assert str(row["seeds"]) == " ".join(map(str, cell["seeds"]))


def test_markdown_shows_spread_or_interval_and_says_n(results: Path) -> None:
    text = (results / "tables" / "main.md").read_text()
    rows = {line.split("`")[1]: line for line in text.splitlines() if line.startswith("| `")}
    assert len(rows) == 6
    assert " ± " in rows["at"]
    assert "<sub>[" not in rows["at"]
    assert "<sub>[" in rows["natural"]
    assert "AutoAttack<br><sub>n = 100</sub>" in text
    assert "n = 200 test pictures unless the column says otherwise, 1 to 2 seeds per run" in text
    assert "ε = 0.15" in text
    assert len({line.count("|") for line in text.splitlines() if line.startswith("|")}) == 1


def test_tex_is_whole_and_plain(results: Path) -> None:
    text = (results / "tables" / "main.tex").read_text()
    assert text.isascii()
    assert text.count("{") == text.count("}")
    assert {line.count("&") for line in text.splitlines() if line.endswith(r"\\")} == {6}
    for rule in ("toprule", "midrule", "bottomrule", "resizebox", "begin{table}", "end{table}"):
        assert rule in text


def test_tex_escapes_everything_special() -> None:
    assert tables.tex("50 % & a_b #1 $x {y} ~^") == (r"50 \% \& a\_b \#1 \$x \{y\} \textasciitilde{}\textasciicircum{}")
    assert tables.tex("a\\b †") == r"a\textbackslash{}b $^{\dagger}$"


def test_columns_say_what_sets_them_apart(tmp_path: Path) -> None:
    attacks = {
        "clean": {},
        "pgd-20": {},
        "pgd-last": {"kind": "pgd", "weights": "last"},
        "far": {"kind": "pgd", "eps": 0.3},
    }
    plan = experiment(tmp_path, attacks=attacks, headline="pgd-20", runs={"at": {"method": "at"}})
    table = build(reported(tmp_path / "results", plan), plan)
    assert {c.name: c.note for c in table.columns} == {
        "clean": "", "pgd-20": "", "pgd-last": "last epoch", "far": "L∞, ε = 0.3", "worst": "",
    }  # fmt: skip


def build(results: Path, plan: Experiment) -> tables.Table:
    metrics = read_metrics(results, plan)
    return tables.build(plan, metrics, comparisons.compare(results, metrics, tables.columns(plan, metrics)))


@pytest.mark.parametrize(("n", "text"), [(9_999, "12.3"), (10_000, "12.35")])
def test_percentages_show_what_n_can_tell(n: int, text: str) -> None:
    assert words.percent(0.123456, n) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(4.25, "4.2 s"), (59.97, "1 min 00 s"), (3599.7, "1 h 00 min"), (245, "4 min 05 s"), (7_400, "2 h 03 min")],
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert words.duration(seconds) == text


# Figures


def test_every_figure_is_there_twice_and_the_svg_parses(results: Path) -> None:
    for name in figures.NAMES:
        assert (results / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        text = (results / "figures" / f"{name}.svg").read_text()
        ElementTree.fromstring(text)
        assert "<metadata" not in text
        assert "DOCTYPE" not in text


def test_everything_is_the_same_bytes_twice(results: Path, plan: Experiment, tmp_path: Path) -> None:
    copy = shutil.copytree(results, tmp_path / "small")
    shutil.rmtree(copy / "figures")
    write_report(copy, plan)
    made = [f"figures/{name}.{ending}" for name in figures.NAMES for ending in ("svg", "png")]
    for name in [*made, "report.html", "tables/main.csv", "tables/main.md", "tables/main.tex"]:
        assert (copy / name).read_bytes() == (results / name).read_bytes(), name


def test_two_runs_without_a_guide_and_a_hundred_classes(tmp_path: Path) -> None:
    runs = {"at": {"method": "at", "seeds": [0]}, "trades": {"method": "trades", "consistency": 6.0, "seeds": [3]}}
    plan = experiment(tmp_path, runs=runs)
    folder = reported(tmp_path / "results", plan, pictures=300, classes=100)
    text = (folder / "report.html").read_text()
    assert "No run has a guide." in text
    assert "No run with dynamic labels has kept a picture" in text
    assert "A dot per class" in text
    assert "could not be tested against it" in text


def test_a_single_run_under_clean_alone(tmp_path: Path) -> None:
    plan = experiment(tmp_path, runs={"at": {"method": "at"}}, attacks={"clean": {}}, headline="clean")
    text = (reported(tmp_path / "results", plan) / "report.html").read_text()
    assert "On clean pictures, <code>at</code> is right on" in text
    assert "Not drawn: needs the attack" in text
    assert "Worst case" not in text


def test_a_run_keeps_its_colour_and_no_two_share_one(plan: Experiment) -> None:
    chosen = colours(plan.runs)
    assert len(set(chosen.values())) == len(plan.runs)
    fewer = colours({name: plan.runs[name] for name in ("dynat", "lbgat6", "natural")})
    assert fewer == {name: chosen[name] for name in fewer}


@pytest.mark.parametrize(
    ("heights", "expected"),
    [
        ([0.2, 0.6], [0.2, 0.6]),
        ([0.5, 0.5], [0.45, 0.55]),
        ([0.98, 1.0], [0.9, 1.0]),
        ([0.0, 0.02, 0.5], [0.0, 0.1, 0.5]),
        ([0.3, 0.32, 0.45], [0.2566667, 0.3566667, 0.4566667]),
    ],
)
def test_names_are_pushed_apart_as_little_as_needed(heights: list[float], expected: list[float]) -> None:
    assert spread(heights, 0.1) == pytest.approx(expected)


# The page


def test_the_page_stands_alone(results: Path) -> None:
    text = (results / "report.html").read_text()
    addresses = re.findall(r"""(?:src|href|action|data|poster)\s*=\s*["']?([^"'\s>]+)""", text)
    assert len(addresses) == len(figures.NAMES)
    assert all(address.startswith("data:image/") for address in addresses)
    for way_out in ("http:", "https:", "<script", "<link", "@import", "url(", "<iframe"):
        assert way_out not in text


def test_the_page_says_who_is_best_and_who_cannot_be_told_from_it(results: Path) -> None:
    text = (results / "report.html").read_text()
    found = re.search(r"<h1>(.*)</h1>", text)
    assert found is not None
    assert "Under AutoAttack, <code>dynat" in found[1]
    assert "but a paired test cannot tell" in found[1]
    assert "2408.13102" in text


def test_the_page_shows_config_digest_versions_and_flags(results: Path, plan: Experiment, tmp_path: Path) -> None:
    copy = shutil.copytree(results, tmp_path / "small")
    facts = read_json(copy / "at" / "outcomes" / "autoattack.json")
    facts["flags"] = ["zero gradients on <b>3</b> pictures"]
    (copy / "at" / "outcomes" / "autoattack.json").write_text(json.dumps(facts))
    write_metrics(copy / "at")
    write_report(copy, plan)
    text = (copy / "report.html").read_text()
    for said in ("0123456789abcdef", "torch 2.13.0", "method: lbgat", "x86_64 CPU, 2 cores"):
        assert said in text
    assert "at, AutoAttack: zero gradients on &lt;b&gt;3&lt;/b&gt; pictures" in text


@pytest.mark.parametrize(
    ("by_run", "said"),
    [
        ({"a": {0: "1" * 40}, "b": {0: "1" * 9 + "0" * 31}}, "and every other run is distinguishably lower"),
        ({"a": {0: "1110"}, "b": {0: "1100"}}, "but a paired test can tell no other run from it"),
        ({"a": {0: "10"}, "b": {0: "01"}}, "`a` and `b` share the highest accuracy, 50.0 %"),
    ],
)
def test_the_headline_claims_no_more_than_the_test(tmp_path: Path, by_run: Any, said: str) -> None:
    table, _ = contest(tmp_path, **by_run)
    runs = {name: {"method": "at"} for name in by_run}
    plan = experiment(tmp_path, runs=runs, attacks={"pgd-20": {}}, headline="pgd-20")
    assert said in page.headline(plan, read_metrics(tmp_path / "results", plan), table)


def test_the_report_never_imports_torch() -> None:
    modules = "metrics, outcomes, comparisons, statistics, tables, figures, gallery, drawing, page, words"
    code = f"import sys; from dynat.report import {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
