"""A training small enough for a test, and the scenes it can look at."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainables.configuration import build_configuration
from trainables.dotted import with_values
from trainables.imagery import Imagery, load_imagery
from trainables.schema import Configuration
from trainables.state import State
from trainables.trainer import pick_device

# this project's own networks and lengths, where opensr-srgan's defaults are others
OWN: dict[str, dict[str, Any]] = {
    "Training": {"pretrain_g_only": True, "label_smoothing": True}
    | {"Losses": {"sam_weight": 0.0, "perceptual_weight": 0.0}},
    "Generator": {"block_type": "plain", "use_icnr": False, "bicubic_skip": True},
    "Discriminator": {"norm": False, "per_patch": False, "input_range": 1.0},
    "Schedulers": {"g_warmup_type": "cosine", "patience_d": 10, "threshold": 1e-4, "min_lr": 0.0},
}
BASE: dict[str, dict[str, Any]] = {
    "Data": {"crop_size": 16, "train_batch_size": 4, "val_batch_size": 64},
    "Training": OWN["Training"]
    | {"device": "cpu", "threads": 1, "max_steps": 100, "validate_every": 2}
    | {"g_pretrain_steps": 4, "adv_loss_ramp_steps": 4},
    "Generator": OWN["Generator"] | {"n_blocks": 1, "n_channels": 4, "large_kernel_size": 3},
    "Discriminator": OWN["Discriminator"] | {"model_type": "patchgan", "n_blocks": 2, "base_channels": 4},
    "Optimizers": {"optim_g_lr": 1e-3, "optim_d_lr": 1e-3, "betas": [0.5, 0.99]},
    "Schedulers": OWN["Schedulers"] | {"patience_g": 10},
    "Nash": {"validation_pairs": 64},
}


def tiny(**dotted: object) -> Configuration:
    """BASE with values at dotted keys: `tiny(**{"Training.seed": 1})`."""
    return build_configuration(with_values(BASE, dotted), "test", Path())


def begun(**dotted: object) -> tuple[State, Imagery]:
    """A training at step 0 and its imagery, the built-in sample unless `Data.path` says otherwise."""
    configuration = tiny(**dotted)
    device = pick_device(configuration)
    return State(configuration, device), load_imagery(configuration, device)


@cache
def textured(bands: int = 3, height: int = 96, width: int = 256, seed: int = 0) -> np.ndarray:
    """(bands, height, width) in 0–1, smooth at the top and rough at the bottom."""
    noise = np.random.default_rng(seed).random((bands, height, width))
    rough = np.linspace(0, 1, height)[:, None]
    return (rough * noise + (1 - rough) * noise.mean()).astype(np.float32)


def coordinates(height: int, width: int) -> np.ndarray:
    """(3, height, width): every pixel's row, its column and 0, so that a crop says where it was cut."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, np.zeros_like(rows)]).astype(np.float32)


def saved(path: Path, image: np.ndarray) -> str:
    """Write a scene as .npy; returns its path as a configuration names it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, image)
    return str(path)


def everything(state: State) -> dict[str, object]:
    """All that a training has learnt, copied and flat: `generator.head.conv.weight`, `plateau_d.cuts`, …"""

    def flat(name: str, value: object) -> dict[str, object]:
        if isinstance(value, (list, tuple)):
            value = dict(enumerate(value))
        if isinstance(value, dict):
            return {k: v for key, part in value.items() for k, v in flat(f"{name}.{key}", part).items()}
        return {name: value.clone() if isinstance(value, torch.Tensor) else value}

    parts = {name: part.state_dict() for name, part in vars(state).items() if hasattr(part, "state_dict")}
    return {k: v for name, part in parts.items() for k, v in flat(name, part).items()}


def same(first: dict[str, object], second: dict[str, object], part: str = "") -> bool:
    """Whether everything whose name begins with `part` is equal to the bit, and there is such a thing."""
    names = {name for name in first | second if name.startswith(part)}
    assert names, part
    return all(
        name in first and name in second and np.array_equal(np.asarray(first[name]), np.asarray(second[name]))
        for name in names
    )
