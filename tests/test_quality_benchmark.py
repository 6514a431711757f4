"""The benchmark of quality: what it mixes, how it takes delays out, what is held out for it, and its page."""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))
import free_data
import quality
import quality_page
import wide

from tasnet_np.corpus.clips import Clip, Corpus
from tasnet_np.network.config import PRESETS
from tasnet_np.sound import audio_files
from tasnet_np.sound.level import rms_db

DATA = Path(__file__).parents[1] / "data"


def gaussian(n, seed=0):
    return (0.1 * np.random.default_rng(seed).standard_normal(n)).astype(np.float32)


def corpus():
    speakers = {f"s{k}": [Clip(f"s{k}", gaussian(30000, k))] for k in range(4)}
    return Corpus(speakers, [Clip(f"n{k}", gaussian(30000, 9 + k)) for k in range(4)])


def test_mixtures_are_the_same_voices_at_every_snr_and_alone():
    made = quality.mixtures(corpus(), per_snr=3, seconds=1)
    assert [snr_db for snr_db, *_ in made] == [snr for snr in quality.SNRS_DB for _ in range(3)]
    for i, (snr_db, _, mixture, clean) in enumerate(made):
        assert mixture.shape == clean.shape == (quality.RATE,)
        first = made[i % 3][3]
        assert np.corrcoef(clean, first)[0, 1] == pytest.approx(1, abs=1e-6)
        if np.isinf(snr_db):
            assert np.array_equal(mixture, clean)
        else:
            assert rms_db(clean) - rms_db(mixture - clean) == pytest.approx(snr_db, abs=0.01)


@pytest.mark.parametrize("lag", [-37, 0, 480])
def test_delays_are_measured_and_taken_out(lag):
    mixture = gaussian(16000)
    late = -0.5 * quality.without_delay(mixture, -lag, 16000)
    assert quality.delay(late, mixture) == lag
    back = quality.without_delay(late, lag, 16000)
    np.testing.assert_allclose(back[500:-500], -0.5 * mixture[500:-500])


def test_a_delay_costs_a_method_nothing():
    pytest.importorskip("pesq")
    pytest.importorskip("pystoi")
    voice = sorted((DATA / "speech/english-british").glob("*"))
    clips = [Clip("s", audio_files.read(path).samples[0]) for path in voice]
    noises = [Clip("n", audio_files.read(DATA / "noise/fan.flac").samples[0])]
    made = quality.mixtures(Corpus({"s": clips}, noises), per_snr=1, seconds=3)
    noisy = quality.score(lambda mixture: mixture, made)
    late = quality.score(lambda mixture: np.concatenate([np.zeros(100), mixture]), made)
    for one, other in zip(noisy, late):
        assert other["delay"] == 100 and one["delay"] == 0
        for measure in ("si_snri", "pesq_nb", "pesq_wb", "stoi"):
            assert other[measure] == one[measure]
    assert [row["si_snri"] for row in noisy[:-1]] == [0] * 5
    wideband = [row["pesq_wb"] for row in noisy]
    assert wideband == sorted(wideband) and wideband[-1] > 4.6
    text = quality.table({"noisy": noisy}, "pesq_wb")
    assert (
        "| 0 dB | 5 dB | 10 dB | 15 dB | 20 dB | clean | 0 to 20 dB |" in text
        and f"{wideband[-1]:.2f}" in text
    )


def test_the_page_shows_the_worst_mixtures_first(tmp_path):
    made = [(5, f"voice {i} + <noise>", gaussian(4000, i), gaussian(4000, 9 + i)) for i in range(3)]
    row = {"si_snri": 1.0, "stoi": 0.9}
    noisy = [row | {"pesq_wb": 2.0} for _ in made]
    ours = [row | {"pesq_wb": score} for score in (2.5, 1.5, 2.1)]
    assert quality_page.worst(ours, noisy, count=2) == [1, 2]
    quality_page.write(
        tmp_path / "page.html", "ours", np.negative, made, {"noisy": noisy, "ours": ours}, quality.RATE
    )
    page = (tmp_path / "page.html").read_text()
    places = [page.index(f"<h2>voice {i} + &lt;noise&gt;</h2>") for i in (1, 2, 0)]
    assert places == sorted(places)
    assert page.count("<audio controls src='data:audio/wav;base64,") == 9
    assert page.count("<img alt='spectrograms' src='data:image/png;base64,") == 3
    assert "PESQ wb 2.00 to 1.50" in page


def test_the_first_filters_take_a_recording_apart_and_put_it_together():
    sizes = {"bottleneck": 4, "hidden": 4, "skip": 4, "blocks": 1, "repeats": 1, "lookahead_blocks": 0}
    model = wide.first_model(dataclasses.replace(PRESETS["wide"], **sizes))
    mixture = gaussian(1000)[None]
    frames = model.frames(mixture)
    assert frames.min() == 0
    (decoder,) = model.decoders.values()
    hop = model.config.hop
    np.testing.assert_allclose(decoder.forward(frames)[:, hop : hop + 1000], mixture, atol=1e-6)


def small_free_folder(folder):
    """Three permissive voices, one that is not, and the sources that are held out."""
    licences = {
        "speech/a_1/1.flac": "CC0", "speech/a_2/1.flac": "CC-BY-4.0", "speech/b_1/1.flac": "GPL-3+",
        "speech/fillets_x/1.flac": "GPL-2", "speech/asterisk_en/1.flac": "CC-BY-SA-3.0",
        "noise/esc10/1.flac": "CC0", "noise/opensfx/1.flac": "CC-BY-SA-3.0",
        "noise/lincity-ng/1.flac": "GPL-2+ / CC-BY-SA-2.0",
    }  # fmt: skip
    for i, path in enumerate(licences):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        audio_files.write(folder / path, gaussian(8000, i)[None], 16000)
    rows = "".join(f"{path}\t{licence}\n" for path, licence in licences.items())
    (folder / "SOURCES.tsv").write_text(f"path\tlicence\n{rows}")
    return folder


def test_the_manifest_trains_on_the_permissive_part_and_holds_out_whole_sources(tmp_path):
    free = small_free_folder(tmp_path / "free")

    def paths(made, part):
        return {entry.path for entry in made.part(part) if made.folders[entry.folder].startswith(str(free))}

    made, everything = free_data.recordings(free), free_data.recordings(free, all_licences=True)
    assert paths(made, "training") == {"a_1/1.flac", "a_2/1.flac", "esc10/1.flac"}
    assert paths(everything, "training") == {"a_1/1.flac", "a_2/1.flac", "b_1/1.flac", "esc10/1.flac"}
    for one in (made, everything):
        assert paths(one, "validation") == {"fillets_x/1.flac", "opensfx/1.flac"}
        assert paths(one, "test") == {"asterisk_en/1.flac", "lincity-ng/1.flac"}
        assert (
            len([e for e in one.part("training", "noise") if not one.folders[e.folder].startswith(str(free))])
            == 20
        )
