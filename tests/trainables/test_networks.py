"""Networks and losses: shapes, where they start, and figures worked out by hand."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.support.tiny import textured, tiny
from trainables.gpu.noise import normal
from trainables.losses import (
    discriminator_loss,
    generator_adversarial_loss,
    probabilities,
    psnr,
    r1_penalty,
    spectral_angle,
    total_variation,
)
from trainables.networks import Discriminator, Generator


def generator(bands=3, **changes):
    torch.manual_seed(0)
    settings = {"n_channels": 16, "growth_channels": 4, "noise_dim": 5, "bicubic_skip": False} | changes
    return Generator(bands, tiny(**{f"Generator.{key}": value for key, value in settings.items()}).Generator)


def discriminator(model, bands=3, **changes):
    torch.manual_seed(0)
    settings = {"model_type": model, "base_channels": 4, "linear_size": 8} | changes
    configuration = tiny(**{f"Discriminator.{key}": value for key, value in settings.items()}, **{"Data.crop_size": 64})
    return Discriminator(bands, configuration.Discriminator)


KINDS = [{"block_type": block} for block in ("plain", "standard", "res", "rcab", "rrdb", "lka")]
KINDS += [{"model_type": model} for model in ("esrgan", "stochastic_gan")]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: next(iter(kind.values())))
@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("bands", [1, 3, 4, 6])
def test_a_generator_enlarges_any_bands_by_its_factor(kind, factor, bands):
    network = generator(bands, scaling_factor=factor, **kind)
    assert network(torch.rand(2, bands, 5, 7)).shape == (2, bands, 5 * factor, 7 * factor)


def test_noise_is_drawn_anew_in_training_goes_on_with_the_state_and_stands_still_in_evaluation():
    network, lr = generator(model_type="stochastic_gan"), torch.rand(2, 3, 5, 5)
    first, second = network(lr), network(lr)
    assert not torch.equal(first, second)
    kept = copy.deepcopy(network.state_dict())
    third = network(lr)
    network.load_state_dict(kept)
    assert torch.equal(network(lr), third)
    network.eval()
    assert torch.equal(network(lr), network(lr))
    assert not torch.equal(network(lr)[0], network(lr[[0, 0]])[1])  # of two images alike each has noise of its own


def test_normal_numbers_are_normal():
    numbers = normal(torch.tensor(7), 400, 500)
    assert abs(float(numbers.mean())) < 0.01 and abs(float(numbers.std()) - 1) < 0.01
    assert float((numbers.abs() < 1).float().mean()) == pytest.approx(0.6827, abs=0.005)
    assert abs(float((numbers[:, 1:] * numbers[:, :-1]).mean())) < 0.01
    assert not torch.equal(numbers, normal(torch.tensor(8), 400, 500))


@pytest.mark.parametrize("model", ["srresnet", "esrgan"])
@pytest.mark.parametrize("factor", [2, 4, 8])
def test_with_bicubic_skip_a_generator_starts_as_bicubic(model, factor):
    lr = torch.from_numpy(textured())[None, :, :24, :24]
    bicubic = functional.interpolate(lr, scale_factor=factor, mode="bicubic")
    started = generator(model_type=model, scaling_factor=factor, bicubic_skip=True)(lr)
    assert 0 < (started - bicubic).abs().max() < 1e-2
    assert (generator(model_type=model, scaling_factor=factor)(lr) - bicubic).abs().max() > 1e-2


@pytest.mark.parametrize("model", ["srresnet", "esrgan"])
@pytest.mark.parametrize("factor", [2, 8])
def test_icnr_starts_as_nearest_neighbour_repetition(factor, model):
    features = torch.rand(1, 16, 5, 5)
    for use_icnr in (True, False):
        first = generator(model_type=model, use_icnr=use_icnr, scaling_factor=factor).up[0](features)
        repeated = first[..., ::2, ::2].repeat_interleave(2, -1).repeat_interleave(2, -2)
        assert torch.allclose(first, repeated, atol=1e-6) == use_icnr


@pytest.mark.parametrize("model", ["standard", "patchgan", "esrgan"])
@pytest.mark.parametrize("bands", [1, 3, 4, 6])
@pytest.mark.parametrize("crop", [32, 48, 64])
def test_a_discriminator_gives_one_logit_an_image(model, bands, crop):
    network = discriminator(model, bands)
    images = torch.rand(5, bands, crop, crop)
    logits = network.eval()(images)
    assert logits.shape == (5, 1)
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


def test_a_patchgan_judges_every_patch():
    logits = discriminator("patchgan", n_blocks=3, norm=True, per_patch=True)(torch.rand(2, 3, 96, 96))
    assert logits.shape == (2, 10 * 10)


@pytest.mark.parametrize("model", ["standard", "patchgan", "esrgan"])
def test_norms_are_there_where_they_are_asked_for(model):
    def norms(norm):
        kinds = nn.BatchNorm2d, nn.InstanceNorm2d
        return [part for part in discriminator(model, norm=norm).modules() if isinstance(part, kinds)]

    assert norms(True) and not norms(False)
    bare = [*generator().modules(), *generator(model_type="esrgan").modules()]
    assert not [module for module in bare if isinstance(module, nn.modules.batchnorm._BatchNorm)]


@pytest.mark.parametrize("model", ["standard", "patchgan"])
def test_with_norms_widths_are_opensr_srgans(model):
    widths = [
        [
            part.out_channels
            for part in discriminator(model, n_blocks=2, norm=norm).modules()
            if isinstance(part, nn.Conv2d)
        ]
        for norm in (True, False)
    ]
    assert widths[0][0] == 64 and widths[1][0] == 4


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
    angle = spectral_angle(sr, image)
    angle.backward()
    assert sr.grad.isfinite().all()
    assert float(angle.detach()) == pytest.approx(0.00049 if image.any() else np.pi / 2, abs=1e-4)


def test_total_variation_by_hand():
    image = torch.tensor([[[[0.0, 1.0, 1.0], [0.5, 0.5, 0.0]]]])
    down, across = (0.5 + 0.5 + 1) / 3, (1 + 0 + 0 + 0.5) / 4
    assert float(total_variation(image)) == pytest.approx(down + across)


REAL, FAKE = torch.tensor([[0.0], [2.0]]), torch.tensor([[0.0], [-1.0]])
X, Y = (0.0, 2.0), (0.0, -1.0)


def log_probability(logit):
    return np.log(1 / (1 + np.exp(-logit)))


def losses(**changes):
    return tiny(**{f"Training.Losses.{key}": value for key, value in changes.items()}).Training.Losses


def test_adversarial_losses_by_hand():
    of_real = -np.mean([0.9 * log_probability(x) + 0.1 * log_probability(-x) for x in X])
    of_fake = -np.mean([log_probability(-y) for y in Y])
    found = discriminator_loss(REAL, FAKE, 0.9, losses())
    assert float(found) == pytest.approx((of_real + of_fake) / 2, rel=1e-6)
    fooled = -np.mean([log_probability(y) for y in Y])
    assert float(generator_adversarial_loss(FAKE, None, losses())) == pytest.approx(fooled, rel=1e-6)


def test_relativistic_losses_by_hand():
    # each against the other's mean: real 1, generated -0.5
    of_real = -np.mean([0.9 * log_probability(x + 0.5) + 0.1 * log_probability(-x - 0.5) for x in X])
    of_fake = -np.mean([log_probability(1 - y) for y in Y])
    relativistic = losses(relativistic_average_d=True)
    assert float(discriminator_loss(REAL, FAKE, 0.9, relativistic)) == pytest.approx(of_real + of_fake, rel=1e-6)
    gained = -np.mean([log_probability(y - 1) for y in Y]) - np.mean([log_probability(-x - 0.5) for x in X])
    assert float(generator_adversarial_loss(FAKE, REAL, relativistic)) == pytest.approx(gained / 2, rel=1e-6)
    of_y, of_g = probabilities(REAL, FAKE, relativistic)
    assert of_y.flatten().tolist() == pytest.approx([1 / (1 + np.exp(-x - 0.5)) for x in X])
    assert of_g.flatten().tolist() == pytest.approx([1 / (1 + np.exp(1 - y)) for y in Y])


def test_a_critics_losses_by_hand():
    critic = losses(adv_loss_type="wasserstein")
    assert float(discriminator_loss(REAL, FAKE, 0.9, critic)) == pytest.approx(-0.5 - 1.0)
    assert float(generator_adversarial_loss(FAKE, None, critic)) == pytest.approx(0.5)


def test_the_r1_penalty_is_that_of_the_gradient():
    slope = torch.arange(12.0).view(1, 3, 2, 2) / 10
    images = torch.rand(5, 3, 2, 2).requires_grad_()
    answers = (images * slope).sum((1, 2, 3))
    assert float(r1_penalty(answers, images, 3.0)) == pytest.approx(1.5 * float(slope.square().sum()))


def test_balance_points():
    assert tiny().Training.balance_point == 0.45
    assert tiny(**{"Training.label_smoothing": False}).Training.balance_point == 0.5
    assert tiny(**{"Training.Losses.relativistic_average_d": True}).Training.balance_point == 0.5
    assert np.isnan(tiny(**{"Training.Losses.adv_loss_type": "wasserstein"}).Training.balance_point)


def test_psnr_by_hand():
    hr = torch.zeros(2, 1, 2, 2)
    sr = hr.clone()
    sr[0] = 0.2  # mean squared error over both images 0.02
    assert float(psnr(sr, hr, 1.0)) == pytest.approx(10 * np.log10(1 / 0.02), rel=1e-6)
    assert float(psnr(sr, hr, 2.0)) == pytest.approx(10 * np.log10(4 / 0.02), rel=1e-6)
