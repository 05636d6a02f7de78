"""The study file: every mistake is named with its file and key before anything starts."""

import functools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.service import ROOT
from tests.support.studies import PATIENCE, PRETRAIN, VALUES, WEIGHT, loaded, small, write
from trainables.dotted import flatten
from trainables.errors import InvalidInput
from trainables.schema import roles_of
from trainables.sections import MACHINE, RULER, UNREAD
from tune_srgan.study.loading import load_study
from tune_srgan.study.space import Parameter

SHIPPED = sorted((ROOT / "search_spaces").glob("*.yaml"))
WARMUP, RAMP = "Schedulers.g_warmup_steps", "Training.adv_loss_ramp_steps"
shipped_study = functools.cache(lambda file: load_study(file)[0])


def problems_of(file):
    with pytest.raises(InvalidInput) as raised:
        load_study(file)
    return raised.value.problems


def search(key, **parameter):
    """An edit of the study: search `key`."""
    return lambda study: study["space"].update({key: parameter})


def section(name, **values):
    """An edit of the study: put values into one of its sections."""
    return lambda study: study.setdefault(name, {}).update(values)


def training(section_name, value):
    """An edit of the study: put a section into its training."""
    return lambda study: study["training"].update({section_name: value})


def everything(**values):
    """An edit of the study: replace whole sections."""
    return lambda study: study.update(values)


AT = f"space.{PATIENCE}"
FIRST = "search.try_first[0]"
WRONG = {  # what is done to the small study, the key that is named, what is said
    "unknown section": (section("serach", trials=3), "serach", "'search'"),
    "unknown key": (section("search", trails=3), "search.trails", "'trials'"),
    "unknown tolerance": (section("objective", nash={"windows": 9}), "objective.nash.windows", "'window'"),
    "unknown searched key": (search(f"{PRETRAIN}_", int=[1, 2]), f"space.{PRETRAIN}_", f"'{PRETRAIN}'"),
    "unknown word in a range": (search(PATIENCE, int=[2, 8], stpe=2), f"{AT}.stpe", "'step'"),
    "searched section": (search("Training.Losses", choice=[1, 2]), "space.Training.Losses", "a section"),
    "nothing searched": (everything(space={}), "space", "at least one searched key"),
    "wrong type": (section("search", trials="many"), "search.trials", "'many'"),
    "wrong type of a bound": (search(PATIENCE, int=["a", 8]), f"{AT}.int", "'a'"),
    "wrong type of a step": (search(PATIENCE, int=[2, 8], step="x"), f"{AT}.step", "'x'"),
    "wrong type of a first value": (section("search", try_first=[{PATIENCE: [4]}]), "search.try_first", "[4]"),
    "wrong type of the training": (everything(training=3), "training", "a file name"),
    "wrong type of a section": (training("Schedulers", "fast"), "Schedulers", "'fast'"),
    "empty section": (training("Training", None), "Training", "None"),
    "sampler that is none": (section("search", sampler="tpee"), "search.sampler", "'tpe'"),
    "range of one end": (search(PATIENCE, int=[2]), f"{AT}.int", "2 items"),
    "neither range nor choice": (search(PATIENCE, step=1), AT, "exactly one of int, float and choice"),
    "range and choice": (search(PATIENCE, int=[2, 8], choice=[2]), AT, "exactly one of int, float and choice"),
    "empty range": (search(PATIENCE, int=[8, 8]), AT, "below its high end, not [8, 8]"),
    "range backwards": (search(WEIGHT, float=[0.3, 0.1]), f"space.{WEIGHT}", "below its high end, not [0.3, 0.1]"),
    "endless range": (search(WEIGHT, float=[0.1, float("inf")]), f"space.{WEIGHT}", "inf"),
    "empty choice": (search(PATIENCE, choice=[]), f"{AT}.choice", "at least 1 item"),
    "step that does not divide": (search(PATIENCE, int=[2, 12], step=4), AT, "4 does not"),
    "step of 0": (search(PATIENCE, int=[2, 12], step=0), AT, "a step above 0"),
    "log from 0": (search(WEIGHT, float=[0, 1], log=True), f"space.{WEIGHT}", "a low end above 0"),
    "step and log": (search(WEIGHT, float=[1, 2], step=0.5, log=True), f"space.{WEIGHT}", "step or log, not both"),
    "float range of an int key": (search(PATIENCE, float=[2, 8]), AT, "an int range"),
    "choice of another type": (search(PATIENCE, choice=["a", "b"]), AT, "'a' (str)"),
    "value out of its bounds": (search("Optimizers.eps", float=[0.1, 2]), "space.Optimizers.eps", "Optimizers.eps = 2"),
    "first value outside": (section("search", try_first=[{PATIENCE: 13}]), f"{FIRST}.{PATIENCE}", "2 to 12"),
    "first value off the grid": (section("search", try_first=[{PRETRAIN: 30}]), f"{FIRST}.{PRETRAIN}", "60 by 20"),
    "first value of no key": (section("search", try_first=[{RAMP: 30}]), f"{FIRST}.{RAMP}", "not searched"),
    "name that climbs out": (everything(study="../x"), "study", "'../x'"),
    "name of the folder above": (everything(study=".."), "study", "'..'"),
    "a budget of no trial": (section("search", budget={"steps": 199}), "search.budget.steps", "at least 200"),
    "objective said twice": (training("Training", {"max_steps": 300}), "objective.max_steps", "max_steps is 300"),
    "ruler in the training": (training("Nash", {"window": 8}), "training: Nash", "objective.nash"),
    "missing training file": (everything(training="nowhere.yaml"), "training", "no such file"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_is_named_with_file_and_key(tmp_path, name):
    edit, key, said = WRONG[name]
    study = small()
    edit(study)
    file = write(tmp_path, study)
    (problem,) = problems_of(file)
    assert (problem.file, problem.key) == (str(tmp_path / "nowhere.yaml" if "missing" in name else file), key)
    assert said in str(problem)


NOT_SEARCHED = [f"Data.{key}" for key in ("crop_size", "train_batch_size", "path")]
NOT_SEARCHED += [
    f"Training.{key}" for key in ("label_smoothing", "EMA.enabled", "EMA.decay", "seed", "max_steps", "threads")
]
NOT_SEARCHED += [
    f"Training.{key}" for key in ("validate_every", "precision", "device", "Losses.max_val", "Losses.ssim_win")
]
NOT_SEARCHED += ["Discriminator.n_blocks", "Discriminator.use_spectral_norm", "Nash.window", "Nash.rank_tolerance"]
NOT_SEARCHED += ["Model.in_bands", "Generator.scaling_factor", "Logging.num_val_images", "Training.max_epochs"]


@pytest.mark.parametrize("key", NOT_SEARCHED)
def test_what_is_measured_with_and_on_what_and_what_nothing_reads_cannot_be_searched(tmp_path, key):
    study = small()
    search(key, choice=[1, 2])(study)
    file = write(tmp_path, study)
    found = {problem.key: problem for problem in problems_of(file)}
    reasons = {RULER: "defines the measurement", MACHINE: "how it is computed", UNREAD: "nothing here reads"}
    assert any(text in found[f"space.{key}"].found for role, text in reasons.items() if role in roles_of(key))
    assert found[f"space.{key}"].file == str(file)


FURTHER = ["Schedulers.patience_d", "Schedulers.cooldown", WARMUP, "Optimizers.weight_decay_g"]
FURTHER += ["Optimizers.weight_decay_d", "Training.Losses.l1_weight", "Training.Losses.tv_weight"]


def test_what_the_file_fixes_of_the_space_starts_first_and_that_is_said(tmp_path):
    study = small()
    study["training"]["Training"] |= {"g_warmup_steps": 5, "g_pretrain_steps": 40}
    study["training"]["Schedulers"]["patience_g"] = 99
    search(WARMUP, int=[0, 10])(study)
    section("search", try_first=[{WEIGHT: 0.02}])(study)
    found, warnings = load_study(write(tmp_path, study))
    assert found.search.try_first == [{PRETRAIN: 40, WEIGHT: 0.01, WARMUP: 5}, {WEIGHT: 0.02}]
    said = {f"{PRETRAIN} is searched; the file's 40 starts first.", f"{WARMUP} is searched; the file's 5 starts first."}
    said.add(f"{PATIENCE} is searched; the file's 99 is none of 2 to 12.")
    assert {warning for warning in warnings if "is searched" in warning} == said


@pytest.mark.parametrize("further", [0, 7])
def test_a_corner_that_builds_no_training_names_its_range(tmp_path, further):
    study = small()
    del study["training"]["Training"]["adv_loss_ramp_steps"]
    study["space"] = {PRETRAIN: {"int": [20, 100]}, RAMP: {"int": [20, 80]}}  # 164 steps may pass before a window
    for key in FURTHER[:further]:
        search(key, int=[0, 10])(study)
    file = write(tmp_path, study)
    (problem,) = problems_of(file)
    assert (problem.file, problem.key) == (str(file), "objective.max_steps")  # where it is said
    assert f"{PRETRAIN} = 100" in problem.fix
    assert f"{RAMP} = 80" in problem.fix


def test_mistakes_in_a_training_file_name_that_file(tmp_path):
    training = write(tmp_path, small()["training"] | {"Schedulers": {"patienced": 3}}, "training.yaml")
    (problem,) = problems_of(write(tmp_path, small() | {"training": "training.yaml"}))
    assert (problem.file, problem.key) == (str(training), "Schedulers.patienced")
    assert "'patience_d'" in problem.fix


def test_all_mistakes_of_the_space_are_said_at_once(tmp_path):
    study = small()
    search("Training.seed", int=[0, 9])(study)
    search("Training.g_pretrain_step", int=[1, 2])(study)
    section("search", try_first=[{PATIENCE: 99}])(study)
    study["training"] = "nowhere.yaml"
    keys = {"space.Training.seed", "space.Training.g_pretrain_step", f"search.try_first[0].{PATIENCE}", "training"}
    assert {problem.key for problem in problems_of(write(tmp_path, study))} == keys


def test_all_mistakes_of_both_files_are_said_at_once(tmp_path):
    study = small()
    study["search"]["trails"] = 3  # the study's own keys,
    search(WEIGHT, float=[2, 1])(study)  # a range,
    search("Training.seed", int=[0, 9])(study)  # what is searched,
    write(tmp_path, study["training"] | {"Model": {"in_band": 3}}, "training.yaml")  # and the training
    study["training"] = "training.yaml"
    keys = {"search.trails", f"space.{WEIGHT}", "space.Training.seed", "Model.in_band"}
    assert {problem.key for problem in problems_of(write(tmp_path, study))} == keys


WARNED = {
    "patience": (search(PATIENCE, int=[39, 60]), f"{PATIENCE}: a patience of 39 or more can never act"),
    "fixed patience": (
        training("Schedulers", {"patience_d": 50}),
        "Schedulers.patience_d: a patience of 50 or more can",
    ),
    "warm-up": (search(WARMUP, int=[0, 30]), f"{WARMUP}: a warm-up of 30 steps outlasts the shortest pretraining (20"),
    "warm-up by choice": (search(WARMUP, choice=[0, 30]), f"{WARMUP}: a warm-up of 30 steps outlasts"),
    "fixed warm-up": (
        training("Schedulers", {"g_warmup_type": "linear", "g_warmup_steps": 30}),
        f"{WARMUP}: a warm-up of 30 steps outlasts",
    ),
    "a front": (section("objective", also="quality/psnr"), "objective.also: quality/psnr shows at a training's end"),
    "no baseline": (everything(confirm={"baseline": True}), "confirm.baseline: does nothing, since"),
    "nash": (section("objective", nash={"window": 9}), "objective.nash is not the default: window=9"),
}


@pytest.mark.parametrize("name", WARNED)
def test_what_is_probably_not_meant_is_warned_of(tmp_path, name):
    edit, said = WARNED[name]
    study = small()
    edit(study)
    (warning,) = load_study(write(tmp_path, study))[1]
    assert warning.startswith(said)


@pytest.mark.parametrize(("patience", "acts"), [(38, True), (39, False)])
def test_a_patience_that_acts_at_the_last_moment_is_none_to_warn_of(tmp_path, patience, acts):
    # the game is on from step 40; of the readings at 40, 44 … 196 the first sets the mark and `patience` + 1 miss it
    study = small()
    search(PATIENCE, int=[patience, 99])(study)
    assert (load_study(write(tmp_path, study))[1] == []) == acts


def test_a_patience_that_counts_from_the_ramp_on_can_be_longer(tmp_path):
    study = small()
    search(PATIENCE, int=[40, 60])(study)
    study["training"]["Schedulers"] = {"armed": "game"}  # of the readings from 24 on
    assert load_study(write(tmp_path, study))[1] == []


@pytest.mark.parametrize("choice", [[20, 60], [60, 20]])
def test_the_earliest_balance_is_that_of_the_shortest_pretraining(tmp_path, choice):
    study = small()
    search(PRETRAIN, choice=choice)(study)
    assert loaded(tmp_path, study).earliest_balance() == 20 + 20


def test_paths_are_relative_to_the_file_that_names_them(tmp_path):
    (tmp_path / "base").mkdir()
    training = small()["training"]
    training["Data"] |= {"path": "../scenes", "test_path": "test"}
    write(tmp_path / "base", training, "training.yaml")
    study = loaded(tmp_path, small() | {"training": "base/training.yaml"})
    data = study.configuration(VALUES).Data
    assert (data.path, data.test_path) == (str(tmp_path / "scenes"), str(tmp_path / "base" / "test"))
    (tmp_path / "again").mkdir()
    same_again(study, tmp_path / "again")


def same_again(study, folder):
    file = folder / "study.yaml"
    file.write_text(study.dump(), encoding="utf-8")
    again = load_study(file)[0]
    assert again == study
    assert again.holds(study)


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_a_shipped_study_that_is_dumped_and_loaded_is_the_same(tmp_path, file):
    same_again(load_study(file)[0], tmp_path)


def test_nothings_and_numbers_survive_the_dump(tmp_path):
    study = small()
    study["training"]["Data"]["val_side"] = None
    study["search"] |= {"seed": 3, "try_first": [{WEIGHT: 0.02}], "budget": {"gpu_hours": 0.5}}
    search("Optimizers.optim_g_lr", choice=[1e-5, 3e-4])(study)
    search("Training.pretrain_g_only", choice=[True, False])(study)
    same_again(loaded(tmp_path, study), tmp_path)


def values_of(parameter: Parameter) -> st.SearchStrategy:
    if parameter.choice is not None:
        return st.sampled_from(parameter.choice)
    low, high = parameter.bounds
    step = parameter.step or (1 if parameter.int_range else None)
    if step is None:
        return st.floats(low, high)
    return st.integers(0, round((high - low) / step)).map(lambda count: low + count * step)


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
@settings(max_examples=60)
@given(data=st.data())
def test_any_sample_of_a_shipped_space_builds_a_training(file, data):
    study = shipped_study(file)
    values = {key: data.draw(values_of(parameter), key) for key, parameter in study.space.items()}
    configuration = flatten(study.configuration(values).model_dump())
    assert {key: configuration[key] for key in values} == values
    assert configuration["Training.max_steps"] == study.max_steps
