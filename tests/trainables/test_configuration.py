"""What a training file may say: everything wrong in it is named, all at once, with what to do."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.tiny import BASE, tiny
from trainables.balance import Ruler, earliest_balance
from trainables.configuration import build_configuration, dump_configuration, load_configuration, unjudgeable
from trainables.dotted import flatten, with_values
from trainables.errors import InvalidInput, Problem
from trainables.places import SAMPLE
from trainables.schema import Configuration

KEYS = list(flatten(Configuration().model_dump()))


# opensr-srgan's configs/config_20m.yaml
def problems(document: dict[str, object]) -> list[Problem]:
    with pytest.raises(InvalidInput) as caught:
        build_configuration(document, "file.yaml", Path())
    assert all(
        f"file.yaml: {problem.key}: found {problem.found}" in str(caught.value) for problem in caught.value.problems
    )
    return caught.value.problems


def written(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_every_misspelt_key_of_every_section_is_named_with_the_nearest_right_one():
    found = problems(with_values({}, {f"{key}x": 1 for key in KEYS}))
    assert {(problem.key, problem.found) for problem in found} == {(f"{key}x", "an unknown key") for key in KEYS}
    assert all(f"Did you mean '{problem.key.split('.')[-1][:-1]}'?" == problem.fix for problem in found)


def test_every_key_refuses_a_wrong_type_under_its_own_name():
    found = problems(with_values({}, dict.fromkeys(KEYS, {"a": 1})))
    assert {problem.key for problem in found if problem.found != "an unknown key"} == set(KEYS)


@pytest.mark.parametrize(("key", "value"), [
    ("Generator.n_blocks", True), ("Generator.n_blocks", "2"), ("Generator.n_blocks", 2.5), ("Generator.n_blocks", 0),
    ("Generator.scaling_factor", 3), ("Optimizers.optim_g_lr", "1e-4"), ("Optimizers.optim_g_lr", 0.0),
    ("Optimizers.optim_g_lr", float("nan")), ("Optimizers.betas", [0.5]), ("Schedulers.factor_d", 1.0),
    ("Training.EMA.enabled", "yes"), ("Training.label_smoothing", 0.3), ("Nash.validation_pairs", 63),
])  # fmt: skip
def test_one_wrong_value_is_one_problem_that_shows_it(key, value):
    (found,) = problems(with_values(BASE, {key: value}))
    assert (found.key, found.found) == (key, f"{value!r} ({type(value).__name__})")


def test_all_problems_are_said_at_once():
    wrong = {"Training.sead": 1, "Generator.n_blocks": "two", "Data.dataset_type": "S2_6b", "Model.in_bands": 0}
    assert {problem.key for problem in problems(with_values({}, wrong))} == set(wrong)


@pytest.mark.parametrize("text", ["1e-4", "1E-4", "1.0e-4", ".1e-3", "+1e-4"])
def test_scientific_notation_is_a_number(tmp_path, text):
    path = written(tmp_path / "a.yaml", f"Optimizers: {{optim_g_lr: {text}}}")
    assert load_configuration(path).Optimizers.optim_g_lr == 1e-4


@pytest.mark.parametrize(("text", "found"), [
    ("Model: {in_bands: 3}\nModel: {in_bands: 4}", "'Model' stands here twice"),
    ("Training:\n  EMA: {decay: 0.9, decay: 0.8}", "'decay' stands here twice"),
    ("Data: {path: {{folder}}}", "key"),  # a template that nobody filled in
    ("Data: [", "while parsing"), ("", "an empty file"), ("- 1", "list"), (None, "no such file"),
])  # fmt: skip
def test_a_broken_file_is_one_clear_problem(tmp_path, text, found):
    path = tmp_path / "absent.yaml" if text is None else written(tmp_path / "a.yaml", text)
    with pytest.raises(InvalidInput) as caught:
        load_configuration(path)
    (problem,) = caught.value.problems
    assert problem.file == str(path)
    assert found in problem.found


def test_warmup_under_training_is_accepted_and_refused_where_both_differ():
    alias = {"Training.g_warmup_steps": 7}
    assert tiny(**alias).Schedulers.g_warmup_steps == 7
    assert tiny(**alias, **{"Schedulers.g_warmup_steps": 7}).Schedulers.g_warmup_steps == 7
    (found,) = problems(with_values(BASE, alias | {"Schedulers.g_warmup_steps": 8}))
    assert found.key == "Training.g_warmup_steps"
    assert "7" in found.found and "8" in found.found


@pytest.mark.parametrize(("key", "value", "sentence"), [
    ("Data.dataset_type", "S2_6b", "Put tiles into {train,val}/{LR,HR}"),
    ("Data.normalization", "zscore", "Known here: "),
    ("Generator.model_type", "swin", "'srresnet', 'stochasticgan' or 'esrgan'"),
    ("Generator.block_type", "swin", "'standard', 'res', 'rcab', 'rrdb', 'lka' or 'plain'"),
    ("Discriminator.model_type", "unet", "'standard', 'patchgan' or 'esrgan'"),
    ("Training.Losses.adv_loss_type", "hinge", "'bce' or 'wasserstein'"),
    ("Training.Losses.perceptual_metric", "nonsense", "'vgg', 'lpips' or 'laplacian'"),
])  # fmt: skip
def test_a_name_that_is_none_is_refused_with_those_there_are(key, value, sentence):
    (found,) = problems(with_values(BASE, {key: value}))
    assert found.key == key
    assert repr(value) in found.found
    assert sentence in f"{found.expected} {found.fix}"


@pytest.mark.parametrize("key", ["project", "entity"])
@pytest.mark.parametrize("name", [*(f"a{letter}b" for letter in "/\\#?%:"), "a" * 129])
def test_a_name_that_wandb_cannot_take_is_refused(key, name):
    """By its own judgement, too, which it gives as a run is opened."""
    wandb = pytest.importorskip("wandb")
    with pytest.raises(wandb.errors.UsageError):
        wandb.Settings(project=name)
    (found,) = problems(with_values(BASE, {f"Logging.wandb.{key}": name}))
    assert (found.key, found.expected) == (
        f"Logging.wandb.{key}",
        "a name of at most 128 characters with none of / \\ # ? % :",
    )
    assert (
        wandb.Settings(project="a" * 128).project
        == tiny(**{f"Logging.wandb.{key}": "a" * 128}).Logging.wandb.__dict__[key]
    )


def test_a_dotted_key_at_the_top_is_an_unknown_key_whatever_its_value():
    (found,) = problems({"Training.Losses.r1_gamma": 5.0})
    assert (found.key, found.found) == ("Training.Losses.r1_gamma", "an unknown key")


@given(st.fixed_dictionaries({
    "Optimizers.optim_g_lr": st.floats(1e-9, 1),
    "Training.label_smoothing": st.booleans() | st.floats(0.51, 1),
    "Training.Losses.adv_loss_beta": st.floats(0, 10),
    "Training.gpus": st.none() | st.integers(0, 8) | st.lists(st.integers(0, 8)),
    "Training.seed": st.integers(0, 2**63),
    "Data.nodata": st.none() | st.floats(allow_nan=False),
    "Logging.wandb.project": st.none() | st.text(st.characters(exclude_characters="/\\#?%:"), max_size=128),
}))  # fmt: skip
def test_load_dump_load_is_the_identity(tmp_path_factory, values):
    once = tiny(**values)
    path = written(tmp_path_factory.getbasetemp() / "dumped.yaml", dump_configuration(once))
    assert load_configuration(path) == once
    assert {key: flatten(once.model_dump())[key] for key in values} == values


@pytest.mark.parametrize(("values", "key", "expected"), [
    ({"Data.crop_size": 18}, "Data.crop_size", "a multiple of Generator.scaling_factor (4)"),
    ({"Discriminator.n_blocks": 3}, "Data.crop_size", "at least 32 px"),
    ({"Discriminator.model_type": "esrgan"}, "Data.crop_size", "at least 32 px"),
    ({"Data.percentiles": [50.0, 50.0]}, "Data.percentiles", "0 <= low < high <= 100"),
    ({"Data.percentiles": [-1.0, 50.0]}, "Data.percentiles", "0 <= low < high <= 100"),
    ({"Data.percentiles": [1.0, 101.0]}, "Data.percentiles", "0 <= low < high <= 100"),
    ({"Data.normalization": "scale"}, "Data.scale", "[low, high] with low < high"),
    ({"Data.normalization": "scale", "Data.scale": [1.0, 1.0]}, "Data.scale", "[low, high] with low < high"),
    ({"Data.dataset_type": "LRHRFolderDataset"}, "Data.root_dir", "a folder with {train,val}/{LR,HR}"),
    ({"Nash.required": 11}, "Nash.required", "at most Nash.window (10)"),
    ({"Nash.last_required": 11}, "Nash.last_required", "at most Nash.last (10)"),
    ({"Generator.large_kernel_size": 8}, "Generator.large_kernel_size", "odd"),
    ({"Generator.small_kernel_size": 4}, "Generator.small_kernel_size", "odd"),
    ({"Generator.block_type": "rcab", "Generator.n_channels": 15}, "Generator.n_channels", "at least 16"),
    ({"Training.Losses.ssim_win": 12}, "Training.Losses.ssim_win", "an odd number"),
    ({"Schedulers.metric_g": "val_metrics/l2"}, "Schedulers.metric_g", "a logged metric"),
    ({"Schedulers.metric_d": "nash/p_x"}, "Schedulers.metric_d", "a logged metric"),
])  # fmt: skip
def test_keys_that_are_right_alone_and_wrong_together(values, key, expected):
    (found,) = problems(with_values(BASE, values))
    assert found.key == key
    assert expected in found.expected


@pytest.mark.parametrize(("values", "key", "expected"), [
    ({"Training.validate_every": 3, "Nash.window": 6, "Nash.required": 5}, "Training.validate_every", "max_steps (2)"),
    ({"Nash.window": 11}, "Nash.window", "at most a fifth of the training (20 steps)"),
    ({"Training.g_pretrain_steps": 63}, "Training.max_steps", "about 101 or more: pretraining and ramp"),
    ({"Training.g_pretrain_steps": -1}, "Training.max_steps", "about 156 or more"),
    ({"Training.Losses.adv_loss_type": "wasserstein"}, "Training.Losses.adv_loss_type", "bce"),
])  # fmt: skip
def test_what_can_keep_no_balance_is_a_training_and_no_trial(values, key, expected):
    (found,) = unjudgeable(tiny(**values), "file.yaml")
    assert found.key == key
    assert expected in found.expected


@pytest.mark.parametrize(("pretrain", "ramp", "first"), [
    (62, 4, 66),  # the last that lies within two thirds of 100 steps
    (61, 4, 66),  # 65 is no validation
    (62, 0, 64),  # at 62 no discriminator has played yet
    (0, 0, 2),
])  # fmt: skip
def test_the_earliest_balance_is_pretraining_and_ramp(pretrain, ramp, first):
    lengths = {"Training.g_pretrain_steps": pretrain, "Training.adv_loss_ramp_steps": ramp}
    assert earliest_balance(Ruler.of(tiny(**lengths))) == first


def test_paths_are_relative_to_the_file(tmp_path):
    path = written(tmp_path / "base" / "a.yaml", "Data: {path: ../scenes/a.tif, root_dir: pairs, test_path: b.tif}")
    data = load_configuration(path).Data
    assert data.test_path == str(tmp_path / "base" / "b.tif")
    assert (data.path, data.root_dir) == (str(tmp_path / "scenes" / "a.tif"), str(tmp_path / "base" / "pairs"))
    assert tiny().Data.path == str(SAMPLE)
    assert tiny(**{"Data.path": "/elsewhere/a.tif"}).Data.path == "/elsewhere/a.tif"
