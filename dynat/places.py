"""Where everything lies, said once: the DAG, the command line and the report all ask here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Places:
    """Folders relative to the project (or to wherever a person works)."""

    data: Path = Path("data")
    results: Path = Path("results")
    state: Path = Path("runs")
    numbers: Path = Path("metrics")
    curves: Path = Path("plots")

    def pictures(self, dataset: str) -> Path:
        return self.data / dataset

    def run(self, preset: str, name: str) -> Path:
        return self.results / preset / name

    def seed(self, preset: str, name: str, seed: int) -> Path:
        return self.run(preset, name) / f"seed{seed}"

    def outcomes(self, preset: str, name: str, attack: str) -> Path:
        return self.run(preset, name) / "outcomes" / f"{attack}.csv"

    def probes(self, preset: str, name: str) -> Path:
        return self.run(preset, name) / "probes.csv"

    def transfer(self, preset: str) -> Path:
        return self.results / preset / "transfer.csv"

    def metrics(self, preset: str) -> Path:
        return self.numbers / preset

    def plots(self, preset: str) -> Path:
        return self.curves / preset
