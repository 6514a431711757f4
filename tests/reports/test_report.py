"""The page about a run: what it says is what was measured, and a browser shows and plays it."""

import base64
import html
import io
import json
import os
import re
import shutil
import subprocess

import matplotlib.image
import numpy as np
import pytest
import soundfile

from tasnet_np import UserError
from tasnet_np.commands.main import main
from tasnet_np.network import checkpoint
from tasnet_np.network.config import Config
from tasnet_np.reports.report import _check_log, _read_baselines, held_out_mixtures, report
from tasnet_np.reports.report_sections import noise_kinds, noise_type, peak_frequencies
from tasnet_np.sound.metrics import si_snr
from tasnet_np.training.recipe import Recipe
from tasnet_np.training.run_folder import RunFolder
from tasnet_np.training.run_log import read_log
from tasnet_np.training.train import train

CONFIG = Config(filters=16, filter_length=8, bottleneck=8, hidden=12, skip=8, blocks=2, repeats=1)


@pytest.fixture(scope="module")
def run(recordings, tmp_path_factory):
    out = tmp_path_factory.mktemp("reported") / "a <run> & more"
    recipe = Recipe(
        batch=2, seconds=0.3, learning_rate=0.02, validate_every=10, validation_mixtures=2, warmup=0
    )
    train(recordings / "speech", recordings / "noise", out, CONFIG, recipe, steps=60)
    return out


@pytest.fixture(scope="module")
def page(run, tmp_path_factory):
    baselines = tmp_path_factory.mktemp("baselines") / "baselines.json"
    baselines.write_text(json.dumps({"Wiener": [1.5] * 12, "gate": [-0.5] * 12}))
    out = tmp_path_factory.mktemp("page") / "report.html"
    assert report(run, out, baselines=baselines, per_snr=3, seconds=1.0) == out
    return out


def text_of(page):
    return page.read_text(encoding="utf-8")


def tables(text):
    """Every table as a list of rows of plain text."""
    found = []
    for table in re.findall(r"<table>(.*?)</table>", text, re.DOTALL):
        rows = re.findall(r"<tr>(.*?)</tr>", table, re.DOTALL)
        found.append(
            [[html.unescape(cell) for cell in re.findall(r"<t[hd]>(.*?)</t[hd]>", row)] for row in rows]
        )
    return found


def test_the_scores_are_those_of_the_model(run, page):
    model, batches = checkpoint.load(run), held_out_mixtures(run, per_snr=3, seconds=1.0)
    gains = []
    for batch in batches:
        speech = model.forward(batch.mixture, keep=False)[:, 0]
        gains.append(si_snr(speech, batch.sources[:, 0]) - si_snr(batch.mixture, batch.sources[:, 0]))
    rows = next(table for table in tables(text_of(page)) if table[0][0] == "input SNR")
    assert rows[0] == ["input SNR", "this model", "Wiener", "gate"]
    expected = [f"{np.mean(values):+.2f}" for values in (*gains, np.concatenate(gains))]
    assert [row[1] for row in rows[1:]] == expected
    assert [row[0] for row in rows[1:]] == ["-5 dB", "+0 dB", "+5 dB", "+10 dB", "all"]
    assert {tuple(row[2:]) for row in rows[1:]} == {("+1.50", "-0.50")}


def test_the_mixtures_are_of_held_out_recordings_and_always_the_same(run):
    from tasnet_np.corpus import manifest

    held = manifest.load(run / "manifest.json").part("validation")
    names = {entry.speaker or entry.path for entry in held}
    one, other = held_out_mixtures(run, per_snr=3), held_out_mixtures(run, per_snr=3)
    assert [len(batch.names) for batch in one] == [3, 3, 3, 3]
    for a, b in zip(one, other, strict=True):
        assert a.mixture.any() and np.array_equal(a.mixture, b.mixture)
        assert {word for name in a.names for word in name.split(" at ")[0].split(" + ")} <= names


def test_players_hold_the_example_that_is_named(run, page):
    batches = held_out_mixtures(run, per_snr=3, seconds=1.0)
    mixtures = [
        (html.escape(name), batch.mixture[i]) for batch in batches for i, name in enumerate(batch.names)
    ]
    text = text_of(page)
    players = re.findall(r'<audio[^>]*aria-label="(\w+): ([\w ]+)" src="data:audio/wav;base64,([^"]+)"', text)
    assert [label for label, *_ in players] == ["Best"] * 4 + ["Median"] * 4 + ["Worst"] * 4
    assert [kind for _, kind, _ in players[:4]] == ["noisy", "denoised", "clean", "removed noise"]
    described = re.findall(r"<h2>\w+ example</h2><p>(.*?)\. SI-SNRi ([+-][\d.]+) dB", text)
    assert len(described) == 3
    assert [float(gain) for _, gain in described] == sorted(
        (float(gain) for _, gain in described), reverse=True
    )
    for i, (name, gain) in enumerate(described):
        noisy, denoised, clean, removed = (
            soundfile.read(io.BytesIO(base64.b64decode(data)))[0] for _, _, data in players[4 * i : 4 * i + 4]
        )
        alike = [np.corrcoef(noisy, mixture)[0, 1] for other, mixture in mixtures if other == name]
        assert max(alike) > 0.99999  # lowered where it would clip
        assert si_snr(denoised, clean) - si_snr(noisy, clean) == pytest.approx(float(gain), abs=0.1)
        assert np.corrcoef(denoised + removed, noisy)[0, 1] > 0.9


def test_one_file_without_network_that_escapes_names(page):
    text = text_of(page)
    assert (
        not re.search(r"""(src|href)=["'](?!data:)""", text) and "url(" not in text and "@import" not in text
    )
    assert "<script" not in text
    assert "<h1>a &lt;run&gt; &amp; more: report</h1>" in text
    assert "Seed 0." in text and "learning_rate" in text and "peak memory" in text


def test_pictures_are_not_empty(page):
    pictures = re.findall(r'<img[^>]*alt="([^"]+)" src="data:image/webp;base64,([^"]+)"', text_of(page))
    names = [name for name, _ in pictures]
    assert len(names) == 3 + 12 + 2 + 2 + 1
    assert {"encoder filters, sorted by frequency", "mask of the speech", "SI-SNRi by input SNR"} <= set(
        names
    )
    for name, data in pictures:
        pixels = matplotlib.image.imread(io.BytesIO(base64.b64decode(data)), format="webp")
        assert np.std(pixels[..., :3] / 255.0) > 0.05, name


def test_filters_by_frequency():
    time = np.arange(32)
    filters = np.stack([np.cos(2 * np.pi * f * time) * np.hanning(32) for f in (0.3, 0.05, 0.45)])
    assert peak_frequencies(filters) == pytest.approx([0.3, 0.05, 0.45], abs=0.01)


def test_kinds_of_noise():
    assert noise_type("ann + street/traffic/3.wav at -5.0 dB") == "street/traffic"
    assert noise_type("ann + Babble_12.wav at +0.0 dB") == "Babble"
    assert noise_type("ann + 12.wav at +0.0 dB") == "12.wav"
    assert noise_kinds(["a + n1.wav at +0.0 dB", "a + n2.wav at +5.0 dB"]) == ["n1.wav", "n2.wav"]
    assert noise_kinds(["a + n1.wav at +0.0 dB", "a + m2.wav at +5.0 dB"]) == ["n", "m"]


def test_what_cannot_be_reported(run, tmp_path, capsys):
    with pytest.raises(UserError, match="is not the folder of a training run"):
        report(tmp_path)
    (tmp_path / "other.json").write_text('{"Wiener": [1, 2, 3]}')
    with pytest.raises(UserError, match="other.json: has scores of other mixtures than these 4"):
        report(run, tmp_path / "out.html", baselines=tmp_path / "other.json", per_snr=1)
    (tmp_path / "log.jsonl").write_text('{"step": 1, "loss": 2}\n')
    with pytest.raises(UserError, match="has no validation yet"):
        read_log(RunFolder(tmp_path).log_file)
    assert not (tmp_path / "out.html").exists()
    assert main(["report", str(run), "--mixtures", "0"]) == 2
    assert "--mixtures 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    ["[]", "null", "3", "{", "[" * 100_000, '{"a": 1}', '{"a": null}', '{"a": {}}', '{"a": "1234"}', '{"a": [[1]]}',
     '{"a": [1, 2, 3, null]}', '{"a": [1, 2, 3, "4"]}', '{"a": [1, 2, 3, true]}', '{"a": [1, 2, 3, NaN]}',
     '{"a": [1, 2, 3, Infinity]}', '{"a": [1, 2, 3, 1e300]}', '{"this model": [1, 2, 3, 4]}',
     json.dumps({f"method {i}": [0] * 4 for i in range(50)}), '{"a": [1, 2, 3]}', '{"a": []}', "\xff"],
    ids=lambda text: text[:30],
)  # fmt: skip
def test_baselines_of_other_types_are_refused(run, tmp_path, text):
    path = tmp_path / "other.json"
    path.write_text(json.dumps({"a": [1, 2.5, -3, 0]}))
    assert _read_baselines(tmp_path, path, 4)["a"].tolist() == [1, 2.5, -3, 0]
    path.write_text(text)
    with pytest.raises(
        UserError, match="other.json: (cannot be used|has scores of other mixtures)"
    ) as caught:
        _read_baselines(tmp_path, path, 4)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda record: record.pop("seconds", None), "log.jsonl: step 1 has no seconds; restore it"),
        (lambda record: record.pop("learning_rate", None), "log.jsonl: step 1 has no learning_rate"),
        (lambda record: record.get("validation", {}).clear(), "log.jsonl: step 10 has no noise_si_snri_db"),
        (lambda record: record.pop("loss", None), "log.jsonl: line 1 is damaged"),
        (lambda record: record.update(step="1"), "log.jsonl: line 1 is damaged .step must be"),
        (lambda record: record.update(gradient_norms=3), "log.jsonl: line 1 is damaged .gradient_norms is 3"),
    ],
)
def test_a_log_that_lacks_something_is_named(run, tmp_path, change, words):
    copied = tmp_path / "run"
    shutil.copytree(run, copied)
    records = [json.loads(line) for line in (copied / "log.jsonl").read_text().splitlines()]
    for record in records:
        change(record)
    (copied / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    with pytest.raises(UserError, match=words):
        report(copied, per_snr=1, seconds=0.3)
    assert not (copied / "report.html").exists()


def test_a_log_without_steps_is_named(tmp_path):
    with pytest.raises(UserError, match="log.jsonl: has no step; restore it"):
        _check_log("log.jsonl", [{"step": 1, "validation": {}}])


def test_a_model_of_another_architecture_is_not_reported_as_this_run(run, tmp_path):
    copied = tmp_path / "run"
    shutil.copytree(run, copied)
    text = (copied / "config.json").read_text()
    (copied / "config.json").write_text(
        text.replace('"mask_activation": "sigmoid"', '"mask_activation": "relu"')
    )
    with pytest.raises(UserError, match="best.npz: has another mask_activation than config.json beside it"):
        report(copied, per_snr=1, seconds=0.3)


def test_the_command_writes_into_the_run(run, capsys):
    assert main(["report", str(run), "--mixtures", "1", "--seconds", "0.5"]) == 0
    assert capsys.readouterr().out.split("\n")[0] == str(run / "report.html")
    assert (run / "report.html").stat().st_size < 8e6


# In a browser.

PROBE = """
<script>
const problems = [];
addEventListener("error", event => problems.push(String(event.message)), true);
const ready = player => new Promise(resolve => {
  if (player.readyState >= 1 || player.error) return resolve();
  player.addEventListener("loadedmetadata", resolve); player.addEventListener("error", resolve); });
const spread = image => {
  const canvas = Object.assign(document.createElement("canvas"), {width: 64, height: 64});
  const context = canvas.getContext("2d");
  if (!image.naturalWidth) return 0;
  context.drawImage(image, 0, 0, 64, 64);
  const grey = context.getImageData(0, 0, 64, 64).data.filter((_, i) => i % 4 == 1);
  return Math.max(...grey) - Math.min(...grey); };
addEventListener("load", async () => {
  const players = [...document.querySelectorAll("audio")], images = [...document.querySelectorAll("img")];
  await Promise.all(players.map(ready));
  document.querySelectorAll("details").forEach(details => details.open = true);
  const found = {
    problems, durations: players.map(player => player.duration),
    spreads: images.map(spread), widths: images.map(image => image.getBoundingClientRect().width),
    window: document.documentElement.clientWidth, page: document.documentElement.scrollWidth,
    columns: getComputedStyle(document.querySelector(".players")).gridTemplateColumns.split(" ").length,
    font: parseFloat(getComputedStyle(document.body).fontSize) };
  document.body.innerHTML = "<pre id=found>" + JSON.stringify(found) + "</pre>"; });
</script>
"""


def browse(page, folder, width):
    """Open the page, `width` pixels wide, with a script that looks around; returns what it found and the errors."""
    probed = folder / "probed.html"
    probed.write_text(text_of(page).replace("</head>", PROBE + "</head>"), encoding="utf-8")
    frame = folder / "frame.html"  # a window cannot be as narrow as a phone; a frame can
    frame.write_text(
        f'<body style="margin:0"><iframe id=f src="probed.html" width={width} height=800 style="border:0"></iframe>'
        "<script>const wait = setInterval(() => { const found = f.contentDocument?.getElementById('found');"
        "if (found) { clearInterval(wait); document.body.innerHTML = found.outerHTML; } }, 50);</script>"
    )
    command = [
        shutil.which("chromium"),
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--window-size=1400,900",
    ]
    command += [
        "--allow-file-access-from-files",
        "--enable-logging=stderr",
        "--virtual-time-budget=20000",
        "--dump-dom",
    ]
    command += [f"--user-data-dir={folder / 'profile'}", "--hide-scrollbars", frame.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    found = re.search(r'<pre id="found">(.*?)</pre>', done.stdout)
    assert found, (done.stdout[-500:], done.stderr[-2000:])
    return json.loads(html.unescape(found[1])), [
        line for line in done.stderr.splitlines() if "CONSOLE" in line
    ]


@pytest.mark.parametrize("width, columns", [(1280, 4), (390, 1)])
def test_a_browser_shows_and_plays_it(page, tmp_path, width, columns):
    if not shutil.which("chromium"):
        if os.environ.get("TASNET_REQUIRE_PEERS"):
            pytest.fail("chromium is missing: apt-get install chromium")
        pytest.skip("chromium is not installed: the page is not opened")
    found, errors = browse(page, tmp_path, width)
    assert errors == [] and found["problems"] == []
    assert found["durations"] == [pytest.approx(1.0, abs=0.01)] * 12
    assert len(found["spreads"]) == 20 and min(found["spreads"]) > 100
    assert found["window"] == width and found["page"] <= width  # nothing to scroll sideways
    assert found["columns"] == columns
    assert min(found["widths"]) >= 190 and found["font"] >= 14


def test_the_probe_finds_what_is_wrong(page, tmp_path):
    """A planted error, an empty picture, a broken player and a page that is too wide."""
    if not shutil.which("chromium"):
        pytest.skip("chromium is not installed: the page is not opened")
    broken = tmp_path / "broken.html"
    text = text_of(page)
    text = re.sub(r'(<audio[^>]*src=")[^"]+', r"\1data:audio/wav;base64,AAAA", text, count=1)
    text = re.sub(r'(<img[^>]*src=")[^"]+', r"\1data:image/gif;base64,R0lGODlhAQABAAAAACw=", text, count=1)
    text = text.replace("</body>", '<div style="width: 3000px">wide</div><script>nowhere()</script></body>')
    broken.write_text(text, encoding="utf-8")
    found, errors = browse(broken, tmp_path, 1280)
    assert any("nowhere" in line for line in errors + found["problems"])
    assert found["durations"][0] is None and min(found["spreads"]) == 0 and found["page"] > 1280
