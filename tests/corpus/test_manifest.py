"""Layouts that people have, on small trees; what an inspection finds; and parts that share nothing."""

import json
import zlib

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from tasnet_np.corpus import layouts, manifest
from tasnet_np.corpus.clips import Store, open_corpus
from tasnet_np.corpus.manifest import Entry, make_manifest, parted
from tasnet_np.corpus.mixing import Mixer, fixed_batches
from tasnet_np.errors import UserError
from tasnet_np.sound import audio_files

RATE = 8000


def record(path, seed=None, seconds=0.5, rate=RATE, gain=0.1, channels=1):
    """Write a noise of its own to a path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = zlib.crc32(str(path).encode()) if seed is None else seed
    samples = gain * np.random.default_rng(seed).standard_normal((channels, round(seconds * rate)))
    audio_files.write(path, np.clip(samples, -1, 1), rate)
    return samples


def by_name(found):
    return {one.path: (one.kind, one.speaker, one.part) for one in found}


# Layouts.


def test_folders(tmp_path):
    for name in ("speech/ann/1.wav", "speech/bob/deep/2.wav", "noise/street/a.wav", "rooms/hall.wav"):
        record(tmp_path / name)
    (tmp_path / "noise" / "readme.txt").touch()
    found, problems = layouts.folders(tmp_path / "speech", tmp_path / "noise", tmp_path / "rooms")
    assert by_name(found) == {
        "ann/1.wav": ("speech", "ann", ""),
        "bob/deep/2.wav": ("speech", "bob", ""),
        "street/a.wav": ("noise", "", ""),
        "hall.wav": ("room", "", ""),
    }
    assert len(problems) == 1 and "readme.txt" in problems[0]


def voicebank(root, speakers=("p226", "p227", "p228"), clips=3):
    """Clean and noisy recordings side by side; the noise is another one each time."""
    for split, names in (("trainset_28spk", speakers), ("testset", ("p232",))):
        for name in names:
            for i in range(clips):
                clean = record(root / f"clean_{split}_wav" / f"{name}_{i:03}.wav", seed=[ord(name[-1]), i])
                noise = 0.05 * np.random.default_rng([i, ord(name[-1]), 1]).standard_normal(clean.shape)
                (root / f"noisy_{split}_wav").mkdir(exist_ok=True)
                audio_files.write(root / f"noisy_{split}_wav" / f"{name}_{i:03}.wav", clean + noise, RATE)


def test_voicebank(tmp_path):
    voicebank(tmp_path)
    (tmp_path / "noisy_testset_wav" / "p232_002.wav").unlink()
    name, found, problems = layouts.recognise(tmp_path)
    assert name == "pairs" and len(found) == 11
    assert by_name(found)["clean_trainset_28spk_wav/p227_001.wav"] == ("pair", "p227", "training")
    assert by_name(found)["clean_testset_wav/p232_001.wav"] == ("pair", "p232", "test")
    assert {one.path.replace("clean", "noisy") for one in found} == {one.noisy for one in found}
    assert len(problems) == 1 and "p232_002.wav: has no noisy partner" in problems[0]


def test_plain_clean_and_noisy_folders_are_pairs(tmp_path):
    for side in ("clean", "noisy"):
        record(tmp_path / side / "ann" / "1.wav")
    name, found, _ = layouts.recognise(tmp_path)
    assert name == "pairs"
    assert [(one.speaker, one.part, one.noisy) for one in found] == [("ann", "", "noisy/ann/1.wav")]


def test_librispeech(tmp_path):
    for name in (
        "train-clean-100/19/198/19-198-0000",
        "dev-clean/84/121123/84-121123-0000",
        "test-other/367/1/367-1-0",
    ):
        record(tmp_path / "LibriSpeech" / f"{name}.flac", rate=16000)
    (tmp_path / "LibriSpeech/train-clean-100/19/198/19-198.trans.txt").touch()
    name, found, problems = layouts.recognise(tmp_path)
    assert (name, problems) == ("librispeech", [])
    assert set(by_name(found).values()) == {
        ("speech", "19", "training"), ("speech", "84", "validation"), ("speech", "367", "test"),
    }  # fmt: skip


def test_librimix(tmp_path):
    audio_files = ["s1/19-1-1_84-2-2.wav", "s2/19-1-1_84-2-2.wav", "noise/19-1-1_84-2-2.wav"]
    for name in audio_files:
        record(tmp_path / "train-100" / name)
    (tmp_path / "metadata").mkdir()
    header = "mixture_ID,mixture_path,source_1_path,source_2_path,noise_path,length\n"
    paths = [f"/somewhere/else/Libri2Mix/train-100/{name}" for name in audio_files]  # moved since
    row = ",".join(["19-1-1_84-2-2", "/x/mix.wav", *paths, "4000"])
    gone = ",".join(["30-1-1_84-2-2", "/x/mix.wav", "/gone/s1.wav", paths[1], paths[2], "4000"])
    (tmp_path / "metadata" / "mixture_train-100_mix_both.csv").write_text(f"{header}{row}\n{gone}\n")
    (tmp_path / "metadata" / "metrics.csv").write_text("mixture_ID,SNR\n1,2\n")
    name, found, problems = layouts.recognise(tmp_path)
    assert name == "librimix"
    assert by_name(found) == {
        "train-100/s1/19-1-1_84-2-2.wav": ("speech", "19", "training"),
        "train-100/s2/19-1-1_84-2-2.wav": ("speech", "84", "training"),
        "train-100/noise/19-1-1_84-2-2.wav": ("noise", "", "training"),
    }
    assert len(problems) == 1 and "/gone/s1.wav" in problems[0]


def test_ms_snsd(tmp_path):
    for name in (
        "clean_train/p226_001.wav",
        "noise_train/Babble_1.wav",
        "clean_test/clnsp1.wav",
        "noise_test/Cafe_1.wav",
    ):
        record(tmp_path / name)
    name, found, _ = layouts.recognise(tmp_path)
    assert name == "clean-noise"
    assert by_name(found) == {
        "clean_train/p226_001.wav": ("speech", "p226", "training"),
        "clean_test/clnsp1.wav": ("speech", ".", "test"),
        "noise_train/Babble_1.wav": ("noise", "", "training"),
        "noise_test/Cafe_1.wav": ("noise", "", "test"),
    }


def test_dns(tmp_path):
    for name in (
        "datasets_fullband/clean_fullband/read_speech/book_00000_chp_0009_reader_06709_0_x.wav",
        "datasets_fullband/noise_fullband/door.wav",
        "datasets_fullband/impulse_responses/SLR26/hall.wav",
    ):
        record(tmp_path / name)
    name, found, _ = layouts.recognise(tmp_path)
    assert name == "clean-noise"
    assert sorted(by_name(found).values()) == [
        ("noise", "", ""),
        ("room", "", ""),
        ("speech", "reader_06709", ""),
    ]


def test_a_folder_of_no_known_layout(tmp_path):
    record(tmp_path / "music" / "1.wav")
    with pytest.raises(UserError, match="of no known layout .*; give --speech DIR and --noise DIR"):
        layouts.recognise(tmp_path)
    with pytest.raises(UserError, match="missing: is not a folder"):
        layouts.recognise(tmp_path / "missing")


# Inspection.


def speech_and_noise(tmp_path, speakers=5, clips=2, noises=6):
    for k in range(speakers):
        for i in range(clips):
            record(tmp_path / "speech" / f"s{k}" / f"{i}.wav", seed=[k, i])
    for i in range(noises):
        record(tmp_path / "noise" / f"n{i}.wav", seed=[99, i], rate=16000, channels=2)
    return layouts.folders(tmp_path / "speech", tmp_path / "noise")


@pytest.mark.parametrize("contents", [True, False])
def test_a_recording_with_an_absurd_sample_is_left_out_and_named(tmp_path, contents):
    """Where only headers are read, when it is first used."""
    speech_and_noise(tmp_path)
    for folder in ("speech/s0", "noise"):
        samples = 0.1 * np.random.default_rng(0).standard_normal(70_000)
        samples[66_000] = 1e38
        soundfile.write(tmp_path / folder / "absurd.wav", samples, RATE, subtype="FLOAT")
    found, problems = layouts.folders(tmp_path / "speech", tmp_path / "noise")
    made = make_manifest(found, problems, contents=contents)
    warnings = []
    mixer = Mixer(open_corpus(made, None, RATE, Store(warn=warnings.append)), samples=4000, rate=RATE)
    for batch in (mixer.batch(step, 10) for step in range(10)):
        assert np.isfinite(batch.mixture).all() and np.isfinite(batch.sources).all()
        assert not any("absurd" in name for name in batch.names)
    lines = made.problems if contents else warnings
    assert len(lines) == 2 and all("absurd.wav" in line for line in lines)
    assert all("the first is sample 66000 (1e+38); mend them" in line for line in lines)


def test_an_inspection_finds_everything(tmp_path):
    found, _ = speech_and_noise(tmp_path)
    speech = tmp_path / "speech" / "s0"
    audio_files.write(
        speech / "loud.wav", np.clip(3 * np.random.default_rng(0).standard_normal(4000), -1, 1), RATE
    )
    audio_files.write(speech / "silent.wav", np.zeros(4000), RATE)
    (speech / "copy.wav").write_bytes((speech / "0.wav").read_bytes())
    samples = np.zeros(100)
    samples[3] = np.nan
    soundfile.write(speech / "nan.wav", samples, RATE, subtype="FLOAT")
    (speech / "cut.wav").write_bytes((speech / "0.wav").read_bytes()[:1000])
    found, problems = layouts.folders(tmp_path / "speech", tmp_path / "noise")
    made = make_manifest(found, problems)
    assert len(made.part("training")) + len(made.part("validation")) == 10 + 1 + 6
    for name, words in {
        "silent.wav": "is silent",
        "copy.wav": "is a copy of",
        "nan.wav": "1 of 100 samples are NaN",
        "cut.wav": "truncated",
    }.items():
        (line,) = [line for line in made.problems if f"/{name}:" in line or f"{name}: is a copy" in line]
        assert words in line
    (loud,) = [e for e in made.entries if e.path == "s0/loud.wav"]
    assert loud.clipped > 100
    noise = next(e for e in made.entries if e.kind == "noise")
    assert (noise.rate, noise.channels, noise.frames, noise.seconds) == (16000, 2, 8000, 0.5)
    assert noise.level_db == pytest.approx(-23, abs=0.5)  # the mean of two channels
    text = manifest.table(made)
    assert "left out: 1 copies, 1 silent, 2 unreadable or broken" in text
    assert "16000" in text


def test_clipped_samples_are_counted_in_runs():
    samples = np.zeros((2, 20))
    samples[0, 5:9] = 1
    samples[0, 12:14] = 1  # too short a run
    samples[1, 17:] = [-1, 1, -1]
    assert manifest.count_clipped(samples) == 7


def test_headers_alone_are_quick_and_say_so(tmp_path, monkeypatch):
    found, _ = speech_and_noise(tmp_path)
    monkeypatch.setattr(manifest, "_contents", lambda path: pytest.fail("samples were read"))
    made = make_manifest(found, contents=False)
    assert {e.level_db for e in made.entries} == {None}
    assert {e.frames for e in made.part("training", "speech")} == {4000}
    assert "not read" in manifest.table(made)


def entries_of(speakers=4, noises=10, clips=5):
    """Entries without a part: clips of some speakers, and noises."""
    speech = [
        Entry("speech", 0, f"s{k}/{i}.wav", RATE, 1, 100, f"s{k}")
        for k in range(speakers)
        for i in range(clips)
    ]
    return [*speech, *(Entry("noise", 1, f"n{i}.wav", RATE, 1, 100) for i in range(noises))]


def sides(entries, **settings):
    """Paths by speaker and paths of noises in training, then those in validation."""
    entries = parted(entries, **settings)
    result = []
    for part in ("training", "validation"):
        speakers, noises = {}, []
        for entry in (entry for entry in entries if entry.part == part):
            (speakers.setdefault(entry.speaker, []) if entry.kind == "speech" else noises).append(entry.path)
        result.append((speakers, noises))
    return result


@given(st.integers(2, 12), st.integers(2, 40), st.floats(0.01, 0.99), st.integers(0, 2**32))
@settings(max_examples=200, deadline=None)
def test_parts_share_nothing_and_lose_nothing(speakers, noises, share, seed):
    entries = entries_of(speakers, noises, clips=1)
    train, held = sides(entries, seed=seed, share=share)
    assert sorted([*train[0], *held[0]]) == sorted(
        {entry.speaker for entry in entries if entry.kind == "speech"}
    )
    assert sorted(train[1] + held[1]) == sorted(entry.path for entry in entries if entry.kind == "noise")
    assert all((*train, *held))
    assert len(held[0]) == min(max(1, round(share * speakers)), speakers - 1)
    assert len(held[1]) == min(max(1, round(share * noises)), noises - 1)
    assert sides(entries, seed=seed, share=share) == [train, held]


def test_parts_depend_on_the_seed():
    entries = entries_of(10, 20, clips=1)
    held = {str(sides(entries, seed=seed)[1][1]) for seed in range(20)}
    assert len(held) > 10


def test_speakers_held_out_by_name():
    for seed in range(20):
        train, held = sides(entries_of(), seed=seed, hold_out=["s2", "s0"])
        assert list(train[0]) == ["s1", "s3"]
        assert list(held[0]) == ["s0", "s2"]
        assert not set(train[1]) & set(held[1])


def test_the_clips_of_a_single_speaker_are_parted():
    kept, held = (set(side[0]["s0"]) for side in sides(entries_of(speakers=1, clips=10)))
    assert len(kept) == 8 and len(held) == 2 and not kept & held


@pytest.mark.parametrize(
    "entries, settings, words",
    [
        (entries_of(2, 1), {}, "noise recordings: 1 found"),
        (entries_of(1, 2, clips=1), {}, "speech clips: 1 found"),
        (entries_of(2, 2), {"hold_out": ["bob"]}, "hold_out bob: .* s0, s1"),
        (entries_of(2, 2), {"hold_out": ["s0", "s1"]}, "hold_out s0, s1: .* not all"),
        (entries_of(1, 2), {"hold_out": ["s0"]}, "hold_out s0"),
        (entries_of(2, 2), {"share": 0}, "share 0"),
        (entries_of(2, 2), {"share": 1}, "share 1"),
        (entries_of(2, 2), {"seed": -1}, "seed -1"),
    ],
)
def test_parted_refuses(entries, settings, words):
    with pytest.raises(UserError, match=words):
        parted(entries, **settings)


def test_parts_share_no_speaker_no_recording_and_no_copy(tmp_path):
    found, _ = speech_and_noise(tmp_path)
    copy = tmp_path / "speech" / "s4" / "again.wav"
    copy.write_bytes((tmp_path / "speech" / "s0" / "0.wav").read_bytes())
    found, _ = layouts.folders(tmp_path / "speech", tmp_path / "noise")
    held = set()
    for seed in range(20):
        made = make_manifest(found, seed=seed, share=0.4)
        sides = [made.part(part) for part in ("training", "validation")]
        speakers, paths, digests = (
            [{getattr(e, name) for e in side if getattr(e, name)} for side in sides]
            for name in ("speaker", "path", "digest")
        )
        for one, other in (speakers, paths, digests):
            assert one and other and not one & other
        assert (len(speakers[1]), len(made.part("validation", "noise"))) == (2, 2)
        held.add(tuple(sorted(speakers[1])))
        again = make_manifest(found, seed=seed, share=0.4)
        assert again == made
    assert len(held) > 3
    made = make_manifest(found, hold_out=["s1"])
    assert {e.speaker for e in made.part("validation", "speech")} == {"s1"}


def test_parts_that_the_corpus_gives_are_kept(tmp_path):
    voicebank(tmp_path)
    _, found, problems = layouts.recognise(tmp_path)
    made = make_manifest(found, problems)
    assert {e.speaker for e in made.part("test")} == {"p232"}
    training, validation = ({e.speaker for e in made.part(part)} for part in ("training", "validation"))
    assert len(training) == 2 and len(validation) == 1 and training | validation == {"p226", "p227", "p228"}
    for name in ("train-clean-100/19/1/a", "dev-clean/84/1/b", "train-clean-100/20/1/c"):
        record(tmp_path / "L" / "LibriSpeech" / f"{name}.flac")
    record(tmp_path / "noise" / "1.wav")
    record(tmp_path / "noise" / "2.wav")
    _, found, _ = layouts.recognise(tmp_path / "L")
    made = make_manifest(found + layouts.folders(None, tmp_path / "noise")[0])
    assert {e.speaker for e in made.part("training", "speech")} == {"19", "20"}
    assert {e.speaker for e in made.part("validation", "speech")} == {"84"}
    assert len(made.part("validation", "noise")) == 1


@pytest.mark.parametrize(
    "speakers, clips, noises, settings, words",
    [
        (3, 2, 1, {}, "noise recordings: 1 found"),
        (1, 1, 3, {}, "speech clips: 1 found"),
        (2, 1, 2, {"hold_out": ["bob"]}, "hold_out bob: .* s0, s1"),
        (2, 1, 2, {"share": 1}, "share 1"),
        (2, 1, 2, {"seed": -1}, "seed -1"),
    ],
)
def test_what_cannot_be_parted(tmp_path, speakers, clips, noises, settings, words):
    found, _ = speech_and_noise(tmp_path, speakers, clips, noises)
    with pytest.raises(UserError, match=words):
        make_manifest(found, **settings)


def test_pairs_must_match(tmp_path):
    voicebank(tmp_path)
    record(tmp_path / "noisy_trainset_28spk_wav" / "p226_000.wav", seconds=0.4)
    _, found, problems = layouts.recognise(tmp_path)
    made = make_manifest(found, problems)
    assert len(made.entries) == 11
    assert "p226_000.wav: differs from" in made.problems[0]


# On disk.


def test_a_manifest_comes_back_as_it_was(tmp_path):
    found, _ = speech_and_noise(tmp_path)
    made = make_manifest(found, ["a problem"], seed=3)
    path = tmp_path / "manifest.json"
    manifest.save(made, path)
    assert manifest.load(path) == made
    lines = path.read_text().splitlines()
    assert len(lines) == 16 + 2
    assert json.loads(lines[1].rstrip(","))["path"] == made.entries[0].path


@pytest.mark.parametrize(
    "text, words",
    [
        ("{", "damaged or not a tasnet_np manifest"),
        ("[]", "damaged or not"),
        ('{"format": "tasnet_np manifest", "version": 9}', "version 9, this program reads 1"),
        ('{"format": "tasnet_np manifest", "version": 1, "entries": []}', "is damaged"),
        (None, "cannot be read .*; make one with tasnet-np prepare"),
    ],
)
def test_manifests_that_cannot_be_used(tmp_path, text, words):
    path = tmp_path / "manifest.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=f"manifest.json: .*{words}"):
        manifest.load(path)


ENTRY = {
    "kind": "speech", "folder": 0, "path": "a.wav", "rate": 8000, "channels": 1, "frames": 100, "part": "training",
}  # fmt: skip
MANIFEST = {
    "format": manifest.FORMAT, "version": 1, "seed": 0, "share": 0.2, "folders": ["/x"], "problems": [],
    "mixtures": [{"name": "a", "snr_db": 5, "measured_snr_db": 5.0}], "entries": [ENTRY, ENTRY],
}  # fmt: skip
NUMBERS = ("folder", "rate", "channels", "frames", "clipped")
WRONG_ENTRIES = [(name, value) for name in ENTRY for value in (None, [1], {}, True)]
WRONG_ENTRIES += [
    (name, value) for name in NUMBERS for value in ("1", -1, 1.5, float("nan"), float("inf"), 10**400)
]
WRONG_ENTRIES += [
    (name, 7) for name in ("kind", "path", "part", "speaker", "noisy", "digest", "noisy_digest")
]
WRONG_ENTRIES += [("level_db", value) for value in ("loud", [], float("nan"), float("-inf"), 10**400)]
WRONG_ENTRIES += [("kind", "music"), ("kind", "pair"), ("noisy", "b.wav"), ("part", ""), ("part", "spare")]
WRONG_ENTRIES += [("path", ""), ("path", "a\0b"), ("folder", 1), ("rate", 0), ("frames", 0), ("more", 1)]
WRONG = [
    (n, value)
    for n in ("folders", "problems", "entries", "mixtures")
    for value in (None, 1, "ab", {}, [None])
]
WRONG += [
    ("folders", []),
    ("folders", [""]),
    ("folders", ["\0"]),
    ("mixtures", [{"name": []}]),
    ("entries", [[]]),
]
WRONG += [("seed", value) for value in (None, "0", -1, 0.5, True, 10**400)]
WRONG += [("share", value) for value in (None, "0", 0, 1, float("nan"), [])]
WRONG += [("version", value) for value in (None, [], "1", 2)]


def refused(path, stored, words):
    path.write_text(json.dumps(stored))
    with pytest.raises(UserError) as caught:
        manifest.load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and words in message and "\n" not in message and len(message) < 500


@pytest.mark.parametrize("name, value", WRONG_ENTRIES, ids=lambda value: repr(value)[:20])
def test_an_entry_with_a_wrong_value_is_refused(tmp_path, name, value):
    refused(tmp_path / "m.json", MANIFEST | {"entries": [ENTRY, ENTRY | {name: value}]}, "is damaged (")


@pytest.mark.parametrize("name, value", WRONG, ids=lambda value: repr(value)[:20])
def test_a_manifest_with_a_wrong_value_is_refused(tmp_path, name, value):
    path = tmp_path / "m.json"
    path.write_text(json.dumps(MANIFEST))
    assert manifest.load(path).entries == [Entry(**ENTRY)] * 2
    refused(path, MANIFEST | {name: value}, "has version" if name == "version" else "is damaged (")
    del (less := dict(MANIFEST))[name]
    refused(path, less, "has version None" if name == "version" else f"is damaged ('{name}')")


@pytest.mark.parametrize(
    "data", [b"[" * 100_000, b'{"format":' * 100_000, b"\xff\xfe{\0}\0", b"null", b"1" * 5000, b"\xff"]
)
def test_deep_and_strange_manifests(tmp_path, data):
    (tmp_path / "manifest.json").write_bytes(data)
    with pytest.raises(UserError, match="manifest.json: is damaged or not a tasnet_np manifest"):
        manifest.load(tmp_path / "manifest.json")


# Pairs that share a clean recording.


def several_snrs(root, speakers=4, clips=3, snrs=4, clean="clean_train"):
    """The same speech at several SNRs, each with its own copy of the clean recording, as such corpora have it."""
    for k in range(speakers):
        for i in range(clips):
            for j in range(snrs):
                name = f"p{200 + k}_{i:03}_{j}.wav"
                speech = record(root / clean / name, seed=[k, i])
                noise = 0.02 * (j + 1) * np.random.default_rng([k, i, j, 1]).standard_normal(speech.shape)
                path = root / clean.replace("clean", "noisy") / name
                path.parent.mkdir(exist_ok=True)
                audio_files.write(path, speech + noise, RATE)
    return root


def one_side_each(entries):
    """Whether all entries with one clean recording are in one part."""
    parts = {}
    for entry in entries:
        parts.setdefault(entry.digest, set()).add(entry.part)
    return all(len(one) == 1 for one in parts.values())


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("speakers, clips", [(4, 3), (1, 6)])
def test_pairs_that_share_a_clean_recording_are_kept_and_stay_together(tmp_path, speakers, clips, seed):
    _, found, problems = layouts.recognise(several_snrs(tmp_path, speakers, clips))
    made = make_manifest(found, problems, seed=seed, share=0.3)
    assert len(made.entries) == 4 * speakers * clips and made.problems == []
    assert one_side_each(made.entries)
    assert {entry.part for entry in made.entries} == {"training", "validation"}
    assert len({entry.digest for entry in made.entries}) == speakers * clips
    assert len({entry.noisy_digest for entry in made.entries}) == 4 * speakers * clips
    manifest.save(made, tmp_path / "manifest.json")
    assert manifest.load(tmp_path / "manifest.json") == made
    assert len(open_corpus(made, "training", RATE, Store()).pairs) == len(made.part("training"))


def test_a_pair_is_a_copy_only_if_both_recordings_are(tmp_path):
    root = several_snrs(tmp_path, speakers=2, clips=1, snrs=2)
    for side in ("clean_train", "noisy_train"):
        (root / side / "p209_x.wav").write_bytes((root / side / "p200_000_1.wav").read_bytes())
    _, found, problems = layouts.recognise(root)
    made = make_manifest(found, problems)
    assert len(made.entries) == 4
    (line,) = made.problems
    assert "p209_x.wav: is a copy of" in line and line.endswith("p200_000_1.wav; remove it")
    assert "1 copies" in manifest.table(made)


def test_speakers_who_share_a_clean_recording_stay_together(tmp_path):
    """As two names of one speaker do. They are parted together, and cannot be held out alone."""
    root = several_snrs(tmp_path, speakers=4, clips=1, snrs=1)
    speech = record(root / "clean_train" / "p300_000.wav", seed=[1, 0])
    audio_files.write(root / "noisy_train" / "p300_000.wav", np.clip(speech * 1.2, -1, 1), RATE)
    _, found, problems = layouts.recognise(root)
    held = set()
    for seed in range(20):
        made = make_manifest(found, problems, seed=seed)
        part = {entry.speaker: entry.part for entry in made.entries}
        assert len(part) == 5 and part["p201"] == part["p300"]
        assert set(part.values()) == {"training", "validation"}
        held.add(part["p201"])
    assert held == {"training", "validation"}
    with pytest.raises(UserError, match="hold_out: p201, p300 share a recording; name all of them, or none"):
        make_manifest(found, problems, hold_out=["p300"])
    made = make_manifest(found, problems, hold_out=["p201", "p300"])
    assert {entry.speaker for entry in made.part("validation")} == {"p201", "p300"}


def test_where_all_speakers_share_a_recording_the_recordings_are_parted(tmp_path):
    root = several_snrs(tmp_path, speakers=3, clips=3, snrs=1)
    for k in range(3):
        speech = record(root / "clean_train" / f"p{200 + k}_009.wav", seed=5)
        audio_files.write(root / "noisy_train" / f"p{200 + k}_009.wav", speech * (1 + k / 9), RATE)
    _, found, problems = layouts.recognise(root)
    made = make_manifest(found, problems)
    assert len(made.entries) == 12 and one_side_each(made.entries)
    assert {entry.part for entry in made.entries} == {"training", "validation"}


def test_a_clean_recording_in_two_given_parts_stays_in_one_of_them(tmp_path):
    several_snrs(tmp_path, speakers=3, clips=2, snrs=2)
    several_snrs(
        tmp_path, speakers=1, clips=3, snrs=2, clean="clean_test"
    )  # two clips of three are those above
    _, found, problems = layouts.recognise(tmp_path)
    made = make_manifest(found, problems)
    assert one_side_each(made.entries)
    assert len(made.part("test")) == 6 and len(made.entries) == 12 + 6 - 4
    assert len(made.problems) == 4
    assert all(
        "is a copy of" in line and line.endswith("in another part; remove it") for line in made.problems
    )


def test_speech_and_the_clean_side_of_a_pair_stay_together(tmp_path):
    _, pairs, _ = layouts.recognise(several_snrs(tmp_path / "pairs", speakers=1, clips=6, snrs=2))
    for i in range(6):
        record(tmp_path / "speech" / "p200" / f"{i}.wav", seed=[0, i])
    for i in range(2):
        record(tmp_path / "noise" / f"{i}.wav", seed=[9, i])
    found = pairs + layouts.folders(tmp_path / "speech", tmp_path / "noise")[0]
    for seed in range(5):
        made = make_manifest(found, seed=seed)
        assert len(made.entries) == 12 + 6 + 2 and one_side_each(made.entries)


# Pairs as training material.


def test_the_noise_of_a_pair_is_noisy_less_clean(tmp_path):
    voicebank(tmp_path)
    _, found, problems = layouts.recognise(tmp_path)
    corpus = open_corpus(make_manifest(found, problems), "training", RATE, Store())
    clean, noise = corpus.pairs[0]
    both = [audio_files.read(tmp_path / name).samples[0] for name in (clean.entry.path, clean.entry.noisy)]
    assert np.array_equal(clean.piece(0), both[0])
    assert np.array_equal(noise.piece(0), both[1] - both[0])
    mixer = Mixer(corpus, samples=6000, rate=RATE)
    names = [name for step in range(10) for name in mixer.batch(step, 4).names]
    recorded = ["as recorded" in name for name in names]
    assert 0.25 < np.mean(recorded) < 0.75
    batch = mixer.batch(0, 20)
    for sources, snr_db, name in zip(batch.sources, batch.snr_db, batch.names):
        measured = 10 * np.log10(np.sum(sources[0] ** 2.0) / np.sum(sources[1] ** 2.0))
        assert measured == pytest.approx(snr_db, abs=1e-3)
        if "as recorded" in name:
            assert snr_db == pytest.approx(6, abs=1)  # 0.1 against 0.05
    fixed = fixed_batches(corpus, samples=3000, rate=RATE, snrs_db=(0,))
    assert all("as recorded" not in name for name in fixed[0].names)


def test_the_noise_of_a_pair_whose_sides_are_inverted(tmp_path):
    """Both recordings are turned alike, so that their difference is the noise."""
    speech, noise = (0.1 * np.random.default_rng(0).standard_normal((2, 4000))).astype(np.float32)
    side = np.float32([[1], [-1]])
    for folder, samples in (("clean", side * speech), ("noisy", side * (speech + 3 * noise))):
        path = tmp_path / folder / "a.wav"
        path.parent.mkdir()
        audio_files.write(path, samples, RATE, subtype="FLOAT")
    found = [layouts.Found("pair", tmp_path, "clean/a.wav", "ann", "training", "noisy/a.wav")]
    folder_names, entries, problems = manifest.inspect(found)
    assert problems == []
    clean, noisy = open_corpus(manifest.Manifest(folder_names, entries), "training", RATE, Store()).pairs[0]
    assert np.abs(clean.piece(0) - speech).max() < 1e-6
    assert np.abs(noisy.piece(0) - 3 * noise).max() < 1e-6
