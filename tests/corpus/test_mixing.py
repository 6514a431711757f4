"""Mixtures have the SNR they claim, and everything repeats."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasnet_np.corpus import mixing
from tasnet_np.corpus.clips import Clip, Corpus, load_corpus
from tasnet_np.corpus.mixing import Mixer
from tasnet_np.errors import UserError
from tasnet_np.sound.level import rms_db

RATE = 8000


def gaussian(n, seed=0, gain=0.1):
    return (gain * np.random.default_rng(seed).standard_normal(n)).astype(np.float32)


def with_silence_inside(n, seed=0):
    signal = gaussian(n, seed)
    signal[n // 4 : n // 2] = 0
    return signal


def small_corpus(speakers=4, noises=10, clips=5, n=4000):
    """Every clip is another noise, so no two are alike."""
    seeds = iter(range(10**6))
    speech = {
        f"s{k}": [Clip(f"s{k}/{i}.wav", gaussian(n, next(seeds))) for i in range(clips)]
        for k in range(speakers)
    }
    return Corpus(speech, [Clip(f"n{i}.wav", gaussian(n, next(seeds))) for i in range(noises)])


def measured_snr_db(sources):
    speech, noise = np.asarray(sources, np.float64)
    return 10 * np.log10(np.sum(speech**2) / np.sum(noise**2))


def check_mix(mix, speech, noise, snr_db):
    """What every mixture must be: at its SNR, at its level, and the sum of its sources."""
    mixture, sources = mix(speech, noise, snr_db)
    assert mixture.dtype == sources.dtype == np.float32
    assert sources.shape == (2, *mixture.shape)
    assert np.array_equal(mixture, sources.sum(0))
    assert rms_db(mixture) == pytest.approx(-25.0, abs=1e-3)
    assert measured_snr_db(sources) == pytest.approx(snr_db, abs=1e-4)
    for source, original in zip(sources, (speech, noise)):  # a gain, and no more
        gain = np.linalg.norm(source.astype(float)) / np.linalg.norm(original.astype(float))
        assert np.allclose(source, gain * original.astype(float), rtol=1e-6, atol=0)


def mix_with_a_root_too_many(speech, noise, snr_db, level_db=-25.0):
    """The published bug: RMS values under a root that belongs over powers, so 12 dB become 6."""
    rms_speech, rms_noise = np.sqrt(np.mean(speech**2)), np.sqrt(np.mean(noise**2))
    sources = np.stack([speech, noise * np.sqrt(rms_speech / 10 ** (snr_db / 20) / rms_noise)])
    sources = sources.astype(np.float32)
    sources *= np.float32(10 ** ((level_db - rms_db(sources.sum(0))) / 20))
    return sources.sum(0), sources


def mix_at_the_snr_of_other_samples(speech, noise, snr_db):
    """The other published bug: the level is that of a recording longer than what is used."""
    longer = np.concatenate([speech, np.zeros_like(speech)])
    _, sources = mixing.mix(longer, np.concatenate([noise, noise]), snr_db)
    sources = sources[:, : len(speech)]
    sources *= np.float32(10 ** ((-25 - rms_db(sources.sum(0))) / 20))
    return sources.sum(0), sources


@pytest.mark.parametrize("snr_db", [-20.0, -5.0, 0.0, 3.1, 15.0, 40.0])
@pytest.mark.parametrize("noise_gain", [1e-6, 0.1, 1e3])
@pytest.mark.parametrize("n", [2, 100, 32000])
def test_mix(n, noise_gain, snr_db):
    check_mix(mixing.mix, gaussian(n, 1), gaussian(n, 2, noise_gain), snr_db)
    check_mix(mixing.mix, with_silence_inside(n, 3), gaussian(n, 4, noise_gain), snr_db)


@given(
    st.integers(2, 500),
    st.floats(-40, 40),
    st.floats(1e-9, 1e3),
    st.floats(1e-9, 1e3),
    st.integers(0, 2**32),
)
@settings(max_examples=100, deadline=None)
def test_mix_of_anything(n, snr_db, speech_gain, noise_gain, seed):
    speech, noise = gaussian(n, [seed, 1], speech_gain), gaussian(n, [seed, 2], noise_gain)
    check_mix(mixing.mix, speech, noise, snr_db)


def test_the_published_snr_bugs_are_caught():
    speech, noise = gaussian(8000, 1, 0.1), gaussian(8000, 2, 0.1)
    mixture, sources = mix_with_a_root_too_many(speech, noise, 12.0)
    assert np.array_equal(mixture, sources.sum(0))
    assert measured_snr_db(sources) == pytest.approx(6.0, abs=0.2)
    for planted in (mix_with_a_root_too_many, mix_at_the_snr_of_other_samples):
        with pytest.raises(AssertionError, match=r"== 12\.0 "):
            check_mix(planted, speech, noise, 12.0)


@pytest.mark.parametrize(
    "speech, noise, word",
    [
        (np.zeros(10), np.ones(10), "speech"),
        (np.ones(10), np.zeros(10), "noise"),
        (np.ones(10), -np.ones(10), "mixture"),
        (np.full(10, np.nan), np.ones(10), "nan"),
        (np.ones(10), np.ones(9), r"\(9,\)"),
        (np.ones((2, 10)), np.ones((2, 10)), r"\(2, 10\)"),
    ],
)
def test_what_has_no_snr_is_refused(speech, noise, word):
    with pytest.raises(UserError, match=word):
        mixing.mix(speech, noise, 0.0)


def pieces(signal):
    """Runs of equal values: [(value, length), ...]."""
    edges = np.flatnonzero(np.diff(signal)) + 1
    return [(run[0], len(run)) for run in np.split(signal, edges)]


def test_utterance_joins_whole_clips_by_gaps_of_a_tenth_to_three_tenths_of_a_second():
    lengths = {0.1: 700, 0.2: 1500, 0.3: 2300}  # value of a constant clip: its length
    clips = [Clip(str(value), np.full(n, value, np.float32)) for value, n in lengths.items()]
    gaps, used, together = set(), set(), set()
    for seed in range(200):
        signal = mixing.utterance(clips, 16000, np.random.default_rng(seed), RATE)
        assert signal.shape == (16000,) and signal.dtype == np.float32
        together.add(len(np.unique(signal[signal > 0])))
        inner = pieces(signal)[1:-1]  # the crop may cut the first and the last
        for value, length in inner:
            if value == 0:
                gaps.add(length)
            else:
                assert length == lengths[round(float(value), 1)]
                used.add(round(float(value), 1))
        kinds = [value == 0 for value, _ in pieces(signal)]
        assert all(a != b for a, b in zip(kinds, kinds[1:]))  # clip, gap, clip, ...
    assert used == set(lengths)
    assert together == {2, 3}  # different clips in one utterance
    assert 800 <= min(gaps) < 850 and 2350 < max(gaps) <= 2400


def test_utterance_of_a_long_clip_is_a_crop_from_anywhere():
    clip = Clip("long", np.arange(1, 20001, dtype=np.float32))
    starts = []
    for seed in range(300):
        signal = mixing.utterance([clip], 5000, np.random.default_rng(seed), RATE)
        assert np.array_equal(np.diff(signal), np.ones(4999))
        starts.append(signal[0])
    assert min(starts) < 1000 and max(starts) > 14000


def test_utterance_may_be_exactly_one_clip():
    clip = Clip("exact", gaussian(500))
    assert np.array_equal(mixing.utterance([clip], 500, np.random.default_rng(0), RATE), clip.samples)


@pytest.mark.parametrize("crop_of", ["utterance", "noise"])
def test_crops_are_never_a_pause(crop_of):
    signal = np.full(100_000, 1e-4, np.float32)  # a hiss, and one click
    signal[40_000:40_010] = 0.9
    clip = Clip("click", signal)
    for seed in range(50):
        rng = np.random.default_rng(seed)
        if crop_of == "utterance":
            crop = mixing.utterance([clip], 400, rng, RATE)
        else:
            crop = mixing.noise_crop(clip, 400, rng)
        assert crop.shape == (400,)
        assert crop.max() == np.float32(0.9)


@pytest.mark.parametrize("samples", [10, 11, 25, 1000])
def test_short_noise_goes_round(samples):
    clip = Clip("short", np.arange(1, 11, dtype=np.float32))
    starts = set()
    for seed in range(100):
        crop = mixing.noise_crop(clip, samples, np.random.default_rng(seed))
        assert crop.shape == (samples,) and crop.dtype == np.float32
        assert np.array_equal((crop[:-1] % 10) + 1, crop[1:])
        starts.add(crop[0])
    assert starts == ({1} if samples == 10 else set(range(1, 11)))


def test_long_noise_is_cropped_from_anywhere():
    clip = Clip("long", np.arange(1, 101, dtype=np.float32))
    starts = {mixing.noise_crop(clip, 90, np.random.default_rng(i))[0] for i in range(300)}
    assert starts == set(range(1, 12))


def test_mixer_keeps_every_promise_in_every_example():
    corpus = small_corpus()
    corpus.speakers["s0"].append(Clip("s0/gappy.wav", with_silence_inside(9000, 77)))
    corpus.noises.append(Clip("quiet.wav", gaussian(3000, 78, 1e-4)))
    corpus.noises.append(Clip("loud.wav", gaussian(30000, 79, 10.0)))
    mixer = Mixer(corpus, samples=5000, rate=RATE, snr_db=(-5, 15), seed=3)
    snrs_db, names = [], set()
    for step in range(30):
        batch = mixer.batch(step, 4)
        assert batch.mixture.shape == (4, 5000) and batch.mixture.dtype == np.float32
        assert batch.sources.shape == (4, 2, 5000) and batch.sources.dtype == np.float32
        assert np.array_equal(batch.mixture, batch.sources.sum(1))
        for sources, snr_db, name in zip(batch.sources, batch.snr_db, batch.names):
            assert measured_snr_db(sources) == pytest.approx(snr_db, abs=1e-4)
            assert rms_db(sources.sum(0)) == pytest.approx(-25, abs=1e-3)
            assert name.endswith(f" at {snr_db:+.1f} dB")
            names.update(name.split(" at ")[0].split(" + "))
        snrs_db += batch.snr_db.tolist()
    assert -5 <= min(snrs_db) < -4 and 14 < max(snrs_db) <= 15
    assert names == set(corpus.speakers) | {clip.name for clip in corpus.noises}


def test_a_mixture_has_the_one_speaker_and_the_one_noise_that_it_names():
    lengths = {"ann": 500, "bob": 600, "eve": 700}  # of all clips of a speaker
    speakers = {
        name: [Clip("c", np.full(n, value, np.float32)) for value in (0.1, 0.2)]
        for name, n in lengths.items()
    }
    depths = {"bell": 2, "rain": 3, "wind": 4}  # of a noise below 0, if 1 above
    noises = [Clip(name, np.tile(np.float32([1, -d]), 500)) for name, d in depths.items()]
    batch = Mixer(Corpus(speakers, noises), samples=8000, rate=RATE).batch(0, 30)
    for (speech, noise), name in zip(batch.sources, batch.names):
        speaker, noise_name = name.split(" at ")[0].split(" + ")
        spoken = {length for value, length in pieces(speech)[1:-1] if value}
        assert spoken == {lengths[speaker]}
        assert noise.min() / noise.max() == pytest.approx(-depths[noise_name])


def equal(a, b):
    return (
        np.array_equal(a.mixture, b.mixture)
        and np.array_equal(a.sources, b.sources)
        and np.array_equal(a.snr_db, b.snr_db)
        and a.names == b.names
    )


def test_batches_are_the_same_bits_in_any_order():
    corpus = small_corpus()
    reordered = Corpus(dict(reversed(corpus.speakers.items())), corpus.noises)
    first = Mixer(corpus, samples=3000, rate=RATE, seed=5)
    forwards = [first.batch(step, 3) for step in range(6)]
    second = Mixer(reordered, samples=3000, rate=RATE, seed=5)
    for step in (4, 0, 5, 2, 2, 1, 3):
        assert equal(second.batch(step, 3), forwards[step])
    assert np.array_equal(first.batch(2, 7).mixture[:3], forwards[2].mixture)  # of any size, too
    other = Mixer(corpus, samples=3000, rate=RATE, seed=6)
    mixtures = [b.mixture[i] for b in (*forwards, other.batch(0, 3)) for i in range(3)]
    assert len({mixture.tobytes() for mixture in mixtures}) == len(mixtures)


def test_mixing_leaves_the_corpus_as_it_was():
    corpus = small_corpus(2, 2)
    clips = [*corpus.noises, *(c for clips in corpus.speakers.values() for c in clips)]
    before = [clip.samples.copy() for clip in clips]
    Mixer(corpus, samples=3000, rate=RATE).batch(0, 20)
    assert all(np.array_equal(clip.samples, copy) for clip, copy in zip(clips, before))


@pytest.mark.parametrize(
    "settings", [{"snr_db": (5, -5)}, {"snr_db": (0, np.nan)}, {"snr_db": (0, np.inf)},
                 {"samples": 0}, {"seed": -1}]
)  # fmt: skip
def test_mixer_refuses(settings):
    with pytest.raises(UserError, match=next(iter(settings))):
        Mixer(small_corpus(2, 2), **{"samples": 100, "rate": RATE, **settings})


def test_fixed_batches():
    corpus = small_corpus()
    batches = mixing.fixed_batches(corpus, samples=3000, rate=RATE, per_snr=3, seed=1)
    again = mixing.fixed_batches(corpus, samples=3000, rate=RATE, per_snr=3, seed=1)
    assert len(batches) == 4
    for batch, other, snr_db in zip(batches, again, (-5, 0, 5, 10)):
        assert equal(batch, other)
        assert batch.snr_db.tolist() == [snr_db] * 3
        for sources in batch.sources:
            assert measured_snr_db(sources) == pytest.approx(snr_db, abs=1e-4)
    noises = np.concatenate([batch.sources[:, 1] for batch in batches])
    unit = noises / np.abs(noises).max(axis=1, keepdims=True)
    assert len({crop.round(4).tobytes() for crop in unit}) == 12  # no crop twice at another SNR


def test_real_recordings():
    real = Path(__file__).parents[3] / "shared" / "data" / "real"
    if not real.is_dir():
        pytest.skip(f"the real recordings are missing: no folder {real}")
    corpus, problems = load_corpus(real / "speech", real / "noise", RATE)
    assert problems == []
    assert {name: len(clips) for name, clips in corpus.speakers.items()} == dict.fromkeys(
        os.listdir(real / "speech"), 500
    )
    assert len(corpus.noises) == 75
    batch = Mixer(corpus, samples=2 * RATE, rate=RATE).batch(0, 16)
    for sources, snr_db in zip(batch.sources, batch.snr_db):
        assert measured_snr_db(sources) == pytest.approx(snr_db, abs=1e-4)
