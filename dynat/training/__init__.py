"""Joint training of target and guide: step (the algorithm), trainer (the loop), state, schedule."""

from dynat.training.state import TrainingState
from dynat.training.trainer import Diverged, Trained, train

__all__ = ["Diverged", "Trained", "TrainingState", "train"]
