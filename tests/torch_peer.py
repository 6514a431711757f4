"""Conv-TasNet in plain PyTorch, for comparison only: parity tests and speed benchmarks.

Written from the equations of arXiv 1809.07454. Nothing in `tasnet_np` imports it. Parameters carry
the names and shapes that they have in `tasnet_np.ConvTasNet`, so weights and gradients are compared
in a loop over names. The code is ordinary PyTorch: nothing is slowed down for the comparison.

`exact_sums=True` takes the running sums of the cumulative norm in float64, which parity in float32
needs. `exact_sums=False` keeps them in the model's dtype, as ordinary implementations do: use that
for timings.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

EPS = 1e-8  # inside the root of the norms, and in the loss


def depthwise(x, w, b, *, dilation=1, lookahead=0):
    """y[c, t] = b[c] + sum_k w[c, k] * x[c, t + k*dilation + lookahead - (K-1)*dilation]."""
    span = (w.shape[1] - 1) * dilation
    x = F.pad(x, (span - lookahead, lookahead))
    return F.conv1d(x, w[:, None, :], b, dilation=dilation, groups=len(w))


def global_layer_norm(x, gamma, beta, *, eps=EPS):
    """Mean and variance over all channels and frames of a sample (Eq. 9-11)."""
    return F.group_norm(x, 1, gamma, beta, eps)


def channel_layer_norm(x, gamma, beta, *, eps=EPS):
    """Mean and variance over the channels of one frame."""
    return F.layer_norm(x.transpose(1, 2), x.shape[1:2], gamma, beta, eps).transpose(1, 2)


def cumulative_layer_norm(x, gamma, beta, *, eps=EPS, exact_sums=True):
    """Mean and variance over all channels and all frames up to the current one (Eq. 12-14)."""
    sums = x.double() if exact_sums else x
    count = x.shape[1] * torch.arange(1, x.shape[2] + 1, dtype=sums.dtype, device=x.device)
    mean = sums.sum(1).cumsum(-1) / count  # (B, T)
    variance = (sums.square().sum(1).cumsum(-1) / count - mean.square()).clamp(min=0)
    scale = (variance + eps).rsqrt()[:, None].to(x.dtype)  # (B, 1, T)
    return (x - mean[:, None].to(x.dtype)) * scale * gamma[:, None] + beta[:, None]


def si_snr(estimate, target, *, eps=EPS):
    """Scale-invariant SNR in dB over the last axis: 10 log10((rho2 + eps) / (1 - rho2 + eps)).

    0, and no gradient, where the target is silent. The estimate must not be silent.
    """
    estimate = estimate - estimate.mean(-1, keepdim=True)
    target = target - target.mean(-1, keepdim=True)
    unit = F.normalize(target, dim=-1)
    projection = (estimate * unit).sum(-1, keepdim=True) * unit
    energy = estimate.square().sum(-1)
    explained = projection.square().sum(-1) / energy  # rho2
    unexplained = (estimate - projection).square().sum(-1) / energy  # 1 - rho2
    values = 10 * torch.log10((explained + eps) / (unexplained + eps))
    return values.masked_fill(target.eq(0).all(-1), 0)


def stft_magnitude(estimate, target, *, windows, power=0.3, eps=1e-6, floor=1e-2):
    """Likeness in dB of compressed magnitude spectra, (B, S) from (B, S, n); 0 where the targets' sum is silent."""
    level = target.sum(1).square().mean(-1).sqrt()[:, None, None]  # (B, 1, 1)
    scale = torch.where(level > 0, 1 / level.clamp(min=1e-30), 0)
    distances = [_spectral_distance(scale * estimate, scale * target, size, power, eps) for size in windows]
    return torch.where(level[:, 0] > 0, -10 * torch.log10(sum(distances) / len(windows) + floor), 0)


def _spectral_distance(estimate, target, size, power, eps):
    window = torch.hann_window(size, dtype=estimate.dtype)
    window = window / window.square().sum().sqrt()
    before, hop = size - size // 4, size // 4
    frames = (estimate.shape[-1] - 1 + before) // hop + 1
    after = (frames - 1) * hop + size - before - estimate.shape[-1]

    def compressed(x):
        x = F.pad(x.flatten(0, 1), (before, after))
        spectrum = torch.stft(x, size, hop, window=window, center=False, return_complex=True)
        return (spectrum.abs().square() + eps) ** (power / 2)

    return (compressed(estimate) - compressed(target)).square().mean((1, 2)).reshape(estimate.shape[:2])


def si_snr_loss(estimate, target, *, weights=None):
    """Negative SI-SNR of (B, sources, n): mean over the batch, weighted mean over the sources."""
    values = si_snr(estimate, target).mean(0)  # (sources,)
    if weights is None:
        return -values.mean()
    weights = torch.as_tensor(weights, dtype=values.dtype, device=values.device)
    return -(weights * values).sum() / weights.sum()


NORMS = {"gLN": global_layer_norm, "cLN": cumulative_layer_norm, "channel": channel_layer_norm}
MASKS = {"sigmoid": torch.sigmoid, "relu": torch.relu, "softmax": lambda x: x.softmax(1)}


def uniform(*shape, fan_in):
    """A parameter drawn as PyTorch draws a convolution's: uniform within 1 / sqrt(fan_in)."""
    bound = 1 / math.sqrt(fan_in)
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))


class Pointwise(nn.Module):
    """1x1 convolution."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.w = uniform(outputs, inputs, fan_in=inputs)
        self.b = uniform(outputs, fan_in=inputs)

    def forward(self, x):
        return F.conv1d(x, self.w[:, :, None], self.b)


class Depthwise(nn.Module):
    """Dilated convolution of each channel with its own filter."""

    def __init__(self, channels, kernel, dilation, lookahead):
        super().__init__()
        self.dilation, self.lookahead = dilation, lookahead
        self.w = uniform(channels, kernel, fan_in=kernel)
        self.b = uniform(channels, fan_in=kernel)

    def forward(self, x):
        return depthwise(x, self.w, self.b, dilation=self.dilation, lookahead=self.lookahead)


class PReLU(nn.Module):
    """Leaky ReLU with one learned slope for all channels."""

    def __init__(self):
        super().__init__()
        self.alpha = nn.Parameter(torch.full((1,), 0.25))

    def forward(self, x):
        return F.prelu(x, self.alpha)


class Norm(nn.Module):
    """One of the three layer norms, with a gain and an offset per channel."""

    def __init__(self, channels, kind, exact_sums):
        super().__init__()
        self.norm = NORMS[kind]
        self.settings = {"exact_sums": exact_sums} if kind == "cLN" else {}
        self.gamma = nn.Parameter(torch.ones(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x):
        return self.norm(x, self.gamma, self.beta, **self.settings)


class Filters(nn.Module):
    """The filters of the encoder or of a decoder."""

    def __init__(self, filters, length):
        super().__init__()
        self.w = uniform(filters, length, fan_in=length)


class Block(nn.Module):
    """expand -> PReLU -> norm -> depthwise -> PReLU -> norm -> residual and skip (Fig. 1C)."""

    def __init__(self, config, index, exact_sums):
        super().__init__()
        dilation = 2 ** (index % config.blocks)
        sees_ahead = not config.causal or index < config.lookahead_blocks
        lookahead = (config.kernel - 1) * dilation // 2 if sees_ahead else 0
        self.expand = Pointwise(config.bottleneck, config.hidden)
        self.prelu1 = PReLU()
        self.norm1 = Norm(config.hidden, config.norm, exact_sums)
        self.depthwise = Depthwise(config.hidden, config.kernel, dilation, lookahead)
        self.prelu2 = PReLU()
        self.norm2 = Norm(config.hidden, config.norm, exact_sums)
        last = index == config.blocks * config.repeats - 1
        self.residual = None if last else Pointwise(config.hidden, config.bottleneck)
        self.skip = Pointwise(config.hidden, config.skip)

    def forward(self, x):
        """(B, bottleneck, T) -> the next block's input, of the same shape, and the skip."""
        h = self.norm1(self.prelu1(self.expand(x)))
        h = self.norm2(self.prelu2(self.depthwise(h)))
        if self.residual is not None:
            x = x + self.residual(h)
        return x, self.skip(h)


class TorchConvTasNet(nn.Module):
    """The model of `tasnet_np.network.model.ConvTasNet` for the same config."""

    def __init__(self, config, *, exact_sums=True):
        super().__init__()
        self.config = config
        self.hop = config.filter_length // 2
        self.encoder = Filters(config.filters, config.filter_length)
        self.norm = Norm(config.filters, config.norm, exact_sums)
        self.bottleneck = Pointwise(config.filters, config.bottleneck)
        indices = range(config.blocks * config.repeats)
        self.blocks = nn.ModuleList(Block(config, i, exact_sums) for i in indices)
        self.prelu = PReLU()
        self.mask = Pointwise(config.skip, 2 * config.filters)
        if config.decoders == "shared":
            self.decoder = Filters(config.filters, config.filter_length)
        else:
            self.decoder_speech = Filters(config.filters, config.filter_length)
            self.decoder_noise = Filters(config.filters, config.filter_length)

    def forward(self, mixture):
        """(B, n) -> (B, 2, n): speech, noise."""
        n = mixture.shape[-1]
        padded = F.pad(mixture, (self.hop, self.hop + -n % self.hop))
        encoded = F.conv1d(padded[:, None], self.encoder.w[:, None], stride=self.hop)  # (B, N, T)
        if self.config.encoder_activation == "relu":
            encoded = encoded.relu()
        sources = self.decode(self.masks(encoded) * encoded[:, None])
        return sources[..., self.hop : self.hop + n]

    def masks(self, encoded):
        """(B, N, T) -> (B, 2, N, T)."""
        x, total = self.bottleneck(self.norm(encoded)), 0
        for block in self.blocks:
            x, skip = block(x)
            total = total + skip
        logits = self.mask(self.prelu(total)).unflatten(1, (2, self.config.filters))
        return MASKS[self.config.mask_activation](logits)

    def decode(self, masked):
        """(B, 2, N, T) -> (B, 2, padded samples)."""
        if self.config.decoders == "shared":
            w = self.decoder.w[:, None]
            sources = F.conv_transpose1d(masked.flatten(0, 1), w, stride=self.hop)  # (B*2, 1, n)
            return sources.view(-1, 2, sources.shape[-1])
        weights = self.decoder_speech.w[:, None], self.decoder_noise.w[:, None]
        sources = zip(masked.unbind(1), weights)
        return torch.cat([F.conv_transpose1d(x, w, stride=self.hop) for x, w in sources], 1)

    @torch.no_grad()
    def copy_parameters(self, arrays):
        """Take over the parameters of a `tasnet_np` model: a mapping, name -> array."""
        own = dict(self.named_parameters())
        assert own.keys() == arrays.keys(), own.keys() ^ arrays.keys()
        for name, array in arrays.items():
            assert own[name].shape == array.shape, name
            own[name].copy_(torch.from_numpy(array))
