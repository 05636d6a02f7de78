"""Keys that a configuration sets and nothing reads: opensr-srgan's own, and those that another key makes idle."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from trainables.configuration import build_configuration
from trainables.dotted import flatten
from trainables.schema import UNREAD, Configuration, roles_of

_ON: Callable[[object], bool] = bool


def _is(*values: object) -> Callable[[object], bool]:
    return lambda value: value in values


# A key, the key that decides whether anything reads it, and for which of that one's values something does.
READ_WHEN: dict[str, tuple[str, Callable[[object], bool]]] = {
    "Data.path": ("Data.dataset_type", _is("scenes")),
    "Data.root_dir": ("Data.dataset_type", _is("lrhrfolderdataset")),
    "Data.percentiles": ("Data.normalization", _is("percentiles")),
    "Data.scale": ("Data.normalization", _is("scale")),
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
    "Generator.large_kernel_size": ("Generator.model_type", _is("srresnet")),
    "Generator.growth_channels": ("Generator.model_type", _is("esrgan")),
    "Generator.res_scale": ("Generator.model_type", _is("esrgan")),
    "Discriminator.n_blocks": ("Discriminator.model_type", _is("standard", "patchgan")),
    "Discriminator.linear_size": ("Discriminator.model_type", _is("standard", "esrgan")),
    "Schedulers.g_warmup_type": ("Schedulers.g_warmup_steps", _ON),
}
AND_WHEN: dict[str, tuple[str, Callable[[object], bool]]] = {  # and a second one, of which the same holds
    "Training.Losses.fixed_idx": ("Model.in_bands", lambda bands: isinstance(bands, int) and bands > 3),
}


def why_unread(key: str, configuration: Configuration) -> str:
    """Say why nothing reads a dotted key in this configuration; empty where something does."""
    if UNREAD in roles_of(key):
        return UNREAD.value
    for decider, reads in (table[key] for table in (READ_WHEN, AND_WHEN) if key in table):
        value = flatten(configuration.model_dump())[decider]
        if not reads(value):
            return f"nothing reads it while {decider} is {str(value).lower() if isinstance(value, bool) else value}"
        if why := why_unread(decider, configuration):
            return why
    return ""


def unread(configuration: Configuration) -> dict[str, str]:
    """Find the keys that differ from their default and that nothing reads; returns a warning for each."""
    default = flatten(build_configuration({}, "", Path()).model_dump())
    changed = {key: value for key, value in flatten(configuration.model_dump()).items() if value != default[key]}
    told = {key: why for key in changed if (why := why_unread(key, configuration))}
    return {key: f"{key}: {changed[key]} does nothing, since {why}." for key, why in told.items()}
