"""Recordings with an offset (direct current): it is no sound, so it counts neither as level nor as noise."""

import numpy as np
import pytest
import soundfile

from tasnet_np.corpus import layouts, manifest
from tasnet_np.corpus.clips import Store, load_corpus, open_corpus
from tasnet_np.corpus.layouts import Found
from tasnet_np.corpus.manifest import make_manifest
from tasnet_np.corpus.mixing import Mixer, fixed_batches
from tasnet_np.errors import UserError
from tasnet_np.sound.augmentation import Augmentation
from tasnet_np.sound.level import OFFSET_DB, rms_db, without_offset
from tasnet_np.training.evaluation import compare

RATE = 8000


def voice(n, seed, gain=0.05):
    """Noise in syllables, so that there are pauses."""
    samples = gain * np.random.default_rng(seed).standard_normal(n)
    return (samples * (np.sin(np.arange(n) / 400) > -0.5)).astype(np.float32)


def write(path, samples):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.asarray(samples, np.float32).T, RATE, subtype="FLOAT")


def corpus(folder, speech_offset=0.0, noise_offset=0.0):
    for speaker in range(3):
        for clip in range(2):
            samples = voice(12_000, 10 * speaker + clip) + np.float32(speech_offset)
            write(folder / "speech" / f"s{speaker}" / f"{clip}.wav", samples)
    for clip in range(3):
        write(folder / "noise" / f"{clip}.wav", voice(12_000, 100 + clip) + np.float32(noise_offset))
    return folder / "speech", folder / "noise"


def snr_db_about_the_means(sources):
    centred = sources - sources.mean(axis=-1, keepdims=True)
    powers = np.mean(np.square(centred, dtype=np.float64), axis=-1)
    return 10 * np.log10(powers[:, 0] / powers[:, 1])


@pytest.mark.parametrize("offsets", [(0.1, 0), (0, 0.1), (0.4, 0), (-0.4, 0.3), (5, -5)], ids=str)
def test_a_mixture_has_its_snr_whatever_the_offsets(tmp_path, offsets):
    loaded, problems = load_corpus(*corpus(tmp_path, *offsets), RATE)
    assert problems == []
    variety = Augmentation(speed=0.3, colour=0.375, polarity=0.5, noises=2)
    mixer = Mixer(loaded, samples=RATE, rate=RATE, snr_db=(0, 0), augmentation=variety)
    fixed = fixed_batches(loaded, samples=RATE, rate=RATE, snrs_db=(0,), per_snr=16)
    for batch in (*fixed, mixer.batch(0, 16)):
        assert snr_db_about_the_means(batch.sources) == pytest.approx(np.zeros(16), abs=0.05)
        share = np.mean(batch.mixture, axis=1) ** 2 / np.mean(batch.mixture**2, axis=1)
        assert share.max() < 0.01


def test_an_offset_changes_no_mixture(tmp_path):
    without, _ = load_corpus(*corpus(tmp_path / "without"), RATE)
    offset, _ = load_corpus(*corpus(tmp_path / "offset", 0.4, -0.2), RATE)
    common = {"samples": RATE, "rate": RATE, "snrs_db": (-5, 10), "per_snr": 8}
    for a, b in zip(fixed_batches(without, **common), fixed_batches(offset, **common)):
        assert a.names == b.names
        np.testing.assert_allclose(a.mixture, b.mixture, atol=2e-2 * np.abs(a.mixture).max())


def test_pairs_lose_the_offset_of_either_side(tmp_path):
    clean = [voice(RATE, i) for i in range(2)]
    noise = [voice(RATE, 10 + i, 0.02) for i in range(2)]
    for i in range(2):
        write(tmp_path / "clean" / f"a{i}.wav", clean[i] + np.float32(0.2))
        write(tmp_path / "noisy" / f"a{i}.wav", clean[i] + noise[i] - np.float32(0.3))
    found = [Found("pair", tmp_path, f"clean/a{i}.wav", "a", noisy=f"noisy/a{i}.wav") for i in range(2)]
    places, entries, problems = manifest.inspect(found)
    assert problems == []
    loaded = open_corpus(manifest.Manifest(places, entries), None, RATE, Store())
    batch = Mixer(loaded, samples=RATE, rate=RATE, augmentation=Augmentation(pairs=1.0)).batch(0, 8)
    for sources, name, snr_db in zip(batch.sources, batch.names, batch.snr_db):
        i = int(name[len("clean/a")])
        asked = rms_db(clean[i]) - rms_db(noise[i])
        assert snr_db == pytest.approx(asked, abs=0.02) and rms_db(sources[0]) - rms_db(sources[1]) > 0


@pytest.mark.parametrize("constant", [0.05, -0.9, 1e-3, 0.0, 3.0])
def test_a_constant_recording_is_silent(tmp_path, constant):
    speech, noise = corpus(tmp_path)
    write(speech / "s0" / "dead.wav", np.full(70_000, constant))
    write(noise / "dead.wav", np.full(16_000, constant))
    found, problems = layouts.folders(speech, noise)
    made = make_manifest(found, problems)
    assert len(made.problems) == 2 and not any("dead" in entry.path for entry in made.entries)
    words = (
        f"is silent but for an offset of {constant:.3g} (-inf dBFS)" if constant else "is silent (-inf dBFS)"
    )
    assert all(words in line for line in made.problems)
    assert "2 silent" in manifest.table(made)


def test_a_hiss_of_the_last_bit_on_an_offset_is_silent(tmp_path):
    speech, noise = corpus(tmp_path)
    hiss = 0.25 + 2**-17 * np.random.default_rng(0).choice([-1, 1], 9000)
    write(noise / "hiss.wav", hiss)
    made = make_manifest(*layouts.folders(speech, noise))
    assert [
        line for line in made.problems if "hiss.wav: is silent but for an offset of 0.25 (-102 dBFS)" in line
    ]


def test_without_contents_a_constant_recording_is_passed_over(tmp_path):
    speech, noise = corpus(tmp_path)
    write(noise / "dead.wav", np.full(16_000, 0.05))
    made = make_manifest(*layouts.folders(speech, noise), contents=False)
    mixer = Mixer(open_corpus(made, None, RATE, Store()), samples=RATE, rate=RATE, snr_db=(0, 0))
    batch = mixer.batch(0, 40)
    assert not any("dead" in name for name in batch.names)
    assert snr_db_about_the_means(batch.sources) == pytest.approx(np.zeros(40), abs=0.05)


def test_all_noise_dead_is_an_error_before_the_training(tmp_path):
    speech, noise = corpus(tmp_path)
    for path in noise.iterdir():
        write(path, np.full(16_000, 0.05))
    with pytest.raises(UserError, match="none of its 3 audio files is usable; .* but for an offset of 0.05"):
        load_corpus(speech, noise, RATE)


@pytest.mark.parametrize("offset", [0.0, 0.4, -3.0])
@pytest.mark.parametrize("n", [7, 65_536, 150_000])
def test_the_level_in_a_manifest_is_that_about_the_mean(tmp_path, offset, n):
    samples = voice(n, 3)
    write(tmp_path / "a.wav", samples + np.float32(offset))
    _, (entry,), _ = manifest.inspect([Found("speech", tmp_path, "a.wav", "a")])
    stored = soundfile.read(tmp_path / "a.wav")[0]
    assert entry.level_db == pytest.approx(20 * np.log10(np.std(stored)), abs=0.006)  # it has two places


def test_compared_levels_are_about_the_mean(tmp_path):
    write(tmp_path / "clean.wav", voice(RATE, 0))
    write(tmp_path / "offset.wav", voice(RATE, 0) + np.float32(0.4))
    rows, _ = compare(tmp_path / "clean.wav", [tmp_path / "clean.wav", tmp_path / "offset.wav"])
    assert rows[1]["level_db"] == pytest.approx(rows[0]["level_db"], abs=1e-3)


@pytest.mark.parametrize(
    "gains, offsets", [((1, 1), (0.4, -0.4)), ((1, -1), (0.4, 0.4)), ((1, 0.5), (-0.3, 0))]
)
def test_offsets_of_two_channels_do_not_decide_whether_one_is_inverted(tmp_path, gains, offsets):
    speech, noise = corpus(tmp_path)
    samples = voice(12_000, 50)
    write(speech / "s0" / "stereo.wav", [gain * samples + offset for gain, offset in zip(gains, offsets)])
    loaded, problems = load_corpus(speech, noise, RATE)
    assert problems == []
    (clip,) = [clip for clip in loaded.speakers["s0"] if clip.name.endswith("stereo.wav")]
    expected = np.mean(np.abs(gains)) * (samples - samples.mean())
    np.testing.assert_allclose(clip.piece(0) - clip.piece(0).mean(), expected, atol=1e-6)
    assert abs(clip.piece(0).mean()) < 10 ** (OFFSET_DB / 20) * np.std(expected)
    assert clip.level_db == pytest.approx(20 * np.log10(np.std(expected)), abs=0.006)


def test_a_rooms_response_keeps_its_mean(tmp_path):
    """It is a part of how the room sounds."""
    response = np.r_[1, 0.5 ** np.arange(1, 400)].astype(np.float32)
    speech, noise = corpus(tmp_path)
    write(tmp_path / "rooms" / "hall.wav", response)
    made = make_manifest(*layouts.folders(speech, noise, tmp_path / "rooms"))
    (room,) = open_corpus(made, None, RATE, Store()).rooms
    assert np.array_equal(room.draw(np.random.default_rng(0)), response)


def test_what_is_taken_for_an_offset():
    samples = voice(RATE, 0)
    samples -= samples.mean()
    smallest = 10 ** (OFFSET_DB / 20) * np.std(samples)
    kept, lost = samples + np.float32(0.9 * smallest), samples + np.float32(1.1 * smallest)
    assert without_offset(kept) is kept
    assert abs(without_offset(lost).mean()) < 1e-8 and without_offset(lost).dtype == np.float32
    assert rms_db(kept) - rms_db(samples) < 0.005
    assert not without_offset(np.full(9, 0.1, np.float32)).any()
    assert without_offset(np.zeros(9, np.float32)).shape == (9,)
