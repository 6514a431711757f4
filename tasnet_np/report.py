"""One page about a training run, to read and to listen to: a single HTML file that needs no network.

    learning curves, scores by input SNR and by noise, the best, the median and the worst example with players and
    spectrograms, the learned filters, the masks, gradient norms, configuration

The examples are mixtures of the speakers and noises that the run held out.
"""

import base64
import html
import io
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import soundfile as sf
from tqdm import tqdm

from tasnet_np import checkpoint
from tasnet_np.corpus import Store, open_corpus
from tasnet_np.data import fixed_batches
from tasnet_np.denoise import separate
from tasnet_np.evaluate import score
from tasnet_np.files import UserError, atomic_path
from tasnet_np.plots import RANGE_DB, figure, spectrogram
from tasnet_np.recipe import VALIDATION_SNRS_DB
from tasnet_np.run_folder import RunFolder
from tasnet_np.run_log import read_log

SECONDS = 3.0  # length of a mixture
PER_SNR = 25  # mixtures
SEED = 1  # of the mixtures; those that the run was validated on have the run's own
FEW_TYPES = 12  # so many kinds of noise are shown, the best and the worst of them


@dataclass
class Result:
    """A model's scores on held-out mixtures."""

    names: list  # of the mixtures
    mixture: np.ndarray  # (M, n)
    sources: np.ndarray  # (M, 2, n)
    snr_db: np.ndarray  # (M,)
    si_snri: dict  # method -> (M,) improvement of the speech in dB


def held_out_mixtures(run, *, per_snr=PER_SNR, seconds=SECONDS):
    """The mixtures of a report: always the same ones for a run.

    Returns
    -------
    list of Batch
    """
    folder = RunFolder(run)
    rate = folder.read().config.sample_rate
    corpus = open_corpus(folder.read_manifest(), "validation", rate, Store())
    samples = round(seconds * rate)
    return fixed_batches(corpus, samples=samples, rate=rate, snrs_db=VALIDATION_SNRS_DB, per_snr=per_snr, seed=SEED)


def report(run, out=None, *, baselines=None, per_snr=PER_SNR, seconds=SECONDS, progress=False):
    """Write the page about a run.

    Parameters
    ----------
    run : folder of a training run
    out : file to write; by default report.html in that folder
    baselines : JSON file {method: [SI-SNRi of the speech in dB of every mixture]}, as
        tests/benchmarks/baselines.py writes it; by default baselines.json in the run's folder, if there is one
    per_snr, seconds : how many mixtures, and how long
    progress : show a progress bar

    Returns
    -------
    Path : the file written

    Raises
    ------
    UserError : no run there, recordings that are gone, baselines of other mixtures
    """
    folder = RunFolder(run)
    settings = folder.read()
    config = settings.config
    model = checkpoint.load(folder.path)
    log = read_log(folder.log_file)
    result = measure(model, held_out_mixtures(run, per_snr=per_snr, seconds=seconds), progress)
    result.si_snri |= _read_baselines(folder.path, baselines, len(result.names))
    sections = [
        _summary(config, log, result),
        _section("Learning", "Every step's loss, smoothed, and the score on the fixed validation mixtures.",
                 *_learning(log)),
        _section("Scores", "Improvement of the speech's SI-SNR over the mixture, on speakers and noises that "
                 "the run never heard; higher is better, 0 is the unprocessed mixture.", *_scores(result)),
        *_examples(model, result, config.sample_rate),
        _section("Filters", "The encoder's and the decoder's filters, sorted by the frequency that each answers to "
                 "most.", *_filters(model)),
        _section("Masks", "What the network lets through in the median example: each row is a filter, in the same "
                 "order.", *_masks(model, result)),
        _section("Gradients", "Norm of the gradient by part of the network, before clipping.", *_gradients(log)),
        _section("Configuration", f"Seed {settings.recipe.seed}.", _settings(settings)),
    ]  # fmt: skip
    out = Path(out or folder.path / "report.html")
    title = html.escape(f"{folder.path.resolve().name}: report")
    page = PAGE.replace("{title}", title).replace("{body}", "\n".join(sections))
    with atomic_path(out) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return out


def measure(model, batches, progress=False):
    """Scores of a model on mixtures."""
    bar = tqdm(batches, desc="listening", unit="batch", disable=not progress)
    improvements = [score(model, batch)["si_snri"][:, 0] for batch in bar]
    stacked = (np.concatenate([getattr(batch, name) for batch in batches]) for name in ("mixture", "sources", "snr_db"))
    names = [name for batch in batches for name in batch.names]
    return Result(names, *stacked, {"this model": np.concatenate(improvements)})


def _read_baselines(run, path, count):
    path = path or (run / "baselines.json" if (run / "baselines.json").exists() else None)
    if path is None:
        return {}
    try:
        scores = {name: np.array(values, float) for name, values in json.loads(Path(path).read_text()).items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise UserError(f"{path}: cannot be used ({error}); make it with tests/benchmarks/baselines.py") from None
    if any(values.shape != (count,) for values in scores.values()):
        raise UserError(f"{path}: has scores of other mixtures than these {count}; make it anew")
    return scores


def noise_type(name):
    """The kind of noise in a mixture, by the name of its recording: its folder, else its name without digits."""
    noise = re.sub(r" at [+-][\d.inf]+ dB$", "", name).split(" + ")[-1]
    folder, slash, _ = noise.rpartition("/")
    return folder if slash else re.sub(r"[\d_-]+$", "", Path(noise).stem) or noise


def noise_kinds(names):
    """The kind of each mixture's noise; where all have one kind, the recordings themselves."""
    kinds = [noise_type(name) for name in names]
    if len(set(kinds)) > 1:
        return kinds
    return [re.sub(r" at [+-][\d.inf]+ dB$", "", name).split(" + ")[-1] for name in names]


# The sections: each returns pieces of HTML.


def _summary(config, log, result):
    steps = [record for record in log if "loss" in record]
    peak = max((record.get("peak_mb") or 0 for record in log if "validation" in record), default=0)
    seconds = steps[-1]["seconds"]
    tiles = {
        "SI-SNRi, unheard speakers and noises": f"{result.si_snri['this model'].mean():+.1f} dB",
        "trained for": f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.0f} s",
        "steps": f"{steps[-1]['step']:,}",
        "speed": f"{len(steps) / max(seconds, 1e-9):.1f} steps/s",
        "peak memory": f"{peak:,.0f} MB" if peak else "not logged",
        "parameters": f"{config.parameter_count:,}",
        "latency": f"{config.latency_ms:g} ms" if np.isfinite(config.latency_ms) else "not causal",
    }
    cells = "".join(f"<div><b>{value}</b><span>{name}</span></div>" for name, value in tiles.items())
    return f'<div class="tiles">{cells}</div>'


def _learning(log):
    steps = [record for record in log if "loss" in record]
    validations = [record for record in log if "validation" in record]
    loss = figure()
    ax = loss.subplots()
    x, y = [r["step"] for r in steps], np.array([r["loss"] for r in steps])
    width = max(1, len(y) // 50)
    ax.plot(x, y, color="0.8", linewidth=0.6)
    smooth = np.convolve(y, np.ones(width) / width, "valid")
    ax.plot(x[width - 1 :], smooth, color="tab:blue", label="loss")
    ax.set(xlabel="step", ylabel="training loss (dB)", ylim=(y.min() - 1, np.quantile(y, 0.98) + 1))
    rate = ax.twinx()
    rate.plot(x, [r["learning_rate"] for r in steps], color="tab:orange", linewidth=1)
    rate.set_ylabel("learning rate", color="tab:orange")
    curves = figure()
    ax = curves.subplots()
    for source, style in {"speech": "o-", "noise": "s--"}.items():
        values = [r["validation"][f"{source}_si_snri_db"] for r in validations]
        ax.plot([r["step"] for r in validations], values, style, markersize=3, label=source)
    ax.set(xlabel="step", ylabel="validation SI-SNRi (dB)")
    ax.legend()
    return _picture(loss, "training loss and learning rate over steps"), _picture(curves, "validation score over steps")


def _scores(result):
    methods = list(result.si_snri)
    snrs = np.unique(result.snr_db)
    rows = [[f"{snr:+g} dB", *(result.si_snri[m][result.snr_db == snr].mean() for m in methods)] for snr in snrs]
    rows.append(["all", *(result.si_snri[m].mean() for m in methods)])
    by_snr = figure()
    ax = by_snr.subplots()
    for method in methods:
        ax.plot(snrs, [result.si_snri[method][result.snr_db == snr].mean() for snr in snrs], "o-", label=method)
    ax.axhline(0, color="black", linewidth=0.8)
    ax.set(xlabel="input SNR (dB)", ylabel="SI-SNRi of the speech (dB)")
    by_snr.legend(loc="outside lower center", ncols=2)
    kinds = np.array(noise_kinds(result.names))
    typed = [[kind, *(result.si_snri[m][kinds == kind].mean() for m in methods)] for kind in np.unique(kinds)]
    typed.sort(key=lambda row: -row[1])
    note = ""
    if len(typed) > FEW_TYPES:
        note = f"<p>The best and the worst {FEW_TYPES // 2} of {len(typed)} noises.</p>"
        typed = typed[: FEW_TYPES // 2] + typed[-(FEW_TYPES // 2) :]
    return (
        _picture(by_snr, "SI-SNRi by input SNR"),
        _table(["input SNR", *methods], rows),
        "<div>" + note + _table(["noise", *methods], typed) + "</div>",
    )


def _examples(model, result, rate):
    """Best, median and worst example, each a section with players beside spectrograms."""
    order = np.argsort(result.si_snri["this model"])
    sections = []
    for title, index in (("Best", order[-1]), ("Median", order[len(order) // 2]), ("Worst", order[0])):
        speech, removed = separate(model, result.mixture[index][None], rate)[:, 0]
        signals = {
            "noisy": result.mixture[index], "denoised": speech, "clean": result.sources[index, 0],
            "removed noise": removed,
        }  # fmt: skip
        top_db = max(spectrogram(signal, rate).max() for signal in signals.values())
        loudest = max(1.0, *(np.abs(signal).max() for signal in signals.values()))
        cards = []
        for name, signal in signals.items():
            cards.append(
                f"<figure>{_spectrogram(signal, rate, top_db, name)}<figcaption>{name}</figcaption>"
                f'<audio controls preload="auto" aria-label="{title}: {name}" src="{_wav(signal / loudest, rate)}"></audio>'
                "</figure>"
            )
        improvement = result.si_snri["this model"][index]
        text = f"{html.escape(result.names[index])}. SI-SNRi {improvement:+.1f} dB."
        sections.append(_section(f"{title} example", text, *cards, kind="players"))
    return sections


def peak_frequencies(filters):
    """Frequency, in cycles per sample, that each filter (N, L) answers to most."""
    spectra = np.abs(np.fft.rfft(filters, 512, axis=-1))
    return spectra.argmax(axis=-1) / 512


def _filters(model):
    rate, pictures = model.config.sample_rate, []
    layers = {"encoder": model.encoder, **{name.replace("_", " of "): layer for name, layer in model.decoders.items()}}
    for name, layer in layers.items():
        w = layer.own_params["w"].reshape(model.config.filters, -1)  # (N, L)
        w = w[np.argsort(peak_frequencies(w), kind="stable")]
        spectra = np.abs(np.fft.rfft(w, 256, axis=-1))
        drawing = figure()
        left, right = drawing.subplots(1, 2, sharey=True)
        limit = np.quantile(np.abs(w), 0.995)
        milliseconds = 1000 * w.shape[1] / rate
        left.imshow(w, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto", extent=(0, milliseconds, len(w), 0))
        left.set(title=f"{name}: waveforms", xlabel="time (ms)", ylabel="filter")
        share = spectra / spectra.max(axis=1, keepdims=True)
        right.imshow(share, cmap="magma", aspect="auto", extent=(0, rate / 2000, len(w), 0))
        right.set(title="spectra", xlabel="frequency (kHz)")
        pictures.append(_picture(drawing, f"{name} filters, sorted by frequency"))
    return pictures


def _masks(model, result):
    """Both masks of the median example, the filters from low to high."""
    order = np.argsort(result.si_snri["this model"])
    mixture = result.mixture[order[len(order) // 2]][None]
    masks = model.masks(mixture)[0]  # (2, N, T)
    w = model.encoder.own_params["w"].reshape(model.config.filters, -1)
    rows = np.argsort(peak_frequencies(w), kind="stable")
    pictures = []
    for name, mask in zip(("speech", "noise"), masks):
        drawing = figure()
        ax = drawing.subplots()
        seconds = mixture.shape[1] / model.config.sample_rate
        image = ax.imshow(
            mask[rows][:, :: max(1, mask.shape[1] // 800)], cmap="viridis", vmin=0, vmax=max(1.0, float(mask.max())),
            aspect="auto", origin="lower", extent=(0, seconds, 0, len(rows)),
        )  # fmt: skip
        ax.set(title=f"mask of the {name}", xlabel="time (s)", ylabel="filter")
        drawing.colorbar(image, ax=ax)
        pictures.append(_picture(drawing, f"mask of the {name}"))
    return pictures


def _gradients(log):
    logged = [record for record in log if "gradient_norms" in record]
    if not logged:
        return ["<p>Not logged.</p>"]
    drawing = figure(width=9)
    ax = drawing.subplots()
    parts = list(logged[0]["gradient_norms"])
    blocks = [part for part in parts if part.startswith("blocks.")]
    for part in parts:
        values = np.maximum([record["gradient_norms"].get(part, np.nan) for record in logged], 1e-12)
        style = {"linewidth": 1, "label": part}
        if part in blocks:
            from matplotlib import colormaps

            style |= {"color": colormaps["viridis"](blocks.index(part) / max(1, len(blocks) - 1)), "linewidth": 0.8}
        else:
            style["linestyle"] = "--"
        ax.plot([record["step"] for record in logged], values, **style)
    ax.set(xlabel="step", ylabel="gradient norm", yscale="log")
    ax.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return [_picture(drawing, "gradient norm of every part over steps", wide=True)]


def _settings(settings):
    stored = asdict(settings)
    groups = {"model": stored["config"], "recipe": stored["recipe"], "goal": stored["goal"], "recordings": stored["data"]}
    tables = []
    for title, values in groups.items():
        rows = [[name, "" if value is None else str(value)] for name, value in values.items()]
        tables.append(f"<details{' open' if title == 'recipe' else ''}><summary>{title}</summary>{_table([], rows)}</details>")
    return f'<div class="settings">{"".join(tables)}</div>'


# The pieces.


def _section(title, text, *pieces, kind="pictures"):
    return f"<section><h2>{title}</h2><p>{text}</p><div class=\"{kind}\">{''.join(pieces)}</div></section>"


def _table(head, rows):
    cells = "".join(f"<th>{html.escape(str(name))}</th>" for name in head)
    lines = [f"<tr>{cells}</tr>"] if head else []
    for first, *values in rows:
        shown = (f"{value:+.2f}" if isinstance(value, float) else html.escape(str(value)) for value in values)
        lines.append(f"<tr><th>{html.escape(str(first))}</th>" + "".join(f"<td>{value}</td>" for value in shown) + "</tr>")
    return f'<div class="scroll"><table>{"".join(lines)}</table></div>'


def _picture(drawing, description, wide=False):
    """A figure as an inline picture."""
    buffer = io.BytesIO()
    drawing.savefig(buffer, format="webp", dpi=150, pil_kwargs={"quality": 85})
    data = base64.b64encode(buffer.getvalue()).decode()
    kind = ' class="wide"' if wide else ""
    return f'<img{kind} alt="{html.escape(description)}" src="data:image/webp;base64,{data}">'


def _spectrogram(signal, rate, top_db, name):
    drawing = figure(width=3.4, height=2.2)
    ax = drawing.subplots()
    ax.imshow(
        spectrogram(signal, rate), cmap="magma", vmin=top_db - RANGE_DB, vmax=top_db, origin="lower", aspect="auto",
        extent=(0, len(signal) / rate, 0, rate / 2000),
    )  # fmt: skip
    ax.set(xlabel="time (s)", ylabel="kHz")
    return _picture(drawing, f"spectrogram, {name}")


def _wav(signal, rate):
    """Samples as an inline 16-bit WAV file."""
    buffer = io.BytesIO()
    sf.write(buffer, np.clip(signal, -1, 1), rate, format="WAV", subtype="PCM_16")
    return f"data:audio/wav;base64,{base64.b64encode(buffer.getvalue()).decode()}"


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>
:root { color-scheme: light; --line: #d9dde3; --ink: #1d2733; --soft: #5b6673; --paper: #f6f7f9; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1180px; padding: 16px; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 8px 0 16px; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 0 0 4px; }
p { margin: 0 0 12px; color: var(--soft); overflow-wrap: anywhere; }
section, .tiles > div { background: #fff; border: 1px solid var(--line); border-radius: 10px; }
section { padding: 16px; margin: 16px 0; }
.tiles { display: grid; gap: 10px; grid-template-columns: repeat(auto-fit, minmax(140px, 1fr)); }
.tiles > div { padding: 12px; }
.tiles b { display: block; font-size: 1.3rem; }
.tiles span { color: var(--soft); font-size: .85rem; }
.pictures { display: grid; gap: 16px; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); }
.players { display: grid; gap: 16px; grid-template-columns: repeat(auto-fit, minmax(min(100%, 220px), 1fr)); }
img { width: 100%; height: auto; display: block; }
.wide { grid-column: 1 / -1; }
figure { margin: 0; }
figcaption { font-weight: 600; margin: 4px 0; }
audio { width: 100%; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; min-width: 60%; font-size: .9rem; }
th, td { padding: 4px 7px; border-bottom: 1px solid var(--line); text-align: right; }
th:first-child { text-align: left; font-weight: 600; white-space: nowrap; }
@media (max-width: 600px) { table { font-size: .75rem; } th, td { padding: 4px; } }
.settings { display: grid; gap: 12px; grid-template-columns: repeat(auto-fit, minmax(min(100%, 320px), 1fr)); }
.settings td { overflow-wrap: anywhere; }
summary { cursor: pointer; font-weight: 600; }
</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""
