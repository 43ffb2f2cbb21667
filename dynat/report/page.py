"""The page: everything in one file that opens without a network, in light and in dark.

The template only lays out; every sentence that depends on a number is made here, from the metrics.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

import dynat
from dynat.config import Experiment, names
from dynat.report import words
from dynat.report.comparisons import WORST, best_runs
from dynat.report.gates import TITLES as GATES
from dynat.report.tables import Table, notes

PICTURES = ("gallery",)
"""Figures made of pixels: these are embedded as PNG, the others as SVG."""

FIGURES = {
    "tradeoff": "Clean against robust accuracy",
    "epochs": "Over training",
    "labels": "Labels of the guide",
    "pairs": "With and without a guide",
    "strength": "Stronger attacks",
    "transfer": "Attacks from elsewhere",
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
    environment.filters["marked"] = marked
    return environment.get_template("page.html").render(
        preset=experiment.preset,
        dataset=words.dataset_title(experiment.dataset.name),
        threat=words.ball(experiment.threat),
        pictures=max(cell["n"] for m in metrics.values() for cell in m["attacks"].values()),
        version=dynat.__version__,
        headline=headline(experiment, metrics, table),
        beside=beside(experiment, metrics, table),
        warnings=_warnings(metrics),
        table=table,
        notes=notes(table),
        worst=_worst_attacks(experiment, metrics) if _has_worst(table) else "",
        headline_column=experiment.headline,
        gates=GATES,
        examined={run: m["examination"]["gates"] for run, m in metrics.items() if m["examination"]},
        in_parts=_in_parts(experiment, metrics),
        figures=[(FIGURES[name], _figure(results, name), captions[name]) for name in FIGURES],
        attacks=[_attack(name, experiment, metrics) for name in experiment.attacks],
        devices=words.listing(
            dict.fromkeys(c["cost"]["device"] for m in metrics.values() for c in m["attacks"].values())
        ),
        runs=[_run(name, experiment, metrics[name]) for name in experiment.runs],
    )


def headline(experiment: Experiment, metrics: Mapping[str, Mapping[str, Any]], table: Table) -> str:
    """What a reader takes away: who is best under the headline attack, and whether that can be told."""
    name = experiment.headline
    best = best_runs(metrics, name)
    cell = metrics[best[0]]["attacks"][name]
    number = f"{words.percent(cell['accuracy'], cell['n'])} %"
    on = "On clean pictures" if name == "clean" else f"Under {words.column_title(name)}"
    if len(metrics) == 1:
        return f"{on}, `{best[0]}` is right on {number} of {cell['n']:,} test pictures"
    if len(best) > 1:
        return f"{on}, {_runs(best)} share the highest accuracy, {number}"
    first = f"{on}, `{best[0]}` is highest with {number}"
    close, untested = _told_apart(name, table)
    if len(close) == len(metrics) - 1:
        return f"{first}, but a paired test can tell no other run from it"
    if close:
        return f"{first}, but a paired test cannot tell {_runs(close)} from it"
    if untested:
        return f"{first}; {_runs(untested)} could not be tested against it"
    return f"{first}, and every other run is distinguishably lower"


def beside(experiment: Experiment, metrics: Mapping[str, Mapping[str, Any]], table: Table) -> str:
    """The sentences below the headline: how sure it is, and what holds against all attacks at once."""
    cell = metrics[best_runs(metrics, experiment.headline)[0]]["attacks"][experiment.headline]
    sure = f"The 95 % interval of that accuracy, over {cell['n']:,} pictures, is {words.interval(cell)} %."
    return f"{sure} {_worst_sentence(metrics, table)}".strip()


def marked(text: str) -> Markup:
    """A sentence as HTML: what stands between backticks is the name of a run; no line ends before a '%'."""
    return Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(text)).replace(" %", "&nbsp;%")))


def _runs(names: Sequence[str]) -> str:
    return words.listing(f"`{name}`" for name in names)


def _told_apart(column: str, table: Table) -> tuple[list[str], list[str]]:
    """The runs that a test cannot tell from the best, and those that no test could compare."""
    tests = [cell.comparison for _, place, cell in table.cells() if place.name == column and cell.comparison]
    close = [test.run for test in tests if test.p is not None and not test.behind]
    return close, [test.run for test in tests if test.p is None]


def _worst_sentence(metrics: Mapping[str, Mapping[str, Any]], table: Table) -> str:
    if not _has_worst(table):
        return ""
    best = best_runs(metrics, WORST)
    cell = metrics[best[0]]["worst"]
    return (
        f"In the worst case over all attacks, {_runs(best)} {'is' if len(best) == 1 else 'are'} highest: "
        f"{words.percent(cell['accuracy'], cell['n'])} % of {cell['n']:,} pictures (interval {words.interval(cell)} %)."
    )


def _has_worst(table: Table) -> bool:
    return any(column.name == WORST for column in table.columns)


def _warnings(metrics: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What an evaluation noticed about itself: kept as data, said where nobody can miss it."""
    return [
        f"{run}, {words.column_title(name)}: {flag}"
        for run, m in metrics.items()
        for name, cell in m["attacks"].items()
        for flag in cell["flags"]
    ]


def _worst_attacks(experiment: Experiment, metrics: Mapping[str, Mapping[str, Any]]) -> str:
    counted = [name for m in metrics.values() for name in (m["worst"] or {}).get("attacks", [])]
    return words.listing(words.column_title(name) for name in experiment.attacks if name in counted)


def _figure(results: Path, name: str) -> Markup:
    """A figure as a data address: drawn apart from the page, so that no two share an identifier."""
    kind, ending = ("image/png", "png") if name in PICTURES else ("image/svg+xml", "svg")
    content = base64.b64encode((results / "figures" / f"{name}.{ending}").read_bytes()).decode()
    return Markup(f"data:{kind};base64,{content}")


def _in_parts(experiment: Experiment, metrics: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The attacks that consist of several: for each, accuracy after every part, run by run."""
    return [
        {
            "title": words.column_title(name),
            "parts": [words.column_title(part) for part in names.attack_parts(attack.kind)],
            "runs": {
                run: [words.percent(share, m["attacks"][name]["n"]) for share in m["attacks"][name]["after"].values()]
                for run, m in metrics.items()
            },
        }
        for name, attack in experiment.attacks.items()
        if len(names.attack_parts(attack.kind)) > 1
    ]


def _attack(name: str, experiment: Experiment, metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """A row of the table of costs: what the attack was, over all runs and seeds."""
    attack = experiment.attacks[name]
    cells = [m["attacks"][name] for m in metrics.values()]
    verdicts = sum(cell["n"] * len(cell["seeds"]) for cell in cells)
    said = []
    if attack.steps is not None:
        said.append(f"{attack.steps:,} queries" if attack.kind == "square" else words.count(attack.steps, "step"))
    if "restarts" in names.ATTACKS[attack.kind].reads:
        said.append(words.count(attack.restarts, "restart"))
    if attack.searches is not None:
        said.append(f"{attack.searches} searches")
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
