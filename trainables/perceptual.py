"""The perceptual term of the content loss: how far images are apart in a frozen network's features, or in detail.

`vgg` and `lpips` see three bands through networks of photographs, whose published weights this project does not
bring along; `laplacian` sees all bands and needs none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from trainables.errors import InvalidInput, Problem, one_line
from trainables.losses import blur_matrix
from trainables.schema import VGG19, Configuration

VGG, ALEX, HEADS = "vgg19-dcbb9e9d.pth", "alexnet-owt-7be5be79.pth", "alex.pth"  # as they are published
FILES = {"vgg": (VGG,), "lpips": (ALEX, HEADS)}
_GET = "With torchvision installed, `python -c \"import torchvision; torchvision.models.{}(weights='DEFAULT')\"` gets "
HOW = {  # to get the weights
    "vgg": _GET.format("vgg19") + VGG,
    "lpips": _GET.format("alexnet") + f"{ALEX}; the package lpips brings {HEADS}",
}
Network = TypeVar("Network", bound=nn.Module)
OCTAVES = 3  # of detail, the most that a low-resolution image can lack (Generator.scaling_factor 8)


@dataclass(frozen=True)
class Perceptual:
    """Measures how far generated images are from true ones, (n, bands, H, W) both; gradients reach the former alone.

    `bands`, (3,): what a network sees of more than three bands where it is told none; None where all are seen.
    """

    distance: Callable[[Tensor, Tensor], Tensor]
    bands: Tensor | None

    def __call__(self, sr: Tensor, hr: Tensor, bands: Tensor | None = None) -> Tensor:
        """Measure; a network sees these `bands`, (3,)."""
        if self.bands is not None:
            chosen = self.bands if bands is None else bands.long()
            sr, hr = three_bands(sr, chosen), three_bands(hr, chosen)
        return self.distance(sr, hr)


def three_bands(images: Tensor, bands: Tensor) -> Tensor:
    """Return what a network of three bands sees: one band three times, two and the first again, three, or `bands`."""
    if images.shape[1] > 3:  # one by one: what is named twice has its gradients added in the same order each time
        return torch.cat([images.index_select(1, band) for band in bands.split(1)], 1)
    return images if images.shape[1] == 3 else torch.cat([images] * 3, 1)[:, :3]


def bands_at(step: int, configuration: Configuration) -> tuple[int, int, int]:
    """Choose the bands that the update that makes `step` compares: `fixed_idx`, or any three, by (seed, step) alone."""
    losses, count = configuration.Training.Losses, configuration.Model.in_bands
    if losses.fixed_idx is not None or count <= 3 or not losses.perceptual_weight:
        return at_rest(configuration)
    draw = np.random.default_rng([configuration.Training.seed, *b"bands", step])
    first, second, third = draw.choice(count, 3, replace=False).tolist()
    return first, second, third


def at_rest(configuration: Configuration) -> tuple[int, int, int]:
    """Return the bands of every reading, so that readings compare: `fixed_idx`, else the first three."""
    first, second, third = configuration.Training.Losses.fixed_idx or (0, 1, 2)
    return first, second, third


def perceptual_of(configuration: Configuration, device: torch.device) -> Perceptual | None:
    """Return what a configuration's perceptual term measures by, on `device`; None where its weight is 0.

    A network is loaded once a process. InvalidInput where its weights are not to be had.
    """
    losses, truncated = configuration.Training.Losses, configuration.TruncatedVGG
    if not losses.perceptual_weight:
        return None
    if losses.perceptual_metric == "laplacian":
        return Perceptual(laplacian, None)
    depth = (truncated.i, truncated.j) if losses.perceptual_metric == "vgg" else (0, 0)
    kind = torch.bfloat16 if configuration.Training.in_bf16(device.type) else torch.float32
    network = _network(_files(losses.perceptual_metric, losses.perceptual_weights), depth, device, kind)
    return Perceptual(network, torch.tensor(at_rest(configuration), device=device))


@lru_cache(maxsize=1)
def _network(files: tuple[Path, ...], depth: tuple[int, int], device: torch.device, kind: torch.dtype) -> Vgg | Lpips:
    """The network of one file of weights, VGG19 down to `depth`, or of two, LPIPS; its layers work in `kind`."""
    network: Vgg | Lpips
    if len(files) == 1:
        network = Vgg(nn.Sequential(*list(features(files[0], vgg19))[: layers_upto(*depth)]))
    else:
        network = lpips_of(*files)
    network.requires_grad_(False).eval().to(device)
    network.features.to(dtype=kind, memory_format=_layout(device))  # type: ignore[call-overload]  # not in torch's stubs
    return network


def lpips_of(alex: Path, heads: Path) -> Lpips:
    """Load LPIPS from AlexNet's file and that of its own weights; InvalidInput."""
    return Lpips(features(alex, alexnet), list(loaded(heads, _heads).parameters()))


def _layout(device: torch.device) -> torch.memory_format:
    """How weights and images lie in memory for the layers to be fast."""
    return torch.channels_last if device.type == "cuda" else torch.contiguous_format


class Vgg(nn.Module):
    """Mean squared difference of VGG19's features, of images as they are: no mean or deviation of photographs."""

    def __init__(self, features: nn.Sequential) -> None:
        super().__init__()
        self.features = features

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Compare images of three bands."""
        with torch.no_grad():
            wanted = self._seen(hr)
        return functional.mse_loss(self._seen(sr), wanted)

    def _seen(self, images: Tensor) -> Tensor:
        seen: Tensor = self.features(_entering(images, self.features))
        return seen.float()


class Lpips(nn.Module):
    """Learned perceptual distance of images in 0–1 (Zhang et al. 2018), AlexNet, version 0.1.

    After each of five layers: the squared difference of features of length 1, weighted by channel, mean over pixels.
    """

    shift: Tensor
    spread: Tensor

    def __init__(self, features: nn.Sequential, heads: list[Tensor]) -> None:
        super().__init__()
        self.features = features
        for layer, weight in enumerate(heads):
            self.register_buffer(f"head{layer}", weight.detach().float())
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(3, 1, 1))
        self.register_buffer("spread", torch.tensor([0.458, 0.448, 0.450]).view(3, 1, 1))

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Compare images of three bands, in 0–1; the network's own are in ±1."""
        with torch.no_grad():
            wanted = self._seen(hr)
        distances = [
            functional.conv2d((x - y).square(), getattr(self, f"head{layer}")).mean()
            for layer, (x, y) in enumerate(zip(self._seen(sr), wanted, strict=True))
        ]
        return torch.stack(distances).sum()

    def _seen(self, images: Tensor) -> list[Tensor]:
        x = _entering((2 * images - 1 - self.shift) / self.spread, self.features)
        seen = []
        for layer in self.features:
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                whole = x.float()
                # where no channel answers the length is 0, which has no gradient
                length = whole.square().sum(1, keepdim=True).clamp_min(1e-20).sqrt()
                seen.append(whole / (length + 1e-10))
        return seen


def laplacian(sr: Tensor, hr: Tensor) -> Tensor:
    """Return the L1 distance of square images' Laplacian pyramids (Burt & Adelson 1983; Bojanowski et al. 2018, Lap1).

    It is per pixel of each level: a coarser level's pixel counts as much more as it is larger, which is what Lap1's
    factor 4^level does to their sum. The pyramid is linear, so it is that of the difference: OCTAVES levels, where the
    images are large enough, and what remains. Of any bands.
    """
    rest, distances = sr - hr, []
    for reduce, coarse in _levels(sr.shape[-1], sr.device):
        distances.append((rest - coarse @ rest @ coarse.T).abs().mean())
        rest = reduce @ rest @ reduce.T
    return torch.stack([*distances, rest.abs().mean()]).sum()


@lru_cache(maxsize=4)
def _levels(side: int, device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """Of each level the matrices that reduce images of so many pixels, and that reduce and expand them again."""
    bell = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    levels: list[tuple[Tensor, Tensor]] = []
    while len(levels) < OCTAVES and side > len(bell) // 2:
        blur = blur_matrix(side, bell)
        reduce, expand = blur[::2], 2 * blur[:, ::2]
        levels.append((reduce.clone().to(device), (expand @ reduce).to(device)))
        side = len(reduce)
    return levels


def _entering(images: Tensor, features: nn.Sequential) -> Tensor:
    """Images in the precision and layout of the layers."""
    first = features[0]
    assert isinstance(first, nn.Conv2d)
    return images.to(first.weight.dtype, memory_format=_layout(images.device))


def vgg19() -> nn.Sequential:
    """Build VGG19's convolutional layers, numbered as torchvision's (Simonyan & Zisserman 2015, configuration E)."""
    return vgg(VGG19)


def vgg(counts: Sequence[int]) -> nn.Sequential:
    """Build the convolutional layers of a VGG with so many of them in each block, numbered as torchvision's."""
    layers: list[nn.Module] = []
    fan_in = 3
    for fan_out, convolutions in zip((64, 128, 256, 512, 512), counts, strict=True):
        for _ in range(convolutions):
            layers += [nn.Conv2d(fan_in, fan_out, 3, padding=1), nn.ReLU(inplace=True)]
            fan_in = fan_out
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


def layers_upto(i: int, j: int) -> int:
    """Count VGG19's layers up to the ReLU after block `i`'s `j`-th convolution, both from 1."""
    return sum(2 * convolutions + 1 for convolutions in VGG19[: i - 1]) + 2 * j


def alexnet() -> nn.Sequential:
    """Build AlexNet's convolutional layers, numbered as torchvision's (Krizhevsky 2014), without the last pooling."""
    layers: list[nn.Module] = []
    for fan_in, fan_out, kernel, stride, padding, pooled in (
        (3, 64, 11, 4, 2, True), (64, 192, 5, 1, 2, True), (192, 384, 3, 1, 1, False), (384, 256, 3, 1, 1, False),
        (256, 256, 3, 1, 1, False),
    ):  # fmt: skip
        layers += [nn.Conv2d(fan_in, fan_out, kernel, stride, padding), nn.ReLU(inplace=True)]
        layers += [nn.MaxPool2d(3, 2)] * pooled
    return nn.Sequential(*layers)


def _heads() -> nn.ModuleDict:
    """LPIPS's weights of channels, under the names of its file: `lin0.model.1.weight`, …"""
    return nn.ModuleDict({
        f"lin{layer}": nn.ModuleDict({"model": nn.Sequential(nn.Dropout(), nn.Conv2d(channels, 1, 1, bias=False))})
        for layer, channels in enumerate((64, 192, 384, 256, 256))
    })  # fmt: skip


def features(file: Path, build: Callable[[], nn.Sequential]) -> nn.Sequential:
    """Load convolutional layers from a published file; InvalidInput."""
    layers = loaded(file, lambda: nn.ModuleDict({"features": build()}))["features"]
    assert isinstance(layers, nn.Sequential)
    return layers


def loaded(file: Path, build: Callable[[], Network]) -> Network:
    """Build a network with a published file's weights, none missing or left over but `classifier.*`; InvalidInput."""
    with torch.device("meta"):  # nothing is drawn
        network = build()
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
        wanted = {name: value for name, value in state.items() if not name.startswith("classifier.")}
        network.load_state_dict(wanted, strict=True, assign=True)
    except Exception as error:  # what a foreign or broken file makes torch raise is torch's to choose
        key, found = "Training.Losses.perceptual_weights", f"{file}, which is none ({one_line(error)})"
        raise InvalidInput([Problem("", key, found, "weights as they are published")]) from None
    return network


def _files(metric: str, place: str | None) -> tuple[Path, ...]:
    """The published files of a metric's weights: at the place that is stated, else where their packages put them."""
    names = FILES[metric]
    if place is not None and Path(place).is_file() and len(names) == 1:
        return (Path(place),)
    folders = [Path(place)] if place is not None else [Path(torch.hub.get_dir()) / "checkpoints", *_of_lpips()]
    found = {name: next((folder / name for folder in folders if (folder / name).is_file()), None) for name in names}
    files = tuple(file for file in found.values() if file is not None)
    if len(files) < len(names):
        missing = " and ".join(name for name, file in found.items() if file is None)
        key = "Training.Losses." + ("perceptual_metric" if place is None else "perceptual_weights")
        said = f"{metric}, and no {missing} in {' or '.join(map(str, folders))}"
        fix = f"{HOW[metric]}; laplacian needs no file, and perceptual_weight: 0 no metric."
        raise InvalidInput([Problem("", key, said, "the published weights of its network", fix)])
    return files


def _of_lpips() -> list[Path]:
    """Where the package lpips, if it is installed, keeps its weights."""
    package = find_spec("lpips")
    places = package.submodule_search_locations if package is not None else None
    return [Path(place) / "weights" / "v0.1" for place in places or []]
