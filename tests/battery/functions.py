"""The public functions with small arguments, and the conditions that arrays can be in.

`ON_ARRAYS` has functions of arrays, `ON_FILES` functions of a folder with recordings (`make_world`).
"""

import io
import os
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

RATE = 8000


class OnArrays(NamedTuple):
    """A function of arrays."""

    call: Callable  # (*arrays) -> what comes out: an array, or a list of them
    arrays: Callable  # () -> tuple of arrays


def signals(*shapes):
    """A function that makes noise of these shapes, float32, below full scale."""

    def make():
        rng = np.random.default_rng(0)
        return tuple(
            (0.1 * rng.standard_normal(shape)).clip(-0.9, 0.9).astype(np.float32) for shape in shapes
        )

    return make


@cache
def model():
    """A small model that can be streamed."""
    from tasnet_np import Config, ConvTasNet

    return ConvTasNet(
        Config(filters=16, filter_length=8, bottleneck=8, hidden=12, skip=8, blocks=2, repeats=1)
    )


def _fresh_model():
    from tasnet_np import ConvTasNet

    return ConvTasNet(model().config)


def _streamed(samples):
    from tasnet_np import Streamer

    streamer = Streamer(model(), channels=2)
    return np.concatenate(
        [streamer.process(samples[..., :90]), streamer.process(samples[..., 90:]), streamer.flush()], -1
    )


def _gradients(mixture, sources):
    from tasnet_np import NegativeSISNR

    learner = _fresh_model()
    value = learner.gradients(NegativeSISNR(), mixture, sources)
    return [np.asarray(value), *learner.grads.values()]


def _loss(estimate, sources):
    from tasnet_np import NegativeSISNR

    loss = NegativeSISNR()
    return [np.asarray(loss.forward(estimate, sources)), loss.backward()]


def _sound_stream(samples):
    from tasnet_np.listening.sound_stream import SoundStream

    sound = SoundStream(model(), 11025, channels=2)
    return np.concatenate(
        [sound.process(samples[..., :100]), sound.process(samples[..., 100:]), sound.flush()], axis=-1
    )


def _running_level(mixture, sources):
    from tasnet_np.sound.level import RunningLevel

    return RunningLevel(RATE, 2).process(mixture, sources)


def _resampler(samples):
    from tasnet_np.sound.resampling import Resampler

    resampler = Resampler(11025, RATE, 2)
    return np.concatenate([resampler.process(samples), resampler.flush()], axis=1)


def _written(samples):
    """What a file holds after `write`."""
    from tasnet_np.sound.audio_files import read, write

    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder, "a.wav"), samples, RATE, subtype="FLOAT")
        return read(Path(folder, "a.wav")).samples


def _written_in_blocks(samples):
    from tasnet_np.sound.audio_files import read, write_blocks

    with tempfile.TemporaryDirectory() as folder:
        write_blocks(Path(folder, "a.wav"), [samples, samples], RATE, 2, format="WAV", subtype="FLOAT")
        return read(Path(folder, "a.wav")).samples


def _pcm(samples):
    from tasnet_np.listening.pcm_stream import PCM

    pcm = PCM("s16le", RATE, 2)
    data, clipped = pcm.encode(samples)
    return [pcm.decode(data), np.array(clipped)]


def _clip(samples):
    from tasnet_np.corpus.clips import Clip

    return Clip("a", samples)


def _utterance(samples):
    from tasnet_np.corpus.mixing import utterance

    return utterance([_clip(samples)], 300, np.random.default_rng(0), RATE)


def _noise_crop(samples):
    from tasnet_np.corpus.mixing import noise_crop

    return noise_crop(_clip(samples), 300, np.random.default_rng(0))


def _mixed(*clips):
    from tasnet_np.corpus.clips import Corpus
    from tasnet_np.corpus.mixing import fixed_batches

    first, second, noise = map(_clip, clips)
    corpus = Corpus({"ann": [first], "bob": [second]}, [noise])
    batches = fixed_batches(corpus, samples=400, rate=RATE, snrs_db=(0,), per_snr=2)
    return [batches[0].mixture, batches[0].sources]


def _evaluated(mixture, sources):
    from tasnet_np.corpus.mixing import Batch
    from tasnet_np.training.evaluation import evaluate

    rows = evaluate(model(), [Batch(mixture, sources, np.zeros(len(mixture)), ["a"] * len(mixture))])
    return np.array([value for value in rows[0].values() if isinstance(value, float)])


def _of(module, name, *further, **settings):
    """A function of the package by name, called with arrays and then with these."""

    def call(*arrays):
        from importlib import import_module

        return getattr(import_module(f"tasnet_np.{module}"), name)(*arrays, *further, **settings)

    return call


def _nothing(call):
    """For a function that returns nothing."""
    return lambda *arrays: [np.zeros(0) for _ in [call(*arrays)]]


def _separate(samples):
    from tasnet_np.listening.separate import separate

    return separate(model(), samples, 11025)


ON_ARRAYS = {
    "ConvTasNet.forward": OnArrays(lambda x: model().forward(x, keep=False), signals((2, 500))),
    "ConvTasNet.backward": OnArrays(
        lambda x, dy: (learner := _fresh_model()).forward(x) is not None and learner.backward(dy),
        signals((2, 500), (2, 2, 500)),
    ),
    "ConvTasNet.gradients": OnArrays(_gradients, signals((3, 500), (3, 2, 500))),
    "ConvTasNet.frames": OnArrays(lambda x: model().frames(x), signals((2, 500))),
    "ConvTasNet.masks": OnArrays(lambda x: model().masks(x), signals((2, 500))),
    "NegativeSISNR": OnArrays(_loss, signals((2, 2, 500), (2, 2, 500))),
    "Streamer": OnArrays(_streamed, signals((2, 300))),
    "listening.separate.separate": OnArrays(_separate, signals((2, 700))),
    "listening.separate.check_answer": OnArrays(
        _nothing(_of("listening.separate", "check_answer")), signals((2, 2, 9))
    ),
    "listening.sound_stream.SoundStream": OnArrays(_sound_stream, signals((2, 700))),
    "listening.pcm_stream.PCM": OnArrays(_pcm, signals((2, 100))),
    "sound.audio_files.write": OnArrays(_written, signals((2, 100))),
    "sound.audio_files.write_blocks": OnArrays(_written_in_blocks, signals((2, 100))),
    "sound.bad_samples.check_finite": OnArrays(
        _nothing(lambda x: _of("sound.bad_samples", "check_finite")("a.wav", x)), signals((2, 100))
    ),
    "sound.bad_samples.bad_samples": OnArrays(_of("sound.bad_samples", "bad_samples"), signals((2, 100))),
    "sound.channels.signs": OnArrays(_of("sound.channels", "signs"), signals((2, 100))),
    "sound.channels.mono": OnArrays(_of("sound.channels", "mono"), signals((2, 100))),
    "sound.level.rms_db": OnArrays(_of("sound.level", "rms_db"), signals((2, 100))),
    "sound.level.at_level": OnArrays(_of("sound.level", "at_level", -20.0), signals((2, 100))),
    "sound.level.fit_level": OnArrays(_of("sound.level", "fit_level"), signals(100, (2, 100))),
    "sound.level.products_of": OnArrays(_of("sound.level", "products_of"), signals((2, 100), (2, 2, 100))),
    "sound.level.RunningLevel": OnArrays(_running_level, signals((2, 300), (2, 2, 300))),
    "sound.augmentation.change_speed": OnArrays(_of("sound.augmentation", "change_speed", 4), signals(400)),
    "sound.augmentation.coloured": OnArrays(
        _of("sound.augmentation", "coloured", np.full(4, 0.2)), signals(400)
    ),
    "sound.augmentation.reverberate": OnArrays(_of("sound.augmentation", "reverberate"), signals(400, 50)),
    "sound.augmentation.equalised": OnArrays(
        lambda x: _of("sound.augmentation", "equalised", "speech", np.random.default_rng(0), RATE)(x),
        signals(400),
    ),
    "sound.augmentation.low_pass": OnArrays(_of("sound.augmentation", "low_pass", 0.5), signals(400)),
    "sound.augmentation.overload": OnArrays(_of("sound.augmentation", "overload", 0.01), signals(400)),
    "sound.resampling.resample": OnArrays(
        _of("sound.resampling", "resample", 11025, RATE), signals((2, 400))
    ),
    "sound.resampling.Resampler": OnArrays(_resampler, signals((2, 400))),
    "sound.metrics.si_snr": OnArrays(_of("sound.metrics", "si_snr"), signals((2, 100), (2, 100))),
    "sound.metrics.si_snr_improvement": OnArrays(
        _of("sound.metrics", "si_snr_improvement"), signals((2, 100), (2, 100), (2, 100))
    ),
    "sound.metrics.sdr": OnArrays(_of("sound.metrics", "sdr"), signals((2, 100), (2, 100))),
    "sound.metrics.without_mean": OnArrays(_of("sound.metrics", "without_mean"), signals((2, 100))),
    "corpus.clips.Clip": OnArrays(lambda x: np.array(_clip(x).level_db), signals(400)),
    "corpus.mixing.utterance": OnArrays(_utterance, signals(400)),
    "corpus.mixing.noise_crop": OnArrays(_noise_crop, signals(400)),
    "corpus.mixing.mix": OnArrays(_of("corpus.mixing", "mix", 5.0), signals(400, 400)),
    "corpus.mixing.fixed_batches": OnArrays(_mixed, signals(900, 900, 900)),
    "corpus.manifest.count_clipped": OnArrays(_of("corpus.manifest", "count_clipped"), signals((2, 400))),
    "training.evaluation.evaluate": OnArrays(_evaluated, signals((2, 400), (2, 2, 400))),
}


# The conditions of arrays.


def _strided(x):
    return np.repeat(x, 2, axis=-1)[..., ::2]


def _reversed(x):
    return np.ascontiguousarray(x[..., ::-1])[..., ::-1]


def _read_only(x):
    x = x.copy()
    x.flags.writeable = False
    return x


def _memory_mapped(x):
    file = tempfile.NamedTemporaryFile()
    file.write(x.tobytes())
    file.flush()
    return np.memmap(file.name, x.dtype, "r", shape=x.shape)


def _unaligned(x):
    buffer = np.zeros(x.nbytes + 1, np.uint8)
    moved = buffer[1:].view(x.dtype).reshape(x.shape)
    moved[...] = x
    return moved


LAYOUTS = {  # the same array, otherwise in memory: the result is the same
    "in Fortran's order": np.asfortranarray,
    "strided": _strided,
    "reversed": _reversed,
    "read-only": _read_only,
    "memory-mapped": _memory_mapped,
    "unaligned": _unaligned,
}
KINDS = {  # of other values: the result is that of the same values in float32, or an error
    "float64": lambda x: x.astype(np.float64),
    "float16": lambda x: x.astype(np.float16),
    "big-endian": lambda x: x.astype(">f4"),
    "int16": lambda x: (x * 30000).astype(np.int16),
    "int64": lambda x: (x * 30000).astype(np.int64),
    "bool": lambda x: x > 0,
    "complex": lambda x: x.astype(np.complex64),
    "objects": lambda x: x.astype(object),
    "text": lambda x: x.astype(str),
    "times": lambda x: (1000 * x).astype(np.int64).astype("m8[s]"),
    "a list": lambda x: x.tolist(),
}
ODD = {  # anything but an error of another kind
    "empty": lambda x: x[..., :0],
    "of one sample": lambda x: x[..., :1],
    "silent": np.zeros_like,
    "with NaN": lambda x: np.where(np.arange(x.shape[-1]) == 7, np.nan, x),
    "infinite": lambda x: np.where(np.arange(x.shape[-1]) == 7, np.inf, x).astype(np.float32),
    "of 1e38": lambda x: np.where(np.arange(x.shape[-1]) == 7, 1e38, x).astype(np.float32),
    "with one axis more": lambda x: x[None],
    "with one axis less": lambda x: x.reshape(-1)[0] if x.ndim == 1 else x[0],
    "None": lambda x: None,
    "a name": lambda x: "samples",
}


# Functions of files.


def make_world(folder):
    """A folder with little of everything: speech, noise, pairs, a noisy recording, checkpoints."""
    import soundfile

    from tasnet_np import save

    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)

    def record(place, samples=4000, rate=RATE, **how):
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(os.fsencode(path), (0.1 * rng.standard_normal(samples)).clip(-0.9, 0.9), rate, **how)

    for speaker in ("ann", "bob", "cy"):
        for i in range(2):
            record(f"speech/{speaker}/{i}.wav")
    for i in range(4):
        record(f"noise/{i}.flac")
    for part in ("clean", "noisy"):
        for i in range(4):
            record(f"pairs/{part}_trainset_wav/p{i}_001.wav")
    record("noisy.wav")
    record("noisy.ogg", format="OGG")
    save(model(), folder / "model.npz")


def _hidden(folder):
    """A folder below, for outputs, that no other function looks into."""
    return tempfile.TemporaryDirectory(prefix=".", dir=folder)


def _read(folder):
    from tasnet_np.sound.audio_files import AudioFile, find_audio, read, seconds_by_header

    paths, others = find_audio(folder)
    file = AudioFile(folder / "noisy.wav")
    lengths = [np.array(seconds_by_header(path)) for path in paths]
    return [read(path).samples for path in paths] + [file.read_part(10, 90), np.array(len(others)), *lengths]


def _layouts(folder):
    from tasnet_np.corpus import layouts

    found, _ = layouts.folders(folder / "speech", folder / "noise")
    return [_text([one.path for one in found])]


def _pairs(folder):
    from tasnet_np.corpus import layouts

    name, found, _ = layouts.recognise(folder / "pairs")
    return [_text([name, *(f"{one.path} {one.noisy}" for one in found)])]


def _manifest(folder):
    from tasnet_np.corpus import layouts, manifest

    made = manifest.make_manifest(*layouts.folders(folder / "speech", folder / "noise"))
    with _hidden(folder) as out:
        manifest.save(made, Path(out, "made.json"))
        read = manifest.load(Path(out, "made.json"))
    assert read == made
    return [_text([manifest.table(read)])]


def _open_corpus(folder):
    from tasnet_np.corpus import layouts, manifest
    from tasnet_np.corpus.clips import Store, open_corpus

    made = manifest.make_manifest(*layouts.folders(folder / "speech", folder / "noise"))
    corpus = open_corpus(made, "training", RATE, Store())
    return [_text(sorted(corpus.speakers)), corpus.noises[0].draw(np.random.default_rng(0))]


def _load_corpus(folder):
    from tasnet_np.corpus.clips import load_corpus

    corpus, problems = load_corpus(folder / "speech", folder / "noise", RATE)
    return [_text([*corpus.speakers, *problems]), corpus.noises[0].draw(np.random.default_rng(0))]


def _text(lines):
    return np.array("\n".join(lines))


def _denoise_files(folder):
    from tasnet_np.listening.denoise import denoise_files
    from tasnet_np.sound.audio_files import read

    with _hidden(folder) as out:
        written = denoise_files([folder / "noisy.wav", folder / "noisy.ogg"], model(), Path(out, "out"))
        return [read(path).samples for path in written]


def _stream(folder):
    from tasnet_np.listening.stream import run

    output = io.BytesIO()
    with open(folder / "noisy.wav", "rb") as file:
        run(model(), file, output, lambda line: None)
    return [np.frombuffer(output.getvalue(), np.uint8)]


def _load_and_save(folder):
    from tasnet_np import load, save

    with _hidden(folder) as out:
        save(load(folder / "model.npz"), Path(out, "again.npz"))
        return list(load(Path(out, "again.npz")).params.values())


def _compare(folder):
    from tasnet_np.training.evaluation import compare

    rows, _ = compare(folder / "noisy.wav", [folder / "noisy.wav", folder / "noisy.wav"])
    return [np.array(rows[1]["si_snr_db"])]


ON_FILES = {
    "load, save": _load_and_save,
    "sound.audio_files: read, AudioFile, find_audio, seconds_by_header": _read,
    "corpus.layouts.folders": _layouts,
    "corpus.layouts: recognise, pairs": _pairs,
    "corpus.manifest: make_manifest, inspect, parted, save, load, summary, table": _manifest,
    "corpus.clips: open_corpus, Store": _open_corpus,
    "corpus.clips.load_corpus": _load_corpus,
    "listening.denoise.denoise_files": _denoise_files,
    "listening.stream.run": _stream,
    "training.evaluation.compare": _compare,
}
