"""A run as a folder that can be handed to anybody: weights, the code of its network, a card, a LaTeX row, a claim.

card.md                      what it is, how good, how far to trust that, how to load it
target-seed<k>.safetensors   the network of each seed
network.py                   its code, which needs torch alone
row.tex                      the run's line of tables/main.tex
claim-seed<k>.json           in the form of RobustBench's model_info
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynat import provenance
from dynat.config import Experiment, names
from dynat.files import atomic_text, atomic_write
from dynat.jobs.stranger import OneFolder
from dynat.places import Places

if TYPE_CHECKING:
    from dynat.report.tables import Cell

OURS = "dynat.models."


def examined(folder: Path) -> tuple[Experiment, str, Places] | None:
    """The one run in a folder that `dynat attack --checkpoint` wrote; None for any other folder."""
    asked = folder / "experiment.json"
    if not asked.is_file():
        return None
    experiment = Experiment.model_validate_json(asked.read_text())
    (name,) = experiment.runs
    return experiment, name, OneFolder(results=folder)


def write_card(
    experiment: Experiment, name: str, places: Places, *, out: Path, say: Callable[[str], None] = print
) -> Path:
    """Write the folder `out` for a run that has its metrics; the card's file."""
    from dynat.report import card
    from dynat.report.outcomes import needed, read_json

    metrics = read_json(places.run(experiment.preset, name) / "metrics.json")
    networks = {
        seed: needed(places.seed(experiment.preset, name, seed) / "target.safetensors").read_bytes()
        for seed in metrics["seeds"]
    }
    weights = {}
    for seed, content in networks.items():
        file, claimed = f"target-seed{seed}.safetensors", f"claim-seed{seed}.json"
        claim = card.claim(metrics, seed)
        atomic_write(out / file, lambda draft, content=content: draft.write_bytes(content))  # type: ignore[misc]
        if claim is None:
            (out / claimed).unlink(missing_ok=True)  # of an earlier card, when there was AutoAttack
        else:
            atomic_text(out / claimed, json.dumps(claim, indent=2) + "\n")
        weights[seed] = card.Weights(file, hashlib.sha256(content).hexdigest(), claimed if claim else None)
    example, sources = _loading(metrics, weights[metrics["seeds"][0]].file)
    for file, code in sources.items():
        atomic_text(out / file, code)
    atomic_text(out / "row.tex", _row(experiment, name, metrics))
    handed = card.Handed(metrics=metrics, weights=weights, example=example, sources=tuple(sources))
    atomic_text(out / "card.md", card.to_markdown(handed))
    say(f"{name}: {out / 'card.md'}, {', '.join(each.file for each in weights.values())}")
    return out / "card.md"


def _loading(metrics: Mapping[str, Any], file: str) -> tuple[str, dict[str, str]]:
    """Lines of Python that load `file`, and the code that they need beside them."""
    run, data = metrics["config"], metrics["dataset"]
    where, sizes = names.network_entry(run["target"])
    module, _, factory = where.partition(":")
    sources = {"network.py": _source(module)} if module.startswith(OURS) else {}
    given = {**sizes, "classes": len(data["classes"]), "channels": data["channels"]}
    network = f"{factory}({', '.join(f'{key}={value}' for key, value in given.items())})"
    imports = [f"from {'network' if sources else module} import {factory}"]
    standard = run.get("options") or {}
    if run["method"] == "external" and standard.get("mean"):
        sources["normalised.py"] = _source(f"{OURS}normalised")
        imports.append("from normalised import normalised")
        network = f"normalised({network}, mean={standard['mean']}, std={standard['std']})"
    lines = [
        "from safetensors.torch import load_file",
        *imports,
        "",
        f"model = {network}.eval()",
        f'model.load_state_dict(load_file("{file}"))',
        "logits = model(pictures)",
    ]
    return "\n".join(lines), sources


def _source(module: str) -> str:
    """The code of one of our networks: it imports torch and nothing else of ours."""
    return (provenance.PACKAGE / "models" / f"{module.removeprefix(OURS)}.py").read_text(encoding="utf-8")


def _row(experiment: Experiment, name: str, metrics: Mapping[str, Any]) -> str:
    """The run's line as tables/main.tex has it; alone, so without the marks that compare it."""
    from dynat.report import latex, tables

    alone = experiment.model_copy(update={"runs": {name: experiment.runs[name]}})
    table = tables.build(alone, {name: metrics}, [])
    (row,) = table.rows
    about = f"{table.about} {table.shape.removesuffix(' Bold: best of the column.')}"
    unmarked = dataclasses.replace(row, cells=tuple(map(_unmarked, row.cells)))
    return "\n".join([*(f"% {line}" for line in (*latex.tex_head(table), about)), latex.tex_row(unmarked)]) + "\n"


def _unmarked(cell: Cell | None) -> Cell | None:
    """Bold is the best of a column, and a row alone has none to be better than."""
    return cell and dataclasses.replace(cell, best=False)
