"""Weights from which a training starts: of a file, or of another run of the experiment with the same seed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import model_validator

from dynat.config.base import ConfigError, StrictModel, nearest, shortened
from dynat.config.merging import Replaced

if TYPE_CHECKING:
    from dynat.config.experiment import Experiment
    from dynat.config.run import Run


class WeightSource(StrictModel):
    """Where a network's first weights come from: a `run` or a `file`."""

    run: str | None = None
    """Another run of this experiment, which is trained first. Each seed starts from that run's network of the same
    seed."""
    network: Literal["target", "guide"] = "target"
    """`run`: which of its networks."""
    weights: Literal["best", "last"] = "best"
    """`run`: the target's weights of the epoch that validation chose, or of the last one."""
    file: str | None = None
    """A file of weights, read as one under [checkpoints](#checkpoints). Its network must see pixels in [0,1], unless
    the run's network normalizes them alike."""

    @model_validator(mode="after")
    def _one_source(self) -> WeightSource:
        if (self.run is None) == (self.file is None):
            raise ValueError("give either run (a run of this experiment) or file (a file of weights)")
        if self.file is not None and (self.network, self.weights) != ("target", "best"):
            raise ValueError("network and weights choose among those of a run: remove them beside file")
        if self.network == "guide" and self.weights == "last":
            raise ValueError("weights: a run keeps its guide of the best epoch only: remove weights: last")
        return self


class InitConfig(StrictModel):
    """The first weights of a run's networks, instead of random ones."""

    target: Annotated[WeightSource | None, Replaced()] = None
    """Where the target starts: `{run: NAME}` or `{file: PATH}`."""
    guide: Annotated[WeightSource | None, Replaced()] = None
    """Where the guide starts, alike."""

    @model_validator(mode="after")
    def _not_empty(self) -> InitConfig:
        if not self.sources:
            raise ValueError("name target or guide, as in {target: {run: natural}}")
        return self

    @property
    def sources(self) -> dict[str, WeightSource]:
        """By the network that starts from it."""
        named = {"target": self.target, "guide": self.guide}
        return {network: source for network, source in named.items() if source is not None}


def check_sources(experiment: Experiment, known: Mapping[str, object]) -> None:
    """Refuse a start from a run that is not there, that has another network or other seeds, or that waits for this one.

    `known` are the runs of the preset, selected or not.
    """
    for name, run in experiment.runs.items():
        for network, source in _run_sources(run).items():
            where = f"runs.{shortened(name)}.init.{network}.run"
            if source in known and source not in experiment.runs:
                raise ConfigError(f"{where}: '{source}' is not selected: add it to select")
            if source in experiment.checkpoints:
                file = experiment.checkpoints[source].file
                raise ConfigError(f"{where}: '{source}' is a checkpoint and no run: write file: {file}")
            if source not in experiment.runs:
                raise ConfigError(f"{where}: unknown run '{shortened(source)}': {nearest(source, experiment.runs)}")
            _check_pair(experiment, name, network, where)
        _refuse_circle(name, experiment.runs)


def initial_files(runs: Mapping[str, Run]) -> dict[str, str]:
    """The files of weights from which runs start, by key."""
    return {
        f"runs.{name}.init.{network}.file": source.file
        for name, run in runs.items()
        for network, source in ({} if run.init is None else run.init.sources).items()
        if source.file is not None
    }


def _run_sources(run: Run) -> dict[str, str]:
    """The runs from which a run's networks start."""
    sources = {} if run.init is None else run.init.sources
    return {network: source.run for network, source in sources.items() if source.run is not None}


def _check_pair(experiment: Experiment, name: str, network: str, where: str) -> None:
    run = experiment.runs[name]
    assert run.init is not None
    source = run.init.sources[network]
    assert source.run is not None
    own, other = getattr(run, network), getattr(experiment.runs[source.run], source.network)
    if other is None:
        raise ConfigError(f"{where}: '{source.run}' has no guide: remove network: guide")
    if own != other:
        raise ConfigError(
            f"{where}: the {network} of '{name}' is {own}, and the {source.network} of '{source.run}' is {other}: "
            "the weights of one do not fit the other"
        )
    if missing := sorted({*experiment.seeds[name]} - {*experiment.seeds[source.run]}):
        raise ConfigError(
            f"{where}: seed {missing[0]} would start from seed {missing[0]} of '{source.run}', which has the seeds "
            f"{list(experiment.seeds[source.run])}"
        )


def _refuse_circle(name: str, runs: Mapping[str, Run], path: tuple[str, ...] = ()) -> None:
    if name in path:
        raise ConfigError(f"runs.{shortened(path[0])}.init: a circle: {' <- '.join((*path, name))}")
    for source in _run_sources(runs[name]).values():
        if source in runs:  # otherwise refused when its row is checked
            _refuse_circle(source, runs, (*path, name))
