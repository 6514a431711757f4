# %% [markdown]
# # 1. Sound as numbers: solutions
#
# Minutes: 10. Before: [1. Sound as numbers](../01_sound.py).
#
# Levels and gains by hand, the SNR of silence, why halving can look like denoising, and clipping.

# %%
import sys
from pathlib import Path

# companion.py lies in the folder above, both for a script and for a notebook.
sys.path.insert(0, str(Path(globals().get("__file__", "notebook")).resolve().parents[1]))
import companion

import numpy as np

from tasnet_np.errors import UserError
from tasnet_np.sound.level import at_level, rms_db
from tasnet_np.corpus.mixing import mix

rate = 8000  # Hz


def snr_db(s, v):
    return 10 * np.log10(np.mean(np.square(s, dtype=float)) / np.mean(np.square(v, dtype=float)))


# %% [markdown]
# ## 1. Levels and gains
#
# A ratio of powers is a difference of levels: the SNR is -20 - (-26) = 6 dB. For 0 dB the noise must be 6 dB
# louder, which is the gain $10^{6/20} = 1.995$. Nearly twice.

# %%
speech = at_level(companion.speech(2.0, rate), -20)
noise = at_level(companion.noise(2.0, rate, name="rain"), -26)
gain = 10 ** (6 / 20)

assert abs(snr_db(speech, noise) - 6) < 1e-3
assert round(gain, 3) == 1.995
assert abs(snr_db(speech, gain * noise)) < 1e-3

# %% [markdown]
# ## 2. A pause
#
# The power of the speech is 0, and $10 \log_{10} 0 = -\infty$: the SNR is minus infinity for every noise and every
# gain. No gain can make it 5 dB, so `mix` refuses. (That is why the library draws a crop anew when it falls into
# a pause.)

# %%
pause = np.zeros(rate, np.float32)
assert rms_db(pause) == -np.inf
refused = False
try:
    mix(pause, noise[:rate], snr_db=5.0)
except UserError as error:
    refused = True
    print(error)
assert refused

# %% [markdown]
# ## 3. The lazy denoiser
#
# The mixture is $s + v$. Taken as the answer, its error is $s - (s + v) = -v$: its SNR is that of the mixture. Half
# the mixture has the error
#
# $$ s - \tfrac12 (s + v) = \tfrac12 (s - v) $$
#
# Speech and rain have nothing to do with each other, so the power of that error is $\tfrac14 (P_s + P_v)$. It is
# below $P_v$ as long as
#
# $$ \begin{aligned}
# \tfrac14 (P_s + P_v) &< P_v \\
# P_s &< 3 P_v
# \end{aligned} $$
#
# that is, for mixtures below $10 \log_{10} 3 = 4.77$ dB. Halving makes nothing clearer, and still "gains" up to
# 6 dB where the noise is very loud. A measure that rewards a gain is not a good one for denoising. This is why the
# loss of tutorial 13, SI-SNR, ignores the level.

# %%
assert round(10 * np.log10(3), 2) == 4.77


def gained_by_halving_db(mixture_db):
    mixture, (s, v) = mix(speech, noise, mixture_db)
    return snr_db(s, s - mixture / 2) - snr_db(s, s - mixture)


assert abs(gained_by_halving_db(4.77)) < 0.1
assert gained_by_halving_db(3) > 0.5
assert gained_by_halving_db(6) < -0.5
assert 5.9 < gained_by_halving_db(-30) < 6.02

# %% [markdown]
# ## 4. Clipping
#
# Find the amplitude that 99 % of the samples stay below, and make that full scale. The error is what was cut off.
# One sample in a hundred is wrong, and only these. The SNR is still only about 14 dB, as they are the largest ones.

# %%
loud = speech / np.quantile(np.abs(speech), 0.99)
clipped = np.clip(loud, -1, 1)
companion.play(at_level(clipped, -25), rate, "1 % of the samples clipped")

changed = np.mean(clipped != loud)
clipping_db = snr_db(loud, clipped - loud)
print(f"{100 * changed:.2f} % changed, SNR {clipping_db:.1f} dB")
assert abs(changed - 0.01) < 1e-3
assert 13 < clipping_db < 15
