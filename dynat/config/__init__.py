"""What a person may ask for, checked before anything runs. See config/README.md for the manual."""

from dynat.config.load import digest, load
from dynat.config.parts import Dataset, Threat
from dynat.config.schema import Attack, ExamSpec, Experiment, Run, TrainingSpec
from dynat.config.strict import ConfigError

__all__ = [
    "Attack",
    "ConfigError",
    "Dataset",
    "ExamSpec",
    "Experiment",
    "Run",
    "Threat",
    "TrainingSpec",
    "digest",
    "load",
]
