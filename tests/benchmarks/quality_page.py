"""The worst mixtures of a method on one HTML page: spectrograms, scores and players, without a network."""

import base64
import html
import io
import tempfile
import wave
from pathlib import Path

import numpy as np

from tasnet_np.reports import plots

COUNT = 10
HEAD = """<!doctype html><meta charset="utf-8"><title>{title}</title>
<style>body {{ font: 16px sans-serif; max-width: 60em; margin: 2em auto }}
img {{ max-width: 100% }} td {{ padding: 0 1em 0 0 }}</style>
<h1>{title}</h1>
"""


def worst(rows, of_noisy, count=COUNT):
    """Numbers of the mixtures whose PESQ wide-band rises least over that of the noisy recording, or falls most."""
    gains = np.array([row["pesq_wb"] - noisy["pesq_wb"] for row, noisy in zip(rows, of_noisy)])
    return np.argsort(gains)[:count].tolist()  # NaN comes last


def write(path, name, method, made, results, rate):
    """Write the page of one method. `made` and `results` are those of quality.py."""
    title = f"{name}: the worst {COUNT}"
    pieces = [HEAD.format(title=html.escape(title))]
    for i in worst(results[name], results["noisy"]):
        _, recording, mixture, clean = made[i]
        signals = {
            "noisy": mixture,
            name: np.asarray(method(mixture), np.float32)[: len(clean)],
            "clean": clean,
        }
        row, before = results[name][i], results["noisy"][i]
        pieces.append(f"<h2>{html.escape(recording)}</h2>\n")
        pieces.append(
            f"<p>SI-SNRi {row['si_snri']:.1f} dB, PESQ wb {before['pesq_wb']:.2f} to {row['pesq_wb']:.2f}, "
            f"STOI {before['stoi']:.3f} to {row['stoi']:.3f}</p>\n{_picture(signals, rate)}\n<table><tr>"
        )
        pieces += [
            f"<td>{html.escape(what)}<br><audio controls src='{_wav(signal, rate)}'></audio>"
            for what, signal in signals.items()
        ]
        pieces.append("</table>\n")
    Path(path).write_text("".join(pieces), encoding="utf-8")


def _data(kind, content):
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _picture(signals, rate):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "picture.png"
        plots.spectrograms(path, signals, rate)
        return f"<img alt='spectrograms' src='{_data('image/png', path.read_bytes())}'>"


def _wav(signal, rate):
    """A signal as a data URL: a WAV file of 16 bits."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
        file.writeframes(np.round(32767 * np.clip(signal, -1, 1)).astype("<i2").tobytes())
    return _data("audio/wav", buffer.getvalue())
