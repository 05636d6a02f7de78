"""opensr-srgan itself, where it is installed, and what is recorded of it in tests/trainables/opensr (made by `record`).

Weights are made by a formula of their place, so that what is recorded of a network is its tensors' names and shapes and
a sample of its output, not the weights.
"""

from __future__ import annotations

import contextlib
import copy
import csv
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from trainables.dotted import with_values
from trainables.gpu.noise import normal

RECORDED = Path(__file__).parent.parent / "trainables" / "opensr"
GENERATORS = {
    "standard": {"model_type": "SRResNet", "block_type": "standard", "small_kernel_size": 5},
    "res": {"model_type": "SRResNet", "block_type": "res"},
    "rcab": {"model_type": "SRResNet", "block_type": "rcab", "n_channels": 16},
    "rrdb": {"model_type": "SRResNet", "block_type": "rrdb"},
    "lka": {"model_type": "SRResNet", "block_type": "lka"},
    "stochastic_gan": {"model_type": "stochastic_gan", "noise_dim": 4},
    "esrgan": {"model_type": "esrgan", "growth_channels": 4},
}
DISCRIMINATORS = {
    "standard": {"model_type": "standard", "n_blocks": 2, "use_spectral_norm": True},
    "standard without spectral norm": {"model_type": "standard", "n_blocks": 2, "use_spectral_norm": False},
    "patchgan": {"model_type": "patchgan", "n_blocks": 2},
    "esrgan": {"model_type": "esrgan", "base_channels": 1, "linear_size": 2},
}
NOISE = 4  # of the stochastic generator
PAIRS = [
    ("standard", "standard"), ("res", "patchgan"), ("rcab", "standard without spectral norm"), ("rrdb", "patchgan"),
    ("lka", "esrgan"), ("stochastic_gan", "patchgan"), ("esrgan", "esrgan"),
]  # fmt: skip
GAMES: dict[str, dict[str, object]] = {  # what a training may have otherwise
    "relativistic average": {"Training.Losses.relativistic_average_d": True},
    "Wasserstein": {"Training.Losses.adv_loss_type": "wasserstein"},
    "R1": {"Training.Losses.r1_gamma": 1.0},
    "Wasserstein and R1": {"Training.Losses.adv_loss_type": "wasserstein", "Training.Losses.r1_gamma": 1.0},
    "no label smoothing": {"Training.label_smoothing": False},
    "clipped gradients": {"Optimizers.gradient_clip_val": 0.01},
    "weight decay": {"Optimizers.weight_decay_g": 0.1, "Optimizers.weight_decay_d": 0.1},
    "linear ramp, cosine warm-up": {
        "Training.Losses.adv_loss_schedule": "linear",
        "Schedulers.g_warmup_type": "cosine",
    },
}
TEN = 10  # steps of pretraining, and of the game


class Training(NamedTuple):
    """Ten steps of pretraining and ten of the game: by which networks, and what of it is otherwise."""

    generator: str
    discriminator: str
    factor: int = 4
    changes: Mapping[str, object] = {}

    def document(self) -> dict[str, dict[str, object]]:
        """Its file for opensr-srgan."""
        whole = document(
            GENERATORS[self.generator] | {"scaling_factor": self.factor}, DISCRIMINATORS[self.discriminator]
        )
        lengths = {
            "Training.g_pretrain_steps": TEN,
            "Training.adv_loss_ramp_steps": TEN,
            "Schedulers.g_warmup_steps": 5,
        }
        return with_values(whole, lengths | self.changes)

    @property
    def crop(self) -> int:
        """The side of its images."""
        return max(32 if self.discriminator == "esrgan" else 16, 4 * self.factor)

    def batches(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """What it is fed with."""
        return batches(2 * TEN, self.crop, 1, self.factor)


TRAININGS = {
    **{f"{g} x4, {d}": Training(g, d) for g, d in PAIRS},
    **{f"{name}, {d}": Training(g, d, changes=changes) for name, changes in GAMES.items() for g, d in PAIRS[1:2]},
}


class Step(NamedTuple):
    """What a step of a training left: both networks' answers in evaluation mode, its figures and gradients."""

    generator: torch.Tensor
    discriminator: torch.Tensor  # its logits, (2, k)
    figures: dict[str, float]
    gradients: dict[str, dict[str, torch.Tensor]]  # by network, then by the weight's name


def document(generator: dict[str, object], discriminator: dict[str, object]) -> dict[str, dict[str, object]]:
    """A training's file for opensr-srgan: 3 batches of pretraining, then the game; EMA on, warm-up of 20."""
    return {
        "Data": {"train_batch_size": 2, "val_batch_size": 2, "num_workers": 0, "dataset_type": "LRHRFolderDataset",
                 "normalization": "identity"},
        "Model": {"in_bands": 3, "continue_training": False, "load_checkpoint": False},
        "Training": {
            "device": "cpu", "gpus": None, "max_epochs": 1, "val_check_interval": 1.0, "limit_val_batches": 1,
            "pretrain_g_only": True, "g_pretrain_steps": 3, "adv_loss_ramp_steps": 2, "label_smoothing": True,
            "EMA": {"enabled": True, "decay": 0.9, "update_after_step": 0, "use_num_updates": True},
            "Losses": {
                "adv_loss_type": "bce", "relativistic_average_d": False, "adv_loss_beta": 0.1,
                "adv_loss_schedule": "cosine", "r1_gamma": 0.0, "l1_weight": 1.0, "sam_weight": 0.05,
                "perceptual_weight": 0.0, "perceptual_metric": "vgg", "tv_weight": 0.01, "max_val": 1.0, "ssim_win": 11,
            },
        },
        "Generator": {"large_kernel_size": 3, "small_kernel_size": 3, "n_channels": 4, "n_blocks": 1,
                      "scaling_factor": 4} | generator,
        "Discriminator": dict(discriminator),
        # ε above the rounding of a gradient that is 0, a bias's before a norm: Adam makes whole steps of it else
        "Optimizers": {"optim_g_lr": 1e-4, "optim_d_lr": 1e-4, "betas": [0.0, 0.99], "eps": 1e-4,
                       "weight_decay_g": 0.0, "weight_decay_d": 0.0, "gradient_clip_val": 0.0},
        "Schedulers": {"g_warmup_steps": 20, "g_warmup_type": "linear", "metric_g": "val_metrics/l1",
                       "metric_d": "validation/DISC_adversarial_loss", "patience_g": 50, "patience_d": 50,
                       "factor_g": 0.5, "factor_d": 0.5, "threshold": 1e-3, "min_lr": 1e-7},
        "Logging": {"num_val_images": 0, "wandb": {"enabled": False, "entity": None, "project": "x"}},
    }  # fmt: skip


def values(shape: torch.Size | tuple[int, ...] | list[int], phase: float) -> torch.Tensor:
    """Numbers in ±1 that depend on their place alone, in float32."""
    count = int(torch.Size(shape).numel())
    return torch.sin(torch.arange(count, dtype=torch.float64) * 12.9898 + phase).float().reshape(shape)


def made_up(shapes: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    """A network's state by the names and shapes of its tensors: of the size that keeps an image's, norms positive."""
    state: dict[str, torch.Tensor] = {}
    for index, (name, shape) in enumerate(shapes.items()):
        number = values(shape, index)
        if name.endswith("num_batches_tracked"):
            number = torch.tensor(7)
        elif name.endswith("running_var"):
            number = 1 + number / 2
        elif len(shape) > 1:
            number = number / torch.Size(shape[1:]).numel() ** 0.5
        elif not name.endswith("bias"):
            number = 0.5 + number / 4
        state[name] = number
    for name in [name for name in shapes if name.endswith("weight_u")]:  # one that a power iteration agrees with
        weight = state[name.replace("_u", "_orig")].flatten(1)
        u = torch.nn.functional.normalize(state[name], dim=0)
        state[name] = u
        state[name.replace("_u", "_v")] = torch.nn.functional.normalize(weight.T @ u, dim=0)
    return state


def image(side: int) -> torch.Tensor:
    """(2, 3, side, side) in 0–1."""
    return 0.5 + values((2, 3, side, side), 0.5) / 2


def sample(output: torch.Tensor, count: int = 48) -> list[float]:
    """A few of an output's numbers, from everywhere in it."""
    flat = output.detach().flatten()
    return [round(float(value), 10) for value in flat[:: max(1, len(flat) // count)]]


def evaluated(network: torch.nn.Module, entered: torch.Tensor, **given: torch.Tensor) -> list[float]:
    """A sample of a network's output in evaluation mode and float64, whose rounding no processor changes."""
    with in_double(), torch.no_grad():
        given = {name: value.double() for name, value in given.items()}
        return sample(copy.deepcopy(network).double().eval()(entered.double(), **given))


def noise() -> torch.Tensor:
    """What the stochastic generator draws after `torch.manual_seed(5)`."""
    torch.manual_seed(5)
    return torch.randn(2, NOISE)


def model(configuration: dict[str, dict[str, object]]) -> torch.nn.Module:
    """opensr-srgan's model of a configuration, as its training makes it."""
    import omegaconf
    from opensr_srgan.model.SRGAN import SRGAN_model

    with contextlib.redirect_stdout(io.StringIO()):
        torch.manual_seed(0)
        made: torch.nn.Module = SRGAN_model(omegaconf.OmegaConf.create(copy.deepcopy(configuration)))
    return made


def batches(count: int, crop: int, seed: int, factor: int = 4) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Batches of 2, low and high resolution, of noise."""
    images = np.random.default_rng(seed).random((count, 2, 3, crop, crop))
    return [(torch.nn.functional.avg_pool2d(hr, factor), hr) for hr in torch.from_numpy(images).float()]


@contextlib.contextmanager
def in_double() -> Iterator[None]:
    """Let both sides compute in float64, also where a step goes back to float32.

    What differs then is a definition: rounding that a kink or Adam makes a step of is 1e-9 of what it was.
    """
    kept = torch.Tensor.float
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        torch.Tensor.float = kept  # type: ignore[method-assign]
        torch.set_default_dtype(torch.float32)


@contextlib.contextmanager
def noise_of(generator: torch.nn.Module, given: torch.Tensor | None = None) -> Iterator[None]:
    """Let opensr-srgan's stochastic generator draw what is given, or what ours draws.

    That is by a count of its passes in training, and in evaluation the same every time.
    """
    drawn, passes = torch.randn, torch.zeros((), dtype=torch.long)

    def randn(*size: Any, **options: Any) -> torch.Tensor:
        if tuple(size[0] if isinstance(size[0], tuple | list | torch.Size) else size) != (2, NOISE):
            return drawn(*size, **options)
        if given is not None:
            return given
        passes.add_(generator.training)
        return normal(passes * generator.training, 2, NOISE)

    torch.randn = randn  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.randn = drawn


def start_made_up(made: torch.nn.Module) -> None:
    """Give both networks of opensr-srgan's model weights by a formula."""
    for network in (made.generator, made.discriminator):
        network.load_state_dict(made_up({name: list(value.shape) for name, value in network.state_dict().items()}))


def steps_of(made: torch.nn.Module, fed: list[tuple[torch.Tensor, torch.Tensor]]) -> list[Step]:
    """Train opensr-srgan's model on batches; what each left, on the first of them."""
    found: list[Step] = []
    gradients: dict[str, dict[str, torch.Tensor]] = {}
    lr, hr = fed[0]

    def before_update(optimizer: torch.optim.Optimizer) -> None:
        weights = {id(weight) for group in optimizer.param_groups for weight in group["params"]}
        for which in ("generator", "discriminator"):
            named = dict(getattr(made, which).named_parameters())
            if weights == {id(weight) for weight in named.values()}:
                gradients[which] = {name: weight.grad.clone() for name, weight in named.items()}

    def after_batch(_: object) -> None:
        figures = {name: float(value) for name, value in made.trainer.callback_metrics.items()}
        found.append(Step(*answers(made.generator, made.discriminator, lr, hr), figures, dict(gradients)))
        gradients.clear()

    with noise_of(made.generator):
        fit(made, fed, after_batch=after_batch, before_update=before_update)
    return found


@torch.no_grad()
def answers(generator: torch.nn.Module, discriminator: torch.nn.Module, lr: torch.Tensor, hr: torch.Tensor) -> Any:
    """G's images and D's logits, (batch, k), in evaluation mode; both stay in theirs."""
    modes = generator.training, discriminator.training
    found = generator.eval()(lr), discriminator.eval()(hr).flatten(1)
    generator.train(modes[0])
    discriminator.train(modes[1])
    return found


def weighed(values_of: torch.Tensor) -> torch.Tensor:
    """A number that all of a tensor's take part in, differently, and none against another."""
    flat = values_of.flatten()
    return (flat * (1 + values(flat.shape, 0.3).to(flat.dtype) / 2)).mean()


def fit(
    made: torch.nn.Module, fed: list[tuple[torch.Tensor, torch.Tensor]], to: Path | None = None, epochs: int = 1,
    goes_on: Path | None = None, after_batch: Callable[[torch.nn.Module], object] | None = None,
    before_update: Callable[[torch.optim.Optimizer], object] | None = None,
) -> None:  # fmt: skip
    """Train opensr-srgan's model with a Trainer of Lightning; writes `last.ckpt` into a folder, where one is named."""
    import pytorch_lightning as lightning
    from pytorch_lightning.callbacks import ModelCheckpoint

    class Told(lightning.Callback):
        def on_train_batch_end(self, trainer: object, module: Any, *_: object) -> None:
            if after_batch is not None:
                after_batch(module)

        def on_before_optimizer_step(self, trainer: object, module: object, optimizer: Any) -> None:
            if before_update is not None:
                before_update(optimizer)

    lr, hr = (torch.cat(parts) for parts in zip(*fed, strict=True))
    pairs = torch.utils.data.TensorDataset(lr, hr)
    loader = torch.utils.data.DataLoader(pairs, batch_size=2, shuffle=False)
    held_out = torch.utils.data.DataLoader(torch.utils.data.Subset(pairs, [0, 1]), batch_size=2)
    kept = ModelCheckpoint(dirpath=to, save_last=True, monitor="val_metrics/l1", save_top_k=1) if to else None
    with contextlib.redirect_stdout(io.StringIO()):
        trainer = lightning.Trainer(
            max_epochs=epochs, logger=False, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu",
            callbacks=[Told(), *([kept] if kept else [])], enable_checkpointing=kept is not None,
            num_sanity_val_steps=0, limit_val_batches=1,
        )  # fmt: skip
        trainer.fit(made, loader, held_out, ckpt_path=goes_on)


def record(to: Path) -> None:
    """Write all that is recorded of it into a folder; needs opensr-srgan."""
    found: dict[str, dict[str, object]] = {"generators": {}, "discriminators": {}}
    for name, settings in GENERATORS.items():
        for factor in (2, 4, 8):
            made = model(document(settings | {"scaling_factor": factor}, DISCRIMINATORS["patchgan"])).generator
            found["generators"][f"{name} x{factor}"] = _recorded(made, image(6))
    for name, settings in DISCRIMINATORS.items():
        made = model(document(GENERATORS["res"], settings)).discriminator
        found["discriminators"][name] = _recorded(made, image(32))
    found["trainings"] = {name: _recorded_training(training) for name, training in TRAININGS.items()}
    trained = model(document(GENERATORS["res"], DISCRIMINATORS["esrgan"]))
    with tempfile.TemporaryDirectory() as folder:
        fit(trained, batches(6, 64, 1), Path(folder))
        checkpoint = torch.load(Path(folder) / "last.ckpt", weights_only=True)
    checkpoint["callbacks"] = {}  # where it was written
    torch.save(checkpoint, to / "last.ckpt")
    found["last.ckpt"] = {
        "averaged": evaluated(averaged(trained), image(6)),
        "trained": evaluated(trained.generator, image(6)),
        "discriminator": evaluated(trained.discriminator, image(32)),
    }
    (to / "networks.json").write_text(json.dumps(found), encoding="utf-8")


# its own entry point, which chooses what it gives a Trainer by that one's signature, but logging every batch
EVERY_BATCH = """
import functools, runpy
import pytorch_lightning
begin = pytorch_lightning.Trainer.__init__
@functools.wraps(begin)
def told(self, *arguments, **options):
    begin(self, *arguments, **options | {"log_every_n_steps": 1})
pytorch_lightning.Trainer.__init__ = told
runpy.run_module("opensr_srgan.train", run_name="__main__")
"""


def train_there(file: Path, home: Path) -> tuple[list[dict[str, float]], Path]:
    """Train by opensr-srgan's own entry point, in the file's folder; the lines it logged, and its `last.ckpt`.

    `home`: torch's, where published weights are.
    """
    environment = os.environ | {"TORCH_HOME": str(home), "WANDB_MODE": "offline"}
    command = [sys.executable, "-c", EVERY_BATCH, "--config", file.name]
    done = subprocess.run(command, cwd=file.parent, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    [logged], [last] = file.parent.rglob("metrics.csv"), file.parent.rglob("last.ckpt")
    with logged.open(newline="") as lines:
        rows = [{name: float(value) for name, value in line.items() if value} for line in csv.DictReader(lines)]
    return rows, last


def averaged(made: torch.nn.Module) -> torch.nn.Module:
    """The averaged generator of opensr-srgan's model, in evaluation mode."""
    state = made.ema.state_dict()
    shadow: torch.nn.Module = copy.deepcopy(made.generator).eval()
    shadow.load_state_dict({**state["shadow_params"], **state["shadow_buffers"]})
    return shadow


def _recorded(network: torch.nn.Module, entered: torch.Tensor) -> dict[str, object]:
    shapes = {name: list(value.shape) for name, value in network.state_dict().items()}
    network.load_state_dict(made_up(shapes))
    with noise_of(network, given=noise().double()):
        output = evaluated(network, entered)
    return {"tensors": shapes, "output": output, "in training": _in_training(copy.deepcopy(network), entered)}


def _in_training(network: torch.nn.Module, entered: torch.Tensor) -> dict[str, object]:
    """Output, gradients of a fixed number of it, and buffers, in float64."""
    with in_double(), noise_of(network, given=noise().double()):
        entered = entered.double().requires_grad_()
        output = network.double().train()(entered)
        weighed(output).backward()
    assert entered.grad is not None
    weights = {name: digits(weighed(weight.grad)) for name, weight in network.named_parameters()}
    kept = {name: digits(weighed(value.double())) for name, value in network.named_buffers()}
    return {"output": sample(output, 12), "image": sample(entered.grad, 12), "weights": weights, "buffers": kept}


def _recorded_training(training: Training) -> dict[str, object]:
    """Samples of ten steps of pretraining and ten of the game, in float64 from made-up weights."""
    with in_double():
        made = model(training.document())
        start_made_up(made)
        return sampled(steps_of(made, training.batches()))


def sampled(steps: list[Step]) -> dict[str, Any]:
    """What is recorded of a training: answers at both phases' ends; figures and gradients of the game's first step."""
    first = steps[TEN]
    gradients = {
        which: digits(weighed(torch.cat([of[name].flatten() for name in sorted(of)])))
        for which, of in first.gradients.items()
    }
    figures = {name: digits(value) for name, value in first.figures.items() if not name.startswith(("train_", "lr_"))}
    return {
        "generator": [number for at in (TEN - 1, -1) for number in sample(steps[at].generator, 12)],
        "discriminator": sample(steps[-1].discriminator, 12),
        "figures": figures,
        "gradients": gradients,
    }


def digits(value: float | torch.Tensor) -> float:
    """A number as it is recorded."""
    return float(f"{float(value):.10g}")


def recorded(folder: Path = RECORDED) -> dict[str, dict[str, Any]]:
    """What is recorded of it."""
    found: dict[str, dict[str, Any]] = json.loads((folder / "networks.json").read_text(encoding="utf-8"))
    return found
