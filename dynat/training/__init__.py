"""Joint training of target and guide.

step is the algorithm, trainer the loop around it; networks and precision are what it trains and asks;
captured makes it faster without changing it; world shares it among GPUs; schedule, awp, validate and
state are what they say.
"""

from dynat.training.state import TrainingState
from dynat.training.trainer import Diverged, Trained, train

__all__ = ["Diverged", "Trained", "TrainingState", "train"]
