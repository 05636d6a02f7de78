"""The guide's schedules at named steps, and the one writer of each rate in a real training."""

from itertools import islice

import numpy as np
import pytest
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from tests.support.tiny import begun, tiny
from trainables.schedules import Plateau, adversarial_weight, g_warmup, phase
from trainables.trainer import train

QUARTER = 0.14644661  # half a cosine, a quarter of its way: (1 - cos 45°) / 2


@pytest.mark.parametrize(
    ("step", "linear", "cosine"),
    [(1, 0.05, 0.05), (6, 0.06, 0.05), (25, 0.25, QUARTER), (50, 0.5, 0.5), (100, 1, 1), (101, 1, 1), (9999, 1, 1)],
)
def test_warmup(step, linear, cosine):
    def factor(steps, curve):
        return g_warmup(step, tiny(**{"Schedulers.g_warmup_steps": steps, "Schedulers.g_warmup_type": curve}))

    assert factor(100, "linear") == pytest.approx(linear)
    assert factor(100, "cosine") == pytest.approx(cosine, rel=1e-5)
    assert factor(0, "cosine") == factor(100, "none") == 1


@pytest.mark.parametrize(
    ("step", "linear", "cosine"),
    # at its k-th step the ramp is at the middle of it, (k − ½) / 40, as opensr-srgan's is
    [(10, 0, 0), (11, 0.0125, 0.000385482), (20, 0.2375, 0.13283875), (30, 0.4875, 0.480374), (50, 0.9875, 0.999614)]
    + [(51, 1, 1), (90, 1, 1)],
)
def test_adversarial_weight_is_0_in_pretraining_then_ramped(step, linear, cosine):
    values = {"Training.g_pretrain_steps": 10, "Training.adv_loss_ramp_steps": 40, "Training.Losses.adv_loss_beta": 0.2}
    for curve, share in (("linear", linear), ("cosine", cosine)):
        configuration = tiny(**values, **{"Training.Losses.adv_loss_schedule": curve})
        assert adversarial_weight(step, configuration) == pytest.approx(0.2 * share, rel=1e-5)


def test_adversarial_weight_without_ramp_and_without_pretraining():
    values = {"Training.Losses.adv_loss_beta": 0.2, "Training.Losses.adv_loss_schedule": "linear"}
    at_once = tiny(**values, **{"Training.adv_loss_ramp_steps": 0})
    assert [adversarial_weight(step, at_once) for step in (4, 5)] == [0, 0.2]
    from_the_start = tiny(**values, **{"Training.pretrain_g_only": False})
    assert [adversarial_weight(step, from_the_start) for step in (1, 2, 4)] == pytest.approx([0.025, 0.075, 0.175])


def test_phases():
    configuration = tiny(**{"Schedulers.g_warmup_steps": 3})
    phases = [phase(step, configuration) for step in (1, 2, 3, 4, 5, 7, 8, 100)]
    assert phases == ["warm-up"] * 2 + ["pretraining"] * 2 + ["ramp"] * 2 + ["game"] * 2


def cuts(values, metric="val_metrics/l1", patience=2, **schedulers):
    """At which validations, counted from 1, a plateau scheduler cuts."""
    plateau = Plateau(1.0, 0.5, patience, metric, tiny(**{f"Schedulers.{k}": v for k, v in schedulers.items()}))
    found = []
    for validation, value in enumerate(values, start=1):
        before = plateau.cuts
        plateau.watch(value)
        found += [validation] * (plateau.cuts - before)
    return found


def test_a_plateau_cuts_when_patience_is_exceeded():
    assert cuts([1.0] * 10) == [4, 7, 10]
    assert cuts([1.0] * 10, patience=0) == list(range(2, 11))
    assert cuts([1.0] * 10, cooldown=3) == [4, 10]
    assert cuts([1, 1, 1, 0.5, 1, 1, 1, 1]) == [7]
    slowly_falling = [1 - 0.00005 * i for i in range(5)]
    assert cuts(slowly_falling, threshold=1e-4, patience=1) == [3]
    assert cuts(slowly_falling, threshold=1e-6, patience=1) == []


@pytest.mark.parametrize("metric", ["val_metrics/psnr", "val_metrics/ssim", "train_metrics/psnr", "nash/psnr"])
def test_psnr_and_ssim_are_better_when_higher_and_losses_when_lower(metric):
    rising = [float(i) for i in range(1, 9)]
    assert cuts(rising, metric) == cuts(rising[::-1]) == []
    assert cuts(rising[::-1], metric) == cuts(rising) == [4, 7]


@pytest.mark.parametrize("metric", ["val_metrics/l1", "val_metrics/ssim"])
@pytest.mark.parametrize(
    ("patience", "factor", "threshold", "cooldown", "min_lr"),
    [(0, 0.5, 1e-4, 0, 0.0), (2, 0.1, 0.05, 0, 1e-5), (3, 0.5, 1e-4, 4, 0.0), (1, 0.9, 0.0, 1, 5e-4)],
)
def test_a_plateau_is_torchs_own_and_goes_on_from_its_state(metric, patience, factor, threshold, cooldown, min_lr):
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1e-3)
    own = {"threshold": threshold, "cooldown": cooldown, "min_lr": min_lr}
    mode = "max" if metric.endswith("ssim") else "min"
    reference = ReduceLROnPlateau(optimizer, mode=mode, factor=factor, patience=patience, **own)
    configuration = tiny(**{f"Schedulers.{key}": value for key, value in own.items()})
    plateau = Plateau(1e-3, factor, patience, metric, configuration)
    drops, before = 0, 1e-3
    for value in np.random.default_rng(0).random(60) + np.linspace(1, 0, 60):
        reference.step(value)
        plateau.watch(float(value))
        rate = optimizer.param_groups[0]["lr"]
        drops, before = drops + (rate < before), rate
        assert (plateau.rate, plateau.cuts) == (rate, drops)
        state, plateau = plateau.state_dict(), Plateau(1e-3, factor, patience, metric, configuration)
        plateau.load_state_dict(state)
    assert drops > 1


@pytest.mark.parametrize(("armed", "counted"), [("ramp_end", [0, 0, 0, 1, 2, 3]), ("game", [0, 0, 1, 2, 3, 4])])
def test_a_rate_is_configured_times_warmup_times_plateau(armed, counted):
    # Nothing is better by a factor of 2: every validation that counts is a cut. Game from step 4, ramp to 8.
    values = {"patience_g": 0, "patience_d": 0, "threshold": 2.0, "factor_g": 0.5, "factor_d": 0.25}
    values |= {"g_warmup_steps": 10, "g_warmup_type": "linear", "armed": armed}
    state, imagery = begun(**{f"Schedulers.{key}": value for key, value in values.items()})
    earlier = 0
    for reading, cuts_now in zip(islice(train(state, imagery), 6), counted, strict=True):
        assert (reading["training/plateau_cuts_g"], reading["training/plateau_cuts_d"]) == (cuts_now, cuts_now)
        used = 1e-3 * min(reading["step"] / 10, 1) * 0.5**earlier  # a cut acts from the next update on
        assert reading["lr_generator"] == state.optimizer_g.param_groups[0]["lr"] == pytest.approx(used)
        if reading["step"] > 4:
            assert reading["lr_discriminator"] == state.optimizer_d.param_groups[0]["lr"]
            assert reading["lr_discriminator"] == pytest.approx(1e-3 * 0.25**earlier)
        earlier = cuts_now
