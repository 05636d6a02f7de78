"""Losses of both networks and the image metrics beside them. Images are (batch, bands, H, W), around 0–1."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from trainables.schema import LossSettings

if TYPE_CHECKING:
    from trainables.perceptual import Perceptual


def spectral_angle(sr: Tensor, hr: Tensor) -> Tensor:
    """Return the mean angle between the spectra of two images, radians (Kruse et al. 1993).

    The cosine stays 1e-7 away from ±1, where the arccosine has no gradient: equal spectra are 0.0005 apart. Lengths
    stay 1e-8 away from 0, where the root has none.
    """
    # torch's own norm over bands takes a hundred times as long on a CPU
    norms = [image.square().sum(1).clamp_min(1e-16).sqrt() for image in (sr, hr)]
    cosine = (sr * hr).sum(1) / (norms[0] * norms[1])
    angle: Tensor = cosine.clamp(-1 + 1e-7, 1 - 1e-7).acos().mean()
    return angle


def total_variation(sr: Tensor) -> Tensor:
    """Return the mean absolute difference of neighbouring pixels (Rudin et al. 1992, anisotropic)."""
    return (sr[..., 1:, :] - sr[..., :-1, :]).abs().mean() + (sr[..., 1:] - sr[..., :-1]).abs().mean()


def content_loss(
    sr: Tensor,
    hr: Tensor,
    weights: LossSettings,
    perceptual: Perceptual | None,
    bands: Tensor | None = None,
) -> Tensor:
    """Return what the generator minimises in pretraining: weighted L1, spectral angle, total variation, perceptual.

    `perceptual` measures the last, of the `bands` given (3,) where it sees three.
    """
    loss = weights.l1_weight * functional.l1_loss(sr, hr)
    if weights.sam_weight:
        loss = loss + weights.sam_weight * spectral_angle(sr, hr)
    if weights.tv_weight:
        loss = loss + weights.tv_weight * total_variation(sr)
    if perceptual is not None:
        loss = loss + weights.perceptual_weight * perceptual(sr, hr, bands)
    return loss


def generator_adversarial_loss(fake: Tensor, real: Tensor | None, losses: LossSettings) -> Tensor:
    """Return what G minimises of D's logits, (batch, k): −log D(G(x)), non-saturating (Goodfellow et al. 2014).

    Relativistic: of both kinds against each other's mean, for which `real` is needed (Jolicoeur-Martineau 2019, RaGAN).
    Wasserstein: −D(G(x)) (Arjovsky et al. 2017).
    """
    if losses.adv_loss_type == "wasserstein":
        return -fake.mean()
    if losses.is_relativistic:
        assert real is not None
        real = real.detach()
        return 0.5 * (functional.softplus(real.mean() - fake).mean() + functional.softplus(real - fake.mean()).mean())
    return functional.softplus(-fake).mean()


def discriminator_loss(real: Tensor, fake: Tensor, real_label: float, losses: LossSettings) -> Tensor:
    """Return what D minimises of its logits, (batch, k): the mean of both kinds' binary cross-entropies.

    Real images are to be `real_label` (one-sided label smoothing), generated ones 0. Relativistic: each against the
    other kind's mean, summed. Wasserstein: D(G(x)) − D(y).
    """
    if losses.adv_loss_type == "wasserstein":
        return fake.mean() - real.mean()
    share = 0.5
    if losses.is_relativistic:
        real, fake, share = real - fake.mean(), fake - real.mean(), 1.0
    target = torch.full_like(real, real_label)
    of_real = functional.binary_cross_entropy_with_logits(real, target)
    return share * (of_real + functional.softplus(fake).mean())


def probabilities(real: Tensor, fake: Tensor, losses: LossSettings) -> tuple[Tensor, Tensor]:
    """Return the probabilities by D's logits of real and generated images; relativistic: against the other's mean."""
    if losses.is_relativistic:
        return (real - fake.mean()).sigmoid(), (fake - real.mean()).sigmoid()
    return real.sigmoid(), fake.sigmoid()


def r1_penalty(answers: Tensor, real: Tensor, gamma: float) -> Tensor:
    """Return γ/2 · E‖∇D(y)‖², of D's `answers` to real images (Mescheder et al. 2018, eq. 9)."""
    [gradient] = torch.autograd.grad(answers.sum(), real, create_graph=True)
    return 0.5 * gamma * gradient.square().sum((1, 2, 3)).mean()


def psnr(sr: Tensor, hr: Tensor, peak: float) -> Tensor:
    """Return the peak signal-to-noise ratio, dB, of the mean squared error over all images given."""
    return 10 * torch.log10(peak**2 / (sr - hr).square().mean())


def ssim(sr: Tensor, hr: Tensor, peak: float, window: int) -> Tensor:
    """Return the mean structural similarity of all images."""
    return similarities(sr, hr, peak, window).mean()


def similarities(sr: Tensor, hr: Tensor, peak: float, window: int) -> Tensor:
    """Return the structural similarity of each image, (n,): Gaussian window of σ 1.5, images reflected at borders.

    Mean over pixels and bands (Wang et al. 2004).

    The window is separable, and a pass along rows or columns is a product with a banded matrix, which is faster
    than a convolution of one channel. Images that a half window does not fit in get the widest that does.
    """
    half = min(window // 2, min(hr.shape[-2:]) - 1)
    bell = torch.exp(-0.5 * (torch.arange(-half, half + 1, device=hr.device, dtype=hr.dtype) / 1.5) ** 2)
    down, across = (blur_matrix(side, bell / bell.sum()) for side in hr.shape[-2:])
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    means = []
    for x, y in zip(sr.split(32), hr.split(32), strict=True):
        blurred = down @ torch.stack([x, y, x * x, y * y, x * y]) @ across.T
        mean_x, mean_y, mean_xx, mean_yy, mean_xy = blurred
        variances, covariance = mean_xx - mean_x**2 + mean_yy - mean_y**2, mean_xy - mean_x * mean_y
        luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
        means.append((luminance * (2 * covariance + c2) / (variances + c2)).mean((1, 2, 3)))
    return torch.cat(means)


def blur_matrix(side: int, bell: Tensor) -> Tensor:
    """Return (side, side): times a column of pixels it blurs that by `bell`, (odd,), as if reflected at both ends."""
    half = len(bell) // 2
    impulses = functional.pad(torch.eye(side, device=bell.device, dtype=bell.dtype), (half, half), mode="reflect")
    return (impulses.unfold(1, len(bell), 1) @ bell).T


def image_metrics(
    sr: Tensor, hr: Tensor, settings: LossSettings, perceptual: Perceptual | None, size: int | None = None
) -> dict[str, float]:
    """Return l1, sam (radians), tv, perceptual, psnr (dB) and ssim of generated against true images, opensr-srgan's.

    PSNR and SSIM are of images clamped to 0–`max_val`. Means over batches of `size` (None: one of all), weighted by
    their images. Perceptual is 0 where there is none.
    """
    rows, counts = [], []
    for x, y in zip(sr.split(size or len(sr)), hr.split(size or len(hr)), strict=True):
        seen, true = x.clamp(0, settings.max_val), y.clamp(0, settings.max_val)
        figures = {
            "l1": functional.l1_loss(x, y),
            "sam": spectral_angle(x, y),
            "tv": total_variation(x),
            "perceptual": hr.new_zeros(()) if perceptual is None else perceptual(x, y),
            "psnr": psnr(seen, true, settings.max_val),
            "ssim": ssim(seen, true, settings.max_val, settings.ssim_win),
        }
        rows.append(torch.stack(list(figures.values())))
        counts.append(len(x))
    every, shares = torch.stack(rows).double(), torch.tensor(counts, dtype=torch.double) / len(sr)
    means: list[float] = (shares @ every.cpu()).tolist()
    return dict(zip(figures, means, strict=True))
