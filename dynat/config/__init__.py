"""What a person may ask for, checked before anything runs. See config/README.md for the manual."""

from dynat.config.attacks import Attack
from dynat.config.load import digest, load
from dynat.config.parts import Dataset, Threat
from dynat.config.schema import ExamSpec, Experiment, ProbeSpec, Run, TrainingSpec, TransferSpec
from dynat.config.strict import ConfigError

__all__ = [
    "Attack",
    "ConfigError",
    "Dataset",
    "ExamSpec",
    "Experiment",
    "ProbeSpec",
    "Run",
    "Threat",
    "TrainingSpec",
    "TransferSpec",
    "digest",
    "load",
]
