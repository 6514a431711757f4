"""The filter between other programs: its outputs, its lines, and what happens when a neighbour dies."""

import contextlib
import io
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

import tasnet_np
from tasnet_np.commands.main import main
from tasnet_np.errors import UserError
from tasnet_np.listening.pcm_stream import ENCODINGS, PCM
from tasnet_np.listening.sound_stream import SoundStream
from tasnet_np.listening.stream import run
from tasnet_np.network.config import PRESETS
from tasnet_np.network.execution import ConvTasNet
from tasnet_np.network.gradcheck import reduced

RATE = 8000
MODEL = ConvTasNet(reduced(PRESETS["small"]))
SUBTYPES = dict(zip(ENCODINGS, ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE")))


def sound(n, channels=1):
    return (0.1 * np.random.default_rng(0).standard_normal((channels, n))).astype(np.float32)


def wav(samples, encoding="s16le", rate=RATE, **how):
    file = io.BytesIO()
    soundfile.write(file, samples.T, rate, SUBTYPES[encoding], format="WAV", **how)
    return file.getvalue()


def filtered(data, model=MODEL, **settings):
    """What comes out of the filter, and the lines it said."""
    output, lines = io.BytesIO(), []
    run(model, io.BufferedReader(io.BytesIO(data)), output, lines.append, **settings)
    return output.getvalue(), lines


def expected(samples, encoding, source=0, rate=RATE, **settings):
    """The same through a SoundStream, encoded."""
    stream = SoundStream(MODEL, rate, len(samples), **settings)
    pcm = PCM(encoding, rate, len(samples))
    heard = pcm.decode(pcm.encode(samples)[0])
    sources = np.concatenate([stream.process(heard), stream.flush()], axis=-1)
    return pcm.encode(sources[source])[0]


def difference(a, b, encoding):
    """Largest, of a full scale of 1. Pieces of other sizes may round otherwise."""
    pcm = PCM(encoding, RATE, 1)
    assert len(a) == len(b)
    return np.abs(pcm.decode(a) - pcm.decode(b)).max()


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_raw_samples(encoding):
    samples = sound(1000, 2)
    data, _ = PCM(encoding, RATE, 2).encode(samples)
    output, _ = filtered(data, raw=encoding, channels=2, block_seconds=10)
    assert output == expected(samples, encoding)


def test_wav_in_wav_out():
    samples = sound(1001, 3)
    output, _ = filtered(wav(samples, "s24le", rate=16000), block_seconds=10)
    speech, rate = soundfile.read(io.BytesIO(output), dtype="float32", always_2d=True)
    assert (rate, speech.shape) == (16000, (1001, 3))
    assert difference(output[44:-1], expected(samples, "s24le", rate=16000), "s24le") <= 1e-6


def test_extensible_headers_and_other_chunks():
    samples = sound(100)
    plain, file = wav(samples), io.BytesIO()
    soundfile.write(file, samples.T, RATE, "PCM_16", format="WAVEX")
    extra = plain[:12] + b"LIST" + (5).to_bytes(4, "little") + b"abcde\0" + plain[12:] + b"LIST" + bytes(9)
    for data in (file.getvalue(), extra):
        assert filtered(data)[0][44:] == filtered(plain)[0][44:]


def test_a_length_that_is_not_known_yet():
    data = wav(sound(800))
    streamed = data[:4] + b"\xff\xff\xff\xff" + data[8:40] + b"\xff\xff\xff\xff" + data[44:]
    assert filtered(streamed)[0][44:] == filtered(data)[0][44:]
    assert filtered(streamed)[0][40:44] == b"\xff\xff\xff\xff"


def test_odd_numbers_of_bytes_are_padded():
    output, _ = filtered(wav(sound(101), "u8"))
    assert len(output) == 44 + 101 + 1 and output[40:44] == (101).to_bytes(4, "little")


def test_the_other_source_the_level_and_the_memory():
    samples = sound(4000)
    data, _ = PCM("f32le", RATE, 1).encode(samples)
    raw = {"raw": "f32le", "block_seconds": 10}
    assert filtered(data, source="noise", **raw)[0] == expected(samples, "f32le", 1)
    assert filtered(data, level=False, **raw)[0] == expected(samples, "f32le", level=False)
    settings = {"level": False, "memory_seconds": 0.01}
    assert filtered(data, **settings, **raw)[0] == expected(samples, "f32le", **settings)
    outputs = [filtered(data, **raw)[0], filtered(data, source="noise", **raw)[0]]
    outputs += [filtered(data, level=False, **raw)[0], filtered(data, **settings, **raw)[0]]
    assert len(set(outputs)) == 4


class Trickle(io.RawIOBase):
    """A pipe whose writer writes a few bytes at a time."""

    def __init__(self, data, sizes):
        self.data, self.sizes = data, sizes

    def read1(self, most):
        assert most > 0
        size, self.sizes = min(self.sizes[0], most), self.sizes[1:] + self.sizes[:1]
        piece, self.data = self.data[:size], self.data[size:]
        return piece


@given(st.lists(st.integers(1, 40), min_size=1, max_size=5))
def test_bytes_in_any_portions(sizes):
    samples = sound(300, 2)
    data = wav(samples, "s24le")
    output = io.BytesIO()
    run(MODEL, Trickle(data, sizes), output, lambda line: None, level=False, block_seconds=0.001)
    assert difference(output.getvalue()[44:], expected(samples, "s24le", level=False), "s24le") <= 1e-6


def test_bad_samples_are_counted_and_do_no_harm():
    samples = sound(2000)
    clean = samples.copy()
    clean[0, 100:103] = 0
    samples = samples.astype(np.float64)
    samples[0, 100:103] = np.nan, np.inf, 1e300  # the last is infinite as a float32
    data, _ = PCM("f64le", RATE, 1).encode(samples)
    output, lines = filtered(data, raw="f64le", block_seconds=10)
    assert output == expected(clean, "f64le")
    assert lines[-1] == "warning: 3 samples were NaN or infinite and were taken as 0"


@pytest.mark.parametrize("encoding", ["f32le", "f64le"])
def test_absurd_samples_do_no_harm(encoding):
    samples = sound(2000)
    clean = samples.copy()
    clean[0, 100:103] = 0
    samples[0, 100:103] = 1e38, -2e4, np.nan
    output, lines = filtered(PCM(encoding, RATE, 1).encode(samples)[0], raw=encoding, block_seconds=10)
    assert output == expected(clean, encoding)
    assert lines[-1] == "warning: 3 samples were NaN, infinite or above 10000 and were taken as 0"


def test_the_lines_at_the_start_and_at_the_end():
    _, lines = filtered(wav(sound(RATE, 2)))
    assert lines[0] == "s16le, 8000 Hz, 2 channels; latency 0.75 ms (window 0.75)"
    assert lines[1].startswith("1.0 s of sound in ") and "per hop of 0.375 ms: median " in lines[1]
    assert lines[1].endswith("of 100 blocks took too long") and len(lines) == 2
    loud = 100 * sound(2000)
    _, lines = filtered(PCM("f32le", RATE, 1).encode(loud)[0], raw="f32le")
    assert len(lines) == 2
    model = ConvTasNet(reduced(PRESETS["small"]))
    for decoder in model.decoders.values():
        decoder.params["w"][...] *= 1e4
    _, lines = filtered(wav(sound(2000)), model, level=False)
    assert lines[2].startswith("warning: ") and lines[2].endswith(
        "samples were too loud for s16le and were clipped"
    )


WAV = wav(sound(100))


@pytest.mark.parametrize(
    "data, settings, found",
    [
        (b"", {}, "standard input: is empty; give WAV"),
        (b"OggS" + bytes(50), {}, "not with a WAV header; give WAV, or --raw"),
        (WAV[:30], {}, "has a WAV header that is cut short"),
        (WAV[:40], {}, "ends within the WAV header"),
        (WAV[:12] + b"fmt " + (4).to_bytes(4, "little") + bytes(8), {}, "cut short"),
        (
            WAV[:20] + b"\x06\0" + WAV[22:],
            {},
            "WAV samples of kind 6 with 16 bits; convert to one of u8, s16le",
        ),
        (WAV[:22] + bytes(2) + WAV[24:], {}, "has 0 channels at 8000 Hz"),
        (WAV[:24] + bytes(4) + WAV[28:], {}, "has 1 channels at 0 Hz"),
        (WAV[:-20], {}, r"is cut short \(180 of 200 bytes\)"),
        (WAV, {"rate": 8000}, "--rate, --channels: are for --raw"),
        (WAV, {"raw": "mp3"}, "--raw mp3: give one of u8, s16le"),
        (WAV, {"raw": "s16le", "rate": 0}, "--rate 0, --channels 1: give whole numbers above 0"),
        (WAV, {"raw": "s16le", "channels": -1}, "--channels -1: give whole numbers above 0"),
        (
            bytes(7),
            {"raw": "s16le"},
            "ends with 1 bytes too many; a frame of s16le with 1 channels has 2 bytes",
        ),
        (
            bytes(15),
            {"raw": "s24le", "channels": 2},
            "ends with 3 bytes too many; a frame of s24le with 2 channels",
        ),
        (
            WAV,
            {"raw": "s16le", "rate": 1},
            "--rate: has a sample rate of 1; give one between 1000 and 1000000 Hz",
        ),
        (WAV, {"raw": "s16le", "rate": 2**31 - 1}, "--rate: has a sample rate of 2147483647"),
        (WAV, {"raw": "s16le", "channels": 65_535}, "--channels 65535: give at most 64"),
        (WAV, {"source": "music"}, "--source music: give one of speech, noise"),
        (WAV, {"block_seconds": 0}, "--block-ms 0: give more than 0"),
    ],
    ids=lambda value: None if isinstance(value, bytes) else str(value)[:40],
)
def test_refuses_by_name(data, settings, found):
    with pytest.raises(UserError, match=found):
        filtered(data, **settings)


def test_what_came_before_a_fault_is_written():
    samples = sound(1000)
    data, _ = PCM("s16le", RATE, 1).encode(samples)
    output = io.BytesIO()
    with pytest.raises(UserError, match="1 bytes too many"):
        run(MODEL, io.BufferedReader(io.BytesIO(data + b"x")), output, print, raw="s16le", block_seconds=10)
    assert output.getvalue() == expected(samples, "s16le")


def test_all_samples_come_out_whatever_the_header_says():
    plain = wav(sound(1000))
    expected = filtered(plain)[0][44:]
    for size in (0, 0x40000000):
        output, _ = filtered(plain[:40] + size.to_bytes(4, "little") + plain[44:])
        assert output[40:] == b"\xff" * 4 + expected
    output = io.BytesIO()
    died = plain[:40] + (500).to_bytes(4, "little") + plain[44:]
    with pytest.raises(UserError, match="its header gives 500 bytes of samples, but 2000 came"):
        run(MODEL, io.BufferedReader(io.BytesIO(died)), output, print)
    assert output.getvalue()[44:] == expected


def test_models_that_see_the_whole_recording_are_refused():
    with pytest.raises(ValueError, match="cannot be streamed"):
        filtered(WAV, ConvTasNet(reduced(PRESETS["paper"])))


# The command, as a process between others.


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.npz"
    tasnet_np.save(MODEL, path)
    return [sys.executable, "-m", "tasnet_np", "stream", "--model", str(path)]


def test_the_command(command):
    data = wav(sound(2000))
    done = subprocess.run(command, input=data, capture_output=True)
    assert done.returncode == 0
    assert done.stdout == filtered(data)[0]
    assert b"real-time factor" in done.stderr


def test_a_mistake_is_one_line_and_status_2(command):
    done = subprocess.run([*command, "--raw", "s16le"], input=bytes(7), capture_output=True)
    assert done.returncode == 2
    assert (
        done.stderr.decode().splitlines()[-1].startswith("error: standard input: ends with 1 bytes too many")
    )
    assert b"Traceback" not in done.stderr and len(done.stdout) == 6


def test_the_reader_goes(command):
    with subprocess.Popen([*command, "--raw", "s16le"], stdin=-1, stdout=-1, stderr=-1) as process:
        process.stdin.write(bytes(20_000))
        process.stdin.flush()
        assert process.stdout.read(100)
        process.stdout.close()
        with pytest.raises(BrokenPipeError):  # once it has noticed, it reads no more
            for _ in range(1000):
                process.stdin.write(bytes(20_000))
        errors = process.stderr.read()
        with contextlib.suppress(BrokenPipeError):  # it may hold bytes that nobody takes
            process.stdin.close()
        assert process.wait() == 141
    assert b"Traceback" not in errors and b"error" not in errors


def test_the_writer_goes(command):
    """A writer that is killed closes its end: the rest comes out, and the filter ends as at any end."""
    writer = subprocess.Popen([sys.executable, "-c", "import sys, time; sys.stdout.buffer.write(bytes(8000));"
                               "sys.stdout.buffer.flush(); time.sleep(600)"], stdout=-1)  # fmt: skip
    with subprocess.Popen([*command, "--raw", "s16le"], stdin=writer.stdout, stdout=-1, stderr=-1) as process:
        writer.stdout.close()
        assert process.stdout.read(4000)
        writer.kill()
        writer.wait()
        rest, errors = process.stdout.read(), process.stderr.read()
        assert process.wait() == 0
    assert len(rest) == 4000 and b"0.5 s of sound" in errors


def heed_control_c():
    """In a child: a test run in the background of a shell ignores Ctrl-C, and so would its children."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_control_c_flushes_and_tells(command):
    command = [*command, "--raw", "s16le"]
    with subprocess.Popen(command, stdin=-1, stdout=-1, stderr=-1, preexec_fn=heed_control_c) as process:
        process.stdin.write(bytes(8000))
        process.stdin.flush()
        hop = MODEL.config.hop
        out = process.stdout.read(2 * (4000 // hop - 1) * hop)  # all but the last window's
        process.send_signal(signal.SIGINT)
        rest, errors = process.stdout.read(), process.stderr.read()
        assert process.wait() == 130
    assert len(out + rest) == 8000 and b"0.5 s of sound" in errors and b"Traceback" not in errors


def test_it_does_not_wait_for_full_blocks(command):
    """Ten hops in, nine out (the first waits for its window), while the input stays open."""
    hop_bytes = 2 * MODEL.config.hop
    command = [*command, "--raw", "s16le", "--block-ms", "10000"]
    with subprocess.Popen(command, stdin=-1, stdout=-1, stderr=-1) as process:
        process.stdin.write(bytes(10 * hop_bytes))
        process.stdin.flush()
        assert len(process.stdout.read(9 * hop_bytes)) == 9 * hop_bytes
        process.stdin.close()
        assert len(process.stdout.read()) == hop_bytes


def test_terminals_are_refused(capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", open(os.devnull))
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    assert main(["stream", "--model", "x"]) == 2
    assert "standard input: is a terminal; put it between" in capsys.readouterr().err
