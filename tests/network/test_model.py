"""The whole network: sizes, lengths, what it can see, and its gradients."""

import dataclasses
import statistics
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

from tasnet_np.network.config import PRESETS, Config
from tasnet_np.network.execution import ConvTasNet
from tasnet_np.network.gradcheck import check_model, reduced
from tasnet_np.network.layers import PATHS, NegativeSISNR
from tasnet_np.ops.gradcheck import TOLERANCE, directional_error
from tasnet_np.optimisation.optimisers import Adam

each_preset = pytest.mark.parametrize("preset", PRESETS)

VARIANTS = {
    "softmax masks": {"mask_activation": "softmax"},
    "relu masks": {"mask_activation": "relu"},
    "relu encoder": {"encoder_activation": "relu"},
    "per-frame norm": {"norm": "channel"},
    "look-ahead": {"lookahead_blocks": 3},
    "all blocks look ahead": {"lookahead_blocks": 6},
    "cLN, not causal": {"causal": False},
    "even taps, not causal": {"causal": False, "kernel": 4},
    "one tap": {"kernel": 1},
    "separate decoders": {"decoders": "separate"},
    "one block": {"blocks": 1, "repeats": 1},
}


def variant(name):
    return dataclasses.replace(reduced(PRESETS["small"]), **VARIANTS[name])


def model_and_mixture(config, samples, batch=2, dtype=np.float64, path="fused"):
    rng = np.random.default_rng(1)
    return ConvTasNet(config, dtype=dtype, path=path), rng.standard_normal((batch, samples)).astype(dtype)


def test_parameter_counts():
    counts = {name: config.parameter_count for name, config in PRESETS.items()}
    assert counts["paper"] == 4_984_881  # as torchaudio's conv_tasnet_base
    assert counts["origin"] == 5_083_313 - 65_664  # without the origin's unused residual convolution
    for name, config in PRESETS.items():
        model = ConvTasNet(config)
        assert sum(array.size for array in model.named_parameters().values()) == counts[name]
    last = max(int(key.split(".")[1]) for key in model.named_parameters() if key.startswith("blocks"))
    assert f"blocks.{last}.residual.w" not in model.named_parameters()
    assert f"blocks.{last - 1}.residual.w" in model.named_parameters()


@pytest.mark.parametrize("name", VARIANTS)
def test_parameter_count_of_variants(name):
    config = variant(name)
    model = ConvTasNet(config)
    assert sum(array.size for array in model.named_parameters().values()) == config.parameter_count


def test_receptive_field_look_ahead_and_latency_of_the_presets():
    small, paper, origin = (PRESETS[name] for name in ("small", "paper", "origin"))
    assert paper.receptive_field_frames == origin.receptive_field_frames == 1531
    assert paper.receptive_field_seconds == pytest.approx(1.53, abs=0.005)
    assert small.receptive_field_frames == 1 + 2 * 2 * 63
    assert (small.lookahead_frames, small.latency_samples, small.latency_ms) == (0, 16, 2.0)
    assert (origin.lookahead_frames, origin.latency_samples, origin.latency_ms) == (31, 528, 33.0)
    wide = PRESETS["wide"]
    assert (wide.lookahead_frames, wide.latency_samples, wide.latency_ms) == (3, 320, 20.0)
    # Published as 512 samples (32 ms): without the hop that has to be full before a frame can start.
    assert origin.latency_samples - origin.hop == 512
    assert paper.latency_samples == np.inf


@pytest.mark.parametrize(
    "causal, lookahead_blocks, kernel", [(True, 0, 3), (True, 2, 3), (False, 0, 3), (True, 4, 2)]
)
def test_receptive_field_is_what_the_gradient_says(causal, lookahead_blocks, kernel):
    """Which input samples does the output under one window depend on? Per-frame norm: only convolutions."""
    config = dataclasses.replace(
        reduced(PRESETS["small"]),
        norm="channel",
        causal=causal,
        lookahead_blocks=lookahead_blocks,
        kernel=kernel,
    )
    model, mixture = model_and_mixture(config, 601, batch=1)
    sources = model.forward(mixture)
    dsources = np.zeros_like(sources)
    sample = 300  # the first of a hop: it lies in the frame that ends there and in the one that begins
    dsources[:, :, sample] = 1
    seen = np.flatnonzero(model.backward(dsources)[0])
    frames = config.receptive_field_frames + 1  # of the two frames together
    assert seen[-1] - seen[0] + 1 == (frames - 1) * config.hop + config.filter_length
    assert seen[-1] == sample + config.latency_samples - 1


@pytest.mark.parametrize("preset, lookahead_blocks", [("small", 0), ("origin", 2), ("origin", 6)])
@pytest.mark.parametrize("norm", ["cLN", "channel"])
def test_nothing_leaks_from_the_future(preset, lookahead_blocks, norm):
    """Changing the input from sample t on leaves every output before t - latency + 1 as it was, bit for bit."""
    config = dataclasses.replace(reduced(PRESETS[preset]), norm=norm, lookahead_blocks=lookahead_blocks)
    model, mixture = model_and_mixture(config, 211, batch=1)
    before = model.forward(mixture, keep=False)
    reached = []
    for t in range(100, 100 + 2 * config.hop):
        changed = mixture.copy()
        changed[:, t:] += 1
        after = model.forward(changed, keep=False)
        first = t - config.latency_samples + 1
        assert before[..., :first].tobytes() == after[..., :first].tobytes()
        reached.append(before[0, 0, first] != after[0, 0, first])
    assert any(reached)  # the latency is no larger than it has to be


@each_preset
@pytest.mark.parametrize("path", PATHS)
def test_gradients_of_the_whole_model(preset, path):
    assert check_model(reduced(PRESETS[preset]), path) <= TOLERANCE


@pytest.mark.parametrize("name", VARIANTS)
def test_gradients_of_variants(name):
    assert check_model(variant(name)) <= TOLERANCE


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("samples", [1, 2, 7, 30])
def test_gradients_with_a_receptive_field_longer_than_the_signal(path, samples):
    model, mixture = model_and_mixture(reduced(PRESETS["origin"]), samples)
    sources = model.forward(mixture)
    dsources = np.random.default_rng(2).standard_normal(sources.shape)
    gradients = [model.backward(dsources), *model.grads.values()]
    arrays = [mixture, *model.params.values()]
    error = directional_error(lambda: (dsources * model.forward(mixture)).sum(), arrays, gradients)
    assert error <= TOLERANCE


def test_a_bug_planted_in_the_model_is_caught(monkeypatch):
    """The residual's gradient forgotten in one block."""
    from tasnet_np.network.model import TCNBlock

    right = TCNBlock.backward

    def forgetful(self, dx_next, dskips):
        dx, dskips = right(self, dx_next, dskips)
        return dx - dx_next, dskips

    monkeypatch.setattr(TCNBlock, "backward", forgetful)
    assert check_model(reduced(PRESETS["small"]), "ops") > 100 * TOLERANCE


@each_preset
def test_output_is_as_long_as_the_input(preset):
    config = reduced(PRESETS[preset])
    for samples in [*range(1, 40), 203]:
        model, mixture = model_and_mixture(config, samples)
        sources = model.forward(mixture)
        assert sources.shape == (2, 2, samples)
        assert np.isfinite(sources).all()
        assert model.backward(np.ones_like(sources)).shape == (2, samples)


@each_preset
def test_all_paths_give_the_same_numbers(preset):
    config = reduced(PRESETS[preset])
    results = []
    for path in PATHS:
        model = ConvTasNet(config, dtype=np.float64, path=path)
        mixture = np.random.default_rng(0).standard_normal((3, 101))
        sources = model.forward(mixture)
        results.append([sources, model.backward(np.cos(sources)), *model.grads.values()])
    for reference, *others in zip(*results, strict=True):
        for other in others:
            np.testing.assert_allclose(other, reference, rtol=1e-8, atol=1e-11)


def test_examples_of_a_batch_do_not_meet():
    model, mixture = model_and_mixture(reduced(PRESETS["paper"]), 100, batch=3)
    together = model.forward(mixture, keep=False)
    for i in range(3):
        np.testing.assert_allclose(model.forward(mixture[i : i + 1], keep=False)[0], together[i], rtol=1e-12)


def test_an_inverse_pair_of_filters_with_open_masks_gives_the_mixture_back():
    """Encoder and decoder as half-overlapping identities, masks at 1/2: each source is half the mixture."""
    config = dataclasses.replace(reduced(PRESETS["small"]), filters=6, filter_length=6)
    model, mixture = model_and_mixture(config, 100)
    params = model.named_parameters()
    params["encoder.w"][...] = np.eye(6)
    params["decoder.w"][...] = np.eye(6) / 2  # two windows over each sample
    params["mask.w"][...] = params["mask.b"][...] = 0
    sources = model.forward(mixture)
    np.testing.assert_allclose(sources[:, 0], mixture / 2, atol=1e-12)
    np.testing.assert_allclose(sources[:, 1], mixture / 2, atol=1e-12)


GOLDEN = {"small": 35.44558, "wide": 26.40950, "paper": 33.73128, "origin": 33.20395}


@each_preset
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_golden_losses(preset, dtype):
    """The loss of fresh weights on fixed noise: changes when anything in the network does."""
    rng = np.random.default_rng(7)
    mixture, targets = rng.standard_normal((2, 500)), rng.standard_normal((2, 2, 500))
    model = ConvTasNet(reduced(PRESETS[preset]), seed=3, dtype=dtype)
    loss = NegativeSISNR().forward(model.forward(mixture.astype(dtype)), targets.astype(dtype))
    assert loss == pytest.approx(GOLDEN[preset], abs=2e-4)


@each_preset
def test_overfits_one_batch(preset):
    config = dataclasses.replace(reduced(PRESETS[preset]), filters=24, bottleneck=12, hidden=24, skip=12)
    rng = np.random.default_rng(0)
    time = np.arange(800) / config.sample_rate
    speech = np.sin(2 * np.pi * np.array([[220], [330]]) * time)
    noise = rng.standard_normal((2, 800))
    sources = np.stack([speech, noise], axis=1).astype(np.float32)
    model, loss = ConvTasNet(config), NegativeSISNR()
    optimizer = Adam(model.params, learning_rate=5e-3)
    losses = []
    for _ in range(150):
        losses.append(loss.forward(model.forward(sources.sum(axis=1)), sources))
        model.backward(loss.backward())
        optimizer.step(model.grads)
    assert losses[0] > 0
    assert losses[-1] < -10


def test_backward_needs_its_own_forward():
    model, mixture = model_and_mixture(reduced(PRESETS["small"]), 50)
    with pytest.raises(RuntimeError, match="needs a forward"):
        model.backward(np.zeros((2, 2, 50)))
    model.forward(mixture)
    with pytest.raises(ValueError, match=r"dsources must be \(2, 2, 50\)"):
        model.backward(np.zeros((2, 2, 51)))
    model.backward(np.zeros((2, 2, 50)))
    with pytest.raises(RuntimeError, match="needs a forward"):
        model.backward(np.zeros((2, 2, 50)))
    model.forward(mixture, keep=False)
    with pytest.raises(RuntimeError, match="needs a forward"):
        model.backward(np.zeros((2, 2, 50)))


@pytest.mark.parametrize(
    "mixture, error, words",
    [
        (np.zeros(50, "f"), ValueError, "(50,)"),
        (np.zeros((1, 2, 50), "f"), ValueError, "(1, 2, 50)"),
        (np.zeros((0, 50), "f"), ValueError, "(0, 50)"),
        (np.zeros((1, 0), "f"), ValueError, "(1, 0)"),
        (np.zeros((1, 50)), TypeError, "float64"),
        (np.zeros((1, 50), np.int16), TypeError, "int16"),
        ([[0.0, 1.0]], TypeError, "list"),
    ],
)
def test_a_mixture_that_does_not_fit_is_refused(mixture, error, words):
    with pytest.raises(error) as caught:
        ConvTasNet(reduced(PRESETS["small"])).forward(mixture)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"norm": "gLN"}, "causal model cannot use gLN"),
        ({"norm": "BN"}, "norm must be one of gLN, cLN, channel, not 'BN'"),
        ({"filter_length": 15}, "must be even, not 15"),
        ({"filters": 0}, "filters must be a whole number of at least 1, not 0"),
        ({"hidden": 2.5}, "not 2.5"),
        ({"sample_rate": 0}, "sample_rate must be"),
        ({"lookahead_blocks": 13}, "between 0 and the 12 blocks"),
        ({"causal": False, "lookahead_blocks": 1}, "is for causal models"),
        ({"mask_activation": "tanh"}, "sigmoid, softmax, relu"),
        ({"encoder_activation": "sigmoid"}, "linear, relu"),
        ({"decoders": "none"}, "shared, separate"),
        ({"causal": "yes"}, "causal must be one of"),
        ({"causal": 1}, "causal must be one of False, True, not 1"),
        ({"causal": None}, "causal must be one of"),
        ({"norm": ["cLN"]}, "norm must be one of"),
        ({"lookahead_blocks": True}, "between 0 and the 12 blocks"),
        ({"lookahead_blocks": 1.0}, "between 0 and the 12 blocks"),
        ({"filters": 20_000_000}, "filters must be a whole number of at most 16384, not 20000000"),
        ({"hidden": 10**30}, "at most 16384, not 1000000"),
        ({"skip": 64.0}, "skip must be a whole number of at least 1, not 64.0"),
        ({"kernel": True}, "not True"),
        ({"repeats": "2"}, "not '2'"),
        ({"repeats": None}, "not None"),
        ({"blocks": float("nan")}, "not nan"),
        ({"bottleneck": float("inf")}, "not inf"),
        ({"sample_rate": 1 << 31}, "at most 1000000"),
        ({"hidden": 16384, "bottleneck": 16384}, "parameters: more than 32,000,000"),
        ({"blocks": 20}, "values in a stream: more than 32,000,000"),
    ],
)
def test_impossible_configs_are_refused_with_a_sentence(change, words):
    with pytest.raises(ValueError) as caught:
        dataclasses.replace(Config(), **change)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "change", [{}, {"decoders": "separate"}, {"repeats": 3, "blocks": 1}, {"hidden": 7, "kernel": 5}]
)
@pytest.mark.parametrize("preset", list(PRESETS))
def test_a_config_knows_the_shapes_of_the_parameters(preset, change):
    config = dataclasses.replace(reduced(PRESETS[preset]), **change, lookahead_blocks=0)
    model = ConvTasNet(config)
    shapes = {name: array.shape for name, array in model.params.items()}
    assert list(config.parameter_shapes.items()) == list(shapes.items())
    assert config.parameter_count == sum(array.size for array in model.params.values())


def test_config_is_frozen_and_presets_are_known():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().filters = 3
    assert Config.preset("small") == Config()
    with pytest.raises(ValueError, match="no preset 'tiny': choose one of small, wide, paper, origin"):
        Config.preset("tiny")
    with pytest.raises(ValueError, match="path must be one of"):
        ConvTasNet(Config(), path="fast")
    with pytest.raises(ValueError, match="dtype must be"):
        ConvTasNet(Config(), dtype=np.int32)


def _peak_bytes(function):
    function()  # compiles, and makes what stays
    tracemalloc.start()
    held = tracemalloc.get_traced_memory()[0]
    function()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak - held


@each_preset
def test_memory_is_what_config_says(preset):
    config = dataclasses.replace(PRESETS[preset], blocks=3, repeats=2, lookahead_blocks=0)
    samples = 2000 * config.hop  # so many frames that the weights' gradients are small beside them
    model, mixture = model_and_mixture(config, samples, batch=1, dtype=np.float32)
    denoising = _peak_bytes(lambda: model.forward(mixture, keep=False))
    # The most there can be: two threads need not work on two tiles at the same moment.
    assert 0.7 < denoising / config.inference_bytes(mixture.size) < 1.1
    sources = np.ones((1, 2, mixture.size), np.float32)
    training = _peak_bytes(lambda: (model.forward(mixture), model.backward(sources)))
    assert config.training_bytes(mixture.size) == pytest.approx(training, rel=0.15)


@pytest.mark.parametrize("norm", ["cLN", "gLN", "channel"])
@pytest.mark.parametrize("lookahead_blocks", [0, 6])
def test_inference_in_tiles_gives_the_same_numbers(norm, lookahead_blocks, monkeypatch):
    """Tiles much shorter than the receptive field, of which the last is not full; on one thread and on two."""
    from tasnet_np.compute import cpu
    from tasnet_np.network import execution
    from tasnet_np.ops import tcn_block_cpu

    monkeypatch.setattr(tcn_block_cpu, "TILE", 7)
    monkeypatch.setattr(execution, "TILE", 7)
    causal = norm != "gLN"
    config = dataclasses.replace(
        reduced(PRESETS["small"]),
        norm=norm,
        causal=causal,
        lookahead_blocks=lookahead_blocks if causal else 0,
    )
    model, mixture = model_and_mixture(config, 301)
    expected = model.forward(mixture)
    results = []
    for threads in (1, 2):
        monkeypatch.setattr(cpu, "_threads", threads)
        results.append(model.forward(mixture, keep=False))
        np.testing.assert_allclose(results[-1], expected, rtol=1e-9, atol=1e-12)
    assert results[0].tobytes() == results[1].tobytes()


def test_training_asks_the_system_for_no_memory_after_its_first_steps():
    """Counted in page faults, in a process of its own: keep_freed_memory is for good."""
    script = """if True:
        import resource, numpy as np
        from tasnet_np import Config, ConvTasNet, NegativeSISNR
        from tasnet_np.compute.cpu import keep_freed_memory
        keep_freed_memory()
        model, loss = ConvTasNet(Config.preset("small")), NegativeSISNR()
        x, t = np.random.randn(2, 16000).astype("f"), np.random.randn(2, 2, 16000).astype("f")
        for step in range(10):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            loss.forward(model.forward(x), t)
            model.backward(loss.backward())
            print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    """
    printed = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout
    faults = list(map(int, printed.split()))
    assert faults[0] > 10_000  # 4 kB pages: more than 40 MB
    # Two threads share the heap in no fixed order, so now and then it still grows a little.
    assert statistics.median(faults[3:]) < faults[0] / 100


@pytest.mark.parametrize("path", ["ops", "fused"])
def test_a_training_step_has_the_same_bits_on_any_number_of_threads(path, monkeypatch):
    from tasnet_np.compute import cpu

    def step(threads):
        monkeypatch.setattr(cpu, "_threads", threads)
        model, loss = ConvTasNet(reduced(PRESETS["origin"]), path=path), NegativeSISNR()
        rng = np.random.default_rng(0)
        mixture = rng.standard_normal((5, 400)).astype(np.float32)
        targets = rng.standard_normal((5, 2, 400)).astype(np.float32)
        sources = model.forward(mixture)
        arrays = [sources, model.backward(np.cos(sources)), *model.grads.values()]
        return [*arrays, np.array(model.gradients(loss, mixture, targets)), *model.grads.values()]

    for one, two, three in zip(*map(step, (1, 2, 3)), strict=True):
        assert one.tobytes() == two.tobytes() == three.tobytes()


@pytest.mark.parametrize("path", ["ops", "fused"])
@pytest.mark.parametrize("batch", [1, 3])
def test_gradients_is_forward_loss_and_backward(path, batch):
    model, mixture = model_and_mixture(reduced(PRESETS["small"]), 90, batch=batch, path=path)
    targets = np.random.default_rng(3).standard_normal((batch, 2, 90))
    loss = NegativeSISNR(weights=(2, 1))
    for _ in range(2):  # the second time, there are gradients that must not be added to
        at_once = model.gradients(loss, mixture, targets), {k: g.copy() for k, g in model.grads.items()}
    with pytest.raises(RuntimeError, match="needs a forward"):
        model.backward(np.ones_like(targets))
    value = loss.forward(model.forward(mixture), targets)
    model.backward(loss.backward())
    assert at_once[0] == pytest.approx(value, rel=1e-12)
    for name, gradient in model.grads.items():
        np.testing.assert_allclose(at_once[1][name], gradient, rtol=1e-9, atol=1e-12)


def test_examples_share_parameters_and_not_gradients():
    """Changing a parameter between steps changes all examples; the gradient is the sum over them."""
    model, mixture = model_and_mixture(reduced(PRESETS["small"]), 90, batch=3)
    dsources = np.random.default_rng(2).standard_normal((3, 2, 90))
    for _ in range(2):
        model.forward(mixture)
        model.backward(dsources)
        together = {name: grad.copy() for name, grad in model.grads.items()}
        apart = dict.fromkeys(together, 0)
        for i in range(3):
            model.forward(mixture[i : i + 1])
            model.backward(dsources[i : i + 1])
            apart = {name: apart[name] + grad for name, grad in model.grads.items()}
        for name, grad in together.items():
            np.testing.assert_allclose(grad, apart[name], rtol=1e-9, atol=1e-12)
        for array in model.params.values():
            array *= 1.1
