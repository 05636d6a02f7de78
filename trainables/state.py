"""Everything a training mutates, in one object that saves and loads itself."""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from trainables import checkpoints
from trainables.errors import InvalidInput, Problem, one_line
from trainables.networks import Discriminator, Generator, spared
from trainables.perceptual import Perceptual, perceptual_of
from trainables.schedules import ema_decay, plateaus
from trainables.schema import Configuration

Network = TypeVar("Network", bound=nn.Module)


def seed_of(seed: int, part: str) -> int:
    """Return a seed of its own for each part, so that no part's draws depend on what was drawn before."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{part}".encode()).digest()[:7], "big")


class DamagedCheckpoint(InvalidInput):
    """A checkpoint that no training can go on from: of one trial, where other invalid input stops them all."""


class State:
    """Networks, optimisers, schedulers and readings after `step` updates.

    The discriminator and the pretrained generator G₀ exist from the switch to the game on. A training begins from the
    checkpoint its configuration names, unless what it has learnt is to be loaded anyway (`begins` is false).
    """

    def __init__(self, configuration: Configuration, device: torch.device, begins: bool = True) -> None:
        self.configuration = configuration
        self.device = device
        self.step = 0
        self.readings: list[dict[str, float]] = []
        self.scale = [0.0, 1.0]  # the imagery's values that are 0 and 1 here
        self.epoch: dict[str, list[float]] = {}  # of the epoch under way: sums over its steps, and of how many
        self.generator: nn.Module = self.drawn_generator()
        self.optimizer_g = self.optimizer_of_g(self.generator)
        self.averaged = _frozen(self.generator) if configuration.Training.EMA.enabled else None
        self.plateau_g, self.plateau_d = plateaus(configuration)
        self.discriminator: Discriminator | None = None
        self.optimizer_d: torch.optim.Optimizer | None = None
        self.pretrained: nn.Module | None = None
        self.pretrained_images: torch.Tensor | None = None  # what it makes of the detailed held-out pairs; not saved
        self.pictured: torch.Tensor | None = None  # what the last validation made of what is drawn; not saved
        if begins:
            checkpoints.begin(self)
        self.origin = checkpoints.digest_of(configuration)  # the content of what it began from

    def begin_game(self) -> None:
        """Draw the discriminator from hash(seed, "D") and keep the pretrained generator as a control.

        Where the training began from a checkpoint that has a discriminator, its weights are taken; and the generator
        that was loaded is the control where there was no pretraining.
        """
        self._draw_for_game()
        checkpoints.begin_discriminator(self)

    def _draw_for_game(self) -> None:
        configuration = self.configuration
        self.discriminator, self.optimizer_d = self.drawn_discriminator("D", configuration.Optimizers.optim_d_lr)
        was_pretrained = configuration.Training.pretrain_steps or configuration.Model.load_checkpoint
        self.pretrained = _frozen(self.judged) if was_pretrained else None

    def drawn_generator(self) -> nn.Module:
        """Return the generator drawn from hash(seed, "G")."""
        conf = self.configuration
        return _drawn(lambda: Generator(conf.Model.in_bands, conf.Generator), conf, "G", self.device)

    def optimizer_of_g(self, network: nn.Module) -> torch.optim.Optimizer:
        """Return a fresh Adam for a generator."""
        optimizers = self.configuration.Optimizers
        return _adam(network, self.configuration, optimizers.optim_g_lr, optimizers.weight_decay_g)

    def drawn_discriminator(self, part: str, rate: float) -> tuple[Discriminator, torch.optim.Optimizer]:
        """Return a discriminator drawn from hash(seed, part), and its optimiser."""
        conf = self.configuration
        network = _drawn(lambda: Discriminator(conf.Model.in_bands, conf.Discriminator), conf, part, self.device)
        return network, self.optimizer_of_d(network, rate)

    def optimizer_of_d(self, network: Discriminator, rate: float) -> torch.optim.Optimizer:
        """Return a fresh Adam for a discriminator."""
        return _adam(network, self.configuration, rate, self.configuration.Optimizers.weight_decay_d)

    @property
    def in_bf16(self) -> bool:
        """Whether the layers work in bfloat16."""
        return self.configuration.Training.in_bf16(self.device.type)

    @cached_property
    def perceptual(self) -> Perceptual | None:
        """What the content loss's perceptual term measures by; None where its weight is 0."""
        return perceptual_of(self.configuration, self.device)

    @property
    def judged(self) -> nn.Module:
        """The generator that is handed out: the averaged one where there is one."""
        return self.averaged if self.averaged is not None else self.generator

    def averaging(self, step: int) -> float:
        """Return how far the averaged generator moves at the update that makes `step`."""
        return 1 - ema_decay(step, self.configuration)

    @torch.no_grad()
    def average(self, weight: torch.Tensor) -> None:
        """Move the averaged generator towards the generator by `weight`, ()."""
        if self.averaged is not None:
            for mean, now in zip(self.averaged.parameters(), self.generator.parameters(), strict=True):
                mean.lerp_(now, weight)
            for kept, seen in zip(self.averaged.buffers(), self.generator.buffers(), strict=True):
                kept.copy_(seen)  # statistics are means already

    def save(self, path: Path) -> None:
        """Write to a temporary name, then rename: a kill never leaves half a checkpoint."""
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        try:
            torch.save(self.content(), temporary)
            temporary.replace(path)
        except (torch.OutOfMemoryError, torch.AcceleratorError):
            raise  # the device's fault
        except RuntimeError as error:
            raise OSError(
                f"the disk takes no checkpoint ({str(error)[:80]})"
            ) from error  # as torch says that it is full
        finally:
            temporary.unlink(missing_ok=True)

    def content(self) -> dict[str, Any]:
        """Return all of it, as plain containers and tensors."""
        progress = {"step": self.step, "readings": self.readings, "scale": self.scale, "epoch": self.epoch}
        progress |= {"torch": str(torch.__version__)} | ({"origin": self.origin} if self.origin else {})
        return progress | {name: part.state_dict() for name, part in self._parts().items()}

    @classmethod
    def load(cls, path: Path, configuration: Configuration, device: torch.device) -> State:
        """Go on from `save`: trained 4 steps = trained 2, saved, loaded, trained 2. DamagedCheckpoint otherwise."""
        state = cls(configuration, device, begins=False)
        try:
            content = torch.load(path, map_location=device, weights_only=True)
            if state.take(content).content().keys() != content.keys() | {"epoch"}:
                raise ValueError("the parts of another training")
            return state
        except (torch.OutOfMemoryError, torch.AcceleratorError, InvalidInput):
            raise  # the device's fault, or a person's
        except Exception as error:  # what a foreign or broken file makes torch raise is torch's to choose
            found = f"a file that is none ({one_line(error)})"
            fix = "Where it stays so, remove it: the training begins again."
            raise DamagedCheckpoint([Problem(str(path), "", found, "a checkpoint of this training", fix)]) from None

    def take(self, content: dict[str, Any]) -> State:
        """Become what `content` says; what it leaves out, but G, stays. Any exception where it is none."""
        self.step, self.readings, self.scale = _progress(content)
        self.epoch = {name: [float(total), int(count)] for name, (total, count) in content.get("epoch", {}).items()}
        if content.get("origin", self.origin) != self.origin:
            key, place = self.configuration.Model.begins_from or ("Model", "")
            fix = "Put the file back, or begin another training."
            raise InvalidInput([Problem(place, key, "another file", "the one that this training began from", fix)])
        if "discriminator" in content:
            self._draw_for_game()
            if "pretrained" not in content and self.configuration.Model.continue_training:
                self.pretrained = None  # what it was before the game the file did not say
        for name, part in self._parts().items():
            if name in content or name == "generator":
                part.load_state_dict(content[name])
                if isinstance(part, torch.optim.Optimizer):
                    _rate_on(part, self.device)
                    _moments_laid_out(part)
        return self

    def _parts(self) -> dict[str, Any]:
        names = (
            *("generator", "optimizer_g", "averaged", "plateau_g", "plateau_d"),
            *("discriminator", "optimizer_d", "pretrained"),
        )
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


def _progress(content: dict[str, Any]) -> tuple[int, list[dict[str, float]], list[float]]:
    """Step, readings and scale; ValueError where they are none."""
    step, readings, scale = content["step"], content["readings"], content["scale"]
    if not all(isinstance(reading, dict) and "step" in reading for reading in readings):
        raise ValueError("readings that are none")
    numbers = [*scale, *(value for reading in readings for value in reading.values())]
    whole = isinstance(step, int) and step >= 0 and len(scale) == 2
    if not whole or not all(isinstance(number, int | float) for number in numbers):
        raise ValueError("no progress of a training")
    return step, readings, scale


def _drawn(build: Callable[[], Network], configuration: Configuration, part: str, device: torch.device) -> Network:
    """A network whose weights depend on (seed, part) alone; drawn on the CPU, so on every device alike."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(configuration.Training.seed, part))
        network = build()
    placed: Network = network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in torch's stubs
    if device.type == "cuda":
        for name, weight in placed.named_parameters():
            if "parametrizations" in name:  # its norm is that of a matrix, its rows one after another
                weight.data = weight.data.contiguous()
    return placed


def _frozen(network: nn.Module) -> nn.Module:
    return copy.deepcopy(network).requires_grad_(False).eval()


def _adam(network: nn.Module, configuration: Configuration, rate: float, decay: float) -> torch.optim.Optimizer:
    settings = configuration.Optimizers
    betas = settings.betas[0], settings.betas[1]
    groups = [{"params": parts, "weight_decay": share} for parts, share in _decayed(network, decay) if parts]
    optimizer = torch.optim.Adam(groups, lr=rate, betas=betas, eps=settings.eps, fused=True)
    _rate_on(optimizer, next(network.parameters()).device)
    return optimizer


def _decayed(network: nn.Module, decay: float) -> list[tuple[list[nn.Parameter], float]]:
    """Weights, and biases and norms, which are spared."""
    without = spared(network)
    return [
        ([part for name, part in network.named_parameters() if (name in without) == last], 0.0 if last else decay)
        for last in (False, True)
    ]


def _moments_laid_out(optimizer: torch.optim.Optimizer) -> None:
    """Moments in their weights' memory layout, which another device may have had otherwise: fused Adam walks memory."""
    for weight, moments in optimizer.state.items():
        for name, value in moments.items():
            if value.shape == weight.shape:
                moments[name] = torch.empty_like(weight).copy_(value)


def _rate_on(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """The learning rate as a number on the device, where a recorded step can read it and a schedule write it."""
    kind = torch.float32 if device.type == "cuda" else torch.float64
    for group in optimizer.param_groups:
        group["lr"] = torch.as_tensor(group["lr"], dtype=kind, device=device).clone()
        group["capturable"] = device.type == "cuda"
