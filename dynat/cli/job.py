"""`dynat job`: one job of the pipeline from its resolved spec. Rules call it; the other commands use the same jobs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, get_args

import typer
from pydantic import BaseModel

from dynat.cli.app import (
    DATA,
    RESULTS_FOLDER,
    STATE,
    AdversarialFormat,
    Data,
    Device,
    Results,
    ShardName,
    State,
    Threads,
    app,
    quick_imports,
    say,
)
from dynat.config import (
    ConfigError,
    CorruptionsSpec,
    DatasetConfig,
    EvaluationSpec,
    Experiment,
    ExtraSpec,
    ImportSpec,
    SanitySpec,
    TrainingSpec,
    TransferSpec,
    plugin_modules,
    registry,
)
from dynat.config.attacks import ImageFormat
from dynat.config.base import MAX_SEED
from dynat.config.resolve import checked
from dynat.config.shards import Shard
from dynat.results.paths import Paths


@dataclass(frozen=True)
class JobSettings:
    """What a job is given beside its spec."""

    paths: Paths = field(default_factory=Paths)
    seed: int = 0
    device: str = "auto"
    threads: int | None = None
    tensorboard: bool = False
    shard: Shard | None = None
    adversarial: str | None = None
    """Format of the adversarial images to write, or to keep for the job that writes them."""


def run_data(spec: DatasetConfig, settings: JobSettings) -> None:
    with quick_imports():
        from dynat.data import prepare

    print(f"data: {spec.name} is ready in {prepare(spec, settings.paths.data)}")
    if spec.extra is not None:
        run_extra(ExtraSpec(data=spec.name, images=spec.extra), settings)


def run_extra(spec: ExtraSpec, settings: JobSettings) -> None:
    with quick_imports():
        from dynat.data.extra import prepare

    print(f"data: {spec.images.path} is checked: {prepare(spec, settings.paths.data)}")


def run_training(spec: TrainingSpec, settings: JobSettings) -> None:
    with quick_imports():
        from dynat.jobs import training
        from dynat.runtime import launch
        from dynat.runtime.device import set_up_cpu
        from dynat.training.distributed import Distributed

    gpus = spec.run.gpus
    if gpus > 1 and Distributed.from_environment().size == 1:
        launch.launch(gpus, sys.argv[1:])  # this command again, in every process
        return
    set_up_cpu(settings.threads and max(1, settings.threads // gpus))
    training.run_training(
        spec,
        seed=settings.seed,
        paths=settings.paths,
        device=settings.device,
        tensorboard=settings.tensorboard,
        say=say,
    )


def run_import(spec: ImportSpec, settings: JobSettings) -> None:
    with quick_imports():
        from dynat.jobs import import_checkpoint

    import_checkpoint.run_import(spec, paths=settings.paths, say=say)


def run_evaluation(spec: EvaluationSpec, settings: JobSettings) -> None:
    with quick_imports():
        from dynat.jobs import evaluation
        from dynat.runtime.device import set_up_cpu

    set_up_cpu(settings.threads)
    keep = settings.adversarial is not None
    if settings.shard is not None:
        evaluation.run_shard(
            spec, settings.shard, paths=settings.paths, device=settings.device, say=say, keep_images=keep
        )
        return
    evaluation.run_evaluation(spec, paths=settings.paths, device=settings.device, say=say, keep_images=keep)


def run_adversarial(spec: EvaluationSpec, settings: JobSettings) -> None:
    with quick_imports():
        from dynat.jobs import adversarial
        from dynat.runtime.device import set_up_cpu

    set_up_cpu(settings.threads)
    ending = registry.known("format", settings.adversarial or "pt", IMAGE_FORMATS)
    adversarial.run_adversarial(spec, settings.seed, ending, paths=settings.paths, device=settings.device, say=say)


def run_sanity(spec: SanitySpec, settings: JobSettings) -> None:
    with quick_imports():
        from dynat.jobs import sanity
        from dynat.runtime.device import set_up_cpu

    set_up_cpu(settings.threads)
    sanity.run_sanity_checks(spec, paths=settings.paths, device=settings.device, say=say)


def run_corruptions(spec: CorruptionsSpec, settings: JobSettings) -> None:
    with quick_imports():
        from dynat.jobs import corruptions
        from dynat.runtime.device import set_up_cpu

    set_up_cpu(settings.threads)
    corruptions.run_corruptions(spec, paths=settings.paths, device=settings.device, say=say)


def run_transfer(spec: TransferSpec, settings: JobSettings) -> None:
    with quick_imports():
        from dynat.jobs import transfer
        from dynat.runtime.device import set_up_cpu

    set_up_cpu(settings.threads)
    transfer.run_transfer(spec, paths=settings.paths, device=settings.device, say=say)


def run_curves(spec: Experiment, settings: JobSettings) -> None:
    from dynat.jobs.plots import write_curves

    print(write_curves(spec, settings.paths))


def run_accuracy(spec: Experiment, settings: JobSettings) -> None:
    from dynat.jobs.plots import write_accuracy

    print(write_accuracy(spec, settings.paths))


def run_report(spec: Experiment, settings: JobSettings) -> None:
    with quick_imports():
        import dynat.report.figures  # noqa: F401 - matplotlib and seaborn
        from dynat.report import write_report

    files = settings.paths.experiment(spec.preset)
    write_report(files, spec)
    print(f"open {files.report}")


IMAGE_FORMATS = dict.fromkeys(get_args(ImageFormat))

JOBS: dict[str, tuple[type[BaseModel], Callable[[Any, JobSettings], None]]] = {
    "data": (DatasetConfig, run_data),
    "extra": (ExtraSpec, run_extra),
    "training": (TrainingSpec, run_training),
    "import": (ImportSpec, run_import),
    "attack": (EvaluationSpec, run_evaluation),
    "adversarial": (EvaluationSpec, run_adversarial),
    "sanity": (SanitySpec, run_sanity),
    "corruptions": (CorruptionsSpec, run_corruptions),
    "transfer": (TransferSpec, run_transfer),
    "curves": (Experiment, run_curves),
    "accuracy": (Experiment, run_accuracy),
    "report": (Experiment, run_report),
}
"""Kind of job, as the rules name it, to the model of its spec and the function that runs it."""


@app.command(hidden=True)
def job(
    kind: Annotated[str, typer.Argument(help=f"One of: {', '.join(JOBS)}.")],
    spec: Annotated[str, typer.Option(metavar="JSON", help="The resolved config of the job.")],
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Of a training, or of adversarial images.")] = 0,
    device: Device = "auto",
    threads: Threads = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Of a training: write event files.")] = False,
    shard: ShardName = None,
    adversarial: AdversarialFormat = None,
    data: Data = DATA,
    results: Results = RESULTS_FOLDER,
    state: State = STATE,
) -> None:
    """Run one job of the pipeline from its resolved spec, as its rule does."""
    model, run = JOBS[registry.known("kind of job", kind, JOBS)]
    content = _content(spec, f"job {kind} --spec")
    paths, chosen = Paths(data, results, state), None if shard is None else Shard.parse(shard)
    settings = JobSettings(paths, seed, device, threads, tensorboard, chosen, adversarial)
    run(checked(model, content, f"job {kind} --spec: "), settings)


def _content(spec: str, where: str) -> dict[str, Any]:
    """The spec as a mapping; its plug-ins, which the config of the one who calls this command names, are imported."""
    try:
        content = json.loads(spec)
    except (ValueError, RecursionError):
        raise ConfigError(f"{where}: not a spec in JSON") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{where}: not a spec: expected a JSON object, found {type(content).__name__}")
    plugins = content.get("plugins", [])
    if not isinstance(plugins, list) or not all(isinstance(name, str) for name in plugins):
        raise ConfigError(f"{where}: plugins: expected a list of names")
    plugin_modules.import_plugins(plugins)
    return content
