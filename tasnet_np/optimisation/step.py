"""One training step: forward, loss, backward, clipping and update, on the CPU or on a GPU.

With a GPU, the CPU has two tasks during a step: it mixes the next batch, and it launches kernels. A thread mixes the
batch while the GPU works (`mixing.Prefetcher`). The launches are the same in every step, so they are recorded and
launched as one (see `compute.gpu.CudaGraph`). The CPU waits for the GPU once in a step, when it reads the loss for the
log.
"""

from tasnet_np.compute.arrays import Inputs, recorded
from tasnet_np.network.execution import in_dtype_of
from tasnet_np.optimisation.updates import clip_gradients


class Step:
    """`loss, norm = step(batch)`: one update of the parameters.

    If the gradient is not finite, the parameters stay as they were. On a GPU the update checks this by itself: it runs
    before the CPU knows the norm.

    Parameters
    ----------
    model : ConvTasNet
    loss : Layer
        As in `ConvTasNet.gradients`.
    optimizer : SGD or Adam
    clip : float
        Largest norm of the gradient.
    """

    def __init__(self, model, loss, optimizer, clip):
        self.model, self.loss, self.optimizer, self.clip = model, loss, optimizer, clip
        self._inputs = Inputs(model.device)
        self.work = None  # runs all from the forward to the update; recorded on a GPU

    def __call__(self, batch):
        """One step with a batch: mixture (B, n), sources (B, 2, n). Returns loss (dB) and gradient norm, as floats."""
        arrays = (in_dtype_of(self.model, array) for array in (batch.mixture, batch.sources))
        if self._inputs.bring(*arrays):
            self.work = recorded(self._compute, self.model.device)
        self.optimizer.count()
        self.work()
        return float(self._value), float(self._norm)

    def _compute(self):
        self._value = self.model.gradients(self.loss, *self._inputs.arrays)
        self._norm = clip_gradients(self.model.grads, self.clip)
        self.optimizer.update(self.model.grads, self._norm)
