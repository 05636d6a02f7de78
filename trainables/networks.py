"""Generators and discriminators. Any band count; images are (batch, bands, height, width), around 0–1."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrize import register_parametrization

from trainables.gpu import dense, layers, precision
from trainables.schema import DiscriminatorSettings, GeneratorSettings


def upsample(lr: Tensor, factor: int) -> Tensor:
    """Interpolate bicubically by `factor`: the picture every generator has to beat."""
    return functional.interpolate(lr, scale_factor=factor, mode="bicubic", align_corners=False)


def downsample(hr: Tensor, factor: int) -> Tensor:
    """Reduce by `factor`, bicubic and antialiased: how a low-resolution image is made."""
    size = (hr.shape[-2] // factor, hr.shape[-1] // factor)
    return functional.interpolate(hr, size=size, mode="bicubic", align_corners=False, antialias=True)


class _Layer(nn.Module):
    """A convolution and what follows it: PixelShuffle by 2, activation (PReLU, leaky ReLU or none), a skip."""

    def __init__(
        self,
        fan_in: int,
        fan_out: int,
        kernel: int,
        stride: int = 1,
        *,
        activation: Literal["prelu", "leaky"] | None = None,
        shuffle: bool = False,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(fan_in, fan_out, kernel, stride, (kernel - 1) // 2)
        self.activation = nn.PReLU() if activation == "prelu" else None
        self.leaky = activation == "leaky"
        self.shuffle = shuffle

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        slope = self.activation.weight if self.activation is not None else 0.2 if self.leaky else None
        if not x.is_cuda:  # with its bias a convolution is faster there
            return layers.follow(self.conv(x), slope, skip, self.shuffle)
        return layers.layer(x, self.conv, slope, skip, self.shuffle)


class _Residual(nn.Module):
    """Ledig et al. 2017, without its batch normalisation (Lim et al. 2017, EDSR)."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.first = _Layer(channels, channels, kernel, activation="prelu")
        self.second = _Layer(channels, channels, kernel)

    def forward(self, x: Tensor) -> Tensor:
        image: Tensor = self.second(self.first(x), skip=x)
        return image


class _DenseTrunk(nn.Module):
    """Residual in residual dense blocks (ESRGAN, Fig. 4): of five convolutions each is fed with all before it.

    All weights of a dense block are one row of `weight`, in `dense.offsets`' order; (3·blocks, …).
    """

    def __init__(self, blocks: int, channels: int, growth: int, scale: float) -> None:
        super().__init__()
        self.channels, self.growth, self.scale = channels, growth, scale
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

    def forward(self, x: Tensor) -> Tensor:
        if dense.usable(x, self.channels, self.growth):
            image: Tensor = dense.trunk(x, self.weight, self.bias, self.growth, self.scale)
            return image
        for block, (weight, bias) in enumerate(zip(self.weight.to(x.dtype), self.bias.to(x.dtype), strict=True)):
            if block % 3 == 0:
                around = x
            x = x + self.scale * self._block(x, weight, bias)
            if block % 3 == 2:
                x = around + self.scale * x
        return x

    def _block(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        features = x
        for layer in range(dense.LAYERS):
            part = weight[self.offsets[layer] : self.offsets[layer + 1]]
            kernel = part.view(-1, 3, 3, features.shape[1]).permute(0, 3, 1, 2)
            begin = layer * self.growth
            y = functional.conv2d(features, kernel, bias[begin : begin + len(kernel)], padding=1)
            if layer < dense.LAYERS - 1:
                features = torch.cat([features, functional.leaky_relu(y, dense.SLOPE)], 1)
        return y


class Generator(nn.Module):
    """Super-resolution network: head, trunk of blocks with a long skip, PixelShuffle tail.

    (batch, bands, h, w) → (batch, bands, h·factor, w·factor). SRResNet without batch normalisation, or RRDB.
    """

    def __init__(self, bands: int, settings: GeneratorSettings) -> None:
        super().__init__()
        channels, small, large = settings.n_channels, settings.small_kernel_size, settings.large_kernel_size
        rrdb = settings.model_type == "esrgan"
        edge = small if rrdb else large
        self.factor = settings.scaling_factor
        self.bicubic_skip = settings.bicubic_skip
        self.head = _Layer(bands, channels, edge, activation="prelu")
        self.trunk: nn.Module
        if rrdb:
            self.trunk = _DenseTrunk(settings.n_blocks, channels, settings.growth_channels, settings.res_scale)
        else:
            self.trunk = nn.Sequential(*(_Residual(channels, small) for _ in range(settings.n_blocks)))
        self.join = _Layer(channels, channels, small)
        self.up = nn.Sequential()
        for _ in range(int(math.log2(self.factor))):
            up = _Layer(channels, 4 * channels, small, activation="prelu", shuffle=True)
            if settings.use_icnr:
                _icnr(up.conv)
            self.up.append(up)
        if rrdb:  # RRDBNet convolves once more at full resolution
            self.up.append(_Layer(channels, channels, small, activation="leaky"))
        self.last = _Layer(channels, bands, edge)
        if self.bicubic_skip:  # starts as bicubic itself, not as bicubic plus noise
            nn.init.normal_(self.last.conv.weight, std=1e-3)
            assert self.last.conv.bias is not None
            nn.init.zeros_(self.last.conv.bias)

    def forward(self, lr: Tensor) -> Tensor:
        """Super-resolve."""
        features = self.head(precision.enter(lr))
        features = self.join(self.trunk(features), skip=features)
        sr: Tensor = self.last(self.up(features))
        return sr.float() + upsample(lr, self.factor) if self.bicubic_skip else sr


def _icnr(up: nn.Conv2d) -> None:
    """Start PixelShuffle as nearest-neighbour upsampling (Aitken et al. 2017): no checkerboard."""
    with torch.no_grad():
        first = up.weight[::4].clone()
        up.weight.copy_(first.repeat_interleave(4, dim=0))
        assert up.bias is not None
        up.bias.copy_(up.bias[::4].clone().repeat_interleave(4))


class Discriminator(nn.Module):
    """Real or generated? (batch, bands, H, W) → (batch,) logits. No batch normalisation.

    `standard` (Ledig et al. 2017) and `esrgan` (Wang et al. 2018) end in two linear layers; `patchgan`
    (Isola et al. 2017) judges patches, and its answer for an image is the mean of their logits.
    """

    def __init__(self, bands: int, settings: DiscriminatorSettings) -> None:
        super().__init__()
        self.gain = 2 * settings.input_range
        base, blocks = settings.base_channels, settings.n_blocks
        plans = {
            "standard": [(base, 3, 1)] + [(base * 2 ** min(i // 2, 3), 3, 1 + i % 2) for i in range(1, blocks)],
            "esrgan": [(base, 3, 1), (base, 4, 2)]
            + [(base * 2**i, kernel, stride) for i in range(1, 5) for kernel, stride in ((3, 1), (4, 2))],
            "patchgan": [(base * 2 ** min(i, 3), 4, 2) for i in range(blocks)] + [(base * 2 ** min(blocks, 3), 3, 1)],
        }
        body, head = nn.Sequential(), nn.Sequential()
        width = bands
        for channels, kernel, stride in plans[settings.model_type]:
            body.append(_Layer(width, channels, kernel, stride, activation="leaky"))
            width = channels
        if settings.model_type == "patchgan":
            body.append(_Layer(width, 1, 3))
        else:
            pooled = 6 if settings.model_type == "standard" else 1
            head.append(nn.AdaptiveAvgPool2d(pooled))
            head.append(nn.Flatten())
            head.append(_Linear(width * pooled**2, settings.linear_size))
            head.append(nn.LeakyReLU(0.2, inplace=True))
            head.append(_Linear(settings.linear_size, 1))
        self.body, self.head = body, head
        if settings.use_spectral_norm:
            for module in [m for m in self.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]:
                register_parametrization(module, "weight", precision.SpectralNorm(module.weight))

    def forward(self, image: Tensor) -> Tensor:
        """Judge."""
        logits: Tensor = self.head(self.body(precision.enter((image - 0.5) * self.gain)))
        return logits.flatten(1).mean(1)


class _Linear(nn.Linear):
    """Takes half-precision images with a bias kept whole."""

    def forward(self, x: Tensor) -> Tensor:
        assert self.bias is not None
        return functional.linear(x, self.weight, self.bias.to(x.dtype))
