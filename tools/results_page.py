"""Write what docs/results.md and README.md show of the results on real images: tables, figures, cost, and a verdict on
each claim, from the archives in docs/results.

    make results

First adds what results/ holds of the presets below to the archives. A run that is not finished is a dash.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path

import pandas as pd
from matplotlib import rc_context

from dynat.config import Experiment, load
from dynat.report import ablations, comparisons, curves, formatting, plotting, tables
from dynat.report.attack_strength import strength
from dynat.report.markdown import markdown_table
from dynat.report.pairs import pairs
from dynat.report.plotting import Drawn
from dynat.report.selection import compared
from dynat.report.tradeoff import tradeoff
from dynat.results.history import history_of
from dynat.results.outcomes import read_outcome
from dynat.results.paths import ExperimentFiles, Paths
from dynat.results.records import RunMetrics
from dynat.runtime.errors import UserError
from tools.claims import CLAIMS, Claim, Correct, Difference, decide, differences
from tools.results_archive import finished, pack, unpack

ROOT = Path(__file__).parents[1]
PATHS = Paths(results=ROOT / "results")
ARCHIVES = ROOT / "docs" / "results"
IMAGES = ROOT / "docs" / "images"
PAGES = (ROOT / "docs" / "results.md", ROOT / "README.md")
OTHER_PRECISION = "‡"
MARK = re.compile(r"(<!-- results:(\S+) -->).*?(<!-- end -->)", flags=re.DOTALL)
PRESETS = ("cifar10-laptop", "cifar10-laptop-overfitting")
"""In the order of the page."""
SHORT = ("clean", "pgd-20", "cw-20", "autoattack")
FIGURES = {"tradeoff": "Clean accuracy against accuracy under AutoAttack", "epochs": "Accuracy on the held-out images "
           "over training", "labels": "Share of the guide's labels that are true", "pairs": "The same method with true "
           "and with dynamic labels", "strength": "Accuracy against the strength of the attack"}  # fmt: skip


def comparable(metrics: RunMetrics, experiment: Experiment) -> RunMetrics:
    """Without the worst case of a run that the preset's attacks have not all attacked yet."""
    complete = metrics.worst_case is not None and experiment.attacks.keys() <= metrics.attacks.keys()
    return metrics if complete else metrics.model_copy(update={"worst_case": None})


class Results:
    """The finished runs of a preset, as an experiment of their own."""

    def __init__(self, preset: str, files: ExperimentFiles) -> None:
        self.preset, self.files = preset, files
        self.metrics: dict[str, RunMetrics] = {run.folder.name: metrics for run, metrics in finished(files)}
        self.whole = load({"preset": preset})
        rows = [name for name in self.whole.runs if name in self.metrics]
        for name in rows:
            if self.metrics[name].config != self.whole.runs[name]:
                raise UserError(
                    f"{files.run(name).metrics}: '{name}' was trained with other settings than the preset's"
                )
        self.metrics = {name: comparable(self.metrics[name], self.whole) for name in rows}
        dataset = next(iter(self.metrics.values())).dataset.name if rows else self.whole.dataset.name
        self.experiment: Experiment = self.whole.model_copy(
            update={
                "runs": {name: self.whole.runs[name] for name in rows},
                "seeds": {name: self.metrics[name].seeds for name in rows},
                "dataset": self.whole.dataset.model_copy(update={"name": dataset}),
            }
        )

    @cached_property
    def verdicts(self) -> comparisons.AllVerdicts:
        return comparisons.read_verdicts(self.files, self.metrics, tables.columns(self.experiment, self.metrics))

    @cache  # noqa: B019 - one object per preset and process
    def correct(self, run: str, attack: str) -> pd.Series[int] | None:
        if run not in self.metrics or attack not in self.metrics[run].attacks:
            return None
        return read_outcome(self.files.run(run), attack).verdicts.set_index(["seed", "index"])["correct"]

    def precisions(self, run: str) -> set[str]:
        """What the trainings of a run computed in."""
        return {t.compute_dtype for t in self.metrics[run].training.values() if t.compute_dtype}

    def main_table(self) -> str:
        """The report's table; a run that is not finished is a row of dashes."""
        compared = comparisons.compare(self.verdicts, self.metrics, tables.columns(self.experiment, self.metrics))
        whole = self.whole.model_copy(update={"dataset": self.experiment.dataset})
        return tables.to_markdown(tables.build(whole, self.metrics, compared))

    def short_table(self) -> str:
        """The finished runs under the attacks that papers report, for the README."""
        attacks = {name: self.experiment.attacks[name] for name in SHORT if name in self.experiment.attacks}
        short = self.experiment.model_copy(update={"attacks": attacks})
        compared = comparisons.compare(self.verdicts, self.metrics, tables.columns(short, self.metrics))
        return tables.to_markdown(tables.build(short, self.metrics, compared))

    def ablation_table(self) -> str:
        compared = comparisons.compare(self.verdicts, self.metrics, tables.columns(self.experiment, self.metrics))
        table = tables.build(self.experiment, self.metrics, compared)
        return ablations.to_markdown(ablations.ablations(self.verdicts, self.experiment, self.metrics), table)

    def draw(self) -> dict[str, str]:
        """Draw the figures that the pages show and that have data; Markdown by name."""
        histories = {n: history_of({s: self.files.run(n).seed(s) for s in m.seeds}) for n, m in self.metrics.items()}
        runs = compared(self.experiment)
        draw: dict[str, Callable[[], Drawn | None]] = {
            "tradeoff": lambda: tradeoff(self.experiment, self.metrics, runs),
            "epochs": lambda: curves.epochs(self.experiment, histories, runs),
            "labels": lambda: curves.labels(self.experiment, histories, runs),
            "pairs": lambda: pairs(self.experiment, self.metrics),
            "strength": lambda: strength(self.experiment, self.metrics, runs),
        }
        folder = IMAGES / self.preset
        folder.mkdir(parents=True, exist_ok=True)
        shown = {}
        for name in [name for name in draw if f"{self.preset}/{name}" in marks()]:
            with rc_context(plotting.STYLE):
                drawn = draw[name]()
            if drawn:
                plotting.save(drawn.figure, [folder / f"{name}.svg", folder / f"{name}.png"])
                (folder / f"{name}.svg").unlink()
                shown[name] = f"![{FIGURES[name]}](images/{self.preset}/{name}.png)\n\n{drawn.caption}"
        return shown

    def cost(self) -> str:
        rows, hours = [], 0.0
        for name, m in self.metrics.items():
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
                    ", ".join(sorted(self.precisions(name))) or "–",
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
                for m in self.metrics.values()
                for t in m.training.values()
            }
        )
        text = (
            f"{hours:.1f} hours of one core in sum, without the sanity checks; measured while other programs ran, so "
            "single times are too long. " + "; ".join(about) + "."
        )
        return markdown_table(head, rows, right=range(2, 6)) + "\n\n" + text


def claim_section(claim: Claim, found: Sequence[Difference], of_preset: Results | None) -> str:
    verdict = decide(claim, found)
    seeds = max((len(one.per_seed) for one in found), default=0)
    trained = f" ({'one training' if seeds == 1 else f'up to {seeds} trainings'} of each run)" if found else ""
    lines = [f"### ({claim.letter}) {claim.text}", f"**{verdict.capitalize()}**{trained}. {claim.rule}"]
    unlike = [one for one in found if of_preset and of_preset.precisions(one.run) != of_preset.precisions(one.base)]
    if found:
        head = ["Difference", "Attack", "Points", "95 % interval", "n", "Per seed"]
        rows = [
            [
                f"`{one.run}` − `{one.base}`" + (OTHER_PRECISION if one in unlike else ""),
                gap_title(one.attack),
                _points(one.value),
                f"{_points(one.low)} to {_points(one.high)}",
                f"{one.images:,}",
                ", ".join(_points(value) for value in one.per_seed.values()),
            ]
            for one in found
        ]
        lines.append(markdown_table(head, rows, right=range(2, 5)))
    if unlike:
        lines.append(
            f"{OTHER_PRECISION} The two runs were trained in different precisions ([cost](#cost)), so the difference "
            "may come from this too."
        )
    return "\n\n".join(lines)


def gap_title(attack: str) -> str:
    if " - " in attack:
        return "PGD-20: best minus last epoch"
    return formatting.column_title(attack)


def _points(value: float) -> str:
    return f"{100 * value:+.1f}".replace("-", "−")


def sections(results: Mapping[str, Results]) -> dict[str, str]:
    """Every generated part of a page, by the name that its mark gives."""
    verdicts = [(claim, _found(claim, results)) for claim in CLAIMS]
    parts = {
        "verdicts": markdown_table(
            ["", "Claim", "Verdict"],
            [[f"({claim.letter})", claim.text, decide(claim, found)] for claim, found in verdicts],
            right=[],
        ),
        "claims": "\n\n".join(claim_section(claim, found, results.get(claim.preset)) for claim, found in verdicts),
    }
    for preset, of_preset in results.items():
        parts |= {
            f"{preset}/table": of_preset.main_table(),
            f"{preset}/short-table": of_preset.short_table(),
            f"{preset}/ablations": of_preset.ablation_table(),
            f"{preset}/cost": of_preset.cost(),
            **{f"{preset}/{name}": text for name, text in of_preset.draw().items()},
        }
    return parts


def marks() -> set[str]:
    """What the pages name."""
    return {mark[2] for page in PAGES for mark in MARK.finditer(page.read_text())}


def with_sections(page: str, parts: Mapping[str, str]) -> str:
    """The page with what its marks name, `<!-- results:NAME --> ... <!-- end -->`; what is not there yet is said."""

    def fill(mark: re.Match[str]) -> str:
        return f"{mark[1]}\n\n{parts.get(mark[2], 'Not finished yet.').strip()}\n\n{mark[3]}"

    return MARK.sub(fill, page)


def _found(claim: Claim, results: Mapping[str, Results]) -> list[Difference]:
    of_preset = results.get(claim.preset)
    correct: Correct = of_preset.correct if of_preset else lambda run, attack: None
    return differences(claim, correct)


def main() -> None:
    for preset in PRESETS:
        source = PATHS.experiment(preset).folder
        if source.is_dir():
            pack(source, ARCHIVES / f"{preset}.tar.xz")
    with tempfile.TemporaryDirectory() as temporary:
        results = {
            preset: Results(preset, unpack(archive, Path(temporary)))
            for preset in PRESETS
            if (archive := ARCHIVES / f"{preset}.tar.xz").exists()
        }
        parts = sections({preset: one for preset, one in results.items() if one.metrics})
        for page in PAGES:
            images = os.path.relpath(IMAGES, page.parent)
            here = {name: text.replace("](images/", f"]({images}/") for name, text in parts.items()}
            page.write_text(with_sections(page.read_text(), here))


if __name__ == "__main__":
    main()
