"""The page: everything in one file that opens without a network, in light and in dark.

The template holds only the layout; every sentence that depends on a number is made here, from the metrics.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

import dynat
from dynat.config import Checkpoint, Experiment, Run, registry
from dynat.report import formatting, page_tables
from dynat.report.comparisons import best_runs
from dynat.report.figure_list import FIGURES
from dynat.report.precisions import mixed_precision_warnings
from dynat.report.selection import MANY, not_compared
from dynat.report.tables import Row, Table, notes
from dynat.results.paths import ExperimentFiles
from dynat.results.records import RunMetrics, TrainingMetrics
from dynat.results.sanity import TITLES as CHECKS

NAMED = 4
"""So many runs are named in a sentence."""


@dataclass(frozen=True)
class FigureView:
    """A figure of the page."""

    name: str
    title: str
    address: Markup
    caption: str
    folded: bool


@dataclass(frozen=True)
class AttackView:
    """A row of the table of costs."""

    title: str
    settings: str
    weights: str
    images: str
    forward: float
    backward: float
    seconds: float
    rejected: int


@dataclass(frozen=True)
class SeedView:
    """A training in the section of its run."""

    seed: int
    training: TrainingMetrics
    label_accuracy: str | None
    versions: str


@dataclass(frozen=True)
class RunView:
    """The section of a run."""

    name: str
    method: str
    networks: str
    seeds: list[SeedView]
    config: str


def render(
    files: ExperimentFiles,
    experiment: Experiment,
    metrics: Mapping[str, RunMetrics],
    table: Table,
    captions: Mapping[str, str],
) -> str:
    """The HTML of the report, with the figures that have a caption."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["duration"] = formatting.duration
    environment.filters["marked"] = marked
    many = len(table.rows) > MANY
    return environment.get_template("page.html").render(
        preset=experiment.preset,
        dataset=formatting.dataset_title(experiment.dataset.name),
        threat=formatting.ball(experiment.threat),
        images=max(cell.n for m in metrics.values() for cell in m.attacks.values()),
        version=dynat.__version__,
        headline=headline(experiment, metrics, table),
        beside=beside(experiment, metrics, table),
        warnings=_warnings(metrics),
        table=table,
        notes=notes(table),
        worst=_worst_attacks(experiment, metrics) if _has_worst(table) else "",
        headline_column=experiment.headline,
        worst_column=formatting.WORST,
        many=many,
        check_titles=CHECKS,
        sanity=page_tables.sanity(experiment, metrics),
        in_parts=page_tables.in_parts(experiment, metrics),
        left_out=page_tables.left_out(files, experiment, metrics) if not_compared(experiment) else [],
        figures=[
            FigureView(
                name, info.title, _address(files.figure(name, info.embedded)), captions[name], many and info.folded
            )
            for name, info in FIGURES.items()
            if name in captions
        ],
        attacks=[_attack(name, experiment, metrics) for name in experiment.attacks],
        devices=formatting.listing(
            dict.fromkeys(cell.cost.device for m in metrics.values() for cell in m.attacks.values())
        ),
        runs={
            group: [_run(row, experiment.rows[row.run], metrics[row.run]) for row in rows]
            for group, rows in table.sections
        },
    )


def headline(experiment: Experiment, metrics: Mapping[str, RunMetrics], table: Table) -> str:
    """Which run is best under the headline attack, and whether a test distinguishes it from the others."""
    name = experiment.headline
    best = best_runs(metrics, name)
    cell = metrics[best[0]].attacks[name]
    number = f"{formatting.percent(cell.accuracy, cell.n)} %"
    images = formatting.test_images(cell.n, metrics[best[0]].dataset)
    on = "On clean images" if name == "clean" else f"Under {formatting.column_title(name)}"
    if len(metrics) == 1:
        return f"{on}, `{best[0]}` classifies correctly {number} of {images}"
    if len(best) > 1:
        return f"{on}, {_runs(best)} share the highest accuracy, {number}"
    first = f"{on}, `{best[0]}` is highest with {number}"
    close, untested = _tests(name, table)
    if len(close) == len(metrics) - 1:
        return f"{first}, but a paired test distinguishes no other run from it"
    if close:
        return f"{first}, but a paired test cannot distinguish {_runs(close)} from it"
    if untested:
        return f"{first}; {_runs(untested)} could not be compared with it"
    return f"{first}, and every other run is significantly lower"


def beside(experiment: Experiment, metrics: Mapping[str, RunMetrics], table: Table) -> str:
    """The sentences below the headline: its interval, and the best run against all attacks at once."""
    best = metrics[best_runs(metrics, experiment.headline)[0]]
    cell = best.attacks[experiment.headline]
    images = formatting.test_images(cell.n, best.dataset)
    interval = f"The 95 % interval of that accuracy, over {images}, is {formatting.interval(cell)} %."
    return f"{interval} {_worst_sentence(metrics, table)}".strip()


def marked(text: str) -> Markup:
    """A sentence as HTML: text between backticks is the name of a run; no line ends before a '%'."""
    return Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(text)).replace(" %", "&nbsp;%")))


def _runs(names: Sequence[str]) -> str:
    """The names in a sentence; of many, the first and how many more."""
    return formatting.listing(_first([f"`{name}`" for name in names], "other runs"))


def _first(items: Sequence[str], others: str) -> list[str]:
    """The items; of many, the first and how many others."""
    more = len(items) - NAMED
    return [*items[:NAMED], f"{more} {others}"] if more > 1 else list(items)


def _tests(column: str, table: Table) -> tuple[list[str], list[str]]:
    """The runs that a test cannot distinguish from the best, and those that no test could compare."""
    tests = [cell.comparison for _, place, cell in table.cells() if place.name == column and cell.comparison]
    close = [test.run for test in tests if test.p is not None and not test.behind]
    return close, [test.run for test in tests if test.p is None]


def _worst_sentence(metrics: Mapping[str, RunMetrics], table: Table) -> str:
    if not _has_worst(table):
        return ""
    best = best_runs(metrics, formatting.WORST)
    cell = metrics[best[0]].worst_case
    assert cell is not None, "the best run of a column has a cell in it"
    return (
        f"In the worst case over all attacks, {_runs(best)} {'is' if len(best) == 1 else 'are'} highest: "
        f"{formatting.percent(cell.accuracy, cell.n)} % of {cell.n:,} images (interval {formatting.interval(cell)} %)."
    )


def _has_worst(table: Table) -> bool:
    return any(column.name == formatting.WORST for column in table.columns)


def _warnings(metrics: Mapping[str, RunMetrics]) -> list[str]:
    """Trainings that did not take off, what the attacks warned of, and what makes the sanity checks doubtful: every
    warning once, after the places that gave it."""
    trainings = [
        (warning, f"{run}, training with seed {seed}")
        for run, m in metrics.items()
        for seed, training in m.training.items()
        for warning in training.warnings
    ]
    attacks = [
        (warning, f"{run}, {formatting.column_title(name)}")
        for run, m in metrics.items()
        for name, cell in m.attacks.items()
        for warning in cell.warnings
    ]
    checks = [
        (warning, f"{run}, sanity checks and transfer")
        for run, m in metrics.items()
        for warning in (m.sanity.warnings if m.sanity else ())
    ]
    places: dict[str, list[str]] = {}
    for warning, place in (*trainings, *attacks, *checks):
        places.setdefault(warning, []).append(place)
    each = [f"{'; '.join(_first(where, 'more'))}: {warning}" for warning, where in places.items()]
    return [*each, *mixed_precision_warnings(metrics)]


def _worst_attacks(experiment: Experiment, metrics: Mapping[str, RunMetrics]) -> str:
    counted = [name for m in metrics.values() if m.worst_case for name in m.worst_case.attacks]
    return formatting.listing(formatting.column_title(name) for name in experiment.attacks if name in counted)


def _address(file: Path) -> Markup:
    """A figure as a data address: drawn apart from the page, so that no two share an identifier."""
    kind = "image/png" if file.suffix == ".png" else "image/svg+xml"
    content = base64.b64encode(file.read_bytes()).decode()
    return Markup(f"data:{kind};base64,{content}")


def _attack(name: str, experiment: Experiment, metrics: Mapping[str, RunMetrics]) -> AttackView:
    """The attack's settings and its cost over all runs and seeds."""
    attack = experiment.attacks[name]
    cells = [m.attacks[name] for m in metrics.values()]
    verdicts = sum(cell.n * len(cell.seeds) for cell in cells)
    settings = []
    if attack.steps is not None:
        queries = attack.kind == "square"
        settings.append(f"{attack.steps:,} queries" if queries else formatting.count(attack.steps, "step"))
    if "restarts" in registry.ATTACKS[attack.kind].reads:
        settings.append(formatting.count(attack.restarts, "restart"))
    if attack.binary_search_steps is not None:
        settings.append(formatting.count(attack.binary_search_steps, "binary search step"))
    settings += [formatting.ball(attack)] if attack.kind != "clean" else []
    return AttackView(
        title=formatting.column_title(name),
        settings=", ".join(settings),
        weights=attack.weights,
        images=formatting.span([cell.n for cell in cells]),
        forward=sum(cell.cost.forward_passes for cell in cells) / verdicts,
        backward=sum(cell.cost.backward_passes for cell in cells) / verdicts,
        seconds=sum(cell.cost.seconds for cell in cells),
        rejected=sum(cell.rejected_examples for cell in cells),
    )


def _run(shown: Row, row: Run | Checkpoint, metrics: RunMetrics) -> RunView:
    parameters = next(iter(metrics.training.values())).parameters
    network = row.target if isinstance(row, Run) else row.arch
    networks = [f"target {network} ({parameters.target:,} parameters)"]
    if isinstance(row, Run) and row.guide:
        networks.append(f"guide {row.guide} ({parameters.guide:,})")
    return RunView(
        name=shown.run,
        method=shown.method,
        networks=", ".join(networks),
        seeds=[
            SeedView(
                seed=seed,
                training=training,
                label_accuracy=None
                if training.final_label_accuracy is None
                else f"{100 * training.final_label_accuracy:.1f} %",
                versions=", ".join(f"{package} {version}" for package, version in training.versions.items()),
            )
            for seed, training in metrics.training.items()
        ],
        config=yaml.safe_dump(metrics.config.model_dump(mode="json"), sort_keys=False).rstrip(),
    )
