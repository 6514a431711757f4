"""The recordings in data/: format, levels and variety, and that make_data.py makes them again."""

import importlib.util
import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

DATA = Path(__file__).resolve().parents[1] / "data"
README = (DATA / "README.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (\w+/\S+) \| (\d+) \| ([\d.]+) \| .+ \|$", README, flags=re.MULTILINE)
SPEECH = sorted(DATA.glob("speech/*/*"))
NOISE = sorted(DATA.glob("noise/*"))
DENOISED = sorted(DATA.glob("noisy/denoised-*"))  # by the package's model: test_readme.py makes them again
NOISY = sorted(set(DATA.glob("noisy/*")) - set(DENOISED))

_spec = importlib.util.spec_from_file_location("make_data", DATA / "make_data.py")
make_data = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(make_data)


def name(path):
    return path.relative_to(DATA).as_posix()


def level_db(x):
    return 10 * np.log10(np.mean(np.square(x)))


def frame_levels_db(x, frame):
    """Level of each whole frame of x in dBFS."""
    x = x[: len(x) // frame * frame].reshape(-1, frame)
    return 10 * np.log10(np.mean(x**2, axis=1) + 1e-12)


def active_level_db(x):
    """Level of the 20 ms frames that are less than 40 dB below the loudest."""
    levels = frame_levels_db(x, 320)
    return 10 * np.log10(np.mean(10 ** (levels[levels > levels.max() - 40] / 10)))


def test_the_folder_is_under_6_megabytes():
    files = [p for p in DATA.rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    assert sum(path.stat().st_size for path in files) < 6_000_000


def test_readme_table_lists_every_file_with_its_duration():
    found = {}
    assert all(f"| {name(path)} | 1 |" in README for path in DENOISED)
    for path in SPEECH + NOISE + NOISY + [path for path in DENOISED if path.suffix == ".wav"]:
        group = name(path.parent) if path in SPEECH else name(path)
        found.setdefault(group, []).append(sf.info(path).duration)
    assert [group for group, *_ in ROWS] == list(dict.fromkeys(group for group, *_ in ROWS))
    assert {group: int(files) for group, files, _ in ROWS} == {g: len(s) for g, s in found.items()}
    for group, _, seconds in ROWS:
        assert float(seconds) == pytest.approx(sum(found[group]), abs=0.051)


def test_readme_prose_has_the_right_numbers():
    speakers, clips, shortest, longest = re.search(
        r"(\d+) speakers .+?(\d+) clips of ([\d.]+) to\s+([\d.]+) s", README, flags=re.DOTALL
    ).groups()
    durations = [sf.info(path).duration for path in SPEECH]
    assert int(speakers) == len({path.parent for path in SPEECH}) >= 8
    assert int(clips) == len(SPEECH)
    assert float(shortest) == pytest.approx(min(durations), abs=0.05)
    assert float(longest) == pytest.approx(max(durations), abs=0.05)
    noises, seconds = re.search(r"(\d+) noises of (\d+) s", README).groups()
    assert int(noises) == len(NOISE) >= 16
    assert {sf.info(path).duration for path in NOISE} == {float(seconds)}


def test_every_speaker_has_its_sentences_and_nothing_else():
    for folder in {path.parent for path in SPEECH}:
        lines = (DATA / "sentences" / f"{folder.name}.txt").read_text(encoding="utf-8").splitlines()
        assert 25 <= len(lines) <= 40
        assert all(line.strip() for line in lines)
        assert len(set(lines)) == len(lines)
        assert sorted(p.name for p in folder.iterdir()) == [
            f"{number:02}.flac" for number in range(1, len(lines) + 1)
        ]


@pytest.mark.parametrize("folder", sorted({name(path.parent) for path in SPEECH + NOISE}))
def test_recordings_are_16_bit_mono_16_khz_flac_without_clipping(folder):
    for path in (DATA / folder).iterdir():
        x, rate = sf.read(path, always_2d=True)
        info = sf.info(path)
        assert (rate, x.shape[1], info.format, info.subtype) == (16000, 1, "FLAC", "PCM_16"), path
        assert np.isfinite(x).all(), path
        assert 0.01 < np.abs(x).max() < 0.95, path
        assert abs(x.mean()) < 0.001, path


@pytest.mark.parametrize("speaker", sorted({path.parent.name for path in SPEECH}))
def test_speech_is_trimmed_and_at_minus_25_dbfs(speaker):
    for path in (DATA / "speech" / speaker).iterdir():
        x, rate = sf.read(path)
        assert 0.5 <= len(x) / rate <= 4, path
        assert active_level_db(x) == pytest.approx(-25, abs=0.2), path
        levels = frame_levels_db(x, 320)
        assert min(levels[0], levels[-1]) > levels.max() - 51, path  # sound from end to end


@pytest.mark.parametrize("path", NOISE, ids=lambda path: path.stem)
def test_noise_is_at_its_level_and_never_silent(path):
    x, rate = sf.read(path)
    peak_at_limit = np.abs(x).max() == pytest.approx(0.9, abs=0.001)
    assert level_db(x) == pytest.approx(-30, abs=0.05) or (peak_at_limit and level_db(x) < -30)
    assert frame_levels_db(x, rate // 2).min() > level_db(x) - 26
    spectrum = np.abs(np.fft.rfft(x)) ** 2  # the small preset hears up to 4 kHz only
    assert spectrum[: len(spectrum) // 2].sum() > 0.4 * spectrum.sum()


def test_no_two_recordings_hold_the_same_samples():
    contents = {sf.read(path, dtype="int16")[0].tobytes() for path in SPEECH + NOISE + NOISY}
    assert len(contents) == len(SPEECH) + len(NOISE) + len(NOISY)


def bands(x, rate, low, high):
    """Mean square of x by frequency, in six bands from low to high (Hz)."""
    spectrum = 2 * np.abs(np.fft.rfft(x) / len(x)) ** 2
    edges = np.geomspace(low, high, 7) * len(x) / rate
    return np.split(spectrum, edges.astype(int))[1:-1]


def profile_db(x):
    """Colour, tonality, rhythm and unsteadiness of a noise in 22 numbers: dB, not below -30."""
    colour = [band.sum() / np.mean(x**2) for band in bands(x, 16000, 50, 7800)]
    flatness = [np.exp(np.log(band).mean()) / band.mean() for band in bands(x, 16000, 50, 7800)]
    levels = frame_levels_db(x, 80)  # every 5 ms
    rhythm = [1 + band.sum() for band in bands(levels, 200, 0.5, 95)]
    unsteadiness = np.percentile(levels, [10, 50, 90, 99]) - level_db(x)
    profile = [*10 * np.log10(colour + flatness + rhythm), *unsteadiness]
    return np.maximum(profile, -30)


def difference_db(x, y):
    return np.sqrt(np.mean((profile_db(x) - profile_db(y)) ** 2))


ALIKE_DB = 3.0  # two seeds of one noise stay below it, two noises above


def test_no_two_noises_are_alike():
    noises = {path.stem: sf.read(path)[0] for path in NOISE}
    for first, second in itertools.combinations(noises, 2):
        assert difference_db(noises[first], noises[second]) > ALIKE_DB, (first, second)


@pytest.mark.parametrize("noise", [n for n in make_data.NOISES if n.__name__ != "babble"])
def test_the_same_noise_with_another_seed_counts_as_alike(noise):
    first, second = make_data.make_noise(noise), make_data.make_noise(noise, seed=3)
    assert np.abs(first - second).max() > 0.001
    assert difference_db(first, second) < ALIKE_DB


def median_pitch(x, rate=16000):
    """Median over loud 50 ms frames of the autocorrelation's peak between 70 and 400 Hz."""
    frames = x[: len(x) // 800 * 800].reshape(-1, 800)
    pitches = []
    for frame in frames[np.std(frames, axis=1) > 0.03]:
        correlation = np.correlate(frame, frame, "full")[799:]
        lag = 40 + np.argmax(correlation[40:229])
        if correlation[lag] > 0.5 * correlation[0]:  # voiced
            pitches.append(rate / lag)
    return np.median(pitches)


def test_half_of_the_speakers_have_deep_voices_and_half_high_ones():
    pitches = []
    for folder in sorted({path.parent for path in SPEECH}):
        clips = [sf.read(path)[0] for path in sorted(folder.iterdir())]
        pitches.append(median_pitch(np.concatenate(clips)))
    assert sum(80 < pitch < 130 for pitch in pitches) == 5
    assert sum(150 < pitch < 260 for pitch in pitches) == 5


@pytest.mark.parametrize(
    "clip, rate, channels, snr_db, seconds",
    [("mono-8k", 8000, 1, 0, 4), ("stereo-44k", 44100, 2, 5, 1)],
)
def test_noisy_clip_is_its_reference_plus_noise(clip, rate, channels, snr_db, seconds):
    recordings = []
    for kind in ("noisy", "clean"):
        path = DATA / "noisy" / f"{kind}-{clip}.wav"
        x, found = sf.read(path, always_2d=True)
        assert (found, x.shape[1], sf.info(path).subtype) == (rate, channels, "PCM_16")
        assert np.abs(x).max() < 0.95
        recordings.append(x)
    noisy, clean = recordings
    assert noisy.shape == clean.shape
    assert seconds <= len(noisy) / rate < seconds + 1
    assert level_db(noisy) == pytest.approx(-25, abs=0.05)
    assert level_db(clean) - level_db(noisy - clean) == pytest.approx(snr_db, abs=0.01)
    assert all(np.abs(np.corrcoef(c, n)[0, 1]) < 0.1 for c, n in zip(clean.T, (noisy - clean).T))


def test_stereo_channels_differ_in_level_and_in_noise():
    paths = [DATA / "noisy" / f"{kind}-stereo-44k.wav" for kind in ("noisy", "clean")]
    noisy, clean = (sf.read(path)[0].T for path in paths)
    assert clean[1] == pytest.approx(0.6 * clean[0], abs=2e-5)
    left, right = noisy - clean
    assert abs(np.corrcoef(left, right)[0, 1]) < 0.1


def test_speaker_and_noises_of_the_noisy_clips_are_held_out():
    voices = [voice for voice, *_ in make_data.SPEAKERS.values()]
    assert make_data.HELD_OUT_SPEAKER[0] not in voices + list(make_data.BABBLE)
    assert not set(voices) & set(make_data.BABBLE)
    assert not {"vacuum_cleaner", "applause"} & {path.stem for path in NOISE}
    told = {
        line
        for path in (DATA / "sentences").iterdir()
        if path.stem != "held-out"
        for line in path.read_text(encoding="utf-8").splitlines()
    }
    assert not told & set(make_data.sentences("held-out"))


def require_the_same_espeak():
    committed = re.search(r"espeak-ng (\d[\w.]*\d)", README).group(1)
    installed = make_data.espeak_version()
    if installed is None:
        pytest.skip(f"needs espeak-ng {committed}: {make_data.ESPEAK_MISSING}")
    if installed != committed:
        pytest.skip(f"needs espeak-ng {committed}, which made data/; {installed} is installed")


def assert_same_samples(made, path, step):
    """Equal, but for one sample in a thousand that another NumPy may round the other way."""
    committed, _ = sf.read(path, dtype="int16")
    assert made.shape == committed.shape, path
    difference = np.abs(made.astype(int) - committed)
    assert difference.max() <= step, path
    assert np.count_nonzero(difference) <= made.size / 1000, path


@pytest.mark.parametrize("noise", make_data.NOISES)
def test_noise_made_again_has_the_same_samples(noise):
    if noise is make_data.babble:
        require_the_same_espeak()
    made = make_data.to_int16(make_data.make_noise(noise))
    assert_same_samples(made, DATA / "noise" / f"{noise.__name__}.flac", make_data.STEP)


def test_command_makes_the_whole_set_again(tmp_path, capsys):
    require_the_same_espeak()
    assert make_data.main(["--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out.strip()
    assert printed and printed in README
    made = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    committed = sorted(SPEECH + NOISE + NOISY)
    assert [p.relative_to(tmp_path).as_posix() for p in made] == [name(p) for p in committed]
    for path, twin in zip(made, committed):
        step = 2 if path.suffix == ".wav" else make_data.STEP  # noisy: speech and noise both round
        assert_same_samples(sf.read(path, dtype="int16")[0], twin, step)


def run(*arguments, path=os.environ["PATH"]):
    command = [sys.executable, str(DATA / "make_data.py"), *map(str, arguments)]
    return subprocess.run(command, env={"PATH": path}, capture_output=True, text=True)


def test_without_espeak_the_command_says_how_to_get_it(tmp_path):
    done = run("--out", tmp_path / "set", path=str(tmp_path))
    assert done.returncode == 2
    assert done.stderr == f"error: {make_data.ESPEAK_MISSING}\n"
    assert "apt-get install espeak-ng" in done.stderr
    assert not (tmp_path / "set").exists()


def stand_in_for_speech(monkeypatch):
    """Let the command get as far as writing, without espeak-ng and without delay."""
    monkeypatch.setattr(make_data, "espeak_version", lambda: "1.51")
    one = {"speech/english-british/01.flac": (np.full(1600, 320, np.int16), 16000)}
    monkeypatch.setattr(make_data, "make_speech", lambda: one)
    monkeypatch.setattr(make_data, "make_noises", dict)
    monkeypatch.setattr(make_data, "make_noisy", dict)


def test_an_unusable_out_folder_is_one_line(tmp_path, monkeypatch, capsys):
    stand_in_for_speech(monkeypatch)
    (tmp_path / "file").write_text("kept")
    assert make_data.main(["--out", str(tmp_path / "file")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert f"{tmp_path}/file" in error and "--out" in error
    assert (tmp_path / "file").read_text() == "kept"


def test_a_full_disk_keeps_the_earlier_file(tmp_path, monkeypatch, capsys):
    stand_in_for_speech(monkeypatch)
    assert make_data.main(["--out", str(tmp_path)]) == 0
    path = tmp_path / "speech/english-british/01.flac"
    before = path.read_bytes()

    def write_half(partial, contents):
        with open(partial, "wb") as file:
            file.write(contents[:40])
        raise OSError(28, "No space left on device", str(partial))

    monkeypatch.setattr(Path, "write_bytes", write_half)
    capsys.readouterr()
    assert make_data.main(["--out", str(tmp_path)]) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [path]
    assert path.read_bytes() == before


def test_a_failing_espeak_is_one_line(tmp_path, monkeypatch, capsys):
    def fail():
        raise subprocess.CalledProcessError(1, ["espeak-ng", "-v", "nn+m3", "Good morning."])

    stand_in_for_speech(monkeypatch)
    monkeypatch.setattr(make_data, "make_speech", fail)
    assert make_data.main(["--out", str(tmp_path / "set")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert "espeak-ng -v nn+m3" in error
    assert not (tmp_path / "set").exists()
