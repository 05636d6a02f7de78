"""Generators and discriminators. Any band count; images are (batch, bands, height, width), around 0–1."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

from trainables.configuration import DiscriminatorSettings, GeneratorSettings


def upsample(lr: Tensor, factor: int) -> Tensor:
    """Bicubic interpolation by `factor`: the picture every generator has to beat."""
    return functional.interpolate(lr, scale_factor=factor, mode="bicubic", align_corners=False)


def downsample(hr: Tensor, factor: int) -> Tensor:
    """Antialiased bicubic reduction by `factor`: how a low-resolution image is made."""
    size = (hr.shape[-2] // factor, hr.shape[-1] // factor)
    return functional.interpolate(hr, size=size, mode="bicubic", align_corners=False, antialias=True)


class _ResidualBlock(nn.Module):
    """Ledig et al. 2017, without its batch normalisation (Lim et al. 2017, EDSR)."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, kernel, padding=kernel // 2),
            nn.PReLU(),
            nn.Conv2d(channels, channels, kernel, padding=kernel // 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        change: Tensor = self.body(x)
        return x + change


class _DenseBlock(nn.Module):
    """Five convolutions, each fed with all before it (ESRGAN, Fig. 4)."""

    def __init__(self, channels: int, growth: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.layers = nn.ModuleList(nn.Conv2d(channels + i * growth, growth, 3, padding=1) for i in range(4))
        self.last = nn.Conv2d(channels + 4 * growth, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self.layers:
            features.append(functional.leaky_relu(layer(torch.cat(features, 1)), 0.2))
        change: Tensor = self.last(torch.cat(features, 1))
        return x + self.scale * change


class _RRDB(nn.Module):
    """Residual in residual dense block."""

    def __init__(self, channels: int, growth: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.blocks = nn.Sequential(*(_DenseBlock(channels, growth, scale) for _ in range(3)))

    def forward(self, x: Tensor) -> Tensor:
        change: Tensor = self.blocks(x)
        return x + self.scale * change


class Generator(nn.Module):
    """Super-resolution network: head, trunk of blocks with a long skip, PixelShuffle tail.

    (batch, bands, h, w) → (batch, bands, h·factor, w·factor). SRResNet without batch normalisation, or RRDB.
    """

    def __init__(self, bands: int, settings: GeneratorSettings) -> None:
        super().__init__()
        channels, small, large = settings.n_channels, settings.small_kernel_size, settings.large_kernel_size
        dense = settings.model_type == "esrgan"
        edge = small if dense else large
        self.factor = settings.scaling_factor
        self.bicubic_skip = settings.bicubic_skip

        def block() -> nn.Module:
            if dense:
                return _RRDB(channels, settings.growth_channels, settings.res_scale)
            return _ResidualBlock(channels, small)

        self.head = nn.Sequential(nn.Conv2d(bands, channels, edge, padding=edge // 2), nn.PReLU())
        self.trunk = nn.Sequential(
            *(block() for _ in range(settings.n_blocks)), nn.Conv2d(channels, channels, small, padding=small // 2)
        )
        tail: list[nn.Module] = []
        for _ in range(int(math.log2(self.factor))):
            up = nn.Conv2d(channels, 4 * channels, small, padding=small // 2)
            if settings.use_icnr:
                _icnr(up)
            tail += [up, nn.PixelShuffle(2), nn.PReLU()]
        last = nn.Conv2d(channels, bands, edge, padding=edge // 2)
        if self.bicubic_skip:  # starts as bicubic itself, not as bicubic plus noise
            nn.init.normal_(last.weight, std=1e-3)
            assert last.bias is not None
            nn.init.zeros_(last.bias)
        self.tail = nn.Sequential(*tail, last)

    def forward(self, lr: Tensor) -> Tensor:
        """Super-resolve."""
        features = self.head(lr)
        sr: Tensor = self.tail(features + self.trunk(features))
        return sr + upsample(lr, self.factor) if self.bicubic_skip else sr


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
        layers: list[nn.Module] = []
        width = bands
        for channels, kernel, stride in plans[settings.model_type]:
            padding = (kernel - 1) // 2
            layers += [nn.Conv2d(width, channels, kernel, stride, padding), nn.LeakyReLU(0.2, inplace=True)]
            width = channels
        if settings.model_type == "patchgan":
            layers.append(nn.Conv2d(width, 1, 3, padding=1))
        else:
            pooled = 6 if settings.model_type == "standard" else 1
            layers += [nn.AdaptiveAvgPool2d(pooled), nn.Flatten(), nn.Linear(width * pooled**2, settings.linear_size)]
            layers += [nn.LeakyReLU(0.2, inplace=True), nn.Linear(settings.linear_size, 1)]
        if settings.use_spectral_norm:
            layers = [spectral_norm(m) if isinstance(m, (nn.Conv2d, nn.Linear)) else m for m in layers]
        self.layers = nn.Sequential(*layers)

    def forward(self, image: Tensor) -> Tensor:
        """Judge."""
        logits: Tensor = self.layers((image - 0.5) * self.gain)
        return logits.flatten(1).mean(1)
