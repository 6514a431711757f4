# %% [markdown]
# # 13. SI-SNR, the loss: solutions
#
# Minutes: 15. Before: [13. SI-SNR, the loss](../13_si_snr.py).
#
# The mixture as an estimate, decibels as angles, a delay of one sample, and a loss that hears the level.

# %%
import sys
from pathlib import Path

# companion.py lies in the folder above, both for a script and for a notebook.
sys.path.insert(0, str(Path(globals().get("__file__", "notebook")).resolve().parents[1]))
import companion

import numpy as np

from tasnet_np.ops.gradcheck import check_gradients
from tasnet_np.sound.metrics import si_snr
from tasnet_np.corpus.mixing import mix

rate = 8000  # Hz
rng = np.random.default_rng(13)
voice = companion.speech(2.0, rate, speaker="english-british")
rain = companion.noise(2.0, rate, name="rain")

# %% [markdown]
# ## 1. The mixture as an estimate
#
# Let $e = s + v$ with $\langle s, v \rangle = 0$. The projection is
#
# $$ p = \frac{\langle s + v, s \rangle}{\langle s, s \rangle} s = \frac{\langle s, s \rangle + 0}{\langle s, s \rangle} s = s $$
#
# and the rest is $q = v$. So $|p|^2 / |q|^2 = |s|^2 / |v|^2$: the SI-SNR of the mixture is the SNR that it was mixed
# at. Real sounds are not quite perpendicular, so it is nearly so.

# %%
s, v = rng.standard_normal((2, 1000))
s, v = s - s.mean(), v - v.mean()
v -= (v @ s) / (s @ s) * s  # now exactly perpendicular
mixture, _ = mix(s, v, snr_db=5.0)
assert np.isclose(si_snr(mixture, s), 5.0, atol=1e-4)

mixture, sources = mix(voice, rain, snr_db=5.0)
assert abs(si_snr(mixture, sources[0]) - 5.0) < 0.2

# %% [markdown]
# ## 2. Decibels as angles
#
# $10 \log_{10} (1 / \tan^2 \theta) = 10$ gives $\tan^2 \theta = 0.1$, so $\theta = 17.5$ degrees. At 20 dB, $\tan
# \theta = 0.1$ and $\theta = 5.7$ degrees.

# %%
for decibels, degrees in ((10, 17.5), (20, 5.7)):
    theta = np.degrees(np.arctan(10 ** (-decibels / 20)))
    assert round(theta, 1) == degrees
    estimate = np.cos(np.radians(theta)) * s / np.linalg.norm(s) + np.sin(
        np.radians(theta)
    ) * v / np.linalg.norm(v)
    assert np.isclose(si_snr(estimate, s), decibels, atol=1e-4)

# %% [markdown]
# ## 3. A delay of one sample
#
# Nobody can hear a delay of an eighth of a millisecond. SI-SNR can. White noise has nothing in common with itself one
# sample later: below -20 dB, although it is perfectly clean. Speech is mostly low frequencies, which change little
# from sample to sample. It keeps more, but what is left is about 0 dB, as for a voice in noise of its own level. So a
# model whose padding is off by one looks useless in its score, and sounds fine.

# %%
white = rng.standard_normal(16_000)
delayed_noise = si_snr(white[:-1], white[1:])
delayed_voice = si_snr(voice[:-1], voice[1:])
print(f"one sample late: white noise {delayed_noise:.1f} dB, speech {delayed_voice:.1f} dB")
assert 1000 / rate == 1 / 8  # ms
assert delayed_noise < -20
assert abs(delayed_voice) < 1

# %% [markdown]
# ## 4. A loss that hears the level
#
# Let $d = s - x$ be the error and $c = 10 / \ln 10$. Then $y = c (\ln |s|^2 - \ln |d|^2)$, and only the second part
# depends on $x$. With $\partial |d|^2 / \partial x = -2 d$:
#
# $$ \frac{\partial y}{\partial x} = -c \cdot \frac{-2 d}{|d|^2} = 2 c \, \frac{s - x}{|s - x|^2} $$
#
# It points straight at the target. Along $x$ it has the part $2 c \langle s - x, x \rangle / |d|^2$, which is zero
# only by chance: this gradient corrects the level as well.

# %%
c = 10 / np.log(10)


def snr_forward(x, *, target):
    d = target - x
    return c * np.log((target**2).sum(axis=-1) / (d**2).sum(axis=-1)), d


def snr_backward(dy, d):
    return (dy[..., None] * 2 * c * d / (d**2).sum(axis=-1, keepdims=True),)


x, target = rng.standard_normal((2, 3, 2, 41))
assert check_gradients(snr_forward, snr_backward, [x], {"target": target}) < 1e-6
y, d = snr_forward(x, target=target)
(dx,) = snr_backward(np.ones_like(y), d)
with companion.fails("the plain SNR hears the level"):
    along = np.abs((dx * x).sum(axis=-1)).max()
    assert along < 1e-6, f"the gradient has a part {along:.2g} along x"
