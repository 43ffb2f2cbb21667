"""Python functions for notebooks and scripts: evaluate, attack, train, load, compare (docs/api.md).

They run the code of the pipeline on tensors instead of files: the same attacks, the same verification of every
adversarial image, the same training step, the same checks of settings.
"""

from dynat.api.evaluation import Adversarial, attack, evaluate
from dynat.api.results import AttackResult, Comparison, Result, compare
from dynat.api.training import TrainedNetworks, load, train

__all__ = [
    "Adversarial",
    "AttackResult",
    "Comparison",
    "Result",
    "TrainedNetworks",
    "attack",
    "compare",
    "evaluate",
    "load",
    "train",
]
