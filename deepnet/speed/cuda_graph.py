"""A training step as one CUDA graph."""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor


class CUDAGraphStep:
    """`step(inputs, labels)` as one CUDA graph, so that the kernels of a deep network do not wait for Python.

    The first batches call `step` itself, which allocates what it needs. Then one step is captured, which computes
    nothing, and later batches replay it. A batch of another shape, such as an epoch's last, calls `step`. Everything
    that `step` reads and writes must keep its address, and `step` may not synchronize with the device.
    """

    WARM_UP = 3

    def __init__(self, step: Callable[[Tensor, Tensor], None]) -> None:
        self._step, self._seen = step, 0
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, inputs: Tensor, labels: Tensor) -> None:
        self._seen += 1
        if self._seen == self.WARM_UP + 1:
            self._inputs, self._labels = inputs.clone(), labels.clone()
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._step(self._inputs, self._labels)
        if self._graph is None or inputs.shape != self._inputs.shape:
            with warnings.catch_warnings():
                # torch warns that the optimizer could be in a graph and is not
                warnings.simplefilter("ignore", UserWarning)
                return self._step(inputs, labels)
        self._inputs.copy_(inputs)
        self._labels.copy_(labels)
        self._graph.replay()
