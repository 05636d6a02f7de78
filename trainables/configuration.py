"""A training's configuration: read from a file or from sections, validated, all problems at once, and written again."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from trainables.balance import Ruler, earliest_balance
from trainables.dotted import flatten, value_at
from trainables.errors import InvalidInput, Problem, explain, nearest
from trainables.kinds import EXAMPLES, spelled
from trainables.normalization import normalization_of
from trainables.opensr import filled, translated
from trainables.pairs import is_template
from trainables.places import resolve_path
from trainables.schema import SQUEEZE, VGG19, Configuration, DiscriminatorSettings
from trainables.sections import Section, field_at
from trainables.yaml_files import read_yaml, write_yaml

Part = TypeVar("Part", bound=Section)
IMAGE_METRICS = ("l1", "sam", "tv", "perceptual", "psnr", "ssim")
# What a plateau scheduler can watch: every figure that each reading of the game has.
METRICS = [
    *(f"{group}/{name}" for group in ("val_metrics", "train_metrics") for name in IMAGE_METRICS),
    *(f"validation/{name}" for name in ("content_loss", "generator_total_loss", "DISC_adversarial_loss")),
    *(f"generator/{name}" for name in ("content_loss", "adversarial_loss", "total_loss")),
    *(f"discriminator/{name}" for name in ("adversarial_loss", "adversarial_loss_step", "r1_penalty")),
    *(f"discriminator/{name}" for name in ("D(y)_prob", "D(G(x))_prob")),
    *(f"nash/{name}" for name in ("p_y", "p_g", "rank", "control", "psnr")),
]


def load_configuration(path: Path) -> Configuration:
    """Read and validate a training file; paths in it are relative to it."""
    return build_configuration(read_yaml(path), str(path), path.parent)


def build_configuration(document: Mapping[str, Any], file: str, folder: Path) -> Configuration:
    """Validate a training given as nested sections; relative paths are resolved against `folder`."""
    found = translated(document, file, folder)
    problems, configuration = found.problems, None
    try:
        configuration = Configuration.model_validate(filled(found.nested))
    except ValidationError as error:
        problems += explain(error, Configuration, file)
    if configuration is not None:
        problems += _disagreements(configuration, file)
        configuration = _with_whole_paths(configuration, file, folder, problems)
    if problems or configuration is None:
        raise InvalidInput(problems)
    return configuration


def unjudgeable(configuration: Configuration, file: str) -> list[Problem]:
    """Return what keeps a training, right in itself, from ever keeping a balance."""
    training, nash, ruler = configuration.Training, configuration.Nash, Ruler.of(configuration)
    shortest = math.ceil(max(ruler.game_on, ruler.validate_every) / nash.latest)
    checks: list[tuple[bool, str, object, str, str]] = [
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
        (training.Losses.adv_loss_type == "wasserstein",
         "Training.Losses.adv_loss_type", "wasserstein", "bce",
         "A critic answers with no probability, so there is no balance point: `train` trains it, nothing judges it."),
    ]  # fmt: skip
    return [Problem(file, key, str(found), expected, fix) for wrong, key, found, expected, fix in checks if wrong]


def said_of(document: Mapping[str, Any], file: str, folder: Path) -> list[str]:
    """Return what a person should know of how a file was read: what was converted, what has no meaning here."""
    return translated(document, file, folder).said


def _with_whole_paths(configuration: Configuration, file: str, folder: Path, problems: list[Problem]) -> Configuration:
    """The configuration with absolute paths; adds a problem for each that no file can have."""
    for key, place in whole_places(configuration.model_dump(), folder, file, problems).items():
        configuration = _with_value(configuration, key, place)
    return configuration


def _with_value(section: Part, key: str, value: object) -> Part:
    """A section with another value at a dotted key."""
    name, _, rest = key.partition(".")
    return section.model_copy(update={name: _with_value(getattr(section, name), rest, value) if rest else value})


PLACES = (  # keys of paths, which are relative to their file
    *("Data.path", "Data.root_dir", "Data.sen2naip_taco_file", "Data.test_path"),
    *("Training.Losses.perceptual_weights", "Model.continue_training", "Model.load_checkpoint"),
    "Logging.metric_weights",
)


def whole_places(nested: Mapping[str, Any], folder: Path, file: str, problems: list[Problem]) -> dict[str, str]:
    """Return a training's paths as absolute ones, by dotted key; adds a problem for each that no file can have."""
    written = {key: place for key in PLACES if isinstance(place := value_at(nested, key), str) and place}
    if "Data.root_dir" not in written and spelled(value_at(nested, "Data.dataset_type")) == "ExampleDataset":
        there = folder / EXAMPLES if (folder / EXAMPLES).exists() else Path(EXAMPLES)  # opensr-srgan's is the latter
        written["Data.root_dir"] = str(there.absolute())
    whole = {}
    for key, place in written.items():
        try:
            whole[key] = resolve_path(place, folder)
        except ValueError as error:
            problems.append(Problem(file, key, repr(place), str(error)))
    return whole


def dump_configuration(configuration: Configuration) -> str:
    """Return the configuration as YAML, every default written out; `load` of it is the identity."""
    return write_yaml(configuration.model_dump())


def field_of(dotted: str) -> FieldInfo | str:
    """Return the field a dotted key names, or a sentence that says what comes nearest."""
    return field_at(Configuration, dotted) or nearest(dotted, list(flatten(Configuration().model_dump())))


def _disagreements(configuration: Configuration, file: str) -> list[Problem]:
    """Keys that are right alone and wrong together."""
    training, nash, data = configuration.Training, configuration.Nash, configuration.Data
    losses, vgg, bands = training.Losses, configuration.TruncatedVGG, configuration.Model.in_bands
    g = configuration.Generator
    checks: list[tuple[bool, str, object, str, str]] = [
        (not 0 <= data.percentiles[0] < data.percentiles[1] <= 100,
         "Data.percentiles", data.percentiles, "0 <= low < high <= 100", ""),
        (data.normalization == "scale" and (data.scale is None or not 0 < data.scale[1] - data.scale[0] < math.inf),
         "Data.scale", data.scale, "[low, high] with low < high, since Data.normalization is scale", ""),
        (data.lr_scale is not None and not 0 < data.lr_scale[1] - data.lr_scale[0] < math.inf,
         "Data.lr_scale", data.lr_scale, "[low, high] with low < high", ""),
        (data.dataset_type == "LRHRFolderDataset" and data.root_dir is None,
         "Data.root_dir", None, "a folder with {train,val}/{LR,HR}", ""),
        (data.bands is not None and len(set(data.bands)) != bands,
         "Data.bands", data.bands, f"{bands} different names, as many as Model.in_bands", ""),
        *((not is_template(name), f"Data.{key}", name, "a path with one {} in it, such as LR/{}x4.tif", "")
          for key, name in (("hr_names", data.hr_names), ("lr_names", data.lr_names))),
        (data.hr_names == data.lr_names, "Data.lr_names", data.lr_names, "another name than Data.hr_names", ""),
        (data.dataset_type == "SEN2NAIP" and data.sen2naip_taco_file is None,
         "Data.sen2naip_taco_file", None, "the .taco file of SEN2NAIP", "Download it, and say where it is."),
        (bool(configuration.Model.continue_training and configuration.Model.load_checkpoint),
         "Model.load_checkpoint", configuration.Model.load_checkpoint, "false beside Model.continue_training",
         "One takes the weights alone, the other goes on with all of a training: keep the one that is meant."),
        *((True, f"Nash.{key}", getattr(nash, key), f"at most Nash.{of} ({getattr(nash, of)})", "")
          for key, of in nash.impossible().items()),
        (g.model_type == "srresnet" and g.block_type == "rcab" and g.n_channels < SQUEEZE,
         "Generator.n_channels", g.n_channels, f"at least {SQUEEZE}, of which a block's attention (rcab) has one", ""),
        *((size % 2 == 0, f"Generator.{which}_kernel_size", size, "an odd number", "")
          for which, size in (("large", g.large_kernel_size), ("small", g.small_kernel_size))),
        (training.Losses.ssim_win % 2 == 0, "Training.Losses.ssim_win", training.Losses.ssim_win, "an odd number", ""),
        (losses.fixed_idx is not None and 3 < bands <= max(losses.fixed_idx),
         "Training.Losses.fixed_idx", losses.fixed_idx, f"three of the bands 0 to {bands - 1} (Model.in_bands {bands})",
         ""),
        (vgg.j > VGG19[vgg.i - 1],
         "TruncatedVGG.j", vgg.j, f"at most {VGG19[vgg.i - 1]}, the convolutions of VGG19's block {vgg.i}", ""),
        *((True, f"Schedulers.metric_{which}", repr(metric), "a logged metric", nearest(metric, METRICS))
          for which, metric in (("g", configuration.Schedulers.metric_g), ("d", configuration.Schedulers.metric_d))
          if metric not in METRICS),
    ]  # fmt: skip
    problems = [Problem(file, key, str(found), expected, fix) for wrong, key, found, expected, fix in checks if wrong]
    if data.crop_size is not None:  # else the imagery decides
        problems = crop_problems(data.crop_size, configuration, file) + problems
    try:
        normalization_of(data, 0.0, 1.0)
    except InvalidInput as error:
        problems += [
            replace(problem, file=file, found=f"{problem.file}: {problem.found}") for problem in error.problems
        ]
    return problems


def crop_problems(crop: int, configuration: Configuration, file: str) -> list[Problem]:
    """What is wrong with crops of so many pixels of the high-resolution image."""
    factor, least = configuration.Generator.scaling_factor, min_crop(configuration.Discriminator)
    problems = []
    if crop % factor:
        expected = f"a multiple of Generator.scaling_factor ({factor})"
        problems.append(Problem(file, "Data.crop_size", str(crop), expected))
    if crop < least:
        fix = "The discriminator halves it too often: use a larger crop or fewer Discriminator.n_blocks."
        problems.append(Problem(file, "Data.crop_size", str(crop), f"at least {least} px", fix))
    if crop < (seen := least_seen(configuration)):
        metric = configuration.Training.Losses.perceptual_metric
        expected = f"at least {seen} px, which the network of Training.Losses.perceptual_metric: {metric} needs"
        fix = "Use a larger crop, laplacian, or TruncatedVGG.i: a smaller one."
        problems.append(Problem(file, "Data.crop_size", str(crop), expected, fix))
    return problems


def least_seen(configuration: Configuration) -> int:
    """Return the smallest crop, px, of which the perceptual metric's network, if there is one, has a pixel left."""
    losses = configuration.Training.Losses
    if not losses.perceptual_weight or losses.perceptual_metric == "laplacian":
        return 1
    return 31 if losses.perceptual_metric == "lpips" else int(2 ** (configuration.TruncatedVGG.i - 1))


def min_crop(discriminator: DiscriminatorSettings) -> int:
    """Return the smallest crop, px, that still has a pixel at the discriminator's end."""
    halvings = {"standard": discriminator.n_blocks // 2, "esrgan": 5, "patchgan": discriminator.n_blocks}
    return int(2 ** halvings[discriminator.model_type] * (4 if discriminator.model_type == "patchgan" else 1))
