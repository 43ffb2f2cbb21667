"""Export a run: a folder that can be uploaded to the Hugging Face Hub as it is, and used without this package.

README.md                     the model card: what it is, how robust, its limits, how to load it; metadata at its top
model.safetensors             the network of the best seed
config.json                   its architecture, sizes and classes, for programs
model-seed<k>.safetensors     the networks of the other seeds
model.onnx                    the network of the best seed as ONNX, on request
network.py, normalize.py      the code of the network, which needs torch alone
row.tex                       the run's line of tables/main.tex
robustbench-seed<k>.json      in the form of RobustBench's model_info; robustbench.md submits them
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from dynat import provenance
from dynat.config import Checkpoint, Experiment, Normalization, of_file, registry
from dynat.report import hub, model_card, robustbench
from dynat.report.hub import HubConfig, NetworkCode
from dynat.results.history import read_history
from dynat.results.metrics import read_metrics
from dynat.results.paths import ExportFiles, Paths, RunFiles, SeedFiles, SingleRunPaths
from dynat.results.records import DatasetInfo, RunMetrics, TrainingMetrics, TrainingRecord, read_record
from dynat.results.weights import file_sha256, network_of, read_weights
from dynat.runtime.errors import UserError
from dynat.runtime.files import atomic_write

if TYPE_CHECKING:
    from dynat.report.tables import Cell

ARCHITECTURES = "dynat.models."
NORMALIZE = "dynat.nn.normalize"


def evaluated_checkpoint(folder: Path) -> tuple[Experiment, str, Paths] | None:
    """The one row in a folder that `dynat evaluate` wrote; None for any other folder."""
    paths = SingleRunPaths(results=folder)
    if not paths.request.is_file():
        return None
    experiment = of_file(paths.request)
    if len(experiment.rows) != 1:
        raise UserError(f"{paths.request}: has {len(experiment.rows)} rows; `dynat evaluate` writes one")
    (name,) = experiment.rows
    return experiment, name, paths


@dataclass(frozen=True)
class ExportOptions:
    """What the command line asks for."""

    seed: int | None = None
    """The seed of model.safetensors; by default the best one on the validation images."""
    license_id: str = hub.UNKNOWN
    onnx: bool = False


def export_run(
    experiment: Experiment,
    name: str,
    paths: Paths,
    *,
    out: Path,
    options: ExportOptions = ExportOptions(),
    say: Callable[[str], None] = print,
) -> Path:
    """Write the folder `out` for a row that has its metrics; the card's file."""
    run, files = paths.run_files(experiment.preset, name), ExportFiles(out)
    old = _earlier_export(files)
    metrics = read_metrics(run)
    seed, choice = _best_seed(run, metrics, options.seed)
    networks = {k: _weights(run.seed(k), metrics.training[k]) for k in sorted(metrics.seeds, key=lambda k: k != seed)}
    names = {k: (files.model if k == seed else files.other_seed(k)).name for k in networks}
    claims = {k: each for k in networks if (each := robustbench.claim(metrics, k)) is not None}
    weights = {
        k: model_card.Weights(names[k], file_sha256(content), files.claim(k).name if k in claims else None)
        for k, content in networks.items()
    }
    loading = _loading(metrics, names[seed])
    for source, source_code in loading.sources.items():
        if re.search(r"^\s*(from|import) dynat\b", source_code, re.MULTILINE):
            say(
                f"warning: {source} of the plug-in imports dynat, so the folder cannot be used without it; keep the "
                "network in a module of its own, which the plug-in imports"
            )
    content: dict[str, bytes] = {names[k]: data for k, data in networks.items()}
    content |= {source: code.encode() for source, code in loading.sources.items()}
    content[files.row.name] = _latex_row(experiment, name, metrics).encode()
    content |= {files.claim(k).name: _json(each) for k, each in claims.items()}
    if text := robustbench.submission(metrics, claims, names):
        content[files.submission.name] = text.encode()
    onnx = None
    if options.onnx:
        from dynat.jobs.onnx_export import to_onnx

        onnx, content[files.onnx.name] = to_onnx(metrics, networks[seed], files.onnx.name)
    exported = model_card.ExportedRun(
        metrics=metrics,
        weights=weights,
        example=loading.example,
        sources=tuple(loading.sources),
        seed=seed,
        choice=choice,
        license_id=options.license_id,
        onnx=onnx,
    )
    content[files.card.name] = model_card.to_markdown(exported).encode()
    config = _config(metrics, seed, loading, onnx, [files.config.name, *content])
    for file in old - set(config.files):
        (out / file).unlink(missing_ok=True)
    for file, data in {files.config.name: _json(config), **content}.items():  # config.json first: it is the mark
        atomic_write(out / file, lambda draft, data=data: draft.write_bytes(data))  # type: ignore[misc]
    say(f"{name}: {files.card}, {', '.join(names.values())}{', ' + files.onnx.name if onnx else ''}")
    return files.card


def _earlier_export(files: ExportFiles) -> set[str]:
    """The files that an earlier export wrote; `UserError` for a folder with anything else in it."""
    if not files.folder.is_dir() or not any(files.folder.iterdir()):
        return set()
    try:
        listed = HubConfig.model_validate_json(files.config.read_bytes()).files
    except (OSError, ValueError):
        raise UserError(
            f"{files.folder}: has files in it and is not an earlier export; name a new folder with --out"
        ) from None
    return {Path(file).name for file in listed}


def _best_seed(run: RunFiles, metrics: RunMetrics, given: int | None) -> tuple[int, str]:
    """The seed whose network is model.safetensors, and why. Test images play no part."""
    row, seeds = metrics.config, metrics.seeds
    if given is not None:
        if given not in seeds:
            raise UserError(f"--seed {given}: {metrics.run} has the seeds {', '.join(map(str, seeds))}")
        return given, f"Seed {given} was chosen by hand."
    if len(seeds) == 1 or isinstance(row, Checkpoint):
        return seeds[0], "It is the only seed."
    select = row.validation.select

    def score(seed: int) -> tuple[float, float]:
        epochs = {int(epoch["epoch"]): epoch for epoch in read_history(run.seed(seed))}
        best = epochs.get(metrics.training[seed].best_epoch or 0, {})
        return best.get(select, 0.0), best.get("clean", 0.0)

    best = max(seeds, key=score)  # the first of equals
    accuracy = "PGD accuracy" if select == "pgd" else "clean accuracy"
    return (
        best,
        f"Seed {best} has the highest {accuracy} on the validation images; no test image was used for that.",
    )


def _weights(files: SeedFiles, measured: TrainingMetrics) -> bytes:
    """The weights that the metrics are about."""
    record = read_record(files.config, TrainingRecord)
    if (record.digest, network_of(record)) != (measured.digest, measured.network or network_of(record)):
        raise UserError(
            f"{files.target()}: is not the network of metrics.json, but was written after it; make the metrics again: "
            "snakemake --cores all all"
        )
    return read_weights(files, record)


def _json(record: BaseModel) -> bytes:
    return (json.dumps(record.model_dump(), indent=2) + "\n").encode()


def _config(
    metrics: RunMetrics, seed: int, loading: Loading, onnx: model_card.OnnxFile | None, files: list[str]
) -> HubConfig:
    row, data, threat, first = metrics.config, metrics.dataset, metrics.threat, loading.first
    return HubConfig(
        architecture=robustbench.network_of(row),
        architectures=[loading.network.factory],
        network=loading.network,
        num_classes=len(data.classes),
        id2label={str(number): label for number, label in enumerate(data.classes)},
        num_channels=data.channels,
        image_size=list(data.size),
        mean=list(first.mean) if first.mean else None,
        std=list(first.std) if first.std else None,
        padding=first.padding,
        threat_model={"norm": robustbench.THREATS.get(threat.norm, threat.norm), "eps": threat.eps},
        run=metrics.run,
        seed=seed,
        onnx_opset=onnx.opset if onnx else None,
        files=files,
    )


@dataclass(frozen=True)
class Loading:
    """How a program without this package loads the network."""

    example: str
    """Lines of Python."""
    sources: dict[str, str]
    """The code that they need beside them."""
    network: NetworkCode
    first: Normalization | Checkpoint
    """What its first layer does to the pixels."""


def _loading(metrics: RunMetrics, file: str) -> Loading:
    """How `file` is loaded."""
    row, data, name = metrics.config, metrics.dataset, robustbench.network_of(metrics.config)
    where, arguments = registry.network_entry(name)
    module, _, factory = where.partition(":")
    own = module.startswith(ARCHITECTURES)
    sources = _sources(module) if own else _plugin_sources(module, name)
    given: dict[str, Any] = {**arguments, "classes": len(data.classes), "channels": data.channels}
    first = row if isinstance(row, Checkpoint) else _own_normalization(name, data)
    if "/" in name:
        given["size"] = tuple(pixels + 2 * first.padding for pixels in data.size)
    network = f"{factory}({', '.join(f'{key}={value!r}' for key, value in given.items())})"
    code = NetworkCode(module="network" if own else module, factory=factory, arguments=given)
    imports = [f"from {code.module} import {factory}"]
    if first.mean or first.padding:
        sources["normalize.py"] = _source(NORMALIZE)
        imports.append("from normalize import normalized")
        settings: dict[str, object] = {"mean": list(first.mean or (0.0,)), "std": list(first.std or (1.0,))}
        settings |= {"padding": first.padding} if first.padding else {}
        network = f"normalized({', '.join([network, *(f'{key}={value}' for key, value in settings.items())])})"
    lines = [
        "from safetensors.torch import load_file",
        *imports,
        "",
        f"model = {network}.eval()",
        f'model.load_state_dict(load_file("{file}"))',
        "logits = model(images)",
    ]
    return Loading("\n".join(lines), sources, code, first)


def _own_normalization(name: str, data: DatasetInfo) -> Normalization:
    from dynat import models

    return models.normalization(name, classes=len(data.classes), channels=data.channels)


def _sources(module: str) -> dict[str, str]:
    """The code of a network as network.py, and that of the networks whose parts it uses, each as a file beside it."""
    code = _source(module)
    others = re.findall(rf"^from {ARCHITECTURES}(\w+) import", code, re.MULTILINE)
    files = {f"{other}.py": _source(f"{ARCHITECTURES}{other}") for other in others}
    return {"network.py": re.sub(rf"^from {ARCHITECTURES}", "from ", code, flags=re.MULTILINE), **files}


def _plugin_sources(module: str, network: str) -> dict[str, str]:
    """The module of a plug-in network, and the modules beside it that it imports; a package is installed instead."""
    files = [] if "." in module else provenance.network_plugins(network)
    return {file.name: file.read_text(encoding="utf-8") for file in files}


def _source(module: str) -> str:
    """The code of a module that imports torch, or the package of its networks, and nothing else of this package."""
    file = provenance.PACKAGE.joinpath(*module.split(".")[1:]).with_suffix(".py")
    return file.read_text(encoding="utf-8")


def _latex_row(experiment: Experiment, name: str, metrics: RunMetrics) -> str:
    """The run's line as tables/main.tex has it, but without the marks that compare it with other runs."""
    from dynat.report import latex, tables

    alone = {
        "runs": {key: run for key, run in experiment.runs.items() if key == name},
        "checkpoints": {key: row for key, row in experiment.checkpoints.items() if key == name},
    }
    table = tables.build(experiment.model_copy(update=alone), {name: metrics}, [])
    (row,) = table.rows
    about = f"{table.about} {table.shape.removesuffix(' Bold: best of the column.')}"
    unmarked = dataclasses.replace(row, cells=tuple(map(_unmarked, row.cells)))
    return "\n".join([*(f"% {line}" for line in (*latex.tex_head(table), about)), latex.tex_row(unmarked)]) + "\n"


def _unmarked(cell: Cell | None) -> Cell | None:
    """Without bold: a row alone is not the best of anything."""
    return cell and dataclasses.replace(cell, best=False)
