"""Export a run: a folder with its weights, the code of its network, a model card, a LaTeX row, and claims.

card.md                      the model card: what it is, how robust, its limits, how to load it
target-seed<k>.safetensors   the network of each seed
network.py                   its code, which needs torch alone
normalize.py                 the normalization of pixels, where the network has one
row.tex                      the run's line of tables/main.tex
claim-seed<k>.json           in the form of RobustBench's model_info
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from dynat import provenance
from dynat.config import Checkpoint, Experiment, Normalization, of_file, registry
from dynat.results.metrics import read_metrics
from dynat.results.paths import ExportFiles, Paths, SeedFiles, SingleRunPaths
from dynat.results.records import DatasetInfo, RunMetrics, TrainingRecord, read_record
from dynat.results.weights import read_weights
from dynat.runtime.errors import UserError
from dynat.runtime.files import atomic_text, atomic_write

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


def _weights(files: SeedFiles) -> bytes:
    return read_weights(files, read_record(files.config, TrainingRecord))


def export_run(
    experiment: Experiment, name: str, paths: Paths, *, out: Path, say: Callable[[str], None] = print
) -> Path:
    """Write the folder `out` for a row that has its metrics; the card's file."""
    from dynat.report import model_card

    run, files = paths.run_files(experiment.preset, name), ExportFiles(out)
    metrics = read_metrics(run)
    networks = {seed: _weights(run.seed(seed)) for seed in metrics.seeds}
    weights = {}
    for seed, content in networks.items():
        file, claim_file = files.weights(seed), files.claim(seed)
        claim = model_card.claim(metrics, seed)
        atomic_write(file, lambda draft, content=content: draft.write_bytes(content))  # type: ignore[misc]
        if claim is None:
            claim_file.unlink(missing_ok=True)  # of an earlier export, with AutoAttack
        else:
            atomic_text(claim_file, json.dumps(claim.model_dump(), indent=2) + "\n")
        sha256 = hashlib.sha256(content).hexdigest()
        weights[seed] = model_card.Weights(file.name, sha256, claim_file.name if claim else None)
    example, sources = _loading(metrics, weights[metrics.seeds[0]].file)
    for source, code in sources.items():
        atomic_text(out / source, code)
    atomic_text(files.row, _latex_row(experiment, name, metrics))
    exported = model_card.ExportedRun(metrics=metrics, weights=weights, example=example, sources=tuple(sources))
    atomic_text(files.card, model_card.to_markdown(exported))
    say(f"{name}: {files.card}, {', '.join(each.file for each in weights.values())}")
    return files.card


def _loading(metrics: RunMetrics, file: str) -> tuple[str, dict[str, str]]:
    """Lines of Python that load `file`, and the code that they need beside them."""
    row, data = metrics.config, metrics.dataset
    name = row.arch if isinstance(row, Checkpoint) else row.target
    where, arguments = registry.network_entry(name)
    module, _, factory = where.partition(":")
    sources = _sources(module) if module.startswith(ARCHITECTURES) else {}
    given: dict[str, object] = {**arguments, "classes": len(data.classes), "channels": data.channels}
    first = row if isinstance(row, Checkpoint) else _own_normalization(name, data)
    if "/" in name:
        given["size"] = tuple(pixels + 2 * first.padding for pixels in data.size)
    network = f"{factory}({', '.join(f'{key}={value!r}' for key, value in given.items())})"
    imports = [f"from {'network' if sources else module} import {factory}"]
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
    return "\n".join(lines), sources


def _own_normalization(name: str, data: DatasetInfo) -> Normalization:
    from dynat import models

    return models.normalization(name, classes=len(data.classes), channels=data.channels)


def _sources(module: str) -> dict[str, str]:
    """The code of a network as network.py, and that of the networks whose parts it uses, each as a file beside it."""
    code = _source(module)
    others = re.findall(rf"^from {ARCHITECTURES}(\w+) import", code, re.MULTILINE)
    files = {f"{other}.py": _source(f"{ARCHITECTURES}{other}") for other in others}
    return {"network.py": re.sub(rf"^from {ARCHITECTURES}", "from ", code, flags=re.MULTILINE), **files}


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
