"""The typed config of an experiment, checked before anything runs. See config/README.md for the manual."""

from dynat.config.attacks import AttackConfig, SanityConfig
from dynat.config.base import ConfigError
from dynat.config.checkpoint import Checkpoint, Normalization
from dynat.config.corruptions import CorruptionsConfig
from dynat.config.dataset import DatasetConfig, ExtraImagesConfig, ExtraUse, ThreatModel
from dynat.config.experiment import Experiment
from dynat.config.init import InitConfig, WeightSource
from dynat.config.presets import digest, load, of_content, of_file
from dynat.config.run import Run
from dynat.config.specs import (
    CorruptionsSpec,
    EvaluationSpec,
    ExtraSpec,
    ImportSpec,
    JobSpec,
    SanitySpec,
    TrainingSpec,
    TransferSpec,
)

__all__ = [
    "AttackConfig",
    "Checkpoint",
    "ConfigError",
    "CorruptionsConfig",
    "CorruptionsSpec",
    "DatasetConfig",
    "EvaluationSpec",
    "Experiment",
    "ExtraImagesConfig",
    "ExtraSpec",
    "ExtraUse",
    "ImportSpec",
    "InitConfig",
    "JobSpec",
    "Normalization",
    "Run",
    "SanityConfig",
    "SanitySpec",
    "ThreatModel",
    "TrainingSpec",
    "TransferSpec",
    "WeightSource",
    "digest",
    "load",
    "of_content",
    "of_file",
]
