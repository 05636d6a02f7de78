"""A training by itself, without Ray and without a study: where it is recorded, and what is shown of it."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.text import Text

from trainables.checkpoints import describe
from trainables.configuration import build_configuration, said_of, unjudgeable
from trainables.dotted import flatten
from trainables.errors import InvalidInput, Problem, located
from trainables.imagery import Imagery, load_imagery
from trainables.learned import learned_of
from trainables.outcome import End
from trainables.perceptual import perceptual_of
from trainables.schema import Configuration
from trainables.trainer import pick_device
from trainables.unread import cautions
from trainables.yaml_files import read_yaml
from tune_srgan.console import print_warnings, setting
from tune_srgan.report.live import show_training
from tune_srgan.report.terminal import print_training
from tune_srgan.run.holding import training
from tune_srgan.run.trial import Terms, train_recorded
from tune_srgan.store.layout import StudyFiles
from tune_srgan.store.studies import RUNS
from tune_srgan.store.trial_folder import Proposer, TrialFolder
from tune_srgan.study.loading import Kind, kind_of
from tune_srgan.tracking.marks import owner_of, study_of, tracking_mode, tracking_of, where_said
from tune_srgan.tracking.tracker import catch_up, followed, wait_until_sent
from tune_srgan.upscaling.generator import write_generator

OF_TRAININGS = "train"  # the folder of trainings in RUNS
NAMED = 5  # keys in which another training differs
TRACKER_S = 10.0  # what a training's end waits for its run to be closed


def train_alone(file: Path, folder: Path | None, out: Console, err: Console, take_over: bool = False) -> End:
    """Train a configuration's file to its end, or go on with it, as the only process; returns how it ended."""
    configuration, imagery, warnings = open_training(file)
    weights = describe(configuration)
    print_warnings(warnings, err)
    trial = folder_of(file, configuration, folder)
    with training(trial, err, take_over):
        return _train(trial, configuration, imagery, weights, out, err)


def _train(
    trial: TrialFolder, configuration: Configuration, imagery: Imagery, weights: str, out: Console, err: Console
) -> End:
    state = open_folder(trial, configuration)
    tracking = tracking_of(configuration.Logging.wandb)
    mode, note = tracking_mode(tracking)
    if note and trial.outcome() is None:
        print_warnings([note], err)
    if state:
        out.print(Text(f"The training in {trial.path} {state}."), soft_wrap=True)
    out.print(f"Imagery: {imagery.describe()}", highlight=False)
    if weights:
        out.print(Text(f"Weights: {weights}"), soft_wrap=True)
    out.print(f"Training: {describe_training(configuration)}", highlight=False)
    try:
        with _tracked(trial, mode != "disabled"):
            terms = Terms(drawn=mode != "disabled")
            show_training(train_recorded(trial, terms), configuration.Training.max_steps, err)
    except KeyboardInterrupt:
        said = "Interrupted. All readings are kept; the same command goes on from the last checkpoint."
        out.print(said, style="bold yellow")
        raise
    end = print_training(trial, out)
    if mode != "disabled":
        wait_until_sent(trial, TRACKER_S)
        out.print(Text(f"Weights & Biases: {where_said(trial)}"), soft_wrap=True)
    if end.has_cost:
        write_generator(trial, trial.generator)
    return end


@contextlib.contextmanager
def _tracked(trial: TrialFolder, wanted: bool) -> Iterator[None]:
    """A training, followed by a tracker where its file wants one; of one that has ended, what was left is sent."""
    if not wanted:
        yield
    elif trial.outcome() is not None:
        catch_up(owner_of(trial), study_of(trial), [trial])
        yield
    else:
        trial.begin_attempt(OF_TRAININGS)
        with followed(trial, owner_of(trial)):
            yield


def open_training(file: Path) -> tuple[Configuration, Imagery, list[str]]:
    """Validate a training's file, device, metrics' weights and imagery; returns what to know beside them."""
    document = read_yaml(file)
    if kind_of(document) is Kind.STUDY:
        fix = f"Run it: python tune.py run {file}."
        raise InvalidInput([Problem(str(file), "", "a study's file", "a training's, as best.yaml is", fix)])
    configuration = build_configuration(document, str(file), file.parent)
    with located(str(file)):
        device = pick_device(configuration)
        perceptual_of(configuration, device)
        learned_of(configuration, device)
    said = said_of(document, str(file), file.parent)
    unjudged = unjudgeable(configuration, str(file))
    wrong = [f"{problem.key} is {problem.found} (expected: {problem.expected})" for problem in unjudged]
    unkept = (
        [f"No balance can be kept in this training, whatever its networks do: {'; '.join(wrong)}."] if wrong else []
    )
    imagery = load_imagery(configuration, device)
    imagery.check_test()
    return configuration, imagery, [*said, *cautions(configuration).values(), *imagery.cautions(), *unkept]


def folder_of(file: Path, configuration: Configuration, folder: Path | None = None) -> TrialFolder:
    """Return the folder of a training, which is there; refuse a study's and a trial's.

    Without one that a person names: one of the file's name in runs/train, of a study's winner its study's, with a
    number where another training has that already.
    """
    if folder is not None:
        trial = TrialFolder(folder)
        if (folder / StudyFiles.STUDY.name).exists() or (trial.exists() and not trial.is_alone):
            found = "a trial's folder" if trial.exists() else "a study's folder"
            fix = "Name another folder with --out."
            raise InvalidInput([Problem(str(folder), "--out", found, "one of a training's own", fix)])
    else:
        name = file.stem
        if (file.parent / StudyFiles.STUDY.name).exists():
            name = f"{file.resolve().parent.name}-{name}"
        named = (TrialFolder(Path(RUNS) / OF_TRAININGS / f"{name}{number}") for number in _numbers())
        trial = next(one for one in named if not one.exists() or one.configuration() == configuration)
    try:
        trial.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInput([_unwritable(trial, error)]) from None
    return trial


def open_folder(trial: TrialFolder, configuration: Configuration) -> str:
    """Make a training in its folder, or go on with the one there; returns how far that is, empty if it is fresh."""
    if trial.exists():
        refuse_another(trial, configuration)
        return "has ended already" if trial.outcome() else f"goes on from step {trial.last_step()}"
    try:
        trial.create({}, Proposer.TRAIN, configuration)
    except OSError as error:
        raise InvalidInput([_unwritable(trial, error)]) from None
    return ""


def refuse_another(trial: TrialFolder, configuration: Configuration) -> None:
    """Raise one clear error where another training is in the folder: which keys differ, and how."""
    there, here = (flatten(one.model_dump(mode="json")) for one in (trial.configuration(), configuration))
    keys = [key for key in dict.fromkeys([*there, *here]) if there.get(key) != here.get(key)]
    if keys:
        said = [f"{key} is {there.get(key)} there and {here.get(key)} here" for key in keys[:NAMED]]
        said += [f"{len(keys) - NAMED} keys more differ"] * (len(keys) > NAMED)
        fix = "Name another folder with --out, or remove it."
        found = f"another training ({'; '.join(said)})"
        raise InvalidInput([Problem(str(trial.path), "--out", found, "this one, or nothing", fix)])


def _unwritable(trial: TrialFolder, error: OSError) -> Problem:
    found = f"a folder that cannot be written ({error.strerror})"
    return Problem(str(trial.path), "--out", found, "a writable folder")


def _numbers() -> itertools.chain[str]:
    return itertools.chain([""], (f"-{number}" for number in itertools.count(2)))


def describe_training(configuration: Configuration) -> str:
    """Return the settings the guide is about, in one line."""
    flat = flatten(configuration.model_dump())
    keys = {
        "warm-up": "Schedulers.g_warmup_steps",
        "pretraining": "Training.g_pretrain_steps",
        "ramp": "Training.adv_loss_ramp_steps",
        "weight": "Training.Losses.adv_loss_beta",
    }
    rates = " / ".join(setting(flat[f"Optimizers.optim_{which}_lr"]) for which in "gd")
    return ", ".join(f"{name} {setting(flat[key])}" for name, key in keys.items()) + f", rates {rates}"
