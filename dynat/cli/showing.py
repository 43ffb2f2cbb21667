"""The commands that read what was computed: numbers, tables, figures, and a run handed over."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dynat.cli.common import Params, Results, Set, Spec, app, named, read_experiment, say
from dynat.config import Experiment
from dynat.config.load import PARAMS
from dynat.places import Places


@app.command()
def metrics(
    folder: Annotated[Path, typer.Argument(help="A run's folder: results/<preset>/<run>")],
    attack: Annotated[
        list[str] | None, typer.Option(help="Count these attacks only; every outcome file where not given.")
    ] = None,
) -> None:
    """Turn a run's outcome files into its metrics.json."""
    from dynat.report import write_metrics

    print(write_metrics(folder, attack))


@app.command()
def report(params: Params = PARAMS, set_: Set = None, spec: Spec = None, results: Results = Path("results")) -> None:
    """Write tables, figures and report.html from the metrics."""
    from dynat.report import write_report

    experiment = Experiment.model_validate_json(spec) if spec else read_experiment(params, set_)
    folder = results / experiment.preset
    write_report(folder, experiment)
    print(f"open {folder / 'report.html'}")


@app.command()
def card(
    run: Annotated[str | None, typer.Argument(help="A run, or the folder of an examined checkpoint.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write; handover/<run> where not given.")] = None,
    params: Params = PARAMS,
    set_: Set = None,
    results: Results = Path("results"),
) -> None:
    """Hand a run over: weights, how to load them, model card, LaTeX row, claim for RobustBench."""
    from dynat.jobs.card import examined, write_card

    found = examined(Path(run or ""))
    if found is None:
        experiment = read_experiment(params, set_)
        found = experiment, named(run, experiment.runs, "run"), Places(results=results)
    write_card(*found, out=out or Path("handover") / found[1], say=say)


@app.command()
def same(
    one: Annotated[Path, typer.Argument(help="A results folder: results/<preset>")],
    other: Annotated[Path, typer.Argument(help="Another one, made elsewhere or by other code.")],
) -> None:
    """Compare the metrics of two results folders bit for bit; exit code 1 if they differ."""
    from dynat.jobs.same import differences, runs_in

    found = differences(one, other)
    for line in found:
        print(line)
    if found:
        raise typer.Exit(1)
    print(f"{one} and {other} say the same of {runs_in(one)} {'run' if runs_in(one) == 1 else 'runs'}")


@app.command(hidden=True)
def curves(spec: Spec = None, params: Params = PARAMS, set_: Set = None) -> None:
    """Write what `dvc plots` shows of the trainings."""
    from dynat.jobs.plots import write_curves

    print(write_curves(_given(spec, params, set_), Places()))


@app.command(hidden=True)
def accuracy(spec: Spec = None, params: Params = PARAMS, set_: Set = None) -> None:
    """Write what `dvc metrics` and `dvc plots` show of the examinations."""
    from dynat.jobs.plots import write_accuracy

    print(write_accuracy(_given(spec, params, set_), Places()))


def _given(spec: str | None, params: Path, assignments: list[str] | None) -> Experiment:
    return Experiment.model_validate_json(spec) if spec else read_experiment(params, assignments)
