"""Pictures: spectrograms of recordings, and what a corpus consists of.

Matplotlib takes a while to import. So only the functions that draw import it.
"""

import warnings
from pathlib import Path

import numpy as np

from tasnet_np.errors import UserError
from tasnet_np.messages import printable
from tasnet_np.safe_files import atomic_path, check_target

WINDOW_SECONDS = 0.032  # shows the harmonics of a voice, and still its syllables
RANGE_DB = 80.0  # from the loudest point down to the end of the colour scale
TITLE = 70  # most characters of a title
SMALLEST = 1e-10  # of the amplitude, so that silence has a logarithm


def spectrograms(path, signals, rate):
    """Draw spectrograms below each other, with one colour scale for all.

    Parameters
    ----------
    path : str or Path
        The picture to write: .png, .pdf, .svg.
    signals : dict of str to ndarray, shape (n,)
        By title, such as {"noisy": ..., "denoised": ...}.
    rate : int
        Hz, of all signals.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    UserError
        There is no signal, one is not of shape (n,) with at least one sample, or the picture cannot
        be written.
    """
    if not signals:
        raise UserError("signals: none given; give at least one")
    for title, signal in signals.items():
        if np.ndim(signal) != 1 or np.size(signal) == 0:
            raise UserError(f"{title}: has shape {np.shape(signal)}; give one channel, shape (n,)")
    levels_db = {title: spectrogram(signal, rate) for title, signal in signals.items()}
    top_db = max(level_db.max() for level_db in levels_db.values())

    drawing = figure(width=8, height=0.8 + 2.0 * len(signals))
    axes = drawing.subplots(len(signals), sharex=True, squeeze=False)[:, 0]
    for ax, (title, level_db) in zip(axes, levels_db.items()):
        image = ax.imshow(
            level_db,
            cmap="magma",
            vmin=top_db - RANGE_DB,
            vmax=top_db,
            origin="lower",
            aspect="auto",
            extent=(0, len(signals[title]) / rate, 0, rate / 2000),
        )
        ax.set_title(_short(printable(title)), loc="left", parse_math=False)  # names of files may have a $
        ax.set_ylabel("frequency (kHz)")
    axes[-1].set_xlabel("time (s)")
    drawing.colorbar(image, ax=axes, label="level (dB re full-scale sine)")
    _save(drawing, path)
    return drawing


def _short(title):
    """The end of a long title: a wide one would leave no room for the picture."""
    return title if len(title) <= TITLE else f"…{title[1 - TITLE :]}"


def spectrogram(signal, rate):
    """Levels of the short-time Fourier transform, frame k centred at k hops.

    Parameters
    ----------
    signal : ndarray, shape (n,)
    rate : int
        Hz.

    Returns
    -------
    ndarray, shape (window // 2 + 1, frames)
        In dB; a sine of amplitude 1 has 0 dB.
    """
    window = 2 * max(1, round(WINDOW_SECONDS * rate / 2))
    hop = max(1, window // 4)
    padded = np.pad(np.asarray(signal, np.float64), window // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop]  # (frames, window)
    taper = np.hanning(window + 1)[:-1]
    amplitudes = np.abs(np.fft.rfft(frames * taper)) / (taper.sum() / 2)
    return 20 * np.log10(np.maximum(amplitudes.T, SMALLEST))


def figure(width=5.6, height=3.2):
    """An empty figure, sizes in inches; not made by pyplot, which would keep it and look for a screen."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def check_suffix(path):
    """Refuse a path that is not that of a picture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    if Path(path).suffix[1:].lower() not in FigureCanvasAgg.get_supported_filetypes():
        raise UserError(f"{path}: not a kind of picture; use .png, .pdf or .svg")


def check_picture(path):
    """Refuse a picture that cannot be written, before any work."""
    check_suffix(path)
    check_target(path)


def _save(drawing, path):
    """Write the figure in the format of the path's suffix."""
    check_suffix(path)
    with atomic_path(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "Glyph"
        )  # a name in letters that the font lacks: boxes stand for them
        drawing.savefig(temporary, dpi=150)


def recordings(path, manifest):
    """Draw what a corpus consists of: lengths, levels, hours by speaker, sample rates.

    Parameters
    ----------
    path : str or Path
        The picture to write: .png, .pdf, .svg.
    manifest : Manifest

    Returns
    -------
    matplotlib.figure.Figure
    """
    drawing = figure(width=8, height=6.0)
    (lengths, levels), (speakers, rates) = drawing.subplots(2, 2)
    kinds = [
        kind for kind in ("speech", "noise", "pair", "room") if any(e.kind == kind for e in manifest.entries)
    ]
    for kind in kinds:
        entries = [entry for entry in manifest.entries if entry.kind == kind]
        seconds = np.log10([entry.seconds for entry in entries])
        lengths.hist(seconds, bins=30, alpha=0.6, label=kind)
        measured = [entry.level_db for entry in entries if entry.level_db is not None]
        levels.hist(measured, bins=30, alpha=0.6, label=kind)
    low, high = (int(f(value)) for f, value in zip((np.floor, np.ceil), lengths.get_xlim()))
    ticks = list(range(low, high + 1))
    lengths.set_xticks(ticks, [f"{10.0**tick:g}" for tick in ticks])
    lengths.set(xlabel="length (s)", ylabel="recordings")
    levels.set(xlabel="level (dBFS)", ylabel="recordings")
    minutes = {}
    for entry in manifest.entries:
        if entry.kind in ("speech", "pair"):
            key = (entry.part, entry.speaker)
            minutes[key] = minutes.get(key, 0.0) + entry.seconds / 60
    for part in sorted({part for part, _ in minutes}):
        shown = sorted((m for (p, _), m in minutes.items() if p == part), reverse=True)
        speakers.plot(range(1, len(shown) + 1), shown, "o-", markersize=3, label=part)
    speakers.set(xlabel="speakers, from most to least", ylabel="minutes", ylim=(0, None))
    found = sorted({entry.rate for entry in manifest.entries})
    bottom = np.zeros(len(found))
    for kind in kinds:
        counts = np.array(
            [sum(e.rate == rate and e.kind == kind for e in manifest.entries) for rate in found]
        )
        rates.bar([f"{rate / 1000:g}" for rate in found], counts, bottom=bottom, label=kind)
        bottom += counts
    rates.set(xlabel="sample rate (kHz)", ylabel="recordings")
    for ax in (lengths, levels, speakers, rates):
        ax.legend()
        ax.grid(alpha=0.3)
    _save(drawing, path)
    return drawing
