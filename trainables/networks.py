"""Generators and discriminators. Any band count; images are (batch, bands, height, width), around 0–1.

The families are opensr-srgan's, with its initialisations; `names.py` has its names of their weights.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrize import register_parametrization

from trainables.gpu import dense, layers, norms, precision
from trainables.gpu.noise import normal
from trainables.schema import SQUEEZE, DiscriminatorSettings, GeneratorSettings

BLOCK_SCALE = 0.2  # of what a block adds, in all but the standard and the plain one
NORMS: dict[str, type[norms.Norm]] = {"batch": nn.BatchNorm2d, "instance": nn.InstanceNorm2d}


def upsample(lr: Tensor, factor: int) -> Tensor:
    """Interpolate bicubically by `factor`: the picture every generator has to beat."""
    return functional.interpolate(lr, scale_factor=factor, mode="bicubic", align_corners=False)


def downsample(hr: Tensor, factor: int, antialias: bool = True) -> Tensor:
    """Reduce by `factor`, bicubic and antialiased or not: how a low-resolution image is made."""
    size = (hr.shape[-2] // factor, hr.shape[-1] // factor)
    return functional.interpolate(hr, size=size, mode="bicubic", align_corners=False, antialias=antialias)


class _Layer(nn.Module):
    """A convolution and what follows it: norm or PixelShuffle by 2, activation (PReLU, leaky ReLU or none), a skip.

    `gain` is a factor of a convolution without norm, its bias included.
    """

    def __init__(
        self,
        fan_in: int,
        fan_out: int,
        kernel: int,
        stride: int = 1,
        *,
        activation: Literal["prelu", "leaky"] | None = None,
        shuffle: bool = False,
        norm: Literal["batch", "instance"] | None = None,
        padding: int | None = None,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.conv = _Conv(fan_in, fan_out, kernel, stride, (kernel - 1) // 2 if padding is None else padding)
        self.norm = NORMS[norm](fan_out) if norm else None
        self.activation = nn.PReLU() if activation == "prelu" else None
        self.leaky = activation == "leaky"
        self.shuffle, self.gain = shuffle, gain

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        slope = self.activation.weight if self.activation is not None else 0.2 if self.leaky else None
        if self.norm is not None:
            if norms.normalises(x, self.norm):
                raw = functional.conv2d(x, self.conv.weight, None, self.conv.stride, self.conv.padding)
                return norms.normalise(raw, self.conv, self.norm, slope, skip)
            return layers.follow(self.norm(self.conv(x)), slope, skip, shuffle=False)
        if x.is_cuda:  # with its bias a convolution is faster on a CPU
            return layers.layer(x, self.conv, slope, skip, self.shuffle, self.gain)
        y: Tensor = self.conv(x)
        return layers.follow(y if self.gain == 1 else y * self.gain, slope, skip, self.shuffle)


class _Residual(nn.Module):
    """Two convolutions beside a skip (Ledig et al. 2017), normalised or not (Lim et al. 2017, EDSR)."""

    def __init__(self, channels: int, kernel: int, *, norm: bool = False, scale: float = 1.0) -> None:
        super().__init__()
        kind: Literal["batch"] | None = "batch" if norm else None
        self.first = _Layer(channels, channels, kernel, activation="prelu", norm=kind)
        self.second = _Layer(channels, channels, kernel, norm=kind, gain=scale)

    def forward(self, x: Tensor) -> Tensor:
        image: Tensor = self.second(self.first(x), skip=x)
        return image


class ChannelAttention(nn.Module):
    """Two convolutions whose channels are weighed by their means (Zhang et al. 2018, RCAN)."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.first = _Layer(channels, channels, kernel, activation="prelu")
        self.second = _Layer(channels, channels, kernel)
        self.squeeze = _Conv(channels, channels // SQUEEZE, 1)
        self.excite = _Conv(channels // SQUEEZE, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Weigh what two convolutions add; (batch, channels, h, w)."""
        y = self.second(self.first(x))
        weights = self.excite(functional.relu(self.squeeze(y.mean((2, 3), keepdim=True)))).sigmoid()
        image: Tensor = x + BLOCK_SCALE * y * weights
        return image


class _LargeKernel(nn.Module):
    """Two convolutions around an attention of a large kernel, decomposed (Guo et al. 2022, eq. 3)."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.first = _Layer(channels, channels, kernel, activation="prelu")
        self.near = _Conv(channels, channels, 5, padding=2, groups=channels)
        self.far = _Conv(channels, channels, 7, padding=9, dilation=3, groups=channels)
        self.mix = _Conv(channels, channels, 1)
        self.second = _Layer(channels, channels, kernel, gain=BLOCK_SCALE)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        image: Tensor = self.second(y * self.mix(self.far(self.near(y))).sigmoid(), skip=x)
        return image


class _Noisy(nn.Module):
    """A residual block whose features a noise vector scales and shifts (Perez et al. 2018, FiLM)."""

    def __init__(self, channels: int, kernel: int, noise: int, scale: float) -> None:
        super().__init__()
        self.first = _Layer(channels, channels, kernel)
        self.activation = nn.PReLU()
        self.second = _Layer(channels, channels, kernel, gain=scale)
        self.hidden, self.film = _Linear(noise, channels), _Linear(channels, 2 * channels)

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        scales, shifts = self.film(functional.silu(self.hidden(noise)))[..., None, None].chunk(2, 1)
        y = self.first(x) * (1 + scales) + shifts
        image: Tensor = self.second(functional.prelu(y, self.activation.weight.to(y.dtype)), skip=x)
        return image


class _NoisyTrunk(nn.ModuleList):
    """Blocks under one draw of noise a forward pass.

    In training each pass has its own, by a count that is saved with the weights; in evaluation an image's depends on
    its place in the batch alone, so that what is measured does not depend on luck.
    """

    count: Tensor

    def __init__(self, blocks: int, channels: int, kernel: int, noise: int, scale: float) -> None:
        super().__init__(_Noisy(channels, kernel, noise, scale) for _ in range(blocks))
        self.noise = noise
        self.register_buffer("count", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        if noise is None:
            if self.training:
                self.count += 1
            noise = normal(self.count * self.training, len(x), self.noise)
        for block in self:
            x = block(x, noise.to(x.dtype))
        return x


class _DenseTrunk(nn.Module):
    """Residual in residual dense blocks (ESRGAN, Fig. 4): of five convolutions each is fed with all before it.

    Without `inner` a dense block has no skip of its own. All weights of a dense block are one row of `weight`, in
    `dense.offsets`' order; (3·blocks, …).
    """

    def __init__(self, blocks: int, channels: int, growth: int, scale: float, *, inner: bool) -> None:
        super().__init__()
        self.channels, self.growth, self.scale, self.inner = channels, growth, scale, inner
        self.offsets = dense.offsets(channels, growth)
        weights, biases = [], []
        for _ in range(3 * blocks):
            layers = [
                nn.Conv2d(channels + i * growth, growth if i < 4 else channels, 3, padding=1)
                for i in range(dense.LAYERS)
            ]
            weights.append(torch.cat([layer.weight.permute(0, 2, 3, 1).flatten() for layer in layers]))
            biases.append(torch.cat([layer.bias for layer in layers if layer.bias is not None]))
        self.weight = nn.Parameter(torch.stack(weights).detach())
        self.bias = nn.Parameter(torch.stack(biases).detach())

    def kernel(self, weight: Tensor, layer: int) -> Tensor:
        """A view of a row of `weight`: a layer's, (out, in, 3, 3)."""
        part = weight[self.offsets[layer] : self.offsets[layer + 1]]
        return part.view(-1, 3, 3, self.channels + layer * self.growth).permute(0, 3, 1, 2)

    def shift(self, bias: Tensor, layer: int) -> Tensor:
        """A view of a row of `bias`: a layer's, (out,)."""
        return bias[layer * self.growth :] if layer == dense.LAYERS - 1 else bias[layer * self.growth :][: self.growth]

    def forward(self, x: Tensor) -> Tensor:
        if dense.usable(x, self.channels, self.growth):
            image: Tensor = dense.trunk(x, self.weight, self.bias, self.growth, self.scale, self.inner)
            return image
        for block, (weight, bias) in enumerate(zip(self.weight.to(x.dtype), self.bias.to(x.dtype), strict=True)):
            if block % 3 == 0:
                around = x
            y = self._block(x, weight, bias)
            x = x + self.scale * y if self.inner else y
            if block % 3 == 2:
                x = around + self.scale * x
        return x

    def _block(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        features = x
        for layer in range(dense.LAYERS):
            y = functional.conv2d(features, self.kernel(weight, layer), self.shift(bias, layer), padding=1)
            if layer < dense.LAYERS - 1:
                features = torch.cat([features, functional.leaky_relu(y, dense.SLOPE)], 1)
        return y


def _trunk(settings: GeneratorSettings) -> nn.Module:
    """The blocks of a generator."""
    channels, kernel, count = settings.n_channels, settings.small_kernel_size, settings.n_blocks
    if settings.model_type == "esrgan":
        growth, scale = settings.growth_channels, settings.res_scale
        return _DenseTrunk(count, channels, growth, scale, inner=settings.inner_residual)
    if settings.model_type == "stochasticgan":
        return _NoisyTrunk(count, channels, kernel, settings.noise_dim, settings.res_scale)
    if settings.block_type == "rrdb":
        growth = max(16, channels // 3)
        return _DenseTrunk(count, channels, growth, BLOCK_SCALE, inner=settings.inner_residual)
    blocks: dict[str, Callable[[], nn.Module]] = {
        "standard": lambda: _Residual(channels, kernel, norm=True),
        "plain": lambda: _Residual(channels, kernel),
        "res": lambda: _Residual(channels, kernel, scale=BLOCK_SCALE),
        "rcab": lambda: ChannelAttention(channels, kernel),
        "lka": lambda: _LargeKernel(channels, kernel),
    }
    return nn.Sequential(*(blocks[settings.block_type]() for _ in range(count)))


class Generator(nn.Module):
    """Super-resolution network: head, trunk of blocks with a long skip, PixelShuffle tail.

    (batch, bands, h, w) → (batch, bands, h·factor, w·factor).
    """

    def __init__(self, bands: int, settings: GeneratorSettings) -> None:
        super().__init__()
        channels, small = settings.n_channels, settings.small_kernel_size
        rrdb = settings.model_type == "esrgan"  # RRDBNet: 3 × 3 everywhere (Wang et al. 2018)
        standard = settings.model_type == "srresnet" and settings.block_type == "standard"
        edge = 3 if rrdb else settings.large_kernel_size
        self.factor = settings.scaling_factor
        self.bicubic_skip = settings.bicubic_skip
        self.tanh = standard
        self.head = _Layer(bands, channels, edge, activation=None if rrdb else "prelu")
        self.trunk = _trunk(settings)
        self.join = _Layer(channels, channels, 3 if rrdb else small, norm="batch" if standard else None)
        kernel = small if settings.keeps_small_kernel else 3
        doublings = [
            _Layer(channels, 4 * channels, kernel, activation="prelu", shuffle=True)
            for _ in range(int(math.log2(self.factor)))
        ]
        self.up = nn.Sequential(*doublings)
        if rrdb:  # it convolves once more at full resolution
            self.up.append(_Layer(channels, channels, 3, activation="leaky"))
        self.last = _Layer(channels, bands, edge)
        if rrdb:
            _start_small(self)
        for layer in doublings if settings.use_icnr and settings.takes_icnr else []:
            _icnr(layer.conv, kaiming=rrdb)
        if self.bicubic_skip:  # starts as bicubic itself, not as bicubic plus noise
            nn.init.normal_(self.last.conv.weight, std=1e-3)
            assert self.last.conv.bias is not None
            nn.init.zeros_(self.last.conv.bias)

    def forward(self, lr: Tensor, noise: Tensor | None = None) -> Tensor:
        """Super-resolve; `noise`, (batch, noise_dim), is for a stochastic generator and drawn where it is not given."""
        features = self.head(precision.enter(lr))
        deep = self.trunk(features) if noise is None else self.trunk(features, noise)
        sr: Tensor = self.last(self.up(self.join(deep, skip=features)))
        if self.tanh:
            sr = sr.tanh()
        return sr.float() + upsample(lr, self.factor) if self.bicubic_skip else sr


def spared(network: nn.Module) -> set[str]:
    """Name the parameters that weight decay spares: biases, and the weights of norms."""
    norms = {f"{name}.weight" for name, part in network.named_modules() if isinstance(part, nn.BatchNorm2d)}
    return norms | {name for name, _ in network.named_parameters() if name.endswith("bias")}


def _start_small(network: Generator) -> None:
    """Kaiming's normal weights over ten, biases of zero, in all convolutions but those before a PixelShuffle (ESRGAN).

    Small weights keep residuals of residuals small at the start (Wang et al. 2018, section 3.1).
    """
    with torch.no_grad():
        trunk = network.trunk
        for layer in network.modules():
            if isinstance(layer, _Layer) and not layer.shuffle:
                _kaiming(layer.conv.weight, 0.1)
                assert layer.conv.bias is not None
                layer.conv.bias.zero_()
        assert isinstance(trunk, _DenseTrunk)
        for row, index in itertools.product(trunk.weight, range(dense.LAYERS)):
            _kaiming(trunk.kernel(row, index), 0.1)
        trunk.bias.zero_()


def _kaiming(weight: Tensor, scale: float = 1.0) -> None:
    """He et al. 2015, eq. 10 with a leaky slope of 0.2."""
    fresh = torch.empty(weight.shape)
    nn.init.kaiming_normal_(fresh, a=0.2)
    weight.copy_(scale * fresh)


def _icnr(up: nn.Conv2d, *, kaiming: bool) -> None:
    """Start PixelShuffle as nearest-neighbour upsampling (Aitken et al. 2017): no checkerboard."""
    with torch.no_grad():
        assert up.bias is not None
        first, bias = up.weight[::4].clone(), up.bias[::4].clone()
        if kaiming:
            _kaiming(first)
            bias.zero_()
        up.weight.copy_(first.repeat_interleave(4, dim=0))
        up.bias.copy_(bias.repeat_interleave(4))


class Discriminator(nn.Module):
    """Real or generated? (batch, bands, H, W) → (batch, k) logits, of patches or one of the image.

    `standard` (Ledig et al. 2017) and `esrgan` (Wang et al. 2018) end in two linear layers; `patchgan`
    (Isola et al. 2017) judges patches. Without `norm` nothing an image is judged by depends on the others of its batch.
    """

    def __init__(self, bands: int, settings: DiscriminatorSettings) -> None:
        super().__init__()
        self.input_range, self.norm = settings.input_range, settings.norm
        self.per_patch = settings.per_patch and settings.model_type == "patchgan"
        plan = _plan(settings)
        body, head, width = nn.Sequential(), nn.Sequential(), bands
        kind: Literal["batch", "instance"] = "instance" if settings.model_type == "patchgan" else "batch"
        for index, (channels, kernel, stride, padding) in enumerate(plan):
            normed = kind if settings.norm and index > 0 else None
            body.append(_Layer(width, channels, kernel, stride, activation="leaky", norm=normed, padding=padding))
            width = channels
        if settings.model_type == "patchgan":
            body.append(_Layer(width, 1, plan[-1][1], padding=1))
        else:
            pooled = 6 if settings.model_type == "standard" else 1
            head.append(nn.AdaptiveAvgPool2d(pooled))
            head.append(nn.Flatten())
            head.append(_Linear(width * pooled**2, settings.width_of_linear))
            head.append(nn.LeakyReLU(0.2, inplace=True))
            head.append(_Linear(settings.width_of_linear, 1))
        self.body, self.head = body, head
        if settings.has_spectral_norm:
            for module in [m for m in self.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]:
                register_parametrization(module, "weight", precision.SpectralNorm(module.weight))

    @property
    def apart(self) -> bool:
        """Whether real and generated images are judged apart, in training mode: so opensr-srgan normalises them."""
        return self.norm

    def forward(self, image: Tensor) -> Tensor:
        """Judge: (batch, k) logits, k the patches of an image where each is judged, else 1."""
        if self.input_range is not None:
            image = (image - 0.5) * (2 * self.input_range)
        logits: Tensor = self.head(self.body(precision.enter(image))).flatten(1)
        return logits if self.per_patch else logits.mean(1, keepdim=True)


def _plan(settings: DiscriminatorSettings) -> list[tuple[int, int, int, int]]:
    """Channels, kernel, stride and padding of the layers before a discriminator's last ones."""
    base, blocks = settings.width, settings.n_blocks
    if settings.model_type == "standard":
        return [(base * 2 ** (i // 2), 3, 1 + i % 2, 1) for i in range(blocks)]
    if settings.model_type == "esrgan":
        return [(base * 2**i, kernel, stride, kernel // 2) for i in range(5) for kernel, stride in ((3, 1), (4, 2))]
    tail = 4 if settings.norm else 3
    return [*((base * 2 ** min(i, 3), 4, 2, 1) for i in range(blocks)), (base * 2 ** min(blocks, 3), tail, 1, 1)]


class _Conv(nn.Conv2d):  # takes half-precision images with a bias kept whole
    def forward(self, x: Tensor) -> Tensor:
        assert self.bias is not None
        image: Tensor = self._conv_forward(x, self.weight, self.bias.to(x.dtype))
        return image


class _Linear(nn.Linear):  # the same
    def forward(self, x: Tensor) -> Tensor:
        assert self.bias is not None
        return functional.linear(x, self.weight, self.bias.to(x.dtype))
