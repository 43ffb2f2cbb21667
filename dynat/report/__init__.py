"""From the metrics of every run to tables, figures and a page. Reads result files through dynat.results alone.

    comparisons.py   run against run, paired            label_pairs.py   runs that differ in labels, or in a field
    tables.py, ablations.py                             what a table holds; CSV and Markdown
    latex.py         the main table in LaTeX            run_table.py     one run by itself
    corruptions.py   accuracy on corrupted images
    figure_list.py   the one list of figures            figures.py       drawing them, with attack_strength.py,
    plotting.py      style shared by all figures                         pairs.py, balance.py, gallery.py
    page.py          report.html                        model_card.py    the card of an exported run
    hub.py           its metadata for Hugging Face      robustbench.py   its numbers for RobustBench
    formatting.py    titles and numbers as text         markdown.py      the one printer of Markdown tables

Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from dynat.config import Experiment
from dynat.results.paths import ExperimentFiles
from dynat.results.records import RunMetrics, required
from dynat.runtime.errors import UserError
from dynat.runtime.files import atomic_text

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["read_all_metrics", "write_report"]


def write_report(files: ExperimentFiles, experiment: Experiment) -> None:
    """Write the tables, figures and report.html of an experiment."""
    from dynat.report import ablations, comparisons, corruptions, figures, latex, page, tables

    metrics = read_all_metrics(files, experiment)
    columns = tables.columns(experiment, metrics)
    verdicts = comparisons.read_verdicts(files, metrics, columns)
    compared = comparisons.compare(verdicts, metrics, columns)
    table = tables.build(experiment, metrics, compared)
    atomic_text(files.table("main", "csv"), tables.to_csv(table))
    atomic_text(files.table("main", "md"), tables.to_markdown(table))
    atomic_text(files.table("main", "tex"), latex.to_tex(table))
    ablated = ablations.ablations(verdicts, experiment, metrics)
    atomic_text(files.table("ablations", "md"), ablations.to_markdown(ablated, table))
    atomic_text(files.table("ablations", "csv"), ablations.to_csv(ablated))
    if experiment.corruptions is not None:
        corrupted = corruptions.read_all(files, experiment)
        atomic_text(files.table("corruptions", "md"), corruptions.to_markdown(corrupted, experiment))
        atomic_text(files.table("corruptions", "csv"), corruptions.to_csv(corrupted))
    captions = figures.draw_all(files, experiment, metrics, _histories(files, experiment, metrics))
    atomic_text(files.report, page.render(files, experiment, metrics, table, captions))


def read_all_metrics(files: ExperimentFiles, experiment: Experiment) -> dict[str, RunMetrics]:
    """The metrics of every row of the experiment, in its order, checked to be about the same attacks."""
    from dynat.results.metrics import read_metrics

    metrics: dict[str, RunMetrics] = {}
    for name in experiment.rows:
        run = files.run(name)
        metrics[name] = read_metrics(run)
        for attack in experiment.attacks:
            if attack not in metrics[name].attacks:
                required(run.outcome(attack))
                raise UserError(f"{run.metrics}: has no attack '{attack}'; delete it and make it again")
        worst_case = metrics[name].worst_case
        foreign = [attack for attack in (worst_case.attacks if worst_case else ()) if attack not in experiment.attacks]
        if foreign:
            raise UserError(
                f"{run.metrics}: its worst case counts '{foreign[0]}', an attack that the experiment does not name; "
                f"delete {run.outcome(foreign[0]).with_suffix('')}.* and {run.metrics}, and make it again"
            )
    return metrics


def _histories(
    files: ExperimentFiles, experiment: Experiment, metrics: Mapping[str, RunMetrics]
) -> dict[str, pd.DataFrame]:
    """Every trained run's epochs, the seeds below one another."""
    from dynat.results.history import history_of

    return {
        name: history_of({seed: files.run(name).seed(seed) for seed in metrics[name].seeds}) for name in experiment.runs
    }
