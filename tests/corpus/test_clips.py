"""Recordings on disk: what is read, what is skipped, and how much is kept in memory."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from made_up_audio import encoded, flac_of, mp3, voice, wav

from tasnet_np.corpus import manifest
from tasnet_np.corpus.clips import CACHE_BYTES, PIECE_SECONDS, Store, load_corpus, open_corpus
from tasnet_np.corpus.layouts import ROOT_SPEAKER, Found
from tasnet_np.corpus.mixing import Mixer
from tasnet_np.errors import UserError
from tasnet_np.sound import audio_files

RATE = 8000
RNG = np.random.default_rng(0)


def gaussian(n, seed=0, gain=0.1):
    return (gain * np.random.default_rng(seed).standard_normal(n)).astype(np.float32)


@pytest.fixture
def folders(tmp_path):
    """Two speakers and a loose file of speech, two noises."""
    speech, noise = tmp_path / "speech", tmp_path / "noise"
    for seed, name in enumerate(("ann/1.wav", "ann/deep/2.flac", "bob/1.wav", "loose.wav")):
        path = speech / name
        path.parent.mkdir(parents=True, exist_ok=True)
        audio_files.write(path, gaussian(4000, seed), RATE)
    noise.mkdir()
    for seed, name in enumerate(("a.wav", "b.ogg")):
        audio_files.write(noise / name, gaussian(10000, 10 + seed), 20000)
    return speech, noise


def noise_names(loaded):
    return [clip.name for clip in loaded.noises]


def test_load_corpus(folders):
    loaded, problems = load_corpus(*folders, RATE)
    assert problems == []
    names = {speaker: [c.name for c in clips] for speaker, clips in loaded.speakers.items()}
    assert names == {
        "ann": ["ann/1.wav", "ann/deep/2.flac"],
        "bob": ["bob/1.wav"],
        ROOT_SPEAKER: ["loose.wav"],
    }
    assert noise_names(loaded) == ["a.wav", "b.ogg"]
    for clip in [*loaded.noises, *loaded.speakers["ann"]]:
        samples = clip.draw(RNG)
        assert samples.shape == (4000,) and samples.dtype == np.float32
        assert clip.level_db == pytest.approx(-20, abs=1)


def test_channels_are_averaged_and_resampled(tmp_path):
    tone = np.sin(2 * np.pi * 500 * np.arange(20000) / 20000).astype(np.float32)
    for folder in ("speech", "noise"):
        (tmp_path / folder).mkdir()
        audio_files.write(
            tmp_path / folder / "a.wav", np.stack([0.9 * tone, 0.3 * tone]), 20000, subtype="FLOAT"
        )
    loaded, problems = load_corpus(tmp_path / "speech", tmp_path / "noise", RATE)
    expected = 0.6 * np.sin(2 * np.pi * 500 * np.arange(8000) / 8000)
    assert problems == []
    assert np.abs(loaded.noises[0].draw(RNG) - expected)[500:-500].max() < 2e-3


def test_broken_and_silent_files_are_skipped_and_named(folders):
    speech, noise = folders
    (speech / "notes.txt").touch()
    (speech / "ann" / "list.csv").touch()
    (speech / "bob" / "empty.wav").touch()
    (speech / "bob" / "cut.wav").write_bytes((speech / "bob" / "1.wav").read_bytes()[:-100])
    audio_files.write(speech / "bob" / "silent.wav", np.zeros(100), RATE)
    loaded, problems = load_corpus(speech, noise, RATE)
    assert sum(map(len, loaded.speakers.values())) == 4
    assert problems == [
        f"skipped 2 non-audio files in {speech}, like {Path('list.csv')}",
        f"skipped {speech / 'bob' / 'cut.wav'}: is truncated (7900 of 8000 bytes of samples); copy it again",
        f"skipped {speech / 'bob' / 'empty.wav'}: is empty (0 bytes); copy or download it again",
        f"skipped {speech / 'bob' / 'silent.wav'}: is silent (-inf dBFS); remove or replace it",
    ]


def test_stereo_with_one_side_inverted_is_not_silent(folders):
    speech, noise = folders
    samples = gaussian(4000, 7)
    audio_files.write(
        speech / "bob" / "opposite.wav", samples * np.float32([[1], [-1]]), RATE, subtype="FLOAT"
    )
    loaded, problems = load_corpus(speech, noise, RATE)
    (clip,) = [clip for clip in loaded.speakers["bob"] if clip.name == "bob/opposite.wav"]
    assert problems == []
    assert np.array_equal(clip.draw(RNG), samples)
    assert clip.level_db == pytest.approx(-20, abs=0.2)


@pytest.mark.parametrize("rate", [1, 999, 1_000_001, 2**31 - 1])
def test_a_recording_at_an_impossible_rate_is_skipped(folders, rate):
    speech, noise = folders
    path = noise / "odd.wav"
    data = (noise / "a.wav").read_bytes()
    path.write_bytes(data[:24] + rate.to_bytes(4, "little") + data[28:])
    loaded, problems = load_corpus(speech, noise, RATE)
    wanted = "give one between 1000 and 1000000 Hz, or export it again"
    assert problems == [f"skipped {path}: has a sample rate of {rate}; {wanted}"]
    assert noise_names(loaded) == ["a.wav", "b.ogg"]


def test_recordings_whose_headers_give_a_wrong_length_are_used_to_their_end(folders):
    speech, noise = folders
    samples = voice(4)[:, 0]
    for name, data in {
        "live.flac": flac_of(encoded(samples, format="FLAC"), 0),
        "short.flac": flac_of(encoded(samples, format="FLAC"), 4000),
        "died.wav": wav(samples, 4000),
        "wrapped.wav": wav(samples, 0),
        "two.ogg": 2 * encoded(samples[:16000], format="OGG", subtype="VORBIS"),
        "two.mp3": 2 * mp3(samples[:16000], RATE),
        "two.flac": 2 * encoded(samples[:16000], format="FLAC"),
    }.items():
        (noise / name).write_bytes(data)
    loaded, problems = load_corpus(speech, noise, RATE)
    assert problems == []
    clips = {clip.name: clip for clip in loaded.noises}
    assert len(clips) == 2 + 7
    for name, clip in clips.items():
        if name not in ("a.wav", "b.ogg"):
            expected = samples if "two" not in name else np.tile(samples[:16000], 2)
            drawn = clip.draw(RNG)
            assert drawn.shape == (32_000,), name
            assert np.corrcoef(drawn, expected)[0, 1] > 0.98, name


def test_a_folder_without_a_usable_file_is_refused(folders):
    speech, noise = folders
    for path in noise.iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match="none of its 2 audio files is usable; .* is empty"):
        load_corpus(speech, noise, RATE)


def test_overlapping_folders_are_refused(folders):
    speech, noise = folders
    for pair in ((speech, speech), (speech.parent, noise), (speech / "ann", speech)):
        with pytest.raises(UserError, match="overlaps the speech folder"):
            load_corpus(*pair, RATE)


def test_a_missing_folder_is_missing_wherever_it_would_be(folders):
    speech, noise = folders
    for missing in (speech / "missing", speech.parent / "missing"):
        for pair in ((missing, noise), (speech, missing), (missing, missing), (missing, missing / "inside")):
            with pytest.raises(UserError, match="missing: does not exist; give a folder of audio files"):
                load_corpus(*pair, RATE)
    file = next(noise.iterdir())
    with pytest.raises(UserError, match="is not a folder; give a folder of audio files"):
        load_corpus(file, noise, RATE)


# The store.


def test_a_store_never_holds_more_than_its_limit():
    store, made = Store(limit=1000), []

    def get(key):
        return store.get(key, lambda: made.append(key) or np.full(100, key, np.float32))  # 400 bytes

    assert get(1)[0] == 1 and get(2)[0] == 2 and store.bytes == 800
    get(1)  # used again: 2 is now the one to go
    get(3)
    assert made == [1, 2, 3] and store.bytes == 800
    get(1)
    assert made == [1, 2, 3]
    get(2)
    assert made == [1, 2, 3, 2] and store.bytes == 800
    large = store.get("large", lambda: np.zeros(1000))
    assert large.shape == (1000,) and store.bytes == 800  # given, not kept


def test_a_store_in_many_threads_keeps_count():
    store = Store(limit=4000)

    def work(seed):
        for key in np.random.default_rng(seed).integers(50, size=500):
            assert store.get(int(key), lambda: np.full(100, key, np.float32))[0] == key

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))  # raises what a thread raised
    assert store.bytes == sum(array.nbytes for array in store._kept.values()) <= 4000


def long_corpus(tmp_path, store, seconds=95):
    for kind in ("speech", "noise"):
        (tmp_path / kind).mkdir(exist_ok=True)
        for i in range(3):
            ramp = np.linspace(0.1, 0.9, seconds * RATE) * (1 - 2 * (np.arange(seconds * RATE) % 2))
            audio_files.write(tmp_path / kind / f"{i}.wav", ramp * (1 + i) / 3, RATE, subtype="FLOAT")
    found = [Found(kind, tmp_path / kind, f"{i}.wav") for kind in ("speech", "noise") for i in range(3)]
    places, entries, problems = manifest.inspect(found)
    assert problems == []
    return open_corpus(manifest.Manifest(places, entries), None, RATE, store)


def test_a_long_recording_is_read_in_pieces_that_make_it_up(tmp_path):
    loaded = long_corpus(tmp_path, Store())
    clip = loaded.noises[0]
    assert clip.pieces == 4 and 95 / 4 < PIECE_SECONDS
    whole = audio_files.read(tmp_path / "noise" / "0.wav").samples[0]
    assert np.array_equal(np.concatenate([clip.piece(i) for i in range(4)]), whole)
    starts = {clip.draw(np.random.default_rng(seed))[0] for seed in range(50)}
    assert starts == {clip.piece(i)[0] for i in range(4)}


def test_examples_do_not_depend_on_the_size_of_the_store(tmp_path):
    batches = []
    for limit in (0, 2_000_000, 1 << 30):
        store = Store(limit)
        mixer = Mixer(long_corpus(tmp_path, store), samples=RATE, rate=RATE)
        batches.append([mixer.batch(step, 3).mixture.tobytes() for step in range(5)])
        assert store.bytes <= limit
    assert batches[0] == batches[1] == batches[2]


def test_a_recording_that_became_unreadable_is_passed_over_and_named_once(folders):
    loaded, _ = load_corpus(*folders, RATE)
    warnings = []
    loaded.noises[0].store.warn = warnings.append
    (folders[1] / "a.wav").unlink()
    (folders[0] / "ann" / "1.wav").write_bytes(b"RIFF")
    batch = Mixer(loaded, samples=3000, rate=RATE).batch(0, 20)
    assert batch.mixture.shape == (20, 3000)
    assert not any("a.wav" in name for name in batch.names)
    assert sorted(warnings) == sorted(set(warnings)) and len(warnings) == 2
    assert {"a.wav" in line or "1.wav" in line for line in warnings} == {True}


def test_a_folder_that_vanished_ends_with_one_line(folders, tmp_path):
    loaded, _ = load_corpus(*folders, RATE)
    folders[1].rename(tmp_path / "gone")
    with pytest.raises(
        UserError, match="20 recordings in a row cannot be used, .*(a.wav|b.ogg): cannot be read"
    ):
        Mixer(loaded, samples=3000, rate=RATE).batch(0, 2)


def test_a_file_that_is_shorter_than_when_it_was_inspected_is_named(folders):
    loaded, _ = load_corpus(*folders, RATE)
    audio_files.write(folders[1] / "a.wav", gaussian(500), 20000)
    with pytest.raises(UserError, match="ends at sample 500, expected at least 10000; it has changed"):
        loaded.noises[0].draw(RNG)
    assert CACHE_BYTES == 1 << 30
