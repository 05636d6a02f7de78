"""Best responses and their controls: what either side gains, measured another way; and that nobody notices."""

import copy
import math
from itertools import islice

import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.support.tiny import begun, everything, same, tiny
from trainables import responses
from trainables.probes import (
    CONTROLS,
    GAIN_D,
    GAIN_G,
    GAIN_G_IGNORANT,
    GAIN_G_PRETRAINED,
    P_G_MOVED,
    PSNR_MOVED,
    RANK_MOVED,
    failed,
)
from trainables.responses import probes, value
from trainables.trainer import train

EMA = {"Training.EMA.enabled": True, "Training.EMA.update_after_step": 1}
ALIVE = {"Optimizers.optim_d_lr": 2e-3, "Discriminator.base_channels": 16, "Training.Losses.adv_loss_beta": 0.1}
ALIVE |= {"Training.g_pretrain_steps": 40}


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """D's longer responses, which are the shorter ones gone on with, cost the most."""
    monkeypatch.setattr(responses, "LONG_RESPONSE_STEPS", 110)


def played(readings, **dotted):
    """A training after that many readings, and its imagery."""
    state, imagery = begun(**dotted)
    list(islice(train(state, imagery), readings))
    return state, imagery


def test_the_value_by_hand():
    training = tiny(**{"Training.label_smoothing": 0.9}).Training
    real, fake = np.array([[0.3], [1.2], [-0.4]]), np.array([[-0.7], [0.1], [-2.0]])

    def found(training, y=real, g=fake):
        return value(torch.tensor(y), torch.tensor(g), training)

    def logarithm(p, alpha):
        return alpha * np.log(p) + (1 - alpha) * np.log(1 - p)

    p_y, p_g = 1 / (1 + np.exp(-real)), 1 / (1 + np.exp(-fake))
    assert found(training) == pytest.approx((logarithm(p_y, 0.9).mean() + np.log(1 - p_g).mean()) / 2)
    assert found(training, 0 * real, 0 * fake) == pytest.approx(-math.log(2))
    plain = tiny(**{"Training.label_smoothing": False}).Training
    assert found(plain, real + 50, fake - 50) == pytest.approx(0)
    relative = tiny(**{"Training.label_smoothing": False, "Training.Losses.relativistic_average_d": True}).Training
    r_y, r_g = 1 / (1 + np.exp(-(real - fake.mean()))), 1 / (1 + np.exp(-(fake - real.mean())))
    assert found(relative) == pytest.approx((np.log(r_y).mean() + np.log(1 - r_g).mean()) / 2)
    assert found(relative, real + 7, fake + 7) == pytest.approx(found(relative))
    assert found(relative, 0 * real, 0 * fake) == pytest.approx(-math.log(2))


def by_hand(generator, moments, state, imagery):
    """What 100 plain steps of Adam make of a generator against D, and what D says: value, mean answer, PSNR."""
    pairs, d = imagery.pairs, copy.deepcopy(state.discriminator).eval()

    def judged():
        with torch.no_grad():
            images, real = generator(pairs.lr), d(pairs.hr).double()
            fake = d(images).double()
        of_real = 0.9 * functional.logsigmoid(real) + 0.1 * functional.logsigmoid(-real)
        error = (images - pairs.hr).square().mean()
        return np.array([
            float(of_real.mean() + functional.logsigmoid(-fake).mean()) / 2,
            float(fake.sigmoid().mean()),
            -10 * math.log10(error),
        ])  # fmt: skip

    generator = copy.deepcopy(generator).requires_grad_(True)
    optimizer = torch.optim.Adam(generator.parameters(), lr=1e-3, betas=(0.5, 0.99), eps=1e-7)
    for part, known in zip(generator.parameters(), state.generator.parameters(), strict=True):
        if moments:
            optimizer.state[part] = {k: v.clone() for k, v in state.optimizer_g.state[known].items()}
    before = judged()
    for step in range(state.step * 100, state.step * 100 + 100):
        lr, hr = imagery.batch(0, "best response of G", step, 4)
        sr = generator(lr)
        loss = (sr - hr).abs().mean() + 0.1 * functional.softplus(-d(sr)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return judged() - before


@pytest.mark.parametrize("ema", [{}, EMA], ids=["plain", "ema"])
def test_gs_response_is_a_hundred_steps_of_adam_on_its_whole_loss_against_a_frozen_d(ema):
    state, imagery = played(24, **ALIVE, **ema)
    found = probes(state, imagery)
    moved = by_hand(state.judged, True, state, imagery)
    assert [-found[GAIN_G], found[P_G_MOVED], found[PSNR_MOVED]] == pytest.approx(moved, rel=0.01, abs=1e-4)
    easy = by_hand(state.pretrained, False, state, imagery)
    assert found[GAIN_G_PRETRAINED] == pytest.approx(-easy[0], rel=0.01, abs=1e-4)


def test_both_sides_gain_where_g_is_only_pretrained():
    state, imagery = played(24, **ALIVE)
    state.generator.load_state_dict(state.pretrained.state_dict())
    found = probes(state, imagery)
    assert found[GAIN_D] > 0.01
    assert found[GAIN_G] > 0.01
    assert found[P_G_MOVED] > 0.02 and found[RANK_MOVED] < -0.05
    assert failed(GAIN_G, found) == ""


def test_nothing_is_gained_from_a_dead_discriminator_and_the_control_says_so():
    state, imagery = played(24, **ALIVE | {"Optimizers.optim_d_lr": 1e-12})
    found = probes(state, imagery)
    assert abs(found[GAIN_G]) < 0.01 and abs(found[GAIN_D]) < 0.01
    assert failed(GAIN_G, found).startswith("gain of the generator from before the game 0.00011, wanted at least 0.01")
    assert failed(GAIN_D, found).startswith(
        "rank of real over bicubic 0.44, wanted at least 0.95; rank of real over other real 0.68"
    )


def test_what_content_alone_would_gain_is_no_answer_to_d_and_the_control_says_so():
    state, imagery = played(24, **ALIVE)
    with torch.no_grad():
        state.generator.last.conv.bias += 0.1  # a cast, which D learns to see and the content loss takes away
    knowing, optimizer = responses._warm_d(state)
    responses._respond(knowing, optimizer, "generated", range(400), state, imagery)
    state.discriminator = knowing
    found = probes(state, imagery)
    assert found[GAIN_G_PRETRAINED] > 0.01
    assert found[GAIN_G_IGNORANT] > 0.01
    assert failed(GAIN_G, found).startswith("gain against an ignorant discriminator")


def test_a_responses_gradients_are_clipped_as_the_trainings_are():
    for clip in (0.0, 1e-3):
        state, imagery = played(4, **{"Optimizers.gradient_clip_val": clip})
        d, g = responses._warm_d(state), responses._warm_g(state)
        responses._respond(*d, "generated", range(1), state, imagery)
        responses._response_of_g(*g, state.discriminator, state, imagery)
        for network, _ in (d, g):
            norm = torch.stack([part.grad.norm() for part in network.parameters()]).norm()
            assert norm <= 1.001e-3 if clip else norm > 2e-3


NETWORKS = {
    "own": EMA,
    "batch norms": {"Generator.block_type": "standard", "Generator.bicubic_skip": False},
    "norms of both": EMA | {"Generator.block_type": "standard", "Discriminator.model_type": "standard",
        "Discriminator.norm": True, "Discriminator.n_blocks": 2, "Generator.bicubic_skip": False},
    "noise": {"Generator.model_type": "stochasticgan", "Generator.bicubic_skip": False, "Generator.noise_dim": 8},
    "relativistic, R1": {"Training.Losses.relativistic_average_d": True, "Training.Losses.r1_gamma": 1.0},
}  # fmt: skip


@pytest.mark.parametrize("networks", NETWORKS.values(), ids=NETWORKS)
def test_probing_changes_nothing_and_the_training_goes_on_to_the_same_bits(networks, monkeypatch):
    monkeypatch.setattr(responses, "BEST_RESPONSE_STEPS", 3)
    monkeypatch.setattr(responses, "LONG_RESPONSE_STEPS", 4)
    state, imagery = played(4, **networks)
    before, modes, draws = everything(state), [part.training for part in parts(state)], torch.get_rng_state()
    found = probes(state, imagery)
    assert all(math.isfinite(figure) for figure in found.values())
    assert same(before, everything(state))
    assert modes == [part.training for part in parts(state)]
    assert torch.equal(draws, torch.get_rng_state())
    assert probes(state, imagery) == found
    list(islice(train(state, imagery), 1))
    undisturbed, _ = played(5, **networks)
    assert same(everything(undisturbed), everything(state))


def parts(state):
    networks = (state.generator, state.discriminator, state.averaged, state.pretrained)
    return [part for network in networks if network is not None for part in network.modules()]


def test_a_probe_has_measured_nothing_where_a_control_fails_or_is_missing():
    good = {f"nash/probe/{name}_bicubic": 0.95 for name in ("warm_100", "warm_300", "fresh_300")}
    good |= {f"nash/probe/{name}_real": 0.6 for name in ("warm_100", "warm_300", "fresh_300")}
    good |= {GAIN_G_PRETRAINED: 0.01, GAIN_G_IGNORANT: 0.01}
    assert not any(failed(probe, good) for probe in CONTROLS)
    for figure, bad in (("warm_300_bicubic", 0.94), ("warm_300_real", 0.61), ("warm_300_real", 0.39)):
        found = good | {f"nash/probe/{figure}": bad}
        assert [probe for probe in CONTROLS if failed(probe, found)] == ["nash/probe/warm_300"]
    assert failed(GAIN_D, good | {"nash/probe/warm_100_real": 0.3}) == (
        "rank of real over other real 0.3, wanted at least 0.4 and at most 0.6"
    )
    for figure, bad in ((GAIN_G_PRETRAINED, 0.009), (GAIN_G_IGNORANT, 0.011), (GAIN_G_IGNORANT, math.nan)):
        assert [probe for probe in CONTROLS if failed(probe, good | {figure: bad})] == [GAIN_G]
    assert all(failed(probe, {}) for probe in CONTROLS)
