"""From metrics to tables, figures and the page."""

from __future__ import annotations

import gc
import re
import shutil
import subprocess
import sys
import weakref
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from matplotlib import pyplot, rc_context
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.figure import Figure

from dynat.config import Experiment
from dynat.config.report import ReportConfig
from dynat.report import (
    comparisons,
    formatting,
    latex,
    page,
    plotting,
    read_all_metrics,
    tables,
    write_report,
)
from dynat.report.comparisons import Comparison
from dynat.report.curves import epochs
from dynat.report.figure_list import FIGURES, figures_of, formats_of
from dynat.report.markdown import escape
from dynat.report.plotting import colors
from dynat.report.precisions import mixed_precision_warnings
from dynat.report.text_placement import spread
from dynat.results.history import history_of
from dynat.results.metrics import read_metrics, write_metrics
from dynat.results.paths import ExperimentFiles
from dynat.results.records import RunMetrics, TrainingRecord, read_record, write_record
from dynat.results.transfer import read_transfer
from dynat.runtime.errors import UserError
from tests.fake_results import (
    ATTACK,
    experiment,
    verdicts,
    write_fake_results,
    write_outcome,
    write_training,
    write_transfer,
)


def reported(folder: Path, plan: Experiment, **options: Any) -> ExperimentFiles:
    files = write_fake_results(ExperimentFiles(folder), plan, **options)
    for run in plan.rows:
        write_metrics(files.run(run).folder)
    write_report(files, plan)
    return files


def compare(files: ExperimentFiles, plan: Experiment, metrics: Mapping[str, RunMetrics]) -> list[Comparison]:
    columns = tables.columns(plan, metrics)
    return comparisons.compare(comparisons.read_verdicts(files, metrics, columns), metrics, columns)


def test_each_result_file_is_read_once(results: ExperimentFiles, plan: Experiment, tmp_path: Path) -> None:
    """A column is compared run by run, and the worst case is made of all attacks: none of it reads a file again."""
    files, reads, opened = copy_of(results, tmp_path), Counter[Path](), Path.open

    def counted(file: Path, mode: str = "r", *rest: Any, **options: Any) -> Any:
        if "r" in mode and file.suffix in (".csv", ".json"):
            reads[file] += 1
        return opened(file, mode, *rest, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "open", counted)
        write_report(files, plan)
    outcomes = [
        file(name)
        for run in map(files.run, plan.rows)
        for file in (run.outcome, run.outcome_record)
        for name in plan.attacks
    ]
    assert set(outcomes) <= set(reads)
    assert {file: count for file, count in reads.items() if count > 1} == {}


def test_one_figure_is_open_at_a_time(results: ExperimentFiles, plan: Experiment, tmp_path: Path) -> None:
    """And none in pyplot, which keeps its figures. A text that is measured makes no renderer of its own."""
    open_figures: list[weakref.ref[Figure]] = []
    renderers: list[int] = []
    save, init = plotting.save, RendererAgg.__init__

    def counted(figure: Figure, to: Sequence[Path]) -> None:
        gc.collect()
        assert [name for name in open_figures if name() is not None] == []
        open_figures.append(weakref.ref(figure))
        renderers.append(0)
        save(figure, to)

    def made(renderer: RendererAgg, *size: float) -> None:
        renderers[-1] += 1
        init(renderer, *size)

    renderers.append(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plotting, "save", counted)
        patch.setattr(RendererAgg, "__init__", made)
        write_report(copy_of(results, tmp_path), plan)
    assert len(open_figures) == len(figures_of(plan))
    assert max(renderers) <= 4
    assert pyplot.get_fignums() == []


def copy_of(files: ExperimentFiles, tmp_path: Path) -> ExperimentFiles:
    return ExperimentFiles(shutil.copytree(files.folder, tmp_path / "small"))


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    return experiment(tmp_path_factory.mktemp("presets"))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, plan: Experiment) -> ExperimentFiles:
    """Six runs, some with two seeds, some with one, reported; only to be read."""
    return reported(tmp_path_factory.mktemp("results") / "small", plan)


def test_training_is_summarized_per_seed(results: ExperimentFiles) -> None:
    training = read_metrics(results.run("dynat")).training
    assert list(training) == [0, 1]
    assert (training[0].epochs, training[0].best_epoch) == (20, 18)
    assert training[0].final_label_accuracy is not None and 0.95 < training[0].final_label_accuracy < 1
    assert read_metrics(results.run("at")).training[0].final_label_accuracy is None


# What is refused


def test_a_report_names_the_metrics_that_are_missing(
    tmp_path: Path, results: ExperimentFiles, plan: Experiment
) -> None:
    copy = copy_of(results, tmp_path)
    copy.run("trades").metrics.unlink()
    with pytest.raises(UserError, match=r"trades/metrics\.json: no such file; make it with: snakemake --cores all"):
        write_report(copy, plan)


def test_a_report_refuses_metrics_without_one_of_its_attacks(
    results: ExperimentFiles, plan: Experiment, tmp_path: Path
) -> None:
    copy = copy_of(results, tmp_path)
    write_metrics(copy.run("at").folder, ["clean", "autoattack"])
    with pytest.raises(UserError, match=r"at/metrics\.json: has no attack 'fgsm'"):
        read_all_metrics(copy, plan)
    copy.run("at").outcome("fgsm").unlink()
    with pytest.raises(UserError, match=r"at/outcomes/fgsm\.csv: no such file; make it with"):
        read_all_metrics(copy, plan)


def test_a_report_refuses_a_worst_case_over_attacks_it_does_not_name(results: ExperimentFiles, tmp_path: Path) -> None:
    fewer = experiment(tmp_path, attacks={"clean": {}, "autoattack": {"images": 100}})
    with pytest.raises(UserError, match=r"worst case counts 'fgsm', an attack that the experiment does not name"):
        read_all_metrics(results, fewer)


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
    results = ExperimentFiles(tmp_path / "results")
    for name, seeds in by_run.items():
        run = results.run(name)
        for seed in seeds:
            write_training(run.seed(seed))
        verdicts(run, "pgd-20", seeds, ATTACK)
        write_metrics(run.folder)
    metrics = read_all_metrics(results, plan)
    compared = compare(results, plan, metrics)
    return tables.build(plan, metrics, compared), compared


def marks(table: tables.Table) -> dict[str, tuple[bool, str]]:
    return {row.run: (cell.best, cell.mark) for row, _, cell in table.cells()}


def test_a_run_that_is_better_on_many_images_is_distinguished(tmp_path: Path) -> None:
    table, _ = contest(tmp_path, a={0: "1" * 40}, b={0: "1" * 20 + "0" * 20}, c={0: "1" * 39 + "0"})
    assert marks(table) == {"a": (True, ""), "b": (False, ""), "c": (False, "†")}


def test_the_correction_is_for_all_pairs_of_the_column(tmp_path: Path) -> None:
    """Six discordant images alone are p = 0.03; beside another comparison they are no longer enough."""
    better, worse = {0: "1" * 6 + "10"}, {0: "0" * 6 + "10"}
    alone, _ = contest(tmp_path / "alone", a=better, b=worse)
    assert marks(alone)["b"] == (False, "")
    beside, compared = contest(tmp_path / "beside", a=better, b=worse, c=worse)
    assert marks(beside)["b"] == marks(beside)["c"] == (False, "†")
    assert [c.p for c in compared] == [pytest.approx(2 / 64)] * 2
    assert [c.p_corrected for c in compared] == [pytest.approx(3 * 2 / 64)] * 2, (
        "b against c could have been compared too"
    )


def test_a_best_run_that_loses_on_the_common_seeds_is_not_distinguished(tmp_path: Path) -> None:
    """Over all its seeds `a` is best; on the one that both have, `b` is correct on many more images."""
    table, compared = contest(tmp_path, a={0: "0" * 30 + "1" * 10, 1: "1" * 40}, b={0: "1" * 24 + "0" * 16})
    assert compared[0].distinguishable and compared[0].only_run == 24
    assert marks(table) == {"a": (True, ""), "b": (False, "†")}


def test_tied_runs_are_all_bold_without_dagger(tmp_path: Path) -> None:
    table, _ = contest(tmp_path, a={0: "1100"}, b={0: "0011"}, c={0: "1000"})
    assert marks(table) == {"a": (True, ""), "b": (True, ""), "c": (False, "†")}


def test_runs_are_compared_over_their_common_seeds(tmp_path: Path) -> None:
    table, compared = contest(tmp_path, a={0: "1111", 1: "1111"}, b={1: "1000", 2: "0000"}, c={5: "0000"})
    assert [(c.run, c.seeds, c.images, c.only_best) for c in compared] == [("b", (1,), 4, 3), ("c", (), 0, 0)]
    assert marks(table)["c"] == (False, "‡")
    assert tables.notes(table)[1].startswith("‡ no seed in common")


def test_a_single_run_is_compared_with_nothing(tmp_path: Path) -> None:
    table, compared = contest(tmp_path, a={0: "1010"})
    assert compared == []
    assert marks(table) == {"a": (True, "")}
    assert "†" not in tables.to_markdown(table)


# Tables


def test_csv_holds_every_number_of_the_metrics(results: ExperimentFiles, plan: Experiment) -> None:
    frame = pd.read_csv(results.table("main", "csv"))
    assert list(frame["run"].unique()) == list(plan.runs)
    assert list(frame["attack"].unique()) == [*plan.attacks, formatting.WORST]
    for row in frame.to_dict("records"):
        cell = comparisons.column_metrics(read_metrics(results.run(str(row["run"]))), str(row["attack"]))
        assert cell is not None
        for name in ("accuracy", "low", "high", "mean", "n"):
            assert row[name] == pytest.approx(getattr(cell, name), abs=0)
        assert str(row["seeds"]) == " ".join(map(str, cell.seeds))


def test_markdown_shows_spread_or_interval_and_n(results: ExperimentFiles) -> None:
    text = results.table("main", "md").read_text()
    rows = {line.split("`")[1]: line for line in text.splitlines() if line.startswith("| `")}
    assert len(rows) == 6
    assert " ± " in rows["at"]
    assert "<sub>[" not in rows["at"]
    assert "<sub>[" in rows["natural"]
    assert "AutoAttack<br><sub>n = 100</sub>" in text
    assert "n = 200 test images unless the column says otherwise, 1 to 2 seeds per run" in text
    assert "ε = 0.15" in text
    assert len({line.count("|") for line in text.splitlines() if line.startswith("|")}) == 1


def test_ablations_keep_the_notes_of_their_columns(results: ExperimentFiles) -> None:
    text = results.table("ablations", "md").read_text()
    heading = text.splitlines()[0]
    assert heading == "| Run | Changed | Clean | FGSM | PGD-20 | AutoAttack<br><sub>n = 100</sub> |"
    assert "n = 200 test images unless the column says otherwise, 1 to 2 seeds per run" in text
    assert "with one seed it does not show that the change is the cause" in text


def test_tex_is_complete_and_ascii(results: ExperimentFiles) -> None:
    text = results.table("main", "tex").read_text()
    assert text.isascii()
    assert text.count("{") == text.count("}")
    assert {line.count("&") for line in text.splitlines() if line.endswith(r"\\")} == {6}
    for rule in ("toprule", "midrule", "bottomrule", "resizebox", "begin{table}", "end{table}"):
        assert rule in text


def test_tex_escapes_everything_special() -> None:
    assert latex.tex("50 % & a_b #1 $x {y} ~^") == (r"50 \% \& a\_b \#1 \$x \{y\} \textasciitilde{}\textasciicircum{}")
    assert latex.tex("a\\b †") == r"a\textbackslash{}b $^{\dagger}$"


def test_columns_note_how_they_differ_from_the_caption(tmp_path: Path) -> None:
    attacks = {
        "clean": {},
        "pgd-20": {},
        "pgd-last": {"kind": "pgd", "weights": "last"},
        "far": {"kind": "pgd", "eps": 0.3},
    }
    plan = experiment(tmp_path, attacks=attacks, headline="pgd-20", runs={"at": {"method": "at"}})
    table = build(reported(tmp_path / "results", plan), plan)
    assert {c.name: c.note for c in table.columns} == {
        "clean": "", "pgd-20": "", "pgd-last": "last epoch", "far": "L∞, ε = 0.3", formatting.WORST: "",
    }  # fmt: skip


def build(results: ExperimentFiles, plan: Experiment) -> tables.Table:
    metrics = read_all_metrics(results, plan)
    return tables.build(plan, metrics, compare(results, plan, metrics))


@pytest.mark.parametrize(("n", "text"), [(9_999, "12.3"), (10_000, "12.35")])
def test_percentages_have_as_many_digits_as_n_allows(n: int, text: str) -> None:
    assert formatting.percent(0.123456, n) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(4.25, "4.2 s"), (59.97, "1 min 00 s"), (3599.7, "1 h 00 min"), (245, "4 min 05 s"), (7_400, "2 h 03 min")],
)
def test_durations_are_written_in_suitable_units(seconds: float, text: str) -> None:
    assert formatting.duration(seconds) == text


# Figures


def test_every_figure_is_written_as_svg_and_png(results: ExperimentFiles, plan: Experiment) -> None:
    chosen = figures_of(plan)
    assert chosen == [name for name in FIGURES if name not in ("overview", "curves", "pairs", "beta", "corruptions")]
    for name in chosen:
        assert results.figure(name, "png").read_bytes().startswith(b"\x89PNG")
        text = results.figure(name, "svg").read_text()
        ElementTree.fromstring(text)
        assert "<metadata" not in text
        assert "DOCTYPE" not in text


def test_a_report_is_the_same_bytes_twice(results: ExperimentFiles, plan: Experiment, tmp_path: Path) -> None:
    copy = copy_of(results, tmp_path)
    shutil.rmtree(copy.figure("epochs", "svg").parent)
    write_report(copy, plan)

    def contents(files: ExperimentFiles) -> list[bytes]:
        drawn = [files.figure(name, ending) for name in figures_of(plan) for ending in formats_of(plan)]
        written = [files.report, *(files.table("main", ending) for ending in ("csv", "md", "tex"))]
        return [file.read_bytes() for file in (*drawn, *written)]

    assert contents(copy) == contents(results)


def test_figures_as_pdf_on_request(results: ExperimentFiles, plan: Experiment, tmp_path: Path) -> None:
    """With their text as text and TrueType fonts; the same bytes twice; and removed when they are no longer wanted."""
    copy = copy_of(results, tmp_path)
    with_pdf = plan.model_copy(update={"report": ReportConfig(formats=("pdf",))})
    assert [formats_of(plan), formats_of(with_pdf)] == [["svg", "png"], ["svg", "png", "pdf"]]

    def drawn() -> list[bytes]:
        write_report(copy, with_pdf)
        return [copy.figure(name, "pdf").read_bytes() for name in figures_of(plan)]

    first = drawn()
    assert first == drawn()
    for content in first:
        assert content.startswith(b"%PDF-") and content.rstrip().endswith(b"%%EOF")
        assert b"/FontFile2" in content and b"/Type3" not in content and b"CreationDate" not in content
    write_report(copy, plan)
    assert not list(copy.figure("epochs", "pdf").parent.glob("*.pdf"))


def files_of_figures(files: ExperimentFiles) -> set[str]:
    return {file.name for file in files.figure("epochs", "svg").parent.iterdir()}


def test_figures_without_data_are_left_out(tmp_path: Path) -> None:
    runs = {"at": {"method": "at", "seeds": [0]}, "trades": {"method": "trades", "consistency": 6.0, "seeds": [3]}}
    plan = experiment(tmp_path, runs=runs)
    files = reported(tmp_path / "results", plan, images=300, classes=100)
    assert not {"labels", "pairs"} & set(figures_of(plan))
    assert files_of_figures(files) == {f"{name}.{ending}" for name in figures_of(plan) for ending in formats_of(plan)}
    text = files.report.read_text()
    assert text.count("<figure ") == len(figures_of(plan))
    assert "A dot per class" in text
    assert "could not be compared with it" in text


def test_a_single_run_under_clean_alone(tmp_path: Path) -> None:
    plan = experiment(tmp_path, runs={"at": {"method": "at"}}, attacks={"clean": {}}, headline="clean")
    files = reported(tmp_path / "results", plan)
    text = files.report.read_text()
    assert "On clean images, <code>at</code> classifies correctly" in text
    assert figures_of(plan) == ["epochs", "strength", "classes"]
    assert files_of_figures(files) == {f"{name}.{ending}" for name in figures_of(plan) for ending in formats_of(plan)}
    assert text.count("<figure ") == 3
    assert "Worst case" not in text


def test_figures_of_an_earlier_experiment_are_deleted(results: ExperimentFiles, tmp_path: Path) -> None:
    copy = copy_of(results, tmp_path)
    fewer = experiment(tmp_path, runs={"at": {"method": "at"}})
    assert copy.figure("transfer", "svg").exists()
    write_report(copy, fewer)
    assert files_of_figures(copy) == {f"{name}.{ending}" for name in figures_of(fewer) for ending in formats_of(fewer)}


@pytest.mark.parametrize("names", [("0.1", "0.2"), ("nan", "null"), ("True", "01")])
def test_runs_may_have_names_that_look_like_values(names: tuple[str, str], plan: Experiment, tmp_path: Path) -> None:
    runs = dict(zip(names, plan.runs.values(), strict=False))
    seeds = dict.fromkeys(names, (0,))
    write_transfer(ExperimentFiles(tmp_path), plan.model_copy(update={"runs": runs, "seeds": seeds, "groups": {}}))
    found = read_transfer(ExperimentFiles(tmp_path), list(names))
    assert found is not None and list(found[0].index) == list(names)


def test_names_of_classes_are_no_formulas(tmp_path: Path) -> None:
    with rc_context(plotting.STYLE):
        figure, (axes,) = plotting.canvas(2.0, "US$_{$", "$x$", 1)
        axes.set_title("US$_{$")
        plotting.save(figure, [tmp_path / "figure.svg"])
    assert (tmp_path / "figure.svg").exists()


def test_a_declared_figure_without_data_is_written_but_not_shown(
    results: ExperimentFiles, plan: Experiment, tmp_path: Path
) -> None:
    """A rule has declared its file, so it must exist."""
    copy = copy_of(results, tmp_path)
    copy.transfer.unlink()
    for file in copy.folder.rglob("*.examples.safetensors"):
        file.unlink()
    write_report(copy, plan)
    assert all(copy.figure(name, ending).exists() for name in figures_of(plan) for ending in formats_of(plan))
    text = copy.report.read_text()
    assert text.count("<figure ") == len(figures_of(plan)) - 2
    assert 'alt="Transfer attacks' not in text and 'alt="Adversarial examples' not in text


def test_a_third_party_checkpoint_is_a_row_like_any_other(tmp_path: Path) -> None:
    """It has no training to show, and every other table and figure shows it."""
    checkpoints = {"theirs": {"file": "theirs.pt", "arch": "small"}}
    plan = experiment(tmp_path, runs={"at": {"method": "at"}}, checkpoints=checkpoints)
    files = reported(tmp_path / "results", plan)
    rows = pd.read_csv(files.table("main", "csv")).groupby("run", sort=False)["method"].first()
    assert rows.to_dict() == {"at": "Adversarial training", "theirs": "Third-party checkpoint"}
    assert "arch: small" in files.report.read_text()
    alone = experiment(tmp_path / "alone", runs={}, checkpoints=checkpoints)
    assert "epochs" not in figures_of(alone) and "transfer" not in figures_of(alone)
    write_report(files, alone)
    assert files.report.read_text().count("<figure ") == len(figures_of(alone))


def test_a_run_keeps_its_color_and_no_two_share_one(plan: Experiment) -> None:
    chosen = colors(plan.runs)
    assert len(set(chosen.values())) == len(plan.runs)
    fewer = colors({name: plan.runs[name] for name in ("dynat", "lbgat6", "natural")})
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


def test_the_page_needs_no_other_file(results: ExperimentFiles, plan: Experiment) -> None:
    text = results.report.read_text()
    addresses = re.findall(r"""(?:src|href|action|data|poster)\s*=\s*["']?([^"'\s>]+)""", text)
    elsewhere = [address for address in addresses if not address.startswith("#")]
    assert len(elsewhere) == len(figures_of(plan))
    assert all(address.startswith("data:image/") for address in elsewhere)
    assert {address[1:] for address in addresses if address.startswith("#")} <= set(re.findall(r' id="([^"]+)"', text))
    assert text.count("<script") == text.count("<script>") == 1
    for address in ("http:", "https:", "<link", "@import", "url(", "<iframe", "fetch(", "import("):
        assert address not in text


def test_the_page_names_the_best_run_and_those_not_distinguishable_from_it(results: ExperimentFiles) -> None:
    text = results.report.read_text()
    heading = re.search(r"<h1>(.*)</h1>", text)
    assert heading is not None
    assert "Under AutoAttack, <code>dynat" in heading[1]
    assert "but a paired test cannot distinguish" in heading[1]
    assert "2408.13102" in text


def test_the_page_shows_config_digest_versions_and_warnings(
    results: ExperimentFiles, plan: Experiment, tmp_path: Path
) -> None:
    copy = copy_of(results, tmp_path)
    run = copy.run("at")
    rows = [(seed, i, i % 10, i % 2) for seed in (0, 1) for i in range(100)]
    warnings = ("zero gradients on <b>3</b> images",)
    write_outcome(run, "autoattack", rows, attack=plan.attacks["autoattack"], warnings=warnings)
    write_metrics(run.folder)
    write_report(copy, plan)
    text = copy.report.read_text()
    for shown in ("0123456789abcdef", "torch 2.13.0", "method: lbgat", "(AVX512, AMX), 2 cores"):
        assert shown in text
    assert "at, AutoAttack: zero gradients on &lt;b&gt;3&lt;/b&gt; images" in text


@pytest.mark.parametrize(
    ("by_run", "claim"),
    [
        ({"a": {0: "1" * 40}, "b": {0: "1" * 9 + "0" * 31}}, "and every other run is significantly lower"),
        ({"a": {0: "1110"}, "b": {0: "1100"}}, "but a paired test distinguishes no other run from it"),
        ({"a": {0: "10"}, "b": {0: "01"}}, "`a` and `b` share the highest accuracy, 50.0 %"),
    ],
)
def test_the_headline_claims_no_more_than_the_test(tmp_path: Path, by_run: Any, claim: str) -> None:
    table, _ = contest(tmp_path, **by_run)
    runs = {name: {"method": "at"} for name in by_run}
    plan = experiment(tmp_path, runs=runs, attacks={"pgd-20": {}}, headline="pgd-20")
    metrics = read_all_metrics(ExperimentFiles(tmp_path / "results"), plan)
    assert claim in page.headline(plan, metrics, table)


def test_the_report_never_imports_torch() -> None:
    modules = "ablations, figures, gallery, hub, latex, model_card, page, robustbench, run_table, tables"
    code = f"import sys; from dynat.report import {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<script>alert(1)</script>", "&lt;script&gt;alert(1)&lt;/script&gt;"),
        ("[here](http://x)", r"[here\](http&#58;//x)"),
        ("`code` | *bold*", r"\`code\` \| \*bold\*"),
        ("two\n\n# lines", "two # lines"),
        ("outside [0,1]", "outside [0,1]"),
    ],
)
def test_markdown_shows_the_text_of_others_as_it_is(text: str, shown: str) -> None:
    assert escape(text) == shown


def test_a_subset_without_a_class_is_a_warning_in_the_table(
    results: ExperimentFiles, plan: Experiment, tmp_path: Path
) -> None:
    copy = copy_of(results, tmp_path)
    run = copy.run("at")
    rows = [(seed, i, 0, i % 2) for seed in (0, 1) for i in range(100)]
    write_outcome(run, "autoattack", rows, attack=plan.attacks["autoattack"])
    write_metrics(run.folder)
    write_report(copy, plan)
    for file in (copy.table("main", "md"), copy.table("main", "tex"), copy.report):
        assert re.search(r"are of 1 of \d+ classes only", file.read_text()), file


def test_trainings_in_different_precisions_are_a_warning(
    results: ExperimentFiles, plan: Experiment, tmp_path: Path
) -> None:
    """`precision: auto` depends on the processor, so the runs of two machines may differ in it."""
    copy = copy_of(results, tmp_path)
    assert mixed_precision_warnings(read_all_metrics(copy, plan)) == ()
    seed = copy.run("at").seed(1)
    write_record(seed.config, read_record(seed.config, TrainingRecord).model_copy(update={"compute_dtype": "bfloat16"}))
    write_metrics(copy.run("at").folder)
    write_report(copy, plan)
    for file in (copy.table("main", "md"), copy.table("ablations", "md"), copy.table("main", "tex"), copy.report):
        text = " ".join(file.read_text().split())
        assert "than the others: at with seed 1 in bfloat16 (the others in float32)" in text, file


@pytest.mark.parametrize("limits", [(0.16, 0.36), (0.55, 0.57), (0, 1), (0.1, 0.9), (0.4999, 0.5001)])
def test_the_percentages_at_an_axis_are_not_rounded(limits: tuple[float, float]) -> None:
    figure = Figure()
    axes = figure.subplots()
    axes.set_ylim(*limits)
    plotting.percent_axis(axes.yaxis)
    figure.canvas.draw()
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert [float(label.rstrip("%")) / 100 for label in labels] == pytest.approx(list(axes.get_yticks()), abs=1e-9)


@pytest.mark.parametrize(("every", "text"), [(1, "after each epoch,"), (2, "after every 2 epochs,")])
def test_the_curves_say_how_often_they_were_measured(every: int, text: str, tmp_path: Path) -> None:
    training = {"target": "small", "guide": "small", "epochs": 20, "validation": {"every": every}}
    plan = experiment(tmp_path, training=training, select=["at", "dynat"])
    files = write_fake_results(ExperimentFiles(tmp_path / "results"), plan)
    histories = {name: history_of({0: files.run(name).seed(0)}) for name in plan.runs}
    drawn = epochs(plan, histories, list(plan.runs))
    assert drawn is not None and text in drawn.caption
