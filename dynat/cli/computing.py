"""The commands that compute. `--spec` is how a rule hands over exactly what its job reads; a person types names."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from dynat.cli import outside
from dynat.cli.common import (
    Data,
    Device,
    Params,
    Results,
    Set,
    Spec,
    State,
    Threads,
    app,
    named,
    quick_imports,
    read_experiment,
    say,
)  # fmt: skip
from dynat.config import ConfigError, Run, Threat, names
from dynat.config.load import PARAMS
from dynat.config.options import External
from dynat.config.parts import Dataset
from dynat.config.schema import ExamSpec, ProbeSpec, TrainingSpec, TransferSpec
from dynat.places import Places


@app.command()
def check(params: Params = PARAMS, set_: Set = None) -> None:
    """Validate params.yaml and its preset, and show what would be trained and attacked."""
    experiment = read_experiment(params, set_)
    print(f"preset {experiment.preset}: data set {experiment.dataset.name}, ", end="")
    print(f"{experiment.threat.norm} eps {experiment.threat.eps:g}")
    for name, run in experiment.runs.items():
        print(f"  {name}: {_summary(run, experiment.threat)}, seeds {','.join(map(str, experiment.seeds[name]))}")
    print(f"attacks: {', '.join(experiment.attacks)}")


@app.command("list")
def list_() -> None:
    """What can be named in a config: methods, networks, data sources, attacks."""
    tables: dict[str, dict[str, Any]] = {
        "methods": names.METHODS,
        "networks": names.NETWORKS,
        "data sources": names.SOURCES,
        "attacks": names.ATTACKS,
    }
    for title, table in tables.items():
        print(f"{title}: {', '.join(table)}")


@app.command()
def data(params: Params = PARAMS, set_: Set = None, spec: Spec = None, data: Data = Path("data")) -> None:
    """Download or build the data set, once, as data/<name>/."""
    with quick_imports():
        from dynat.data import prepare

    wanted = Dataset.model_validate_json(spec) if spec else read_experiment(params, set_).dataset
    print(f"{wanted.name}: ready in {prepare(wanted, data)}")


@app.command()
def train(
    run: Annotated[str | None, typer.Argument(help="A run of the preset, such as dynat.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    params: Params = PARAMS,
    set_: Set = None,
    spec: Spec = None,
    device: Device = "auto",
    threads: Threads = None,
    data: Data = Path("data"),
    results: Results = Path("results"),
    state: State = Path("runs"),
) -> None:
    """Train one run with one seed; goes on where an interrupted training stopped."""
    if spec:
        wanted = TrainingSpec.model_validate_json(spec)
    else:
        experiment = read_experiment(params, set_)
        wanted = experiment.training(named(run, experiment.runs, "run"))
        if wanted.run.method == "external":
            raise ConfigError(f"{run} is trained already: dynat adopt {run}")
        threads = threads or experiment.threads
    with quick_imports():
        from dynat.jobs import ranks
        from dynat.jobs.terminal import use_threads
        from dynat.jobs.training import run_training

    if wanted.run.gpus > 1 and ranks.world().size == 1:
        ranks.launch(wanted.run.gpus, sys.argv[1:])
        return
    use_threads(threads and max(1, threads // wanted.run.gpus))
    run_training(wanted, seed=seed, places=Places(data, results, state), device=device, say=say)


@app.command()
def adopt(
    name: Annotated[str | None, typer.Argument(help="A network of the preset's `external:` section.")] = None,
    params: Params = PARAMS,
    set_: Set = None,
    spec: Spec = None,
    data: Data = Path("data"),
    results: Results = Path("results"),
) -> None:
    """Take somebody's checkpoint as a row of the table, to be attacked like every other."""
    if spec:
        wanted = TrainingSpec.model_validate_json(spec)
    else:
        experiment = read_experiment(params, set_)
        outside = {name: run for name, run in experiment.runs.items() if run.method == "external"}
        wanted = experiment.training(named(name, outside, "checkpoint"))
    with quick_imports():
        from dynat.jobs.adoption import run_adoption

    run_adoption(wanted, places=Places(data, results), say=say)


@app.command()
def attack(
    run: Annotated[str | None, typer.Argument(help="A trained run, such as dynat.")] = None,
    attack: Annotated[str | None, typer.Argument(help="An attack of the preset, such as pgd-20.")] = None,
    params: Params = PARAMS,
    set_: Set = None,
    spec: Spec = None,
    device: Device = "auto",
    threads: Threads = None,
    data: Data = Path("data"),
    results: Results = Path("results"),
    state: State = Path("runs"),
    checkpoint: outside.Checkpoint = None,
    arch: outside.Arch = None,
    dataset: outside.DataSet = None,
    attacks: outside.Attacks = None,
    eps: outside.Eps = None,
    norm: outside.Norm = None,
    pictures: outside.Number = None,
    batch: outside.Batch = None,
    view: outside.View = None,
    mean: outside.Mean = None,
    std: outside.Std = None,
    expect: outside.Expect = None,
    gates: outside.Gates = None,
    out: outside.Out = None,
) -> None:
    """Attack a run's networks (all its seeds), or anybody's checkpoint, and write what became of every picture."""
    given = {name: value for name, value in locals().items() if name in outside.READ}
    if checkpoint is not None:
        if run or attack or spec or set_:
            raise ConfigError("--checkpoint: a file of weights is no run of a preset; name its attacks with --attacks")
        outside.examine(checkpoint, given, device=device, threads=threads, data=data, state=state, say=say)
        return
    outside.refuse_without_checkpoint(given)
    if spec:
        wanted = ExamSpec.model_validate_json(spec)
    else:
        experiment = read_experiment(params, set_)
        wanted = experiment.exam(named(run, experiment.runs, "run"), named(attack, experiment.attacks, "attack"))
        threads = threads or experiment.threads
    with quick_imports():
        from dynat.jobs.exam import run_exam
        from dynat.jobs.terminal import use_threads

    use_threads(threads)
    run_exam(wanted, places=Places(data, results, state), device=device, say=say)


@app.command()
def probe(
    run: Annotated[str | None, typer.Argument(help="A trained run, such as dynat.")] = None,
    params: Params = PARAMS,
    set_: Set = None,
    spec: Spec = None,
    device: Device = "auto",
    threads: Threads = None,
    data: Data = Path("data"),
    results: Results = Path("results"),
    state: State = Path("runs"),
) -> None:
    """Examine the examination: small attacks from which validity gates and curves are read."""
    if spec:
        wanted = ProbeSpec.model_validate_json(spec)
    else:
        experiment = read_experiment(params, set_)
        wanted = experiment.probe(named(run, experiment.runs, "run"))
        threads = threads or experiment.threads
    with quick_imports():
        from dynat.jobs.probe import run_probe
        from dynat.jobs.terminal import use_threads

    use_threads(threads)
    run_probe(wanted, places=Places(data, results, state), device=device, say=say)


@app.command()
def transfer(
    params: Params = PARAMS,
    set_: Set = None,
    spec: Spec = None,
    device: Device = "auto",
    threads: Threads = None,
    data: Data = Path("data"),
    results: Results = Path("results"),
) -> None:
    """Show the adversarial pictures of every run to every run."""
    if spec:
        wanted = TransferSpec.model_validate_json(spec)
    else:
        experiment = read_experiment(params, set_)
        wanted = experiment.transfer()
        threads = threads or experiment.threads
    with quick_imports():
        from dynat.jobs.probe import run_transfer
        from dynat.jobs.terminal import use_threads

    use_threads(threads)
    run_transfer(wanted, places=Places(data, results), device=device, say=say)


def _summary(run: Run, threat: Threat) -> str:
    """A run in a line: what it is, then what differs from the usual."""
    if run.method == "external":
        first = f", {External.model_validate(run.options)}" if run.options["mean"] else ""
        return f"{run.checkpoint} as {run.target}{first}"
    said = [run.method, f"{run.labels} labels", f"target {run.target}"]
    said += [f"guide {run.guide}"] if run.guide else []
    said += [f"guide labels in {run.guide_mode} mode"] if run.guide_mode != "train" else []
    said += [f"beta {run.beta:g}"] if run.beta is not None else []
    said += [f"consistency {run.consistency:g}"] if run.consistency else []
    said += [f"inner eps {run.inner.eps:g}"] if run.inner.eps not in (None, threat.eps) else []
    said += [f"inner {run.inner.objective}"] if run.inner.objective != "own" else []
    said += ["no clean forward"] if run.guide and not run.clean_forward and run.method in ("at", "lbgat") else []
    said += ["clean forward"] if run.clean_forward and not run.guide else []
    said += [f"AWP gamma {run.awp.gamma:g}"] if run.awp else []
    said += [name for name in ("compiled", "captured") if getattr(run, name)]
    said += [f"{run.gpus} GPUs"] if run.gpus > 1 else []
    said += [f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}" for key, value in run.options.items()]
    return ", ".join([*said, f"{run.epochs} epochs"])
