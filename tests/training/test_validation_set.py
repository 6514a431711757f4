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


def stored(path, change=lambda arrays: None):
    """A file of two batches of three mixtures, and a change in its arrays."""
    rng, arrays = np.random.default_rng(0), {}
    for i, snr_db in enumerate((0.0, 5.0)):
        arrays[f"mixture_{i}"] = rng.standard_normal((3, 100)).astype(np.float32)
        arrays[f"sources_{i}"] = rng.standard_normal((3, 2, 100)).astype(np.float32)
        arrays[f"snr_db_{i}"] = np.full(3, snr_db)
        arrays[f"names_{i}"] = np.array(["a + b", "c + d", "ü"])
    change(arrays)
    np.savez(path, **arrays)
    return arrays


def test_a_stored_set_is_read_as_it_is(tmp_path):
    arrays = stored(tmp_path / "v.npz")
    for i, batch in enumerate(read_validation_set(tmp_path / "v.npz")):
        assert batch.names == ["a + b", "c + d", "ü"] and batch.snr_db.tolist() == [5.0 * i] * 3
        assert np.array_equal(batch.mixture, arrays[f"mixture_{i}"])
        assert np.array_equal(batch.sources, arrays[f"sources_{i}"])


@pytest.mark.parametrize(
    "change",
    [
        lambda a: a.clear(),
        lambda a: a.pop("names_1"),
        lambda a: a.update(more=np.zeros(3)),
        lambda a: a.update(mixture_1=a["mixture_1"][:2]),
        lambda a: a.update(mixture_0=a["mixture_0"][:, :50]),
        lambda a: a.update(mixture_0=a["mixture_0"].astype(np.float64)),
        lambda a: a.update(mixture_0=a["mixture_0"].astype(complex)),
        lambda a: a.update(mixture_0=np.zeros((3, 100), bool)),
        lambda a: a.update(mixture_0=a["mixture_0"][0]),
        lambda a: a.update(sources_0=a["sources_0"][:, :1]),
        lambda a: a["sources_0"].fill(np.nan),
        lambda a: a["snr_db_1"].fill(np.inf),
        lambda a: a.update(snr_db_0=np.array(["0"] * 3)),
        lambda a: a.update(names_0=np.zeros(3)),
        lambda a: a.update(names_0=np.array([None] * 3)),
    ],
)
def test_a_set_of_other_arrays_is_damage(tmp_path, change):
    path = tmp_path / "v.npz"
    stored(path, change)
    with pytest.raises(UserError, match=r"v.npz: is damaged, .* \(.*\); remove it, and it is made again"):
        read_validation_set(path)


def test_a_set_of_another_recipe_is_not_used(recordings, tmp_path):
    out = tmp_path / "run"
    train(recordings / "speech", recordings / "noise", out, CONFIG, RECIPE, steps=4)
    stored(out / "validation.npz")
    with pytest.raises(
        UserError, match="validation.npz: has not the mixtures of the run's recipe; remove it"
    ):
        resume(out, steps=6)


def test_a_validation_mixture_at_another_snr_is_refused(recordings, tmp_path, monkeypatch):
    right = mixing.mix
    monkeypatch.setattr(
        mixing, "mix", lambda speech, noise, snr_db, level_db: right(speech, noise, snr_db + 0.1, level_db)
    )
    with pytest.raises(UserError, match="the mixture is at -4.900 dB"):
        train(recordings / "speech", recordings / "noise", tmp_path / "run", CONFIG, RECIPE, steps=1)
