"""Weights drawn at random in files like the published ones, image pairs, and what opensr-srgan says of them.

`python -m tests.support.perceptual` prints the figures that tests/trainables/test_perceptual.py has recorded
(opensr-srgan 0.5.1, lpips 0.1.4, torchvision 0.28; torch on a CPU).
"""

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainables.perceptual import ALEX, HEADS, VGG, alexnet, vgg19

CLASSIFIERS = {  # of the published files, which have them too
    VGG: {"0": (4096, 25088), "3": (4096, 4096), "6": (1000, 4096)},
    ALEX: {"1": (4096, 9216), "4": (4096, 4096), "6": (1000, 4096)},
}
SIDE = 32
CASES: dict[str, tuple[int, dict[str, Any], tuple[int, int]]] = {  # bands, losses, and where VGG19 ends
    "vgg": (3, {}, (5, 4)),
    "vgg, truncated": (3, {}, (2, 1)),
    "vgg of one band": (1, {"sam_weight": 0.0}, (5, 4)),  # the angle of one band has no gradient
    "vgg of two bands": (2, {}, (5, 4)),
    "vgg of fixed bands": (5, {"fixed_idx": [4, 0, 4]}, (5, 4)),
    "lpips": (3, {"perceptual_metric": "lpips"}, (5, 4)),
    "lpips of fixed bands": (5, {"perceptual_metric": "lpips", "fixed_idx": [1, 3, 0]}, (5, 4)),
    "a narrow window": (3, {"perceptual_weight": 0.0, "ssim_win": 5}, (5, 4)),
    "a wide window, another peak": (3, {"perceptual_weight": 0.0, "ssim_win": 31, "max_val": 0.7}, (5, 4)),
}


def losses_of(case: str) -> dict[str, Any]:
    """The loss settings of a case."""
    return {"perceptual_weight": 10.0, "sam_weight": 0.05, "tv_weight": 0.01, **CASES[case][1]}


def pair(bands: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Generated and true images, (3, bands, SIDE, SIDE), some of their values outside 0–1."""
    draw = np.random.default_rng(bands)
    hr = draw.random((3, bands, SIDE, SIDE)) * 1.2 - 0.1
    sr = hr + 0.1 * draw.standard_normal(hr.shape)
    return torch.from_numpy(sr.astype(np.float32)), torch.from_numpy(hr.astype(np.float32))


def write_published(folder: Path, seed: int = 0) -> Path:
    """Write all three files; their weights are such that features keep their size (He et al. 2015)."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(seed)
    for name, features in ((VGG, vgg19()), (ALEX, alexnet())):
        state = {}
        for part, weight in features.state_dict().items():
            size = (2 / weight[0].numel()) ** 0.5 if weight.dim() > 1 else 0.1
            drawn = draw.standard_normal(weight.shape, dtype=np.float32) * size
            state[f"features.{part}"] = torch.from_numpy(drawn).half()
        for layer, shape in CLASSIFIERS[name].items():  # one number on the disk, as often as it takes
            state[f"classifier.{layer}.weight"] = torch.zeros(1).expand(shape)
            state[f"classifier.{layer}.bias"] = torch.zeros(1).expand(shape[:1])
        torch.save(state, folder / name)
    heads = {
        f"lin{layer}.model.1.weight": torch.from_numpy(draw.random((1, channels, 1, 1), dtype=np.float32))
        for layer, channels in enumerate((64, 192, 384, 256, 256))
    }
    torch.save(heads, folder / HEADS)
    return folder


def peers_figures(case: str, folder: Path, home: Path) -> dict[str, float]:
    """What opensr-srgan's content loss says of a case, with the files of `folder`; `home` becomes torch's."""
    import lpips
    import omegaconf
    from opensr_srgan.model.loss import GeneratorContentLoss

    cache = home / "hub" / "checkpoints"
    cache.mkdir(parents=True, exist_ok=True)
    for name in (VGG, ALEX):
        if not (cache / name).exists():
            os.link(folder / name, cache / name)
    os.environ["TORCH_HOME"] = str(home)  # where torchvision finds what it would fetch
    bands, _, (i, j) = CASES[case]
    losses = {"l1_weight": 1.0, "perceptual_metric": "vgg", "max_val": 1.0, "ssim_win": 11} | losses_of(case)
    document = {"Training": {"Losses": losses}, "TruncatedVGG": {"i": i, "j": j}, "Model": {"in_bands": bands}}
    theirs = GeneratorContentLoss(omegaconf.OmegaConf.create(document))
    for part in theirs.modules():
        if isinstance(part, lpips.LPIPS):  # its own heads instead of those that the package brings
            part.load_state_dict(torch.load(folder / HEADS, weights_only=True), strict=False)
    sr, hr = pair(bands)
    sr.requires_grad_()
    loss, figures = theirs.return_loss(sr, hr)
    loss.backward()
    assert sr.grad is not None
    found = {name: float(value) for name, value in figures.items()}
    return found | {"content": float(loss.detach()), "gradient": float(sr.grad.square().mean().sqrt())}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        published = write_published(Path(place) / "published")
        for case in CASES:
            figures = peers_figures(case, published, Path(place))
            print(f'    "{case}": {{{", ".join(f"{name!r}: {value:.9g}" for name, value in figures.items())}}},')
