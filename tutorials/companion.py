"""What every tutorial shares: sounds from `data/`, players, the map of the network, figures, planted bugs.

Imported first (`import companion`). It puts the repository on the path, so a tutorial always talks about
the `tasnet_np` beside it, whatever folder it is started from.
"""

import base64
import contextlib
import html
import io
import os
import sys
from pathlib import Path

import matplotlib

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "data"
sys.path.insert(0, str(ROOT))


def _in_notebook():
    """True in a Jupyter kernel, False in a script."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and getattr(ipython.get_ipython(), "kernel", None) is not None


if not _in_notebook():
    matplotlib.use("Agg")  # before anything draws: a script opens no window

import matplotlib.pyplot as plt
import numpy as np
import soundfile
from matplotlib.patches import Circle, FancyBboxPatch

from tasnet_np.reports import plots
from tasnet_np.sound.audio_files import read
from tasnet_np.sound.level import at_level
from tasnet_np.network.config import Config
from tasnet_np.sound.resampling import resample

SCALE = float(os.environ.get("TUTORIAL_SCALE", "1"))  # how much longer the slow parts take

# Okabe and Ito's colours, which all common kinds of colour vision tell apart. Black is the first.
COLOURS = {
    "black": "#000000", "blue": "#0072B2", "orange": "#E69F00", "green": "#009E73",
    "vermilion": "#D55E00", "purple": "#CC79A7", "sky": "#56B4E9", "yellow": "#F0E442",
}  # fmt: skip
LINES = ("blue", "vermilion", "green", "orange", "purple", "sky", "black")
STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (7, 2)), (0, (1, 1)))  # for print without colour
LEVEL_DB = -25.0  # dBFS: the RMS level of every clip

matplotlib.rcParams.update({
    "figure.figsize": (7.5, 3.0),
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.prop_cycle": matplotlib.cycler(color=[COLOURS[name] for name in LINES], linestyle=STYLES),
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "image.cmap": "cividis",
    "legend.frameon": False,
    "lines.linewidth": 1.6,
})  # fmt: skip


def speech(seconds, rate=8000, seed=0, *, speaker=None):
    """Clips of one speaker, joined by short gaps: float32 at -25 dBFS, the same for the same arguments.

    The seed chooses the speaker (or give a folder of `data/speech`) and the order of the clips. The sound
    begins with the beginning of a clip.
    """
    rng = np.random.default_rng(seed)
    speakers = sorted(path.name for path in (DATA / "speech").iterdir() if path.is_dir())
    folder = DATA / "speech" / (speaker or speakers[rng.integers(len(speakers))])
    paths = sorted(folder.glob("*.flac"))
    gap = np.zeros(round(0.15 * rate), np.float32)
    pieces, samples = [], round(seconds * rate)
    for i in rng.permutation(np.tile(np.arange(len(paths)), 1 + round(seconds))):
        pieces += [clip(paths[i], rate), gap]
        if sum(map(len, pieces)) >= samples:
            break
    return at_level(np.concatenate(pieces)[:samples], LEVEL_DB)


def noise(seconds, rate=8000, seed=0, *, name=None):
    """A piece of one noise: float32 at -25 dBFS, the same for the same arguments.

    The seed chooses the noise (or give its name, such as "rain") and the place in it.
    """
    rng = np.random.default_rng(seed)
    names = sorted(path.stem for path in (DATA / "noise").glob("*.flac"))
    name = name or names[rng.integers(len(names))]
    whole = clip(f"noise/{name}.flac", rate)
    start, samples = rng.integers(len(whole)), round(seconds * rate)
    return at_level(np.take(whole, np.arange(start, start + samples), mode="wrap"), LEVEL_DB)


def clip(path, rate=8000):
    """One recording of `data/` as it is: mono float32 (n,) at the given rate, its level unchanged."""
    recording = read(DATA / path)
    return resample(recording.samples.mean(axis=0), recording.rate, rate)


def play(samples, rate, title=""):
    """In a notebook, a player for samples (n,) at their level; in a script, nothing.

    What exceeds full scale is turned down to fit, and the player says by how much.
    """
    samples = np.asarray(samples, np.float64)
    if samples.ndim != 1 or not len(samples) or not np.isfinite(samples).all():
        raise ValueError(f"play takes finite samples (n,), n >= 1, not {samples.shape}")
    peak = np.abs(samples).max()
    if peak > 1:
        samples = samples / peak
        title = f"{title} (turned down by {20 * np.log10(peak):.1f} dB to fit)".strip()
    if not _in_notebook():
        return
    from IPython.display import HTML, display

    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV", subtype="PCM_16")
    sound = base64.b64encode(file.getvalue()).decode()
    player = f'<audio controls preload="metadata" src="data:audio/wav;base64,{sound}"></audio>'
    caption = f"<figcaption>{html.escape(title)}</figcaption>" if title else ""
    display(HTML(f'<figure class="sound">{caption}{player}</figure>'))


def spectrogram(ax, samples, rate, title="", *, limits=(-80, -20)):
    """Draw the spectrogram of samples (n,): 32 ms windows, in dB, where a full-scale sine has 0 dB.

    The colours have the same meaning in every figure unless `limits` (dB) are given.
    """
    levels_db = plots.spectrogram(samples, rate)  # (frequencies, frames), frame k centred at k hops
    hop = (len(levels_db) - 1) // 2  # a quarter of the window
    times = np.arange(levels_db.shape[1]) * hop / rate
    frequencies = np.linspace(0, rate / 2000, len(levels_db))
    image = ax.pcolormesh(times, frequencies, levels_db, vmin=limits[0], vmax=limits[1], shading="nearest")
    ax.set(title=title, xlabel="time (s)", ylabel="frequency (kHz)", xlim=(0, len(samples) / rate))
    ax.grid(False)
    ax.figure.colorbar(image, ax=ax, label="dB", pad=0.01, extend="both")
    return image


@contextlib.contextmanager
def fails(why):
    """The block must fail an assertion: a planted bug has to be caught.

        with companion.fails("the kernel is reversed"):
            assert error < 1e-6

    Any other exception passes through: a bug that crashes is not one that a check caught.
    """
    try:
        yield
    except AssertionError as caught:
        message = " ".join(str(caught).split())
        print(f"caught: {why}" + (f" ({message[:160]})" if message else ""))
        return
    raise AssertionError(f"the planted bug was not caught: {why}")


def show(figure_name, alt=None):
    """Finish the current figure: shown in a notebook, saved where TUTORIAL_FIGURES says, closed.

    Parameters
    ----------
    figure_name : without suffix; unique within the tutorial
    alt : what it shows, for those who cannot see it; by default its titles
    """
    figure = plt.gcf()
    assert figure.axes, f"figure {figure_name!r} is empty"
    titles = [ax.get_title(loc) for ax in figure.axes for loc in ("left", "center")]
    alt = alt or "; ".join(dict.fromkeys(filter(None, titles))) or figure_name.replace("_", " ")
    if folder := os.environ.get("TUTORIAL_FIGURES"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        figure.savefig(Path(folder) / f"{figure_name}.png", dpi=150)
    if _in_notebook():
        from IPython.display import Image, display

        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=170)
        display(Image(file.getvalue(), format="png", metadata={"alt": alt}))
    plt.close(figure)


# The map of the network. Each box: its centre, its width, and what is written in it.

PARTS = (
    "mixture", "encoder", "norm", "bottleneck", "block", "expand", "prelu", "norm1", "depthwise", "norm2",
    "residual", "skip", "mask", "decoder", "sources", "loss", "optimizer", "streaming",
)  # fmt: skip
INSIDE_A_BLOCK = {"expand", "prelu", "norm1", "depthwise", "norm2", "residual", "skip"}
HEIGHT = 0.62


def where(*parts, config=None):
    """Draw the network of a Config (default: small) with the given parts lit: where the reader stands.

    Parameters
    ----------
    parts : any of PARTS
    config : Config
    """
    unknown = set(parts) - set(PARTS)
    if unknown or not parts:
        raise ValueError(f"where() takes one or more of {', '.join(PARTS)}, not {sorted(unknown)}")
    figure = network_map(parts, config or Config.preset("small"))
    plt.figure(figure.number)
    show("where_" + "_".join(parts), alt=f"map of the network, lit: {', '.join(parts)}")


def network_map(parts, c):
    """The drawing of `where` as a figure, every size in it taken from the Config c."""
    figure, ax = plt.subplots(figsize=(9.2, 4.3))
    ax.set(xlim=(-0.75, 12.95), ylim=(-0.75, 5.55), aspect="equal")
    ax.axis("off")
    lit = set(parts)

    def box(name, x, y, text, width=1.5, part=None):
        part = part or name
        near = part == "block" and lit & INSIDE_A_BLOCK
        fill = COLOURS["orange"] if part in lit else "#fdf0d5" if near else "white"
        edge = "black" if part in lit or near else "#999999"
        corner = (x - width / 2, y - HEIGHT / 2)
        style = "round,pad=0,rounding_size=0.12"
        ax.add_patch(
            FancyBboxPatch(
                corner,
                width,
                HEIGHT,
                boxstyle=style,
                facecolor=fill,
                edgecolor=edge,
                zorder=3,
                linewidth=2 if part in lit else 1,
                gid=f"{'lit' if part in lit else 'box'}:{name}",
            )
        )
        weight, colour = ("bold", "black") if part in lit else ("normal", "#333333")
        ax.text(x, y, text, ha="center", va="center", fontsize=9, fontweight=weight, color=colour, zorder=4)

    def arrow(*points, colour="#555555", style="-"):
        xs, ys = zip(*points)
        ax.plot(xs, ys, color=colour, linewidth=1.1, linestyle=style, zorder=1)
        ax.annotate(
            "",
            xy=points[-1],
            xytext=points[-2],
            zorder=2,
            arrowprops={"arrowstyle": "-|>", "color": colour, "linewidth": 1.1, "shrinkA": 0, "shrinkB": 0},
        )

    def sign(x, y, text):
        ax.add_patch(Circle((x, y), 0.2, facecolor="white", edgecolor="#555555", zorder=3))
        ax.text(x, y - 0.01, text, ha="center", va="center", fontsize=11, color="#333333", zorder=4)

    def note(x, y, text, ha="center"):
        ax.text(x, y, text, ha=ha, va="center", fontsize=8, color="#555555", zorder=4)

    top, middle, bottom = 4.55, 2.95, 0.55
    streaming = "streaming" in lit
    ax.add_patch(
        FancyBboxPatch(
            (0.98, 2.38),
            7.62,
            3.0,
            boxstyle="round,pad=0,rounding_size=0.15",
            zorder=0,
            facecolor="#fdf0d5" if streaming else "none",
            edgecolor="black" if streaming else "#bbbbbb",
            linewidth=2 if streaming else 1,
            linestyle="--",
            gid=f"{'lit' if streaming else 'box'}:streaming",
        )
    )
    weight = "bold" if streaming else "normal"
    ax.text(
        8.48,
        5.2,
        f"streaming: {c.hop} samples (one hop) at a time",
        ha="right",
        va="center",
        fontsize=8.5,
        fontweight=weight,
        color="black" if streaming else "#777777",
    )

    # mixture -> encoder -> x -> decoder -> sources -> loss
    arrow((0.5, top), (1.25, top))
    arrow((2.75, top), (6.6, top))
    arrow((6.8, top), (7.1, top))
    arrow((8.42, top), (8.95, top))
    arrow((10.25, top), (11.0, top))
    box("mixture", 0.0, top, "mixture", width=1.25)
    box("encoder", 2.0, top, "encoder")
    sign(6.8, top, "×")
    box("decoder", 7.75, top, "decoder", width=1.3)
    box("sources", 9.6, top, "speech\nnoise", width=1.3)
    box("loss", 11.75, top, "loss\n(SI-SNR)")
    box("optimizer", 11.75, middle, "optimizer")
    arrow((11.75, top - HEIGHT / 2), (11.75, middle + HEIGHT / 2))
    note(11.68, (top + middle) / 2, "gradients", ha="right")
    arrow((11.0, middle), (8.6, middle), style="--")
    note(9.8, middle + 0.17, "new parameters")
    note(4.7, top + 0.17, f"frames: {c.filters} × T")

    # norm -> bottleneck -> blocks -> masks
    arrow((3.05, top), (3.05, 3.75), (2.0, 3.75), (2.0, middle + HEIGHT / 2))
    arrow((2.6, middle), (3.0, middle))
    arrow((4.55, middle), (4.95, middle))
    arrow((6.69, middle), (7.05, middle))
    box("norm", 1.9, middle, "norm", width=1.3)
    box("bottleneck", 3.78, middle, "bottleneck")
    for shift in (0.14, 0.07):
        ax.add_patch(
            FancyBboxPatch(
                (4.95 + shift, middle - HEIGHT / 2 + shift),
                1.6,
                HEIGHT,
                boxstyle="round,pad=0,rounding_size=0.12",
                facecolor="white",
                edgecolor="#999999",
                zorder=2,
            )
        )
    count = c.blocks * c.repeats
    box("block", 5.75, middle, f"{count} blocks", width=1.6)
    box("mask", 7.7, middle, "masks", width=1.3)
    arrow((7.7, middle + HEIGHT / 2), (7.7, 3.75), (6.8, 3.75), (6.8, top - 0.2))
    note(6.66, 3.95, f"2 × {c.filters} × T", ha="right")
    note(3.78, middle - 0.45, f"{c.filters} → {c.bottleneck}")

    # Inside one block.
    ax.add_patch(
        FancyBboxPatch(
            (-0.6, -0.6),
            13.4,
            2.35,
            boxstyle="round,pad=0,rounding_size=0.15",
            facecolor="#f6f6f6",
            edgecolor="#bbbbbb",
            zorder=0,
        )
    )
    for start, end in ((4.95, -0.5), (6.55, 12.7)):
        ax.plot((start, end), (middle - HEIGHT / 2, 1.75), "-", color="#cccccc", linewidth=0.8, zorder=0)
    note(-0.45, -0.42, f"one block; dilation 1, 2, …, {2 ** (c.blocks - 1)}, {c.repeats} times", ha="left")
    chain = (
        ("expand", "expand", "expand"), ("prelu1", "PReLU", "prelu"), ("norm1", "norm 1", "norm1"),
        ("depthwise", "depthwise", "depthwise"), ("prelu2", "PReLU", "prelu"), ("norm2", "norm 2", "norm2"),
    )  # fmt: skip
    places = [1.05, 2.62, 4.1, 5.68, 7.26, 8.74]
    widths = [1.3, 1.2, 1.2, 1.4, 1.2, 1.2]
    arrow((-0.3, bottom), (places[0] - widths[0] / 2, bottom))
    note(-0.3, bottom - 0.25, "x")
    for i in range(len(chain) - 1):
        arrow((places[i] + widths[i] / 2, bottom), (places[i + 1] - widths[i + 1] / 2, bottom))
    for (name, text, part), x, width in zip(chain, places, widths):
        box(name, x, bottom, text, width=width, part=part)
    note(places[0], bottom - 0.5, f"{c.bottleneck} → {c.hidden}")
    note(places[3], bottom - 0.5, f"{c.kernel} taps")
    joint = 9.55
    ax.plot((9.34, joint), (bottom, bottom), "-", color="#555555", linewidth=1.1, zorder=1)
    for name, y, width in (("residual", 1.0, c.bottleneck), ("skip", 0.1, c.skip)):
        arrow((joint, bottom), (joint, y), (9.8, y))
        box(name, 10.45, y, name, width=1.3)
        arrow((11.1, y), (11.75, y))
        sign(11.95, y, "+")
        arrow((12.15, y), (12.6, y))
        note(11.42, y - 0.22, f"{width}")
    arrow((-0.05, bottom), (-0.05, 1.5), (11.95, 1.5), (11.95, 1.2), colour="#888888")
    arrow((11.95, -0.5), (11.95, -0.1), colour="#888888")
    note(11.75, -0.42, "skips so far", ha="right")
    return figure
