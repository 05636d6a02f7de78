"""Best responses: how far one network gets that trains on alone while the other stands still.

All is done to copies: a training goes on as if nobody had asked.
"""

from __future__ import annotations

import copy

import torch

from trainables.game import discriminator_game, judge_images
from trainables.imagery import Imagery
from trainables.networks import Discriminator, upsample
from trainables.state import State
from trainables.validation import auc, super_resolve

BEST_RESPONSE_STEPS, LONG_RESPONSE_STEPS = 100, 300
FRESH_RATE = 2e-4
OPPONENTS = ("generated", "bicubic", "real")


def best_response(state: State, imagery: Imagery) -> float:
    """Measure exploitability: held-out rank of D copied, trained on for 100 steps at its configured rate, G frozen.

    Warm: its optimiser goes along. 0.5: even then it cannot order real over generated; 1: it always can.
    """
    responder, optimizer = _warm(state)
    return _respond(responder, optimizer, "generated", range(BEST_RESPONSE_STEPS), state, imagery)


def probes(state: State, imagery: Imagery) -> dict[str, float]:
    """Return how far several discriminators get against the frozen G, by their held-out ranks, beside two references.

    Warm: D after 100 and 300 more steps at its configured rate; fresh: a new one after 300 steps at 2e-4 (NASH). The
    same against bicubic images, which all should tell from real ones, and against other real ones, which none can.
    """
    first, second = range(BEST_RESPONSE_STEPS), range(BEST_RESPONSE_STEPS, LONG_RESPONSE_STEPS)
    ranks = {}
    for opponent in OPPONENTS:
        suffix = "" if opponent == "generated" else f"_{opponent}"
        responder, optimizer = _warm(state)
        for name, steps in (("100", first), ("300", second)):
            ranks[f"nash/probe/warm_{name}{suffix}"] = _respond(responder, optimizer, opponent, steps, state, imagery)
        fresh, optimizer = state.drawn_discriminator("probe", FRESH_RATE)
        whole = range(LONG_RESPONSE_STEPS)
        ranks[f"nash/probe/fresh_300{suffix}"] = _respond(fresh, optimizer, opponent, whole, state, imagery)
    return ranks


def _warm(state: State) -> tuple[Discriminator, torch.optim.Optimizer]:
    """D and its optimiser, copied; at the configured rate, whatever the plateau scheduler made of it."""
    assert state.discriminator is not None and state.optimizer_d is not None
    responder = copy.deepcopy(state.discriminator).train()
    rate = state.configuration.Optimizers.optim_d_lr
    optimizer = state.optimizer_of_d(responder, rate)
    optimizer.load_state_dict(copy.deepcopy(state.optimizer_d.state_dict()))
    for group in optimizer.param_groups:
        group["lr"] = rate
    return responder, optimizer


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
    responder.train()
    for step in steps:
        at = state.step * BEST_RESPONSE_STEPS + step
        lr, hr = imagery.batch(seed, "best response", at, size)
        if opponent == "real":
            fake = imagery.batch(seed, "other real", at, size)[1]
        else:
            with torch.no_grad():
                fake = state.judged(lr) if opponent == "generated" else upsample(lr, imagery.factor)
        loss = discriminator_game(responder, hr, fake, configuration.Training, state.in_bf16)[0]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    data = configuration.Data
    real = judge_images(responder, pairs.hr[pairs.detailed], data).mean(1)
    if opponent == "real":
        half = len(real) // 2
        return auc(real[: 2 * half : 2], real[1 : 2 * half : 2])[0]  # neighbours apart: as alike as two samples can be
    images = pairs.bicubic[pairs.detailed]
    if opponent == "generated":
        images = super_resolve(state.judged, pairs.lr[pairs.detailed], data.val_batch_size)
    return auc(real, judge_images(responder, images, data).mean(1))[0]
