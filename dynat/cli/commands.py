"""The commands. `--spec` is how a rule hands over exactly what its job reads; a person types names instead."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from dynat.config import ConfigError, Experiment, Run, load, names
from dynat.config.load import PARAMS, merge, read_yaml
from dynat.config.parts import Dataset
from dynat.config.schema import ExamSpec, TrainingSpec
from dynat.places import Places

app = typer.Typer(
    help="Dynamic Label Adversarial Training and its baselines: train, attack, compare.\n\n"
    "The pipeline does all of it in order: snakemake --cores all all. These commands are its single steps, "
    "reading params.yaml and the preset it names:\n\n"
    "dynat check; dynat data; dynat train dynat --seed 0; dynat attack dynat pgd-20; dynat report",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Lay a value over params.yaml: beta=6.0"),
]
Params = Annotated[Path, typer.Option(help="The file a person edits.")]
Spec = Annotated[str | None, typer.Option(help="The resolved config as JSON, instead of names (for rules).")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads; the preset's where not given.")]
Data = Annotated[Path, typer.Option(help="Folder of the data sets.")]
Results = Annotated[Path, typer.Option(help="Folder of the results.")]
State = Annotated[Path, typer.Option(help="Folder of the states from which interrupted work goes on.")]


@app.command()
def check(params: Params = PARAMS, set_: Set = None) -> None:
    """Validate params.yaml and its preset, and show what would be trained and attacked."""
    experiment = _experiment(params, set_)
    print(f"preset {experiment.preset}: data set {experiment.dataset.name}, ", end="")
    print(f"{experiment.threat.norm} eps {experiment.threat.eps:g}")
    for name, run in experiment.runs.items():
        print(f"  {name}: {_summary(run)}, seeds {','.join(map(str, experiment.seeds[name]))}")
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
    from dynat.data import prepare

    wanted = Dataset.model_validate_json(spec) if spec else _experiment(params, set_).dataset
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
        experiment = _experiment(params, set_)
        wanted = experiment.training(_named(run, experiment.runs, "run"))
        if wanted.run.method == "external":
            raise ConfigError(f"{run} is trained already: dynat adopt {run}")
        threads = threads or experiment.threads
    with _quick_imports():
        from dynat.jobs.terminal import use_threads
        from dynat.jobs.training import run_training

    use_threads(threads)

    run_training(wanted, seed=seed, places=Places(data, results, state), device=device, say=_say)


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
        experiment = _experiment(params, set_)
        outside = {name: run for name, run in experiment.runs.items() if run.method == "external"}
        wanted = experiment.training(_named(name, outside, "checkpoint"))
    from dynat.jobs.adoption import run_adoption

    run_adoption(wanted, places=Places(data, results), say=_say)


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
) -> None:
    """Attack a run's networks (all its seeds) and write what became of every test picture."""
    if spec:
        wanted = ExamSpec.model_validate_json(spec)
    else:
        experiment = _experiment(params, set_)
        wanted = experiment.exam(_named(run, experiment.runs, "run"), _named(attack, experiment.attacks, "attack"))
        threads = threads or experiment.threads
    with _quick_imports():
        from dynat.jobs.exam import run_exam
        from dynat.jobs.terminal import use_threads

    use_threads(threads)

    run_exam(wanted, places=Places(data, results, state), device=device, say=_say)


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

    experiment = Experiment.model_validate_json(spec) if spec else _experiment(params, set_)
    folder = results / experiment.preset
    write_report(folder, experiment)
    print(f"open {folder / 'report.html'}")


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
    return Experiment.model_validate_json(spec) if spec else _experiment(params, assignments)


def _experiment(params: Path, assignments: list[str] | None) -> Experiment:
    given: dict[str, Any] = read_yaml(params)
    for assignment in assignments or []:
        key, equals, value = assignment.partition("=")
        if not equals:
            raise ConfigError(f"--set {assignment}: write KEY=VALUE, as in beta=6.0 or training.epochs=5")
        try:
            content: Any = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ConfigError(f"--set {assignment}: '{value}' is not valid YAML") from None
        for part in reversed(key.split(".")):
            content = {part: content}
        given = merge(given, content)
    return load(given)


def _summary(run: Run) -> str:
    """A run in a line: what it is, then what differs from the usual."""
    if run.method == "external":
        return f"{run.checkpoint} as {run.target}"
    said = [run.method, f"{run.labels} labels", f"target {run.target}"]
    said += [f"guide {run.guide}"] if run.guide else []
    said += [f"guide labels in {run.guide_mode} mode"] if run.guide_mode != "train" else []
    said += [f"beta {run.beta:g}"] if run.beta is not None else []
    said += [f"consistency {run.consistency:g}"] if run.consistency else []
    said += [f"inner {run.inner.objective}"] if run.inner.objective != "own" else []
    said += ["no clean forward"] if run.guide and not run.clean_forward and run.method in ("at", "lbgat") else []
    said += ["clean forward"] if run.clean_forward and not run.guide else []
    said += [f"AWP gamma {run.awp.gamma:g}"] if run.awp else []
    said += [f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}" for key, value in run.options.items()]
    return ", ".join([*said, f"{run.epochs} epochs"])


@contextmanager
def _quick_imports() -> Iterator[None]:
    """Imports without garbage collection: torch makes a million objects, none of them garbage (an eighth faster)."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _named(name: str | None, known: dict[str, Any], kind: str) -> str:
    if name is None:
        raise ConfigError(f"name a {kind}: {', '.join(known)}")
    return names.known(kind, name, known)


def _say(text: str) -> None:
    print(text, flush=True)
