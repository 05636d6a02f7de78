"""What is said of a configuration that is valid: keys that it sets and nothing reads, and values that mislead.

Nothing reads some of opensr-srgan's own keys, and those that another key makes idle.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from trainables.configuration import build_configuration
from trainables.data_settings import DataSettings
from trainables.dotted import flatten, value_at
from trainables.normalization import normalization_of
from trainables.schema import Configuration, roles_of
from trainables.sections import UNREAD

_ON: Callable[[object], bool] = bool


def _is(*values: object) -> Callable[[object], bool]:
    return lambda value: value in values


_BLOCKS = "Generator.model_type", "Generator.block_type"
_NORMED = "Discriminator.model_type", "Discriminator.norm"
# A key, the key that decides whether anything reads it, and for which of that one's values something does.
READ_WHEN: dict[str, tuple[str, Callable[[object], bool]]] = {
    "Data.path": ("Data.dataset_type", _is("scenes")),
    "Data.root_dir": ("Data.dataset_type", _is("LRHRFolderDataset", "ExampleDataset")),
    "Data.bands": ("Data.dataset_type", _is("scenes", "LRHRFolderDataset")),
    "Data.hr_names": ("Data.dataset_type", _is("LRHRFolderDataset")),
    "Data.lr_names": ("Data.dataset_type", _is("LRHRFolderDataset")),
    "Data.sen2naip_taco_file": ("Data.dataset_type", _is("SEN2NAIP")),
    "Data.sen2naip_val_fraction": ("Data.dataset_type", _is("SEN2NAIP")),
    "Data.include": ("Data.dataset_type", _is("scenes", "LRHRFolderDataset")),
    "Data.exclude": ("Data.dataset_type", _is("scenes", "LRHRFolderDataset")),
    "Data.normalization": ("Data.dataset_type", _is("scenes", "LRHRFolderDataset", "SEN2NAIP")),
    "Data.val_fraction": ("Data.dataset_type", _is("scenes", "LRHRFolderDataset")),
    "Data.val_side": ("Data.dataset_type", _is("scenes", "LRHRFolderDataset")),
    "Data.percentiles": ("Data.normalization", _is("percentiles")),
    "Data.scale": ("Data.normalization", _is("scale")),
    "Data.lr_scale": ("Data.dataset_type", _is("LRHRFolderDataset", "SEN2NAIP")),
    "Data.prefetch_factor": ("Data.resident", _is(False, None)),
    "Training.g_pretrain_steps": ("Training.pretrain_g_only", _ON),
    "Training.precision": ("Training.device", _is("cuda", "auto")),
    "Training.cuda_graphs": ("Training.device", _is("cuda", "auto")),
    "Training.deterministic": ("Training.device", _is("cuda", "auto")),
    "Training.EMA.decay": ("Training.EMA.enabled", _ON),
    "Training.EMA.update_after_step": ("Training.EMA.enabled", _ON),
    "Training.EMA.use_num_updates": ("Training.EMA.enabled", _ON),
    "Training.Losses.adv_loss_schedule": ("Training.adv_loss_ramp_steps", _ON),
    "Training.Losses.perceptual_metric": ("Training.Losses.perceptual_weight", _ON),
    "Training.Losses.perceptual_weights": ("Training.Losses.perceptual_metric", _is("vgg", "lpips")),
    "Training.Losses.fixed_idx": ("Training.Losses.perceptual_metric", _is("vgg", "lpips")),
    "TruncatedVGG.i": ("Training.Losses.perceptual_metric", _is("vgg")),
    "TruncatedVGG.j": ("Training.Losses.perceptual_metric", _is("vgg")),
    "Generator.block_type": ("Generator.model_type", _is("srresnet")),
    "Discriminator.n_blocks": ("Discriminator.model_type", _is("standard", "patchgan")),
    "Generator.large_kernel_size": ("Generator.model_type", _is("srresnet", "stochasticgan")),
    "Generator.small_kernel_size": ("Generator.model_type", _is("srresnet", "stochasticgan")),
    "Generator.growth_channels": ("Generator.model_type", _is("esrgan")),
    "Generator.res_scale": ("Generator.model_type", _is("esrgan", "stochasticgan")),
    "Generator.noise_dim": ("Generator.model_type", _is("stochasticgan")),
    "Discriminator.per_patch": ("Discriminator.model_type", _is("patchgan")),
    "Training.label_smoothing": ("Training.Losses.adv_loss_type", _is("bce")),
    "Training.Losses.relativistic_average_d": ("Training.Losses.adv_loss_type", _is("bce")),
}
# A key, whether it is read, and the keys that decide it.
READ_IF: dict[str, tuple[Callable[[Configuration], bool], tuple[str, ...]]] = {
    "Schedulers.g_warmup_steps": (
        lambda c: c.Schedulers.g_warmup_type != "none",
        ("Schedulers.g_warmup_type",),
    ),
    "Generator.use_icnr": (lambda c: c.Generator.takes_icnr, _BLOCKS),
    "Generator.inner_residual": (lambda c: c.Generator.is_dense, _BLOCKS),
    "Discriminator.use_spectral_norm": (
        lambda c: not c.Discriminator.norm or c.Discriminator.model_type == "standard",
        _NORMED,
    ),
    "Discriminator.base_channels": (
        lambda c: not c.Discriminator.norm or c.Discriminator.model_type == "esrgan",
        _NORMED,
    ),
    "Discriminator.linear_size": (
        lambda c: (
            c.Discriminator.model_type == "esrgan"
            or (not c.Discriminator.norm and c.Discriminator.model_type == "standard")
        ),
        _NORMED,
    ),
}
AND_WHEN: dict[str, tuple[str, Callable[[object], bool]]] = {  # and a second one, of which the same holds
    "Training.Losses.fixed_idx": ("Model.in_bands", lambda bands: isinstance(bands, int) and bands > 3),
}


NEVER = {  # opensr-srgan's keys that no configuration makes act here
    "Data.num_workers": "here: imagery is in memory, and no process of its own cuts batches",
    "Data.sen2naip_phase": "here: a training reads both parts",
    "Training.gpus": "here: a training is of one GPU",
    "Training.max_epochs": "here: Training.max_steps says how long a training is",
    "Training.val_check_interval": "here: Training.validate_every says when it is validated",
    "Training.limit_val_batches": "here: Nash.validation_pairs says how many images are judged",
}
# Of a key's value that does not mean what it seems to: when, and what is said.
MISLEADING: list[tuple[str, Callable[[Configuration], bool], str]] = [
    (
        "Data.normalization",
        lambda configuration: normalization_of(configuration.Data, 0.0, 1.0).signed,
        "images lie within ±1; PSNR and SSIM see 0 to Training.Losses.max_val of them alone, half the range, as in "
        "opensr-srgan.",
    ),
    (
        "Generator.scaling_factor",
        lambda configuration: (
            configuration.Data.dataset_type == "ExampleDataset" and configuration.Generator.scaling_factor != 4
        ),
        "low-resolution images are made by this factor, where opensr-srgan reduces an ExampleDataset by 4 whatever it "
        "is told.",
    ),
]


def why_unread(key: str, configuration: Configuration) -> str:
    """Say why or while what a dotted key does nothing in this configuration; empty where something reads it."""
    if UNREAD in roles_of(key):
        return NEVER[key]
    if key in READ_IF and not READ_IF[key][0](configuration):
        values = flatten(configuration.model_dump())
        return "while " + " and ".join(f"{of} is {_shown(values[of])}" for of in READ_IF[key][1])
    for decider, reads in (table[key] for table in (READ_WHEN, AND_WHEN) if key in table):
        value = value_at(configuration.model_dump(), decider)
        if not reads(value):
            return f"while {decider} is {_shown(value)}"
        if why := why_unread(decider, configuration):
            return why
    return ""


def _shown(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def unread(configuration: Configuration) -> dict[str, str]:
    """Find the keys that differ from their default and that nothing reads; returns a warning for each."""
    of_its_kind = DataSettings(dataset_type=configuration.Data.dataset_type).model_dump()
    default = flatten(build_configuration({}, "", Path()).model_dump())
    default |= {f"Data.{key}": of_its_kind[key] for key in ("normalization", "crop_size")}
    changed = {key: value for key, value in flatten(configuration.model_dump()).items() if value != default.get(key)}
    told = {key: why for key in changed if (why := why_unread(key, configuration))}
    return {key: f"{key}: {_shown(changed[key])} does nothing {why}." for key, why in told.items()}


def cautions(configuration: Configuration) -> dict[str, str]:
    """Return all warnings of a valid configuration, by key."""
    values = flatten(configuration.model_dump())
    misled = {key: f"{key}: {_shown(values[key])}: {told}" for key, when, told in MISLEADING if when(configuration)}
    return misled | unread(configuration)
