"""The tables of docs/results.md about one preset, as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean

from dynat.report import ablations, comparisons, tables
from dynat.report.label_pairs import beta_runs
from dynat.report.markdown import markdown_table
from dynat.report.selection import compared
from dynat.results.sanity import TITLES
from tools.preset_results import Results

SHORT = ("clean", "pgd-20", "cw-20", "autoattack")


def main_table(results: Results) -> str:
    """The report's table; a run that is not finished is a row of dashes."""
    compared = comparisons.compare(results.verdicts, results.metrics, tables.columns(results.selected, results.metrics))
    whole = results.selected.model_copy(update={"runs": results.whole.runs, "seeds": results.whole.seeds})
    return tables.to_markdown(tables.build(whole, results.metrics, compared))


def short_table(results: Results) -> str:
    """The runs that figures compare, for the README."""
    return _some_runs(results, compared(results.experiment))


def beta_table(results: Results) -> str:
    """The runs that differ from the reference in beta alone, for docs/method.md."""
    return _some_runs(results, beta_runs(results.experiment))


def ablation_table(results: Results) -> str:
    compared = comparisons.compare(results.verdicts, results.metrics, tables.columns(results.selected, results.metrics))
    table = tables.build(results.selected, results.metrics, compared)
    return ablations.to_markdown(ablations.ablations(results.verdicts, results.selected, results.metrics), table)


def epochs_table(results: Results) -> str:
    """Accuracies of the selected epoch and of the last one."""
    rows = []
    for name, m in results.metrics.items():
        of_seed = {seed: history.set_index("epoch") for seed, history in results.histories[name].groupby("seed")}
        chosen = {seed: training.best_epoch or training.epochs for seed, training in m.training.items()}
        cells = [f"`{name}`", ", ".join(map(str, chosen.values()))]
        for column in ("clean", "pgd"):
            selected = fmean(float(of_seed[seed][column][epoch]) for seed, epoch in chosen.items())
            last = fmean(float(of_seed[seed][column][m.training[seed].epochs]) for seed in chosen)
            cells.append(_pair(selected, last))
        for attack in SHORT[:3]:
            cells.append(_pair(*results.epochs(name, attack)))
        rows.append(cells)
    head = ["Run", "Selected epoch", "Held-out, clean", "Held-out, PGD-10", "Clean", "PGD-20", "CW-20"]
    return markdown_table(head, rows, right=range(2, 7))


def sanity_statement(results: Results) -> str:
    """Which runs pass all sanity checks."""
    checked = {name: m for name, m in results.metrics.items() if m.sanity}
    failed = [
        f"`{name}` ({'; '.join(f'{TITLES[check]}: {sanity.checks[check].detail}' for check in m.failed_checks)})"
        for name, m in checked.items()
        if (sanity := m.sanity) and m.failed_checks
    ]
    unchecked = [f"`{name}`" for name in results.metrics if name not in checked]
    text = f"{len(checked) - len(failed)} of {len(results.metrics)} runs pass all sanity checks."
    text += f" Not all are passed by {', '.join(failed)}." if failed else ""
    return text + (f" Not checked: {', '.join(unchecked)}." if unchecked else "")


def cost(results: Results) -> str:
    rows, hours = [], 0.0
    for name, m in results.metrics.items():
        trained = [t.seconds for t in m.training.values()]
        attacked = sum(cell.cost.seconds for cell in m.attacks.values())
        hours += (sum(trained) + attacked) / 3600
        label = next(iter(m.training.values())).final_label_accuracy
        rows.append(
            [
                f"`{name}`",
                " ".join(map(str, m.seeds)),
                f"{next(iter(m.training.values())).parameters.target:,}",
                f"{sum(trained) / len(trained) / 60:.0f} min",
                f"{attacked / len(trained) / 60:.0f} min",
                "–" if label is None else f"{100 * label:.1f} %",
                ", ".join(sorted({t.compute_dtype for t in m.training.values() if t.compute_dtype})) or "–",
            ]
        )
    head = [
        "Run",
        "Seeds",
        "Weights",
        "Training, per seed",
        "Attacks, per seed",
        "Correct labels of the guide, last epoch",
        "Precision",
    ]
    about = sorted(
        {
            f"{t.machine}; dynat {t.versions['dynat']}, torch {t.versions['torch']}, Python {t.versions['python']}"
            for m in results.metrics.values()
            for t in m.training.values()
        }
    )
    text = (
        f"{hours:.1f} hours of one core in sum, without the sanity checks; measured while other programs ran, so "
        "single times are too long. " + "; ".join(about) + "."
    )
    return markdown_table(head, rows, right=range(2, 6)) + "\n\n" + text


def _some_runs(results: Results, names: Sequence[str]) -> str:
    """These runs, compared with each other under the attacks that papers report."""
    if not names:
        return ""
    attacks = {name: results.experiment.attacks[name] for name in SHORT if name in results.experiment.attacks}
    metrics = {name: results.metrics[name] for name in names}
    runs = {name: run for name, run in results.experiment.runs.items() if name in names}
    short = results.experiment.model_copy(update={"attacks": attacks, "runs": runs, "groups": {}})
    verdicts = {name: results.verdicts[name] for name in names}
    against = comparisons.compare(verdicts, metrics, tables.columns(short, metrics))
    return tables.to_markdown(tables.build(short, metrics, against))


def _pair(selected: float | None, last: float | None) -> str:
    """An accuracy in percent at the selected and at the last epoch."""
    return " → ".join("–" if value is None else f"{100 * value:.1f}" for value in (selected, last))


TABLES: dict[str, Callable[[Results], str]] = {
    "table": main_table,
    "short-table": short_table,
    "beta": beta_table,
    "ablations": ablation_table,
    "selected": epochs_table,
    "sanity": sanity_statement,
    "cost": cost,
}
"""By the name in the mark of a page."""
