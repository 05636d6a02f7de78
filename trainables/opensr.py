"""What opensr-srgan's files have and this project reads otherwise: an alias, and parts that are not built here."""

from __future__ import annotations

from typing import Any, get_args

from trainables.dotted import drop, value_at
from trainables.errors import Problem
from trainables.schema import Configuration, field_at, lower

NOT_BUILT: dict[str, dict[str, str]] = {  # a key's names here, `*` for all others: what to do instead
    "Data.dataset_type": {
        "exampledataset": "Leave `dataset_type` out: the built-in sample is used.",
        "sen2naip": "Unpack it into {train,val}/{LR,HR} and use LRHRFolderDataset.",
        "*": "Name a file or folder of scenes in Data.path, or use LRHRFolderDataset.",
    },
    "Data.normalization": {
        "*": "Use percentiles, scale (with Data.scale: [low, high]), normalise_10k, zero_one or identity.",
    },
    "Generator.model_type": {"*": "Use SRResNet or esrgan."},
    "Discriminator.model_type": {"*": "Use standard, patchgan or esrgan."},
    "Training.Losses.adv_loss_type": {"*": "Use bce."},
}
NOT_BUILT_ABOVE_ZERO = {
    "Training.Losses.perceptual_weight": "The perceptual loss is not built here yet: set it to 0.",
    "Training.Losses.r1_gamma": "The R1 penalty is not built here yet: set it to 0.",
    "Training.Losses.relativistic_average_d": "The relativistic loss is not built here yet: set it to false.",
}
_LATER = "It is not built here yet."


def translate(nested: dict[str, Any], file: str) -> list[Problem]:
    """Bring a file's sections, in place, into this project's keys; one problem for each part that is not built here.

    Such parts are taken out, so that the schema need not complain of them as well.
    """
    return [*_take_alias(nested, file), *_take_out_unbuilt(nested, file)]


def _take_alias(nested: dict[str, Any], file: str) -> list[Problem]:
    """The guide once writes Training.g_warmup_steps for Schedulers.g_warmup_steps."""
    training, schedulers = nested.get("Training"), nested.get("Schedulers", {})
    if not (isinstance(training, dict) and isinstance(schedulers, dict) and "g_warmup_steps" in training):
        return []
    alias = training.pop("g_warmup_steps")
    if schedulers.get("g_warmup_steps", alias) != alias:
        found = f"{alias}, and Schedulers.g_warmup_steps is {schedulers['g_warmup_steps']}"
        return [Problem(file, "Training.g_warmup_steps", found, "one value", "Keep Schedulers.g_warmup_steps.")]
    nested["Schedulers"] = {**schedulers, "g_warmup_steps": alias}
    return []


def _take_out_unbuilt(nested: dict[str, Any], file: str) -> list[Problem]:
    problems = []
    for key, fixes in NOT_BUILT.items():
        value, field = value_at(nested, key), field_at(Configuration, key)
        assert field is not None
        name = lower(value) if "type" in key else value
        if isinstance(value, str) and name not in get_args(field.annotation):
            fix = f"{_LATER} {fixes.get(str(name), fixes['*'])}"
            problems.append(Problem(file, key, f"'{value}'", "a part that is built here", fix))
            drop(nested, key)
    for key, fix in NOT_BUILT_ABOVE_ZERO.items():
        value = value_at(nested, key)
        if isinstance(value, str) or (isinstance(value, (int, float)) and value > 0):
            problems.append(Problem(file, key, repr(value), "0 or false", fix))
            drop(nested, key)
    block, network = value_at(nested, "Generator.block_type"), value_at(nested, "Generator.model_type")
    if isinstance(block, str) and block != "standard" and lower(network or "srresnet") == "srresnet":
        fix = f"{_LATER} Leave `block_type` out, or set it to standard."
        problems.append(Problem(file, "Generator.block_type", f"'{block}'", "'standard'", fix))
    return problems
