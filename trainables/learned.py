"""Learned distances that judge images at the end: LPIPS and DISTS, where their published weights lie in a folder."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainables.errors import InvalidInput, Problem
from trainables.normalization import normalization_of
from trainables.perceptual import ALEX, HEADS, Perceptual, at_rest, features, loaded, lpips_of, vgg
from trainables.schema import Configuration

KEY = "Logging.metric_weights"
VGG16, DISTS = "vgg16-397923af.pth", "weights.pt"  # as they are published, the latter by the package dists-pytorch
FILES = {"lpips": (ALEX, HEADS), "dists": (VGG16, DISTS)}
CHANNELS = 1475  # of DISTS: the image's and those after each block
SMALLEST = {"lpips": 31, "dists": 1}  # px of a side: AlexNet has nothing left of less
BLOCKS = (2, 2, 3, 3, 3)  # convolutions of VGG16 (Simonyan & Zisserman 2015, configuration D)


def learned_of(configuration: Configuration, device: torch.device) -> dict[str, Perceptual]:
    """Return the distances whose files a configuration names, by their names in FILES; `Scale.learned` takes them.

    Of more than three bands they see those of every reading. InvalidInput where no distance is complete or a file is
    broken.
    """
    place = configuration.Logging.metric_weights
    if place is None:
        return {}
    signed = normalization_of(configuration.Data, 0.0, 1.0).signed
    return learned_at(Path(place), device, at_rest(configuration), signed)


def learned_at(
    folder: Path, device: torch.device, bands: tuple[int, int, int] = (0, 1, 2), signed: bool = False
) -> dict[str, Perceptual]:
    """Return the distances whose files are in a folder, by their names in FILES.

    Of more than three bands they see these; of images that are too small a distance is NaN. `signed`: a network's
    values are in ±1. InvalidInput, naming KEY, where no distance is complete or a file is broken.
    """
    found = {name: [folder / file for file in files] for name, files in FILES.items()}
    complete = {name: files for name, files in found.items() if all(file.is_file() for file in files)}
    if not complete:
        expected = " or ".join(f"{name}'s {' and '.join(files)}" for name, files in FILES.items())
        found_there = f"{folder}, which has neither" if folder.is_dir() else f"{folder}, which is no folder"
        raise InvalidInput([Problem("", KEY, found_there, expected, "Put them there, or take the key out.")])
    networks = {"lpips": lpips_of, "dists": dists_of}
    try:
        judges = {name: _Judge(networks[name](*files), SMALLEST[name], signed) for name, files in complete.items()}
    except InvalidInput as error:
        raise InvalidInput([replace(problem, key=KEY) for problem in error.problems]) from None
    seen = torch.tensor(bands, device=device)
    return {name: Perceptual(judge.requires_grad_(False).eval().to(device), seen) for name, judge in judges.items()}


class _Judge(nn.Module):
    """A distance of images in 0–1, measured of a network's values; NaN under `smallest` px."""

    def __init__(self, distance: nn.Module, smallest: int, signed: bool) -> None:
        super().__init__()
        self.distance, self.smallest, self.signed = distance, smallest, signed

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        if min(hr.shape[-2:]) < self.smallest:
            return hr.new_full((), math.nan)
        if self.signed:
            sr, hr = (sr + 1) / 2, (hr + 1) / 2
        distance: Tensor = self.distance(sr, hr)
        return distance


def dists_of(vgg16: Path, weights: Path) -> Dists:
    """Load DISTS from VGG16's file and that of its own weights; InvalidInput."""
    own = loaded(
        weights, lambda: nn.ParameterDict({name: torch.empty(1, CHANNELS, 1, 1) for name in ("alpha", "beta")})
    )
    return Dists(features(vgg16, lambda: vgg(BLOCKS)), own["alpha"], own["beta"])


class Dists(nn.Module):
    """Structure and texture similarity of images in 0–1 (Ding et al. 2020), VGG16, as a distance.

    Of the image itself and the features after each block: per channel, the similarity of the means (texture, weighted
    by alpha) and of the covariance to the variances (structure, by beta).
    """

    alpha: Tensor
    beta: Tensor
    mean: Tensor
    deviation: Tensor

    def __init__(self, layers: nn.Sequential, alpha: Tensor, beta: Tensor) -> None:
        super().__init__()
        self.layers = layers
        whole = (alpha.sum() + beta.sum()).detach()
        self.register_buffer("alpha", alpha.detach().flatten() / whole)
        self.register_buffer("beta", beta.detach().flatten() / whole)
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1))
        self.register_buffer("deviation", torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1))

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Compare images of three bands, in 0–1."""
        textures, structures = [], []
        for x, y in zip(self._seen(sr), self._seen(hr), strict=True):
            means = x.mean((2, 3)), y.mean((2, 3))
            x, y = (image - mean[..., None, None] for image, mean in zip((x, y), means, strict=True))
            textures.append(_similarity(means[0] * means[1], means[0].square() + means[1].square()))
            structures.append(_similarity((x * y).mean((2, 3)), (x.square() + y.square()).mean((2, 3))))
        alike = torch.cat(textures, 1) @ self.alpha + torch.cat(structures, 1) @ self.beta
        return 1 - alike.mean()

    def _seen(self, images: Tensor) -> list[Tensor]:
        """The image, and VGG16's features before each pooling, which is here by the root mean square."""
        images = images.float()
        seen, x = [images], (images - self.mean) / self.deviation
        for layer in self.layers:
            if isinstance(layer, nn.MaxPool2d):
                seen.append(x)
                x = _pooled(x)
            else:
                x = layer(x)
        return seen


def _similarity(both: Tensor, each: Tensor) -> Tensor:
    return (2 * both + 1e-6) / (each + 1e-6)


def _pooled(x: Tensor) -> Tensor:
    """Half as large, the root of squares under a Hann window of 3 × 3 (Hénaff & Simoncelli 2016)."""
    bell = x.new_tensor([0.25, 0.5, 0.25])
    window = (bell[:, None] * bell).expand(x.shape[1], 1, 3, 3)
    return (functional.conv2d(x.square(), window, stride=2, padding=1, groups=x.shape[1]) + 1e-12).sqrt()
