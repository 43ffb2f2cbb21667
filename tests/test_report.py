"""From metrics to tables, figures and the page."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from dynat.config import Experiment
from dynat.report import comparisons, figures, latex, page, read_metrics, tables, words, write_metrics, write_report
from dynat.report.comparisons import Comparison
from dynat.report.drawing import colours, spread
from tests.fabricated import ATTACK, experiment, fabricate, read_json, verdicts, write_config


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


def test_training_is_summarised_per_seed(results: Path) -> None:
    training = read_json(results / "dynat" / "metrics.json")["training"]
    assert list(training) == ["0", "1"]
    assert (training["0"]["epochs"], training["0"]["best_epoch"]) == (20, 18)
    assert 0.95 < training["0"]["final_label_accuracy"] < 1
    assert read_json(results / "at" / "metrics.json")["training"]["0"]["final_label_accuracy"] is None


# What is refused


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


def test_the_correction_is_for_all_pairs_of_the_column(tmp_path: Path) -> None:
    """Six discordant pictures alone are p = 0.03; beside another comparison they are no longer enough."""
    better, worse = {0: "1" * 6 + "10"}, {0: "0" * 6 + "10"}
    alone, _ = contest(tmp_path / "alone", a=better, b=worse)
    assert marks(alone)["b"] == (False, "")
    beside, compared = contest(tmp_path / "beside", a=better, b=worse, c=worse)
    assert marks(beside)["b"] == marks(beside)["c"] == (False, "†")
    assert [c.p for c in compared] == [pytest.approx(2 / 64)] * 2
    assert [c.p_corrected for c in compared] == [pytest.approx(3 * 2 / 64)] * 2, (
        "b against c might have been tested too"
    )


def test_the_best_that_loses_on_the_common_seeds_proves_nothing(tmp_path: Path) -> None:
    """Over all its seeds `a` is best; on the one that both have, `b` is right on many more pictures."""
    table, compared = contest(tmp_path, a={0: "0" * 30 + "1" * 10, 1: "1" * 40}, b={0: "1" * 24 + "0" * 16})
    assert compared[0].distinguishable and compared[0].only_run == 24
    assert marks(table) == {"a": (True, ""), "b": (False, "†")}


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


def test_ablations_keep_the_notes_of_their_columns(results: Path) -> None:
    text = (results / "tables" / "ablations.md").read_text()
    heading = text.splitlines()[0]
    assert heading == "| Run | Changed | Clean | FGSM | PGD-20 | AutoAttack<br><sub>n = 100</sub> |"
    assert "n = 200 test pictures unless the column says otherwise, 1 to 2 seeds per run" in text
    assert "with one seed it is no verdict on the change itself" in text


def test_tex_is_whole_and_plain(results: Path) -> None:
    text = (results / "tables" / "main.tex").read_text()
    assert text.isascii()
    assert text.count("{") == text.count("}")
    assert {line.count("&") for line in text.splitlines() if line.endswith(r"\\")} == {6}
    for rule in ("toprule", "midrule", "bottomrule", "resizebox", "begin{table}", "end{table}"):
        assert rule in text


def test_tex_escapes_everything_special() -> None:
    assert latex.tex("50 % & a_b #1 $x {y} ~^") == (r"50 \% \& a\_b \#1 \$x \{y\} \textasciitilde{}\textasciicircum{}")
    assert latex.tex("a\\b †") == r"a\textbackslash{}b $^{\dagger}$"


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


def test_many_runs_are_numbered_and_a_collapsed_one_is_named_outside(tmp_path: Path) -> None:
    """Thirty names on one another say nothing, nor do axes that reach to a run that learned nothing."""
    many = {f"run{i:02d}": {"method": "at"} for i in range(figures.MANY_POINTS + 3)}
    plan = experiment(tmp_path, runs=many, attacks={"clean": {}, "pgd-20": {}}, headline="pgd-20")

    def cell(accuracy: float) -> dict[str, Any]:
        return {"accuracy": accuracy, "low": accuracy - 0.03, "high": accuracy + 0.03, "n": 100}

    metrics = {
        run: {"attacks": {"clean": cell(0.9 + i / 1000), "pgd-20": cell(0.5 + i / 1000)}} for i, run in enumerate(many)
    }
    metrics["run00"]["attacks"] = {"clean": cell(0.3), "pgd-20": cell(0.1)}
    drawn = figures.tradeoff(plan, metrics)
    (panel,) = drawn.figure.axes
    shown = [text.get_text() for text in panel.texts]
    count = len(many) - 1
    assert shown.count("run14") == 1 and shown.index("run14") == 1, "the most robust heads the list"
    assert sorted(shown) == sorted([*2 * [str(i + 1) for i in range(count)], *list(many)[1:]])
    assert panel.get_xlim()[0] > 0.8
    assert "Outside the axes: run00 (clean 30" in drawn.caption


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
