"""Audio files made up in memory, right ones and some whose header is wrong. libsndfile encodes them."""

import io
import struct

import numpy as np
import soundfile

RATE = 8000


def voice(seconds=2.0, rate=RATE, seed=0, channels=1):
    """A buzz in syllables and a little noise, shape (n, channels), float32."""
    rng, time = np.random.default_rng(seed), np.arange(round(seconds * rate)) / rate
    syllables = np.clip(np.sin(2 * np.pi * 2.7 * time + seed) + 0.3, 0, 1)
    buzz = sum(np.sin(2 * np.pi * 150 * k * time + k) / k for k in range(1, 9)) * syllables
    samples = 0.1 * buzz[:, None] + 0.02 * rng.standard_normal((len(time), channels))
    return samples.astype(np.float32)


def encoded(samples, rate=RATE, format="WAV", subtype="PCM_16", **how):
    """The bytes of a file."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=format, subtype=subtype, **how)
    return file.getvalue()


def decoded(data):
    """The samples (n, channels) float32 of a file whose header is right, read in one go."""
    return soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)[0]


def over(data, place, piece):
    """The bytes with a piece of them replaced."""
    return data[:place] + piece + data[place + len(piece) :]


def chunk(name, contents, order="<"):
    """A chunk of a WAV or AIFF file, with the byte that makes its length even."""
    return name + struct.pack(order + "I", len(contents)) + contents + bytes(len(contents) % 2)


def wav(samples, size=None, *, before=b"", after=b"", rate=RATE, subtype="PCM_16", all_size=None):
    """A WAV file by hand: with other chunks around, and with another size than that of the samples."""
    plain = encoded(samples, rate, "WAV", subtype)
    data = plain.index(b"data")
    head, body = plain[12:data], plain[data + 8 :][: int.from_bytes(plain[data + 4 : data + 8], "little")]
    pad = bytes(len(body) % 2)
    stated = struct.pack("<I", len(body) if size is None else size)
    contents = b"WAVE" + before + head + b"data" + stated + body + pad + after
    return b"RIFF" + struct.pack("<I", len(contents) if all_size is None else all_size) + contents


def flac_of(data, total):
    """A FLAC file whose header gives another number of samples, which has 36 bits."""
    return over(data, 21, bytes([data[21] & 0xF0 | total >> 32]) + struct.pack(">I", total & 0xFFFFFFFF))


def id3(size):
    """A tag of so many bytes before an MP3 or FLAC file, like a picture."""
    picture = np.random.default_rng(size).integers(0, 256, size, np.uint8).tobytes()
    return b"ID3\x03\x00\x00" + bytes(size >> shift & 127 for shift in (21, 14, 7, 0)) + picture


ID3V1 = b"TAG" + bytes(125)
APE = b"APETAGEX" + bytes(3000)


def mp3(samples, rate=44100, **how):
    return encoded(samples, rate, "MP3", "MPEG_LAYER_III", **how)


def mp3_frames(data):
    """The frames of an MP3 file (layer III) that has nothing else in it."""
    first = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
    later = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
    frames, place = [], 0
    while place < len(data):
        assert data[place] == 0xFF
        version, kbps, rate, padding = (data[place + 1] >> 3 & 3, data[place + 2] >> 4, data[place + 2] >> 2 & 3,
                                        data[place + 2] >> 1 & 1)  # fmt: skip
        hertz = (44100, 48000, 32000)[rate] // {3: 1, 2: 2, 0: 4}[version]
        size = (144 if version == 3 else 72) * 1000 * (first if version == 3 else later)[
            kbps - 1
        ] // hertz + padding
        frames.append(data[place : place + size])
        place += size
    return frames


def without_tag(data):
    """An MP3 file without the frame that says how many there are."""
    return b"".join(
        frame for frame in mp3_frames(data) if b"Xing" not in frame[:64] and b"Info" not in frame[:64]
    )


def ogg_pages(data):
    """The pages of an Ogg file: (place, size)."""
    pages, place = [], 0
    while place < len(data):
        assert data[place : place + 4] == b"OggS"
        sizes = data[place + 27 : place + 27 + data[place + 26]]
        pages.append((place, 27 + len(sizes) + sum(sizes)))
        place += pages[-1][1]
    return pages
