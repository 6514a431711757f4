"""A stream is the offline network: the same numbers, as early as they can be, from a state of fixed size."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasnet_np.network.config import PRESETS, Config
from tasnet_np.network.execution import ConvTasNet
from tasnet_np.network.gradcheck import reduced
from tasnet_np.ops.frame_statistics import EPS
from tasnet_np.streaming.streamer import TOGETHER, Streamer

STREAMABLE = ("small", "origin")
TOLERANCE = {np.float32: 1e-5, np.float64: 1e-10}  # relative to the largest output

few = settings(max_examples=60, deadline=None)
dtypes = st.sampled_from([np.float32, np.float64])
seeds = st.integers(0, 1000)
chunk_sizes = st.lists(st.integers(0, 3 * TOGETHER * 4), min_size=1, max_size=8).filter(any)


@st.composite
def configs(draw):
    """Small networks of every kind that can be streamed.

    At least four channels under a norm: of fewer, all may be nearly equal in some frame, and the rounding
    errors of float32 then grow up to ten thousandfold, offline as well as in a stream.
    """
    blocks, repeats = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    causal = draw(st.sampled_from([True, True, False]))
    return Config(
        filters=draw(st.integers(4, 8)),
        filter_length=2 * draw(st.integers(1, 4)),
        bottleneck=draw(st.integers(1, 5)),
        hidden=draw(st.integers(4, 7)),
        skip=draw(st.integers(1, 4)),
        kernel=draw(st.integers(1, 4)),
        blocks=blocks,
        repeats=repeats,
        norm=draw(st.sampled_from(["cLN", "channel"])),
        causal=causal,
        lookahead_blocks=draw(st.integers(0, blocks * repeats)) if causal else 0,
        mask_activation=draw(st.sampled_from(["sigmoid", "softmax", "relu"])),
        encoder_activation=draw(st.sampled_from(["linear", "relu"])),
        decoders=draw(st.sampled_from(["shared", "separate"])),
    )


def model_of(config, seed=0, dtype=np.float32, **settings):
    """A model whose parameters are all random: no gamma of 1, no beta of 0, slopes that differ."""
    model = ConvTasNet(config, seed, dtype, **settings)
    rng = np.random.default_rng(seed)
    for name, array in model.named_parameters().items():
        if name.rpartition(".")[2] in ("gamma", "beta", "alpha"):
            array[...] = rng.uniform(0.2, 1.5, array.shape)
    return model


def sound(samples, channels=1, seed=0, dtype=np.float32):
    return (0.1 * np.random.default_rng(seed).standard_normal((channels, samples))).astype(dtype)


def pieces_of(samples, sizes):
    """Cut (channels, n) into pieces of these sizes, over and over."""
    start, pieces = 0, []
    while start < samples.shape[1]:
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(samples[:, start : start + size])
        start += size
    return pieces


def stream(streamer, samples, sizes):
    """All outputs of a stream, (2, channels, n), for samples (channels, n)."""
    outputs = [streamer.process(piece) for piece in pieces_of(samples, sizes)] + [streamer.flush()]
    return np.concatenate(outputs, axis=-1).reshape(2, *samples.shape)


def offline(model, samples):
    return model.forward(samples, keep=False).swapaxes(0, 1)  # (2, channels, n)


def error(streamed, whole):
    assert streamed.shape == whole.shape and streamed.dtype == whole.dtype
    assert np.isfinite(whole).all()
    return np.abs(streamed - whole).max() / (np.abs(whole).max() or 1)


@few
@given(configs(), chunk_sizes, st.integers(1, 150), st.integers(1, 3), seeds, dtypes)
def test_a_stream_is_the_offline_network(config, sizes, samples, channels, seed, dtype):
    model, mixture = model_of(config, seed, dtype), sound(samples, channels, seed, dtype)
    streamed = stream(Streamer(model, channels), mixture, sizes)
    assert error(streamed, offline(model, mixture)) <= TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("preset", STREAMABLE)
def test_presets_at_full_size(preset, dtype):
    model, mixture = ConvTasNet(PRESETS[preset], dtype=dtype), sound(2000, dtype=dtype)
    streamed = stream(Streamer(model), mixture, [160])
    assert error(streamed, offline(model, mixture)) <= TOLERANCE[dtype]


@pytest.mark.parametrize("sizes", [[1], [7], [13, 0, 111], [2000]], ids=str)
def test_any_chunking_of_a_long_look_ahead(sizes):
    config = dataclasses.replace(reduced(PRESETS["origin"]), blocks=5, lookahead_blocks=7)
    model, mixture = model_of(config), sound(2000)
    assert error(stream(Streamer(model), mixture, sizes), offline(model, mixture)) <= 1e-5


def test_loud_and_quiet_and_offset_sound():
    model = model_of(reduced(PRESETS["origin"]))
    for gain, offset in ((1e-4, 0), (1e3, 0), (0.1, 0.9)):
        mixture = np.float32(gain) * sound(600) + np.float32(offset)
        assert error(stream(Streamer(model), mixture, [37]), offline(model, mixture)) <= 1e-5


@few
@given(configs(), st.integers(0, 60), seeds)
def test_outputs_come_as_early_as_they_can_and_no_earlier(config, samples, seed):
    """Sample by sample: the delay reaches `latency_samples`, counted with the sample itself, never more."""
    streamer = Streamer(model_of(config, seed))
    assert streamer.latency_samples == config.latency_samples
    assert streamer.latency_ms == pytest.approx(1000 * config.latency_samples / config.sample_rate)
    samples += config.latency_samples + config.hop
    missing, out = [], 0
    for i, sample in enumerate(sound(samples)[0]):
        out += streamer.process(np.array([sample])).shape[-1]
        missing.append(i + 1 - out)
    assert max(missing) == config.latency_samples - 1
    assert streamer.flush().shape[-1] == samples - out


@pytest.mark.parametrize("preset", STREAMABLE)
@pytest.mark.parametrize("sizes", [[1], [29]], ids=str)
def test_the_future_does_not_leak(preset, sizes):
    """Input changed from sample t on: outputs before t - latency + 1 are the same bit for bit."""
    config = reduced(PRESETS[preset])
    streamer, mixture = Streamer(model_of(config)), sound(300)
    before = stream(streamer, mixture, sizes)
    reached = []
    for t in range(150, 150 + 2 * config.hop):
        changed = mixture.copy()
        changed[:, t:] += 1
        after = stream(streamer, changed, sizes)
        first = t - config.latency_samples + 1
        assert after[..., :first].tobytes() == before[..., :first].tobytes()
        reached.append(after[..., first].tobytes() != before[..., first].tobytes())
    assert any(reached)  # the latency is no larger than it has to be


def test_channels_do_not_hear_each_other():
    model, mixture = model_of(reduced(PRESETS["origin"])), sound(200, channels=3)
    together = stream(Streamer(model, 3), mixture, [31])
    alone = np.stack([stream(Streamer(model), channel[None], [31])[:, 0] for channel in mixture], axis=1)
    assert error(together, alone) <= 1e-5


def test_reset_and_flush_leave_nothing_behind():
    streamer, mixture = Streamer(model_of(reduced(PRESETS["origin"]))), sound(300)
    first = stream(streamer, mixture, [50])
    assert stream(streamer, mixture, [50]).tobytes() == first.tobytes()  # after a flush
    streamer.process(mixture[:, :77])
    streamer.reset()
    assert stream(streamer, mixture, [50]).tobytes() == first.tobytes()


def test_an_empty_stream_gives_nothing():
    streamer = Streamer(model_of(reduced(PRESETS["small"])), 2)
    assert streamer.process(np.zeros((2, 0), np.float32)).shape == (2, 2, 0)
    assert streamer.flush().shape == (2, 2, 0)


def test_one_channel_needs_no_axis():
    streamer, mixture = Streamer(model_of(reduced(PRESETS["small"]))), sound(40)
    with_axis = streamer.process(mixture), streamer.flush()
    without = streamer.process(mixture[0]), streamer.flush()
    for a, b in zip(with_axis, without):
        assert a.shape == b.shape and a.ndim == 2 and a.tobytes() == b.tobytes()


def test_any_layout_of_the_samples_and_they_stay_as_they_are():
    streamer = Streamer(model_of(reduced(PRESETS["small"])), 2)
    mixture = sound(90, 2)
    expected = stream(streamer, mixture, [90])
    for same in (np.asfortranarray(mixture), mixture.repeat(2, axis=1)[:, ::2]):
        same.flags.writeable = False
        assert stream(streamer, same, [90]).tobytes() == expected.tobytes()
        assert same.tobytes() == mixture.tobytes()


def test_the_state_does_not_grow():
    streamer, mixture = Streamer(ConvTasNet(PRESETS["small"]), 2), sound(4000, 2)
    size, arrays = streamer.state_bytes, [id(array) for array in streamer._state]
    assert size == sum(array.nbytes for array in streamer._state)
    for _ in range(3):
        streamer.process(mixture)
    assert streamer.state_bytes == size
    assert [id(array) for array in streamer._state] == arrays
    # History and the rest of one channel: see the table in the module's docstring.
    c = PRESETS["small"]
    history = sum(1 + 2 * c.dilation(i) for i in range(12)) * c.hidden
    others = c.filter_length + TOGETHER * (c.filters + c.bottleneck + c.skip) + 2 * c.hop
    assert size == 2 * (4 * (history + others) + 8 * 3 * 25) + 8


def test_later_training_is_not_seen():
    model, mixture = model_of(reduced(PRESETS["small"])), sound(100)
    streamer = Streamer(model)
    expected = stream(streamer, mixture, [10])
    for array in model.named_parameters().values():
        array[...] = 0
    assert stream(streamer, mixture, [10]).tobytes() == expected.tobytes()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e38, -3e38, 1e19, -10001])
def test_bad_samples_are_taken_as_zero_and_counted(bad):
    mixture, places = sound(400, 2), [0, 5, 199, 399]
    streamer = Streamer(model_of(reduced(PRESETS["origin"])), 2)
    mixture[0, places] = 0
    expected = stream(streamer, mixture, [23])
    mixture[0, places] = bad
    outputs = [streamer.process(piece) for piece in pieces_of(mixture, [23])]
    assert streamer.replaced == len(places)
    outputs.append(streamer.flush())
    assert np.concatenate(outputs, axis=-1).tobytes() == expected.tobytes()
    assert streamer.replaced == 0  # the next stream has had none


def test_the_loudest_samples_that_are_sound_stay():
    model, mixture = model_of(reduced(PRESETS["origin"])), sound(400)
    mixture[0, [0, 5, 199, 399]] = 1e4, -1e4, 9999, 1
    streamer = Streamer(model)
    assert error(stream(streamer, mixture, [23]), offline(model, mixture)) <= 1e-5
    streamer.process(mixture)
    assert streamer.replaced == 0


def test_a_bad_sample_beyond_float32_in_float64():
    model, mixture = model_of(reduced(PRESETS["small"]), dtype=np.float64), sound(400, dtype=np.float64)
    mixture[0, 7] = 0
    expected = stream(Streamer(model), mixture, [23])
    mixture[0, 7] = 1e300
    assert stream(Streamer(model), mixture, [23]).tobytes() == expected.tobytes()


def forgetting_layer_norm(x, gamma, beta, forgetting):
    """The cumulative norm of x (B, C, T) with sums that fade, frame by frame."""
    y, sums = np.empty_like(x), np.zeros((3, len(x), 1))
    for t in range(x.shape[2]):
        frame = x[:, :, t]
        new = [values.sum(axis=1, keepdims=True) for values in (frame, frame**2, np.ones_like(frame))]
        sums = forgetting * sums + new
        mean, square = sums[:2] / sums[2]
        y[:, :, t] = (frame - mean) / np.sqrt(square - mean**2 + EPS) * gamma + beta
    return y


@pytest.mark.parametrize("forgetting", [1.0, 0.99, 0.5])
def test_forgetting_is_a_factor_on_the_running_sums(forgetting):
    model = model_of(reduced(PRESETS["origin"]), dtype=np.float64, path="ops")
    mixture = sound(300, dtype=np.float64)
    streamed = stream(Streamer(model, forgetting=forgetting), mixture, [17])
    exact = offline(model, mixture)
    for layer in [model.norm] + [norm for b in model.blocks for norm in (b.chain["norm1"], b.chain["norm2"])]:
        layer._forward = lambda x, gamma, beta: (forgetting_layer_norm(x, gamma, beta, forgetting), None)
    assert error(streamed, offline(model, mixture)) <= 1e-10
    assert (error(streamed, exact) <= 1e-10) == (forgetting == 1)


def test_forgetting_leaves_the_per_frame_norm_alone():
    model, mixture = model_of(dataclasses.replace(reduced(PRESETS["small"]), norm="channel")), sound(200)
    plain, other = (stream(Streamer(model, forgetting=f), mixture, [9]) for f in (1.0, 0.5))
    assert plain.tobytes() == other.tobytes()


def test_silence_gives_no_nan_and_no_denormals():
    model = model_of(PRESETS["small"])
    mixture = np.concatenate([sound(800), np.zeros((1, 40_000), np.float32)], axis=1)
    streamer = Streamer(model)
    assert np.isfinite(stream(streamer, mixture, [800])).all()
    streamer.process(mixture)
    for array in streamer._state[:-1]:
        size = np.abs(array[array != 0])
        assert np.isfinite(array).all() and (size >= np.finfo(array.dtype).tiny).all()


def test_a_decay_to_nothing_ends_in_silence():
    """Sound that dies away passes through the denormal numbers, which cost time and are not heard."""
    streamer = Streamer(model_of(PRESETS["small"]))
    decay = sound(8000) * np.logspace(0, -45, 8000).astype(np.float32)
    audible = np.where(np.abs(decay) > 1e-20, decay, 0)
    assert np.count_nonzero((decay != 0) & (np.abs(decay) < np.finfo(np.float32).tiny)) > 500
    expected = stream(streamer, audible, [160])
    assert stream(streamer, decay, [160]).tobytes() == expected.tobytes()
    assert error(expected, offline(model_of(PRESETS["small"]), decay)) <= 1e-5


def test_models_that_see_the_whole_recording_are_refused():
    model = ConvTasNet(reduced(PRESETS["paper"]))
    with pytest.raises(ValueError, match="gLN, whose mean and variance are those of the whole recording"):
        Streamer(model)


@pytest.mark.parametrize(
    "settings, named",
    [({"channels": 0}, "channels"), ({"channels": 1.5}, "channels"), ({"forgetting": 0.0}, "forgetting"),
     ({"forgetting": 1.1}, "forgetting"), ({"forgetting": np.nan}, "forgetting")],
    ids=str,
)  # fmt: skip
def test_settings_out_of_range_are_refused(settings, named):
    with pytest.raises(ValueError, match=f"{named} must be"):
        Streamer(model_of(reduced(PRESETS["small"])), **settings)


@pytest.mark.parametrize(
    "samples, error, found",
    [(np.zeros(8), TypeError, "float64"), (np.zeros(8, np.int16), TypeError, "int16"),
     (np.zeros((2, 8), np.float32), ValueError, r"\(2, 8\)"),
     (np.zeros((1, 1, 8), np.float32), ValueError, r"\(1, 1, 8\)")],
    ids=["float64", "int16", "two channels", "three axes"],
)  # fmt: skip
def test_samples_of_another_kind_are_refused(samples, error, found):
    streamer = Streamer(model_of(reduced(PRESETS["small"])))
    with pytest.raises(error, match=found):
        streamer.process(samples)
    assert streamer.flush().shape == (2, 0)  # nothing was taken in
