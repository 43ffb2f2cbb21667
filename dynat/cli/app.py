"""What all commands share: the app, the options, and the way from names to an experiment."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from dynat.cli.renamed import CommandGroup
from dynat.config import ConfigError, Experiment, load, registry
from dynat.config.base import MAX_THREADS, shortened
from dynat.config.presets import merge_params
from dynat.config.yaml_input import parse_yaml, why

app = typer.Typer(
    cls=CommandGroup,
    help="Dynamic Label Adversarial Training and its baselines: train robust image classifiers, attack them, and "
    "compare them.\n\n"
    "The whole pipeline is one call: snakemake --cores all all. The commands below are its steps. They read "
    "params.yaml and the preset that it names, for example:\n\n"
    "dynat check; dynat data; dynat train dynat --seed 0; dynat attack dynat pgd-20 --set 'seeds=[0]'\n\n"
    "To evaluate a checkpoint that was trained elsewhere: dynat evaluate FILE --arch NAME --dataset NAME-OR-PATH "
    "--attacks LIST --eps NUMBER",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

CONFIGURE = "Configure"
COMPUTE = "Train and attack the runs of params.yaml"
CHECKPOINT = "Evaluate a third-party checkpoint"
RESULTS = "Use the results"

Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Override a value of params.yaml, for example beta=6.0. Repeatable."
    ),
]
Params = Annotated[Path, typer.Option(metavar="FILE", help="The parameters to read.")]
Device = Annotated[
    str, typer.Option(metavar="NAME", help="auto, cpu, cuda or cuda:1. auto: a free GPU, otherwise the CPU.")
]
Threads = Annotated[
    int | None, typer.Option(min=1, max=MAX_THREADS, help="CPU threads. By default the number in the config.")
]
ShardName = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="I-of-N",
        help="Attack only a part of the batches: 2-of-4 is the second of four equal parts. The command without this "
        "option joins them.",
    ),
]
AdversarialFormat = Annotated[
    str | None,
    typer.Option(
        "--adversarial",
        metavar="FORMAT",
        help="Write the adversarial images of all attacked images too: pt (a tensor, for RobustBench) or safetensors.",
    ),
]
AllowPlugins = Annotated[
    bool,
    typer.Option(
        "--allow-plugins",
        help="Run the plug-ins that the files of the folder name. They are code: only if you trust it.",
    ),
]
Data = Annotated[Path, typer.Option(metavar="FOLDER", help="Folder of the prepared data sets.")]
Results = Annotated[Path, typer.Option(metavar="FOLDER", help="Folder of the results.")]
State = Annotated[
    Path, typer.Option(metavar="FOLDER", help="Folder of saved states. Interrupted work resumes from it.")
]

DATA, RESULTS_FOLDER, STATE = Path("data"), Path("results"), Path("state")


def read_experiment(params: Path, assignments: list[str] | None) -> Experiment:
    """The experiment of params.yaml and its preset, with the values of `--set` over both."""
    given: dict[str, Any] = {}
    for assignment in assignments or []:
        key, equals, value = assignment.partition("=")
        shown = f"--set {shortened(assignment)}"
        parts = key.split(".")
        if not equals or not all(parts):
            raise ConfigError(f"{shown}: write KEY=VALUE, as in beta=6.0 or training.epochs=5")
        try:
            content: Any = parse_yaml(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"{shown}: not valid YAML ({why(error)})") from None
        for part in reversed(parts):
            content = {part: content}
        given = merge_params(given, content)
    return load(params, over=given, notice=notice)


@contextmanager
def quick_imports() -> Iterator[None]:
    """Import without garbage collection: torch makes a million objects, and none of them is garbage.

    They are not scanned later either, nor when the process ends: a short job takes a sixth less time.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def named(name: str | None, known: dict[str, Any], kind: str) -> str:
    """The name, if there is one of that kind; otherwise an error that lists them."""
    if not known:
        raise ConfigError(f"this experiment has no {kind}")
    if name is None:
        raise ConfigError(f"say which {kind}: {', '.join(known)}")
    return registry.known(kind, name, known)


def say(text: str) -> None:
    print(text, flush=True)


def notice(text: str) -> None:
    print(f"dynat: {text}", file=sys.stderr)
