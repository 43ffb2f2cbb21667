"""Commands about the config: what it trains and attacks, and which names it can use."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from dynat.cli.app import CONFIGURE, Params, Set, app, read_experiment
from dynat.config import Checkpoint, Run, ThreatModel, registry
from dynat.config.presets import PARAMS

Package = Annotated[str | None, typer.Argument(metavar="PACKAGE", help="timm or torchvision: its networks instead.")]


@app.command(rich_help_panel=CONFIGURE)
def check(params: Params = PARAMS, set_: Set = None) -> None:
    """Validate params.yaml and its preset, and show which runs are trained and which attacks are run."""
    experiment = read_experiment(params, set_)
    print(f"preset {experiment.preset}: data set {experiment.dataset.name}, ", end="")
    print(f"{experiment.threat.norm} eps {experiment.threat.eps:g}")
    for name, row in experiment.rows.items():
        summary = _checkpoint(row) if isinstance(row, Checkpoint) else _run(row, experiment.threat)
        print(f"  {name}: {summary}, seeds {','.join(map(str, experiment.seeds[name]))}")
    print(f"attacks: {', '.join(experiment.attacks)}")


@app.command("list", rich_help_panel=CONFIGURE)
def list_(package: Package = None) -> None:
    """List the names that a config can use: methods, networks, data sources, attacks."""
    if package is not None:
        for name in registry.package_networks(package):
            print(f"{package}/{name}")
        return
    tables: dict[str, dict[str, Any]] = {
        "methods": registry.METHODS,
        "networks": registry.NETWORKS,
        "data sources": registry.SOURCES,
        "attacks": registry.ATTACKS,
    }
    for title, table in tables.items():
        print(f"{title}: {', '.join(table)}")


def _checkpoint(checkpoint: Checkpoint) -> str:
    normalization = f", mean and std: {checkpoint}" if checkpoint.mean else ""
    return f"checkpoint {checkpoint.file} as {checkpoint.arch}{normalization}"


def _run(run: Run, threat: ThreatModel) -> str:
    """A run in a line: method, labels and networks, then what differs from the usual."""
    parts = [run.method, f"{run.labels} labels", f"target {run.target}"]
    parts += [f"guide {run.guide}"] if run.guide else []
    parts += [f"guide labels in {run.guide_mode} mode"] if run.guide_mode != "train" else []
    parts += [f"beta {run.beta:g}"] if run.beta is not None else []
    parts += [f"consistency {run.consistency:g}"] if run.consistency else []
    parts += [f"inner eps {run.inner.eps:g}"] if run.inner.eps not in (None, threat.eps) else []
    parts += [f"inner {run.inner.objective}"] if run.inner.objective != "method" else []
    parts += ["no clean forward"] if run.guide and not run.clean_forward and run.method in ("at", "lbgat") else []
    parts += ["clean forward"] if run.clean_forward and not run.guide else []
    parts += [f"AWP gamma {run.awp.gamma:g}"] if run.awp else []
    parts += [f"{run.optimizer.name}"] if run.optimizer.name != "sgd" else []
    parts += [f"{run.schedule.shape} schedule"] if run.schedule.shape == "cosine" else []
    mixes = {"CutMix": run.augmentation.cutmix, "MixUp": run.augmentation.mixup}
    parts += [f"{name} {alpha:g}" for name, alpha in mixes.items() if alpha]
    parts += [f"label smoothing {run.label_smoothing:g}"] if run.label_smoothing else []
    parts += [f"gradients clipped to {run.optimizer.max_grad_norm:g}"] if run.optimizer.max_grad_norm else []
    parts += [f"SWA from {run.swa.start:g} of the training"] if run.swa else []
    parts += [f"patience {run.validation.patience}"] if run.validation.patience else []
    sources = {} if run.init is None else run.init.sources
    parts += [f"{network} starts from {source.run or source.file}" for network, source in sources.items()]
    parts += [name for name in ("compile", "cuda_graph") if getattr(run, name)]
    parts += [f"{100 * run.extra.ratio:g} % extra images"] if run.extra else []
    parts += ["labeled by the guide"] if run.extra and run.extra.labels == "guide" else []
    parts += [f"{run.gpus} GPUs"] if run.gpus > 1 else []
    parts += [
        f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}" for key, value in run.options.items()
    ]
    return ", ".join([*parts, f"{run.epochs} epochs"])
