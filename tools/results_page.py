"""Write what docs/results.md and README.md show of the results on real images: tables, figures, cost, and a verdict on
each claim, from the archives in docs/results.

    make results

First adds what results/ holds of the presets below to the archives. A run that is not finished is a dash.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Mapping
from functools import cache, cached_property
from pathlib import Path
from statistics import fmean

import pandas as pd
from matplotlib import rc_context

from dynat.config import Experiment, load
from dynat.report import ablations, comparisons, curves, plotting, tables
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
from dynat.results.sanity import TITLES
from dynat.runtime.errors import UserError
from tools.claim_tables import Judged, claim_section, verdict_table
from tools.claims import CLAIMS, Claim, Difference, beside, differences
from tools.results_archive import finished, pack, same_images, unpack

ROOT = Path(__file__).parents[1]
PATHS = Paths(results=ROOT / "results")
ARCHIVES = ROOT / "docs" / "results"
IMAGES = ROOT / "docs" / "images"
PAGES = (ROOT / "docs" / "results.md", ROOT / "README.md")
MARK = re.compile(r"(<!-- results:(\S+) -->).*?(<!-- end -->)", flags=re.DOTALL)
PRESETS = ("cifar10-laptop", "cifar10-laptop-overfitting")
"""In the order of the page."""
SHORT = ("clean", "pgd-20", "cw-20", "autoattack")
FIGURES = {"tradeoff": "Clean accuracy against accuracy under AutoAttack", "epochs": "Accuracy on the held-out images "
           "over training", "labels": "Share of the guide's labels that are true", "pairs": "The same method with true "
           "and with dynamic labels", "strength": "Accuracy against the strength of the attack"}  # fmt: skip


def comparable(metrics: RunMetrics, experiment: Experiment) -> RunMetrics:
    """Without the worst case of a run that the preset's attacks on the selected epoch have not all attacked yet."""
    needed = {name for name, attack in experiment.attacks.items() if attack.weights == "best"}
    complete = metrics.worst_case is not None and needed <= metrics.attacks.keys()
    return metrics if complete else metrics.model_copy(update={"worst_case": None})


class Results:
    """The finished runs of a preset, as an experiment of their own."""

    def __init__(self, preset: str, files: ExperimentFiles) -> None:
        self.preset, self.files = preset, files
        self.metrics: dict[str, RunMetrics] = {run.folder.name: metrics for run, metrics in finished(files)}
        self.whole = load({"preset": preset})
        same_images(list(self.metrics.values()), files.folder)
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

    def outcome(self, run: str, attack: str) -> str | None:
        """The outcome that has a run's verdicts under an attack: of an attack on the last epoch, also that of the same
        attack on the selected epoch where this is the last one. None where there is none."""
        if run not in self.metrics:
            return None
        attacks, trainings = self.metrics[run].attacks, self.metrics[run].training.values()
        if attack in attacks:
            return attack
        selected = attack.removesuffix("-last")
        same = selected != attack and all(training.best_epoch == training.epochs for training in trainings)
        return selected if same and selected in attacks else None

    @cache  # noqa: B019 - one object per preset and process
    def correct(self, run: str, attack: str) -> pd.Series[int] | None:
        name = self.outcome(run, attack)
        if name is None:
            return None
        return read_outcome(self.files.run(run), name).verdicts.set_index(["seed", "index"])["correct"]

    def mixed(self, one: Difference) -> bool:
        """Whether the two runs were trained in different precisions with a seed that they share."""
        trainings = [self.metrics[run].training for run in (one.run, one.base)]
        computed = [{seed: of_run[seed].compute_dtype for seed in one.per_seed} for of_run in trainings]
        return computed[0] != computed[1]

    @cached_property
    def selected(self) -> Experiment:
        """The experiment without attacks on the last epoch, which has a table of its own."""
        attacks = {name: attack for name, attack in self.experiment.attacks.items() if attack.weights == "best"}
        return self.experiment.model_copy(update={"attacks": attacks})

    def main_table(self) -> str:
        """The report's table; a run that is not finished is a row of dashes."""
        compared = comparisons.compare(self.verdicts, self.metrics, tables.columns(self.selected, self.metrics))
        whole = self.selected.model_copy(update={"runs": self.whole.runs, "seeds": self.whole.seeds})
        return tables.to_markdown(tables.build(whole, self.metrics, compared))

    def short_table(self) -> str:
        """The runs that figures compare under the attacks that papers report, for the README."""
        attacks = {name: self.experiment.attacks[name] for name in SHORT if name in self.experiment.attacks}
        metrics = {name: self.metrics[name] for name in compared(self.experiment)}
        runs = {name: run for name, run in self.experiment.runs.items() if name in metrics}
        short = self.experiment.model_copy(update={"attacks": attacks, "runs": runs})
        verdicts = {name: self.verdicts[name] for name in metrics}
        against = comparisons.compare(verdicts, metrics, tables.columns(short, metrics))
        return tables.to_markdown(tables.build(short, metrics, against))

    def ablation_table(self) -> str:
        compared = comparisons.compare(self.verdicts, self.metrics, tables.columns(self.selected, self.metrics))
        table = tables.build(self.selected, self.metrics, compared)
        return ablations.to_markdown(ablations.ablations(self.verdicts, self.selected, self.metrics), table)

    @cached_property
    def histories(self) -> dict[str, pd.DataFrame]:
        return {n: history_of({s: self.files.run(n).seed(s) for s in m.seeds}) for n, m in self.metrics.items()}

    def epochs_table(self) -> str:
        """Accuracies of the selected epoch and of the last one."""
        rows = []
        for name, m in self.metrics.items():
            of_seed = {seed: history.set_index("epoch") for seed, history in self.histories[name].groupby("seed")}
            chosen = {seed: training.best_epoch or training.epochs for seed, training in m.training.items()}
            cells = [f"`{name}`", ", ".join(map(str, chosen.values()))]
            for column in ("clean", "pgd"):
                selected = fmean(float(of_seed[seed][column][epoch]) for seed, epoch in chosen.items())
                last = fmean(float(of_seed[seed][column][m.training[seed].epochs]) for seed in chosen)
                cells.append(_pair(selected, last))
            for attack in SHORT[:3]:
                both = [self.outcome(name, one) for one in (attack, f"{attack}-last")]
                cells.append(_pair(*(m.attacks[one].mean if one else None for one in both)))
            rows.append(cells)
        head = ["Run", "Selected epoch", "Held-out, clean", "Held-out, PGD-10", "Clean", "PGD-20", "CW-20"]
        return markdown_table(head, rows, right=range(2, 7))

    def sanity(self) -> str:
        """Which runs pass all sanity checks."""
        checked = {name: m for name, m in self.metrics.items() if m.sanity}
        failed = [
            f"`{name}` ({'; '.join(f'{TITLES[check]}: {sanity.checks[check].detail}' for check in m.failed_checks)})"
            for name, m in checked.items()
            if (sanity := m.sanity) and m.failed_checks
        ]
        unchecked = [f"`{name}`" for name in self.metrics if name not in checked]
        text = f"{len(checked) - len(failed)} of {len(self.metrics)} runs pass all sanity checks."
        text += f" Not all are passed by {', '.join(failed)}." if failed else ""
        return text + (f" Not checked: {', '.join(unchecked)}." if unchecked else "")

    def draw(self) -> dict[str, str]:
        """Draw the figures that the pages show and that have data; Markdown by name."""
        runs = compared(self.experiment)
        draw: dict[str, Callable[[], Drawn | None]] = {
            "tradeoff": lambda: tradeoff(self.experiment, self.metrics, runs),
            "epochs": lambda: curves.epochs(self.experiment, self.histories, runs),
            "labels": lambda: curves.labels(self.experiment, self.histories, runs),
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
                for m in self.metrics.values()
                for t in m.training.values()
            }
        )
        text = (
            f"{hours:.1f} hours of one core in sum, without the sanity checks; measured while other programs ran, so "
            "single times are too long. " + "; ".join(about) + "."
        )
        return markdown_table(head, rows, right=range(2, 6)) + "\n\n" + text


def _pair(selected: float | None, last: float | None) -> str:
    """An accuracy in percent at the selected and at the last epoch."""
    return " → ".join("–" if value is None else f"{100 * value:.1f}" for value in (selected, last))


def sections(results: Mapping[str, Results]) -> dict[str, str]:
    """Every generated part of a page, by the name that its mark gives."""
    judged = [_judged(claim, results.get(claim.preset)) for claim in CLAIMS]
    parts = {"verdicts": verdict_table(judged), "claims": "\n\n".join(map(claim_section, judged))}
    for preset, of_preset in results.items():
        parts |= {
            f"{preset}/table": of_preset.main_table(),
            f"{preset}/short-table": of_preset.short_table(),
            f"{preset}/ablations": of_preset.ablation_table(),
            f"{preset}/selected": of_preset.epochs_table(),
            f"{preset}/sanity": of_preset.sanity(),
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


def _judged(claim: Claim, results: Results | None) -> Judged:
    if results is None:
        return Judged(claim, [], [], lambda one: False)
    return Judged(claim, differences(claim, results.correct), beside(claim, results.correct), results.mixed)


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
