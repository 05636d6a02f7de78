"""The study file: read and validated, all that is wrong at once, before anything starts; what is probably not meant.

Looks at files of settings alone, not at imagery.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from trainables.configuration import build_configuration, field_of, unjudgeable, whole_places
from trainables.dotted import flatten, value_at, with_values
from trainables.errors import InvalidInput, Problem, explain
from trainables.opensr import Translated, counts_as_there, translated
from trainables.places import SAMPLE, resolve_path
from trainables.schema import Configuration, WandbSettings, roles_of
from trainables.sections import MACHINE, RULER, UNREAD, section_of
from trainables.unread import cautions, why_unread
from trainables.yaml_files import read_yaml
from tune_srgan.study.settings import Study
from tune_srgan.study.space import Value, corners, size

NOT_SEARCHED = {  # the first that a key has is said
    UNREAD: ("a key that nothing here reads", "It would search for nothing: take it out."),
    RULER: ("a key that defines the measurement", "What defines the ruler cannot be searched: fix it in the training."),
    MACHINE: ("a key that defines how it is computed", "That cannot be searched: fix it in the training file."),
}


LENGTHS = ("max_steps", "validate_every")  # of Training, that a study's objective may say


class Kind(Enum):
    """What a file describes."""

    STUDY = "study"
    TRAINING = "training"


def kind_of(document: Mapping[str, Any]) -> Kind:
    """Tell a study's file from a training's by the sections in it."""
    keys = set(document)
    return Kind.STUDY if keys & {"study", "space"} or not keys & set(Configuration.model_fields) else Kind.TRAINING


def load_study(path: Path) -> tuple[Study, list[str]]:
    """Read and validate a study file without looking at the imagery; returns warnings beside it."""
    if not path.suffix and not path.exists():
        fix = f"A study that was begun goes on by its name: python tune.py resume {path}."
        raise InvalidInput([Problem(str(path), "", "no such file", "a study's YAML file", fix)])
    document = read_yaml(path)
    if kind_of(document) is Kind.TRAINING:
        fix = f"Train it: python tune.py train {path}."
        raise InvalidInput([Problem(str(path), "", "a training's file", "a study's, with a space", fix)])
    problems: list[Problem] = []
    training = _training_of(document, path, problems)
    problems += _training_problems(training.nested, training.file)
    known = {"training": training.nested} | ({"original": training.original} if training.original else {})
    try:
        study = Study.model_validate({**document, **known})
    except ValidationError as error:
        problems += [_for_space(problem) for problem in explain(error, Study, str(path))]
        space = document.get("space")
        problems += _key_problems(map(str, space) if isinstance(space, dict) else [], str(path))
        raise InvalidInput(problems) from None
    problems += _space_problems(study, str(path))
    if not problems:
        problems += _corner_problems(study, str(path), training.file)
    if problems:
        raise InvalidInput(problems)
    study, said = _with_the_files_own(study, training)
    return study, [*training.said, *said, *warnings_of(study)]


def warnings_of(study: Study) -> list[str]:
    """Return what is allowed and probably not meant."""
    configuration = study.lowest()
    training, every = configuration.Training, configuration.Training.validate_every
    ramp = training.adv_loss_ramp_steps if configuration.Schedulers.armed == "ramp_end" else 1
    validations = (training.max_steps - training.pretrain_steps - ramp) // every
    warnings = []
    for which in "gd":
        key = f"Schedulers.patience_{which}"
        patience = min(study.space[key].ends()) if key in study.space else getattr(configuration.Schedulers, key[-10:])
        if isinstance(patience, (int, float)) and patience + 2 > validations:
            warnings.append(f"{key}: a patience of {patience} or more can never act within {training.max_steps} steps.")
    warmup = study.space.get("Schedulers.g_warmup_steps")
    longest: Any = max(warmup.ends()) if warmup else configuration.Schedulers.g_warmup_steps
    if longest > training.pretrain_steps:
        warnings.append(
            f"Schedulers.g_warmup_steps: a warm-up of {longest:g} steps outlasts the shortest pretraining "
            f"({training.pretrain_steps} steps) and reaches into the game."
        )
    warnings += [warning for key, warning in cautions(configuration).items() if key not in study.space]
    if configuration.Logging.wandb != WandbSettings():
        warnings.append("Logging.wandb: does nothing in a study, whose own `tracking` decides.")
    if study.search.budget.gpu_hours is not None and not study.resources.gpus:
        warnings.append("search.budget.gpu_hours: limits nothing, since resources.gpus is 0.")
    if study.objective.also is not None:
        warnings.append(
            f"objective.also: {study.objective.also} shows at a training's end, so no trial is capped for its steps, "
            "none pauses and none races; what can keep no balance any more still ends."
        )
    if study.search.trials > (count := size(study.space)):
        warnings.append(
            f"search.trials: the space has {count:g} configurations; the search ends when all of them are tried."
        )
    if study.confirm.baseline and not study.search.try_first:
        warnings.append("confirm.baseline: does nothing, since search.try_first names no baseline.")
    changed = study.non_default_ruler()
    if changed:
        warnings.append("objective.nash is not the default: " + ", ".join(f"{k}={v}" for k, v in changed.items()) + ".")
    return warnings


@dataclass
class _Training:
    """A study's training: its sections in this project's units, the file they stand in, and opensr-srgan's own."""

    nested: dict[str, Any]
    file: str
    said: list[str] = field(default_factory=list)
    original: dict[str, Any] | None = None


def _training_of(document: Mapping[str, Any], path: Path, problems: list[Problem]) -> _Training:
    """The training's sections, inline or from the file a study names; paths made absolute."""
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
    found = translated(training, str(file), file.parent, _decided(document))
    if counts_as_there(training):
        _let_pretrain(found, document)
    places = whole_places(found.nested, file.parent, str(file), [])  # the training's own check names what is wrong
    nested = with_values(found.nested, {key: place for key, place in places.items() if place != str(SAMPLE)})
    problems += found.problems
    return _Training(nested, str(file), found.said, training if counts_as_there(training) else None)


PRETRAIN, PRETRAIN_STEPS = "Training.pretrain_g_only", "Training.g_pretrain_steps"


def _let_pretrain(found: Translated, document: Mapping[str, Any]) -> None:
    """Where a study searches how long opensr-srgan's file pretrains, which does not: it does, and its own is 0 steps.

    Not where its networks come with weights: those have learnt that already.
    """
    space = document.get("space")
    searched = isinstance(space, Mapping) and PRETRAIN_STEPS in space
    weights = any(value_at(found.nested, f"Model.{name}") for name in ("load_checkpoint", "continue_training"))
    if searched and not weights and value_at(found.nested, PRETRAIN) in (None, False):
        found.nested = with_values(found.nested, {PRETRAIN: True, PRETRAIN_STEPS: 0})
        found.said.append(f"{PRETRAIN} is true here, since {PRETRAIN_STEPS} is searched; the file's false is 0 steps.")


def _decided(document: Mapping[str, Any]) -> dict[str, str]:
    """What the study says, of a training's lengths and device, whatever the training's file says."""
    lengths = {name: value_at(document, f"objective.{name}") for name in LENGTHS}
    said = {f"Training.{name}": f"objective.{name} is {value}" for name, value in lengths.items() if value is not None}
    if not value_at(document, "resources.gpus"):
        said["Training.device"] = "resources.gpus is 0: trials are on CPUs; set it, as a fraction where they share one"
    return said


def _with_the_files_own(study: Study, training: _Training) -> tuple[Study, list[str]]:
    """The study with what its file fixes of the space as the first trial; says what is searched all the same."""
    fixed = flatten(training.nested)
    searched = [key for key in study.space if fixed.get(key) is not None]
    if not searched:
        return study, []
    with contextlib.suppress(InvalidInput):  # its fault is named where ranges are checked
        configuration = build_configuration(training.nested, training.file, Path(training.file).parent)
        own = flatten(configuration.model_dump())
        first = {key: own[key] for key in study.space if study.space[key].admits(own[key])}
        said = [
            f"{key} is searched; the file's {own[key]} "
            + ("starts first." if key in first else f"is none of {study.space[key].describe()}.")
            for key in searched
        ]
        if first and first not in study.search.try_first:
            search = study.search.model_copy(update={"try_first": [first, *study.search.try_first]})
            study = study.model_copy(update={"search": search})
        return study, said
    return study, []


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


def _key_problems(keys: Iterable[str], file: str) -> list[Problem]:
    """Keys that are none, that define the ruler, or that nothing reads."""
    problems = []
    for key in keys:
        field = field_of(key)
        where = f"space.{key}"
        if isinstance(field, str):
            problems.append(Problem(file, where, "an unknown key", "a key of the training configuration", field))
        elif section_of(field) is not None:
            problems.append(Problem(file, where, "a section", "a key in it"))
        elif refused := [NOT_SEARCHED[role] for role in NOT_SEARCHED if role in roles_of(key)]:
            problems.append(Problem(file, where, refused[0][0], "a setting of the training", refused[0][1]))
    return problems


def _space_problems(study: Study, file: str) -> list[Problem]:
    """Keys that cannot be searched, or do not take such values."""
    fixed = flatten(study.training)
    problems = _key_problems(study.space, file)
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
                problems.append(Problem(file, where, repr(value), f"a value of the space ({parameter_of.describe()})"))
    for key in LENGTHS:
        said, own = fixed.get(f"Training.{key}"), getattr(study.objective, key)
        if said is not None and own is not None and said != own and study.original is None:
            found = f"{own}, and Training.{key} is {said}"
            problems.append(
                Problem(file, f"objective.{key}", found, "one value", f"Take Training.{key} out of the training file.")
            )
    steps = study.search.budget.steps
    if steps is not None and steps < study.max_steps:
        expected = f"at least {study.max_steps}, what one trial may take (objective.max_steps)"
        problems.append(Problem(file, "search.budget.steps", str(steps), expected))
    for key, place in (("storage", study.storage), *(("search.learn_from", name) for name in study.search.learn_from)):
        try:
            resolve_path(place, Path())
        except ValueError as error:
            problems.append(Problem(file, key, repr(place), str(error)))
    if fixed.get("Training.device") == "cuda" and not study.resources.gpus:
        fix = "Set resources.gpus, as a fraction where several trials share one, or leave Training.device out."
        found = "a training on a GPU, and trials that are given none (resources.gpus is 0)"
        problems.append(Problem(file, "training: Training.device", found, "GPUs for the trials", fix))
    if value_at(study.training, "Model.continue_training"):
        fix = "Name it in Model.load_checkpoint: every trial then begins from its weights, at step 0."
        found = "a training that goes on, with optimisers of settings of its own"
        problems.append(Problem(file, "training: Model.continue_training", found, "trials that begin alike", fix))
    if study.training.get("Nash"):
        problems.append(
            Problem(file, "training: Nash", "the ruler in the training file", "objective.nash", "Move it there.")
        )
    return problems


def _where_said(problem: Problem, study: Study, file: str) -> Problem:
    """The problem under the key that the study says it by: its objective lays down the ruler of the training."""
    section, _, name = problem.key.partition(".")
    if section == "Nash":
        return replace(problem, file=file, key=f"objective.nash.{name}")
    if section == "Training" and getattr(study.objective, name, None) is not None:
        return replace(problem, file=file, key=f"objective.{name}")
    if section == "Training" and name in LENGTHS and study.original is not None:
        found = f"nothing, so the {problem.found} that the training file's epochs are"
        return replace(problem, file=file, key=f"objective.{name}", found=found)
    return problem


def _corner_problems(study: Study, file: str, training_file: str) -> list[Problem]:
    """Every range's ends must build a valid training; what is wrong everywhere is the training file's own fault."""
    keys, tried = list(study.space), corners(study.space)
    found_at: dict[Problem, list[dict[str, Value]]] = {}
    unread_at: dict[str, list[str]] = {key: [] for key in keys}
    for corner in tried:
        document = with_values(study.training, study.ruler_values() | corner)
        try:
            configuration = build_configuration(document, training_file, Path(training_file).parent)
            for key, reasons in unread_at.items():
                reasons.append(why_unread(key, configuration))
            if unjudged := unjudgeable(configuration, training_file):
                raise InvalidInput(unjudged)
        except InvalidInput as error:
            for problem in error.problems:
                found_at.setdefault(_where_said(problem, study, file), []).append(corner)
    problems, named = [], set()
    for problem, where in found_at.items():
        if len(where) == len(tried):
            problems.append(problem)
        elif problem.key not in named:  # one corner says it; the others are the same fault
            named.add(problem.key)
            corner_text = ", ".join(f"{key} = {value}" for key, value in where[0].items())
            fix = f"A range reaches too far: at {corner_text}."
            key = f"space.{problem.key}" if problem.key in study.space else problem.key
            problems.append(Problem(file, key, problem.found, problem.expected, fix))
    for key, reasons in unread_at.items():
        if reasons and all(reasons):
            found = f"a key that does nothing {reasons[0]}"
            problems.append(Problem(file, f"space.{key}", found, "a setting of the training", "Take it out."))
    return problems
