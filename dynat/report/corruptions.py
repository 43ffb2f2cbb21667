"""Accuracy on corrupted test images: a table of every row, and a figure of those that figures compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dynat.config import Experiment
from dynat.report import formatting, plotting
from dynat.report.markdown import markdown_table
from dynat.report.plotting import Drawn
from dynat.results.corruptions import CorruptionAccuracy, read_corruptions
from dynat.results.csv_files import csv_text
from dynat.results.paths import ExperimentFiles

LINE = 0.2
"""Inches from one name to the next in the figure."""
Accuracies = Mapping[str, CorruptionAccuracy]
"""By row."""


def read_all(files: ExperimentFiles, experiment: Experiment) -> Accuracies:
    """Every row of the experiment; none without the section `corruptions`."""
    rows = experiment.rows if experiment.corruptions else {}
    return {name: read_corruptions(files.run(name)) for name in rows}


def to_csv(accuracies: Accuracies) -> str:
    """Not rounded: a line per row, corruption and severity."""
    rows = [
        (run, kind, severity, found.accuracy.loc[kind, severity], found.record.images, len(found.record.seeds))
        for run, found in accuracies.items()
        for kind in found.accuracy.index
        for severity in found.accuracy.columns
    ]
    return csv_text(("run", "corruption", "severity", "accuracy", "images", "seeds"), rows)


def to_markdown(accuracies: Accuracies, experiment: Experiment) -> str:
    """Mean accuracy, mean corruption error, and the accuracy under each corruption over its severities, in percent."""
    if not accuracies or experiment.corruptions is None:
        return "This experiment has no section `corruptions`.\n"
    reference = experiment.corruptions.reference
    first = next(iter(accuracies.values()))
    base = accuracies[reference] if reference else None
    kinds = list(first.by_corruption)
    error = f"mCE relative to `{reference}`" if reference else "mean error"
    head = ["Run", "mean accuracy", error, *(kind.replace("_", " ") for kind in kinds)]
    rows = [
        [
            f"`{run}`",
            _percent(found.mean),
            "–" if (mce := found.mean_corruption_error(base)) is None else _percent(mce),
            *(_percent(value) for value in found.by_corruption.values()),
        ]
        for run, found in accuracies.items()
    ]
    notes = [about(first, experiment)]
    if base is not None and base.without_error:
        under = ", ".join(kind.replace("_", " ") for kind in base.without_error)
        notes.append(f"`{reference}` makes no error under {under}, so there is no error relative to it.")
    return f"{markdown_table(head, rows, right=range(1, len(head)))}\n\n{' '.join(notes)}\n"


def one_row(found: CorruptionAccuracy) -> str:
    """The accuracy of one row, a line per corruption, so that it reads as text too."""
    accuracies = {**found.by_corruption, "mean": found.mean}
    rows = [[kind.replace("_", " "), f"{_percent(value)} %"] for kind, value in accuracies.items()]
    return f"{markdown_table(['Corruption', 'Accuracy'], rows, right=[1], padded=True)}\n\n{_images(found)}"


def about(found: CorruptionAccuracy, experiment: Experiment) -> str:
    """What the numbers are of, and whose they can be compared with."""
    reference = experiment.corruptions and experiment.corruptions.reference
    if reference:
        mean = (
            f"mCE: the error under each corruption, summed over severities, divided by that of `{reference}`; the mean "
            "over corruptions, in percent. Below 100 is better than the reference."
        )
    else:
        mean = "The mean error is not relative to a reference network (an unnormalized mCE, as usual for CIFAR)."
    return f"{_images(found)} {mean} Corruptions are not adversarial: they say nothing about an attacker."


def _images(found: CorruptionAccuracy) -> str:
    record = found.record
    severities = formatting.listing(map(str, record.corruptions.severities))
    source = "made from the test images; compare them with each other, not with numbers on the published archive"
    if not record.made:
        source = "of the published archive"
    return (
        f"Accuracy in percent on {record.images:,} test images per corruption and severity, mean over seeds and over "
        f"the severities {severities}; corruptions {source}."
    )


def figure(experiment: Experiment, accuracies: Accuracies, runs: Sequence[str]) -> Drawn | None:
    """Accuracy against severity, and by corruption, of these runs."""
    shown = {run: accuracies[run] for run in runs if run in accuracies}
    if not shown:
        return None
    first = next(iter(shown.values()))
    kinds, color = list(first.by_corruption), plotting.colors_of(experiment)
    height = max(4.0, 1.9 + 0.24 * len(kinds), 1.4 + LINE * len(shown))
    title = "Accuracy under common corruptions"
    images = f"n = {first.record.images:,} test images per corruption and severity"
    canvas, (left, right) = plotting.canvas(height, title, images, columns=2)
    names = plotting.names_of(experiment)
    beside = plotting.room(names[run] for run in shown)
    canvas.subplots_adjust(right=0.985 - beside, wspace=0.3 + 0.32 / (1 - beside))
    for place, run in enumerate(shown):
        line = 1 - (1.05 + LINE * place) / height
        canvas.text(1 - beside, line, f"● {names[run]}", size=9, weight="bold", color=color[run], va="top")
    for run, found in shown.items():
        left.plot(list(found.by_severity), list(found.by_severity.values()), "o-", ms=5, color=color[run])
        right.plot(list(found.by_corruption.values()), range(len(kinds)), "o", ms=6, color=color[run], alpha=0.85)
    left.set(title="Mean over corruptions", xlabel="Severity", ylabel="Accuracy", xticks=list(first.by_severity))
    right.set(title="Mean over severities", xlabel="Accuracy", yticks=range(len(kinds)))
    right.set_yticklabels([kind.replace("_", " ") for kind in kinds])
    right.invert_yaxis()
    plotting.percent_axis(left.yaxis)
    plotting.percent_axis(right.xaxis)
    return Drawn(canvas, f"Left: accuracy by severity, the mean over corruptions. Right: by corruption. "
                 f"{about(first, experiment)}".replace("`", ""))  # fmt: skip


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"
