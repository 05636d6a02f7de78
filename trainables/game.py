"""The game's two losses on a batch, and D's judgement of held-out images: in which mode, in whose company."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from trainables.data_settings import DataSettings
from trainables.gpu import precision
from trainables.losses import discriminator_loss, generator_adversarial_loss, r1_penalty
from trainables.networks import Discriminator
from trainables.schema import TrainingSettings


def discriminator_game(
    d: Discriminator, hr: Tensor, sr: Tensor, training: TrainingSettings, in_bf16: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return what D minimises on real and generated images, its logits of both, and the R1 penalty in the loss."""
    gamma = training.Losses.r1_gamma
    in_bf16 = in_bf16 and not gamma  # the penalty's gradient is one of gradients, which the kernels have not
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
    fake, real = precision.forward(d, sr, in_bf16).float(), None
    if losses.is_relativistic:  # after it: each pass in training moves spectral norms a little
        with torch.no_grad():
            real = precision.forward(d, hr, in_bf16).float()
    gained = generator_adversarial_loss(fake, real, losses)
    d.train().requires_grad_(True)
    return gained


@torch.no_grad()
def judge_images(d: Discriminator, images: Tensor, data: DataSettings) -> Tensor:
    """Return D's logits of held-out images of one kind, (n, k); it stays as it is.

    With batch norms an image is judged as the game judges it: in a batch of its own kind, by that batch's statistics.
    Running statistics are of both kinds, and D, which never saw an image by them, tells nothing apart (NASH).
    """
    was_training, norms = d.training, [part for part in d.modules() if isinstance(part, nn.BatchNorm2d)]
    d.eval()
    if not norms:
        logits = torch.cat([d(part) for part in images.split(data.val_batch_size)])
    else:
        for norm in norms:
            norm.training, norm.track_running_stats = True, False
        # neighbours among held-out pairs are of one place, those of a batch in training are not
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0)).to(images.device)
        parts = order.tensor_split(math.ceil(len(images) / data.train_batch_size))
        logits = torch.cat([d(images[part]) for part in parts])[order.argsort()]
        for norm in norms:
            norm.track_running_stats = True
    d.train(was_training)
    return logits.float()
