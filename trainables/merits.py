"""Figures of merit of super-resolved images: what each is, its unit, and which way it is better. Knows no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

QUALITY = "quality/"  # before a figure's name, wherever it stands among others
BICUBIC, PRETRAINED, END, TRUTH = "bicubic", "after pretraining", "at the end", "truth"  # images of held-out pairs
TEST = {image: f"{image}, test set" for image in (END, BICUBIC, PRETRAINED)}  # those of test imagery
Quality = Mapping[str, Mapping[str, float]]  # by image, then by figure


class Better(StrEnum):
    """Which way a figure is better."""

    HIGHER = "higher"
    LOWER = "lower"
    ZERO = "nearer to 0"


@dataclass(frozen=True)
class Merit:
    """What a person has to know of a figure; `needs`: of which images it is defined, "" of all."""

    unit: str
    better: Better
    what: str
    needs: str = ""

    def loss(self, value: float) -> float:
        """Return a number that is the smaller, the better the figure."""
        return {Better.HIGHER: -value, Better.LOWER: value, Better.ZERO: abs(value)}[self.better]


_SPECTRA, _DETAIL = "two bands or more", "a true image with detail that LR cannot hold"
_ANY_DETAIL = "detail that LR does not hold, in truth or in the image"
MERITS = {
    "psnr": Merit("dB", Better.HIGHER, "How small the squared error of pixels is."),
    "ssim": Merit("", Better.HIGHER, "How alike local brightness, contrast and structure are; 1: equal."),
    "sam": Merit("°", Better.LOWER, "The angle between the spectra of a pixel: its error of colour.", _SPECTRA),
    "ergas": Merit("", Better.LOWER, "The error in parts of each band's mean.", "bands with a mean other than 0"),
    "spectrum": Merit(
        "dB",
        Better.ZERO,
        "The power of detail finer than LR against truth's: below 0 missing, above 0 invented.",
        _DETAIL,
    ),
    "spectrum_distance": Merit(
        "dB",
        Better.LOWER,
        "How far the power of detail finer than LR is from truth's, frequency by frequency.",
        _DETAIL,
    ),
    "reflectance": Merit(
        "the imagery's", Better.LOWER, "How far values are from LR's when the image is reduced again."
    ),
    "angle": Merit("°", Better.LOWER, "How far spectra are from LR's when the image is reduced again.", _SPECTRA),
    "shift": Merit(
        "LR px",
        Better.LOWER,
        "How far the image is shifted against LR.",
        "LR crops of 8 px or more that are not constant",
    ),
    "improvement": Merit("", Better.HIGHER, "The share of detail that is nearer to truth than LR is.", _ANY_DETAIL),
    "omission": Merit("", Better.LOWER, "The share of detail that stays as LR has it.", _ANY_DETAIL),
    "hallucination": Merit("", Better.LOWER, "The share of detail that neither truth nor LR has.", _ANY_DETAIL),
    "lpips": Merit(
        "",
        Better.LOWER,
        "How far images are apart in AlexNet's features, as people judge it.",
        "crops of 31 px or more",
    ),
    "dists": Merit("", Better.LOWER, "How far structure and texture are apart in VGG16's features."),
}


def flat(quality: Quality) -> dict[str, float]:
    """Return all figures by one name each: `quality/psnr` of the final images, `quality/bicubic/psnr` of others."""
    return {
        f"{QUALITY}{name}" if image == END else f"{QUALITY}{image}/{name}": value
        for image, figures in quality.items()
        for name, value in figures.items()
    }


def loss_of(key: str, quality: Quality, image: str = END) -> float:
    """Return how bad an image is by a figure, as `quality/psnr` names it: smaller is better; nan where it has none."""
    name = key.removeprefix(QUALITY)
    return MERITS[name].loss(quality.get(image, {}).get(name, math.nan))


def short_of(key: str, quality: Quality, floor: float | str) -> float:
    """Return by how much the final images miss a floor, in the figure's unit: a number, or another image's name.

    0 and less where they are as good; nan where either was not measured.
    """
    name = key.removeprefix(QUALITY)
    bound = loss_of(key, quality, floor) if isinstance(floor, str) else MERITS[name].loss(floor)
    return loss_of(key, quality) - bound
