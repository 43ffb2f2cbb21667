"""The report at the paper's own size: 34 runs under 8 attacks, in groups; and what a reader sees of it in a browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from dynat.config import ConfigError, Experiment, load
from dynat.report import (
    _histories,
    figures,
    page_tables,
    plotting,
    read_all_metrics,
    tables,
    tradeoff,
    write_report,
)
from dynat.report.figure_list import FIGURES, figures_of
from dynat.report.selection import MANY, compared, not_compared, row_titles
from dynat.results.metrics import write_metrics
from dynat.results.paths import ExperimentFiles
from dynat.results.records import Interval
from tests.browser import CHROMIUM, Browser
from tests.fake_results import experiment, write_fake_results

PRESETS = ("cifar10-resnet18", "cifar10-wrn34-10", "cifar100-resnet18", "cifar10-laptop", "digits-full")
WIDTHS = (400, 1000, 1600)


def evaluated(folder: Path, plan: Experiment) -> ExperimentFiles:
    files = write_fake_results(ExperimentFiles(folder), plan, images=60)
    for run in plan.rows:
        write_metrics(files.run(run).folder)
    return files


@pytest.fixture(scope="module")
def large() -> Experiment:
    return load({"preset": "cifar10-resnet18", "seeds": [0]})


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, large: Experiment) -> ExperimentFiles:
    """34 runs under 8 attacks, without a report; only to be read."""
    return evaluated(tmp_path_factory.mktemp("large"), large)


# Groups


def test_groups_name_every_run_of_the_large_presets_once() -> None:
    for preset in PRESETS:
        plan = load({"preset": preset})
        assert sorted(name for names in plan.groups.values() for name in names) == sorted(plan.runs), preset
        assert list(plan.grouped) == list(plan.groups)


def test_groups_change_no_training_and_keep_the_order_of_the_runs(tmp_path: Path) -> None:
    without = experiment(tmp_path)
    grouped = experiment(tmp_path, groups={"Ours": ["dynat-kl-inner", "dynat"], "Others": ["at"]})
    assert without.grouped == {"": list(without.rows)}
    assert grouped.grouped == {
        "Ours": ["dynat", "dynat-kl-inner"],
        "Others": ["at"],
        "Other runs": ["natural", "trades", "lbgat6"],
    }
    assert list(grouped.rows) == list(without.rows)
    for run in without.runs:
        assert grouped.training(run) == without.training(run)
    fewer = load({"preset": "small", "select": ["at", "natural"]}, presets=tmp_path)
    assert fewer.grouped == {"Others": ["at"], "Other runs": ["natural"]}


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"A": ["dynta"]}, r"groups\.A: unknown run 'dynta': did you mean 'dynat'\?"),
        ({"A": ["at"], "B": ["at"]}, r"groups\.B: 'at' is in the group 'A' already"),
        ({"A": ["at", "at"]}, r"groups: 'at' is named twice"),
        ({"A": 3}, r"groups: expected a list of names"),
        ({"A" * 61: ["at"]}, r"should be one line of at most 60 characters"),
        (["at"], r"groups: expected 'key: value' lines"),
    ],
)
def test_wrong_groups_are_refused(tmp_path: Path, groups: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        experiment(tmp_path, groups=groups)


@pytest.mark.parametrize("preset", PRESETS)
def test_no_two_rows_have_the_same_title(preset: str) -> None:
    titles = row_titles(load({"preset": preset}))
    assert len(set(titles.values())) == len(titles)


def test_titles_say_what_differs(large: Experiment) -> None:
    titles = row_titles(large)
    assert titles["dynat"] == "DYNAT"
    assert titles["dynat-beta-0.2"] == "DYNAT, β = 0.2"
    assert titles["dynat-guide-small"] == "DYNAT, guide small"
    assert titles["dynat-no-clean-forward"] == "DYNAT, without clean forward"
    assert titles["dynat-kl-inner"] == "DYNAT, inner KL"
    assert titles["trades-76"] == "TRADES, 76 epochs, rate drops after epoch 74"
    assert titles["mart"] == "MART, 120 epochs" and titles["trades-awp-200"] == "TRADES + AWP, 200 epochs"
    assert titles["at-awp-200"].endswith("200 epochs, rate drops after epoch 100 and 150, 2 more changes")


def test_figures_compare_the_first_group_of_many_runs_and_all_of_few(tmp_path: Path, large: Experiment) -> None:
    assert compared(large) == list(large.groups["Methods of the paper"])
    assert sorted([*compared(large), *not_compared(large)]) == sorted(large.rows)
    small = experiment(tmp_path)
    assert compared(small) == list(small.rows) and not not_compared(small)
    many = experiment(tmp_path, runs={f"run{i:02d}": {"method": "at"} for i in range(20)} | {"d": {
        "method": "at", "labels": "dynamic"}})  # fmt: skip
    assert compared(many) == [*(f"run{i:02d}" for i in range(MANY - 1)), "d"], "the reference is always there"


# Tables


def test_tables_list_the_rows_by_group(results: ExperimentFiles, large: Experiment) -> None:
    table = tables.build(large, read_all_metrics(results, large), [])
    assert [title for title, _ in table.sections] == list(large.groups)
    lines = tables.to_markdown(table).splitlines()
    assert lines[2].startswith("| **Methods of the paper** |")
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1
    few = table.only(["dynat", "dynat-kl-inner"])
    assert [title for title, _ in few.sections] == ["Methods of the paper", "Ablations"]
    assert [row.run for row in few.rows] == ["dynat", "dynat-kl-inner"]


def test_sanity_checks_that_passed_are_one_sentence_and_failed_ones_are_listed(
    results: ExperimentFiles, large: Experiment
) -> None:
    metrics = read_all_metrics(results, large)
    view = page_tables.sanity(large, metrics)
    assert view is not None and not view.failures
    assert view.passed == "All 6 checks passed for all 34 runs."
    sanity = metrics["at"].sanity
    assert sanity is not None
    failed = sanity.checks["steps"].model_copy(update={"passed": False})
    checks = sanity.model_copy(update={"checks": {**sanity.checks, "steps": failed}})
    metrics["at"] = metrics["at"].model_copy(update={"sanity": checks})
    view = page_tables.sanity(large, metrics)
    assert view is not None
    assert [(failure.run, failure.title) for failure in view.failures] == [("at", "More steps never raise accuracy")]
    assert view.passed == "`at` failed; the other 33 runs passed all 6 checks."


# Figures


def drawn(files: ExperimentFiles, plan: Experiment, monkeypatch: pytest.MonkeyPatch) -> dict[str, Figure]:
    """Every figure of an experiment by name."""
    found: dict[str, Figure] = {}
    monkeypatch.setattr(plotting, "save", lambda figure, to: found.update({next(iter(to)).stem: figure}))
    metrics = read_all_metrics(files, plan)
    figures.draw_all(files, plan, metrics, _histories(files, plan, metrics))
    return found


def visible_ticks(axis: Axis) -> Iterator[Text]:
    low, high = sorted(axis.get_view_interval())
    for tick in axis.get_major_ticks():
        if low <= tick.get_loc() <= high:
            yield tick.label1


def texts(figure: Figure) -> list[tuple[str, Bbox]]:
    """Every text that the figure shows, with its box in pixels; slanted ones have no upright box and are left out."""
    figure.draw_without_rendering()
    renderer = figure._get_renderer()  # type: ignore[attr-defined]
    shown = list(figure.texts)
    for axes in figure.axes:
        shown += axes.texts
        if axes.axison:
            shown += [axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label]  # type: ignore[attr-defined]
            shown += [*visible_ticks(axes.xaxis), *visible_ticks(axes.yaxis)]
    upright = [text for text in shown if text.get_visible() and text.get_text() and text.get_rotation() in (0, 90)]
    return [(text.get_text(), Text.get_window_extent(text, renderer)) for text in upright]


def assert_no_text_covers_another(figure: Figure, name: str) -> None:
    boxes = texts(figure)
    width, height = figure.bbox.size
    for place, (text, box) in enumerate(boxes):
        assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1, f"{name}: {text} is cut"
        for other, against in boxes[:place]:
            shared = Bbox.intersection(box, against)
            area = 0 if shared is None else shared.width * shared.height
            assert area <= 2, f"{name}: '{text}' covers '{other}'"


def test_no_text_of_a_large_report_covers_another(
    results: ExperimentFiles, large: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = drawn(results, large, monkeypatch)
    assert list(found) == figures_of(large) == [name for name in FIGURES if name != "corruptions"]
    for name, figure in found.items():
        assert_no_text_covers_another(figure, name)


LONG = f"dynat-{'with-a-large-guide-' * 4}0"


@pytest.mark.parametrize("runs", [None, {"natural": {}, LONG: {"labels": "dynamic"}, f"{LONG}1": {}}])
def test_no_text_of_a_small_report_covers_another(
    runs: dict[str, Any] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = {"runs": {name: {"method": "at", **run} for name, run in runs.items()}} if runs else {}
    plan = experiment(tmp_path, **over)
    for name, figure in drawn(evaluated(tmp_path / "results", plan), plan, monkeypatch).items():
        assert_no_text_covers_another(figure, name)
        assert all(axes.get_position().width > 0.05 for axes in figure.axes), name


def test_names_in_figures_are_short_and_different() -> None:
    names = [f"{'a' * 40}{middle}{'b' * 40}" for middle in "xyz"]
    assert list(plotting.shortened(["at", *names]).values()) == [
        "at",
        f"{'a' * 12}…{'b' * 13}",
        f"{'a' * 20}…(2)",
        f"{'a' * 20}…(3)",
    ]


def cells(clean: float, robust: float) -> Any:
    attacks = {
        name: Interval(accuracy=accuracy, low=max(0, accuracy - 0.03), high=accuracy + 0.03, n=100)
        for name, accuracy in (("clean", clean), ("pgd-20", robust))
    }
    return SimpleNamespace(attacks=attacks)


def crowd(folder: Path) -> tuple[Experiment, dict[str, Any]]:
    """Runs close to each other, one far better, and one that learned nothing."""
    runs: dict[str, Any] = {f"run{i:02d}": {"method": "at"} for i in range(12)}
    runs |= {"best": {"method": "at"}, "chance": {"method": "at"}}
    plan = experiment(folder, runs=runs, attacks={"clean": {}, "pgd-20": {}}, headline="pgd-20")
    metrics = {run: cells(0.7 + i / 10_000, 0.4 + i / 10_000) for i, run in enumerate(runs)}
    return plan, {**metrics, "best": cells(0.95, 0.9), "chance": cells(0.1, 0.1)}


def test_the_best_run_is_inside_the_axes_and_what_is_outside_is_named(tmp_path: Path) -> None:
    plan, metrics = crowd(tmp_path)
    (panel,) = tradeoff.tradeoff(plan, metrics, ["run00", "best", "chance"]).figure.axes
    low, high = panel.get_xlim()
    assert 0.5 < low < 0.7 and high > 0.95 and panel.get_ylim()[1] > 0.9
    assert [text.get_text() for text in panel.texts] == ["run00", "best"]
    caption = tradeoff.tradeoff(plan, metrics, ["run00", "best", "chance"]).caption
    assert "Outside the axes: chance (clean 10.0 %, PGD-20 10.0 %)." in caption


def test_crowded_points_have_their_names_right_of_the_axes(tmp_path: Path) -> None:
    plan, metrics = crowd(tmp_path)
    runs = [f"run{i:02d}" for i in range(12)]
    figure = tradeoff.tradeoff(plan, metrics, runs).figure
    (panel,) = figure.axes
    assert sorted(text.get_text() for text in panel.texts) == runs
    assert all(text.get_window_extent().x1 > panel.bbox.x1 for text in panel.texts)
    assert_no_text_covers_another(figure, "tradeoff")


def test_the_figure_of_every_run_has_a_number_for_a_run_outside_its_axes(tmp_path: Path) -> None:
    plan, metrics = crowd(tmp_path)
    figure = tradeoff.overview(plan, metrics).figure
    for panel in figure.axes:
        assert [text.get_text() for text in panel.texts] == ["◂ 10.0 %"]
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == list(plan.rows)


# The page


def test_the_page_says_passed_once_and_lists_every_group(
    results: ExperimentFiles, large: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dynat.report.page._address", lambda _: "data:,")
    monkeypatch.setattr(plotting, "save", lambda *_: None)
    monkeypatch.setattr(ExperimentFiles, "report", property(lambda _: tmp_path / "report.html"))
    monkeypatch.setattr(ExperimentFiles, "table", lambda _, name, ending: tmp_path / f"{name}.{ending}")
    write_report(results, large)
    text = (tmp_path / "report.html").read_text()
    assert len(re.findall(r"\bpassed\b", text)) == 1
    assert [title for title in large.groups if text.count(title) < 2] == []
    assert len(re.findall(r"<h2[^>]*>", text)) == len(re.findall(r"<h2 id=", text)) == 8
    assert pd.read_csv(tmp_path / "main.csv")["group"].nunique() == len(large.groups)


MEASURE = """(() => {
  const width = document.documentElement.clientWidth;
  const beyond = [...document.querySelectorAll("body *")].filter((element) =>
    !element.parentElement.closest(".scroll, pre") && element.getBoundingClientRect().right > width + 1);
  const cell = document.querySelector(".accuracy td.worst").getBoundingClientRect();
  const first = document.querySelector(".accuracy tbody [data-run] th").getBoundingClientRect();
  return {
    width, page: document.documentElement.scrollWidth,
    beyond: beyond.map((element) => element.outerHTML.slice(0, 80)),
    worst: cell.left >= first.right && cell.right <= width,
  };
})()"""
SHOWN = """[...document.querySelectorAll(".accuracy tr[data-run]")].filter((row) => row.offsetHeight > 0)
  .map((row) => row.dataset.run)"""
CLASS = 2
"""The column of the table of classes that names the class of lowest accuracy."""
GROUPS = '[...document.querySelectorAll(".accuracy .group")].filter((row) => row.offsetHeight > 0).length'


def search(words: str) -> str:
    return (
        f'(() => {{ const input = document.querySelector(".filter input"); input.value = "{words}"; '
        'input.dispatchEvent(new Event("input")); })()'
    )


def click(column: int) -> str:
    return f'document.querySelectorAll(".accuracy thead button")[{column}].click()'


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_a_browser_shows_the_whole_page_at_three_widths(
    results: ExperimentFiles, large: Experiment, tmp_path: Path
) -> None:
    """No part is wider than the window, no script fails, sorting and filtering work; also for the small preset."""
    write_report(results, large)
    plan = experiment(tmp_path)
    small = evaluated(tmp_path / "results", plan)
    write_report(small, plan)
    with Browser() as browser:
        for files in (results, small):
            for width in WIDTHS:
                browser.open(files.report, width)
                for opened in (False, True):
                    browser.run(
                        f"document.querySelectorAll('details').forEach((one) => {{ one.open = {str(opened).lower()} }})"
                    )
                    seen = browser.run(MEASURE)
                    assert seen["page"] == seen["width"] == width, (width, opened)
                    assert seen["beyond"] == [] and seen["worst"], (width, opened)
        browser.open(results.report, 1000)
        order = [name for names in large.grouped.values() for name in names]
        assert browser.run(SHOWN) == order
        browser.run(click(1))
        table = tables.build(large, read_all_metrics(results, large), [])
        by_clean = sorted(table.rows, key=lambda row: -row.cells[0].metrics.mean)  # type: ignore[union-attr]
        assert browser.run(SHOWN) == [row.run for row in by_clean]
        browser.run(click(1))
        assert browser.run(SHOWN)[-1] == by_clean[0].run
        browser.run(click(1))
        assert browser.run(SHOWN) == order
        browser.run(search("DYNAT guide"))
        assert browser.run(SHOWN) == [f"dynat-guide-{kind}" for kind in ("eval", "small", "resnet18", "wrn34-10")]
        assert browser.run(GROUPS) == 1
        browser.run(search(""))
        assert browser.run(SHOWN) == order and browser.run(GROUPS) == len(large.groups)
        browser.run(
            f'[...document.querySelectorAll("table.numbers")].at(-1).querySelectorAll("button")[{CLASS}].click()'
        )
        classes = browser.run(
            f'[...[...document.querySelectorAll("table.numbers")].at(-1).querySelectorAll("[data-run]")]'
            f".map((row) => row.cells[{CLASS}].textContent)"
        )
        assert classes == sorted(classes) and len(set(classes)) > 1, "words are sorted as words"
        browser.run(
            'new Promise((done) => { addEventListener("hashchange", done); location.hash = "#run-dynat-awp"; })'
        )
        assert browser.run('document.getElementById("run-dynat-awp").closest("details").open')
        assert -1 < browser.run('document.getElementById("run-dynat-awp").getBoundingClientRect().top') < 900
        assert browser.errors == []
