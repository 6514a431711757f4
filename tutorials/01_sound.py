# %% [markdown]
# # 1. Sound as numbers
#
# Minutes: 20. Before: nothing.
#
# Waveforms, levels in decibels, mixing speech and noise at a chosen ratio, and spectrograms. Why that ratio must be
# measured on the very samples that are used. You need some Python and NumPy, and a little calculus later on. At the
# end you will have written the rule that mixes this project's training data, and met a mistake in it that has been
# published more than once.

# %% [markdown]
# Every number that the text claims is checked by an `assert` in the code below it: if the cell runs, it is true.
#
# Every tutorial begins with a map of the network. The orange part is where we are. This time it is the very
# beginning: what goes in.

# %%
import companion  # first: it finds the tasnet_np that lies beside these tutorials

import matplotlib.pyplot as plt
import numpy as np

from tasnet_np.reports import plots
from tasnet_np.sound.level import at_level, rms_db
from tasnet_np.corpus.mixing import mix
from tasnet_np.sound.resampling import resample

companion.where("mixture")

rate = 8000  # samples per second, in Hz
rng = np.random.default_rng(1)

# %% [markdown]
# ## A waveform
#
# Sound is air pressure that goes up and down. A microphone measures it many times a second. Each
# measurement is a *sample*. At a *sample rate* of 8000 Hz, two seconds are 16 000 samples, one every
# 125 microseconds. They are 32-bit floating-point numbers between -1 and 1.

# %%
speech = companion.speech(2.0, rate, speaker="english-british")
companion.play(speech, rate, "speech")

assert speech.shape == (16_000,) and speech.dtype == np.float32
assert np.abs(speech).max() < 1
assert 1e6 / rate == 125  # microseconds

# %% [markdown]
# Drawn over time, the samples are the waveform. From far away we see the loud and the soft parts. From
# close up we see the voice itself: a pattern that repeats each time the vocal folds open.

# %%
fig, (far, near) = plt.subplots(2, figsize=(7.5, 4))
far.plot(np.arange(len(speech)) / rate, speech, linewidth=0.5)
far.set(title="two seconds of speech", xlabel="time (s)", ylabel="sample")
loudest = int(np.abs(speech).argmax())
piece = slice(loudest - 160, loudest + 160)  # 40 ms
milliseconds = (np.arange(len(speech)) / rate * 1000)[piece]
near.plot(milliseconds, speech[piece], ".-", linewidth=0.8, markersize=4)
near.set(title="40 ms of it: each dot is a sample", xlabel="time (ms)", ylabel="sample")
companion.show("waveform")

# %% [markdown]
# ## A sound from a formula
#
# A pure tone of frequency $f$ (in Hz) and amplitude $A$ is a sine. The sample number is $t$:
#
# $$ x[t] = A \sin\left( \frac{2\pi f t}{\text{rate}} \right) $$
#
# At 500 Hz and 8000 samples per second, one period is 16 samples. (That is also the length of the filters
# of our encoder, in tutorial 3.)


# %%
def sine(frequency, seconds=1.0, amplitude=1.0):
    t = np.arange(round(seconds * rate))
    return amplitude * np.sin(2 * np.pi * frequency * t / rate)


tone = sine(500, amplitude=0.1)
companion.play(tone, rate, "500 Hz")
assert rate / 500 == 16
assert np.allclose(tone[:-16], tone[16:])  # it repeats every 16 samples

# %% [markdown]
# ## What a sample rate cannot hold
#
# A tone of 5000 Hz has fewer than two samples per period at this rate. Its samples are those of a tone
# of 3000 Hz, with the sign flipped. Write 5000 as 8000 - 3000. The whole turns $2 \pi t$ change nothing, and
# $\sin(-a) = -\sin a$:
#
# $$ \sin\left( \frac{2\pi \cdot 5000 \, t}{8000} \right)
# = \sin\left( 2 \pi t - \frac{2\pi \cdot 3000 \, t}{8000} \right)
# = -\sin\left( \frac{2\pi \cdot 3000 \, t}{8000} \right) $$
#
# Nothing in the numbers tells the two apart. This is *aliasing*. Only frequencies below half the rate are safe,
# here 4000 Hz (the *Nyquist frequency*).

# %%
assert np.allclose(sine(5000), -sine(3000))
assert 5000 + 3000 == rate and rate / 2 == 4000

# %% [markdown]
# So a recording must lose its high frequencies *before* it gets a lower rate. Taking every second sample
# does not do that; `resample` does. A 5000 Hz tone, recorded at 16 000 Hz, must disappear at 8000 Hz.
# Every second sample keeps it at full level, as a false 3000 Hz. `resample` leaves less than 1 % of it.

# %%
recorded = np.sin(2 * np.pi * 5000 * np.arange(16_000) / 16_000)  # one second at 16 kHz
every_second = recorded[::2]
resampled = resample(recorded, 16_000, rate)
inside = slice(100, -100)  # the filter of `resample` needs some room at both ends

assert np.allclose(every_second, -sine(3000))
assert np.abs(resampled[inside]).max() < 0.01 * np.abs(every_second).max()

# %% [markdown]
# ## Level
#
# How loud is a sound? One sample says nothing: a loud sound passes through 0 all the time. So we take the
# mean of the squares of all $n$ samples, the *power* $P$. Its root is the RMS (root mean square). On a
# logarithmic scale it is the *level* $L$ in decibels:
#
# $$ P = \frac{1}{n} \sum_{t} x[t]^2 \qquad L = 10 \log_{10} P $$
#
# A row of ones has power 1 and level 0. That is *full scale*, so the unit is called dBFS.
#
# **The level of a sine.** With $\sin^2 a = \tfrac12 - \tfrac12 \cos 2a$, and because a cosine sums to zero
# over whole periods:
#
# $$ P = \frac{A^2}{n} \sum_t \sin^2(\cdot) = \frac{A^2}{n} \cdot \frac{n}{2} = \frac{A^2}{2} $$
#
# For $A = 1$ this is $10 \log_{10} \tfrac12 = -3.01$ dBFS. The function here is ours; `rms_db` is the
# library's.


# %%
def level_db(x):
    return 10 * np.log10(np.mean(x**2))


assert np.isclose(np.mean(sine(500) ** 2), 1 / 2)
assert round(level_db(sine(500)), 2) == -3.01
assert np.isclose(level_db(sine(500)), rms_db(sine(500)))
assert np.isclose(level_db(np.ones(100)), 0)

# %% [markdown]
# **A gain in decibels.** Multiply every sample by $g$. The power gets the factor $g^2$, so the level rises
# by
#
# $$ 10 \log_{10} g^2 = 20 \log_{10} g $$
#
# This is why two factors, 10 and 20, appear in formulas about sound: 10 for powers, 20 for amplitudes. Twice
# the amplitude is 6.02 dB more, ten times is 20 dB more. The other way round, $d$ decibels are the gain
# $g = 10^{d/20}$.

# %%
for gain, decibels in ((2, 6.02), (10, 20.0)):
    assert round(level_db(gain * tone) - level_db(tone), 2) == decibels

# %% [markdown]
# The clips that `companion` gives are all at -25 dBFS. `at_level` brings any sound to a level: it measures,
# and applies the gain that is missing.

# %%
quiet = at_level(speech, -40)
companion.play(speech, rate, "at -25 dBFS")
companion.play(quiet, rate, "at -40 dBFS")

assert abs(rms_db(speech) - -25) < 1e-4
assert abs(rms_db(quiet) - -40) < 1e-4
assert np.allclose(quiet, speech * 10 ** (-15 / 20))

# %% [markdown]
# ## Adding sounds
#
# Two sounds at the same time simply add, sample by sample. Their powers add only when the two have nothing
# to do with each other:
#
# $$ \frac1n \sum (a + b)^2 = P_a + P_b + \frac2n \sum a\,b $$
#
# The last term is near zero for unrelated sounds: two noises of equal level are 3 dB louder than one. Two
# equal sounds are 6 dB louder.

# %%
one, other = rng.standard_normal((2, 100_000))
assert abs(level_db(one + other) - level_db(one) - 3.01) < 0.1
assert abs(level_db(one + one) - level_db(one) - 6.02) < 0.01

# %% [markdown]
# ## Mixing at an SNR
#
# The *signal-to-noise ratio* says how much louder the speech $s$ is than the noise $v$:
#
# $$ \text{SNR} = 10 \log_{10} \frac{P_s}{P_v} $$
#
# We want a certain SNR. The speech stays as it is, and the noise gets a gain $g$. Which one? Put $g$ into the
# formula, and solve it, one step per line:
#
# $$ \begin{aligned}
# \text{SNR} &= 10 \log_{10} \frac{P_s}{g^2 P_v} \\
# 10^{\text{SNR}/10} &= \frac{P_s}{g^2 P_v} \\
# g^2 &= \frac{P_s}{P_v} \cdot \frac{1}{10^{\text{SNR}/10}} \\
# g &= \sqrt{\frac{P_s}{P_v} \cdot \frac{1}{10^{\text{SNR}/10}}}
# \end{aligned} $$


# %%
def power(x):
    return np.mean(np.square(x, dtype=np.float64))


def snr_db(s, v):
    return 10 * np.log10(power(s) / power(v))


def gain_for(s, v, wanted_db):
    return np.sqrt(power(s) / power(v) / 10 ** (wanted_db / 10))


noise = companion.noise(2.0, rate, name="rain")
for wanted_db in (-5, 0, 10):
    g = gain_for(speech, noise, wanted_db)
    assert np.isclose(snr_db(speech, g * noise), wanted_db)
    companion.play(speech + g * noise, rate, f"SNR {wanted_db} dB")

# %% [markdown]
# The library's `mix` does the same, and one thing more: speech and noise then get one common gain, so that
# the mixture is at -25 dBFS. A common gain cancels in the SNR. It returns the mixture and its two *sources*,
# speech first. The sources are what the network must find.

# %%
mixture, sources = mix(speech, noise, snr_db=5.0)
g = gain_for(speech, noise, 5.0)
by_hand = speech + g * noise
common = 10 ** ((-25 - level_db(by_hand)) / 20)

assert np.allclose(mixture, common * by_hand, atol=1e-6)
assert np.allclose(sources, [common * speech, common * g * noise], atol=1e-6)
assert np.isclose(snr_db(*sources), 5.0)
assert (mixture == sources.sum(axis=0)).all()  # to the last bit

# %% [markdown]
# ## Break it: the square root too many
#
# Some published code starts from the RMS values, $R = \sqrt{P}$, and still takes the root. With
# $g = \sqrt{R_s / R_v / 10^{\text{SNR}/20}}$ and sounds of equal level, $g = 10^{-\text{SNR}/40}$. The
# decibels are halved: who asks for 7 dB gets 3.5 dB, and 12 dB becomes 6 dB. Nothing crashes, and the
# files sound fine. Only measuring the result tells.
#
# Every tutorial breaks something on purpose, like this. What stands under `companion.fails` *must* fail an
# assertion. If it does not, the tutorial stops.


# %%
def gain_with_a_root_too_many(s, v, wanted_db):
    rms_s, rms_v = np.sqrt(power(s)), np.sqrt(power(v))
    return np.sqrt(rms_s / 10 ** (wanted_db / 20) / rms_v)


for wanted_db, got_db in ((7, 3.5), (12, 6.0)):
    g = gain_with_a_root_too_many(speech, noise, wanted_db)
    assert abs(snr_db(speech, g * noise) - got_db) < 1e-3
    with companion.fails("a square root too many in the gain"):
        assert abs(snr_db(speech, g * noise) - wanted_db) < 0.1, "the SNR is not what was asked for"

# %% [markdown]
# ## Measure the SNR on the crop that is used
#
# Training takes short crops of long recordings. Suppose we mix eight seconds at 5 dB first, and cut out
# single seconds afterwards. Speech has pauses, and noise comes and goes. So the SNR of a crop is not 5 dB.
# Here are all crops of one second, one starting every 10 ms. The noise is somebody handling dishes.

# %%
long_speech = companion.speech(8.0, rate, speaker="english-british")
long_noise = companion.noise(8.0, rate, name="dishes")
_, (long_s, long_v) = mix(long_speech, long_noise, snr_db=5.0)

starts = np.arange(0, len(long_s) - rate + 1, rate // 100)
crops = [slice(start, start + rate) for start in starts]
found_db = np.array([snr_db(long_s[crop], long_v[crop]) for crop in crops])

fig, (waves, curve) = plt.subplots(2, sharex=True, figsize=(7.5, 4.5))
seconds = np.arange(len(long_s)) / rate
for y, name, sound in ((0, "speech", long_s), (-1, "noise", long_v)):
    waves.plot(seconds, y + sound, "-", color="black", linewidth=0.4)
    waves.text(8.05, y, name, va="center")
waves.set(yticks=[], title="mixed at 5 dB over eight seconds")
curve.plot(starts / rate + 0.5, found_db, "-", color="black", label="of the second around this time")
curve.axhline(5, color=companion.COLOURS["vermilion"], linestyle="--", label="of all eight seconds")
curve.set(xlabel="time (s)", ylabel="SNR (dB)")
curve.legend(loc="upper left")
companion.show("snr_of_crops")

# %% [markdown]
# The SNR of a crop is anything from below 0 dB to above 13 dB. A model trained on such crops does not meet
# the noise that its settings promise, and a result "at 5 dB" is not one.

# %%
assert np.isclose(snr_db(long_s, long_v), 5.0)
assert found_db.min() < 0 and found_db.max() > 13
with companion.fails("mixed first, cropped afterwards"):
    assert np.abs(found_db - 5).max() < 0.1, "the crops do not have the SNR of the whole"

# %% [markdown]
# The remedy is the order of the two steps. Crop first, then mix what you have cropped. Now every crop has
# 5 dB.

# %%
for crop in crops[::50]:
    _, (s, v) = mix(long_speech[crop], long_noise[crop], snr_db=5.0)
    assert abs(snr_db(s, v) - 5.0) < 1e-3

# %% [markdown]
# ## A spectrogram
#
# A waveform shows when, but not which frequencies. A spectrogram shows both. The recipe: cut out short,
# overlapping pieces of $K$ samples, one every $S$ samples. Multiply each with a *window* $h$ that
# fades in and out. Then ask how much of each frequency is in it, by a Fourier transform:
#
# $$ X[f, t] = \sum_{k=0}^{K-1} h[k] \; x[tS + k] \; e^{-2\pi i f k / K} $$
#
# From here on $t$ numbers the pieces and $f$ the rows: $X$ has the shape `(K/2 + 1, T)`. The row $f$ stands for
# $f \cdot \text{rate} / K$ Hz. Here $i$ is the imaginary unit, and $e^{-ia} = \cos a - i \sin a$: the real part
# compares the piece with a cosine, the imaginary part with a sine. The size $|X|$ is the root of the sum of both
# squares. The level $20 \log_{10} |X[f, t]|$ becomes a colour.
#
# We also divide $X$ by $\tfrac12 \sum_k h[k]$. Then a sine of amplitude 1 comes out at 0 dB: a sine is made of two
# complex exponentials, $\sin a = (e^{ia} - e^{-ia}) / 2i$, each of size one half, and a row finds one of them.


# %%
def spectrogram(x, K=256, S=64):
    padded = np.pad(x, K // 2)  # piece t is centred at sample t*S
    pieces = np.array([padded[start : start + K] for start in range(0, len(x) + 1, S)])  # (T, K)
    h = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(K) / K)  # the Hann window
    X = np.fft.rfft(h * pieces, axis=1).T  # (K//2 + 1, T)
    return 20 * np.log10(np.maximum(np.abs(X) / (h.sum() / 2), 1e-10))


levels = spectrogram(mixture)
assert np.allclose(levels, plots.spectrogram(mixture, rate))  # the library's
assert levels.shape == (129, 251)

# %% [markdown]
# A sine of 1000 Hz lies in row 32, as 1000 = 32 · 8000 / 256. It has 0 dB there.

# %%
middle = spectrogram(sine(1000))[:, 60]
assert middle.argmax() == 32 == 1000 * 256 / rate
assert abs(middle[32]) < 1e-6

# %% [markdown]
# Here are the speech, the noise and their mixture. The stripes of a voice are its *harmonics*, whole multiples
# of the pitch. Rain has no stripes. In the mixture, the faint parts of the speech are buried.

# %%
fig, axes = plt.subplots(3, figsize=(7.5, 6.5), sharex=True)
sounds = {"speech": sources[0], "noise: rain": sources[1], "mixture at 5 dB": mixture}
for ax, (title, sound) in zip(axes, sounds.items()):
    companion.spectrogram(ax, sound, rate, title)
for ax in axes[:-1]:
    ax.set_xlabel("")
companion.show("spectrograms")

# %% [markdown]
# ## Break it: no window
#
# Why fade in and out? Cut a tone off sharply, and the cut itself sounds like a click, which has all
# frequencies. Take a tone that falls between two rows, and look 1000 Hz away from it, where there is nothing.
# Without a window more than -40 dB leak there. With the Hann window it is less than -100 dB.

# %%
between = sine(1000 + 0.5 * rate / 256)[1000:1256]  # 256 samples
hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(256) / 256)


def leak_db(h):
    spectrum = np.abs(np.fft.rfft(h * between)) / (h.sum() / 2)
    return 20 * np.log10(spectrum[64])  # row 64 is 2000 Hz


assert leak_db(hann) < -100
assert leak_db(np.ones(256)) > -40
with companion.fails("no window: the cuts are heard at every frequency"):
    assert leak_db(np.ones(256)) < -100, "leakage"

# %% [markdown]
# ## Long or short pieces?
#
# The rows are rate / K Hz apart, and a piece of $K$ samples tells no finer differences. Two tones half a row apart
# make one peak; two tones four rows apart make two. So long pieces show single harmonics but blur time; short pieces
# do the opposite. No $K$ is best at both. The encoder of our
# network uses very short ones: 16 samples, 2 ms. It gives up fine frequencies for fine time and low delay.
# What it uses in place of sines, it learns (tutorial 3).

# %%
fig, axes = plt.subplots(1, 2, sharey=True, figsize=(7.5, 3.2))
first = speech[:rate]
for ax, K in zip(axes, (512, 64)):
    picture = spectrogram(first, K=K, S=16)
    image = ax.imshow(
        picture, origin="lower", aspect="auto", vmin=-90, vmax=-25, extent=(0, 1, 0, rate / 2000)
    )
    ax.set(title=f"K = {K}: {1000 * K / rate:.0f} ms, {rate / K:.1f} Hz", xlabel="time (s)")
    ax.grid(False)
axes[0].set_ylabel("frequency (kHz)")
fig.colorbar(image, ax=axes, label="level (dB)")
companion.show("long_and_short_pieces")


def peaks(rows_apart, K):
    # How many rows are louder than both neighbours, and within 10 dB of the loudest one.
    two_tones = sine(1000) + sine(1000 + rows_apart * rate / K)
    power_of_row = (10 ** (spectrogram(two_tones, K=K, S=16) / 10)).mean(axis=1)
    inner = power_of_row[1:-1]
    louder = (inner > power_of_row[:-2]) & (inner > power_of_row[2:])
    return np.sum(louder & (inner > power_of_row.max() / 10))


for K in (512, 64):
    assert peaks(0.5, K) == 1 and peaks(4, K) == 2

assert 1000 * 16 / rate == 2  # ms of the encoder's filters

# %% [markdown]
# ## Where this sits in the model
#
# `mixture` is the network's input, with shape `(B, n)`: a *batch* of B waveforms of n samples, which are worked on
# together. The sources, `(B, 2, n)`, are what it should answer. `tasnet_np.corpus.mixing.Mixer` makes both: random speech,
# random noise, crop, then `mix`. The order of the sources is always speech, noise. There is no level to learn, as
# every mixture has -25 dBFS.
#
# These words will come back. The network is *Conv-TasNet*, by Luo and Mesgarani (2019); "the paper" always means
# theirs.
#
# - The *encoder* turns the waveform into frames of numbers (tutorial 3).
# - The *separator* looks at the frames. It is a row of *blocks* (tutorial 11). It makes a *mask* for each source:
#   numbers that say how much of the mixture's frames belongs to it (tutorial 7).
# - The *decoder* turns the masked frames back into waveforms, one for each source (tutorial 10).
#
# A `Config` holds the sizes of a model. Three have names, the *presets*: `small`, the default, is for a laptop; `paper`
# has the sizes of the paper's best model; `origin` is as large, but works on sound as it arrives.
#
# ## Exercises
#
# 1. Two recordings have the levels -20 and -26 dBFS. What is the SNR when the first is speech and the second
#    is noise? Which gain must the noise get for 0 dB?
# 2. A crop of the speech is a pause: all zeros. What SNR does it have with any noise? What does `mix` do?
# 3. Speech and rain are mixed. A lazy denoiser answers with half the mixture. The SNR of its answer is that of
#    the speech against its error, speech - answer. Below which SNR of the mixture does halving "improve" it?
#    What does that say about this measure?
# 4. Music players often clip: samples above 1 become 1. Clip the speech so that 1 % of its samples are changed.
#    What is the SNR, with the error as the noise?
