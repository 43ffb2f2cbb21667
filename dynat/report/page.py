"""The page: everything in one file that opens without a network, in light and in dark.

The template only lays out; every sentence that depends on a number is made here, from the metrics.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

import dynat
from dynat.config import Experiment
from dynat.report import words
from dynat.report.comparisons import WORST, best_runs
from dynat.report.tables import Table, notes

PICTURES = ("gallery",)
"""Figures made of pixels: these are embedded as PNG, the others as SVG."""

FIGURES = {
    "tradeoff": "Clean against robust accuracy",
    "epochs": "Over training",
    "labels": "Labels of the guide",
    "classes": "Class by class",
    "gallery": "What the attack does",
}


def render(
    results: Path,
    experiment: Experiment,
    metrics: Mapping[str, Mapping[str, Any]],
    table: Table,
    captions: Mapping[str, str],
) -> str:
    """The HTML of the report; reads the figures that lie in `results`."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["duration"] = words.duration
    return environment.get_template("page.html").render(
        preset=experiment.preset,
        dataset=words.dataset_title(experiment.dataset.name),
        threat=words.ball(experiment.threat),
        pictures=max(cell["n"] for m in metrics.values() for cell in m["attacks"].values()),
        version=dynat.__version__,
        headline=headline(experiment, metrics, table),
        beside=_worst_sentence(metrics, table),
        warnings=_warnings(metrics),
        table=table,
        notes=notes(table),
        worst=_worst_attacks(metrics),
        headline_column=experiment.headline,
        figures=[(FIGURES[name], _figure(results, name), captions[name]) for name in FIGURES],
        attacks=[_attack(name, experiment, metrics) for name in experiment.attacks],
        runs=[_run(name, experiment, metrics[name]) for name in experiment.runs],
    )


def headline(experiment: Experiment, metrics: Mapping[str, Mapping[str, Any]], table: Table) -> str:
    """The one sentence a reader takes away: who is best under the headline attack, and who cannot be told
    from it."""
    name = experiment.headline
    best = best_runs(metrics, name)
    cell = metrics[best[0]]["attacks"][name]
    number = (
        f"{words.percent(cell['accuracy'], cell['n'])} % of {cell['n']:,} test pictures"
        f" (95 % interval {words.interval(cell)})"
    )
    on = "" if name == "clean" else f" under {words.column_title(name)}"
    if len(metrics) == 1:
        return f"{best[0]} is right on {number}{on}."
    if len(best) > 1:
        return f"{words.listing(best)} share the highest accuracy{on}: each is right on {number}."
    return f"{best[0]} is right on {number}{on}, the most of {len(metrics)} runs. {_told_apart(name, table)}"


def _told_apart(column: str, table: Table) -> str:
    tests = [c.comparison for _, place, c in table.cells() if place.name == column and c.comparison]
    close = [test.run for test in tests if test.p is not None and not test.distinguishable]
    untested = [test.run for test in tests if test.p is None]
    if len(close) == len(tests):
        said = "No other run can be told from it by a paired test."
    elif close:
        said = f"By a paired test, {words.listing(close)} cannot be told from it; the other runs are lower."
    elif untested:
        said = "Every run that could be tested is distinguishably lower."
    else:
        said = "Every other run is distinguishably lower (paired test)."
    return said + (
        f" Without a seed in common and so not tested: {words.listing(untested)}." if untested else ""
    )


def _worst_sentence(metrics: Mapping[str, Mapping[str, Any]], table: Table) -> str:
    if WORST not in [column.name for column in table.columns]:
        return ""
    best = best_runs(metrics, WORST)
    cell = metrics[best[0]]["worst"]
    return (
        f"Against all of the attacks at once {words.listing(best)} {'holds' if len(best) == 1 else 'hold'} "
        f"{words.percent(cell['accuracy'], cell['n'])} % of {cell['n']:,} pictures "
        f"(95 % interval {words.interval(cell)})."
    )


def _warnings(metrics: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What an evaluation noticed about itself: kept as data, said where nobody can miss it."""
    return [
        f"{run}, {words.column_title(name)}: {flag}"
        for run, m in metrics.items()
        for name, cell in m["attacks"].items()
        for flag in cell["flags"]
    ]


def _worst_attacks(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    some = next(iter(metrics.values()))["worst"]
    return words.listing(words.column_title(name) for name in some["attacks"]) if some else ""


def _figure(results: Path, name: str) -> Markup:
    """A figure as a data address: drawn apart from the page, so that no two share an identifier."""
    kind, ending = ("image/png", "png") if name in PICTURES else ("image/svg+xml", "svg")
    content = base64.b64encode((results / "figures" / f"{name}.{ending}").read_bytes()).decode()
    return Markup(f"data:{kind};base64,{content}")


def _attack(name: str, experiment: Experiment, metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """A row of the table of costs: what the attack was, over all runs and seeds."""
    attack = experiment.attacks[name]
    cells = [m["attacks"][name] for m in metrics.values()]
    verdicts = sum(cell["n"] * len(cell["seeds"]) for cell in cells)
    iterated = attack.kind in ("pgd", "cw")
    said = (
        [f"{words.count(attack.steps, 'step')}", words.count(attack.restarts, "restart")] if iterated else []
    )
    said += [words.ball(attack)] if attack.kind != "clean" else []
    return {
        "title": words.column_title(name),
        "settings": ", ".join(said),
        "weights": attack.weights,
        "pictures": words.span([cell["n"] for cell in cells]),
        "forward": sum(cell["cost"]["forward_passes"] for cell in cells) / verdicts,
        "backward": sum(cell["cost"]["backward_passes"] for cell in cells) / verdicts,
        "seconds": sum(cell["cost"]["seconds"] for cell in cells),
        "refuted": sum(cell["refuted_claims"] for cell in cells),
        "devices": words.listing(dict.fromkeys(cell["cost"]["device"] for cell in cells)),
    }


def _run(name: str, experiment: Experiment, metrics: Mapping[str, Any]) -> dict[str, Any]:
    run = experiment.runs[name]
    training = metrics["training"]
    parameters = next(iter(training.values()))["parameters"]
    networks = [f"target {run.target} ({parameters['target']:,} parameters)"]
    if run.guide:
        networks.append(f"guide {run.guide} ({parameters['guide']:,})")
    return {
        "name": name,
        "method": words.method_title(run),
        "networks": ", ".join(networks),
        "seeds": [
            {
                **seed,
                "seed": number,
                "label_accuracy": None
                if seed["final_label_accuracy"] is None
                else f"{100 * seed['final_label_accuracy']:.1f} %",
                "versions": ", ".join(f"{what} {version}" for what, version in seed["versions"].items()),
            }
            for number, seed in training.items()
        ],
        "config": yaml.safe_dump(metrics["config"], sort_keys=False, default_flow_style=False).rstrip(),
    }
