"""The commands that read computed results: metrics, report, an exported run, a comparison of two results folders."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dynat.cli import job
from dynat.cli.app import (
    RESULTS,
    RESULTS_FOLDER,
    AllowPlugins,
    Params,
    Results,
    Set,
    app,
    named,
    quick_imports,
    read_experiment,
    say,
)
from dynat.cli.job import JobSettings
from dynat.config import ConfigError, plugin_modules
from dynat.config.base import shortened
from dynat.config.presets import PARAMS
from dynat.results.paths import Paths, RunFiles, export_folder

if TYPE_CHECKING:
    from dynat.results.records import RunMetrics


@app.command(rich_help_panel=RESULTS)
def metrics(
    folder: Annotated[Path, typer.Argument(help="The folder of a run: results/<preset>/<run>")],
    attack: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Count only this attack. Repeatable. By default all.")
    ] = None,
    allow_plugins: AllowPlugins = False,
) -> None:
    """Compute a run's metrics.json from the outcomes of its attacks."""
    with quick_imports():
        from dynat.results.metrics import read_metrics, write_metrics

    with plugin_modules.plugins_allowed(allow_plugins):
        print(write_metrics(folder, attack))
        for line in _metrics_lines(read_metrics(RunFiles(folder))):
            print(line)


def _metrics_lines(metrics: RunMetrics) -> list[str]:
    """What is new in the metrics of a run: its worst case and its sanity checks, then what makes them doubtful."""
    from dynat.results.sanity import TITLES

    title = f"{metrics.run} metrics"
    checks = {} if metrics.sanity is None else metrics.sanity.checks
    failed = [f"{TITLES[name]}: {checks[name].detail}" for name in metrics.failed_checks]
    worst = metrics.worst_case
    parts = [f"worst case {100 * worst.accuracy:.1f} % on {worst.n} images"] if worst else []
    if checks:
        parts.append(f"{len(checks) - len(failed)} of {len(checks)} sanity checks passed")
    doubts = [f"sanity check failed: {text}" for text in failed]
    doubts += [f"{name}: {text}" for name, cell in metrics.attacks.items() for text in cell.warnings]
    return [f"{title}: {', '.join(parts) or 'done'}", *(f"warning: {title}: {text}" for text in doubts)]


@app.command(rich_help_panel=RESULTS)
def report(params: Params = PARAMS, set_: Set = None, results: Results = RESULTS_FOLDER) -> None:
    """Write tables, figures and report.html from the metrics of all runs."""
    job.run_report(read_experiment(params, set_), JobSettings(Paths(results=results)))


@app.command(rich_help_panel=RESULTS)
def export(
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="RUN", help="Required: a run (dynat check lists them), or a folder that dynat evaluate wrote."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder to write. By default exports/<run>.")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Seed of model.safetensors. By default the best one on the validation images."),
    ] = None,
    license_id: Annotated[
        str,
        typer.Option(
            "--license",
            metavar="ID",
            help="License of the weights, as the hub names it: mit, apache-2.0, cc-by-4.0, ...",
        ),
    ] = "unknown",
    onnx: Annotated[
        bool, typer.Option("--onnx", help="Also write model.onnx and check it. Needs the packages of the extra 'onnx'.")
    ] = False,
    params: Params = PARAMS,
    set_: Set = None,
    results: Results = RESULTS_FOLDER,
    allow_plugins: AllowPlugins = False,
) -> None:
    """Export a run for the Hugging Face Hub: weights, model card, code, ONNX, LaTeX row, entry for RobustBench."""
    from dynat.jobs.export import ExportOptions, evaluated_checkpoint, export_run

    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{0,60}", license_id):
        raise ConfigError(
            f"--license {shortened(license_id)}: write it as the hub does: mit, apache-2.0, cc-by-4.0, ..."
        )

    with plugin_modules.plugins_allowed(allow_plugins):
        source = evaluated_checkpoint(Path(run or ""))
        if source is None:
            experiment = read_experiment(params, set_)
            source = experiment, named(run, experiment.rows, "run"), Paths(results=results)
        options = ExportOptions(seed, license_id, onnx)
        export_run(*source, out=out or export_folder(source[1]), options=options, say=say)


@app.command(rich_help_panel=RESULTS)
def diff(
    one: Annotated[Path, typer.Argument(help="A results folder: results/<preset>")],
    other: Annotated[Path, typer.Argument(help="Another one, from another machine or another version.")],
    allow_plugins: AllowPlugins = False,
) -> None:
    """Compare the metrics of two results folders, bit for bit. The exit code is 1 if they differ."""
    from dynat.jobs.diff import differences, runs_in

    with plugin_modules.plugins_allowed(allow_plugins):
        lines = differences(one, other)
    for line in lines:
        print(line)
    if lines:
        raise typer.Exit(1)
    print(f"{one} and {other}: the same metrics of {runs_in(one)} {'run' if runs_in(one) == 1 else 'runs'}")
