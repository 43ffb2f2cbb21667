"""Joint training of target and guide.

`step` is the algorithm and `trainer` the loop around it; `networks` builds what is trained; `distributed` shares a
training among GPUs; `schedule`, `awp`, `validation` and `state` are what their names say.
"""

from dynat.training.state import TrainingState
from dynat.training.trainer import Diverged, Trained, train, try_step

__all__ = ["Diverged", "Trained", "TrainingState", "train", "try_step"]
