"""A training step on a GPU: batches come from another thread, kernels from a recording.

The CPU has two things to do during a step, to mix the next batch and to launch kernels. A thread does the
first while the GPU works. The second is the same every time, so it is recorded in a CUDA graph and launched as one
(see device.CudaGraph). The CPU waits for the GPU once in a step: where the loss is read for the log.
"""

import dataclasses
from concurrent.futures import ThreadPoolExecutor

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
            self.mixture, self.sources = move(batch.mixture, "cuda"), move(batch.sources, "cuda")
            self.graph = CudaGraph(self._compute)
        self.mixture.copy_from(batch.mixture)
        self.sources.copy_from(batch.sources)
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


class MixedAhead:
    """Batches of `mix(step, size)`, where another thread mixes the next one, in memory that the GPU can read."""

    def __init__(self, mix):
        self.mix = mix
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="mixing")
        self.buffers = [{}, {}]  # of even and of odd steps
        self.coming = {}

    def __call__(self, step, size):
        """The batch of that step; the next one is on its way from then on."""
        batch = self.coming.pop((step, size), None) or self.pool.submit(self._mix, step, size)
        batch = batch.result()
        self.coming = {(step + 1, size): self.pool.submit(self._mix, step + 1, size)}
        return batch

    def _mix(self, step, size):
        batch, buffers = self.mix(step, size), self.buffers[step % 2]
        for name in ("mixture", "sources"):
            array = getattr(batch, name)
            if name not in buffers or buffers[name].shape != array.shape:
                buffers[name] = pinned_like(array)
            np.copyto(buffers[name], array)
        return dataclasses.replace(batch, **buffers)
