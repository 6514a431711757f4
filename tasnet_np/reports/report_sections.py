"""The sections of the report. Each function returns HTML: a section, several, or the pieces of one."""

import re
from dataclasses import asdict
from pathlib import Path

import numpy as np

from tasnet_np.listening.separate import separate
from tasnet_np.messages import printable
from tasnet_np.network.config import SOURCES
from tasnet_np.reports.html_page import picture, section, spectrogram_picture, table, text_in_html, wav
from tasnet_np.reports.plots import figure, spectrogram

FEW_TYPES = 12  # so many kinds of noise are shown, the best and the worst of them


def summary(config, log, result):
    """The most important numbers, each on a tile."""
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


def learning(log):
    """Loss and learning rate over the steps; score over the validations."""
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
    return picture(loss, "training loss and learning rate over steps"), picture(
        curves, "validation score over steps"
    )


def scores(result):
    """Improvement of every method by input SNR and by kind of noise."""
    methods = list(result.si_snri)
    snrs = np.unique(result.snr_db)
    rows = [
        [f"{snr:+g} dB", *(result.si_snri[m][result.snr_db == snr].mean() for m in methods)] for snr in snrs
    ]
    rows.append(["all", *(result.si_snri[m].mean() for m in methods)])
    by_snr = figure()
    ax = by_snr.subplots()
    lines = [
        ax.plot(snrs, [result.si_snri[method][result.snr_db == snr].mean() for snr in snrs], "o-")[0]
        for method in methods
    ]
    ax.axhline(0, color="black", linewidth=0.8)
    ax.set(xlabel="input SNR (dB)", ylabel="SI-SNRi of the speech (dB)")
    legend = by_snr.legend(
        lines, [printable(method) for method in methods], loc="outside lower center", ncols=2
    )
    for label in legend.get_texts():
        label.set_parse_math(False)  # a method may have a $ in its name
    kinds = np.array(noise_kinds(result.names))
    typed = [[kind, *(result.si_snri[m][kinds == kind].mean() for m in methods)] for kind in np.unique(kinds)]
    typed.sort(key=lambda row: -row[1])
    note = ""
    if len(typed) > FEW_TYPES:
        note = f"<p>The best and the worst {FEW_TYPES // 2} of {len(typed)} noises.</p>"
        typed = typed[: FEW_TYPES // 2] + typed[-(FEW_TYPES // 2) :]
    return (
        picture(by_snr, "SI-SNRi by input SNR"),
        table(["input SNR", *methods], rows),
        "<div>" + note + table(["noise", *methods], typed) + "</div>",
    )


def examples(model, result, rate):
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
            sound = wav(signal / loudest, rate)
            cards.append(
                f"<figure>{spectrogram_picture(signal, rate, top_db, name)}<figcaption>{name}</figcaption>"
                f'<audio controls preload="auto" aria-label="{title}: {name}" src="{sound}"></audio>'
                "</figure>"
            )
        improvement = result.si_snri["this model"][index]
        text = f"{text_in_html(result.names[index])}. SI-SNRi {improvement:+.1f} dB."
        sections.append(section(f"{title} example", text, *cards, kind="players"))
    return sections


def peak_frequencies(filters):
    """Frequency, in cycles per sample, that each filter (N, L) answers to most."""
    spectra = np.abs(np.fft.rfft(filters, 512, axis=-1))
    return spectra.argmax(axis=-1) / 512


def filters(model):
    """The encoder's and the decoders' filters and their spectra, from low to high."""
    rate, pictures = model.config.sample_rate, []
    layers = {
        "encoder": model.encoder,
        **{name.replace("_", " of "): layer for name, layer in model.decoders.items()},
    }
    for name, layer in layers.items():
        w = layer.own_params["w"].reshape(model.config.filters, -1)  # (N, L)
        w = w[np.argsort(peak_frequencies(w), kind="stable")]
        spectra = np.abs(np.fft.rfft(w, 256, axis=-1))
        drawing = figure()
        left, right = drawing.subplots(1, 2, sharey=True)
        limit = np.quantile(np.abs(w), 0.995)
        milliseconds = 1000 * w.shape[1] / rate
        left.imshow(
            w, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto", extent=(0, milliseconds, len(w), 0)
        )
        left.set(title=f"{name}: waveforms", xlabel="time (ms)", ylabel="filter")
        share = spectra / spectra.max(axis=1, keepdims=True)
        right.imshow(share, cmap="magma", aspect="auto", extent=(0, rate / 2000, len(w), 0))
        right.set(title="spectra", xlabel="frequency (kHz)")
        pictures.append(picture(drawing, f"{name} filters, sorted by frequency"))
    return pictures


def masks(model, result):
    """Both masks of the median example, the filters from low to high."""
    order = np.argsort(result.si_snri["this model"])
    mixture = result.mixture[order[len(order) // 2]][None]
    both = model.masks(mixture)[0]  # (2, N, T)
    w = model.encoder.own_params["w"].reshape(model.config.filters, -1)
    rows = np.argsort(peak_frequencies(w), kind="stable")
    pictures = []
    for name, mask in zip(SOURCES, both):
        drawing = figure()
        ax = drawing.subplots()
        seconds = mixture.shape[1] / model.config.sample_rate
        image = ax.imshow(
            mask[rows][:, :: max(1, mask.shape[1] // 800)],
            cmap="viridis",
            vmin=0,
            vmax=max(1.0, float(mask.max())),
            aspect="auto",
            origin="lower",
            extent=(0, seconds, 0, len(rows)),
        )
        ax.set(title=f"mask of the {name}", xlabel="time (s)", ylabel="filter")
        drawing.colorbar(image, ax=ax)
        pictures.append(picture(drawing, f"mask of the {name}"))
    return pictures


def gradients(log):
    """Gradient norm of every part of the network over the steps, where the log has it."""
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

            style |= {
                "color": colormaps["viridis"](blocks.index(part) / max(1, len(blocks) - 1)),
                "linewidth": 0.8,
            }
        else:
            style["linestyle"] = "--"
        ax.plot([record["step"] for record in logged], values, **style)
    ax.set(xlabel="step", ylabel="gradient norm", yscale="log")
    ax.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return [picture(drawing, "gradient norm of every part over steps", wide=True)]


def configuration(settings):
    """Everything in config.json, as tables."""
    groups = {
        "model": settings.config,
        "recipe": settings.recipe,
        "goal": settings.goal,
        "recordings": settings.data,
    }
    tables = []
    for title, values in groups.items():
        rows = [[name, "" if value is None else str(value)] for name, value in asdict(values).items()]
        is_open = " open" if title == "recipe" else ""
        tables.append(f"<details{is_open}><summary>{title}</summary>{table([], rows)}</details>")
    return f'<div class="settings">{"".join(tables)}</div>'


def noise_type(name):
    """The kind of noise in a mixture, by the name of its recording: its folder, else its name without digits."""
    noise = _recording_of_noise(name)
    folder, slash, _ = noise.rpartition("/")
    return folder if slash else re.sub(r"[\d_-]+$", "", Path(noise).stem) or noise


def noise_kinds(names):
    """The kind of each mixture's noise; where all have one kind, the recordings themselves."""
    kinds = [noise_type(name) for name in names]
    if len(set(kinds)) > 1:
        return kinds
    return [_recording_of_noise(name) for name in names]


def _recording_of_noise(name):
    """The last recording in a mixture's name, as in "ann + street/3.wav at -5.0 dB"."""
    return re.sub(r" at [+-][\d.inf]+ dB$", "", name).split(" + ")[-1]
