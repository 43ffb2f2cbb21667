"""The commands that compute, for the runs of params.yaml by their names. Each runs one job."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from dynat import prepared
from dynat.cli import job
from dynat.cli.app import (
    COMPUTE,
    DATA,
    RESULTS_FOLDER,
    STATE,
    AdversarialFormat,
    Data,
    Device,
    Params,
    Results,
    Set,
    ShardName,
    State,
    Threads,
    app,
    named,
    read_experiment,
)
from dynat.cli.job import JobSettings
from dynat.config import ConfigError, DatasetConfig, registry
from dynat.config.base import MAX_SEED
from dynat.config.presets import PARAMS
from dynat.config.shards import Shard
from dynat.results.paths import Paths
from dynat.runtime.errors import UserError

RunName = Annotated[str | None, typer.Argument(metavar="RUN", help="Required: a run of the preset, such as dynat.")]
RowName = Annotated[
    str | None, typer.Argument(metavar="RUN", help="Required: a trained run or an imported checkpoint.")
]


@app.command(rich_help_panel=COMPUTE)
def data(params: Params = PARAMS, set_: Set = None, data: Data = DATA) -> None:
    """Download or build the data set once, as data/<name>/."""
    job.run_data(read_experiment(params, set_).dataset, JobSettings(Paths(data)))


@app.command(rich_help_panel=COMPUTE)
def train(
    run: RunName = None,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Seed of the training.")] = 0,
    params: Params = PARAMS,
    set_: Set = None,
    device: Device = "auto",
    threads: Threads = None,
    data: Data = DATA,
    results: Results = RESULTS_FOLDER,
    state: State = STATE,
) -> None:
    """Train one run with one seed. An interrupted training resumes."""
    experiment = read_experiment(params, set_)
    if run in experiment.checkpoints:
        raise ConfigError(f"{run} is a checkpoint and not trained here: dynat import {run}")
    name = named(run, experiment.runs, "run")
    paths, tensorboard = Paths(data, results, state), experiment.runs[name].tensorboard
    _refuse_other_images(experiment.dataset, paths)
    settings = JobSettings(paths, seed, device, threads or experiment.threads, tensorboard)
    job.run_training(experiment.training(name), settings)


@app.command("import", rich_help_panel=COMPUTE)
def import_(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Required: a row of the section checkpoints.")
    ] = None,
    params: Params = PARAMS,
    set_: Set = None,
    data: Data = DATA,
    results: Results = RESULTS_FOLDER,
) -> None:
    """Import a third-party checkpoint of the config, so that it is attacked and compared like a run."""
    experiment = read_experiment(params, set_)
    spec = experiment.checkpoint_import(named(name, experiment.checkpoints, "checkpoint"))
    job.run_import(spec, JobSettings(Paths(data, results)))


@app.command(rich_help_panel=COMPUTE)
def attack(
    run: RowName = None,
    attack: Annotated[
        str | None, typer.Argument(metavar="ATTACK", help="Required: an attack of the preset, such as pgd-20.")
    ] = None,
    params: Params = PARAMS,
    set_: Set = None,
    device: Device = "auto",
    threads: Threads = None,
    shard: ShardName = None,
    adversarial: AdversarialFormat = None,
    data: Data = DATA,
    results: Results = RESULTS_FOLDER,
    state: State = STATE,
) -> None:
    """Attack the networks of a run (all its seeds), and write for every test image whether it is still correct."""
    experiment = read_experiment(params, set_)
    spec = experiment.evaluation(named(run, experiment.rows, "run"), named(attack, experiment.attacks, "attack"))
    chosen = None if shard is None else Shard.parse(shard)
    settings = _settings(Paths(data, results, state), device, threads or experiment.threads)
    if adversarial is not None:
        registry.known("format", adversarial, job.IMAGE_FORMATS)
    job.run_evaluation(spec, replace(settings, shard=chosen, adversarial=adversarial))
    if adversarial is not None and chosen is None:
        for seed in spec.seeds:
            job.run_adversarial(spec, replace(settings, seed=seed, adversarial=adversarial))


@app.command(rich_help_panel=COMPUTE)
def sanity(
    run: RowName = None,
    params: Params = PARAMS,
    set_: Set = None,
    device: Device = "auto",
    threads: Threads = None,
    data: Data = DATA,
    results: Results = RESULTS_FOLDER,
    state: State = STATE,
) -> None:
    """Run sanity checks on the evaluation of a run: small attacks that show whether its robustness can be trusted."""
    experiment = read_experiment(params, set_)
    spec = experiment.sanity_checks(named(run, experiment.rows, "run"))
    job.run_sanity(spec, _settings(Paths(data, results, state), device, threads or experiment.threads))


@app.command(rich_help_panel=COMPUTE)
def corruptions(
    run: RowName = None,
    params: Params = PARAMS,
    set_: Set = None,
    device: Device = "auto",
    threads: Threads = None,
    data: Data = DATA,
    results: Results = RESULTS_FOLDER,
    state: State = STATE,
) -> None:
    """Evaluate a run on corrupted test images: noise, blur, weather, digital (section corruptions of the config)."""
    experiment = read_experiment(params, set_)
    spec = experiment.corrupted(named(run, experiment.rows, "run"))
    job.run_corruptions(spec, _settings(Paths(data, results, state), device, threads or experiment.threads))


@app.command(rich_help_panel=COMPUTE)
def transfer(
    params: Params = PARAMS,
    set_: Set = None,
    device: Device = "auto",
    threads: Threads = None,
    data: Data = DATA,
    results: Results = RESULTS_FOLDER,
) -> None:
    """Evaluate every run on the adversarial images that were made against every other run."""
    experiment = read_experiment(params, set_)
    job.run_transfer(experiment.transfer(), _settings(Paths(data, results), device, threads or experiment.threads))


def _refuse_other_images(dataset: DatasetConfig, paths: Paths) -> None:
    """Refuse images that were prepared with other settings. (Snakemake prepares them again.)"""
    folder = paths.dataset(dataset.name)
    if not (folder / prepared.INFO).exists():
        return
    info = prepared.read_info(folder)
    for key, made, given in (
        ("size", info.shape[1], dataset.size or info.shape[1]),
        ("train_images", info.train_images, dataset.train_images),
    ):
        if made != given:
            raise UserError(
                f"{folder}: was prepared with {key} {made}, and the configuration says {given}; prepare it again: "
                "dynat data"
            )


def _settings(paths: Paths, device: str, threads: int) -> JobSettings:
    return JobSettings(paths, device=device, threads=threads)
