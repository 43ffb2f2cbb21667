"""The tables of the page beside the main one: sanity checks, parts of an attack, and what figures leave out, by run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from dynat.config import Experiment, registry
from dynat.report import formatting
from dynat.results.paths import ExperimentFiles
from dynat.results.records import Check, RunMetrics
from dynat.results.sanity import TITLES as CHECKS
from dynat.results.transfer import read_transfer


@dataclass(frozen=True)
class RunRow:
    """A row of a table of numbers: the run, and its cells as text."""

    run: str
    cells: tuple[str, ...]


@dataclass(frozen=True)
class Numbers:
    """A table with a row per run."""

    title: str
    head: tuple[tuple[str, int], ...]
    """Headings above the headings, each with the number of columns that it spans; empty where there is one line."""
    columns: tuple[str, ...]
    rows: tuple[RunRow, ...]
    note: str
    folded: bool = True
    """Whether the page shows it only when it is opened."""


@dataclass(frozen=True)
class Failure:
    """A sanity check that a run failed."""

    run: str
    title: str
    detail: str


@dataclass(frozen=True)
class SanityView:
    """The sanity checks: failures in full, the numbers of all in a table."""

    passed: str
    failures: tuple[Failure, ...]
    numbers: Numbers


FOLD_ABOVE = 12
"""A table of more runs than these is folded, unless something in it needs attention."""


def sanity(experiment: Experiment, metrics: Mapping[str, RunMetrics]) -> SanityView | None:
    """The sanity checks of every run; None where none was run."""
    checked = {run: m.sanity.checks for run in _rows(experiment) if (m := metrics[run]).sanity}
    if not checked:
        return None
    failures = tuple(
        Failure(run, CHECKS[name], check.detail)
        for run, checks in checked.items()
        for name, check in checks.items()
        if not check.passed
    )
    failed = dict.fromkeys(failure.run for failure in failures)
    all_runs = formatting.count(len(checked), "run")
    passed = (
        f"{formatting.listing(f'`{run}`' for run in failed)} failed; the other "
        f"{formatting.count(len(checked) - len(failed), 'run')} passed all {len(CHECKS)} checks."
        if failures
        else f"All {len(CHECKS)} checks passed for {'the one run' if len(checked) == 1 else f'all {all_runs}'}."
    )
    return SanityView(
        passed=passed,
        failures=failures,
        numbers=Numbers(
            title="Numbers of every check",
            head=(),
            columns=tuple(CHECKS.values()),
            rows=tuple(RunRow(run, tuple(_shown(checks[name]) for name in CHECKS)) for run, checks in checked.items()),
            note="",
        ),
    )


def _shown(check: Check) -> str:
    return check.detail if check.passed else f"✗ {check.detail}"


def in_parts(experiment: Experiment, metrics: Mapping[str, RunMetrics]) -> Numbers | None:
    """The attacks that consist of several, side by side; None without one."""
    attacks = {
        # A network that answers differently each time may have been attacked in other parts than the rest.
        name: tuple(dict.fromkeys(part for run in _rows(experiment) for part in metrics[run].attacks[name].parts))
        for name, attack in experiment.attacks.items()
        if len(registry.attack_parts(attack.kind)) > 1
    }
    if not attacks:
        return None
    rows = []
    for run in _rows(experiment):
        cells = [(metrics[run].attacks[name], part) for name, parts in attacks.items() for part in ("clean", *parts)]
        after = [(cell.accuracy_after.get(part), cell.n) for cell, part in cells]
        rows.append(RunRow(run, tuple("–" if share is None else formatting.percent(share, n) for share, n in after)))
    titles = [formatting.column_title(name) for name in attacks]
    return Numbers(
        title=f"{formatting.listing(titles)}: accuracy after each part",
        head=tuple((title, 1 + len(parts)) for title, parts in zip(titles, attacks.values(), strict=True))
        if len(attacks) > 1
        else (),
        columns=tuple(
            column
            for parts in attacks.values()
            for column in ("Clean", *(f"after {formatting.column_title(part)}" for part in parts))
        ),
        rows=tuple(rows),
        note="Each part attacks the images that the parts before it did not break; accuracy in percent of all images "
        "of the attack, over all seeds.",
        folded=len(rows) > FOLD_ABOVE,
    )


def left_out(files: ExperimentFiles, experiment: Experiment, metrics: Mapping[str, RunMetrics]) -> list[Numbers]:
    """What figures show of some runs only, for every run of a large experiment."""
    tables = [_strength(experiment, metrics), _transfer(files, experiment, metrics), _classes(experiment, metrics)]
    return [table for table in tables if table]


def _strength(experiment: Experiment, metrics: Mapping[str, RunMetrics]) -> Numbers | None:
    curves = {run: sanity.curves for run in _rows(experiment) if (sanity := metrics[run].sanity)}
    if not curves:
        return None
    first = next(iter(curves.values()))
    radii = tuple(f"{255 * point.eps:g}/255" for point in first.eps)
    steps = tuple(formatting.count(point.steps, "step") for point in first.steps)
    return Numbers(
        title="Accuracy against the radius and the steps of PGD, every run",
        head=(("PGD-20, radius", len(radii)), (formatting.ball(experiment.threat), len(steps))),
        columns=(*radii, *steps),
        rows=tuple(
            RunRow(run, tuple(f"{100 * point.accuracy:.1f}" for point in (*curve.eps, *curve.steps)))
            for run, curve in curves.items()
        ),
        note=f"Accuracy in percent on the first {formatting.span([point.n for point in first.eps])} test images, over "
        "all seeds.",
    )


def _transfer(files: ExperimentFiles, experiment: Experiment, metrics: Mapping[str, RunMetrics]) -> Numbers | None:
    table = read_transfer(files, list(experiment.rows))
    if table is None or len(experiment.rows) < 2:
        return None
    frame, record = table
    dataset = next(iter(metrics.values())).dataset
    images = formatting.test_images(min(record.attack.images or dataset.test, dataset.test), dataset)
    rows = []
    for run in _rows(experiment):
        by_source = {str(source): float(share) for source, share in frame[run].items()}
        own = by_source.pop(run)
        lowest = min(by_source, key=lambda source: by_source[source])
        rows.append(RunRow(run, (_percent(own), _percent(by_source[lowest]), lowest)))
    return Numbers(
        title="Transfer attacks, every run",
        head=(),
        columns=("Images made against itself", "Lowest on images made against another run", "Which run"),
        rows=tuple(rows),
        note=f"Accuracy in percent under PGD-{record.attack.steps}; {images}. A second number that is lower than the "
        "first is a sign of gradient masking. The whole matrix is in transfer.csv.",
    )


def _classes(experiment: Experiment, metrics: Mapping[str, RunMetrics]) -> Numbers:
    attack = experiment.headline
    names = next(iter(metrics.values())).dataset.classes
    rows = []
    for run in _rows(experiment):
        by_class = metrics[run].attacks[attack].per_class
        low, high = min(by_class, key=lambda c: by_class[c]), max(by_class, key=lambda c: by_class[c])
        rows.append(
            RunRow(
                run,
                (
                    *(_percent(by_class[low]), _class(names, low)),
                    _percent(median(by_class.values())),
                    *(_percent(by_class[high]), _class(names, high)),
                ),
            )
        )
    return Numbers(
        title=f"Classes under {formatting.column_title(attack)}, every run",
        head=(),
        columns=("Lowest", "Class", "Median", "Highest", "Class"),
        rows=tuple(rows),
        note="Accuracy of a class in percent, over all seeds; metrics.json of a run has every class.",
    )


def _rows(experiment: Experiment) -> list[str]:
    """Every row in the order of the main table."""
    return [run for runs in experiment.grouped.values() for run in runs]


def _class(names: Sequence[str], label: int) -> str:
    return names[label] if label < len(names) else str(label)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"
