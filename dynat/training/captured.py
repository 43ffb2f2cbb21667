"""A training step recorded as one CUDA graph: search, both backward passes and update, launched at once.

On a small network the GPU waits for Python to launch some thousand kernels per step. A recording launches them
by itself. It holds the shapes, addresses and Python values of the moment, so the trainer has it forgotten before
every epoch; the learning rate, which changes within one, is a tensor.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

Step = Callable[[Tensor, Tensor, Tensor], dict[str, Tensor]]

WARM_UP = 2
"""Steps that run plainly before the recording, so that libraries have chosen their kernels and buffers exist."""


class Captured:
    """`step`, recorded once and replayed; run plainly, with a warning, where it cannot be recorded."""

    def __init__(self, step: Step) -> None:
        self.step = step
        self.left = WARM_UP
        self.stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self.graph: torch.cuda.CUDAGraph | None = None
        self.plain = False
        """Whether a recording failed; it is not tried again."""

    def forget(self) -> None:
        """The next step is recorded anew, on the same stream: each stream costs libraries memory of its own."""
        self.graph = None

    def __call__(self, *inputs: Tensor) -> dict[str, Tensor]:
        if self.plain:
            return self.step(*inputs)
        if self.left:
            self.left -= 1
            return self._beside(*inputs)
        if self.graph is None and not self._record(*inputs):
            return self.step(*inputs)
        assert self.graph is not None
        torch._foreach_copy_(list(self.inputs), list(inputs))
        self.graph.replay()
        return self.seen

    def _beside(self, *inputs: Tensor) -> dict[str, Tensor]:
        """Run the step on the stream that will record it: gradients are accumulated where they were first made."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            seen = self.step(*inputs)
        torch.cuda.current_stream().wait_stream(self.stream)
        return seen

    def _record(self, *inputs: Tensor) -> bool:
        self.inputs = [tensor.clone() for tensor in inputs]
        graph, before = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        gc.collect()  # what is freed during a recording would be a part of it, an old recording above all
        try:
            with torch.cuda.graph(graph, stream=self.stream):
                self.seen = self.step(*self.inputs)
        except RuntimeError as error:
            # Recording runs nothing, so nothing has to be undone.
            self.plain = True
            torch.cuda.set_stream(before)  # torch leaves the recording's own where ending it failed
            torch.cuda.synchronize()
            warnings.warn(f"the step cannot be recorded and runs plainly: {error}", stacklevel=2)
            return False
        self.graph = graph
        return True
