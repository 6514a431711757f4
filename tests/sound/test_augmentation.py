"""Each way of varying a recording, and that every draw comes from the seed."""

import numpy as np
import pytest

from tasnet_np.corpus.clips import Clip, Corpus
from tasnet_np.corpus.mixing import Mixer, Prefetcher
from tasnet_np.errors import UserError
from tasnet_np.sound.augmentation import (
    Augmentation,
    change_speed,
    coloured,
    equalised,
    low_pass,
    overload,
    reverberate,
    synthetic_noise,
    synthetic_room,
)
from tasnet_np.sound.level import rms_db

RATE = 8000


def gaussian(n, seed=0, gain=0.1):
    return (gain * np.random.default_rng(seed).standard_normal(n)).astype(np.float32)


def corpus(rooms=()):
    speakers = {f"s{k}": [Clip(f"s{k}/{i}", gaussian(9000, [k, i])) for i in range(3)] for k in range(3)}
    return Corpus(speakers, [Clip(f"n{i}", gaussian(9000, [9, i])) for i in range(6)], list(rooms))


def mixer(seed=0, rooms=(), snr_db=(-5, 10), **settings):
    return Mixer(
        corpus(rooms),
        samples=4000,
        rate=RATE,
        seed=seed,
        snr_db=snr_db,
        augmentation=Augmentation(**settings),
    )


def examples(mixer, count=40):
    batch = mixer.batch(0, count)
    return zip(batch.mixture, batch.sources, batch.snr_db, batch.names)


def snr_db_of(sources):
    return 10 * np.log10(np.sum(sources[0] ** 2.0) / np.sum(sources[1] ** 2.0))


def dominant(signal):
    return np.argmax(np.abs(np.fft.rfft(signal * np.hanning(len(signal))))) * RATE / len(signal)


def test_speed_moves_a_tone_and_its_length():
    tone = np.sin(2 * np.pi * 1000 * np.arange(8000) / RATE).astype(np.float32)
    faster = change_speed(tone, 44)
    assert len(faster) == 7273 and dominant(faster) == pytest.approx(1100, abs=2)
    assert faster.dtype == np.float32


def test_a_mixture_at_a_speed_has_its_length_and_snr():
    tones = [Clip("tone", np.sin(2 * np.pi * 1000 * np.arange(20000) / RATE).astype(np.float32))]
    noises = [Clip("n", gaussian(9000))]
    sped = Mixer(Corpus({"a": tones}, noises), samples=4000, rate=RATE, augmentation=Augmentation(speed=0.1))
    heard = set()
    for _, sources, snr_db, _ in examples(sped):
        assert sources.shape == (2, 4000)
        assert snr_db_of(sources) == pytest.approx(snr_db, abs=1e-3)
        heard.add(round(dominant(sources[0]) / 25) * 25)
    assert heard == {900, 925, 950, 975, 1000, 1025, 1050, 1075, 1100}


def test_a_room_keeps_the_direct_sound_at_its_place():
    click = np.zeros(1000, np.float32)
    click[100] = 0.5
    response = np.zeros(300)
    response[40], response[140] = 2.0, 1.0
    heard = reverberate(click, response)
    assert np.flatnonzero(np.abs(heard) > 1e-6).tolist() == [100, 200]
    assert heard[[100, 200]] == pytest.approx([0.5, 0.25])
    assert heard.dtype == np.float32


def test_a_synthetic_room_decays():
    for seed in range(10):
        response = synthetic_room(np.random.default_rng(seed), RATE)
        assert response[0] == 1 == np.abs(response).max()
        assert 0.15 * RATE - 2 <= len(response) <= 0.6 * RATE + 2
        thirds = [np.sum(part**2) for part in np.array_split(response[1:], 3)]
        falls_db = -10 * np.log10(np.array(thirds[1:]) / thirds[:-1])
        assert np.all((falls_db > 17) & (falls_db < 23))  # 60 dB over all


def test_rooms_of_the_corpus_are_used_where_there_are_some():
    echo = np.zeros(2001, np.float32)
    echo[[0, 2000]] = 1, 0.9
    clicks = np.zeros(30000, np.float32)
    clicks[::4000] = 1
    speakers = {"a": [Clip("clicks", clicks)]}
    given = Corpus(speakers, [Clip("n", gaussian(9000))], [Clip("room", echo)])
    batch = Mixer(given, samples=8000, rate=RATE, augmentation=Augmentation(room=1.0)).batch(0, 10)
    for speech, _ in batch.sources:
        places = np.flatnonzero(np.abs(speech) > 0.5 * np.abs(speech).max())
        assert set(np.diff(places)) == {2000}  # every click has its echo


def test_low_pass():
    time = np.arange(4000) / RATE
    low, high = (np.sin(2 * np.pi * hertz * time).astype(np.float32) for hertz in (500, 3000))
    filtered = low_pass(low + high, 0.4)  # 1600 Hz
    assert np.abs(filtered - low)[100:-100].max() < 0.01
    assert filtered.dtype == np.float32


def test_low_pass_has_linear_phase_and_keeps_the_length():
    click = np.zeros(501, np.float32)
    click[250] = 1
    filtered = low_pass(click, 0.5)
    assert filtered.shape == click.shape and filtered.argmax() == 250
    assert filtered == pytest.approx(filtered[::-1], abs=1e-7)
    assert filtered.sum() == pytest.approx(1, abs=1e-6)  # what is constant passes
    short = gaussian(100)
    assert np.array_equal(low_pass(short, 0.5), short)


def test_colour_is_the_filter_it_says_and_stays_stable():
    signal, r = gaussian(500), (0.3, -0.2, -0.4, 0.1)
    filtered = np.zeros(500)
    for t in range(500):
        past = lambda x, lag: x[t - lag] if t >= lag else 0.0  # noqa: E731
        filtered[t] = signal[t] + r[0] * past(signal, 1) + r[1] * past(signal, 2)
        filtered[t] -= r[2] * past(filtered, 1) + r[3] * past(filtered, 2)
    assert coloured(signal, r) == pytest.approx(filtered, abs=1e-5)
    assert coloured(signal, r).dtype == np.float32
    loudest = coloured(np.ones(100000, np.float32), (0.45, 0.45, -0.45, -0.45))
    assert loudest[-1] == pytest.approx(1.9 / 0.1, rel=1e-3)


def test_colour_changes_the_spectra_of_both_sources_and_not_the_snr():
    for (_, sources, snr_db, _), (_, plain, same_snr_db, _) in zip(
        examples(mixer(colour=0.4)), examples(mixer())
    ):
        assert snr_db == same_snr_db and snr_db_of(sources) == pytest.approx(snr_db, abs=1e-3)
        for changed, as_it_was in zip(sources, plain):
            alike = np.corrcoef(changed, as_it_was)[0, 1]
            assert 0.1 < abs(alike) < 0.9999


def test_half_of_the_examples_are_upside_down_and_otherwise_the_same():
    signs = []
    for (mixture, sources, snr_db, name), plain in zip(
        examples(mixer(polarity=0.5), 200), examples(mixer(), 200)
    ):
        signs.append(1 if mixture[0] == plain[0][0] else -1)
        assert np.array_equal(mixture, signs[-1] * plain[0]) and np.array_equal(sources, signs[-1] * plain[1])
        assert (snr_db, name) == plain[2:]
    assert signs.count(-1) == pytest.approx(100, abs=25)


def test_the_network_hears_polarity():
    from tasnet_np.network.config import Config
    from tasnet_np.network.execution import ConvTasNet

    model, signal = (
        ConvTasNet(Config(filters=16, bottleneck=8, hidden=16, skip=8, blocks=2, repeats=1)),
        gaussian(400)[None],
    )
    upside_down = -model.forward(-signal)
    assert np.abs(upside_down - model.forward(signal)).max() > 0.01 * np.abs(upside_down).max()


def test_overloaded_samples_are_cut_off_and_the_rest_is_not():
    signal = gaussian(10000)
    cut = overload(signal, 0.05)
    assert np.mean(cut != signal) == pytest.approx(0.05, abs=2e-3)
    assert np.abs(cut).max() == pytest.approx(np.quantile(np.abs(signal), 0.95), rel=1e-3)
    assert np.array_equal(overload(np.zeros(5), 0.1), np.zeros(5))


def test_clipping_changes_the_mixture_and_not_the_sources():
    for (mixture, sources, snr_db, _), (whole, same, _, _) in zip(
        examples(mixer(clipping=1.0)), examples(mixer())
    ):
        assert np.array_equal(sources, same)
        share = np.mean(mixture != whole)
        assert 0.0005 <= share <= 0.051
        assert np.abs(mixture).max() < np.abs(whole).max()


def test_several_noises_at_once_keep_the_snr():
    counts = set()
    for mixture, sources, snr_db, name in examples(mixer(noises=3)):
        counts.add(name.count(" + "))
        assert snr_db_of(sources) == pytest.approx(snr_db, abs=1e-3)
        assert np.array_equal(mixture, sources.sum(0))
    assert counts == {1, 2, 3}


def test_babble_is_made_of_other_voices():
    time = np.arange(20000)
    tones = {
        f"s{k}": [Clip(f"s{k}", np.sin(np.pi * 0.1 * (k + 1) * time).astype(np.float32))] for k in range(8)
    }
    voices = Corpus(tones, [Clip("n", gaussian(9000))])
    babbling = Mixer(voices, samples=4000, rate=RATE, augmentation=Augmentation(babble=1.0))
    counts = set()
    for _, sources, snr_db, name in examples(babbling):
        assert name.split(" + ")[1].startswith("babble at")
        assert snr_db_of(sources) == pytest.approx(snr_db, abs=1e-3)
        levels = np.abs(np.fft.rfft(sources[1]))
        bins = 200 * (1 + np.arange(8))  # of the tones, in a spectrum of 4000 samples
        heard = np.flatnonzero(levels[bins] > 0.1 * levels.max())
        assert int(name[1]) not in heard
        counts.add(len(heard))
    assert counts == {3, 4, 5, 6, 7}


def test_two_voices_are_too_few_for_babble():
    two = Corpus({name: [Clip(name, gaussian(9000, 1))] for name in "ab"}, [Clip("hum", gaussian(9000))])
    mixed = Mixer(two, samples=4000, rate=RATE, augmentation=Augmentation(babble=1.0)).batch(0, 9)
    assert all("hum" in name for name in mixed.names)


@pytest.mark.parametrize("kind, least, most", [("speech", 1, 8), ("noise", 2, 16)])
def test_the_equaliser_changes_levels_of_frequencies_and_nothing_else(kind, least, most):
    signal, rng = gaussian(4000), np.random.default_rng(0)
    before, tilts_db = np.abs(np.fft.rfft(signal)), []
    for _ in range(50):
        changed = equalised(signal, kind, rng, RATE)
        assert changed.dtype == np.float32 and len(changed) == 4000
        gain_db = 20 * np.log10(np.abs(np.fft.rfft(changed)) / before)[40:1950]
        tilts_db.append(np.median(gain_db[:200]) - np.median(gain_db[-200:]))
    assert least < np.std(tilts_db) < most
    click = np.zeros(4000, np.float32)
    click[2000] = 1
    assert np.argmax(np.abs(equalised(click, kind, rng, RATE))) == 2000  # nothing moves


def test_equalised_examples_keep_their_snr_and_some_are_left_as_they_are():
    changed = []
    for (_, sources, snr_db, _), (_, plain, plain_db, _) in zip(
        examples(mixer(equaliser=0.5)), examples(mixer())
    ):
        assert snr_db == plain_db and snr_db_of(sources) == pytest.approx(snr_db, abs=1e-3)
        changed += [np.corrcoef(*both)[0, 1] < 0.9999 for both in zip(sources, plain)]
    assert 0.3 < np.mean(changed) < 0.7


def test_synthetic_noise_has_a_hum_or_none_and_another_colour_each_time():
    rng = np.random.default_rng(0)
    noises = [synthetic_noise(rng, 8000, RATE) for _ in range(200)]
    assert all(noise.dtype == np.float32 and len(noise) == 8000 for noise in noises)
    assert np.isfinite(noises).all()
    spectra = np.abs(np.fft.rfft(noises)) ** 2
    below = spectra[:, :1000].sum(1) / spectra.sum(1)  # of 1 kHz
    assert below.min() < 0.3 and below.max() > 0.95
    with_hum = np.mean(np.median(spectra[:, 40:], axis=1) < 1e-3 * spectra[:, 40:].max(1))
    assert 0.1 < with_hum < 0.9
    levels = np.sqrt(np.mean(np.reshape(noises, (200, 8, 1000)) ** 2, axis=2))
    assert 0.2 < np.mean(levels.max(1) / levels.min(1) > 2) < 0.7


def test_synthetic_noise_takes_the_place_of_a_recording():
    names = [name for *_, name in examples(mixer(synthetic=0.5), 200)]
    assert 0.4 < np.mean(["synthetic noise" in name for name in names]) < 0.6


def test_gain_varies_the_level():
    levels = [rms_db(mixture) for mixture, *_ in examples(mixer(gain_db=6.0))]
    assert -31.01 <= min(levels) < -29 and -21 < max(levels) <= -18.99


def test_examples_without_noise_and_without_speech():
    kinds = []
    for mixture, sources, snr_db, name in examples(mixer(noise_free=0.3, speech_free=0.2), 300):
        silent = [not np.any(source) for source in sources]
        kinds.append({(False, False): 0, (False, True): 1, (True, False): 2}[tuple(silent)])
        expected_db = {1: np.inf, 2: -np.inf}.get(kinds[-1]) or snr_db_of(sources)
        assert snr_db == pytest.approx(expected_db, abs=1e-3)
        assert np.array_equal(mixture, sources.sum(0))
        assert rms_db(mixture) == pytest.approx(-25, abs=1e-3)
    shares = np.bincount(kinds) / len(kinds)
    assert shares == pytest.approx([0.5, 0.3, 0.2], abs=0.08)


def test_a_silent_source_teaches_nothing_about_itself():
    from tasnet_np.network.layers import NegativeSISNR

    loss = NegativeSISNR()
    rng = np.random.default_rng(0)
    target = rng.standard_normal((1, 2, 500)).astype(np.float32)
    target[0, 1] = 0
    estimate = rng.standard_normal((1, 2, 500)).astype(np.float32)
    value = loss.forward(estimate, target)
    gradient = loss.backward()
    assert np.isfinite(value) and np.any(gradient[0, 0]) and not np.any(gradient[0, 1])


def test_all_of_it_from_the_seed_whatever_the_number_of_workers():
    settings = dict(
        noises=3,
        synthetic=0.2,
        gain_db=6.0,
        speed=0.1,
        colour=0.3,
        equaliser=0.3,
        polarity=0.5,
        band_limit=0.3,
        room=0.3,
        clipping=0.2,
        noise_free=0.1,
        speech_free=0.1,
    )
    expected = [mixer(**settings).batch(step, 4) for step in range(8)]
    for workers, ahead, first in ((1, 1, 0), (1, 4, 0), (3, 5, 0), (2, 3, 5)):
        with Prefetcher(mixer(**settings), 4, first=first, ahead=ahead, workers=workers) as batches:
            for batch in expected[first:]:
                got = batches.next()
                assert got.names == batch.names
                for name in ("mixture", "sources", "snr_db"):
                    assert getattr(got, name).tobytes() == getattr(batch, name).tobytes()
    other = mixer(seed=1, **settings).batch(0, 4)
    assert other.names != expected[0].names


def test_without_augmentation_nothing_is_drawn_for_it():
    """Switching one kind on leaves the recordings, the crops and the SNRs of the others alone."""
    plain, clipped = mixer().batch(3, 6), mixer(clipping=0.5).batch(3, 6)
    assert plain.names == clipped.names and np.array_equal(plain.sources, clipped.sources)


def test_what_goes_wrong_in_the_background_comes_out(monkeypatch):
    broken = mixer()
    monkeypatch.setattr(broken, "_mixed", lambda rng: (_ for _ in ()).throw(UserError("gone")))
    with Prefetcher(broken, 2) as batches, pytest.raises(UserError, match="20 recordings in a row .* gone"):
        batches.next()


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"noises": 0}, "noises must be a whole number of at least 1, not 0"),
        ({"speed": 0.6}, "speed must be between 0 and 0.5, not 0.6"),
        ({"colour": 0.5}, "colour must be between 0 and 0.45, not 0.5"),
        ({"room": float("nan")}, "room must be between 0 and 1, not nan"),
        ({"gain_db": -1}, "gain_db must be 0 or above"),
        ({"noise_free": 0.6, "speech_free": 0.6}, "together at most 1"),
    ],
)
def test_settings_that_make_no_sense(settings, words):
    with pytest.raises(UserError, match=words):
        Augmentation(**settings)
