"""A study's settings: what is searched, for what, with what, and the configuration each trial gets of them.

Knows the training's configuration, not its networks; imports neither torch nor ray nor optuna.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from trainables.balance import Ruler, earliest_balance
from trainables.configuration import build_configuration, unjudgeable
from trainables.dotted import with_values
from trainables.errors import InvalidInput
from trainables.merits import MERITS, QUALITY
from trainables.schema import Configuration, NashSettings
from trainables.sections import Place, Section, WandbName
from trainables.yaml_files import write_yaml
from tune_srgan.study.space import Parameter, Value

METRIC = "Training.Losses.perceptual_metric"


def _figure(key: str) -> str:
    if key.removeprefix(QUALITY) not in MERITS or not key.startswith(QUALITY):
        raise ValueError(f"a figure of merit: {', '.join(f'{QUALITY}{name}' for name in MERITS)}")
    return key


Figure = Annotated[str, AfterValidator(_figure)]  # of merit
WandbMode = Literal["offline", "online", "disabled"]


class Objective(Section):
    """What is minimised, and the ruler it is measured with."""

    metric: Literal["steps_to_nash", "seconds_to_nash"] = (
        "steps_to_nash"  # seconds: of training, as each trial measures
    )
    max_steps: Annotated[int, Field(ge=1)] | None = None  # of a trial; else the training file's
    validate_every: Annotated[int, Field(ge=1)] | None = None
    nash: NashSettings = NashSettings()
    also: Figure | None = None  # minimised as well: the search is for a front, on which no trial beats another in both
    at_least: dict[Figure, float | Literal["bicubic"]] = {}  # of a winner's images: a number, or as good as bicubic's


class BudgetLimits(Section):
    """What the whole study may use; the first limit that is reached ends it."""

    hours: Annotated[float, Field(gt=0)] | None = None
    gpu_hours: Annotated[float, Field(gt=0)] | None = None
    steps: Annotated[int, Field(ge=1)] | None = None


class Capping(Section):
    """Trials that can no longer win end: at the bound `slack` × best, and where no balance can be kept any more."""

    enabled: bool = True
    slack: Annotated[float, Field(ge=1)] = 1.25


class BestFirst(Section):
    """The trial that may reach the balance soonest is trained first. Takes capping, which ends what is left over."""

    enabled: bool = True
    margin: Annotated[float, Field(ge=1)] = 1.25  # so many times as late as one that waits, a trial pauses


class Sharing(Section):
    """Pretraining that several trials have in common is computed once."""

    enabled: bool = True
    disk_gb: Annotated[float, Field(gt=0)] = 20  # that snapshots may take


class Search(Section):
    """How many trials, and who proposes them."""

    trials: Annotated[int, Field(ge=1)] = 20
    sampler: Literal["wait", "tpe", "gp", "cmaes", "nsgaii", "random"] = "wait"
    startup: Annotated[int, Field(ge=1)] = 32  # proposed blindly; the soonest of them are started first
    seed: Annotated[int, Field(ge=0)] = 0
    stop: Literal["never", "auto"] = "never"  # before `trials`: where the model sees nothing better left
    race: Annotated[int, Field(ge=0)] = 2  # further seeds that have to keep a balance before it caps other trials
    try_first: list[dict[str, Value]] = []
    budget: BudgetLimits = BudgetLimits()
    capping: Capping = Capping()
    best_first: BestFirst = BestFirst()
    sharing: Sharing = Sharing()
    learn_from: list[Place] = []  # earlier studies: a folder, or a name in the same storage


class Confirm(Section):
    """The best `top` configurations again, on `seeds` further seeds, each to max_steps; the baseline beside them."""

    top: Annotated[int, Field(ge=0)] = 4
    seeds: Annotated[int, Field(ge=1)] = 5
    baseline: bool = False  # the first of `try_first` on the same seeds, whatever became of it


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
    project: WandbName = "tune-srgan"
    entity: WandbName | None = None


class Tracking(Section):
    """Where readings go besides the record."""

    wandb: WandbTracking = WandbTracking()


class Study(Section):
    """A validated study. `training` is the training file's content in this project's units, paths in it absolute."""

    study: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    training: dict[str, Any]
    original: dict[str, Any] | None = None  # opensr-srgan's file that `training` is of, as it was written
    space: dict[str, Parameter]
    objective: Objective = Objective()
    search: Search = Search()
    confirm: Confirm = Confirm()
    resources: Resources = Resources()
    tracking: Tracking = Tracking()
    storage: Place = "runs"

    @model_validator(mode="after")
    def _for_a_front(self) -> Study:
        """Where two numbers are minimised nobody is ahead: nothing races, none pauses for one that may be sooner."""
        if self.objective.also is not None:
            best_first = self.search.best_first.model_copy(update={"enabled": False})
            told: dict[str, Any] = {"race": 0, "best_first": best_first}
            if "sampler" not in self.search.model_fields_set:
                told["sampler"] = "tpe"
            object.__setattr__(self, "search", self.search.model_copy(update=told))
        return self

    def changed(self, trials: int | None, concurrent: int | None, storage: str | None) -> Study:
        """Return the study with what a person asked for instead of the file's."""
        search = self.search.model_copy(update={"trials": trials or self.search.trials})
        resources = self.resources.model_copy(update={"concurrent": concurrent or self.resources.concurrent})
        told = {"search": search, "resources": resources, "storage": storage or self.storage}
        return self.model_copy(update=told)

    def configuration(self, values: Mapping[str, Value]) -> Configuration:
        """Return a trial's complete training configuration. InvalidInput where a searched one could keep no balance."""
        document = with_values(self.training, self.ruler_values() | dict(values))
        configuration = build_configuration(document, self.study, Path())
        if self.space and (problems := unjudgeable(configuration, self.study)):
            raise InvalidInput(problems)
        return configuration

    def lowest(self) -> Configuration:
        """Return the configuration at the low end of every range."""
        return self.configuration({key: parameter.low for key, parameter in self.space.items()})

    def highest(self) -> Configuration:
        """Return the configuration at the high end of every range."""
        return self.configuration({key: parameter.high for key, parameter in self.space.items()})

    def metrics(self) -> list[Configuration]:
        """Return the configuration at the high end of every range, for each perceptual metric that trials may have."""
        highs = {key: parameter.high for key, parameter in self.space.items()}
        metrics = self.space[METRIC].ends() if METRIC in self.space else []
        return [self.configuration(highs | {METRIC: metric}) for metric in metrics] or [self.highest()]

    def confirming(self, values: Mapping[str, Value], further: int) -> Configuration:
        """Return a trial's configuration with the `further`-th seed after its own."""
        configuration = self.configuration(values)
        training = configuration.Training.model_copy(update={"seed": configuration.Training.seed + further})
        return configuration.model_copy(update={"Training": training})

    @property
    def max_steps(self) -> int:
        """Steps of a trial that does not reach the balance."""
        steps = self.objective.max_steps or self.training.get("Training", {}).get("max_steps")
        return int(steps or Configuration().Training.max_steps)

    def dump(self) -> str:
        """Return the resolved study as YAML; `load` of it is the identity."""
        return write_yaml(self.model_dump(by_alias=True, exclude_none=True))

    def holds(self, other: Study) -> bool:
        """Tell whether the other's trials are this one's: same training and objective, each range within this one's."""
        same = (self.training, self.objective, set(self.space)) == (other.training, other.objective, set(other.space))
        return same and all(parameter.holds(other.space[key]) for key, parameter in self.space.items())

    def ruler_values(self) -> dict[str, Any]:
        """Return what the study, not the training file, says of the measurement and of the machine; by dotted key."""
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
        """Return tolerances other than the defaults: printed beside every result."""
        return self.objective.nash.changed()

    def earliest_balance(self) -> int:
        """Return the earliest step from which any configuration of the space can keep a balance."""
        return int(earliest_balance(Ruler.of(self.lowest())))
