"""A part that libsndfile reads through Python: Ctrl-C and errors of the disk get through, in any thread."""

import signal
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest
from made_up_audio import decoded, encoded, flac_of, voice, wav

from tasnet_np.containers import opening
from tasnet_np.containers.opening import open_part, parts_of
from tasnet_np.containers.parts import Part, PartFile
from tasnet_np.errors import UserError


@pytest.fixture
def flac(tmp_path):
    path = tmp_path / "a.flac"
    path.write_bytes(flac_of(encoded(voice(9), format="FLAC"), 0))
    return path


def read(path):
    (part,) = parts_of(path)
    with open_part(path, part) as opened:
        return opened.read(1 << 20, "float32", always_2d=True)


def test_in_any_thread_the_samples_are_the_same(flac):
    expected = decoded(encoded(voice(9), format="FLAC"))
    results = [read(flac)]
    threads = [threading.Thread(target=lambda: results.append(read(flac))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 5 and all(np.array_equal(result, expected) for result in results)


def test_no_thread_is_left(flac):
    before = threading.active_count()
    read(flac)
    with pytest.raises(ZeroDivisionError), open_part(flac, parts_of(flac)[0]):
        raise ZeroDivisionError
    broken = Part(((0, 100),), ((0, b"junk"),))
    with pytest.raises(opening.sf.SoundFileError), open_part(flac, broken):
        pass
    assert threading.active_count() == before


def test_an_error_of_the_disk_is_raised(flac, monkeypatch):
    whole = PartFile._from_file

    def fails_later(self, place, count):
        if place > 20_000:
            raise OSError(5, "Input/output error")
        return whole(self, place, count)

    monkeypatch.setattr(PartFile, "_from_file", fails_later)
    with pytest.raises(OSError, match="Input/output error"):
        read(flac)


def test_control_c_gets_through(flac):
    program = textwrap.dedent(f"""
        import signal
        from tasnet_np.sound.audio_files import AudioFile
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            print("reading", flush=True)
            while True:
                assert sum(block.shape[1] for block in AudioFile({str(flac)!r})) == 72_000
        except KeyboardInterrupt:
            print("interrupted")
    """)
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", program], stdout=-1, stderr=-1) as process:
            assert process.stdout.readline() == b"reading\n"
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.3)
            process.send_signal(signal.SIGINT)
            assert process.communicate(timeout=60) == (b"interrupted\n", b"")


def test_the_number_of_joined_files_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(opening, "MOST_PARTS", 20)
    path = tmp_path / "a.wav"
    path.write_bytes(20 * wav(voice(0.01)))
    assert len(parts_of(path)) == 20
    path.write_bytes(21 * wav(voice(0.01)))
    with pytest.raises(
        UserError, match=r"a.wav: has 21 parts up to byte \d+, and is not known from there on"
    ):
        parts_of(path)
