"""The study file: what is searched, for what, with what. Everything is validated before anything starts.

Knows the training's configuration, not its networks; imports neither torch nor ray nor optuna.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from trainables.configuration import (
    Configuration,
    NashSettings,
    Place,
    Section,
    build_configuration,
    explain,
    field_of,
    first_certificate,
    flatten,
    read_yaml,
    resolve_path,
    with_values,
    write_yaml,
)
from trainables.errors import InvalidInput, Problem

Value = int | float | str | bool
WandbMode = Literal["offline", "online", "disabled"]
MAX_CORNERS_OF = 8  # searched keys; with more, each range is checked by itself

# What defines the ruler, or the machine, or does nothing here, cannot be searched.
RULER = (
    "Data.",
    "Model.",
    "Discriminator.",
    "Nash.",
    "Logging.",
    "Generator.scaling_factor",
    "Training.label_smoothing",
    "Training.EMA.",
    "Training.seed",
    "Training.max_steps",
    "Training.validate_every",
    "Training.checkpoint_every",
    "Training.threads",
    "Training.device",
    "Training.precision",
    "Training.cuda_graphs",
    "Training.deterministic",
    "Training.gpus",
    "Training.max_epochs",
    "Training.val_check_interval",
    "Training.limit_val_batches",
    "Training.Losses.max_val",
    "Training.Losses.ssim_win",
)


class Parameter(Section):
    """One searched key: `{int: [low, high], step: n}`, `{float: [low, high], log: true}` or `{choice: [...]}`."""

    model_config = ConfigDict(allow_inf_nan=True)  # said of the whole range, in its own words

    int_range: Annotated[list[int], Field(min_length=2, max_length=2)] | None = Field(None, alias="int")
    float_range: Annotated[list[float], Field(min_length=2, max_length=2)] | None = Field(None, alias="float")
    choice: Annotated[list[Value], Field(min_length=1)] | None = None
    step: float | int | None = None
    log: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> Parameter:
        given = [name for name in ("int_range", "float_range", "choice") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError("exactly one of int, float and choice")
        if self.choice is not None:
            if self.step is not None or self.log:
                raise ValueError("no step and no log with choice")
            return self
        low, high = self.bounds
        if not -math.inf < low < high < math.inf:
            raise ValueError(f"a finite range whose low end is below its high end, not [{low}, {high}]")
        if self.log and low <= 0:
            raise ValueError("a low end above 0, since log is on")
        if self.log and high / low == math.inf:
            raise ValueError(f"a low end nearer to {high}, since log is on")
        if self.step is not None:
            if self.log:
                raise ValueError("step or log, not both")
            if not self.step > 0 or (self.int_range is not None and not isinstance(self.step, int)):
                raise ValueError("a step above 0, whole for int")
            steps = (high - low) / self.step
            if not 0.5 < steps < math.inf or abs(steps - round(steps)) > 1e-9:
                raise ValueError(f"a step that divides {high} - {low} = {high - low:g}; {self.step} does not")
        return self

    @property
    def bounds(self) -> tuple[float, float]:
        """Low and high end of a range."""
        found = self.int_range or self.float_range
        assert found is not None
        return found[0], found[1]

    def ends(self) -> list[Value]:
        """The values that must all build a valid training: both ends, or every choice."""
        return self.choice if self.choice is not None else list(self.bounds)

    @property
    def low(self) -> Any:
        """The smallest value; of a choice that has none, the first."""
        ends = self.ends()
        return ends[0] if any(isinstance(end, str) for end in ends) else min(ends)

    @property
    def high(self) -> Any:
        """The largest value; of a choice that has none, the last."""
        ends = self.ends()
        return ends[-1] if any(isinstance(end, str) for end in ends) else max(ends)

    def at(self, share: float) -> Value:
        """The value at a share of the way, from 0 to 1 exclusive; shares drawn evenly give every value alike."""
        if self.choice is not None:
            return self.choice[int(share * len(self.choice))]
        low, high = self.bounds
        step = self.step or (1 if self.int_range is not None else None)
        if self.log:
            value = math.exp(math.log(low) + share * math.log(high / low))
            return round(value) if self.int_range is not None else value
        value = low + step * int(share * (round((high - low) / step) + 1)) if step else low + share * (high - low)
        return int(value) if self.int_range is not None else value

    def admits(self, value: object) -> bool:
        """Whether a value can be proposed."""
        if self.choice is not None:
            return value in self.choice
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        if self.int_range is not None and not isinstance(value, int):
            return False
        low, high = self.bounds
        step = self.step or (1 if self.int_range is not None else None)
        if not low <= value <= high:
            return False
        return step is None or abs((value - low) / step - round((value - low) / step)) < 1e-9


class Objective(Section):
    """What is minimised, and the ruler it is measured with."""

    metric: Literal["steps_to_nash", "seconds_to_nash"] = (
        "steps_to_nash"  # seconds: of training, as each trial measures
    )
    max_steps: Annotated[int, Field(ge=1)] | None = None  # of a trial; else the training file's
    validate_every: Annotated[int, Field(ge=1)] | None = None
    nash: NashSettings = NashSettings()


class Budget(Section):
    """What the whole study may use; the first limit that is reached ends it."""

    hours: Annotated[float, Field(gt=0)] | None = None
    gpu_hours: Annotated[float, Field(gt=0)] | None = None
    steps: Annotated[int, Field(ge=1)] | None = None


class Capping(Section):
    """Trials that can no longer win end: at the bound `slack` × best, and where the game is lost for good."""

    enabled: bool = True
    slack: Annotated[float, Field(ge=1)] = 1.25
    lost_after: Annotated[int, Field(ge=1)] = 20  # validations of the game in which D orders every pair


class BestFirst(Section):
    """The trial that may reach the balance soonest is trained first. Takes capping, which ends what is left over."""

    enabled: bool = True
    margin: Annotated[float, Field(ge=1)] = 1.25  # so many times as late as one that waits, a trial makes way


class Sharing(Section):
    """Pretraining that several trials have in common is computed once."""

    enabled: bool = True
    disk_gb: Annotated[float, Field(gt=0)] = 20  # that snapshots may take


class Search(Section):
    """How many trials, and who proposes them."""

    trials: Annotated[int, Field(ge=1)] = 20
    sampler: Literal["tpe", "gp", "cmaes", "nsgaii", "random"] = "tpe"
    startup: Annotated[int, Field(ge=1)] = 32  # proposed blindly; the soonest of them are started first
    seed: Annotated[int, Field(ge=0)] = 0
    try_first: list[dict[str, Value]] = []
    budget: Budget = Budget()
    capping: Capping = Capping()
    best_first: BestFirst = BestFirst()
    sharing: Sharing = Sharing()
    learn_from: list[Place] = []  # earlier studies: a folder, or a name in the same storage


class Confirm(Section):
    """The best `top` configurations again, on `seeds` further seeds, each to max_steps."""

    top: Annotated[int, Field(ge=0)] = 4
    seeds: Annotated[int, Field(ge=1)] = 5


class Resources(Section):
    """Of one trial; fractions of a GPU are fine."""

    cpus: Annotated[float, Field(gt=0)] = 1
    gpus: Annotated[float, Field(ge=0)] = 0
    concurrent: Annotated[int, Field(ge=1)] | None = None  # else as many as fit
    max_failures: Annotated[int, Field(ge=0)] = 3
    mps: bool = True  # trials that share a GPU do so through CUDA MPS, where its daemon can be started


class WandbTracking(Section):
    """Weights & Biases."""

    mode: WandbMode = "offline"
    project: str = "tune-srgan"
    entity: str | None = None


class Tracking(Section):
    """Where readings go besides the record."""

    wandb: WandbTracking = WandbTracking()


class Study(Section):
    """A validated study. `training` is the training file's content, paths in it absolute."""

    study: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    training: dict[str, Any]
    space: dict[str, Parameter]
    objective: Objective = Objective()
    search: Search = Search()
    confirm: Confirm = Confirm()
    resources: Resources = Resources()
    tracking: Tracking = Tracking()
    storage: Place = "runs"

    def configuration(self, values: Mapping[str, Value]) -> Configuration:
        """The complete training configuration of a trial."""
        return build_configuration(with_values(self.training, self._ruler() | dict(values)), self.study, Path())

    def lowest(self) -> Configuration:
        """The configuration at the low end of every range."""
        return self.configuration({key: parameter.low for key, parameter in self.space.items()})

    def highest(self) -> Configuration:
        """The configuration at the high end of every range."""
        return self.configuration({key: parameter.high for key, parameter in self.space.items()})

    def confirming(self, values: Mapping[str, Value], further: int) -> Configuration:
        """A trial's configuration with the `further`-th seed after its own."""
        configuration = self.configuration(values)
        training = configuration.Training.model_copy(update={"seed": configuration.Training.seed + further})
        return configuration.model_copy(update={"Training": training})

    @property
    def max_steps(self) -> int:
        """Steps of a trial that does not reach the balance."""
        found = self.objective.max_steps or self.training.get("Training", {}).get("max_steps")
        return int(found or Configuration().Training.max_steps)

    def dump(self) -> str:
        """The resolved study as YAML; `load` of it is the identity."""
        return write_yaml(self.model_dump(by_alias=True, exclude_none=True))

    def same_search(self, other: Study) -> bool:
        """Whether trials of one are trials of the other: same training, space and objective."""
        return (self.training, self.space, self.objective) == (other.training, other.space, other.objective)

    def _ruler(self) -> dict[str, Any]:
        objective = self.objective
        fixed: dict[str, Any] = {f"Nash.{key}": value for key, value in objective.nash.model_dump().items()}
        if objective.max_steps is not None:
            fixed["Training.max_steps"] = objective.max_steps
        if objective.validate_every is not None:
            fixed["Training.validate_every"] = objective.validate_every
        if not self.resources.gpus and self.training.get("Training", {}).get("device", "auto") == "auto":
            fixed["Training.device"] = "cpu"  # Ray does not hide a GPU from a trial that asked for none
        if "threads" not in self.training.get("Training", {}):
            fixed["Training.threads"] = max(1, int(self.resources.cpus))
        return fixed

    def non_default_ruler(self) -> dict[str, Any]:
        """Tolerances other than the defaults: printed beside every result."""
        default = NashSettings().model_dump()
        return {key: value for key, value in self.objective.nash.model_dump().items() if value != default[key]}


def load_study(path: Path) -> tuple[Study, list[str]]:
    """Read and validate a study file without looking at the imagery; returns warnings beside it."""
    document = read_yaml(path)
    problems: list[Problem] = []
    training, training_file = _training_of(document, path, problems)
    problems += _training_problems(training, training_file)
    try:
        study = Study.model_validate({**document, "training": training})
    except ValidationError as error:
        problems += [_for_space(problem) for problem in explain(error, Study, str(path))]
        space = document.get("space")
        problems += _key_problems(map(str, space) if isinstance(space, dict) else [], flatten(training), str(path))
        raise InvalidInput(problems) from None
    problems += _space_problems(study, str(path))
    if not problems:
        problems += _corner_problems(study, str(path), training_file)
    if problems:
        raise InvalidInput(problems)
    return study, warnings_of(study)


def warnings_of(study: Study) -> list[str]:
    """What is allowed and probably not meant."""
    configuration = study.lowest()
    training, every = configuration.Training, configuration.Training.validate_every
    ramp = training.adv_loss_ramp_steps if configuration.Schedulers.armed == "ramp_end" else 1
    validations = (training.max_steps - training.pretrain_steps - ramp) // every
    found = []
    for which in "gd":
        key = f"Schedulers.patience_{which}"
        patience = max(study.space[key].ends()) if key in study.space else getattr(configuration.Schedulers, key[-10:])
        if isinstance(patience, (int, float)) and patience + 2 > validations:
            found.append(f"{key}: a patience of {patience} can never act within {training.max_steps} steps.")
    warmup = study.space.get("Schedulers.g_warmup_steps")
    longest: Any = max(warmup.ends()) if warmup else configuration.Schedulers.g_warmup_steps
    if longest > training.pretrain_steps:
        found.append(
            f"Schedulers.g_warmup_steps: a warm-up of {longest:g} steps outlasts the shortest pretraining "
            f"({training.pretrain_steps} steps) and reaches into the game."
        )
    if study.search.budget.gpu_hours is not None and not study.resources.gpus:
        found.append("search.budget.gpu_hours: limits nothing, since resources.gpus is 0.")
    changed = study.non_default_ruler()
    if changed:
        found.append("objective.nash is not the default: " + ", ".join(f"{k}={v}" for k, v in changed.items()) + ".")
    return found


def _training_of(document: Mapping[str, Any], path: Path, problems: list[Problem]) -> tuple[dict[str, Any], str]:
    """The training's sections, inline or from the file a study names, and where they stand; paths made absolute."""
    training, file = document.get("training", {}), path
    if isinstance(training, str):
        try:
            file = (path.parent / training).resolve()
            training = read_yaml(file)
        except (ValueError, RuntimeError):  # a NUL in it, links that lead in a circle
            problems.append(Problem(str(path), "training", repr(training), "a path that there can be"))
            training = {}
        except InvalidInput as error:
            problems += [Problem(p.file, p.key or "training", p.found, p.expected, p.fix) for p in error.problems]
            training = {}
    elif not isinstance(training, dict):
        problems.append(Problem(str(path), "training", repr(training), "a file name or the sections themselves"))
        training = {}
    data = training.get("Data")
    if isinstance(data, dict):
        for key in ("path", "root_dir"):
            if isinstance(data.get(key), str) and data[key] != "sample":
                with contextlib.suppress(ValueError):  # the training's own check names it
                    training = with_values(training, {f"Data.{key}": resolve_path(data[key], file.parent)})
    return training, str(file)


def _training_problems(training: Mapping[str, Any], file: str) -> list[Problem]:
    """What is wrong with the training whatever the space says: unknown keys, wrong types, sections that are none."""
    try:
        Configuration.model_validate(training)
    except ValidationError:
        try:
            build_configuration(training, file, Path(file).parent)
        except InvalidInput as error:
            return error.problems
    return []


def _for_space(problem: Problem) -> Problem:
    """pydantic names our aliases' fields; a person wrote `int` and `float`."""
    key = problem.key.replace("int_range", "int").replace("float_range", "float")
    return Problem(problem.file, key, problem.found, problem.expected, problem.fix.replace("int_range", "int"))


def _key_problems(keys: Iterable[str], fixed: Mapping[str, Any], file: str) -> list[Problem]:
    """Keys that are none, that define the ruler, or that are fixed too."""
    problems = []
    for key in keys:
        field = field_of(key)
        where = f"space.{key}"
        name = "Training.g_warmup_steps" if key == "Schedulers.g_warmup_steps" and key not in fixed else key
        if isinstance(field, str):
            problems.append(Problem(file, where, "an unknown key", "a key of the training configuration", field))
        elif isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            problems.append(Problem(file, where, "a section", "a key in it"))
        elif key.startswith(RULER):
            fix = "What defines the ruler or the machine cannot be searched: fix it in the training file."
            problems.append(
                Problem(file, where, "a key that defines the measurement", "a setting of the training", fix)
            )
        elif name in fixed:
            fix = "Take it out of the training file, or out of the space."
            found = f"searched, and fixed to {fixed[name]} in the training"
            problems.append(Problem(file, where, found, "one of them", fix))
    return problems


def _space_problems(study: Study, file: str) -> list[Problem]:
    """Keys that cannot be searched, are fixed too, or do not take such values."""
    fixed = flatten(study.training)
    problems = _key_problems(study.space, fixed, file)
    if not study.space:
        problems.append(Problem(file, "space", "nothing", "at least one searched key"))
    wrong = {problem.key for problem in problems}
    for key, parameter in study.space.items():
        field = field_of(key)
        whole = isinstance(field, FieldInfo) and field.annotation is int
        if f"space.{key}" not in wrong and whole and parameter.float_range is not None:
            problems.append(Problem(file, f"space.{key}", "a float range", "an int range: the key takes whole numbers"))
    for index, values in enumerate(study.search.try_first):
        for key, value in values.items():
            where = f"search.try_first[{index}].{key}"
            parameter_of = study.space.get(key)
            if parameter_of is None:
                problems.append(Problem(file, where, "a key that is not searched", "a key of the space"))
            elif not parameter_of.admits(value):
                problems.append(Problem(file, where, repr(value), f"a value of the space ({_shown(parameter_of)})"))
    for key in ("max_steps", "validate_every"):
        said, own = fixed.get(f"Training.{key}"), getattr(study.objective, key)
        if said is not None and own is not None and said != own:
            found = f"{own}, and Training.{key} is {said}"
            problems.append(
                Problem(file, f"objective.{key}", found, "one value", f"Take Training.{key} out of the training file.")
            )
    nash = study.training.get("Nash")
    if nash:
        problems.append(
            Problem(file, "training: Nash", "the ruler in the training file", "objective.nash", "Move it there.")
        )
    return problems


def _corner_problems(study: Study, file: str, training_file: str) -> list[Problem]:
    """Every range's ends must build a valid training; what is wrong everywhere is the training file's own fault."""
    keys = list(study.space)
    ends = [study.space[key].ends() for key in keys]
    if len(keys) <= MAX_CORNERS_OF and math.prod(len(found) for found in ends) <= 2**MAX_CORNERS_OF:
        corners = [dict(zip(keys, values, strict=True)) for values in itertools.product(*ends)]
    else:
        first = {key: found[0] for key, found in zip(keys, ends, strict=True)}
        last = {key: found[-1] for key, found in zip(keys, ends, strict=True)}
        corners = [base | {key: value} for base in (first, last) for key in keys for value in study.space[key].ends()]
    # what both ends take and the number beside them does not: an odd kernel size
    beside = {key: p.bounds[0] + (p.step or 1) for key, p in study.space.items() if p.int_range is not None}
    corners += [corners[0] | {key: value} for key, value in beside.items()]
    found_at: dict[Problem, list[dict[str, Value]]] = {}
    for corner in corners:
        document = with_values(study.training, study._ruler() | corner)
        try:
            build_configuration(document, training_file, Path(training_file).parent)
        except InvalidInput as error:
            for problem in error.problems:
                found_at.setdefault(problem, []).append(corner)
    problems, named = [], set()
    for problem, where in found_at.items():
        if len(where) == len(corners):
            problems.append(problem)
        elif problem.key not in named:  # one corner says it; the others are the same fault
            named.add(problem.key)
            corner_text = ", ".join(f"{key} = {value}" for key, value in where[0].items())
            fix = f"A range reaches too far: at {corner_text}."
            key = f"space.{problem.key}" if problem.key in study.space else problem.key
            problems.append(Problem(file, key, problem.found, problem.expected, fix))
    return problems


def _shown(parameter: Parameter) -> str:
    if parameter.choice is not None:
        return "one of " + ", ".join(map(str, parameter.choice))
    low, high = parameter.bounds
    return f"{low:g} to {high:g}" + (f" by {parameter.step:g}" if parameter.step else "")


def earliest_certificate(study: Study) -> int:
    """The earliest step at which any configuration of the space can be certified."""
    return first_certificate(study.lowest())
