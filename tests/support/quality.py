"""Image triples by formula, and what other programs say of them.

`python -m tests.support.quality` records tests/trainables/quality.json anew; it needs opensr-test, torchmetrics,
scikit-image, dists-pytorch and torchvision, none of which the project or its tests' default run needs.
"""

import json
import tempfile
from datetime import date
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from scipy.signal.windows import hann

from trainables.learned import BLOCKS, CHANNELS, DISTS, VGG16
from trainables.networks import downsample
from trainables.normalization import Normalization
from trainables.perceptual import vgg
from trainables.quality import Scale

RECORDED = Path(__file__).parents[1] / "trainables" / "quality.json"
CASES = {  # bands, HR side, factor, the imagery's values that are 0 and 1
    "three bands": (3, 64, 4, (0.0, 1.0)),
    "one band": (1, 96, 8, (0.0, 1.0)),
    "six bands": (6, 48, 2, (0.0, 1.0)),
    "uint16": (3, 64, 4, (5717.0, 24147.0)),
}


def scale_of(case: str) -> Scale:
    """What a case's figures are measured by."""
    _, _, factor, (low, high) = CASES[case]
    return Scale(factor, values=Normalization(low, high).denormalize)


def triple(case: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """SR, LR and HR of two images, in a network's values: SR lacks detail, is noisy and shifted by about 0.6 px."""
    bands, side, factor, _ = CASES[case]
    draw = np.random.default_rng(side * bands)
    noise = draw.standard_normal((2, bands, side + 1, side + 1))
    field = gaussian_filter(noise, (0, 0.5, 3, 3)) * 3 + gaussian_filter(noise, (0, 0, 0.7, 0.7)) * 0.3
    scene = 0.5 + 0.08 * field / field.std()  # all above 0, as reflectances are
    blurred = 0.4 * scene[..., :-1, :-1] + 0.6 * gaussian_filter(scene, (0, 0, 0.8, 0.8))[..., 1:, 1:]
    sr = blurred + 0.01 * draw.standard_normal(blurred.shape)
    hr = torch.from_numpy(scene[..., :-1, :-1].astype(np.float32))
    return torch.from_numpy(sr.astype(np.float32)), downsample(hr, factor), hr


def write_dists(folder: Path) -> Path:
    """Write VGG16's and DISTS's files with weights by formula, that keep features their size (He et al. 2015)."""
    draw = np.random.default_rng(16)
    state = {
        f"features.{name}": torch.from_numpy(
            draw.standard_normal(weight.shape, dtype=np.float32)
            * ((2 / weight[0].numel()) ** 0.5 if weight.dim() > 1 else 0.1)
        )
        for name, weight in vgg(BLOCKS).state_dict().items()
    }
    torch.save(state | {"classifier.0.bias": torch.zeros(1)}, folder / VGG16)
    own = {name: torch.from_numpy(draw.random((1, CHANNELS, 1, 1), dtype=np.float32)) for name in ("alpha", "beta")}
    torch.save(own, folder / DISTS)
    return folder


def others_figures(case: str, dists: Any) -> dict[str, list[float]]:
    """What other programs say of each image of a case."""
    import opensr_test
    from skimage.registration import phase_cross_correlation
    from torchmetrics.functional.image import (
        error_relative_global_dimensionless_synthesis,
        peak_signal_noise_ratio,
        spectral_angle_mapper,
    )

    sr, lr, hr = triple(case)
    scale = scale_of(case)
    told: dict[str, list[float]] = {"psnr": [], "ergas": []}
    for x, low, y in zip(sr, lr, hr, strict=True):
        own = {name: scale.values(image.double()) for name, image in (("sr", x), ("lr", low), ("hr", y))}
        seen, true = own["sr"][None].double(), own["hr"][None].double()
        row = {
            "psnr": peak_signal_noise_ratio(x, y, data_range=1.0),
            "ergas": error_relative_global_dimensionless_synthesis(seen, true, ratio=scale.factor),
        }
        if len(y) > 1:
            row["sam"] = torch.rad2deg(spectral_angle_mapper(seen, true))
        if len(y) == 1:
            window = np.outer(*[hann(side, sym=False) for side in low[0].shape])
            again, fixed = (
                (image - image.mean()) * window
                for image in (downsample(x[None], scale.factor)[0, 0].double().numpy(), low[0].double().numpy())
            )
            shift = phase_cross_correlation(fixed, again, upsample_factor=100, normalization=None)[0]
            row["shift"] = np.linalg.norm(shift)
        if len(y) >= 3:  # opensr-test takes no less
            plain = {"harm_apply_spectral": False, "harm_apply_spatial": False, "border_mask": 0}
            judge = opensr_test.Metrics(opensr_test.Config(correctness_distance="nd", agg_method="pixel", **plain))
            shares = judge.compute(**own)
            for ours, theirs in (("improvement", "im"), ("omission", "om"), ("hallucination", "ha")):
                row[ours] = shares[f"{theirs}_metric"]
        if len(y) == 3:
            row["dists"] = dists(x[None], y[None])
        for name, figure in row.items():
            told.setdefault(name, []).append(float(figure))
    return told


def record() -> None:
    """Ask them all, and write what they say."""
    from DISTS_pytorch import DISTS_pt

    with tempfile.TemporaryDirectory() as place:
        folder = write_dists(Path(place))
        published = torch.load(folder / VGG16, weights_only=True)
        # the package wants torchvision's weights, and then only their layers
        layers = vgg(BLOCKS)
        layers.load_state_dict({n.removeprefix("features."): v for n, v in published.items() if "features" in n})
        DISTS_pt.models.vgg16 = lambda **_: SimpleNamespace(features=layers)
        dists = DISTS_pt.DISTS(load_weights=False)
        dists.load_state_dict(torch.load(folder / DISTS, weights_only=True), strict=False)
        figures = {case: others_figures(case, dists) for case in CASES}
    names = ("opensr-test", "torchmetrics", "scikit-image", "dists-pytorch", "torch", "numpy", "scipy")
    origin = {"by": "python -m tests.support.quality", "on": str(date.today())} | {n: version(n) for n in names}
    RECORDED.write_text(json.dumps({"origin": origin, "figures": figures}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    record()
