"""`dynat evaluate FILE`: attack a third-party checkpoint and print its table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import TypeAdapter, ValidationError

from dynat.cli.app import (
    CHECKPOINT,
    DATA,
    STATE,
    AdversarialFormat,
    Data,
    Device,
    ShardName,
    State,
    app,
    quick_imports,
    say,
)
from dynat.config import plugin_modules
from dynat.config.base import MAX_THREADS, Real, problems, shortened
from dynat.config.names import as_run_name, file_name
from dynat.config.shards import Shard
from dynat.config.yaml_input import parsed
from dynat.results.paths import SingleRunPaths, evaluation_folder
from dynat.runtime.errors import UserError

File = Annotated[Path, typer.Argument(metavar="FILE", help="The weights, as safetensors or a torch file.")]
Arch = Annotated[
    str, typer.Option(metavar="NAME", help="The network of the weights: wrn34-10, wrn28-10-swish, timm/resnet50, ...")
]
DatasetName = Annotated[
    str,
    typer.Option(
        metavar="NAME-OR-PATH",
        help="A prepared data set, one that a preset names (cifar10), or the path of an image folder: "
        "<path>/<class>/ or <path>/test/<class>/.",
    ),
]
Attacks = Annotated[
    str,
    typer.Option(
        metavar="LIST", help="Names with commas: pgd-20,cw-20,autoattack. Clean accuracy is always computed first."
    ),
]
Eps = Annotated[str, typer.Option(metavar="NUMBER", help="Radius of the ball in pixels of [0,1]: 8/255.")]
Norm = Annotated[str, typer.Option(metavar="NAME", help="Norm of the ball: linf, l2 or l1.")]
Images = Annotated[int | None, typer.Option(help="Number of test images, from the first. By default all.")]
Size = Annotated[
    int | None, typer.Option(min=1, help="Height and width in pixels to which the images of a folder are resized.")
]
Batch = Annotated[int | None, typer.Option(help="Images attacked at once. By default 250.")]
Surrogate = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="The model whose gradients the attacks use: none (the network itself), or a folded copy in float32, "
        "float16 or bfloat16. The plain network verifies every result.",
    ),
]
Mean = Annotated[str | None, typer.Option(metavar="LIST", help="The network expects (x - mean) / std: 0.49,0.48,0.45.")]
Std = Annotated[str | None, typer.Option(metavar="LIST", help="Standard deviation per channel, with --mean.")]
Padding = Annotated[int | None, typer.Option(min=0, help="Black pixels that the network adds on each side first.")]
Expect = Annotated[float | None, typer.Option(help="Warn if the clean accuracy is not this one, in percent.")]
Sanity = Annotated[
    bool, typer.Option("--sanity", help="Run the sanity checks of the evaluation too: many small attacks.")
]
Corruptions = Annotated[
    str | None,
    typer.Option(
        metavar="MAPPING",
        help="Evaluate on corrupted images too, with the settings of the section corruptions of a preset: "
        "'{path: CIFAR-10-C}', or {} to make them from the test images.",
    ),
]
Threads = Annotated[int | None, typer.Option(min=1, max=MAX_THREADS, help="CPU threads. By default one per core.")]
Plugins = Annotated[
    list[str] | None,
    typer.Option("--plugin", metavar="MODULE", help="Import a Python module that adds a network or an attack."),
]
Out = Annotated[Path | None, typer.Option(metavar="FOLDER", help="Folder to write. By default evaluations/<file>.")]


@app.command(rich_help_panel=CHECKPOINT)
def evaluate(
    file: File,
    arch: Arch,
    dataset: DatasetName,
    attacks: Attacks,
    eps: Eps,
    norm: Norm = "linf",
    images: Images = None,
    size: Size = None,
    batch: Batch = None,
    surrogate: Surrogate = None,
    mean: Mean = None,
    std: Std = None,
    padding: Padding = None,
    expect: Expect = None,
    sanity: Sanity = False,
    corruptions: Corruptions = None,
    adversarial: AdversarialFormat = None,
    shard: ShardName = None,
    plugin: Plugins = None,
    out: Out = None,
    device: Device = "auto",
    threads: Threads = None,
    data: Data = DATA,
    state: State = STATE,
) -> None:
    """Evaluate a checkpoint that was trained elsewhere, with the attacks and checks of the pipeline.

    Example: dynat evaluate theirs.pt --arch wrn34-10 --dataset cifar10 --attacks pgd-20,autoattack --eps 8/255
    """
    with quick_imports():
        from dynat.jobs.evaluate_checkpoint import CheckpointRequest, evaluate_checkpoint
        from dynat.runtime.device import set_up_cpu

    set_up_cpu(threads)
    name = as_run_name(file.stem)
    if expect is not None and not 0 <= expect <= 100:
        raise UserError(f"--expect {expect:g}: an accuracy in percent, from 0 to 100")
    plugin_modules.import_plugins(plugin or ())
    settings = {"images": images, "batch": batch, "surrogate": surrogate}
    request = CheckpointRequest(
        file=file,
        arch=arch,
        dataset=dataset,
        size=size,
        attacks=_attack_names(attacks),
        threat={"eps": eps, "norm": norm},
        settings={key: value for key, value in settings.items() if value is not None},
        normalization=_normalization(mean, std, padding),
        expected_accuracy=expect,
        sanity_checks=sanity,
        corruptions=None if corruptions is None else _mapping(corruptions, "--corruptions"),
        plugins=tuple(plugin or ()),
        adversarial_images=adversarial,
    )
    paths = SingleRunPaths(data, out or evaluation_folder(name), state)
    part = None if shard is None else Shard.parse(shard)
    evaluate_checkpoint(request, name=name, paths=paths, device=device, say=say, shard=part)


def _list(text: str, option: str) -> list[str]:
    """The entries of 'a,b,c', with or without brackets."""
    entries = [entry.strip(" '\"") for entry in text.strip().removeprefix("[").removesuffix("]").split(",")]
    if not all(entries):
        raise UserError(f"{option} {shortened(text)}: an entry is empty; write a,b,c")
    return entries


def _attack_names(text: str) -> tuple[str, ...]:
    option = "--attacks"
    entries = _list(text, option)
    for entry in entries:
        if entries.count(entry) > 1:
            raise UserError(f"{option}: {shortened(entry)} is named twice")
        try:
            file_name(entry, "attack")
        except ValueError as error:
            raise UserError(f"{option}: {error}") from None
    return tuple(entries)


def _normalization(mean: str | None, std: str | None, padding: int | None) -> dict[str, Any]:
    """The keys of a row of `checkpoints:` that are given."""
    lists = {key: _numbers(value, f"--{key}") for key, value in {"mean": mean, "std": std}.items() if value is not None}
    return lists if padding is None else {**lists, "padding": padding}


def _mapping(text: str, option: str) -> dict[str, Any]:
    content = parsed(text)
    if not isinstance(content, dict):
        raise UserError(f"{option} {shortened(text)}: write a mapping, such as {{}} or {{path: CIFAR-10-C}}")
    return content


def _numbers(text: str, option: str) -> list[float]:
    try:
        return TypeAdapter(list[Real]).validate_python(_list(text, option))
    except ValidationError as error:
        raise UserError("\n".join(problems(error, f"{option} {shortened(text)}: "))) from None
