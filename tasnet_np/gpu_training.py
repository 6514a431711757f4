"""A training step on a GPU.

The CPU has two things to do during a step, to mix the next batch and to launch kernels. A thread does the first
while the GPU works (mixing.Prefetcher). The second is the same every time, so it is recorded in a CUDA graph and
launched as one (see device.CudaGraph). The CPU waits for the GPU once in a step: where the loss is read for the log.
"""

import numpy as np

from tasnet_np.device import CudaGraph, move, pinned_like
from tasnet_np.optim import clip_gradients


class Step:
    """Forward, loss, backward, clipping and update: `loss, norm = step(batch)`.

    Where the gradient is not finite, the update leaves the parameters as they were: by the time that the CPU knows,
    it would be too late.
    """

    def __init__(self, model, loss, optimizer, clip):
        self.model, self.loss, self.optimizer, self.clip = model, loss, optimizer, clip
        self.shapes = None

    def __call__(self, batch):
        """One update; batch has mixture (B, n) and sources (B, 2, n). Returns loss and gradient norm, floats."""
        shapes = batch.mixture.shape, batch.sources.shape
        if shapes != self.shapes:
            self.shapes = shapes
            self.pinned = pinned_like(batch.mixture), pinned_like(batch.sources)  # which the GPU can read itself
            self.mixture, self.sources = move(batch.mixture, "cuda"), move(batch.sources, "cuda")
            self.graph = CudaGraph(self._compute)
        for on_gpu, pinned, array in zip((self.mixture, self.sources), self.pinned, (batch.mixture, batch.sources)):
            np.copyto(pinned, array)
            on_gpu.copy_from(pinned)
        self.optimizer.steps += 1
        self.optimizer.count_on_gpu()
        self.graph()
        return float(self.value), float(self.norm)

    def _compute(self):
        estimate = self.model.forward(self.mixture)
        self.value = self.loss.forward(estimate, self.sources)
        self.model.backward(self.loss.backward())
        self.norm = clip_gradients(self.model.grads, self.clip)
        self.optimizer.update_on_gpu(self.model.grads, self.norm)
