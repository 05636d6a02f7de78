"""Best responses: how far one network gets that trains on alone while the other stands still.

All is done to copies: a training goes on as if nobody had asked.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from trainables import probes as names
from trainables.game import discriminator_game, generator_game, judge_images
from trainables.gpu import precision
from trainables.imagery import Imagery
from trainables.losses import content_loss, discriminator_loss, probabilities, psnr
from trainables.networks import Discriminator, upsample
from trainables.perceptual import bands_at
from trainables.schema import TrainingSettings
from trainables.state import State
from trainables.validation import auc, super_resolve

Network = TypeVar("Network", bound=nn.Module)
BEST_RESPONSE_STEPS, LONG_RESPONSE_STEPS = 100, 300
FRESH_RATE = 2e-4
OPPONENTS = ("generated", "bicubic", "real")


def best_response(state: State, imagery: Imagery) -> float:
    """Measure exploitability: held-out rank of D copied, trained on for 100 steps at its configured rate, G frozen.

    Warm: its optimiser goes along. 0.5: even then it cannot order real over generated; 1: it always can.
    """
    responder, optimizer = _warm_d(state)
    return _respond(responder, optimizer, "generated", range(BEST_RESPONSE_STEPS), state, imagery)


def probes(state: State, imagery: Imagery) -> dict[str, float]:
    """Return what either network gains by training on alone, and what the controls of these probes find."""
    now = _outcome(state, imagery, state.judged, _of_d(state))
    return _probes_of_d(state, imagery, now) | _probes_of_g(state, imagery, now)


def value(real: Tensor, fake: Tensor, training: TrainingSettings) -> float:
    """Return the game's value V by D's logits of real and generated images, nats: D raises it, G lowers it.

    Half the value of Goodfellow et al. 2014, eq. 1, as Grnarova et al. 2019 have it, with real images labelled as in
    training: D's loss but for its sign and R1, so that a better D never has less. −0.69 where D guesses, at most 0.
    Relativistic: the mean of both kinds', too. Of a critic: D(y) − D(G(x)).
    """
    share = 0.5 if training.Losses.is_relativistic else 1.0
    return -share * float(discriminator_loss(real, fake, training.real_label, training.Losses))


@dataclass(frozen=True)
class _Outcome:
    """What the game comes to on the held-out pairs: its value, D's mean answer to generated images, rank, PSNR."""

    value: float
    p_g: float
    rank: float
    psnr: float


def _outcome(state: State, imagery: Imagery, generator: nn.Module, d: Discriminator) -> _Outcome:
    """Let a discriminator judge a generator: value and answer over all pairs, rank over the detailed ones."""
    pairs, data, training = imagery.pairs, state.configuration.Data, state.configuration.Training
    images = super_resolve(generator, pairs.lr, data.val_batch_size)
    real, fake = judge_images(d, pairs.hr, data), judge_images(d, images, data)
    return _Outcome(
        value=value(real, fake, training),
        p_g=float(probabilities(real, fake, training.Losses)[1].mean()),
        rank=auc(real.mean(1)[pairs.detailed], fake.mean(1)[pairs.detailed])[0],
        psnr=float(psnr(images, pairs.hr, training.Losses.max_val)),
    )


def _probes_of_d(state: State, imagery: Imagery, now: _Outcome) -> dict[str, float]:
    """How far several discriminators get against the frozen G, by their held-out ranks, beside two controls.

    Warm: D after 100 and 300 more steps at its configured rate; fresh: a new one after 300 steps at 2e-4 (NASH). The
    same against bicubic images, which all should tell from real ones, and against other real ones, which none can.
    """
    first, second = range(BEST_RESPONSE_STEPS), range(BEST_RESPONSE_STEPS, LONG_RESPONSE_STEPS)
    found = {}
    for opponent in OPPONENTS:
        suffix = "" if opponent == "generated" else f"_{opponent}"
        responder, optimizer = _warm_d(state)
        found[names.WARM_100 + suffix] = _respond(responder, optimizer, opponent, first, state, imagery)
        if opponent == "generated":
            found[names.GAIN_D] = _outcome(state, imagery, state.judged, responder).value - now.value
        found[names.WARM_300 + suffix] = _respond(responder, optimizer, opponent, second, state, imagery)
        fresh, optimizer = state.drawn_discriminator("probe", FRESH_RATE)
        whole = range(LONG_RESPONSE_STEPS)
        found[names.FRESH_300 + suffix] = _respond(fresh, optimizer, opponent, whole, state, imagery)
    return found


def _probes_of_g(state: State, imagery: Imagery, now: _Outcome) -> dict[str, float]:
    """What the judged G gains against the frozen D, how far it moves D's answer, what that costs; beside two controls.

    The generator that pretraining left (without one, as it was drawn) has to gain against this D. And a generator
    that trains against a freshly drawn D, which knows nothing, must not: there is nothing to learn of the trained one.
    """
    d = _of_d(state)
    # With EMA the averaged generator goes on: what is gained then is over the pair that is judged, by the steps alone.
    after = _outcome(state, imagery, _response_of_g(*_warm_g(state), d, state, imagery), d)
    ignorant = state.drawn_discriminator("probe", FRESH_RATE)[0]
    placebo = _outcome(state, imagery, _response_of_g(*_warm_g(state), ignorant, state, imagery), d)
    start = state.pretrained if state.pretrained is not None else state.drawn_generator()
    fresh = _copied(start)
    easy = (
        _outcome(state, imagery, start, d),
        _outcome(state, imagery, _response_of_g(fresh, state.optimizer_of_g(fresh), d, state, imagery), d),
    )
    return {
        names.GAIN_G: now.value - after.value,
        names.P_G_MOVED: after.p_g - now.p_g,
        names.RANK_MOVED: after.rank - now.rank,
        names.PSNR_MOVED: after.psnr - now.psnr,
        names.GAIN_G_PRETRAINED: easy[0].value - easy[1].value,
        names.GAIN_G_IGNORANT: now.value - placebo.value,
    }


def _response_of_g(
    responder: nn.Module, optimizer: torch.optim.Optimizer, d: Discriminator, state: State, imagery: Imagery
) -> nn.Module:
    """Train a generator for 100 steps on its full objective, at the final weight, against a D that stands still."""
    training, size = state.configuration.Training, state.configuration.Data.train_batch_size
    d = copy.deepcopy(d)  # in the game each pass moves norms' statistics
    for step in range(BEST_RESPONSE_STEPS):
        at = state.step * BEST_RESPONSE_STEPS + step
        lr, hr = imagery.batch(training.seed, "best response of G", at, size)
        sr = precision.forward(responder, lr, state.in_bf16).float()
        bands = torch.tensor(bands_at(at, state.configuration), device=state.device)
        loss = content_loss(sr, hr, training.Losses, state.perceptual, bands)
        loss = loss + training.Losses.adv_loss_beta * generator_game(d, hr, sr, training, state.in_bf16)
        _descend(loss, responder, optimizer, state)
    return responder


def _descend(loss: Tensor, responder: nn.Module, optimizer: torch.optim.Optimizer, state: State) -> None:
    """One step, its gradients clipped as in training: the moments that came along know no others."""
    optimizer.zero_grad()
    loss.backward()
    if clip := state.configuration.Optimizers.gradient_clip_val:
        nn.utils.clip_grad_norm_(responder.parameters(), clip)
    optimizer.step()


def _of_d(state: State) -> Discriminator:
    assert state.discriminator is not None
    return state.discriminator


def _copied(network: Network) -> Network:
    """A copy that can be trained."""
    return copy.deepcopy(network).train().requires_grad_(True)


def _warm_d(state: State) -> tuple[Discriminator, torch.optim.Optimizer]:
    """D and its optimiser, copied; at the configured rate, whatever the plateau scheduler made of it."""
    responder, rate = _copied(_of_d(state)), state.configuration.Optimizers.optim_d_lr
    assert state.optimizer_d is not None
    return responder, _with_moments(state.optimizer_of_d(responder, rate), state.optimizer_d, rate)


def _warm_g(state: State) -> tuple[nn.Module, torch.optim.Optimizer]:
    """The judged G and the optimiser of the one that plays, copied; at the configured rate."""
    responder = _copied(state.judged)
    rate = state.configuration.Optimizers.optim_g_lr
    return responder, _with_moments(state.optimizer_of_g(responder), state.optimizer_g, rate)


def _with_moments(optimizer: torch.optim.Optimizer, known: torch.optim.Optimizer, rate: float) -> torch.optim.Optimizer:
    """An optimiser that knows what another has seen."""
    optimizer.load_state_dict(copy.deepcopy(known.state_dict()))
    for group in optimizer.param_groups:
        group["lr"] = rate
    return optimizer


def _respond(
    responder: Discriminator,
    optimizer: torch.optim.Optimizer,
    opponent: str,
    steps: range,
    state: State,
    imagery: Imagery,
) -> float:
    """Train a discriminator against an opponent's images; its rank of real over them on the detailed held-out pairs."""
    configuration, pairs = state.configuration, imagery.pairs
    size, seed = configuration.Data.train_batch_size, configuration.Training.seed
    generator = copy.deepcopy(state.judged)  # as the game has it, where its batch norms remember what they saw
    responder.train()
    for step in steps:
        at = state.step * BEST_RESPONSE_STEPS + step
        lr, hr = imagery.batch(seed, "best response", at, size)
        if opponent == "real":
            fake = imagery.batch(seed, "other real", at, size)[1]
        else:
            with torch.no_grad():
                fake = generator(lr) if opponent == "generated" else upsample(lr, imagery.factor)
        loss = discriminator_game(responder, hr, fake, configuration.Training, state.in_bf16)[0]
        _descend(loss, responder, optimizer, state)
    data = configuration.Data
    real = judge_images(responder, pairs.hr[pairs.detailed], data).mean(1)
    if opponent == "real":
        half = len(real) // 2
        return auc(real[: 2 * half : 2], real[1 : 2 * half : 2])[0]  # neighbours apart: as alike as two samples can be
    images = pairs.bicubic[pairs.detailed]
    if opponent == "generated":
        images = super_resolve(state.judged, pairs.lr[pairs.detailed], data.val_batch_size)
    return auc(real, judge_images(responder, images, data).mean(1))[0]
