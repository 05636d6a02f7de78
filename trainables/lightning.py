"""opensr-srgan's Lightning checkpoints: what of a training is in one, and one made of a training here.

A step here is a batch there, where `global_step` counts the optimisers' steps: one a batch in pretraining, two in the
game.
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from trainables.export import why_not
from trainables.names import parts, to_opensr, twin
from trainables.networks import spared
from trainables.perceptual import Lpips, Vgg
from trainables.schedules import Plateau, g_warmup
from trainables.schema import Configuration, DiscriminatorSettings, GeneratorSettings

if TYPE_CHECKING:
    from trainables.state import State

GENERATOR, DISCRIMINATOR = "generator.", "discriminator."
IGNORED = "content_loss_criterion."  # a perceptual network, which no training moves
OPTIMIZERS = {"d": 0, "g": 1}  # their places there, and their plateau schedulers'
VERSION = "2.5.0"  # of Lightning: the layout of what is written here


@dataclass(frozen=True)
class Weights:
    """A network's tensors under a file's names, all of which begin with `prefix`, but for those that belong nowhere."""

    tensors: Mapping[str, Tensor]
    prefix: str = ""


@dataclass(frozen=True)
class Course:
    """Where a training stood: its step, and by network (g, d) the optimiser's state and what its plateau counted."""

    step: int
    optimizers: Mapping[str, Mapping[str, Any]]
    rates: Mapping[str, float]  # what the plateau schedulers left
    counts: Mapping[str, Mapping[str, Any]]
    pretrained: Weights | None = None


@dataclass(frozen=True)
class Found:
    """What a file holds for a training to begin from, or to super-resolve with."""

    foreign: bool  # under opensr-srgan's names
    generator: Weights  # as it was trained
    averaged: Weights | None = None
    discriminator: Weights | None = None
    course: Course | None = None
    scale: tuple[float, float] | None = None  # the values that are 0 and 1
    configuration: Configuration | None = None  # of the training, where the file says it

    @property
    def judged(self) -> Weights:
        """The generator that is handed out: the averaged one where there is one."""
        return self.averaged or self.generator


def read(content: Any) -> Found | None:
    """Return what a loaded file of opensr-srgan's holds: a checkpoint, or a state_dict; None where it is neither.

    Any exception where it looks like one and is none.
    """
    if not isinstance(content, dict):
        return None
    states = content.get("state_dict", content)
    if not isinstance(states, dict) or not states or not all(isinstance(value, Tensor) for value in states.values()):
        return None
    whole = any(name.startswith(GENERATOR) for name in states)
    if not whole and "state_dict" in content:
        raise ValueError("a Lightning checkpoint without a generator, so of another project")
    prefix = GENERATOR if whole else ""
    beside = (DISCRIMINATOR, IGNORED) if whole else ()
    of_d = {name: value for name, value in states.items() if name.startswith(DISCRIMINATOR)}
    return Found(
        foreign=True,
        generator=Weights({name: value for name, value in states.items() if not name.startswith(beside)}, prefix),
        averaged=_averaged(content.get("ema_state")),
        discriminator=Weights(of_d, DISCRIMINATOR) if of_d else None,
        course=_course(content) if content.get("optimizer_states") and "loops" in content else None,
    )


def _averaged(state: Any) -> Weights | None:
    """The averaged generator; None where there is none, or one that was never updated: it is where G began, random."""
    if not state or state.get("num_updates") == 0:
        return None
    return Weights({**state["shadow_params"], **state["shadow_buffers"]})


def _course(content: Mapping[str, Any]) -> Course:
    batches = content["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["completed"]
    optimizers = {which: content["optimizer_states"][place] for which, place in OPTIMIZERS.items()}
    counting = [one for one in content["lr_schedulers"] if "num_bad_epochs" in one]
    return Course(
        step=int(batches),
        optimizers=optimizers,
        rates={which: float(one["param_groups"][0]["lr"]) for which, one in optimizers.items()},
        counts={which: counting[place] for which, place in OPTIMIZERS.items()},
    )


def in_groups(
    network: nn.Module, settings: GeneratorSettings | DiscriminatorSettings, foreign: bool
) -> list[list[str]]:
    """List the names of the weights as an optimiser has them, in two groups: what decays; biases and norms."""
    if foreign:
        named = {name: part.here for name, part in parts(network, settings).items()}
    else:
        named = {name: name for name, _ in network.named_parameters()}
    trained, without = {name for name, _ in network.named_parameters()}, spared(network)
    both = [name for name, here in named.items() if here in trained]
    return [[name for name in both if (named[name] in without) == last] for last in (False, True)]


def write(state: State, path: Path, epoch: int = 0) -> None:
    """Write a training's checkpoint as opensr-srgan does: it loads there strictly, and a Trainer goes on from it.

    `epoch`: how many its data set has been through. ValueError where there is no such network there.
    """
    configuration = state.configuration
    if why := why_not(configuration.Generator) or why_not(configuration.Discriminator):
        raise ValueError(why)
    rates = configuration.Optimizers
    if state.discriminator is None:  # in pretraining: the one that the game would begin with
        state = copy.copy(state)
        state.begin_game()
    d, optimizer_d = state.discriminator, state.optimizer_d
    assert d is not None and optimizer_d is not None
    warmup = configuration.Schedulers.g_warmup_steps
    rate_g = state.plateau_g.rate * g_warmup(state.step + 1, configuration)
    optimizers = [
        _adam(d, configuration.Discriminator, optimizer_d, state.plateau_d.rate, rates.weight_decay_d),
        _adam(state.generator, configuration.Generator, state.optimizer_g, rate_g, rates.weight_decay_g),
    ]
    schedulers = [_counts(state.plateau_d, state.plateau_d.rate), _counts(state.plateau_g, rate_g)]
    if warmup:
        schedulers.append(_warmed(min(state.step, warmup), rates.optim_g_lr, rate_g))
        for group in optimizers[1]["param_groups"]:
            group["initial_lr"] = rates.optim_g_lr
    played = max(0, state.step - configuration.Training.pretrain_steps)
    content = {
        "epoch": epoch,
        "global_step": state.step + played,
        "pytorch-lightning_version": VERSION,
        "state_dict": {
            **{GENERATOR + name: value for name, value in to_opensr(state.generator, configuration.Generator).items()},
            **{DISCRIMINATOR + name: value for name, value in to_opensr(d, configuration.Discriminator).items()},
            **{f"{IGNORED}perceptual_model.{name}": value for name, value in _perceptual(state).items()},
        },
        "loops": {"fit_loop": _loops(state.step, state.step + played, epoch)},
        "callbacks": {},
        "optimizer_states": optimizers,
        "lr_schedulers": schedulers,
    }
    if state.averaged is not None:
        content["ema_state"] = _shadow(state)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        torch.save(_on_cpu(content), temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _perceptual(state: State) -> dict[str, Tensor]:
    """The frozen network of the perceptual term, which a model there has among its own; LPIPS's heads twice."""
    network = state.perceptual.distance if state.perceptual is not None else None
    if isinstance(network, Vgg):
        return {f"truncated_vgg19.{name}": value for name, value in network.features.state_dict().items()}
    if not isinstance(network, Lpips):
        return {}
    found = {"scaling_layer.shift": network.shift[None], "scaling_layer.scale": network.spread[None]}
    layers = [place for place, layer in enumerate(network.features) if isinstance(layer, nn.Conv2d)]
    for layer, place in enumerate(layers):
        for name, value in network.features[place].state_dict().items():
            found[f"net.slice{layer + 1}.{place}.{name}"] = value
        for head in (f"lin{layer}", f"lins.{layer}"):
            found[f"{head}.model.1.weight"] = getattr(network, f"head{layer}")
    return found


def _adam(
    network: nn.Module,
    settings: GeneratorSettings | DiscriminatorSettings,
    optimizer: torch.optim.Optimizer,
    rate: float,
    decay: float,
) -> dict[str, Any]:
    """An optimiser's state, its two groups and moments by opensr-srgan's order of a network's weights."""
    twins: dict[str, dict[str, Tensor]] = {}
    for moment in ("exp_avg", "exp_avg_sq"):
        copied = twin(network)
        for own, place in zip(network.parameters(), copied.parameters(), strict=True):
            if own in optimizer.state:
                place.copy_(optimizer.state[own][moment])
        twins[moment] = to_opensr(copied, settings)
    named = dict(network.named_parameters())
    weights: dict[str, Tensor] = {}
    moments: dict[str, dict[str, Tensor]] = {}
    for name, part in parts(network, settings).items():
        if part.here in named:
            weights[name] = part.value.detach()
            if saved := optimizer.state.get(named[part.here]):
                moments[name] = {"step": torch.tensor(float(saved["step"]))}
                moments[name] |= {which: of[name] for which, of in twins.items()}
    options = optimizer.param_groups[0]
    groups = [
        {"params": [weights[name] for name in names], "weight_decay": share}
        for names, share in zip(in_groups(network, settings, foreign=True), (decay, 0.0), strict=True)
    ]
    there = torch.optim.Adam(groups, lr=rate, betas=options["betas"], eps=options["eps"])
    for name, saved in moments.items():
        there.state[weights[name]] = saved
    state: dict[str, Any] = there.state_dict()
    return state


def _counts(plateau: Plateau, rate: float) -> dict[str, Any]:
    """A plateau scheduler's state: there it has two groups, and takes less for better whatever it watches."""
    counts = plateau.state_dict()["scheduler"]
    counts = {**counts, "min_lrs": counts["min_lrs"] * 2, "_last_lr": [rate, rate]}
    if plateau.mode != "min":
        counts |= {"mode": "min", "mode_worse": math.inf, "best": math.inf, "num_bad_epochs": 0, "cooldown_counter": 0}
    return counts


def _warmed(updates: int, base: float, rate: float) -> dict[str, Any]:
    """The state of G's warm-up after so many updates, torch's LambdaLR."""
    counted = {"base_lrs": [base] * 2, "last_epoch": updates, "_step_count": updates + 1, "_last_lr": [rate] * 2}
    return {**counted, "_get_lr_called_within_step": False, "lr_lambdas": [None, None]}


def _shadow(state: State) -> dict[str, Any]:
    """The averaged generator."""
    assert state.averaged is not None
    settings, ema = state.configuration.Generator, state.configuration.Training.EMA
    named = parts(state.averaged, settings)
    weights, trained = to_opensr(state.averaged, settings), {name for name, _ in state.averaged.named_parameters()}
    updates = max(0, state.step - ema.update_after_step)
    return {
        "decay": ema.decay,
        "num_updates": updates if ema.use_num_updates else None,
        "device": "cpu",
        "shadow_params": {name: weights[name] for name, part in named.items() if part.here in trained},
        "shadow_buffers": {name: weights[name] for name, part in named.items() if part.here not in trained},
    }


def _loops(batches: int, steps: int, epoch: int) -> dict[str, Any]:
    """What Lightning's fit loop goes on from: batches and optimisers' steps so far, at an epoch's end."""

    def progress(count: int, keys: Iterable[str] = ("ready", "completed", "started", "processed")) -> dict[str, Any]:
        return {which: dict.fromkeys(keys, count) for which in ("total", "current")}

    short = ("ready", "completed")
    automatic = {"optimizer": {"step": progress(0, short), "zero_grad": progress(0, ("ready", "completed", "started"))}}
    return copy.deepcopy(
        {
            "state_dict": {},
            "epoch_loop.state_dict": {"_batches_that_stepped": batches},
            "epoch_loop.batch_progress": {**progress(batches), "is_last_batch": True},
            "epoch_loop.scheduler_progress": progress(0, short),
            "epoch_loop.automatic_optimization.state_dict": {},
            "epoch_loop.automatic_optimization.optim_progress": automatic,
            "epoch_loop.manual_optimization.state_dict": {},
            "epoch_loop.manual_optimization.optim_step_progress": progress(steps, short),
            "epoch_loop.val_loop.state_dict": {},
            "epoch_loop.val_loop.batch_progress": {**progress(0), "is_last_batch": False},
            "epoch_progress": progress(epoch),
        }
    )


def _on_cpu(value: Any) -> Any:
    """The same, its tensors in the host's memory, one row after another: whoever reads it may have no GPU."""
    if isinstance(value, Tensor):
        return value.cpu().contiguous()
    if isinstance(value, dict):
        return {key: _on_cpu(part) for key, part in value.items()}
    return [_on_cpu(part) for part in value] if isinstance(value, list) else value
