"""What a finished training's images are worth: all figures of merit, the power spectra, the pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from trainables.imagery import Imagery, Pairs
from trainables.learned import learned_of
from trainables.merits import BICUBIC, END, PRETRAINED, TEST, TRUTH, Quality
from trainables.pictures import Sheet, drawn, maps, sheet
from trainables.quality import correctness, measure, medians
from trainables.spectra import radial_spectrum
from trainables.state import State
from trainables.validation import scale_of, super_resolve


@dataclass(frozen=True)
class Worth:
    """What was measured of the images, by image and figure, and what is drawn of them; no sheets without pictures."""

    quality: Quality
    spectra: dict[str, Any]  # frequencies, cycles a pixel; LR's Nyquist frequency; power by image, dB
    columns: list[str]  # of `sheet`
    sheet: Sheet | None
    maps: Sheet | None  # of `sheet`'s columns between LR and HR: where each omits and invents


def worth_of(state: State, imagery: Imagery) -> Worth:
    """Measure and draw bicubic's images, those after pretraining (where there was one), and those at the end.

    Medians of all held-out pairs; and of the test pairs, where there are any.
    """
    configuration, pairs = state.configuration, imagery.pairs
    count, learned = configuration.Logging.num_val_images, learned_of(configuration, pairs.lr.device)
    scale = replace(scale_of(configuration, imagery), learned=learned)
    images = _images(state, pairs)
    quality = {name: medians(measure(sr, pairs.lr, pairs.hr, scale)) for name, sr in images.items()}
    if (test := imagery.test) is not None:
        tested = _images(state, test).items()
        quality |= {TEST[name]: medians(measure(sr, test.lr, test.hr, scale)) for name, sr in tested}
    spectra = _spectra(images | {TRUTH: pairs.hr}, imagery.factor)
    if not count:
        return Worth(quality, spectra, [], None, None)
    chosen = drawn(imagery, count)
    shown = {name: sr[chosen] for name, sr in images.items()}
    shares = [correctness(sr, pairs.lr[chosen], pairs.hr[chosen], scale) for sr in shown.values()]
    mapped = maps([(share["omission"], share["hallucination"]) for share in shares])
    return Worth(quality, spectra, ["LR", *shown, "HR"], sheet([*shown.values()], imagery, chosen), mapped)


def _images(state: State, pairs: Pairs) -> dict[str, Tensor]:
    """All images of pairs: bicubic's, after pretraining, at the end."""
    size = state.configuration.Data.val_batch_size
    every = {BICUBIC: pairs.bicubic}
    if state.pretrained is not None:
        every[PRETRAINED] = super_resolve(state.pretrained, pairs.lr, size)
    return every | {END: super_resolve(state.judged, pairs.lr, size)}


def _spectra(images: Mapping[str, Tensor], factor: int) -> dict[str, Any]:
    found = {name: radial_spectrum(image) for name, image in images.items()}
    frequencies = next(iter(found.values()))[0]
    power = {name: [round(value, 3) for value in level.tolist()] for name, (_, level) in found.items()}
    return {"frequencies": frequencies.tolist(), "nyquist": 0.5 / factor, "power": power}
