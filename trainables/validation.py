"""What one validation measures: image metrics, the discriminator's answers.

G is in evaluation mode, on the fixed held-out pairs; D judges as in the game. `balance.py` judges what is
measured here.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from trainables.game import judge_images
from trainables.imagery import Imagery
from trainables.kinds import is_antialiased
from trainables.losses import discriminator_loss, generator_adversarial_loss, image_metrics, probabilities, psnr
from trainables.merits import QUALITY
from trainables.pictures import drawn
from trainables.quality import Scale, cheap
from trainables.schema import Configuration
from trainables.state import State

BOOTSTRAPS = 200


def measure(state: State, imagery: Imagery) -> dict[str, float]:
    """Measure one validation's figures, by their Weights & Biases keys; the discriminator's only once it exists."""
    configuration, pairs = state.configuration, imagery.pairs
    losses, peak = configuration.Training.Losses, configuration.Training.Losses.max_val
    size = configuration.Data.val_batch_size
    judged = super_resolve(state.judged, pairs.lr, size)
    state.pictured = judged[drawn(imagery, configuration.Logging.num_val_images)]
    seen = image_metrics(judged, pairs.hr, losses, state.perceptual, size)
    figures = {f"val_metrics/{name}": value for name, value in seen.items()}
    content: float = sum(getattr(losses, f"{name}_weight") * seen[name] for name in ("l1", "sam", "tv", "perceptual"))
    figures["validation/content_loss"] = content
    figures["nash/psnr"] = float(psnr(judged, pairs.hr, peak))
    figures["nash/psnr_bicubic"] = float(psnr(pairs.bicubic, pairs.hr, peak))
    worth = cheap(judged, pairs.hr, scale_of(configuration, imagery), imagery.truth)
    figures |= {f"{QUALITY}{name}": value for name, value in worth.items()}
    d = state.discriminator
    if d is None:
        return figures
    data = configuration.Data
    logits = judge_images(d, pairs.hr, data), judge_images(d, judged, data)
    real, fake = (answers.mean(1) for answers in logits)
    real_detailed = real[pairs.detailed]
    figures |= _against(real_detailed, fake, pairs.detailed, "nash/")
    p_y, p_g = probabilities(real, fake, losses)
    figures |= {"nash/p_y": float(p_y.mean()), "nash/p_g": float(p_g.mean())}
    if state.averaged is not None:
        raw = super_resolve(state.generator, pairs.lr, size)
        answers = judge_images(d, raw, data).mean(1)
        figures |= _against(real_detailed, answers, pairs.detailed, "nash/raw/")
        figures["nash/raw/p_g"] = float(probabilities(real, answers, losses)[1].mean())
        figures["nash/raw/psnr"] = float(psnr(raw, pairs.hr, peak))
    references = {"bicubic": pairs.bicubic[pairs.detailed]}
    if state.pretrained is not None:
        if state.pretrained_images is None:  # they never change
            state.pretrained_images = super_resolve(state.pretrained, pairs.lr[pairs.detailed], size)
        references["pretrained"] = state.pretrained_images
    for name, image in references.items():
        answer, interval = auc(real_detailed, judge_images(d, image, data).mean(1))
        figures |= {f"nash/control_{name}": answer, f"nash/control_{name}_low": interval[0]}
        figures[f"nash/control_{name}_high"] = interval[1]
    figures["nash/control"] = float(np.min([figures[f"nash/control_{name}"] for name in references]))  # nan stays nan
    plain = losses.model_copy(update={"relativistic_average_d": False})  # as opensr-srgan validates any D
    figures["validation/DISC_adversarial_loss"] = float(discriminator_loss(*logits, 1.0, plain))
    adversarial = float(generator_adversarial_loss(logits[1], logits[0], losses))
    figures["validation/generator_total_loss"] = content + losses.adv_loss_beta * adversarial
    return figures


def scale_of(configuration: Configuration, imagery: Imagery) -> Scale:
    """Return what figures of merit are measured by."""
    losses, normalization = configuration.Training.Losses, imagery.normalization
    antialiased = is_antialiased(configuration.Data.dataset_type)
    return Scale(imagery.factor, losses.max_val, losses.ssim_win, antialiased, normalization.denormalize)


@torch.no_grad()
def super_resolve(network: nn.Module, images: Tensor, size: int) -> Tensor:
    """Return what a generator in evaluation mode makes of LR images, so many at a time; it stays as it is."""
    was_training = network.training
    network.eval()
    answers = torch.cat([network(part) for part in images.split(size)])
    network.train(was_training)
    return answers.float()


def _against(real_detailed: Tensor, fake: Tensor, detailed: Tensor, prefix: str) -> dict[str, float]:
    rank, interval = auc(real_detailed, fake[detailed])
    return {
        f"{prefix}rank": rank,
        f"{prefix}rank_low": interval[0],
        f"{prefix}rank_high": interval[1],
    }


def auc(real: Tensor, fake: Tensor) -> tuple[float, tuple[float, float]]:
    """Return the ROC curve's area: how often `real` exceeds `fake`, ties half, and its 95 % bootstrap interval.

    Two tensors (n,). Mann–Whitney; 0.5 when they cannot be ordered, nan when an answer is not finite.
    """
    y, g = real.cpu().numpy(), fake.cpu().numpy()
    if not (np.isfinite(y).all() and np.isfinite(g).all()):
        return float("nan"), (float("nan"), float("nan"))
    wins = (y[:, None] > g[None, :]) + 0.5 * (y[:, None] == g[None, :])
    n = len(y)
    draws = np.random.default_rng(n).multinomial(n, np.full(n, 1 / n), size=BOOTSTRAPS)
    resampled = ((draws @ wins) * draws).sum(1) / n**2
    low, high = np.percentile(resampled, [2.5, 97.5])
    return float(wins.mean()), (float(low), float(high))
