"""The microphone, with a stand-in for the sound device."""

import io
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import tasnet_np
from tasnet_np.commands.main import main
from tasnet_np.errors import UserError
from tasnet_np.listening.live import Processor, run
from tasnet_np.listening.sound_stream import SoundStream
from tasnet_np.network.config import PRESETS
from tasnet_np.network.execution import ConvTasNet
from tasnet_np.network.gradcheck import reduced

MODEL = ConvTasNet(reduced(PRESETS["origin"]))


class PortAudioError(Exception):
    pass


def device(blocks=0, failure=None):
    """A module like sounddevice whose microphone hears `blocks` blocks of noise at once."""

    class Stream:
        def __init__(self, samplerate, blocksize, channels, dtype, latency, callback):
            if failure:
                raise PortAudioError(failure)
            self.shape, self.callback = (blocksize, channels), callback

        def __enter__(self):
            rng = np.random.default_rng(0)
            for _ in range(blocks):
                heard = 0.1 * rng.standard_normal(self.shape).astype(np.float32)
                played = np.empty(self.shape, np.float32)
                self.callback(heard, played, len(heard), None, None)
                Stream.played.append(played[:, 0])

        def __exit__(self, *what):
            return False

    Stream.played = []
    return SimpleNamespace(Stream=Stream, PortAudioError=PortAudioError)


@pytest.mark.parametrize("rate", [16000, 44100, 48000, 8000])
@pytest.mark.parametrize("block", [1, 7, 64, 480])
def test_every_block_is_answered_in_full_and_late_by_the_latency(rate, block):
    processor = Processor(MODEL, rate, level=False)
    heard = (0.1 * np.random.default_rng(0).standard_normal((rate // 10 // block, block))).astype(np.float32)
    played = [processor(samples) for samples in heard]
    assert {len(samples) for samples in played} == {block}
    sound = SoundStream(MODEL, rate, level=False)
    speech = sound.process(heard.reshape(1, -1))[0, 0]
    late = processor.latency_samples
    expected = np.concatenate([np.zeros(late), speech])[: heard.size]
    assert np.concatenate(played) == pytest.approx(expected, abs=1e-5 * float(np.abs(speech).max()))
    assert late <= sum(sound.latency_ms.values()) / 1000 * rate + 2


def test_an_absurd_sample_is_not_heard():
    heard = (0.1 * np.random.default_rng(0).standard_normal((20, 480))).astype(np.float32)
    heard[3, 7] = 0
    expected, processor = Processor(MODEL, 48000), Processor(MODEL, 48000)
    expected = [expected(samples) for samples in heard]
    heard[3, 7] = 1e38
    assert np.array_equal([processor(samples) for samples in heard], expected)


def test_a_session(monkeypatch):
    module = device(blocks=50)
    monkeypatch.setitem(sys.modules, "sounddevice", module)
    screen = io.StringIO()
    run(MODEL, screen, seconds=0.01)
    assert len(module.Stream.played) == 50 and np.any(module.Stream.played)
    meter, statistics = screen.getvalue().strip().splitlines()
    assert meter.startswith("microphone [####") and "speech [" in meter and " dB  speech" in meter
    assert statistics.startswith("0.5 s of sound in ") and statistics.endswith("of 50 blocks took too long")


def test_control_c_is_how_it_ends(monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "sounddevice", device(blocks=3))
    monkeypatch.setattr("tasnet_np.listening.live._show", interrupt)
    screen = io.StringIO()
    run(MODEL, screen)
    assert "0.0 s of sound" in screen.getvalue()


def test_no_sound_device_is_one_line(monkeypatch, tmp_path, capsys):
    tasnet_np.save(MODEL, tmp_path / "model.npz")
    monkeypatch.setitem(sys.modules, "sounddevice", device(failure="Error querying device -1"))
    assert main(["live", "--model", str(tmp_path / "model.npz")]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert errors[-1] == (
        "error: live: no microphone and loudspeaker can be opened at 16000 Hz (Error querying device -1); "
        "connect them, try --rate 48000, or use tasnet-np stream, which needs neither"
    )


def test_a_missing_package_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(UserError, match=r"needs the package sounddevice; .* pip install 'tasnet_np\[live\]'"):
        run(MODEL, io.StringIO())


def test_a_missing_library_is_one_line(monkeypatch, tmp_path):
    (tmp_path / "sounddevice.py").write_text("raise OSError('PortAudio library not found')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    with pytest.raises(UserError, match="live: PortAudio library not found; install PortAudio"):
        run(MODEL, io.StringIO())


@pytest.mark.parametrize(
    "settings", [{"rate": 0}, {"block_seconds": 0.0}, {"seconds": 0.0}, {"seconds": np.nan}]
)
def test_settings_out_of_range(settings):
    with pytest.raises(UserError, match="too small"):
        run(MODEL, io.StringIO(), **settings)
