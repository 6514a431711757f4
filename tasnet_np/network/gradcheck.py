"""Are all gradients right? Every case of every op, and whole models: what `tasnet-np gradcheck` prints."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from tasnet_np.network.config import PRESETS, Config
from tasnet_np.network.execution import ConvTasNet
from tasnet_np.network.layers import NegativeSISNR
from tasnet_np.ops.cases import CASES
from tasnet_np.ops.gradcheck import check_op, directional_error


def check_model(config: Config, path: str = "fused", seed: int = 0, samples: int = 203) -> float:
    """The error of a whole model with its loss, as in `directional_error`.

    The gradients are those of all parameters and of the mixture.

    Parameters
    ----------
    config : Config
    path : str
        As in `ConvTasNet`.
    seed : int
        Of the model, the mixture, the targets and the directions.
    samples : int
        Of the mixture.
    """
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


def reduced(config: Config) -> Config:
    """The same architecture with small sizes, so that a check takes little time."""
    sizes = {"filters": 6, "filter_length": 6, "bottleneck": 4, "hidden": 5, "skip": 3, "blocks": 3}
    lookahead = min(config.lookahead_blocks, 2)
    return dataclasses.replace(config, **sizes, repeats=2, lookahead_blocks=lookahead)


def check_everything(seed: int = 0) -> Iterator[tuple[str, float, float]]:
    """Check all cases and small models of all presets.

    Yields
    ------
    name, reference, compiled : str, float, float
        The errors of the NumPy references and of the compiled kernels.
    """
    for case in CASES:
        yield case.name, check_op(case, "reference", seed), check_op(case, "ops", seed)
    for name, config in PRESETS.items():
        for path in ("ops", "fused"):
            errors = [check_model(reduced(config), checked, seed) for checked in ("reference", path)]
            yield f"whole model with loss, {name}, {path}", *errors
