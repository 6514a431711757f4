"""The validation mixtures of a run: made once, at the SNRs that were asked for."""

import numpy as np
import pytest

from tasnet_np import UserError
from tasnet_np.corpus import manifest, mixing
from tasnet_np.network.config import Config
from tasnet_np.training.recipe import Recipe
from tasnet_np.training.train import resume, train
from tasnet_np.training.validation_set import read_validation_set

CONFIG = Config(filters=16, filter_length=8, bottleneck=8, hidden=12, skip=8, blocks=2, repeats=1)
RECIPE = Recipe(batch=2, seconds=0.2, validate_every=4, validation_mixtures=2)


def test_the_validation_set_is_made_once_and_is_what_the_manifest_says(recordings, tmp_path):
    out = tmp_path / "run"
    train(recordings / "speech", recordings / "noise", out, CONFIG, RECIPE, steps=4)
    stored = (out / "validation.npz").read_bytes()
    batches = read_validation_set(out / "validation.npz")
    assert len(batches) == 4
    mixtures = manifest.load(out / "manifest.json").mixtures
    assert [m["name"] for m in mixtures] == [name for batch in batches for name in batch.names]
    asked = [m["snr_db"] for m in mixtures]
    assert asked == [snr for snr in (-5, 0, 5, 10) for _ in range(RECIPE.validation_mixtures)]
    for batch in batches:
        energy = np.sum(np.square(batch.sources, dtype=np.float64), axis=-1)
        assert 10 * np.log10(energy[:, 0] / energy[:, 1]) == pytest.approx(batch.snr_db, abs=1e-3)
    assert [m["measured_snr_db"] for m in mixtures] == pytest.approx(asked, abs=1e-3)
    resume(out, steps=6)
    assert (out / "validation.npz").read_bytes() == stored
    (out / "validation.npz").unlink()
    resume(out, steps=8)
    again = read_validation_set(out / "validation.npz")
    assert all(np.array_equal(a.mixture, b.mixture) for a, b in zip(batches, again, strict=True))


def test_a_validation_mixture_at_another_snr_is_refused(recordings, tmp_path, monkeypatch):
    right = mixing.mix
    monkeypatch.setattr(
        mixing, "mix", lambda speech, noise, snr_db, level_db: right(speech, noise, snr_db + 0.1, level_db)
    )
    with pytest.raises(UserError, match="the mixture is at -4.900 dB"):
        train(recordings / "speech", recordings / "noise", tmp_path / "run", CONFIG, RECIPE, steps=1)
