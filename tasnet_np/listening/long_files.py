"""Recordings of any length in constant memory: what `separate.separate` does, in several passes.

Three things depend on the whole recording: its mean, the level that the network hears, and the gains of the
sources. So the recording is read three times: for the mean, for the level, and for the network. The network's
sources go to a temporary file until their gains are known.

A causal network runs as a stream (`Streamer`). Another one runs over overlapping segments (`Segments`).
"""

import tempfile

import numpy as np

from tasnet_np.errors import UserError
from tasnet_np.listening.separate import check_answer
from tasnet_np.network.config import SOURCES
from tasnet_np.sound.audio_files import BLOCK, check_finite
from tasnet_np.sound.level import LEVEL_DB, about_the_means, gains_of, products_of
from tasnet_np.sound.resampling import Resampler

FADE_SECONDS = 0.5  # for so long, one segment fades into the next
SEAM_DB = -30  # the tests allow 30-second segments so much difference from the whole, relative to the output


class Segments:
    """Runs a network that is not causal over overlapping segments, with the interface of `Streamer`.

    The network also hears one receptive field before each segment and one after it; their results are left out.
    Each segment fades into the next one for `FADE_SECONDS`. The seams that remain come from gLN: its mean and
    variance are those of the segment, not of the whole recording.

    Parameters
    ----------
    model : ConvTasNet
    channels : int
    seconds : float
        Length of a segment, at least twice the fade.

    Raises
    ------
    UserError
        The segments are too short.
    """

    def __init__(self, model, channels, seconds):
        rate = model.config.sample_rate
        if not seconds >= 2 * FADE_SECONDS:
            raise UserError(f"segments of {seconds:g} s: give at least {2 * FADE_SECONDS:g} s")
        self.model, self.channels, self.dtype = model, channels, model.dtype
        hop = model.config.hop  # each segment begins with a frame of the whole recording
        self._step = round(seconds * rate / hop) * hop
        self._fade = round(FADE_SECONDS * rate)
        self._context = model.config.receptive_field_frames * hop
        self._kept = np.zeros((channels, 0), self.dtype)  # samples from the context of the next segment on
        self._before = 0  # how many of them come before the next segment
        self._tail = None  # the last segment's sources for the time of the fade

    def process(self, samples):
        """Take in the next samples (channels, n); return the sources (2, channels, m) that are final."""
        self._kept = np.concatenate([self._kept, samples], axis=1)
        needed = self._step + self._fade + self._context
        done = [np.zeros((2, self.channels, 0), self.dtype)]
        while self._kept.shape[1] - self._before >= needed:
            done.append(self._segment(self._before + needed, self._step))
            first = max(0, self._before + self._step - self._context)
            self._before += self._step - first
            self._kept = self._kept[:, first:]
        return np.concatenate(done, axis=-1)

    def flush(self):
        """End the recording: return the sources still missing, (2, channels, m)."""
        rest = self._kept.shape[1] - self._before
        return self._segment(self._kept.shape[1], rest) if rest else self._kept[None, :, :0].repeat(2, 0)

    def _segment(self, end, count):
        """The next `count` samples of the sources, from what is kept up to `end`."""
        heard = np.ascontiguousarray(self._kept[:, :end])
        sources = self.model.forward(heard, keep=False).swapaxes(0, 1)  # (2, channels, end)
        sources = sources[..., self._before :].copy()
        if self._tail is not None:
            fade = min(self._fade, sources.shape[-1])
            way = (np.arange(fade, dtype=self.dtype) + 0.5) / self._fade  # 0 to 1
            sources[..., :fade] = way * sources[..., :fade] + (1 - way) * self._tail[..., :fade]
        self._tail = sources[..., count : count + self._fade]
        return sources[..., :count]


class LongSeparation:
    """The sources of a recording, block by block, as `separate.separate` gives them.

    Parameters
    ----------
    file : audio_files.AudioFile
    network : Streamer or Segments
        For as many channels as the recording has.
    model_rate : int
        Samples per second of the network.
    count : int
        1 for the speech, 2 for the speech and the background.
    folder : Path
        Where the temporary file goes.

    Attributes
    ----------
    silent : bool
        The recording is constant.
    mixture_peak, peak : float
        Largest absolute sample of the recording and of the sources.

    Raises
    ------
    UserError
        The recording cannot be read, the network answers with NaN or infinity, or there is no room for the
        temporary file.
    """

    def __init__(self, file, network, model_rate, count, folder):
        self._file, self._network, self._model_rate, self._count = file, network, model_rate, count
        self._mean, self.mixture_peak, self.silent = self._measure()  # the mean has shape (channels, 1)
        self._gain = self._level_gain()  # (channels, 1)
        try:
            self._temporary = tempfile.TemporaryFile(dir=folder)
            products, lowest, highest = self._separate()
            self._temporary.flush()
        except OSError as error:
            raise UserError(f"{folder}: has no room for a temporary file ({error.strerror})") from error
        self._offset = products[:, 1:3, 3].T[..., None] / products[:, 3:, 3]  # (2, channels, 1) means
        self._gains = np.stack([gains_of(about_the_means(p)) for p in products], axis=1)[..., None]
        extremes = self._gains * (np.stack([lowest, highest], axis=-1) - self._offset)  # (2, channels, 2)
        self.peak = np.max(np.abs(extremes[:count]))

    def close(self):
        """Delete the temporary file."""
        self._temporary.close()

    def source(self, index, scale=1.0):
        """Yield the blocks (channels, n) float32 of the speech (0) or background (1), times a factor."""
        channels = self._file.channels
        self._temporary.seek(0)
        while data := self._temporary.read(BLOCK * self._count * channels * 4):
            frames = np.frombuffer(data, np.float32).reshape(-1, self._count, channels)
            restored = self._gains[index] * (frames[:, index].T - self._offset[index])
            yield (scale * restored).astype(np.float32)

    def _measure(self):
        """The first pass: the mean (channels, 1), the largest absolute sample, and whether all is silent."""
        first, total, count, constant, peak = None, 0.0, 0, True, 0.0
        for block in self._file:
            check_finite(self._file.path, block)
            first = block[:, :1] if first is None else first
            total = total + block.sum(axis=1, keepdims=True, dtype=np.float64)
            count += block.shape[1]
            constant = constant & np.all(block == first, axis=1, keepdims=True)  # (channels, 1)
            peak = max(peak, float(np.max(np.abs(block))))
        mean = np.where(
            constant, first, total / count
        )  # a constant channel is its own mean, without rounding errors
        return mean, peak, bool(np.all(constant))

    def _mixture(self):
        """The blocks of the recording without its mean."""
        for block in self._file:
            yield (block - self._mean).astype(np.float32)

    def _heard(self):
        """The blocks of the mixture at the network's rate."""
        resampler = Resampler(self._file.rate, self._model_rate, self._file.channels)
        for block in self._mixture():
            yield resampler.process(block)
        yield resampler.flush()

    def _level_gain(self):
        """The second pass: the gain of each channel that brings it to the level that the network was trained with."""
        total, count = 0.0, 0
        for heard in self._heard():
            total = total + np.sum(np.square(heard, dtype=np.float64), axis=1, keepdims=True)
            count += heard.shape[1]
        wanted = 10 ** (LEVEL_DB / 20)
        return np.where(total > 0, wanted / np.sqrt(np.where(total > 0, total, 1) / count), 1.0)

    def _estimates(self):
        """The network's sources (2, channels, n), at its rate."""
        channels = self._file.channels
        for heard in self._heard():
            levelled = (self._gain * heard).astype(self._network.dtype)
            yield self._network.process(levelled).reshape(len(SOURCES), channels, -1)
        yield self._network.flush().reshape(len(SOURCES), channels, -1)

    def _resampled_estimates(self):
        """The network's sources (2, channels, n), at the recording's rate."""
        channels = self._file.channels
        resampler = Resampler(self._model_rate, self._file.rate, len(SOURCES) * channels)
        for sources in self._estimates():
            sources = sources.reshape(len(SOURCES) * channels, -1).astype(np.float32)
            yield resampler.process(sources).reshape(len(SOURCES), channels, -1)
        yield resampler.flush().reshape(len(SOURCES), channels, -1)

    def _separate(self):
        """The third pass: writes the sources to the temporary file; returns their inner products and extremes."""
        channels = self._file.channels
        mixture, waiting = self._mixture(), np.zeros((channels, 0), np.float32)
        products, lowest, highest = np.zeros((channels, 4, 4)), np.inf, -np.inf
        for sources in self._resampled_estimates():
            while waiting.shape[1] < sources.shape[-1] and (block := next(mixture, None)) is not None:
                waiting = np.concatenate([waiting, block], axis=1)
            # Both resamplings round the length up: samples beyond the end of the recording are left out.
            sources = sources[..., : waiting.shape[1]]
            n = sources.shape[-1]
            if n == 0:
                continue
            check_answer(sources)
            products += products_of(waiting[:, :n], sources)
            waiting = waiting[:, n:]
            lowest = np.minimum(lowest, sources.min(axis=-1))
            highest = np.maximum(highest, sources.max(axis=-1))
            self._temporary.write(np.ascontiguousarray(sources[: self._count].transpose(2, 0, 1)).tobytes())
        return products, lowest, highest
