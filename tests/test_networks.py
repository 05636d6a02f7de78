"""Networks and losses: shapes, where they start, and figures worked out by hand."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.tiny import textured, tiny
from trainables.configuration import LossSettings
from trainables.losses import (
    content_loss,
    discriminator_loss,
    generator_adversarial_loss,
    image_metrics,
    psnr,
    spectral_angle,
    total_variation,
)
from trainables.networks import Discriminator, Generator, downsample, upsample


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
        tail = generator(use_icnr=use_icnr, scaling_factor=factor).tail
        first = tail[1](tail[0](features))  # convolution and PixelShuffle
        repeated = first[..., ::2, ::2].repeat_interleave(2, -1).repeat_interleave(2, -2)
        assert torch.allclose(first, repeated, atol=1e-6) == use_icnr


def test_reduction_and_enlargement_keep_a_flat_image():
    flat = torch.full((1, 3, 16, 16), 0.3)
    assert torch.allclose(downsample(flat, 4), flat[..., :4, :4])
    assert torch.allclose(upsample(downsample(flat, 4), 4), flat)


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
    assert not [
        module for module in modules if "Norm" in type(module).__name__ and "Spectral" not in type(module).__name__
    ]


def test_input_range_scales_what_the_discriminator_sees():
    image = torch.rand(2, 3, 32, 32)
    once, twice = (discriminator("patchgan", input_range=value).eval() for value in (1.0, 2.0))
    assert torch.allclose(twice(image), once(0.5 + 2 * (image - 0.5)), atol=1e-6)
    assert not torch.allclose(twice(image), once(image), atol=1e-4)


def test_the_spectral_angle_is_the_arccosine():
    first, second = np.random.default_rng(0).random((2, 4, 5, 6, 6))
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    expected = np.arccos((first * second).sum(1) / norms).mean()
    assert expected > 0.3
    found = spectral_angle(torch.tensor(first).float(), torch.tensor(second).float())
    assert float(found) == pytest.approx(expected, abs=1e-5)


def test_the_spectral_angle_of_right_angles_and_of_brightness_alone():
    red, green = torch.zeros(2, 1, 3, 2, 2)
    red[:, 0], green[:, 1] = 1, 1
    assert float(spectral_angle(red, green)) == pytest.approx(np.pi / 2, abs=1e-5)
    assert float(spectral_angle(red, 3 * red)) == pytest.approx(0, abs=1e-5)


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

    smoothed = [0.9 * log_probability(x) + 0.1 * log_probability(-x) for x in (0.0, 2.0)]
    against_fake = [log_probability(-x) for x in (0.0, -1.0)]
    expected = -np.mean(smoothed) - np.mean(against_fake)
    assert float(discriminator_loss(real, fake, 0.9)) == pytest.approx(expected, rel=1e-6)
    assert float(discriminator_loss(real, fake, 1.0)) != pytest.approx(expected, rel=1e-3)
    expected = -np.mean([log_probability(x) for x in (0.0, -1.0)])
    assert float(generator_adversarial_loss(fake)) == pytest.approx(expected, rel=1e-6)


def test_the_discriminators_best_constant_answer_is_half_the_real_label():
    answers = torch.linspace(0.05, 0.95, 181, dtype=torch.float64)
    logits = answers.logit()[:, None]
    losses = torch.stack([discriminator_loss(logit, logit, 0.9) for logit in logits])
    assert float(answers[losses.argmin()]) == pytest.approx(0.45, abs=1e-6)


def test_psnr_by_hand():
    hr = torch.zeros(2, 1, 2, 2)
    sr = hr.clone()
    sr[0] = 0.2  # mean squared error over both images 0.02
    assert float(psnr(sr, hr, 1.0)) == pytest.approx(10 * np.log10(1 / 0.02), rel=1e-6)
    assert float(psnr(sr, hr, 2.0)) == pytest.approx(10 * np.log10(4 / 0.02), rel=1e-6)


def test_content_loss_is_the_weighted_sum():
    sr, hr = torch.rand(2, 2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    terms = [functional.l1_loss(sr, hr), spectral_angle(sr, hr), total_variation(sr)]
    for weights in ((1, 0, 0), (0, 1, 0), (0, 0, 1), (2, 0.5, 3)):
        settings = LossSettings(**dict(zip(("l1_weight", "sam_weight", "tv_weight"), weights, strict=True)))
        expected = sum(weight * float(term) for weight, term in zip(weights, terms, strict=True))
        assert float(content_loss(sr, hr, settings)) == pytest.approx(expected, rel=1e-5)


def test_image_metrics_of_equal_and_of_noisy_images():
    hr = torch.from_numpy(textured())[None, :, :32, :32]
    noisy = (hr + 0.1 * torch.randn(hr.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    same, found = image_metrics(hr, hr, LossSettings()), image_metrics(noisy, hr, LossSettings())
    assert same | {"l1": 0.0, "psnr": np.inf, "ssim": pytest.approx(1)} == same
    assert found["l1"] == pytest.approx(float((noisy - hr).abs().mean()))
    assert found["ssim"] < 0.9 < same["ssim"]
    assert found["tv"] > same["tv"]
    assert found["sam"] > 0.05 > same["sam"]
