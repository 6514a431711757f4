"""Inputs that failed once, made by code: name -> (kind, function that returns the bytes and the sound in them)."""

import io
import json
import struct
import zipfile
import zlib

import numpy as np
from fuzzing import sound, stored

CORPUS = {}


def _failed(kind, name, make):
    CORPUS[f"{kind}: {name}"] = (kind, make)


def wav(samples=1000, *, before=b"", data_size=None, riff_size=None, channels=1, rate=8000, after=b""):
    """A 16-bit WAV with whatever numbers are wanted in its header."""
    body = bytes(range(200)) * (samples // 100)
    fmt = struct.pack(
        "<HHIIHH", 1, channels, rate, rate * 2 * channels & 0xFFFFFFFF, 2 * channels & 0xFFFF, 16
    )
    size = len(body) if data_size is None else data_size
    contents = b"WAVE" + before + b"fmt \x10\0\0\0" + fmt + b"data" + struct.pack("<I", size) + body + after
    riff = len(contents) if riff_size is None else riff_size
    return b"RIFF" + struct.pack("<I", riff) + contents, len(body)


WAVS = {
    "data of size 0": {"data_size": 0},
    "data of size 0 and RIFF of size 0": {"data_size": 0, "riff_size": 0},
    "data size of a quarter": {"data_size": 500},
    "data size past 4 GiB": {"data_size": (2000 + (1 << 32) - 36) % (1 << 32)},
    "placeholder 7fffffff": {"data_size": 0x7FFFFFFF},
    "placeholder 7ffff000": {"data_size": 0x7FFFF000},
    "placeholder 80000000": {"data_size": 0x80000000},
    "placeholder fffffffe": {"data_size": 0xFFFFFFFE},
    "placeholder ffffff00": {"data_size": 0xFFFFFF00},
    "a list of 4 GB": {"before": b"LIST\xff\xff\xff\xffINFO"},
    "a list of 2 GB": {"before": b"LIST\0\0\0\x80INFO"},
    "65535 channels": {"channels": 65535},
    "0 channels": {"channels": 0},
    "1 Hz": {"rate": 1},
    "2147483647 Hz": {"rate": (1 << 31) - 1},
    "4294967295 Hz": {"rate": (1 << 32) - 1},
    "10000 empty chunks": {"before": b"junk\0\0\0\0" * 10000},
}
for _kind in ("wav", "stream"):
    for _name, _numbers in WAVS.items():
        _failed(_kind, _name, lambda numbers=_numbers: wav(**numbers))
    _failed(_kind, "a header, then zeros", lambda: (b"RIFF\xff\xff\xff\xffWAVE" + bytes(4_000_000), 0))
    _failed(_kind, "a cut fmt", lambda: (b"RIFF\xff\xff\xff\xffWAVEfmt \4\0\0\0\1\0\1\0data\4\0\0\0abcd", 0))
    _failed(_kind, "two files, one after the other", lambda: (wav()[0] * 2, 4000))


def aiff_of_zero_size():
    data, amount = sound.aiffs()[0]
    at = data.index(b"SSND") + 4
    return data[:at] + bytes(4) + data[at + 4 :], amount


_failed("aiff", "sound of size 0", aiff_of_zero_size)
_failed("aiff", "DWVW", lambda: (sound.encoded(3000, "AIFF", "DWVW_16"), 0))
_failed("flac", "without length", lambda: (sound.without_length(sound.flacs()[0][0]), 9000))
_failed("flac", "two, one after the other", lambda: (sound.flacs()[0][0] * 2, 18000))
_failed("ogg", "chained", lambda: (sound.oggs()[0][0] + sound.encoded(9000, "OGG", "VORBIS"), 25000))
_failed("ogg", "chained with another rate", lambda: (
    sound.oggs()[0][0] + sound.encoded(9000, "OGG", "VORBIS", rate=16000), 25000))  # fmt: skip
_failed("opus", "chained", lambda: (sound.opuses()[0][0] * 2, 48000))


def _mp3(frames=26460, **how):
    return sound.encoded(frames, "MP3", "MPEG_LAYER_III", rate=44100, **how)


def two_bit_rates(first, second):
    levels = {"low": 0.99, "high": 0.0}
    joined = (
        sound.without_tag(_mp3(bitrate_mode="CONSTANT", compression_level=levels[x])) for x in (first, second)
    )
    return b"".join(joined), 2 * 26460


def varying_without_tag():
    rng, quiet = np.random.default_rng(0), np.zeros(30000)
    file = io.BytesIO()
    signal = np.concatenate([quiet, 0.5 * rng.uniform(-1, 1, 20000), quiet, quiet])
    how = {"bitrate_mode": "VARIABLE", "compression_level": 0.5}
    sound.soundfile.write(file, signal, 44100, format="MP3", subtype="MPEG_LAYER_III", **how)
    return sound.without_tag(file.getvalue()), len(signal)


_tail = b"APETAGEX" + bytes(3000) + b"TAG" + bytes(125)
_failed("mp3", "varying bit rate without a tag", varying_without_tag)
_failed("mp3", "low, then high bit rate", lambda: two_bit_rates("low", "high"))
_failed("mp3", "high, then low bit rate", lambda: two_bit_rates("high", "low"))
_failed("mp3", "two with tags", lambda: (_mp3() * 2, 2 * 26460))
_failed("mp3", "without a tag", lambda: (sound.without_tag(_mp3()), 26460))
_failed("mp3", "artwork", lambda: (sound.with_artwork(_mp3(), 60000), 26460))
_failed("mp3", "artwork without a tag", lambda: (sound.with_artwork(sound.without_tag(_mp3()), 60000), 26460))
_failed("mp3", "APE and ID3v1 at the end", lambda: (sound.without_tag(_mp3()) + _tail, 26460))


# Checkpoints.


def checkpoint(change=lambda arrays: None, header=lambda header: None):
    """A checkpoint whose arrays and header were changed."""
    with np.load(io.BytesIO(stored.checkpoints()[0][0])) as archive:
        arrays = {name: archive[name] for name in archive.files}
    values = json.loads(str(arrays["header"]))
    header(values)
    arrays["header"] = np.array(json.dumps(values))
    change(arrays)
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue(), 0


def with_entry(name, contents):
    """A checkpoint with one more entry, of any bytes."""
    file = io.BytesIO(checkpoint()[0])
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(name, contents)
    return file.getvalue(), 0


def npy_header(shape, descr="<f4"):
    """The header of an array that does not follow."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
    return file.getvalue()


def zip_bomb(megabytes=3000):
    """A zip file of one entry, `header.npy`, that grows a thousand times."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    head = npy_header((megabytes << 18,))
    packed = packer.compress(head) + packer.flush(zlib.Z_FULL_FLUSH)
    megabyte = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    packed += megabyte * megabytes + packer.flush()
    name, size = b"header.npy", len(head) + (megabytes << 20)
    about = struct.pack("<5H3L2H", 20, 0, 8, 0, 0, 0, len(packed), size, len(name), 0)
    local = b"PK\3\4" + about + name
    central = b"PK\1\2\x14\0" + about + struct.pack("<3H2L", 0, 0, 0, 0, 0) + name
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, len(central), len(local) + len(packed), 0)
    return local + packed + central + end, 0


def _as(dtype):
    def change(arrays):
        arrays["model/mask.w"] = np.zeros(arrays["model/mask.w"].shape, dtype)

    return change


def _filled(value):
    def change(arrays):
        arrays["model/mask.w"] = np.full(arrays["model/mask.w"].shape, value)

    return change


def _config(**values):
    return lambda header: header["config"].update(values)


def flipped_in_every_entry(data, bit, place):
    changed, at = bytearray(data), 0
    while (at := data.find(b"PK\1\2", at)) >= 0:
        changed[at + 2 + place] ^= 1 << bit
        at += 4
    return bytes(changed)


for _dtype in ("c8", "?", "M8[s]", "i4", "S3", "U3", "V4", ">f4", "f2"):
    _failed("checkpoint", f"a parameter of {_dtype}", lambda dtype=_dtype: checkpoint(_as(dtype)))
for _value in (1e39, np.nan, -np.inf):
    _failed("checkpoint", f"a parameter of {_value}", lambda value=_value: checkpoint(_filled(value)))
for _values in (
    {"filters": 20_000_000}, {"blocks": 60}, {"repeats": 10**6}, {"filters": 10**30}, {"sample_rate": (1 << 31) - 1},
    {"sample_rate": 1}, {"kernel": 10**9}, {"filters": 8.0}, {"filters": True}, {"norm": []}, {"norm": {}}, {"odd": 1},
):  # fmt: skip
    _failed("checkpoint", f"{_values}", lambda values=_values: checkpoint(header=_config(**values)))
_failed(
    "checkpoint",
    "numbers of another type",
    lambda: checkpoint(header=lambda header: header.update(numbers=[1])),
)
_failed(
    "checkpoint",
    "a dtype that is a list",
    lambda: checkpoint(header=lambda header: header.update(dtype=["f4"])),
)
_failed("checkpoint", "deep JSON", lambda: checkpoint(lambda a: a.update(header=np.array("[" * 100_000))))
_failed(
    "checkpoint",
    "a number of 5000 digits",
    lambda: checkpoint(lambda a: a.update(header=np.array("1" * 5000))),
)
_failed("checkpoint", "zip bomb", zip_bomb)
_failed(
    "checkpoint", "an array that is not there", lambda: with_entry("training/x.npy", npy_header((1 << 29,)))
)
_failed("checkpoint", "a shape beyond all", lambda: with_entry("training/x.npy", npy_header((1 << 62, 8))))
_failed(
    "checkpoint", "objects", lambda: with_entry("training/x.npy", npy_header((1,), "|O") + b"cos\nsystem\n.")
)
_failed(
    "checkpoint", "a broken header of an array", lambda: with_entry("x.npy", b"\x93NUMPY\1\0\x0a\0{'a': ((((")
)
_failed("checkpoint", "an entry of a strange name", lambda: with_entry("../../x\0.npy", b"x"))
_failed("checkpoint", "of one array", lambda: (npy_header((1 << 30,)), 0))
_failed("checkpoint", "a pickle", lambda: (b"\x80\4\x95cos\nsystem\n.", 0))
for _bit in (0, 3, 5):
    for _place in (6, 8):  # the flags, and the method of compression
        _failed("checkpoint", f"bit {_bit} of byte {_place} of every entry", lambda bit=_bit, place=_place: (
            flipped_in_every_entry(stored.checkpoints()[0][0], bit, place), 0))  # fmt: skip


# JSON.

TEXTS = {
    "deep": "[" * 100_000, "deeper": '{"a":' * 200_000,
    "a long number": "1" * 5000, "a float for an infinity": "1e999",
    "not UTF-8": "\udcff", "a byte order mark": "\ufeff{}",
    "nothing": "", "null": "null", "a string": '"a"', "zeros": "\0" * 99,
}  # fmt: skip
for _kind in ("manifest", "config", "log"):
    for _name, _text in TEXTS.items():
        _failed(_kind, _name, lambda text=_text: (text.encode("utf-8", "surrogateescape"), 0))


def changed_json(kind, old, new):
    data = {"manifest": stored.manifests, "config": stored.configs, "log": stored.logs}[kind]()[0][0]
    assert old in data
    return data.replace(old, new, 1), 0


CHANGES = {
    "manifest": [
        (b'"rate": 8000', b'"rate": "8000"'),
        (b'"rate": 8000', b'"rate": 2147483647'), (b'"frames": 9000', b'"frames": 1e308'),
        (b'"folder": 1', b'"folder": 7'), (b'"folder": 1', b'"folder": -1'),
        (b'"path": "ann/1.wav"', b'"path": null'),
        (b'"kind": "noise"', b'"kind": []'),
        (b'"level_db": -20.0', b'"level_db": NaN'), (b'"version": 1', b'"version": [1]'),
        (b'"problems": ["skipped a: is silent"]', b'"problems": 3'), (b'"channels": 1', b'"channels": true'),
    ],
    "config": [
        (b'"seconds": 1.0', b'"seconds": 1e308'),
        (b'"batch": 4', b'"batch": 4.5'), (b'"snr_db": [', b'"snr_db": [[1], '),
        (b'"filters": 128', b'"filters": 1e400'), (b'"batch": 4', b'"batch": 100000000000000000000'),
        (b'"norm": "cLN"', b'"norm": ["cLN"]'),
        (b'"minutes": 3.0', b'"minutes": "3"'), (b'"speech": "/s"', b'"speech": 5'),
    ],
    "log": [
        (b'"step": 1', b'"step": "1"'), (b'"step": 1', b'"step": null'), (b'"loss": -3.5', b'"loss": "a"'),
        (b'{"speech_si_snri_db": 3.0, "noise_si_snri_db": 2.0}', b"[]"),
        (b'"seconds": 2.5', b'"seconds": {}'),
        (b'"gradient_norms": {', b'"gradient_norms": 3, "odd": {'),
        (b'"peak_mb": 100.5', b'"peak_mb": "much"'),
    ],
}  # fmt: skip
for _kind, _pairs in CHANGES.items():
    for _old, _new in _pairs:
        _failed(
            _kind, _new.decode()[:50], lambda kind=_kind, old=_old, new=_new: changed_json(kind, old, new)
        )
