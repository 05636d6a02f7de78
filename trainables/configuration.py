"""A training's configuration: read from a file or from sections, validated, all problems at once, and written again."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from trainables.balance import Ruler, earliest_balance
from trainables.dotted import copied, flatten
from trainables.errors import InvalidInput, Problem, explain, nearest
from trainables.opensr import translate
from trainables.places import resolve_path
from trainables.schema import METRICS, Configuration, DiscriminatorSettings, field_at
from trainables.yaml_files import read_yaml, write_yaml

PLACES = ("Data.path", "Data.root_dir", "Model.continue_training", "Model.load_checkpoint")  # files and folders


def load_configuration(path: Path) -> Configuration:
    """Read and validate a training file; paths in it are relative to it."""
    return build_configuration(read_yaml(path), str(path), path.parent)


def build_configuration(document: Mapping[str, Any], file: str, folder: Path) -> Configuration:
    """Validate a training given as nested sections; relative paths are resolved against `folder`."""
    nested = copied(document)
    problems = translate(nested, file)
    configuration = None
    try:
        configuration = Configuration.model_validate(nested)
    except ValidationError as error:
        problems += explain(error, Configuration, file)
    if configuration is not None:
        problems += _disagreements(configuration, file)
        configuration = _with_whole_paths(configuration, file, folder, problems)
    if problems or configuration is None:
        raise InvalidInput(problems)
    return configuration


def _with_whole_paths(configuration: Configuration, file: str, folder: Path, problems: list[Problem]) -> Configuration:
    """The configuration with absolute paths; adds a problem for each that no file can have."""
    whole: dict[str, dict[str, str]] = {"Data": {}, "Model": {}}
    for key in PLACES:
        section, name = key.split(".")
        if written := getattr(getattr(configuration, section), name):
            try:
                whole[section][name] = resolve_path(written, folder)
            except ValueError as error:
                problems.append(Problem(file, key, repr(written), str(error)))
    update = {name: getattr(configuration, name).model_copy(update=paths) for name, paths in whole.items()}
    return configuration.model_copy(update=update)


def dump_configuration(configuration: Configuration) -> str:
    """Return the configuration as YAML, every default written out; `load` of it is the identity."""
    return write_yaml(configuration.model_dump())


def field_of(dotted: str) -> FieldInfo | str:
    """Return the field a dotted key names, or a sentence that says what comes nearest."""
    return field_at(Configuration, dotted) or nearest(dotted, list(flatten(Configuration().model_dump())))


def _disagreements(configuration: Configuration, file: str) -> list[Problem]:
    """Keys that are right alone and wrong together."""
    training, nash, data, ruler = (
        configuration.Training,
        configuration.Nash,
        configuration.Data,
        Ruler.of(configuration),
    )
    shortest = math.ceil(max(ruler.game_on, ruler.validate_every) / nash.latest)
    checks: list[tuple[bool, str, object, str, str]] = [
        (
            data.crop_size % configuration.Generator.scaling_factor != 0,
            "Data.crop_size", data.crop_size,
            f"a multiple of Generator.scaling_factor ({configuration.Generator.scaling_factor})", "",
        ),
        (
            data.crop_size < min_crop(configuration.Discriminator),
            "Data.crop_size", data.crop_size, f"at least {min_crop(configuration.Discriminator)} px",
            "The discriminator halves it too often: use a larger crop or fewer Discriminator.n_blocks.",
        ),
        (not 0 <= data.percentiles[0] < data.percentiles[1] <= 100,
         "Data.percentiles", data.percentiles, "0 <= low < high <= 100", ""),
        (data.normalization == "scale" and (data.scale is None or not 0 < data.scale[1] - data.scale[0] < math.inf),
         "Data.scale", data.scale, "[low, high] with low < high, since Data.normalization is scale", ""),
        (data.dataset_type == "lrhrfolderdataset" and data.root_dir is None,
         "Data.root_dir", None, "a folder with {train,val}/{LR,HR}", ""),
        (bool(configuration.Model.continue_training and configuration.Model.load_checkpoint),
         "Model.load_checkpoint", configuration.Model.load_checkpoint, "false beside Model.continue_training",
         "One takes the weights alone, the other goes on with all of a training: keep the one that is meant."),
        *((True, f"Nash.{key}", getattr(nash, key), f"at most Nash.{of} ({getattr(nash, of)})", "")
          for key, of in nash.impossible().items()),
        (training.validate_every * 50 > training.max_steps,
         "Training.validate_every", training.validate_every,
         f"at most a fiftieth of max_steps ({training.max_steps // 50})", "Validate more often or train longer."),
        (nash.window * training.validate_every * 5 > training.max_steps,
         "Nash.window", nash.window,
         f"a window of at most a fifth of the training ({training.max_steps // 5} steps)",
         "Shorten it or validate more often."),
        (math.isinf(earliest_balance(ruler)),
         "Training.max_steps", training.max_steps,
         f"about {shortest} or more: pretraining and ramp, and the balance kept for {1 - nash.latest:.0%} of it all",
         "Train longer, or shorten pretraining or ramp."),
        *((size % 2 == 0, f"Generator.{which}_kernel_size", size, "an odd number", "")
          for which, size in (("large", configuration.Generator.large_kernel_size),
                              ("small", configuration.Generator.small_kernel_size))),
        (training.Losses.ssim_win % 2 == 0, "Training.Losses.ssim_win", training.Losses.ssim_win, "an odd number", ""),
        *((True, f"Schedulers.metric_{which}", repr(metric), "a logged metric", nearest(metric, METRICS))
          for which, metric in (("g", configuration.Schedulers.metric_g), ("d", configuration.Schedulers.metric_d))
          if metric not in METRICS),
    ]  # fmt: skip
    return [Problem(file, key, str(found), expected, fix) for wrong, key, found, expected, fix in checks if wrong]


def min_crop(discriminator: DiscriminatorSettings) -> int:
    """Return the smallest crop, px, that still has a pixel at the discriminator's end."""
    halvings = {"standard": discriminator.n_blocks // 2, "esrgan": 5, "patchgan": discriminator.n_blocks}
    return int(2 ** halvings[discriminator.model_type] * (4 if discriminator.model_type == "patchgan" else 1))
