"""The game's two losses on a batch: in which mode D judges, real and generated images apart or together."""

from __future__ import annotations

import torch
from torch import Tensor

from trainables.gpu import precision
from trainables.losses import discriminator_loss, generator_adversarial_loss, r1_penalty
from trainables.networks import Discriminator
from trainables.schema import TrainingSettings


def discriminator_game(
    d: Discriminator, hr: Tensor, sr: Tensor, training: TrainingSettings, in_bf16: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return what D minimises on real and generated images, its logits of both, and the R1 penalty in the loss."""
    gamma = training.Losses.r1_gamma
    hr = hr.detach().requires_grad_(gamma > 0)
    if d.apart or gamma:
        real, fake = (precision.forward(d, images, in_bf16).float() for images in (hr, sr))
    else:  # one batch is faster
        real, fake = precision.forward(d, torch.cat([hr, sr]), in_bf16).float().chunk(2)
    loss = discriminator_loss(real, fake, training.real_label, training.Losses)
    penalty = r1_penalty(real, hr, gamma) if gamma else loss.new_zeros(())
    return loss + penalty, real, fake, penalty


def generator_game(d: Discriminator, hr: Tensor, sr: Tensor, training: TrainingSettings, in_bf16: bool) -> Tensor:
    """Return what G is to gain from D, which stands still; without norms its spectral norms do too."""
    losses = training.Losses
    d.train(d.apart).requires_grad_(False)
    real = None
    if losses.relativistic_average_d:
        with torch.no_grad():
            real = precision.forward(d, hr, in_bf16).float()
    gained = generator_adversarial_loss(precision.forward(d, sr, in_bf16).float(), real, losses)
    d.train().requires_grad_(True)
    return gained
