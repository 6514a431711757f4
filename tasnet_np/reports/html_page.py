"""Pieces of an HTML page that is one file and needs no network: pictures and sounds are in it."""

import base64
import html
import io
import re
import warnings

import numpy as np
import soundfile as sf

from tasnet_np.messages import printable
from tasnet_np.reports.plots import RANGE_DB, figure, spectrogram


def page(title, sections):
    """The whole page, from a title in plain text and its parts in HTML."""
    parts = {"title": text_in_html(title), "body": "\n".join(sections)}
    return re.sub(
        r"{(title|body)}", lambda place: parts[place[1]], PAGE
    )  # once: a part may have such words in it


def text_in_html(text):
    """Any text, such as the name of a file, so that a page shows it as it is."""
    return html.escape(printable(text))


def section(title, text, *pieces, kind="pictures"):
    """A headed part of the page; `kind` is the class of the grid that its pieces are in."""
    return f'<section><h2>{title}</h2><p>{text}</p><div class="{kind}">{"".join(pieces)}</div></section>'


def table(head, rows):
    """Rows of a name and its values, the numbers among them with sign and two decimals."""
    cells = "".join(f"<th>{text_in_html(name)}</th>" for name in head)
    lines = [f"<tr>{cells}</tr>"] if head else []
    for first, *values in rows:
        shown = (f"{value:+.2f}" if isinstance(value, float) else text_in_html(value) for value in values)
        cells = "".join(f"<td>{value}</td>" for value in shown)
        lines.append(f"<tr><th>{text_in_html(first)}</th>{cells}</tr>")
    return f'<div class="scroll"><table>{"".join(lines)}</table></div>'


def picture(drawing, description, wide=False):
    """A figure as an inline picture."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # as in a picture of its own
        drawing.savefig(buffer, format="webp", dpi=150, pil_kwargs={"quality": 85})
    data = base64.b64encode(buffer.getvalue()).decode()
    kind = ' class="wide"' if wide else ""
    return f'<img{kind} alt="{text_in_html(description)}" src="data:image/webp;base64,{data}">'


def spectrogram_picture(signal, rate, top_db, name):
    """The spectrogram of a signal (n,) as an inline picture, on a scale that ends at `top_db`."""
    drawing = figure(width=3.4, height=2.2)
    ax = drawing.subplots()
    ax.imshow(
        spectrogram(signal, rate),
        cmap="magma",
        vmin=top_db - RANGE_DB,
        vmax=top_db,
        origin="lower",
        aspect="auto",
        extent=(0, len(signal) / rate, 0, rate / 2000),
    )
    ax.set(xlabel="time (s)", ylabel="kHz")
    return picture(drawing, f"spectrogram, {name}")


def wav(signal, rate):
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
