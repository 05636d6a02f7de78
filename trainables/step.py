"""The training step: in pretraining G alone, in the game D and then G; recorded in a CUDA graph where there is a GPU.

All that changes from step to step (crops, learning rates, adversarial weight, clipping norm) lies on the device in a
plan of the next steps, through which the step counts its own way. So no schedule needs a new recording, and the host
says nothing between the plans.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainables.errors import one_line
from trainables.game import discriminator_game, generator_game
from trainables.gpu import precision
from trainables.imagery import Imagery
from trainables.losses import content_loss, probabilities
from trainables.perceptual import bands_at
from trainables.schedules import adversarial_weight, g_warmup
from trainables.state import State

LOSSES = (
    "generator/content_loss",
    "generator/adversarial_loss",
    "generator/total_loss",
    "discriminator/adversarial_loss",
)
OF_D = (  # what else is known of D after its update; the last two where its loss is relativistic
    "discriminator/r1_penalty",
    "discriminator/D(y)_prob",
    "discriminator/D(G(x))_prob",
    "train_metrics/discriminator/D(y)_prob_relativistic",
    "train_metrics/discriminator/D(G(x))_prob_relativistic",
)
FIGURES = (*LOSSES, *OF_D)
IN_PRETRAINING = {"generator/content_loss", "generator/total_loss"}
PLANNED = {"cpu": 1, "cuda": 25}  # steps; asking a GPU for a number waits for it
BY_HAND = 3  # steps of each phase before it is recorded: libraries choose their kernels then

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Losses:
    """FIGURES of consecutive steps from `first_step` on, (steps, 9), on their way to the host."""

    first_step: int
    values: Tensor
    arrived: torch.cuda.Event | None

    def rows(self) -> Tensor:
        """Return the figures on the host; waits for them."""
        if self.arrived is not None:
            self.arrived.synchronize()
        return self.values


def update(state: State, lr: Tensor, hr: Tensor, now: Tensor) -> tuple[Tensor, Tensor]:
    """Make one step. `now` is a row of `_schedule`; returns the FIGURES, (9,), nan where there is none, and G(x)."""
    rate_g, rate_d, weight, clip, averaging = now[:5].unbind()
    losses = torch.full((len(FIGURES),), math.nan, device=hr.device)
    sr = precision.forward(state.generator, lr, state.in_bf16).float()
    training = state.configuration.Training
    content = content_loss(sr, hr, training.Losses, state.perceptual, now[5:])
    total = content
    if state.discriminator is not None:
        losses[3:] = _discriminator_step(state, hr, sr.detach(), rate_d, clip)
        adversarial = generator_game(state.discriminator, hr, sr, training, state.in_bf16)
        total = content + weight.float() * adversarial
        losses[1] = adversarial.detach()
    losses[0], losses[2] = content.detach(), total.detach()
    state.optimizer_g.zero_grad()
    total.backward()
    _move(state.generator, state.optimizer_g, rate_g, clip, state)
    state.average(averaging.float())
    return losses, sr.detach()


def _discriminator_step(state: State, hr: Tensor, sr: Tensor, rate: Tensor, clip: Tensor) -> Tensor:
    """One update of D on real and generated images; returns its loss and OF_D."""
    d, optimizer = state.discriminator, state.optimizer_d
    assert d is not None and optimizer is not None
    d.train().requires_grad_(True)  # whatever a recording that failed left behind
    training = state.configuration.Training
    loss, *logits, penalty = discriminator_game(d, hr, sr, training, state.in_bf16)
    optimizer.zero_grad()
    loss.backward()
    _move(d, optimizer, rate, clip, state)
    real, fake = (answers.detach() for answers in logits)
    none = loss.new_full((), math.nan)
    judged = [answer.mean() for answer in (real.sigmoid(), fake.sigmoid(), *probabilities(real, fake, training.Losses))]
    relativistic = judged[2:] if training.Losses.is_relativistic else [none, none]
    return torch.stack([loss.detach(), penalty.detach(), *judged[:2], *relativistic])


def _move(network: nn.Module, optimizer: torch.optim.Optimizer, rate: Tensor, clip: Tensor, state: State) -> None:
    """One step of Adam at `rate`, with the gradients' norm clipped where the configuration wants it."""
    if state.configuration.Optimizers.gradient_clip_val:
        gradients = [part.grad for part in network.parameters() if part.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        torch._foreach_mul_(gradients, (clip.float() / (norm + 1e-6)).clamp(max=1.0))
    for group in optimizer.param_groups:
        group["lr"].copy_(rate)
    optimizer.step()


def _schedule(state: State, step: int) -> tuple[float, ...]:
    """What holds at the update that makes `step`: rates, adversarial weight, clipping norm, averaging, three bands."""
    configuration = state.configuration
    return (
        state.plateau_g.rate * g_warmup(step, configuration),
        state.plateau_d.rate,
        adversarial_weight(step, configuration),
        configuration.Optimizers.gradient_clip_val,
        state.averaging(step),
        *bands_at(step, configuration),
    )


class Stepper:
    """Makes a training's steps, by hand or by replaying their recording; `last` is the newest (G(x), hr) batch."""

    last: tuple[Tensor, Tensor]

    def __init__(self, state: State, imagery: Imagery) -> None:
        self._state, self._imagery = state, imagery
        training, device = state.configuration.Training, state.device
        self._size = state.configuration.Data.train_batch_size
        self._planned = PLANNED[device.type]
        self._on_gpu = device.type == "cuda"
        kind = torch.float32 if self._on_gpu else torch.float64
        self._rows = torch.zeros((self._planned, len(_schedule(state, 1))), dtype=kind, device=device)
        self._crops = torch.zeros((self._planned, self._size, 5), dtype=torch.int32, device=device)
        self._losses = torch.zeros((self._planned, len(FIGURES)), device=device)
        self._at = torch.zeros(1, dtype=torch.long, device=device)
        self._feed = None if imagery.resident else _Feed(state, imagery)
        self._record = self._on_gpu and training.cuda_graphs
        self._stream = torch.cuda.Stream(device) if self._record else None
        self._graph: torch.cuda.CUDAGraph | None = None
        self._made = 0  # steps of this phase
        if self._on_gpu:
            torch.backends.cudnn.benchmark = not training.deterministic
            torch.backends.cudnn.deterministic = training.deterministic

    def run(self, upto: int) -> Iterator[Losses]:
        """Train to step `upto`, a plan at a time; yields each plan's losses without waiting for them."""
        state, pretraining = self._state, self._state.configuration.Training.pretrain_steps
        while state.step < upto:
            if state.step == pretraining:
                self._begin_game()
            phase_end = pretraining if state.step < pretraining else upto
            count = min(self._planned, upto - state.step, phase_end - state.step)
            first = state.step + 1
            self._plan(range(state.step, state.step + count))
            for _ in range(count):
                self._step()
                state.step += 1
            values, arrived = self._losses[:count].to("cpu", non_blocking=True, copy=True), None
            if self._on_gpu:
                arrived = torch.cuda.Event()
                arrived.record()
            yield Losses(first, values, arrived)

    def _begin_game(self) -> None:
        if self._state.discriminator is None:
            self._state.begin_game()
        self._made, self._graph = 0, None
        if self._on_gpu:
            torch.cuda.empty_cache()  # what pretraining's recording held

    def _plan(self, steps: range) -> None:
        """Write down, on the device, what the next steps are."""
        state, seed = self._state, self._state.configuration.Training.seed
        rows = torch.tensor([_schedule(state, step + 1) for step in steps], dtype=self._rows.dtype)
        self._put(rows, self._rows)
        if self._feed is None:
            self._put(self._imagery.crops(seed, "train", steps, self._size), self._crops)
        self._at.zero_()

    def _put(self, values: Tensor, place: Tensor) -> None:
        values = values.pin_memory() if self._on_gpu else values
        place[: len(values)].copy_(values, non_blocking=True)

    def _step(self) -> None:
        if self._feed is not None:
            self._feed.next()
        if self._record and self._graph is None and self._made >= BY_HAND:
            self._try_to_record()
        if self._graph is not None:
            self._graph.replay()
        elif self._stream is None:
            self._once()
        else:
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                self._once()
            torch.cuda.current_stream().wait_stream(self._stream)
        self._made += 1

    def _once(self) -> None:
        now = self._rows.index_select(0, self._at)[0]
        if self._feed is not None:
            lr, hr = self._feed.batch
        else:
            lr, hr = self._imagery.gather(self._crops.index_select(0, self._at)[0])
        losses, sr = update(self._state, lr, hr, now)
        self._losses.index_copy_(0, self._at, losses[None])
        self._at += 1
        self.last = sr, hr

    def _try_to_record(self) -> None:
        """Record the step; where that fails, training goes on by hand and the log says why."""
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                self._once()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self._record, self._stream = False, None
            torch.cuda.synchronize()
            _log.warning("no CUDA graph, training goes on without: %s", one_line(error))
        else:
            self._graph = graph


class _Feed:
    """Batches of scenes that stay in the host's memory: cut ahead in a thread, copied beside the training."""

    def __init__(self, state: State, imagery: Imagery) -> None:
        self._state, self._imagery = state, imagery
        data = state.configuration.Data
        self._size, self._ahead = data.train_batch_size, max(1, data.prefetch_factor or 1)
        self._thread = ThreadPoolExecutor(1)
        self._coming: dict[int, Future[tuple[Tensor, Tensor]]] = {}
        layout = torch.channels_last if state.device.type == "cuda" else torch.contiguous_format
        lr, hr = (part.to(state.device).contiguous(memory_format=layout) for part in self._cut(state.step))
        self.batch = lr, hr

    def next(self) -> None:
        """Put the batch of the coming step in its place."""
        step = self._state.step
        for ahead in range(step, step + self._ahead + 1):
            if ahead not in self._coming:
                self._coming[ahead] = self._thread.submit(self._cut, ahead)
        for place, part in zip(self.batch, self._coming.pop(step).result(), strict=True):
            place.copy_(part, non_blocking=True)

    def _cut(self, step: int) -> tuple[Tensor, Tensor]:
        seed = self._state.configuration.Training.seed
        lr, hr = self._imagery.gather(self._imagery.crops(seed, "train", [step], self._size)[0])
        pinned = self._state.device.type == "cuda"
        return (lr.pin_memory(), hr.pin_memory()) if pinned else (lr, hr)
