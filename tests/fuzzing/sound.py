"""Short audio files of each format, and what is right when they are read."""

import io
from functools import cache

import numpy as np
import soundfile

RATE = 8000
WIDTHS = {
    "PCM_S8": 1, "PCM_U8": 1, "PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4, "DOUBLE": 8, "ULAW": 1, "ALAW": 1,
}  # fmt: skip


def samples(frames, channels=1, seed=0):
    """Noise with a hum in it, (frames, channels)."""
    rng = np.random.default_rng(seed)
    hum = np.sin(0.1 * np.arange(frames))[:, None]
    return np.clip(0.2 * rng.standard_normal((frames, channels)) + 0.2 * hum, -0.99, 0.99)


def encoded(frames, format, subtype, channels=1, rate=RATE, **how):
    """The bytes of a file."""
    file = io.BytesIO()
    soundfile.write(file, samples(frames, channels), rate, subtype=subtype, format=format, **how)
    return file.getvalue()


def _pcm(frames, format, subtype, channels=1):
    return encoded(frames, format, subtype, channels), frames * channels * WIDTHS[subtype]


@cache
def wavs():
    listed = b"LIST\x1a\0\0\0INFOISFT\x0e\0\0\0Lavf60.16.100\0"
    plain, amount = _pcm(1000, "WAV", "PCM_16")
    with_list = plain[:36] + listed + plain[36:]
    live = plain[:4] + b"\xff\xff\xff\xff" + plain[8:40] + b"\xff\xff\xff\xff" + plain[44:]
    return [
        (plain, amount), (with_list, amount), (live, amount), _pcm(700, "WAV", "PCM_24", 2), _pcm(900, "WAV", "FLOAT"),
        _pcm(800, "WAVEX", "PCM_16", 2), _pcm(801, "WAV", "PCM_U8"), _pcm(500, "RF64", "PCM_16"),
    ]  # fmt: skip


@cache
def streamed_wavs():
    return wavs()[:-1]  # RF64 does not go through a pipe


@cache
def aiffs():
    return [_pcm(1000, "AIFF", "PCM_16"), _pcm(700, "AIFF", "PCM_24", 2), _pcm(900, "AIFF", "FLOAT")]


@cache
def flacs():
    plain = encoded(9000, "FLAC", "PCM_16")
    return [(plain, 9000), (without_length(plain), 9000), (encoded(5000, "FLAC", "PCM_24", 2), 5000)]


def without_length(flac):
    """A FLAC as a live encoder writes it: the total number of samples and the MD5 are 0."""
    changed = bytearray(flac)
    changed[21] &= 0xF0
    changed[22:42] = bytes(20)
    return bytes(changed)


@cache
def oggs():
    return [(encoded(16000, "OGG", "VORBIS"), 16000), (encoded(6000, "OGG", "VORBIS", 2), 6000)]


@cache
def opuses():
    return [
        (encoded(24000, "OGG", "OPUS"), 24000),
        (encoded(48000, "OGG", "OPUS", 2, rate=48000), 48000),
    ]


@cache
def mp3s():
    plain = encoded(16000, "MP3", "MPEG_LAYER_III")
    varying = encoded(
        44100, "MP3", "MPEG_LAYER_III", rate=44100, bitrate_mode="VARIABLE", compression_level=0.5
    )
    return [
        (plain, 16000), (without_tag(plain), 16000), (with_artwork(plain), 16000),
        (varying, 44100), (without_tag(varying), 44100),
    ]  # fmt: skip


_BITRATES = {  # kbit/s of layer III, by whether the version is 1
    True: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    False: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}


def mp3_frames(data):
    """The frames of an MP3, with whatever stands between them, as pieces whose join is the data."""
    parts, at, found = [], 0, 0
    while (at := data.find(b"\xff", at)) >= 0 and at + 4 <= len(data):
        size = _mp3_frame_bytes(data[at : at + 4])
        if not size:
            at += 1
            continue
        if at > found:
            parts.append(data[found:at])
        parts.append(data[at : at + size])
        at = found = at + size
    return [*parts, data[found:]] if data[found:] or not parts else parts


def _mp3_frame_bytes(head):
    """The size that the header of an MPEG frame of layer III gives; 0 if it is none."""
    version, layer = head[1] >> 3 & 3, head[1] >> 1 & 3
    bitrate, rate = head[2] >> 4, head[2] >> 2 & 3
    if head[1] & 0xE0 != 0xE0 or layer != 1 or version == 1 or bitrate in (0, 15) or rate == 3:
        return 0
    hertz = (44100, 48000, 32000)[rate] // {3: 1, 2: 2, 0: 4}[version]
    kbits = _BITRATES[version == 3][bitrate]
    return (144 if version == 3 else 72) * 1000 * kbits // hertz + (head[2] >> 1 & 1)


def without_tag(mp3):
    """An MP3 without the first frame, which says how long it is."""
    return b"".join(part for part in mp3_frames(mp3) if b"Xing" not in part[:64] and b"Info" not in part[:64])


def with_artwork(mp3, size=3000):
    """An MP3 with an ID3 tag that holds a picture."""
    frame = (
        b"APIC"
        + (size + 14).to_bytes(4, "big")
        + b"\0\0\0image/jpeg\0\3\0"
        + bytes(range(250)) * (size // 250)
    )
    n = len(frame)
    return b"ID3\3\0\0" + bytes([n >> 21 & 127, n >> 14 & 127, n >> 7 & 127, n & 127]) + frame + mp3


def bytes_there(data, base, amount):
    """The least that damaged bytes of PCM hold: all but as many as the header of the good file has."""
    return max(0, min(amount, len(data) - (len(base) - amount)))


def _measured(path):
    """A file read whole, after a check that all ways to read it agree."""
    from tasnet_np.corpus.layouts import Found
    from tasnet_np.corpus.manifest import inspect
    from tasnet_np.sound.audio_files import AudioFile, read
    from tasnet_np.sound.resampling import resample

    recording = read(path)
    found = recording.samples
    assert found.dtype == np.float32 and found.ndim == 2 and np.isfinite(found).all(), "no finite samples"
    in_blocks = sum(block.shape[1] for block in AudioFile(path))
    assert in_blocks == found.shape[1], f"{in_blocks} frames in blocks, {found.shape[1]} at once"
    _, entries, problems = inspect([Found("speech", path.parent, path.name)])
    assert len(entries) + len(problems) == 1
    if entries:
        entry = entries[0]
        about = entry.rate, entry.channels, entry.frames
        assert about == (recording.rate, *found.shape), f"{about} in the manifest"
    resample(found[:, :64], recording.rate, RATE)
    return recording


def _offset_in_aiff(path):
    """Bytes before the samples that a flipped bit may have set: AIFF has a field for it."""
    data = path.read_bytes()
    at = data.find(b"SSND") + 8
    return int.from_bytes(data[at : at + 4], "big") if data[:4] == b"FORM" else 0


def check_pcm(path, least):
    """All bytes of samples come out."""
    recording = _measured(path)
    width = WIDTHS.get(recording.subtype)
    if width:  # a flipped bit makes other codes of samples out of PCM
        out = recording.samples.size * width + _offset_in_aiff(path)
        assert out > least - width * len(recording.samples), (
            f"{out} of at least {least} bytes of samples, {recording.subtype}"
        )


def check_frames(path, least):
    """All frames come out."""
    recording = _measured(path)
    frames = recording.samples.shape[1]
    assert frames >= least, f"{frames} of at least {least} frames"
    assert frames <= 60 * RATE * 60, f"{frames} frames in {path.stat().st_size} bytes"


def check_stream(path, least):
    """All bytes of samples come out of a pipe."""
    from tasnet_np.listening.pcm_stream import frames_of, read_wav_header

    with open(path, "rb") as file:
        pcm, size = read_wav_header(file)
        blocks = list(frames_of(file, pcm, size, max(1, pcm.rate // 100)))
    out = sum(block.shape[1] for block in blocks) * pcm.frame_bytes
    assert all(block.dtype == np.float32 and len(block) == pcm.channels for block in blocks)
    assert out >= least - pcm.frame_bytes, f"{out} of at least {least} bytes of samples"
