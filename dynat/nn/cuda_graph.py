"""A training step recorded as one CUDA graph: inner attack, both backward passes and update in one launch.

On a small network the GPU waits for Python to launch some thousand kernels per step. A recorded graph launches
them all. The shapes, addresses and Python values of the recorded step are fixed in it, so the trainer discards it
before every epoch; the learning rate, which changes within an epoch, is a tensor.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

Step = Callable[[Tensor, Tensor, Tensor], dict[str, Tensor]]

WARM_UP = 2
"""Steps that run eagerly before the recording, so that libraries have chosen their kernels and buffers exist."""


class CUDAGraphStep:
    """`step`, recorded once and replayed; run eagerly, with a warning, where it cannot be recorded."""

    def __init__(self, step: Step) -> None:
        self.step = step
        self.warm_up_left = WARM_UP
        self.stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self.graph: torch.cuda.CUDAGraph | None = None
        self.eager = False
        """Whether a recording failed; it is not tried again."""

    def discard(self) -> None:
        """The next step is recorded again, on the same stream: each stream costs libraries memory of its own."""
        self.graph = None

    def __call__(self, *inputs: Tensor) -> dict[str, Tensor]:
        if self.eager:
            return self.step(*inputs)
        if self.warm_up_left:
            self.warm_up_left -= 1
            return self._on_recording_stream(*inputs)
        if self.graph is None and not self._record(*inputs):
            return self.step(*inputs)
        assert self.graph is not None
        torch._foreach_copy_(list(self.inputs), list(inputs))
        self.graph.replay()
        return self.values

    def _on_recording_stream(self, *inputs: Tensor) -> dict[str, Tensor]:
        """Run the step on the recording stream: gradients accumulate on the stream that created them."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            values = self.step(*inputs)
        torch.cuda.current_stream().wait_stream(self.stream)
        return values

    def _record(self, *inputs: Tensor) -> bool:
        self.inputs = [tensor.clone() for tensor in inputs]
        graph, before = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        gc.collect()  # memory freed during a recording would become part of it, above all that of an old graph
        try:
            with torch.cuda.graph(graph, stream=self.stream):
                self.values = self.step(*self.inputs)
        except RuntimeError as error:
            # Recording computes nothing, so nothing has to be undone.
            self.eager = True
            torch.cuda.set_stream(before)  # torch leaves the recording stream current where ending the capture failed
            torch.cuda.synchronize()
            warnings.warn(f"the step cannot be recorded and runs eagerly: {error}", stacklevel=2)
            return False
        self.graph = graph
        return True
