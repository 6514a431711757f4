"""All samples that are in a file are read, whatever length its header gives; or an error says what is missing."""

import struct

import numpy as np
import pytest
from made_up_audio import (
    APE,
    ID3V1,
    RATE,
    chunk,
    decoded,
    encoded,
    flac_of,
    id3,
    mp3,
    mp3_frames,
    ogg_pages,
    over,
    voice,
    wav,
    without_tag,
)  # fmt: skip

from tasnet_np.containers import chunks
from tasnet_np.errors import UserError
from tasnet_np.sound.audio_files import BLOCK, UNKNOWN_LENGTH, AudioFile, read

LONG, SHORT = voice(9), voice(1, seed=1)  # longer than a block, shorter than one
STEREO = voice(9, channels=2)
PCM = decoded(wav(LONG))


def write(tmp_path, data, name):
    path = tmp_path / name
    path.write_bytes(data)
    return path


def check(path, expected, tolerance=0.0):
    """A file is read whole and in parts, and has exactly these samples (n, channels)."""
    recording = read(path)
    assert recording.samples.shape == expected.T.shape
    assert np.abs(recording.samples - expected.T).max() <= tolerance
    n, file = len(expected), AudioFile(path)
    for start, stop in ((0, 1), (0, n), (n - 1, n), (n // 3, n // 3 + 1000), (n // 2, n - 7), (n - 3000, n)):
        part = file.read_part(start, stop)
        assert np.abs(part - recording.samples[:, start:stop]).max() <= max(
            tolerance, 2e-6 * (path.suffix == ".mp3")
        )
    with pytest.raises(UserError, match=f"ends at sample {n}, expected at least {n + 5}; it has changed"):
        file.read_part(n - 5, n + 5)


def refused(path, words):
    for call in (read, lambda path: list(AudioFile(path))):
        with pytest.raises(UserError) as caught:
            call(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)
        assert words in str(caught.value), str(caught.value)


# WAV.

PLACEHOLDERS = (
    0xFFFFFFFF, 0x7FFFF000, 0x80000000, 0x7FFFFFFF - 44, 0x7FFFEFFF, 0xFFFFFFF0, 0x40000000, 0x7FFFFFFF, 0xFFFFFFDB,
    0xC0000000, 0x10000000, 0x80000024,
)  # fmt: skip


@pytest.mark.parametrize("size", [0, 1, 2, 16000, 15999, 2 * len(LONG) - 1, 2 * len(LONG) - 2, *PLACEHOLDERS])
@pytest.mark.parametrize("both", [False, True])
def test_a_wav_with_another_size_than_its_samples_have(tmp_path, size, both):
    check(write(tmp_path, wav(LONG, size, all_size=(size + 36) % 2**32 if both else None), "a.wav"), PCM)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW"])
@pytest.mark.parametrize("size", [0, 960, 961, 0xFFFFFFFF])
def test_other_samples_and_two_channels(tmp_path, subtype, size):
    expected = decoded(wav(STEREO, subtype=subtype))
    check(write(tmp_path, wav(STEREO, size, subtype=subtype), "a.wav"), expected)


@pytest.mark.parametrize("subtype", ["IMA_ADPCM", "MS_ADPCM", "GSM610", "G721_32", "NMS_ADPCM_16"])
@pytest.mark.parametrize("size", [0, 512, 0xFFFFFFFF])
def test_coded_samples(tmp_path, subtype, size):
    samples = read(write(tmp_path, wav(LONG, size, subtype=subtype), "a.wav")).samples.T
    expected = decoded(wav(LONG, subtype=subtype))
    assert samples.shape == expected.shape
    assert np.array_equal(samples[: len(LONG)], expected[: len(LONG)])  # then comes what fills the last block


@pytest.mark.parametrize("size", [2 * len(LONG) + 2, 200_000, 3_000_000_000, 0x7F000001])
def test_a_wav_with_fewer_samples_than_promised_is_truncated(tmp_path, size):
    refused(
        write(tmp_path, wav(LONG, size), "a.wav"), f"truncated ({2 * len(LONG)} of {size} bytes of samples)"
    )


TRAILERS = {
    "a list": chunk(b"LIST", b"INFOISFT\x04\0\0\0abc\0"),
    "two chunks of odd lengths": chunk(b"abcd", b"odd") + chunk(b"id3 ", b"x" * 31),
    "an odd chunk without its pad": chunk(b"abcd", b"odd")[:-1] + chunk(b"LIST", b"even"),
    "a tag": ID3V1,
    "an APE tag": APE,
    "a list that is cut": chunk(b"LIST", b"x" * 100)[:50],
}


@pytest.mark.parametrize("what", TRAILERS)
@pytest.mark.parametrize("samples", [LONG, LONG[:-1]], ids=["even", "odd"])
def test_what_follows_the_samples_is_no_sound(tmp_path, what, samples):
    for subtype in ("PCM_16", "PCM_U8", "PCM_24"):
        plain = wav(samples, subtype=subtype)
        check(write(tmp_path, plain + TRAILERS[what], "a.wav"), decoded(plain))


def test_an_unknown_chunk_that_is_cut_is_no_sound_if_the_size_of_all_says_so(tmp_path):
    check(write(tmp_path, wav(LONG, after=chunk(b"abcd", b"x" * 100))[:-60], "a.wav"), PCM)


def test_the_last_byte_of_an_odd_chunk_may_be_missing(tmp_path):
    data = wav(LONG[:-1], subtype="PCM_U8")
    assert len(data) % 2 == 0
    check(write(tmp_path, data[:-1], "a.wav"), decoded(data))


def test_a_chunk_of_4_gb_before_the_samples(tmp_path):
    refused(
        write(tmp_path, over(wav(LONG, before=chunk(b"LIST", b"x" * 100)), 16, b"\xf0\xff\xff\xff"), "a.wav"),
        "data",
    )


@pytest.mark.parametrize("chunks_before", [chunks.MOST_CHUNKS - 2, chunks.MOST_CHUNKS])
def test_chunks_are_counted(tmp_path, chunks_before):
    path = write(tmp_path, wav(LONG, before=chunk(b"JUNK", b"") * chunks_before), "a.wav")
    if chunks_before < chunks.MOST_CHUNKS:
        check(path, PCM)
    else:
        refused(path, "has more than 4096 chunks before its samples")


def test_a_header_followed_by_zeros(tmp_path):
    refused(write(tmp_path, wav(LONG)[:12] + bytes(10_000_000), "a.wav"), "not readable as audio")


def test_a_wav_of_more_than_4_gib(tmp_path):
    """A file with a hole: its size in the header lacks what is beyond 32 bits."""
    path, bytes_of_samples = tmp_path / "a.wav", (1 << 32) + 64_000
    last = np.arange(8000, dtype="<i2").reshape(4000, 2)
    head = wav(STEREO[:1], bytes_of_samples % 2**32)[:44]
    for after in (b"", chunk(b"LIST", b"x" * 100)):
        with open(path, "wb") as file:
            file.write(head)
            file.seek(44 + bytes_of_samples - last.nbytes)
            file.write(last.tobytes() + after)
        file = AudioFile(path)
        assert (file.frames, file.format, file.channels) == (bytes_of_samples // 4, "WAV", 2)
        assert (
            file.note == "its header gives 64000 bytes of samples, but 4295031296 are there; all were taken"
        )
        part = file.read_part(file.frames - 4100, file.frames)
        assert np.array_equal(part[:, 100:].T, last / np.float32(2**15)) and not part[:, :100].any()


def test_a_note_says_what_was_wrong(tmp_path):
    for size, note in (
        (16000, "its header gives 16000 bytes of samples, but 144000 are there"),
        (0, ""),
        (None, ""),
    ):
        assert read(write(tmp_path, wav(LONG, size), "a.wav")).note.startswith(note)
    for size in (0, 0xFFFFFFFF, None):
        assert read(write(tmp_path, wav(LONG, size), "a.wav")).note == ""


# Other containers.

CONTAINERS = {  # format: suffix, where the size of the samples is, how it is written, what it counts beside them
    "RF64": (".wav", lambda data: data.index(b"ds64") + 16, "<Q", 0),
    "W64": (".w64", lambda data: data.index(b"data\xf3") + 16, "<Q", 24),
    "CAF": (".caf", lambda data: data.index(b"data") + 4, ">Q", 4),
    "AU": (".au", lambda data: 8, ">I", 0),
    "AIFF": (".aiff", lambda data: data.index(b"SSND") + 4, ">I", 8),
}


@pytest.mark.parametrize("format", CONTAINERS)
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
def test_other_containers(tmp_path, format, subtype):
    suffix, place_of, kind, beside = CONTAINERS[format]
    data = encoded(STEREO, RATE, format, subtype)
    place, expected, bits = place_of(data), decoded(data), 8 * struct.calcsize(kind)
    (right,) = struct.unpack_from(kind, data, place)
    unknown = (0xFFFFFFFF, 0x7FFFF000, 0, 2**bits - 1)
    for size in (right, right - 1, right - 4800, beside, beside + 480, beside + 481, *unknown):
        check(write(tmp_path, over(data, place, struct.pack(kind, size)), f"a{suffix}"), expected)
    refused(write(tmp_path, data[:-1200], f"a{suffix}"), "is truncated")
    refused(write(tmp_path, over(data, place, struct.pack(kind, right + 2400)), f"a{suffix}"), "is truncated")
    joined = data + encoded(STEREO[:800], RATE, format, subtype)
    check(write(tmp_path, joined, f"a{suffix}"), np.concatenate([expected, expected[:800]]))


def test_chunks_after_the_samples_of_w64_are_no_sound(tmp_path):
    name = b"junk" + bytes.fromhex("f3acd3118cd100c04f8edb8a")
    data = encoded(LONG, format="W64") + name + struct.pack("<Q", 24 + 200) + bytes(200)
    check(write(tmp_path, data, "a.w64"), PCM)


@pytest.mark.parametrize("endian", ["LITTLE", "BIG"])
def test_the_order_of_bytes(tmp_path, endian):
    for format, place, sign in (("WAV", 40, "<>"), ("AU", 8, "<>")):
        data = encoded(LONG, format=format, endian=endian)
        size = struct.pack(sign[endian == "BIG"] + "I", 1000)
        check(write(tmp_path, over(data, place, size), "a.wav"), PCM)


@pytest.mark.parametrize("subtype", ["DWVW_16", "DWVW_24", "IMA_ADPCM", "GSM610"])
def test_coded_samples_of_aiff(tmp_path, subtype):
    data = encoded(LONG, format="AIFF", subtype=subtype)
    count, size = data.index(b"COMM") + 10, data.index(b"SSND") + 4
    path = write(tmp_path, data, "a.aiff")
    check(path, expected := read(path).samples.T)
    assert len(expected) == len(LONG) and np.abs(expected - LONG).max() < {
        "GSM610": 0.2,
        "IMA_ADPCM": 0.2,
    }.get(subtype, 1e-4)
    for wrong in (0, 8, 1008, 0xFFFFFFFF):
        check(write(tmp_path, over(data, size, struct.pack(">I", wrong)), "a.aiff"), expected)
    for wrong in (0, 5000, 0xFFFFFFFF):  # then what pads the end of the coding cannot be told from sound
        samples = read(write(tmp_path, over(data, count, struct.pack(">I", wrong)), "a.aiff")).samples.T
        assert np.array_equal(samples[: len(LONG)], expected) and len(samples) <= len(LONG) + 16
    refused(write(tmp_path, data[: len(data) // 2], "a.aiff"), "truncated")


def test_files_that_do_not_belong_together_are_refused(tmp_path):
    for other in (wav(SHORT, rate=16000), wav(STEREO)):
        refused(
            write(tmp_path, wav(LONG) + other, "a.wav"),
            "has parts of different kinds (8000 Hz with 1 channels, then",
        )
    refused(write(tmp_path, wav(LONG) + wav(SHORT)[:-10], "a.wav"), "is truncated")


def test_joined_files_with_chunks_and_wrong_sizes(tmp_path):
    expected = np.concatenate([PCM, decoded(wav(SHORT)), PCM])
    data = wav(LONG, after=chunk(b"LIST", b"abc")) + wav(SHORT) + wav(LONG, 0)
    check(write(tmp_path, data, "a.wav"), expected)


# FLAC.

FLAC = encoded(LONG, format="FLAC")
FLAC_PCM = decoded(FLAC)


@pytest.mark.parametrize("total", [0, 1, 100, 4096, len(LONG) - 1, len(LONG)])
def test_a_flac_whose_header_gives_too_few_samples_or_none(tmp_path, total):
    path = write(tmp_path, flac_of(FLAC, total), "a.flac")
    check(path, FLAC_PCM)
    assert AudioFile(path).frames == (total or UNKNOWN_LENGTH)
    file = AudioFile(path)
    assert sum(block.shape[1] for block in file) == file.frames == len(LONG) > BLOCK
    note = f"has more than the {total} samples that its header promises"
    assert file.note.startswith(note) if 0 < total < len(LONG) else file.note == ""


@pytest.mark.parametrize("total", [len(LONG) + 1, 2 * len(LONG), 2**36 - 1])
def test_a_flac_whose_header_gives_too_many_samples_is_truncated(tmp_path, total):
    refused(
        write(tmp_path, flac_of(FLAC, total), "a.flac"),
        "truncated, or not readable as audio somewhere after sample",
    )


@pytest.mark.parametrize("total", [0, 100, len(LONG)])
def test_a_flac_cut_in_the_middle(tmp_path, total):
    refused(write(tmp_path, flac_of(FLAC, total)[: len(FLAC) * 2 // 3], "a.flac"), "truncated")


def test_flac_with_other_things_around(tmp_path):
    for data in (
        id3(5000) + FLAC,
        FLAC + ID3V1,
        flac_of(FLAC, 0) + ID3V1,
        FLAC + bytes(1000),
        FLAC + b"junk",
    ):
        check(write(tmp_path, data, "a.flac"), FLAC_PCM)
    stereo = encoded(STEREO, format="FLAC", subtype="PCM_24")
    check(write(tmp_path, flac_of(stereo, 0), "a.flac"), decoded(stereo))


def test_joined_flac_files(tmp_path):
    short = encoded(SHORT, format="FLAC")
    expected = np.concatenate([FLAC_PCM, decoded(short)])
    for data in (FLAC + short, flac_of(FLAC, 0) + flac_of(short, 0), flac_of(FLAC, 50) + short):
        check(write(tmp_path, data, "a.flac"), expected)
    refused(write(tmp_path, FLAC + short[:-100], "a.flac"), "truncated")


# Ogg.


@pytest.mark.parametrize(
    "subtype, rate", [("VORBIS", 44100), ("VORBIS", 8000), ("OPUS", 48000), ("OPUS", 8000)]
)
def test_streams_of_an_ogg_file_one_after_the_other(tmp_path, subtype, rate):
    one, other = (encoded(voice(s, rate, s), rate, "OGG", subtype) for s in (4, 2))
    first, second = decoded(one), decoded(other)
    assert (len(first), len(second)) == (4 * rate, 2 * rate)
    check(write(tmp_path, one, "a.ogg"), first)
    check(write(tmp_path, one + other, "a.ogg"), np.concatenate([first, second]))
    check(write(tmp_path, other + one + other, "a.ogg"), np.concatenate([second, first, second]))
    check(write(tmp_path, one + b"junk" * 10 + other + ID3V1, "a.ogg"), np.concatenate([first, second]))
    for data in (one[:-20], one[: len(one) // 2], one + other[:-20]):
        refused(write(tmp_path, data, "a.ogg"), "bytes of its last page")
    stereo = encoded(voice(1, rate, channels=2), rate, "OGG", subtype)
    refused(write(tmp_path, one + stereo, "a.ogg"), "has parts of different kinds")


def test_a_page_that_is_lost_and_a_last_page_that_counts_wrongly(tmp_path):
    data = encoded(voice(6, 44100), 44100, "OGG", "VORBIS")
    pages = ogg_pages(data)
    place, size = pages[len(pages) // 2]
    refused(write(tmp_path, data[:place] + data[place + size :], "a.ogg"), "truncated")
    wrong = over(data, pages[-1][0] + 6, struct.pack("<q", 60_000))
    refused(write(tmp_path, wrong, "a.ogg"), "is damaged (its last page counts 60000 samples, an earlier one")


# MP3.


@pytest.mark.parametrize("rate, frame", [(44100, 1152), (48000, 1152), (22050, 576), (8000, 576)])
def test_mp3(tmp_path, rate, frame):
    """A tag leaves out what the encoder added; without one, all frames are sound."""
    one, two = voice(4, rate), voice(2, rate, seed=2)
    pauses = np.concatenate([np.zeros((2 * rate, 1)), one, np.zeros((3 * rate, 1))])
    variable = mp3(pauses, rate, bitrate_mode="VARIABLE", compression_level=0.5)
    low, high = (mp3(one, rate, bitrate_mode="CONSTANT", compression_level=level) for level in (0.99, 0.0))
    tagged, short = mp3(one, rate), mp3(two, rate)

    def length(data):
        path = write(tmp_path, data, "a.mp3")
        samples = read(path).samples
        check(path, samples.T, 1e-5)
        return samples.shape[1]

    def untagged(data):
        return frame * len(mp3_frames(without_tag(data)))

    bare = without_tag(tagged)
    assert length(tagged) == 4 * rate and length(variable) == 9 * rate
    assert length(bare) == untagged(tagged) and length(without_tag(variable)) == untagged(variable)
    for joined in ((low, high), (high, low)):
        assert length(b"".join(map(without_tag, joined))) == sum(map(untagged, joined))
    assert length(tagged + short) == 6 * rate
    assert length(id3(3000) + tagged + ID3V1 + id3(500) + short) == 6 * rate
    assert length(without_tag(short) + tagged) == untagged(short) + 4 * rate
    assert length(tagged + without_tag(short)) == untagged(tagged) + untagged(short)
    assert length(id3(60_000) + tagged) == length(id3(100) + bytes(3000) + tagged) == 4 * rate
    assert length(id3(60_000) + bare) == length(bare + APE + ID3V1) == untagged(tagged)
    cut = bare[: len(bare) // 2]
    assert (
        untagged(tagged) // 2 - 2 * frame <= length(cut) <= untagged(tagged) // 2 and length(cut) % frame == 0
    )
    for data in (tagged[: len(tagged) // 2], id3(100) + tagged[:-500], tagged + short[:-500]):
        refused(write(tmp_path, data, "a.mp3"), "is truncated")


def test_an_mp3_is_right_at_the_seams_of_its_blocks(tmp_path):
    """A seek after each block, as soundfile makes it, spoils what follows where frames are small."""
    samples = np.concatenate([np.zeros((100_000, 1)), voice(3, 48000)])
    data = mp3(samples, 48000, bitrate_mode="VARIABLE", compression_level=0.5)
    assert np.array_equal(read(write(tmp_path, data, "a.mp3")).samples.T, decoded(data))


def test_an_mp3_stream_within_a_wav(tmp_path):
    stream = without_tag(mp3(voice(4, 44100)))
    fmt = struct.pack("<HHIIHHHHIHHH", 0x55, 1, 44100, 8000, 1152, 0, 12, 1, 2, 1152, 1, 1393)
    for size in (len(stream), 0, 0xFFFFFFFF):
        data = b"data" + struct.pack("<I", size) + stream
        body = b"WAVE" + chunk(b"fmt ", fmt) + data
        recording = read(write(tmp_path, b"RIFF" + struct.pack("<I", len(body)) + body, "a.wav"))
        assert recording.samples.shape == (1, 1152 * len(mp3_frames(stream)))
        assert (recording.format, recording.subtype) == ("WAV", "MPEG_LAYER_III")


def test_what_only_looks_like_an_mp3(tmp_path):
    refused(write(tmp_path, b"\xff\xfb\x90\x44" + b"\xff" * 100_000, "a.mp3"), "no MP3 frames are found")
    refused(write(tmp_path, id3(1000), "a.mp3"), "no MP3 frames are found")
    random = np.random.default_rng(0).integers(0, 256, 20_000_000, np.uint8).tobytes()
    tagged = mp3(voice(1, 44100))
    refused(
        write(tmp_path, tagged + random, "a.mp3"),
        f"16777216 bytes from byte {len(tagged)} on that are no MP3 frames",
    )
