"""One training step: forward, loss, backward, clipping and update, on the CPU or on a GPU.

On a GPU the CPU has two things to do during a step, to mix the next batch and to launch kernels. A thread
does the first while the GPU works (`mixing.Prefetcher`). The second is the same every time, so it is recorded
and launched as one (see `compute.gpu.CudaGraph`). The CPU waits for the GPU once in a step: where the loss is
read for the log.
"""

from tasnet_np.compute.arrays import Inputs, recorded
from tasnet_np.network.execution import in_dtype_of
from tasnet_np.training.updates import clip_gradients


class Step:
    """`loss, norm = step(batch)`: one update of the parameters.

    Where the gradient is not finite, the parameters stay as they were. On a GPU the update has to see to that
    by itself: by the time that the CPU knows, it would be too late.

    Parameters
    ----------
    model : ConvTasNet
    loss : a loss as in `model.gradients`
    optimizer : one of `optimisers`
    clip : float
        Largest norm of the gradient.
    """

    def __init__(self, model, loss, optimizer, clip):
        self.model, self.loss, self.optimizer, self.clip = model, loss, optimizer, clip
        self._inputs = Inputs(model.device)
        self.work = None  # forward to update, recorded on a GPU

    def __call__(self, batch):
        """batch has mixture (B, n) and sources (B, 2, n). Returns loss (dB) and gradient norm, floats."""
        if self._inputs.bring(*(in_dtype_of(self.model, array) for array in (batch.mixture, batch.sources))):
            self.work = recorded(self._compute, self.model.device)
        self.optimizer.count()
        self.work()
        return float(self._value), float(self._norm)

    def _compute(self):
        self._value = self.model.gradients(self.loss, *self._inputs.arrays)
        self._norm = clip_gradients(self.model.grads, self.clip)
        self.optimizer.update(self.model.grads, self._norm)
