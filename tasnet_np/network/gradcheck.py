"""Are all gradients right? Every case of every op, and whole models: what `tasnet-np gradcheck` prints."""

import dataclasses

import numpy as np

from tasnet_np.network.config import PRESETS
from tasnet_np.network.execution import ConvTasNet
from tasnet_np.network.layers import NegativeSISNR
from tasnet_np.ops.cases import CASES
from tasnet_np.ops.gradcheck import check_op, directional_error


def check_model(config, path="fused", seed=0, samples=203):
    """Directional error of a whole model and its loss: gradients of all parameters and of the mixture."""
    model = ConvTasNet(config, seed=seed, dtype=np.float64, path=path)
    loss = NegativeSISNR(weights=(2.0, 1.0), path=path)
    rng = np.random.default_rng(seed)
    mixture = rng.standard_normal((2, samples))
    targets = rng.standard_normal((2, 2, samples))
    for array in model.params.values():  # gamma = 1 and beta = 0 would hide mistakes
        array += 0.1 * rng.standard_normal(array.shape)

    def value():
        return loss.forward(model.forward(mixture), targets)

    value()
    dmixture = model.backward(loss.backward())
    gradients = [dmixture, *model.grads.values()]
    return directional_error(value, [mixture, *model.params.values()], gradients, seed=seed)


def reduced(config):
    """The same architecture, narrow enough to check in a moment."""
    sizes = {"filters": 6, "filter_length": 6, "bottleneck": 4, "hidden": 5, "skip": 3, "blocks": 3}
    lookahead = min(config.lookahead_blocks, 2)
    return dataclasses.replace(config, **sizes, repeats=2, lookahead_blocks=lookahead)


def check_everything(seed=0):
    """Yield (name, error of the NumPy references, error of the compiled kernels), row by row."""
    for case in CASES:
        yield case.name, check_op(case, "reference", seed), check_op(case, "ops", seed)
    for name, config in PRESETS.items():
        for path in ("ops", "fused"):
            errors = [check_model(reduced(config), each, seed) for each in ("reference", path)]
            yield f"whole model with loss, {name}, {path}", *errors
