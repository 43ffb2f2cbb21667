"""The path of every file that dynat writes. No other module, rule or tool spells one of them.

    Paths             the folders of a project: data, results, state, metrics, plots
    ExperimentFiles   results/<preset>: tables, figures, report, transfer matrix, and a folder per run
    RunFiles          results/<preset>/<run>: outcomes, sanity checks, metrics, and a folder per seed
    SeedFiles         results/<preset>/<run>/seed<k>: weights, resolved config, history
    ExportFiles       exports/<run>: what `dynat export` writes

A name may be a wildcard of Snakemake, such as "{run}".
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dynat.config import Run


@dataclass(frozen=True)
class SeedFiles:
    """The files of one training, or of one imported checkpoint."""

    folder: Path

    @property
    def config(self) -> Path:
        """The TrainingRecord: the resolved config and where it was trained."""
        return self.folder / "config.json"

    @property
    def history(self) -> Path:
        return self.folder / "history.csv"

    @property
    def guide(self) -> Path:
        return self.folder / "guide.safetensors"

    def adversarial(self, attack: str, ending: str) -> Path:
        """The adversarial images of an attack, as pt or safetensors."""
        return self.folder / f"{attack}.adversarial.{ending}"

    def adversarial_record(self, attack: str, ending: str) -> Path:
        """The AdversarialRecord: checksum, attack and verdicts."""
        return self.adversarial(attack, f"{ending}.json")

    def target(self, weights: str = "best") -> Path:
        """The target network: the `best` epoch on the validation split, or the `last` one."""
        return self.folder / ("target.safetensors" if weights == "best" else "target-last.safetensors")

    def weights(self, network: str, weights: str = "best") -> Path:
        """The weights of the `target` or the `guide`."""
        return self.guide if network == "guide" else self.target(weights)


@dataclass(frozen=True)
class RunFiles:
    """The files of one row of the table, over all its seeds."""

    folder: Path

    def seed(self, seed: int | str) -> SeedFiles:
        return SeedFiles(self.folder / f"seed{seed}")

    def outcome(self, attack: str) -> Path:
        """The verdicts of an attack: a row per seed and test image."""
        return self.folder / "outcomes" / f"{attack}.csv"

    def outcome_record(self, attack: str) -> Path:
        """The OutcomeRecord: the attack's settings and cost."""
        return self.folder / "outcomes" / f"{attack}.json"

    def examples(self, attack: str) -> Path:
        """A few images before and after the attack."""
        return self.folder / "outcomes" / f"{attack}.examples.safetensors"

    def attacks(self) -> list[str]:
        """The attacks that have verdicts, by name."""
        return sorted(file.stem for file in self.outcome("*").parent.glob(self.outcome("*").name))

    @property
    def sanity(self) -> Path:
        """The verdicts of the sanity checks: a row per seed, attack and image."""
        return self.folder / "sanity.csv"

    @property
    def sanity_record(self) -> Path:
        return self.folder / "sanity.json"

    @property
    def corruptions(self) -> Path:
        """Counts on corrupted images: a row per seed, corruption and severity."""
        return self.folder / "corruptions.csv"

    @property
    def corruptions_record(self) -> Path:
        return self.folder / "corruptions.json"

    @property
    def metrics(self) -> Path:
        return self.folder / "metrics.json"


@dataclass(frozen=True)
class ExperimentFiles:
    """The files of one preset."""

    folder: Path

    def run(self, name: str) -> RunFiles:
        return RunFiles(self.folder / name)

    @property
    def transfer(self) -> Path:
        """Verdicts on images made against another run: a row per source, target and image."""
        return self.folder / "transfer.csv"

    @property
    def transfer_record(self) -> Path:
        return self.folder / "transfer.json"

    def table(self, name: str, ending: str) -> Path:
        """`main` as csv, md and tex; `ablations` and `corruptions` as csv and md."""
        return self.folder / "tables" / f"{name}.{ending}"

    def figure(self, name: str, ending: str) -> Path:
        """A figure of `dynat.report.figure_list` as svg or png."""
        return self.folder / "figures" / f"{name}.{ending}"

    @property
    def report(self) -> Path:
        return self.folder / "report.html"


@dataclass(frozen=True)
class Paths:
    """The folders of a project, relative to it. Every job takes them as an argument."""

    data: Path = Path("data")
    results: Path = Path("results")
    state: Path = Path("state")
    """States from which interrupted work resumes."""
    metrics_root: Path = Path("metrics")
    """Small files that `dvc metrics` shows."""
    plots_root: Path = Path("plots")
    """Small files that `dvc plots` shows."""

    def dataset(self, name: str) -> Path:
        """The folder of a prepared data set; `dynat.data.images` writes and reads its two files."""
        return self.data / name

    def dataset_images(self, name: str) -> Path:
        return self.dataset(name) / "images.safetensors"

    def dataset_info(self, name: str) -> Path:
        """Name, source, classes and counts."""
        return self.dataset(name) / "info.json"

    def extra_images(self, dataset: str, name: str) -> Path:
        """The folder that describes a file of extra images; `dynat.data.extra` writes and reads it."""
        return self.dataset(dataset) / "extra" / name

    def extra_images_info(self, dataset: str, name: str) -> Path:
        return self.extra_images(dataset, name) / "info.json"

    def experiment(self, preset: str) -> ExperimentFiles:
        return ExperimentFiles(self.results / preset)

    def run(self, preset: str, name: str) -> Path:
        """The folder of a run."""
        return self.run_files(preset, name).folder

    def run_files(self, preset: str, name: str) -> RunFiles:
        return self.experiment(preset).run(name)

    def seed(self, preset: str, name: str, seed: int | str) -> Path:
        """The folder of one seed of a run."""
        return self.seed_files(preset, name, seed).folder

    def seed_files(self, preset: str, name: str, seed: int | str) -> SeedFiles:
        return self.run_files(preset, name).seed(seed)

    def initial_weights(self, preset: str, run: Run, seed: int | str) -> list[Path]:
        """The files that a training reads the first weights of its networks from."""
        files: list[Path] = []
        for source in () if run.init is None else run.init.sources.values():
            if source.run is None:
                files.append(Path(source.file or "").expanduser())
            else:
                of_run = self.seed_files(preset, source.run, seed)
                files += [of_run.weights(source.network, source.weights), of_run.config]
        return files

    def outcome(self, preset: str, name: str, attack: str) -> Path:
        return self.run_files(preset, name).outcome(attack)

    @property
    def listings(self) -> Path:
        """Digests of image folders, so that their images are not read each time."""
        return self.state / "listings"

    def tensorboard(self, preset: str, name: str, seed: int) -> Path:
        """Event files of a training."""
        return self.state / "tensorboard" / preset / name / f"seed{seed}"

    def training_state(self, digest: str) -> Path:
        return self.state / "trainings" / digest

    def corruptions_state(self, digest: str) -> Path:
        return self.state / "corruptions" / digest

    def evaluation_state(self, digest: str) -> Path:
        return self.state / "evaluations" / digest

    def shard(self, preset: str, name: str, attack: str, shard: str) -> Path:
        """Exists from the end of the job of a shard, such as 2-of-4, to the end of that of the whole attack."""
        return self.state / "shards" / preset / name / attack / shard

    def run_accuracy(self, preset: str, name: str) -> Path:
        """A run's accuracy by attack, for `dvc metrics`."""
        return self.metrics_root / preset / f"{name}.json"

    def plot(self, preset: str, name: str) -> Path:
        """`epochs`, `labels` or `accuracy`: a long table for `dvc plots`."""
        return self.plots_root / preset / f"{name}.csv"


@dataclass(frozen=True)
class SingleRunPaths(Paths):
    """One evaluated checkpoint in a folder of its own (`dynat evaluate`): `results` is the folder of the run."""

    def run_files(self, preset: str, name: str) -> RunFiles:  # noqa: ARG002
        return RunFiles(self.results)

    @property
    def request(self) -> Path:
        """The experiment that was evaluated."""
        return self.results / "experiment.json"

    @property
    def table(self) -> Path:
        return self.results / "table.md"


@dataclass(frozen=True)
class ExportFiles:
    """The files of an exported run, as the Hugging Face Hub expects them."""

    folder: Path

    @property
    def card(self) -> Path:
        """The model card, with its metadata as YAML at the top."""
        return self.folder / "README.md"

    @property
    def config(self) -> Path:
        """The HubConfig: architecture, sizes and classes, and the names of the other files."""
        return self.folder / "config.json"

    @property
    def model(self) -> Path:
        """The network of the best seed."""
        return self.folder / "model.safetensors"

    def other_seed(self, seed: int) -> Path:
        """The network of another seed."""
        return self.folder / f"model-seed{seed}.safetensors"

    @property
    def onnx(self) -> Path:
        """The network of the best seed as ONNX."""
        return self.folder / "model.onnx"

    @property
    def row(self) -> Path:
        """The run's line of the main table in LaTeX."""
        return self.folder / "row.tex"

    def claim(self, seed: int) -> Path:
        """One seed's numbers in the form of RobustBench's model_info."""
        return self.folder / f"robustbench-seed{seed}.json"

    @property
    def submission(self) -> Path:
        """The text for an issue that asks RobustBench to add the networks."""
        return self.folder / "robustbench.md"


def export_folder(name: str) -> Path:
    """Where `dynat export` writes a run unless it is told otherwise."""
    return Path("exports") / name


def evaluation_folder(name: str) -> Path:
    """Where `dynat evaluate` writes a checkpoint's results unless it is told otherwise."""
    return Path("evaluations") / name
