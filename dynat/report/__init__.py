"""From outcome files to a page a reader can trust. One way: outcomes, metrics.json, then all that is shown.

    outcomes.py     reads what training and evaluation left
    metrics.py      one run's numbers            statistics.py   interval, paired test, correction
    comparisons.py  run against run, paired      words.py        how things are called and written
    contrasts.py    runs that differ in one thing: twins and ablations
    gates.py        whether an examination can be believed
    tables.py, latex.py          CSV, Markdown, LaTeX
    figures.py, pairs.py, strength.py, gallery.py, drawing.py   SVG and PNG
    page.py         report.html

Nothing here imports torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynat.config import Experiment
from dynat.files import atomic_text

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["write_metrics", "write_report"]


def write_metrics(run_folder: Path, attacks: Sequence[str] | None = None) -> Path:
    """Turn the outcomes of one run, those of `attacks` or all there are, into its metrics.json."""
    from dynat.report.metrics import run_metrics

    file = run_folder / "metrics.json"
    atomic_text(file, json.dumps(run_metrics(run_folder, attacks), indent=2) + "\n")
    return file


def write_report(results: Path, experiment: Experiment) -> None:
    """Write tables, figures and report.html of an experiment into `results` (results/<preset>)."""
    from dynat.report import comparisons, contrasts, figures, latex, page, tables

    metrics = read_metrics(results, experiment)
    compared = comparisons.compare(results, metrics, tables.columns(experiment, metrics))
    table = tables.build(experiment, metrics, compared)
    atomic_text(results / "tables" / "main.csv", tables.to_csv(table))
    atomic_text(results / "tables" / "main.md", tables.to_markdown(table))
    atomic_text(results / "tables" / "main.tex", latex.to_tex(table))
    ablated = contrasts.ablations(results, experiment, metrics)
    atomic_text(results / "tables" / "ablations.md", contrasts.to_markdown(ablated, table))
    atomic_text(results / "tables" / "ablations.csv", contrasts.to_csv(ablated))
    captions = figures.draw_all(results, experiment, metrics, _histories(results, metrics))
    atomic_text(results / "report.html", page.render(results, experiment, metrics, table, captions))


def read_metrics(results: Path, experiment: Experiment) -> dict[str, dict[str, Any]]:
    """The metrics of every run of the experiment, in its order, checked to be about the same attacks."""
    from dynat.report.outcomes import needed, read_json

    metrics: dict[str, dict[str, Any]] = {}
    for run in experiment.runs:
        file = results / run / "metrics.json"
        metrics[run] = read_json(file)
        for attack in experiment.attacks:
            if attack not in metrics[run]["attacks"]:
                needed(results / run / "outcomes" / f"{attack}.csv")
                raise ValueError(f"{file}: knows nothing of attack '{attack}'; delete it and make it again")
        foreign = [name for name in (metrics[run]["worst"] or {}).get("attacks", []) if name not in experiment.attacks]
        if foreign:
            raise ValueError(
                f"{file}: its worst case counts '{foreign[0]}', an attack that the experiment does not name; "
                f"delete {results / run / 'outcomes' / foreign[0]}.* and {file}, and make it again"
            )
    return metrics


def _histories(results: Path, metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, pd.DataFrame]:
    """Every run's epochs, the seeds below one another."""
    import pandas as pd

    from dynat.report.outcomes import read_history

    return {
        run: pd.concat(
            [read_history(results / run / f"seed{seed}").assign(seed=seed) for seed in m["seeds"]],
            ignore_index=True,
        )
        for run, m in metrics.items()
        if m["config"]["method"] != "external"
    }
