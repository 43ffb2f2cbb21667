"""The evaluation attacks, found by name, and the evaluation that runs one and verifies its claims.

The trainer imports nothing from here, so the evaluation cannot influence the training.
"""

from dynat.attacks.evaluation import evaluate
from dynat.attacks.saved import Evaluation

__all__ = ["Evaluation", "evaluate"]
