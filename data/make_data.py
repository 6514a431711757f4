"""Make this folder's recordings: speech with espeak-ng, noises with NumPy and SciPy.

    python data/make_data.py --out DIR

writes DIR/speech, DIR/noise and DIR/noisy, and prints the table of README.md. Every run gives the
same samples. Everything is made in memory before the first file is written.
"""

import argparse
import io
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

import numpy as np
import soundfile as sf
from scipy.interpolate import PchipInterpolator
from scipy.signal import butter, lfilter, resample_poly, sosfilt

RATE = 16000  # Hz, of everything under speech/ and noise/
SEED = 2
STEP = 32  # samples are multiples of 32/32768 (11 bits): FLAC files are then about half the size
FRAME = RATE // 50  # 20 ms, for trimming and for the level of speech
SPEECH_DB = -25.0  # dBFS, RMS of the active part of a clip
NOISE_DB = -30.0  # dBFS, RMS; less where the peak would pass PEAK
PEAK = 0.9
NOISE_SECONDS = 8
SENTENCES = Path(__file__).resolve().parent / "sentences"  # a file per speaker, a sentence per line
ESPEAK_MISSING = (
    "espeak-ng is not installed; get it with: sudo apt-get install espeak-ng (macOS: brew install espeak-ng)"
)

# name: (espeak-ng voice+variant, pitch 0..99, words per minute)
SPEAKERS = {
    "english-british": ("en-gb+m3", 42, 180),
    "english-american": ("en-us+f2", 55, 190),
    "german": ("de+f1", 48, 180),
    "french": ("fr-fr+m2", 35, 175),
    "spanish": ("es+m4", 55, 195),
    "italian": ("it+f3", 60, 200),
    "hindi": ("hi+f4", 45, 175),
    "portuguese": ("pt-br+m5", 30, 190),
    "dutch": ("nl+m6", 50, 180),
    "polish": ("pl+f5", 65, 190),
}
HELD_OUT_SPEAKER = ("en-us+m7", 45, 160)  # speaks only in noisy/
BABBLE = (
    "da+f1",
    "el+m2",
    "tr+f3",
    "fi+m4",
    "ro+f5",
    "hu+m6",
    "cs+f2",
    "id+m1",
    "sw+m3",
    "et+f4",
)
NOISY = {
    "noisy-mono-8k.wav": "speech and vacuum cleaner at 0 dB, 8 kHz, mono",
    "clean-mono-8k.wav": "the speech in it",
    "noisy-stereo-44k.wav": "speech and applause at 5 dB, 44.1 kHz, stereo",
    "clean-stereo-44k.wav": "the speech in it",
}


# Building blocks. rng is a numpy Generator, n a number of samples, frequencies are in Hz.


def shaped(rng, n, gain):
    """Gaussian noise of unit RMS whose spectrum follows gain(frequency)."""
    spectrum = np.fft.rfft(rng.standard_normal(n)) * gain(np.fft.rfftfreq(n, 1 / RATE))
    x = np.fft.irfft(spectrum, n)
    return x / rms(x)


def low_pass(corner, order=2):
    """Gain 1 from 30 Hz to `corner`, falling by 6*order dB per octave above it."""
    return lambda f: (f > 30) / (1 + (f / corner) ** order)


def bump(centre, width):
    """Gain of a Gaussian hill at `centre`, `width` Hz to either side."""
    return lambda f: np.exp(-0.5 * ((f - centre) / width) ** 2)


def wander(rng, n, seconds, low, high):
    """Smooth random curve between low and high with a new random point every `seconds`."""
    points = rng.uniform(low, high, int(np.ceil(n / (seconds * RATE))) + 2)
    return PchipInterpolator(np.arange(len(points)), points)(np.arange(n) / (seconds * RATE))


def sine(frequency, n):
    """Sine of a constant frequency or of a curve (n,) of frequencies."""
    return np.sin(2 * np.pi * np.cumsum(np.broadcast_to(frequency, n)) / RATE)


def ping(frequency, decay, bend=0.0):
    """Sine that dies away with time constant `decay` s; its pitch rises by `bend` per second."""
    t = np.arange(int(6 * decay * RATE)) / RATE
    return np.sin(2 * np.pi * frequency * (t + 0.5 * bend * t**2)) * np.exp(-t / decay)


def thud(rng, decay, gain):
    """Short shaped(...) noise that dies away with time constant `decay` s."""
    n = int(6 * decay * RATE)
    return shaped(rng, n, gain) * np.exp(-np.arange(n) / (decay * RATE))


def place(x, start, event):
    """Add `event` to x from `start` seconds on; what passes the end is dropped."""
    first = int(start * RATE)
    last = min(len(x), first + len(event))
    x[first:last] += event[: max(0, last - first)]


def at_random(rng, n, per_second):
    """Random start times in seconds, `per_second` of them on average."""
    return np.sort(rng.uniform(0, n / RATE, rng.poisson(per_second * n / RATE)))


def rms(x):
    return np.sqrt(np.mean(np.square(x)))


# The noises. Each returns (n,) float64 at any level.


def white(rng, n):
    """Equal power at all frequencies."""
    return shaped(rng, n, np.ones_like)


def pink(rng, n):
    """Power falls by 3 dB per octave."""
    return shaped(rng, n, lambda f: np.maximum(f, 30) ** -0.5)


def brown(rng, n):
    """Power falls by 6 dB per octave."""
    return shaped(rng, n, lambda f: 1 / np.maximum(f, 60))


def mains_hum(rng, n):
    """50 Hz and its harmonics over a faint hiss."""
    mains = 50 + wander(rng, n, 2.0, -0.2, 0.2)
    hum = sum((1.0 if k % 2 else 0.4) / k * sine(k * mains, n) for k in range(1, 31))
    return hum + 0.02 * white(rng, n)


def fan(rng, n):
    """Soft noise that throbs 23 times a second, and a motor's tone."""
    air = shaped(rng, n, low_pass(700)) * (1 + 0.6 * sine(23, n))
    return air + 0.4 * sine(118, n) + 0.2 * sine(236, n)


def rain(rng, n):
    """Many small drops and some heavy ones, now more, now fewer."""
    shower = wander(rng, n, 1.5, 0.3, 1.0)
    drops = (rng.random(n) < 0.04 * shower) * rng.standard_exponential(n)
    x = lfilter([1, -1], [1, -0.6], drops)
    for start in at_random(rng, n, 60):
        place(x, start, rng.uniform(1, 4) * ping(rng.uniform(1500, 5000), 0.002))
    return x


def wind(rng, n):
    """Gusts: a deep rush, and a whistle when they are strong."""
    gust = wander(rng, n, 0.6, 0.15, 1.0)
    whistle = shaped(rng, n, bump(0, 25)) * sine(wander(rng, n, 0.8, 500, 900), n)
    x = gust * shaped(rng, n, low_pass(150)) + gust**3 * shaped(rng, n, low_pass(500))
    return x + 1.2 * gust**4 * whistle


def crackle(rng, n):
    """Fire: sharp random pops over a low flicker."""
    x = 0.05 * wander(rng, n, 0.15, 0.3, 1.0) * shaped(rng, n, low_pass(250))
    for start in at_random(rng, n, 25):
        pop = thud(rng, rng.uniform(0.0005, 0.004), bump(rng.uniform(1500, 5000), 1000))
        place(x, start, 0.3 * rng.standard_exponential() * pop)
    return x


def engine(rng, n):
    """Motor of changing speed: harmonics of its firing, and rasp."""
    firing = wander(rng, n, 0.9, 20, 110)
    resonance = bump(300, 200)
    exhaust = np.zeros(n)
    for k in range(1, 25):
        exhaust += (0.3 / k + resonance(k * firing)) * sine(k * firing, n)
    rasp = shaped(rng, n, low_pass(1200)) * np.maximum(0, sine(firing, n)) * firing / 110
    return exhaust + 0.6 * rasp


def keyboard(rng, n):
    """Typing: each key clicks when pressed and when released."""
    x = 0.01 * shaped(rng, n, low_pass(400))
    start = 0.1
    while start < n / RATE:
        key, strength = rng.uniform(1800, 3800), rng.uniform(0.5, 1.0)
        for delay, share in ((0.0, 1.0), (rng.uniform(0.06, 0.1), 0.4)):
            click = thud(rng, 0.002, low_pass(4000))
            place(x, start + delay, strength * share * click)
            place(x, start + delay, strength * share * 0.5 * ping(key, 0.006))
        start += rng.uniform(0.4, 0.7) if rng.random() < 0.1 else rng.uniform(0.09, 0.22)
    return x


def alarm(rng, n):
    """Alarm clock: four short beeps and a rest, again and again."""
    t = np.arange(n) / RATE
    sounding = (t % 1.0 < 0.8) & (t % 0.2 < 0.1)
    gate = np.convolve(sounding, np.ones(80) / 80, mode="same")
    return gate * (sine(2050, n) + 0.3 * sine(4100, n) + 0.1 * sine(6150, n)) + 0.02 * pink(rng, n)


def siren(rng, n):
    """Slow wail, then fast yelp, in a noisy street."""
    t = np.arange(n) / RATE
    speed = np.where(t < 0.6 * t[-1], 0.35, 3.0)  # sweeps per second
    pitch = 950 + 450 * sine(speed, n)
    wail = sum(sine(k * pitch, n) / k**1.5 for k in range(1, 6))
    return wail * wander(rng, n, 2.0, 0.5, 1.0) + 0.1 * pink(rng, n)


def babble(rng, n):
    """Ten voices not in speech/ saying numbers in ten languages."""
    x = np.zeros(n)
    for voice in BABBLE:
        numbers = ", ".join(str(k) for k in rng.integers(100, 10000, 8))
        talk = espeak(numbers, voice, rng.integers(30, 70), rng.integers(150, 190))
        talk = np.tile(talk, int(np.ceil(n / len(talk))))[:n]
        x += rng.uniform(0.5, 1.0) * np.roll(talk, int(rng.integers(n))) / rms(talk)
    return x


def bubbles(rng, n):
    """Water: short sines of rising pitch, and a trickle."""
    x = 0.01 * shaped(rng, n, bump(1200, 500)) * wander(rng, n, 0.3, 0.3, 1.0)
    for start in at_random(rng, n, 18):
        size = rng.uniform(0.3, 1.0)  # a large bubble sounds low, loud and long
        place(x, start, size * ping(450 / size, 0.025 * size, bend=rng.uniform(2, 10)))
    return x


def train(rng, n):
    """Wheels over rail joints, ever faster, on a rumble."""
    x = 0.15 * shaped(rng, n, low_pass(90, order=3)) * wander(rng, n, 0.7, 0.7, 1.0)
    start, gap = 0.1, 1.15
    while start < n / RATE:
        for delay, strength in ((0.0, 1.0), (0.12, 0.8), (0.38, 0.9), (0.5, 0.7)):
            place(x, start + gap * delay, strength * thud(rng, 0.03, bump(420, 150)))
        start, gap = start + gap, 0.94 * gap
    return x


def crickets(rng, n):
    """Three crickets: chirps of four pulses near 3.3 kHz."""
    x = 0.02 * pink(rng, n)
    for pitch, period, strength in ((3100, 0.52, 1.0), (3350, 0.43, 0.6), (3550, 0.61, 0.4)):
        pulse = np.hanning(int(0.016 * RATE)) * sine(pitch, int(0.016 * RATE))
        for start in np.arange(rng.uniform(0, period), n / RATE, period):
            for k in range(4):
                place(x, start + 0.03 * k, strength * pulse)
    return x


def helicopter(rng, n):
    """Eleven deep slaps a second, and a turbine's whine."""
    slap = (0.5 + 0.5 * sine(11 + wander(rng, n, 2.0, -0.5, 0.5), n)) ** 6
    turbine = sine(1340, n) + shaped(rng, n, low_pass(1500))
    return slap * shaped(rng, n, low_pass(220)) + 0.03 * turbine


def jackhammer(rng, n):
    """Bursts of 22 blows a second, and a compressor."""
    x = 0.1 * shaped(rng, n, low_pass(300)) * (1 + 0.5 * sine(31, n))
    start, stop = 0.2, 1.8
    while start < n / RATE:
        strength = rng.uniform(0.7, 1.0)
        place(x, start, strength * thud(rng, 0.008, low_pass(3500)))
        place(x, start, strength * 0.8 * ping(900, 0.008))
        place(x, start, strength * 0.6 * ping(2350, 0.005))
        start += rng.uniform(0.043, 0.048)
        if start > stop:
            start, stop = start + rng.uniform(0.5, 0.9), stop + rng.uniform(1.8, 2.6)
    return x


def music(rng, n):
    """Plucked strings: random melody and a bass note every second."""
    x = 0.01 * pink(rng, n)
    scale = 220 * 2 ** (np.array([0, 3, 5, 7, 10, 12, 15, 17, 19, 22, 24]) / 12)
    step = 5
    for beat, start in enumerate(np.arange(0, n / RATE, 0.25)):
        step = int(np.clip(step + rng.integers(-2, 3), 0, len(scale) - 1))
        place(x, start, string(scale[step], 0.25))
        if beat % 4 == 0:
            place(x, start, 1.5 * string(scale[step % 5] / 2, 0.5))
    return x


def string(frequency, decay):
    """One plucked note: harmonics that fade sooner the higher they are."""
    note = np.zeros(int(6 * decay * RATE))
    for k in range(1, int(6000 / frequency)):
        place(note, 0, ping(k * frequency, decay / k**0.7) / k)
    return note


def dishes(rng, n):
    """Plates and glasses: rings, some alone, some in clatters."""
    x = 0.03 * pink(rng, n)
    for first in at_random(rng, n, 3):
        for start in first + np.cumsum(rng.uniform(0.02, 0.12, rng.integers(1, 7))):
            base = rng.uniform(900, 2400)
            for ratio in (1.0, 1.52, 2.41, 3.13):
                place(x, start, rng.uniform(0.2, 1.0) * ping(base * ratio, rng.uniform(0.01, 0.08)))
    return x


def vacuum_cleaner(rng, n):
    """Held out: a motor's whine and rushing air whose colour follows the nozzle over the floor."""
    motor = 205 + wander(rng, n, 0.7, -8, 8)
    whine = sum(sine(k * motor, n) / k for k in (1, 2, 3, 4, 6, 8))
    nozzle = wander(rng, n, 0.5, 0.2, 1.0)
    air = nozzle * shaped(rng, n, bump(600, 350)) + (1 - nozzle) * shaped(rng, n, bump(2200, 900))
    return 0.35 * whine + 0.7 * air + 0.4 * shaped(rng, n, low_pass(2500))


def applause(rng, n):
    """Held out: claps of many hands, thicker and thinner."""
    x = 0.02 * pink(rng, n)
    for start in at_random(rng, n, 90):
        clap = thud(rng, rng.uniform(0.003, 0.007), bump(rng.uniform(900, 2200), 500))
        place(x, start, rng.uniform(0.1, 1.0) ** 2 * clap)
    return x * wander(rng, n, 0.4, 0.5, 1.0)


NOISES = (
    white,
    pink,
    brown,
    mains_hum,
    fan,
    rain,
    wind,
    crackle,
    engine,
    keyboard,
    alarm,
    siren,
    babble,
    bubbles,
    train,
    crickets,
    helicopter,
    jackhammer,
    music,
    dishes,
)


def espeak(text, voice, pitch, speed):
    """Speech of espeak-ng, (n,) float64 at RATE, without its slow drift below the voice."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "speech.wav")
        settings = ["-v", voice, "-p", str(pitch), "-s", str(speed), "-w", path]
        subprocess.run(["espeak-ng", *settings, text], check=True)
        x, rate = sf.read(path)
    return sosfilt(butter(2, 50, "highpass", fs=RATE, output="sos"), resample_poly(x, RATE, rate))


def espeak_version():
    """Version of the installed espeak-ng, such as "1.51"; None without one."""
    if shutil.which("espeak-ng") is None:
        return None
    answer = subprocess.run(["espeak-ng", "--version"], check=True, capture_output=True, text=True)
    return answer.stdout.split("text-to-speech:")[1].split()[0]


def frames(x):
    """The whole frames of x, (frames, FRAME), and their levels in dB re the loudest, (frames,)."""
    x = x[: len(x) // FRAME * FRAME].reshape(-1, FRAME)
    power = np.mean(np.square(x), axis=1)
    return x, 10 * np.log10(np.maximum(power / power.max(), 1e-12))


def trim(x):
    """Drop leading and trailing frames more than 50 dB below the loudest."""
    x, levels = frames(x)
    loud = np.flatnonzero(levels > -50)
    return x[loud[0] : loud[-1] + 1].ravel()


def active_rms(x):
    """RMS of the frames within 40 dB of the loudest."""
    x, levels = frames(x)
    return rms(x[levels > -40])


def make_clip(text, voice, pitch, speed):
    """One trimmed sentence at SPEECH_DB."""
    x = trim(espeak(text, voice, pitch, speed))
    return x * 10 ** (SPEECH_DB / 20) / active_rms(x)


def sentences(name):
    """What a speaker says, one sentence per clip."""
    return (SENTENCES / f"{name}.txt").read_text(encoding="utf-8").splitlines()


# The three folders, as {path: (samples, rate)} with int16 samples (n,) or (n, channels).


def to_int16(x, step=STEP):
    """Round to multiples of step/32768; loud enough to clip is an error of this script."""
    assert np.abs(x).max() < 1, "a recording would clip"
    return (np.round(x * 32768 / step) * step).astype(np.int16)


def generator(name, seed):
    """Own random numbers for each recording, so that adding one leaves the others alone."""
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def make_noise(noise, seed=SEED):
    """Samples of one noise function at NOISE_DB, or with its peak at PEAK if that is quieter."""
    x = noise(generator(noise.__name__, seed), NOISE_SECONDS * RATE)
    x -= x.mean()
    return x * min(10 ** (NOISE_DB / 20) / rms(x), PEAK / np.abs(x).max())


def make_noises():
    """All noises that training may hear."""
    return {f"noise/{noise.__name__}.flac": (to_int16(make_noise(noise)), RATE) for noise in NOISES}


def make_speech():
    """All sentences of all speakers, the pitch a little higher, lower and unchanged in turn."""
    files = {}
    for name, (voice, pitch, speed) in SPEAKERS.items():
        for number, text in enumerate(sentences(name), start=1):
            clip = make_clip(text, voice, pitch + 5 * (number % 3 - 1), speed)
            files[f"speech/{name}/{number:02}.flac"] = (to_int16(clip), RATE)
    return files


def make_noisy():
    """Two clips of the held-out speaker in held-out noises, and their clean references."""
    clips = [make_clip(text, *HELD_OUT_SPEAKER) for text in sentences("held-out")]
    gap = np.zeros(RATE // 5)

    speech = np.concatenate([clips[0], gap, clips[1], gap, clips[2]])
    noise = make_noise(vacuum_cleaner)[: len(speech)]
    mono = mix(speech[:, None], noise[:, None], 0.0, 8000)

    left = make_noise(applause)
    right = np.roll(left, 3 * RATE)
    speech = clips[3][:, None] * [1.0, 0.6]
    noise = np.stack([left, right], axis=1)[: len(speech)]
    stereo = mix(speech, noise, 5.0, 44100)
    return {f"noisy/{name}": recording for name, recording in zip(NOISY, mono + stereo)}


def mix(speech, noise, snr_db, rate):
    """Noisy and clean speech at `rate` from (n, channels) at RATE.

    Noisy is clean + noise to the last bit, with the noise at snr_db, and has the level SPEECH_DB.
    """
    speech, noise = (resample_poly(x, rate, RATE, axis=0) for x in (speech, noise))
    noise *= rms(speech) / rms(noise) * 10 ** (-snr_db / 20)
    gain = 10 ** (SPEECH_DB / 20) / rms(speech + noise)
    clean, noise = to_int16(gain * speech, step=1), to_int16(gain * noise, step=1)
    return (clean + noise, rate), (clean, rate)


def write(out, files):
    """Write each file under a temporary name first, so that none is ever half there."""
    for name, (samples, rate) in files.items():
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        encoded = io.BytesIO()
        sf.write(encoded, samples, rate, format=path.suffix[1:].upper(), subtype="PCM_16")
        try:
            partial.write_bytes(encoded.getbuffer())
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


def table(files):
    """The Markdown table of README.md: a line for each speaker, noise and noisy clip."""
    groups = {}
    for name, (samples, rate) in files.items():
        group = os.path.dirname(name) if name.startswith("speech/") else name
        groups.setdefault(group, []).append(len(samples) / rate)
    rows = ["| recordings | files | seconds | what |", "|---|---|---|---|"]
    for group, seconds in groups.items():
        rows.append(f"| {group} | {len(seconds)} | {sum(seconds):.1f} | {describe(group)} |")
    return "\n".join(rows)


def describe(group):
    """Last column of the table."""
    kind, name = group.split("/")
    if kind == "speech":
        voice, pitch, speed = SPEAKERS[name]
        return f"espeak-ng voice {voice}, pitch {pitch}, {speed} words per minute"
    if kind == "noise":
        return globals()[Path(name).stem].__doc__
    return NOISY[name]


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Make the recordings of data/ again.")
    parser.add_argument(
        "--out",
        required=True,
        type=Path,
        metavar="DIR",
        help="folder to write to; files of the same name are replaced",
    )
    options = parser.parse_args(arguments)
    if espeak_version() is None:
        print(f"error: {ESPEAK_MISSING}", file=sys.stderr)
        return 2
    try:
        files = {**make_speech(), **make_noises(), **make_noisy()}
        write(options.out, files)
    except subprocess.CalledProcessError as problem:
        command = shlex.join(problem.cmd)
        print(
            f"error: exit code {problem.returncode} of: {command}; install espeak-ng again", file=sys.stderr
        )
        return 2
    except OSError as problem:
        problem = f"{problem.filename or options.out}: {problem.strerror}"
        print(f"error: {problem}; give another --out", file=sys.stderr)
        return 2
    print(table(files))
    return 0


if __name__ == "__main__":
    sys.exit(main())
