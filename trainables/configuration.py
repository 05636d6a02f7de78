"""The training configuration: opensr-srgan's YAML sections and keys, validated, with defaults.

The same file describes a training here and there. Keys that opensr-srgan has and that do nothing here are
accepted; values that name a part not built here are refused with one sentence each. Ours alone are
`Data.path|crop_size|val_fraction|val_side|percentiles|scale|nodata|resident`, `Generator.bicubic_skip`,
`Discriminator.input_range`,
`Training.max_steps|validate_every|checkpoint_every|seed|threads|precision|cuda_graphs|deterministic`,
`Schedulers.armed` and the section `Nash` (the ruler).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from trainables.errors import InvalidInput, Problem, nearest

SAMPLE = Path(__file__).resolve().parent.parent / "data" / "landsat8_sample_rgb.tif"


# What a plateau scheduler can watch: every figure that each reading of the game has.
METRICS = [
    *(f"{group}/{name}" for group in ("val_metrics", "train_metrics") for name in ("l1", "sam", "tv", "psnr", "ssim")),
    *(f"validation/{name}" for name in ("content_loss", "generator_total_loss", "DISC_adversarial_loss")),
    *(f"generator/{name}" for name in ("content_loss", "adversarial_loss", "total_loss")),
    *(f"discriminator/{name}" for name in ("adversarial_loss", "D(y)_prob", "D(G(x))_prob")),
    *(f"nash/{name}" for name in ("p_y", "p_g", "rank", "control", "psnr")),
]


class Section(BaseModel):
    """A section of the file: unknown keys, wrong types and numbers that are not finite are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


def _lower(value: object) -> object:
    """Names of networks are matched without case, hyphens and underscores, as opensr-srgan matches them."""
    return re.sub(r"[ _-]", "", value.lower()) if isinstance(value, str) else value


def _place(path: str) -> str:
    resolve_path(path, Path())
    return path


Place = Annotated[str, Field(min_length=1), AfterValidator(_place)]  # a path as it was written
Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Weight = Annotated[float, Field(ge=0)]
Rate = Annotated[float, Field(gt=0, le=1)]
Blocks = Annotated[int, Field(ge=1, le=1000)]
Share = Annotated[float, Field(gt=0, lt=1)]
Curve = Literal["linear", "cosine"]


class DataSettings(Section):
    """Imagery: where it is, how it is scaled to numbers around 0–1, how it is cut."""

    dataset_type: Annotated[Literal["scenes", "lrhrfolderdataset"], BeforeValidator(_lower)] = "scenes"
    path: Place = "sample"  # a file or folder of scenes; `sample` is the one that ships with the project
    root_dir: Place | None = None  # of an LRHRFolderDataset: {train,val}/{LR,HR}
    normalization: Literal["percentiles", "scale", "normalise_10k", "zero_one", "identity"] = "percentiles"
    percentiles: Annotated[list[float], Field(min_length=2, max_length=2)] = [0.1, 99.9]
    scale: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None
    nodata: Annotated[float, Field(allow_inf_nan=True)] | None = None  # overrides what the files say
    crop_size: Positive = 96  # of the high-resolution image, px
    val_fraction: Share = 0.2
    val_side: Literal["right", "bottom", "left", "top"] | None = None  # held out; default: an end of the longer axis
    train_batch_size: Positive = 16
    val_batch_size: Positive = 32
    resident: bool | None = None  # scenes kept on the GPU; default: where they take less than a quarter of what is free
    num_workers: Count = 0
    prefetch_factor: Count = 2  # batches cut ahead where scenes are not on the GPU


class ModelSettings(Section):
    """What is trained; continuing from a checkpoint is a command here, not a key."""

    in_bands: Positive = 3
    continue_training: Literal[False] = False
    load_checkpoint: Literal[False] = False


class EmaSettings(Section):
    """Exponential moving average of the generator's weights."""

    enabled: bool = False
    decay: Share = 0.999
    update_after_step: Count = 0
    use_num_updates: bool = True


class LossSettings(Section):
    """The generator's loss: content terms and the adversarial one."""

    adv_loss_type: Literal["bce"] = "bce"
    relativistic_average_d: Literal[False] = False
    adv_loss_beta: Weight = 0.01
    adv_loss_schedule: Curve = "cosine"
    r1_gamma: Annotated[float, Field(ge=0, le=0)] = 0.0
    l1_weight: Weight = 1.0
    sam_weight: Weight = 0.0
    perceptual_weight: Annotated[float, Field(ge=0, le=0)] = 0.0
    perceptual_metric: str = "vgg"
    fixed_idx: list[int] | None = None
    tv_weight: Weight = 0.0
    max_val: Annotated[float, Field(gt=0)] = 1.0
    ssim_win: Annotated[int, Field(ge=3)] = 11


class TrainingSettings(Section):
    """Lengths in steps; a step is one generator update, pretraining included."""

    device: Literal["auto", "cuda", "cpu"] = "auto"
    gpus: int | list[int] | None = None
    max_epochs: int | None = None
    val_check_interval: float | int | None = None
    limit_val_batches: float | int | None = None
    max_steps: Annotated[int, Field(ge=1, le=10**12)] = 100_000
    validate_every: Positive = 500
    checkpoint_every: Positive | None = None  # in validations; None: so often that it takes 2 % of the time
    pretrain_g_only: bool = True
    g_pretrain_steps: Count = 5000
    adv_loss_ramp_steps: Count = 2500
    label_smoothing: bool | Annotated[float, Field(gt=0.5, le=1)] = True
    seed: Count = 0
    threads: Positive | None = None
    precision: Literal["fp32", "bf16"] = "fp32"
    cuda_graphs: bool = True  # on a GPU: the whole step recorded once and replayed
    deterministic: bool = True  # on a GPU: the same bits again
    EMA: EmaSettings = EmaSettings()
    Losses: LossSettings = LossSettings()

    @property
    def pretrain_steps(self) -> int:
        """Steps before the game begins."""
        return self.g_pretrain_steps if self.pretrain_g_only else 0

    @property
    def real_label(self) -> float:
        """The discriminator's target for real images (α)."""
        if isinstance(self.label_smoothing, bool):
            return 0.9 if self.label_smoothing else 1.0
        return self.label_smoothing


class GeneratorSettings(Section):
    """SRResNet (Ledig et al. 2017) or ESRGAN's RRDB network (Wang et al. 2018)."""

    model_type: Annotated[Literal["srresnet", "esrgan"], BeforeValidator(_lower)] = "srresnet"
    block_type: str = "standard"
    large_kernel_size: Positive = 9
    small_kernel_size: Positive = 3
    n_channels: Positive = 64
    n_blocks: Blocks = 16
    scaling_factor: Literal[2, 4, 8] = 4
    growth_channels: Positive = 32
    res_scale: Annotated[float, Field(gt=0)] = 0.2
    use_icnr: bool = False
    bicubic_skip: bool = False  # G(x) = bicubic(x) + network(x)


class DiscriminatorSettings(Section):
    """VGG-style (`standard`, `esrgan`) or PatchGAN; spectral normalisation, never batch normalisation."""

    model_type: Annotated[Literal["standard", "patchgan", "esrgan"], BeforeValidator(_lower)] = "standard"
    n_blocks: Blocks = 8
    use_spectral_norm: bool = True
    base_channels: Positive = 64
    linear_size: Positive = 1024
    input_range: Annotated[float, Field(gt=0)] = 1.0  # images in 0–1 enter as ± this


class OptimizerSettings(Section):
    """Adam for both networks."""

    optim_g_lr: Rate = 1e-4
    optim_d_lr: Rate = 1e-5
    gradient_clip_val: Weight = 0.0
    betas: Annotated[list[Annotated[float, Field(ge=0, lt=1)]], Field(min_length=2, max_length=2)] = [0.0, 0.99]
    eps: Rate = 1e-7
    weight_decay_g: Weight = 0.0
    weight_decay_d: Weight = 0.0


class SchedulerSettings(Section):
    """Warm-up of G's rate and one plateau scheduler a network, counted in validations."""

    g_warmup_steps: Count = 0
    g_warmup_type: Curve = "cosine"
    metric_g: str = "validation/generator_total_loss"
    metric_d: str = "validation/DISC_adversarial_loss"
    patience_g: Count = 10
    patience_d: Count = 10
    factor_g: Share = 0.5
    factor_d: Share = 0.5
    threshold: Weight = 1e-4
    cooldown: Count = 0
    min_lr: Weight = 0.0
    armed: Literal["ramp_end", "game"] = "ramp_end"


class WandbSettings(Section):
    """opensr-srgan's tracking keys; a study's own `tracking` decides here."""

    enabled: bool = False
    entity: str | None = None
    project: str | None = None


class LoggingSettings(Section):
    """What is drawn."""

    num_val_images: Count = 5
    wandb: WandbSettings = WandbSettings()


class NashSettings(Section):
    """The ruler: when a reading is balanced and when the balance counts as reached."""

    validation_pairs: Annotated[int, Field(ge=64)] = 256
    probability_tolerance: Rate = 0.10
    rank_tolerance: Annotated[float, Field(gt=0, le=0.5)] = 0.25
    control_auc: Annotated[float, Field(gt=0.5, lt=1)] = 0.90
    d_lr_floor: Rate = 0.25
    psnr_slack_db: Annotated[float, Field(gt=0)] = 2.0
    window: Annotated[int, Field(ge=2)] = 10
    required: Positive = 9
    exploitability: Annotated[float, Field(ge=0.5, le=1)] | None = None


class Configuration(Section):
    """A whole training, as the YAML file says it."""

    Data: DataSettings = DataSettings()
    Model: ModelSettings = ModelSettings()
    Training: TrainingSettings = TrainingSettings()
    Generator: GeneratorSettings = GeneratorSettings()
    Discriminator: DiscriminatorSettings = DiscriminatorSettings()
    Optimizers: OptimizerSettings = OptimizerSettings()
    Schedulers: SchedulerSettings = SchedulerSettings()
    Logging: LoggingSettings = LoggingSettings()
    Nash: NashSettings = NashSettings()


# Values that opensr-srgan knows and this project has not built: one sentence each.
_LATER = "it is not built here yet"
_NOT_BUILT: dict[str, dict[str, str]] = {
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
_NOT_BUILT_ABOVE_ZERO = {
    "Training.Losses.perceptual_weight": "The perceptual loss is not there yet: set it to 0.",
    "Training.Losses.r1_gamma": "The R1 penalty is not there yet: set it to 0.",
    "Training.Losses.relativistic_average_d": "The relativistic loss is not there yet: set it to false.",
    "Model.continue_training": "Interrupted trainings go on by themselves: run the same `train` command again.",
    "Model.load_checkpoint": "Starting from foreign weights is not there yet: set it to false.",
}


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads `1e-4` as text; here it is the number it looks like. A key given twice is refused."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError, ArithmeticError):  # of `!!int ""`, `!!bool x`, `!!timestamp x`
            found = f"{str(node.value)[:40]!r} is no {node.tag.rpartition(':')[2]}"
            raise yaml.constructor.ConstructorError(None, None, found, node.start_mark) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        if not isinstance(node, yaml.MappingNode):  # `!!map [a]`
            raise yaml.constructor.ConstructorError(None, None, "a mapping that is none", node.start_mark)
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int | float | bool | None):
                raise yaml.constructor.ConstructorError(None, None, "a key that is no word", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key}' stands here twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes the texts that `_Loader` would take for numbers."""


for _side in (_Loader, _Dumper):
    _side.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)[eE][-+]?[0-9]+$"),
        list("-+.0123456789"),
    )
MOST_BYTES, MOST_VALUES, MOST_LEVELS = 200_000, 10_000, 50  # of a YAML file


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; one clear error where there is none."""
    try:
        if path.stat().st_size > MOST_BYTES:
            found, expected = f"{path.stat().st_size} bytes", f"a YAML file of at most {MOST_BYTES}"
            raise InvalidInput([Problem(str(path), "", found, expected, "Check the path.")])
        document = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506 (a SafeLoader)
        excess = _excess(document)
    except RecursionError:
        excess = f"more than {MOST_LEVELS} levels"
    except FileNotFoundError:
        raise InvalidInput([Problem(str(path), "", "no such file", "a YAML file", "Check the path.")]) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput([Problem(str(path), "", str(error), "a readable YAML file in UTF-8")]) from None
    except (yaml.YAMLError, ValueError) as error:
        raise InvalidInput([Problem(str(path), "", " ".join(str(error).split()), "valid YAML")]) from None
    if excess:
        raise InvalidInput([Problem(str(path), "", excess, "settings that a person can read", "Check the file.")])
    if not isinstance(document, dict):
        found = "an empty file" if document is None else type(document).__name__
        raise InvalidInput([Problem(str(path), "", found, "sections with keys", "See search_spaces/base/sample.yaml.")])
    return document


def _excess(document: object) -> str:
    """What no settings have, "" where there is no such thing. An alias counts wherever it stands, in itself too."""
    count, waiting = 0, [(document, 0)]
    while waiting:
        value, level = waiting.pop()
        count += 1
        if level > MOST_LEVELS:
            return f"more than {MOST_LEVELS} levels"
        if count > MOST_VALUES:
            return f"more than {MOST_VALUES} values"
        if isinstance(value, int) and not -(2**63) <= value <= 2**63:
            return "a whole number of more than 64 bits"
        if isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value):
            return f"half a character ({value[:20]!r})"
        if isinstance(value, dict):
            waiting += [(part, level + 1) for item in value.items() for part in item]
        elif isinstance(value, (list, tuple, set)):
            waiting += [(part, level + 1) for part in value]
    return ""


def load_configuration(path: Path) -> Configuration:
    """Read and validate a training file; paths in it are relative to it."""
    return build_configuration(read_yaml(path), str(path), path.parent)


def build_configuration(document: Mapping[str, Any], file: str, folder: Path) -> Configuration:
    """Validate a training given as nested mappings; relative paths are resolved against `folder`."""
    nested = _copy(document)
    problems = _accept_alias(nested, file) + _take_out_unbuilt(nested, file)
    configuration = None
    try:
        configuration = Configuration.model_validate(nested)
    except ValidationError as error:
        problems += explain(error, Configuration, file)
    if configuration is not None:
        problems += _disagreements(configuration, file)
    if problems or configuration is None:
        raise InvalidInput(problems)
    data = configuration.Data
    found = {"path": resolve_path(data.path, folder), "root_dir": data.root_dir and resolve_path(data.root_dir, folder)}
    return configuration.model_copy(update={"Data": data.model_copy(update=found)})


def dump_configuration(configuration: Configuration) -> str:
    """The configuration as YAML, every default written out; `load` of it is the identity."""
    return write_yaml(configuration.model_dump())


def write_yaml(document: Mapping[str, Any]) -> str:
    """The text that `read_yaml` reads as this mapping."""
    text: str = yaml.dump(document, Dumper=_Dumper, sort_keys=False)
    return text


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested sections as one mapping of dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def with_values(nested: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of nested sections with values at dotted keys put in."""
    result = _copy(nested)
    for dotted, value in values.items():
        *sections, key = dotted.split(".")
        place = result
        for section in sections:
            if not isinstance(place.get(section), dict):
                place[section] = {}
            place = place[section]
        place[key] = value
    return result


def field_of(dotted: str) -> FieldInfo | str:
    """The field a dotted key names, or a sentence that says what comes nearest."""
    model: type[BaseModel] = Configuration
    *sections, key = dotted.split(".")
    for section in sections:
        field = model.model_fields.get(section)
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            return nearest(dotted, list(flatten(Configuration().model_dump())))
        model = field.annotation
    return model.model_fields.get(key) or nearest(dotted, list(flatten(Configuration().model_dump())))


def explain(error: ValidationError, model: type[BaseModel], file: str) -> list[Problem]:
    """pydantic's findings in our words, each at its dotted key."""
    problems: list[Problem] = []
    for entry in error.errors():
        path = _key_path(model, entry["loc"])
        if problems and problems[-1].key == ".".join(path):
            continue  # one wrong value, tried against each type of a union
        if entry["type"] == "extra_forbidden":
            owner = _model_at(model, path[:-1])
            names = [field.alias or name for name, field in owner.model_fields.items()] if owner else []
            fix = nearest(path[-1], names) if names else ""
            problems.append(Problem(file, ".".join(path), "an unknown key", "a known one", fix))
        elif entry["type"] == "missing":
            problems.append(Problem(file, ".".join(path), "nothing", "a value", "The key is required."))
        else:
            found = repr(entry["input"])
            found = found if len(found) < 80 else found[:77] + "..."
            expected = entry["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
            problems.append(Problem(file, ".".join(path), f"{found} ({type(entry['input']).__name__})", expected))
    return problems


def _key_path(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """The keys a person wrote: pydantic goes on with the types and indices it tried inside a value."""
    path: list[str] = []
    for part in map(str, location):
        path.append(part)
        inner = _model_at(model, path)
        if inner is None and not (path[0] == "space" and len(path) < 3):
            break
    return path


def _model_at(model: type[BaseModel], path: list[str]) -> type[BaseModel] | None:
    for index, part in enumerate(path):
        field = model.model_fields.get(part)
        annotation = field.annotation if field else None
        if get_origin(annotation) is dict and len(path) == index + 2:
            annotation = get_args(annotation)[1]  # a mapping of models: what stands at any key of it
            return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return None
        model = annotation
    return model


def _copy(nested: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _copy(value) if isinstance(value, Mapping) else value for key, value in nested.items()}


def is_url(place: str) -> bool:
    """Whether a place is an object store's, not a folder's."""
    return "://" in place


def resolve_path(path: str, folder: Path) -> str:
    """An absolute path, or a URL as it is; `sample` is the imagery that ships with the project. ValueError else."""
    if path == "sample":
        return str(SAMPLE)
    if is_url(path):
        return path
    try:
        return str((folder / Path(path).expanduser()).resolve())
    except (ValueError, RuntimeError) as error:  # a NUL in it; the home of nobody, links that lead in a circle
        raise ValueError(f"a path that there can be ({error})") from None


def _accept_alias(nested: dict[str, Any], file: str) -> list[Problem]:
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
    """One sentence for each part of opensr-srgan that is not built here; they are then left out of the check."""
    problems = []
    for dotted, sentences in _NOT_BUILT.items():
        value = _at(nested, dotted)
        field = field_of(dotted)
        assert isinstance(field, FieldInfo)
        accepted = field.annotation.__args__ if field.annotation is not None else ()
        name = _lower(value) if "type" in dotted else value
        if isinstance(value, str) and name not in accepted:
            problems.append(
                Problem(
                    file,
                    dotted,
                    f"'{value}'",
                    "a part that is built here",
                    f"{_LATER.capitalize()}. " + sentences.get(str(name), sentences["*"]),
                )
            )
            _drop(nested, dotted)
    for dotted, sentence in _NOT_BUILT_ABOVE_ZERO.items():
        value = _at(nested, dotted)
        if isinstance(value, str) or (isinstance(value, (int, float)) and value > 0):
            problems.append(Problem(file, dotted, repr(value), "0 or false", sentence))
            _drop(nested, dotted)
    block, network = _at(nested, "Generator.block_type"), _at(nested, "Generator.model_type")
    if isinstance(block, str) and block != "standard" and _lower(network or "srresnet") == "srresnet":
        problems.append(
            Problem(file, "Generator.block_type", f"'{block}'", "'standard'", "Other blocks are not built here yet.")
        )
    return problems


def _at(nested: object, dotted: str) -> object:
    """What stands at a dotted key; None where nothing does."""
    for key in dotted.split("."):
        nested = nested.get(key) if isinstance(nested, dict) else None
    return nested


def _drop(nested: dict[str, Any], dotted: str) -> None:
    *sections, key = dotted.split(".")
    for section in sections:
        nested = nested[section]
    del nested[key]


def _disagreements(configuration: Configuration, file: str) -> list[Problem]:
    """Keys that are right alone and wrong together."""
    training, nash, data = configuration.Training, configuration.Nash, configuration.Data
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
        (nash.required > nash.window, "Nash.required", nash.required, f"at most Nash.window ({nash.window})", ""),
        (training.validate_every * 50 > training.max_steps,
         "Training.validate_every", training.validate_every,
         f"at most a fiftieth of max_steps ({training.max_steps // 50})", "Validate more often or train longer."),
        (nash.window * training.validate_every * 5 > training.max_steps,
         "Nash.window", nash.window,
         f"a window of at most a fifth of the training ({training.max_steps // 5} steps)",
         "Shorten it or validate more often."),
        (first_certificate(configuration) > training.max_steps,
         "Training.max_steps", training.max_steps,
         f"at least {first_certificate(configuration)}: pretraining, ramp and one window",
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


def first_certificate(configuration: Configuration) -> int:
    """The earliest step at which a balance can be certified: pretraining, ramp, and one full window."""
    training, every = configuration.Training, configuration.Training.validate_every
    begins = training.pretrain_steps + max(training.adv_loss_ramp_steps, 1)  # a reading needs a discriminator
    return -(-begins // every) * every + (configuration.Nash.window - 1) * every


def min_crop(discriminator: DiscriminatorSettings) -> int:
    """The smallest crop, px, that still has a pixel at the discriminator's end."""
    halvings = {"standard": discriminator.n_blocks // 2, "esrgan": 5, "patchgan": discriminator.n_blocks}
    return int(2 ** halvings[discriminator.model_type] * (4 if discriminator.model_type == "patchgan" else 1))
