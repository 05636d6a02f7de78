"""Networks and losses: shapes, where they start, and figures worked out by hand."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.support.tiny import textured, tiny
from trainables.losses import (
    discriminator_loss,
    generator_adversarial_loss,
    psnr,
    spectral_angle,
    total_variation,
)
from trainables.networks import Discriminator, Generator


def generator(bands=3, **changes):
    torch.manual_seed(0)
    settings = {"n_channels": 8, "growth_channels": 4, "bicubic_skip": False} | changes
    return Generator(bands, tiny(**{f"Generator.{key}": value for key, value in settings.items()}).Generator)


def discriminator(model, bands=3, **changes):
    torch.manual_seed(0)
    settings = {"model_type": model, "base_channels": 4, "linear_size": 8} | changes
    configuration = tiny(**{f"Discriminator.{key}": value for key, value in settings.items()}, **{"Data.crop_size": 64})
    return Discriminator(bands, configuration.Discriminator)


@pytest.mark.parametrize("model", ["srresnet", "esrgan"])
@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("bands", [1, 3, 4, 6])
def test_a_generator_enlarges_any_bands_by_its_factor(model, factor, bands):
    network = generator(bands, model_type=model, scaling_factor=factor)
    assert network(torch.rand(2, bands, 5, 7)).shape == (2, bands, 5 * factor, 7 * factor)


@pytest.mark.parametrize("model", ["srresnet", "esrgan"])
@pytest.mark.parametrize("factor", [2, 4, 8])
def test_with_bicubic_skip_a_generator_starts_as_bicubic(model, factor):
    lr = torch.from_numpy(textured())[None, :, :24, :24]
    bicubic = functional.interpolate(lr, scale_factor=factor, mode="bicubic")
    started = generator(model_type=model, scaling_factor=factor, bicubic_skip=True)(lr)
    assert 0 < (started - bicubic).abs().max() < 1e-2
    assert (generator(model_type=model, scaling_factor=factor)(lr) - bicubic).abs().max() > 1e-2


@pytest.mark.parametrize("factor", [2, 8])
def test_icnr_starts_as_nearest_neighbour_repetition(factor):
    features = torch.rand(1, 8, 5, 5)
    for use_icnr in (True, False):
        first = generator(use_icnr=use_icnr, scaling_factor=factor).up[0](features)
        repeated = first[..., ::2, ::2].repeat_interleave(2, -1).repeat_interleave(2, -2)
        assert torch.allclose(first, repeated, atol=1e-6) == use_icnr


@pytest.mark.parametrize("model", ["standard", "patchgan", "esrgan"])
@pytest.mark.parametrize("bands", [1, 3, 4, 6])
@pytest.mark.parametrize("crop", [32, 48, 64])
def test_a_discriminator_gives_one_logit_an_image(model, bands, crop):
    network = discriminator(model, bands)
    images = torch.rand(5, bands, crop, crop)
    logits = network.eval()(images)
    assert logits.shape == (5,)
    assert torch.allclose(network(images[:1]), logits[:1], atol=1e-5)  # no image's answer depends on the batch
    assert logits.std() > 0


@pytest.mark.parametrize("model", ["standard", "patchgan", "esrgan"])
def test_spectral_norms_are_about_1_and_can_be_left_out(model):
    def largest(network):
        weights = [m.weight.flatten(1) for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
        assert len(weights) > 3
        return torch.stack([torch.linalg.matrix_norm(weight, 2) for weight in weights])

    network = discriminator(model)
    with torch.no_grad():
        for part in network.parameters():
            part.mul_(5)
        for _ in range(20):
            network(torch.rand(2, 3, 32, 32))
    assert largest(network).sub(1).abs().max() < 0.1
    assert largest(discriminator(model, use_spectral_norm=False)).sub(1).abs().max() > 0.1


@pytest.mark.parametrize("model", ["standard", "patchgan", "esrgan"])
def test_there_is_no_batch_normalisation(model):
    modules = [*discriminator(model).modules(), *generator().modules(), *generator(model_type="esrgan").modules()]
    assert not [module for module in modules if isinstance(module, nn.modules.batchnorm._BatchNorm)]


def test_the_spectral_angle_is_the_arccosine():
    first, second = np.random.default_rng(0).random((2, 4, 5, 6, 6))
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    expected = np.arccos((first * second).sum(1) / norms).mean()
    assert expected > 0.3
    found = spectral_angle(torch.tensor(first).float(), torch.tensor(second).float())
    assert float(found) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("image", [torch.full((1, 3, 4, 4), 0.5), torch.zeros(1, 3, 4, 4)])
def test_the_spectral_angles_gradient_is_finite_where_the_spectra_agree(image):
    sr = image.clone().requires_grad_()
    spectral_angle(sr, image).backward()
    assert sr.grad.isfinite().all()


def test_total_variation_by_hand():
    image = torch.tensor([[[[0.0, 1.0, 1.0], [0.5, 0.5, 0.0]]]])
    down, across = (0.5 + 0.5 + 1) / 3, (1 + 0 + 0 + 0.5) / 4
    assert float(total_variation(image)) == pytest.approx(down + across)


def test_adversarial_losses_by_hand():
    real, fake = torch.tensor([0.0, 2.0]), torch.tensor([0.0, -1.0])

    def log_probability(logit):
        return np.log(1 / (1 + np.exp(-logit)))

    of_real = -np.mean([0.9 * log_probability(x) + 0.1 * log_probability(-x) for x in (0.0, 2.0)])
    of_fake = -np.mean([log_probability(-x) for x in (0.0, -1.0)])
    assert float(discriminator_loss(real, fake, 0.9)) == pytest.approx(of_real + of_fake, rel=1e-6)
    fooled = -np.mean([log_probability(x) for x in (0.0, -1.0)])
    assert float(generator_adversarial_loss(fake)) == pytest.approx(fooled, rel=1e-6)


def test_psnr_by_hand():
    hr = torch.zeros(2, 1, 2, 2)
    sr = hr.clone()
    sr[0] = 0.2  # mean squared error over both images 0.02
    assert float(psnr(sr, hr, 1.0)) == pytest.approx(10 * np.log10(1 / 0.02), rel=1e-6)
    assert float(psnr(sr, hr, 2.0)) == pytest.approx(10 * np.log10(4 / 0.02), rel=1e-6)
