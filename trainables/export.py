"""A training as a file of opensr-srgan, in its units and words; what cannot be said there, in sentences."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainables.configuration import build_configuration
from trainables.dotted import copied, flatten, value_at, with_values
from trainables.errors import InvalidInput
from trainables.opensr import EPOCHS
from trainables.schema import Configuration, DiscriminatorSettings, GeneratorSettings

HERE = {  # what a file there does not have: how a training is measured and computed here, and this project's own parts
    *("Data.path", "Data.percentiles", "Data.scale", "Data.nodata", "Data.crop_size", "Data.val_fraction"),
    *("Data.val_side", "Data.resident", "Training.max_steps", "Training.validate_every", "Training.checkpoint_every"),
    *("Training.threads", "Training.precision", "Training.cuda_graphs", "Training.deterministic", "Training.device"),
    *("Training.Losses.perceptual_weights", "Schedulers.armed", "Model.continue_training", "Model.load_checkpoint"),
    *("Generator.bicubic_skip", "Generator.inner_residual", "Discriminator.norm", "Discriminator.per_patch"),
    *("Discriminator.input_range", "Schedulers.cut", "Data.test_path", "Data.include", "Data.exclude"),
    *("Data.bands", "Data.lr_scale", "Data.hr_names", "Data.lr_names", "Logging.metric_weights"),
}
IN_UNITS = {"Training.adv_loss_ramp_steps", "Training.EMA.update_after_step"}  # each batch of the game counts two there
LOGGED_THERE = re.compile(r"(train|val)_metrics/\w+|validation/DISC_adversarial_loss|generator/\w+")
SKELETON = {  # required there, where there is no original to say it
    "Training.max_epochs": 1,
    "Training.val_check_interval": 1.0,
    "Training.limit_val_batches": 250,
    "Logging.wandb.enabled": False,
    "Logging.wandb.project": "SRGAN",
}


def own_of(settings: GeneratorSettings | DiscriminatorSettings) -> dict[str, str]:
    """List the keys that make a network this project's own, and why opensr-srgan has none such."""
    if isinstance(settings, DiscriminatorSettings):
        checks = {
            "norm": (not settings.norm, "every discriminator has norms there"),
            "per_patch": (
                settings.model_type == "patchgan" and not settings.per_patch,
                "a PatchGAN's loss is of every patch there",
            ),
            "input_range": (settings.input_range is not None, "images enter D as they are there"),
        }
        section = "Discriminator"
    else:
        checks = {
            "bicubic_skip": (settings.bicubic_skip, "G(x) is not added to bicubic upsampling there"),
            "block_type": (
                settings.model_type == "srresnet" and settings.block_type == "plain",
                "every SRResNet has norms or scaled blocks there",
            ),
            "inner_residual": (
                settings.is_dense and settings.inner_residual,
                "a dense block has no skip of its own there",
            ),
        }
        section = "Generator"
    return {f"{section}.{key}": why for key, (there, why) in checks.items() if there}


def why_not(settings: GeneratorSettings | DiscriminatorSettings) -> str:
    """Say why opensr-srgan has no such network; empty where it has."""
    for key in own_of(settings):
        value = getattr(settings, key.partition(".")[2])
        return f"{key}: {str(value).lower() if isinstance(value, bool) else value} is this project's own"
    return ""


def inexpressible(configuration: Configuration) -> list[str]:
    """Say what of a training cannot be said in a file of opensr-srgan, a sentence each."""
    flat = flatten(configuration.model_dump())
    label, perceptual = flat["Training.label_smoothing"], flat["Training.Losses.perceptual_weight"]
    wrong = own_of(configuration.Generator) | own_of(configuration.Discriminator)
    if flat["Schedulers.cut"] != "each":
        wrong["Schedulers.cut"] = "each plateau scheduler cuts its own network's rate there"
    if flat["Data.dataset_type"] == "scenes":
        wrong["Data.dataset_type"] = "crops are cut from scenes here: name a data set of tiles"
    if flat["Data.normalization"] in ("percentiles", "scale"):
        wrong["Data.normalization"] = "it needs a fixed one"
    if not isinstance(label, bool) and label not in (0.9, 1.0):
        wrong["Training.label_smoothing"] = "the label is 0.9 or 1 there"
    if perceptual > 0 and flat["Training.Losses.perceptual_metric"] not in ("vgg", "lpips"):
        wrong["Training.Losses.perceptual_metric"] = "there are vgg and lpips there"
    metrics = {key: flat[key] for key in ("Schedulers.metric_g", "Schedulers.metric_d")}
    wrong |= {key: "it is not logged there" for key, of in metrics.items() if not LOGGED_THERE.fullmatch(of)}
    sentences = [f"{key}: {flat[key]} cannot be said there: {why}." for key, why in wrong.items()]
    sentences += [f"{key}: {of} is minimised there." for key, of in metrics.items() if of.endswith(("psnr", "ssim"))]
    since = "the end of the ramp" if flat["Schedulers.armed"] == "ramp_end" else "the game's first reading"
    sentences.append(
        f"Schedulers: a plateau counts every validation there, those of pretraining too; here from {since}."
    )
    return sentences


def written(configuration: Configuration, original: Mapping[str, Any] | None, epoch: int | None) -> dict[str, Any]:
    """Return a training as a file of opensr-srgan, in its units; what `original` says alike stays as it is written.

    `epoch`: steps of one, where that is known; its length and validations follow from it, else they stay as they are.
    """
    wanted = flatten(configuration.model_dump())
    document = copied(original) if original is not None else with_values({}, SKELETON)
    for _ in range(2):  # a key may be said by another one's name, `${…}`
        there = _read(document)
        changed = {
            key: _in_units(key, value, configuration)
            for key, value in wanted.items()
            if not (key in HERE or key.startswith(("Nash.", "Logging.")) or _is_kept(key, value))
            and there.get(key) != value
        }
        document = with_values(document, changed)
    if original is None and configuration.Training.device != "auto":
        document = with_values(document, {"Training.device": configuration.Training.device})
    if epoch is not None:
        document = with_values(document, _lengths(configuration, document, epoch))
    return document


def _read(document: Mapping[str, Any]) -> dict[str, Any]:
    """A file's values in this project's units, by dotted key; none where it is no training as it is."""
    try:
        return flatten(build_configuration(document, "", Path()).model_dump())
    except InvalidInput:
        return {}


def _is_kept(key: str, value: object) -> bool:
    """Whether a key stays as the original has it: what nothing reads here, and a null that stands for no value."""
    read = {EPOCHS, "Training.val_check_interval", "Training.limit_val_batches", "Training.gpus"}
    return key in read or (value is None and key != "Training.Losses.fixed_idx")


def _in_units(key: str, value: Any, configuration: Configuration) -> Any:
    if key not in IN_UNITS:
        return value
    before = configuration.Training.pretrain_steps if key == "Training.EMA.update_after_step" else 0
    return value if value <= before else before + 2 * (value - before)


def _lengths(configuration: Configuration, document: Mapping[str, Any], epoch: int) -> dict[str, Any]:
    """Length and validations, in epochs and their shares."""
    steps, every = configuration.Training.max_steps, configuration.Training.validate_every
    found: dict[str, Any] = {EPOCHS: math.ceil(steps / epoch)}
    interval = value_at(document, "Training.val_check_interval")
    now = int(interval * epoch) if isinstance(interval, float) else interval
    if now != every:
        found["Training.val_check_interval"] = min(every, epoch)  # batches; Lightning takes no more than an epoch has
    return found
