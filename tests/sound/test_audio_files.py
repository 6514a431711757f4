"""Audio files survive a round trip, and broken ones are named."""

import errno
import os
import struct

import numpy as np
import pytest
import soundfile as sf
from small_disk import empty, room_for, small_disk

from tasnet_np.errors import UserError
from tasnet_np.sound import audio_files
from tasnet_np.sound.level import rms_db

RATE = 16000


def noise(n=4000, channels=2, peak=0.9, seed=0):
    samples = np.random.default_rng(seed).uniform(-peak, peak, (channels, n))
    return samples.astype(np.float32)


def sine(hertz, rate, seconds=1.0):
    return np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate).astype(np.float32)


def refused(path, *words, call=audio_files.read):
    """The call raises one line that names the path and has all the words."""
    with pytest.raises(UserError) as caught:
        call(path)
    message = str(caught.value)
    assert "\n" not in message
    for word in (str(path), *words):
        assert word in message, message


@pytest.mark.parametrize(
    "suffix, format, subtype, tolerance",
    [
        (".wav", "WAV", "PCM_16", 2**-15),
        (".wav", "WAV", "PCM_24", 2**-23),
        (".wav", "WAV", "FLOAT", 0),
        (".wav", "WAVEX", "PCM_16", 2**-15),
        (".flac", "FLAC", "PCM_16", 2**-15),
        (".flac", "FLAC", "PCM_24", 2**-23),
        (".aiff", "AIFF", "PCM_16", 2**-15),
    ],
)
@pytest.mark.parametrize("channels, n", [(1, 1), (2, 4001), (5, 100)])
def test_lossless_round_trip(tmp_path, suffix, format, subtype, tolerance, channels, n):
    path = tmp_path / f"a{suffix}"
    samples = noise(n, channels, peak=1.0)
    audio_files.write(path, samples, 22050, format=format, subtype=subtype)
    back = audio_files.read(path)
    assert (back.rate, back.format, back.subtype) == (22050, format, subtype)
    assert back.path == path
    assert back.samples.dtype == np.float32 and back.samples.flags.c_contiguous
    assert back.samples.shape == (channels, n)
    assert np.abs(back.samples - samples).max() <= tolerance


@pytest.mark.parametrize("suffix, subtype", [(".ogg", "VORBIS"), (".opus", "OPUS"), (".mp3", None)])
def test_lossy_round_trip(tmp_path, suffix, subtype):
    if suffix not in audio_files.FORMATS:
        pytest.skip(f"this libsndfile has no {audio_files.FORMATS.get(suffix, suffix)}")
    path = tmp_path / f"a{suffix}"
    samples = np.stack([0.5 * sine(440, RATE), 0.25 * sine(1000, RATE)])
    audio_files.write(path, samples, RATE)
    back = audio_files.read(path)
    assert back.rate == RATE
    assert subtype in (back.subtype, None)
    assert back.samples.shape == samples.shape
    middle = slice(1000, -1000)
    error = back.samples[:, middle] - samples[:, middle]
    assert np.all(rms_db(error) < rms_db(samples) - 20)
    again = tmp_path / "again"
    audio_files.write(again, back.samples, back.rate, format=back.format, subtype=back.subtype)
    assert audio_files.read(again).subtype == back.subtype


def test_one_channel_may_come_as_a_vector_and_float64(tmp_path):
    path = tmp_path / "a.wav"
    audio_files.write(path, np.array([0.5, -0.25]), 8000)
    assert audio_files.read(path).samples.tolist() == [[0.5, -0.25]]
    assert audio_files.read(path).subtype == "PCM_16"


def test_minutes_of_vorbis_do_not_crash(tmp_path):
    path = tmp_path / "long.ogg"
    samples = np.zeros(8000 * 600, np.float32)
    audio_files.write(path, samples, 8000)
    assert sf.info(path).frames == len(samples)


def test_float_subtypes_keep_what_exceeds_full_scale(tmp_path):
    audio_files.write(tmp_path / "a.wav", np.array([3.0, -2.0], np.float32), 8000, subtype="FLOAT")
    assert audio_files.read(tmp_path / "a.wav").samples.tolist() == [[3.0, -2.0]]


def test_full_scale_does_not_wrap(tmp_path):
    audio_files.write(tmp_path / "a.wav", np.array([1.0, -1.0]), 8000)
    assert audio_files.read(tmp_path / "a.wav").samples.tolist() == [[1 - 2**-15, -1.0]]


def test_missing_folder_and_text(tmp_path):
    refused(tmp_path / "nowhere.wav", "No such file", "check the path")
    folder = tmp_path / "folder.wav"
    folder.mkdir()
    refused(folder, "is not a file")
    (tmp_path / "text.wav").write_text("hello " * 100)
    refused(tmp_path / "text.wav", "not readable as audio", "convert")
    (tmp_path / "text.raw").write_text("hello " * 100)
    refused(tmp_path / "text.raw", "not readable as audio")


def test_zero_bytes_and_zero_samples(tmp_path):
    (tmp_path / "a.wav").touch()
    refused(tmp_path / "a.wav", "0 bytes")
    sf.write(tmp_path / "b.wav", np.zeros((0, 1)), RATE)
    refused(tmp_path / "b.wav", "0 samples")


@pytest.mark.parametrize(
    "name, subtype", [("a.wav", "PCM_16"), ("a.wav", "PCM_24"), ("a.wav", "FLOAT"),
                      ("a.aiff", "PCM_16"), ("a.flac", "PCM_16"), ("a.mp3", None)]
)  # fmt: skip
@pytest.mark.parametrize("share", [0.5, 0.99])
def test_truncated(tmp_path, name, subtype, share):
    if os.path.splitext(name)[1] not in audio_files.FORMATS:
        pytest.skip(f"this libsndfile does not write {name}")
    path = tmp_path / name
    audio_files.write(path, noise(40000), RATE, subtype=subtype)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    refused(path, "" if name == "a.flac" else "truncated")


def test_a_wav_cut_by_one_byte_is_truncated(tmp_path):
    path = tmp_path / "a.wav"
    audio_files.write(path, noise(100, 1), RATE)
    path.write_bytes(path.read_bytes()[:-1])
    refused(path, "199 of 200 bytes")


def wav_bytes(rate=RATE, channels=1, data=bytes(8), size=None, before=b""):
    fmt = struct.pack("<HHIIHH", 1, channels, rate, 2 * rate * channels, 2 * channels, 16)
    data_chunk = b"data" + struct.pack("<I", len(data) if size is None else size) + data
    body = b"WAVE" + b"fmt " + struct.pack("<I", len(fmt)) + fmt + before + data_chunk
    return b"RIFF" + struct.pack("<I", len(body)) + body


def test_the_crafted_wav_is_sound(tmp_path):
    path = tmp_path / "a.wav"
    odd_chunk = b"LIST" + struct.pack("<I", 3) + b"abc" + b"\0"
    contents = wav_bytes(before=odd_chunk)
    path.write_bytes(contents)
    assert audio_files.read(path).samples.tolist() == [[0, 0, 0, 0]]
    path.write_bytes(contents[:-2])
    refused(path, "6 of 8 bytes")


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFF000])
def test_a_wav_written_into_a_pipe_is_not_truncated(tmp_path, size):
    path = tmp_path / "a.wav"
    path.write_bytes(wav_bytes(size=size))
    assert audio_files.read(path).samples.shape == (1, 4)


def test_rate_zero_and_no_channels(tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(wav_bytes(rate=0))
    refused(path, "sample rate of 0")
    path.write_bytes(wav_bytes(channels=0))
    refused(path, "Channel count is zero")


def test_a_wav_cut_inside_its_header(tmp_path):
    path = tmp_path / "a.wav"
    whole = wav_bytes()
    for length in range(1, 44):
        path.write_bytes(whole[:length])
        refused(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_in_a_float_wav(tmp_path, value):
    path = tmp_path / "a.wav"
    samples = noise(100, 1)[0]
    samples[7] = value
    sf.write(path, samples, RATE, subtype="FLOAT")
    refused(path, "1 of 100 samples are NaN or infinite")


def test_a_header_that_promises_too_much_takes_no_memory(tmp_path):
    path = tmp_path / "a.flac"
    audio_files.write(path, noise(100, 1), RATE)
    contents = bytearray(path.read_bytes())
    contents[22:26] = b"\xff" * 4  # the count of samples in STREAMINFO
    path.write_bytes(contents)
    refused(path, "not readable as audio")


def test_no_permission_to_read(tmp_path, monkeypatch):
    path = tmp_path / "a.wav"
    audio_files.write(path, noise(100, 1), RATE)

    def deny(*args, **kwargs):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("builtins.open", deny)
    refused(path, "Permission denied", "check the path")


@pytest.mark.parametrize(
    "samples, rate, words",
    [
        (np.zeros((1, 2, 3), np.float32), RATE, "(1, 2, 3)"),
        (np.zeros((0, 100), np.float32), RATE, "(0, 100)"),
        (np.zeros((1, 0), np.float32), RATE, "(1, 0)"),
        (np.float32(1), RATE, "shape ()"),
        (np.zeros(10, np.int16), RATE, "int16"),
        (np.zeros(10, complex), RATE, "complex128"),
        (np.array([0, np.nan], np.float32), RATE, "1 of 2 samples are NaN"),
        (np.array([0, 1.0001], np.float32), RATE, "peak 1"),
        (np.zeros(10, np.float32), 0, "sample rate 0"),
        (np.zeros(10, np.float32), -8000, "sample rate -8000"),
        (np.zeros(10, np.float32), 8000.5, "sample rate 8000.5"),
        (np.zeros((2000, 10), np.float32), RATE, "2000 channels"),
    ],
)
def test_bad_samples_and_rates_are_refused_and_nothing_is_written(tmp_path, samples, rate, words):
    refused(tmp_path / "a.wav", words, call=lambda path: audio_files.write(path, samples, rate))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name, format, subtype, rate, channels, words",
    [
        ("a.xyz", None, None, RATE, 1, "'.xyz'"),
        ("a", None, None, RATE, 1, "suffix ''"),
        ("a.wav", "XYZ", None, RATE, 1, "'XYZ'"),
        ("a.flac", None, "FLOAT", RATE, 1, "FLAC FLOAT"),
        ("a.flac", None, None, RATE, 9, "9 channels"),
        ("a.opus", None, None, 44100, 1, "44100 Hz"),
        ("a.ogg", None, None, RATE, 256, "256 channels"),
    ],
)
def test_formats_that_do_not_fit(tmp_path, name, format, subtype, rate, channels, words):
    def call(path):
        audio_files.write(path, noise(100, channels), rate, format=format, subtype=subtype)

    refused(tmp_path / name, words, call=call)
    assert list(tmp_path.iterdir()) == []


def test_a_refused_write_keeps_the_earlier_file(tmp_path):
    path = tmp_path / "a.wav"
    audio_files.write(path, noise(100, 1), RATE)
    before = path.read_bytes()
    with pytest.raises(UserError):
        audio_files.write(path, 2 * noise(100, 1), RATE)
    assert path.read_bytes() == before


def test_find_audio(tmp_path):
    wanted, unwanted = ["a.ogg", "b/1.WAV", "b/2.flac"], ["b/list.csv", "notes.txt"]
    for name in (*unwanted, *reversed(wanted), ".hidden.wav", ".git/x.wav"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    found, others = audio_files.find_audio(str(tmp_path))
    assert [path.relative_to(tmp_path).as_posix() for path in found] == wanted
    assert [path.relative_to(tmp_path).as_posix() for path in others] == unwanted


def test_find_audio_refuses(tmp_path, monkeypatch):
    refused(tmp_path / "nowhere", "does not exist", call=audio_files.find_audio)
    refused(tmp_path, "no audio in 0 files", call=audio_files.find_audio)
    (tmp_path / "notes.txt").touch()
    refused(tmp_path, "no audio in 1 files", call=audio_files.find_audio)
    refused(tmp_path / "notes.txt", "is not a folder", call=audio_files.find_audio)

    def deny(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", deny)
    refused(tmp_path, "cannot be listed", call=audio_files.find_audio)


def test_seconds_by_the_header(tmp_path):
    audio_files.write(tmp_path / "a.wav", noise(4000), RATE)
    (tmp_path / "b.wav").write_text("hello")
    assert audio_files.seconds_by_header(tmp_path / "a.wav") == 0.25
    assert audio_files.seconds_by_header(tmp_path / "b.wav") == 0
    audio_files.write(tmp_path / "c.flac", noise(4000, 1), RATE)
    contents = bytearray((tmp_path / "c.flac").read_bytes())
    contents[22:26] = bytes(4)  # the count of samples in STREAMINFO: 0 stands for unknown
    (tmp_path / "c.flac").write_bytes(contents)
    assert audio_files.seconds_by_header(tmp_path / "c.flac") == 0


@pytest.mark.skipif(os.name != "posix", reason="elsewhere, all names are text")
def test_names_that_are_not_text(tmp_path):
    path = tmp_path / os.fsdecode(b"\xff.wav")
    samples = 0.1 * noise(1000, 1)
    audio_files.write(path, samples, RATE)
    assert os.listdir(os.fsencode(tmp_path)) == [b"\xff.wav"]
    whole = audio_files.read(path).samples
    assert np.abs(whole - samples).max() < 1e-4
    assert np.array_equal(audio_files.AudioFile(path).read_part(10, 20), whole[:, 10:20])
    assert audio_files.seconds_by_header(path) == 1000 / RATE
    other = tmp_path / os.fsdecode(b"\xfe.flac")
    audio_files.write_blocks(other, [whole], RATE, 1, format="FLAC", subtype="PCM_16")
    assert np.array_equal(audio_files.read(other).samples, whole)
    path.write_bytes(b"not audio")
    refused(path, "not readable as audio")


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3", ".aiff"])
def test_a_disk_that_fills_up_at_any_place_of_a_file_written_in_blocks(tmp_path, suffix):
    """libsndfile overlooks an error at the very end: the file would lack its last samples, and nobody would know."""
    format, subtype = audio_files.FORMATS[suffix]
    blocks = [0.1 * noise(5000, 1, seed=seed) for seed in range(8)]
    ended = set()
    with small_disk(tmp_path / "disk") as disk:
        path = disk / f"a{suffix}"
        for free in range(0, 100_000, 4096):
            empty(disk)
            with room_for(free, disk):
                try:
                    audio_files.write_blocks(path, blocks, RATE, 1, format=format, subtype=subtype)
                    ended.add("whole")
                except UserError as error:
                    ended.add("refused")
                    assert str(error).startswith(
                        f"{path}: cannot be written (No space left on device); free some"
                    )
            assert not list(disk.glob(".*"))
            if path.exists():
                assert audio_files.read(path).samples.shape[1] >= 40_000
            else:
                assert "whole" not in ended
    assert ended == {"whole", "refused"}
