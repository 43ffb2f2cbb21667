"""What all commands share: their options, and how names become an experiment."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from dynat.config import ConfigError, Experiment, load, names
from dynat.config.layers import merge, read_yaml

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


def read_experiment(params: Path, assignments: list[str] | None) -> Experiment:
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


@contextmanager
def quick_imports() -> Iterator[None]:
    """Imports without garbage collection: torch makes a million objects, none of them garbage.

    Nor are they looked at later, or once more when the process ends: a short job is a sixth faster.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def named(name: str | None, known: dict[str, Any], kind: str) -> str:
    if not known:
        raise ConfigError(f"this experiment has no {kind}")
    if name is None:
        raise ConfigError(f"say which {kind}: {', '.join(known)}")
    return names.known(kind, name, known)


def say(text: str) -> None:
    print(text, flush=True)
