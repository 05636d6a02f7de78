"""opensr-srgan's training files: every key as it is meant there, and out again in its words and units."""

import copy

import pytest

from tests.support.documents import assert_part
from tests.support.opensr import CONFIGURATIONS, KEYS
from tests.support.service import ROOT
from trainables.configuration import build_configuration, said_of
from trainables.dotted import flatten, with_values
from trainables.errors import InvalidInput
from trainables.opensr import MOVED
from trainables.unread import unread

DOCUMENT = ROOT / "docs" / "opensr-srgan.md"
BEGIN, END = "<!-- keys: made by tests/trainables/test_opensr.py -->\n", "<!-- keys end -->\n"
ACCEPT = "pytest -n 0 tests/trainables/test_opensr.py --accept"
SMALLEST = {"Model.in_bands": 3, "Training.max_epochs": 5, "Training.Losses.adv_loss_beta": 0.01}
BESIDE = {  # without which a key is not read
    "Data.root_dir": {"Data.dataset_type": "LRHRFolderDataset"},
    "Data.dataset_root": {"Data.dataset_type": "LRHRFolderDataset"},
    "Data.dataset_type": {"Data.root_dir": "tiles", "Data.sen2naip_taco_file": "sen2naip.taco"},
    "Training.val_check_interval": {"Data.dataset_type": "LRHRFolderDataset", "Data.root_dir": "tiles"},
    "Training.max_epochs": {"Data.dataset_type": "LRHRFolderDataset", "Data.root_dir": "tiles"},
    "Model.in_bands": {"Training.Losses.fixed_idx": None},
    "Discriminator.n_blocks": {"Discriminator.model_type": "patchgan"},
    "Data.sen2naip_taco_file": {"Data.dataset_type": "SEN2NAIP"},
    "Data.sen2naip_val_fraction": {"Data.dataset_type": "SEN2NAIP", "Data.sen2naip_taco_file": "sen2naip.taco"},
    "Training.g_pretrain_steps": {"Training.pretrain_g_only": True},
    "Training.EMA.decay": {"Training.EMA.enabled": True},
    "Training.EMA.use_num_updates": {"Training.EMA.enabled": True},
    "Training.Losses.fixed_idx": {"Model.in_bands": 4},
    "Generator.growth_channels": {"Generator.model_type": "esrgan"},
    "Generator.res_scale": {"Generator.model_type": "esrgan"},
    "Generator.use_icnr": {"Generator.model_type": "esrgan"},
    "Generator.noise_dim": {"Generator.model_type": "cgan"},
    "Discriminator.base_channels": {"Discriminator.model_type": "esrgan"},
    "Discriminator.linear_size": {"Discriminator.model_type": "esrgan"},
    "Schedulers.g_warmup_steps": {"Schedulers.g_warmup_type": "linear"},
    "Schedulers.g_warmup_type": {"Schedulers.g_warmup_steps": 20},
}


@pytest.fixture(scope="module")
def tiles(tmp_path_factory):
    """A folder beside a training file: 90 training pairs, of which nothing but the names is looked at."""
    folder = tmp_path_factory.mktemp("opensr")
    (folder / "tiles" / "train" / "LR").mkdir(parents=True)
    for number in range(90):
        (folder / "tiles" / "train" / "LR" / f"{number}.npy").touch()
    return folder


def read(folder, **dotted):
    """A file of opensr-srgan with values at dotted keys: what it is here, and what is said of it."""
    document = with_values({}, SMALLEST | dotted)
    found = build_configuration(document, "theirs.yaml", folder)
    return flatten(found.model_dump()), [*said_of(document, "theirs.yaml", folder), *unread(found).values()]


def shown(value):
    return (
        "`"
        + (
            "''"
            if value == ""
            else "null"
            if value is None
            else str(value).lower()
            if isinstance(value, bool)
            else str(value)
        )
        + "`"
    )


def row(key, folder):
    """A key, values there, and what becomes of them here."""
    results = []
    for value in KEYS[key]:
        found, said = read(folder, **BESIDE.get(key, {}) | {key: value})
        told = next((line.removeprefix(f"{key}: ") for line in said if line.startswith(f"{key}: ")), "")
        targets = MOVED.get(key, (key,))
        here = found.get(targets[0])
        if told:
            results.append(told.rstrip(".").removeprefix(f"{value} "))
        elif key in MOVED:
            results.append("is " + " and ".join(f"`{target}`" for target in targets))
            assert all(found[target] in (value, str(folder / str(value))) for target in targets)
        elif here == value:
            results.append("the same")
        else:
            results.append(f"is {shown(here)}")
    cells = [
        f"{shown(value)} {result}" if len(results) > 1 else result
        for value, result in zip(KEYS[key], results, strict=True)
    ]
    alike = len(set(results)) == 1
    said = results[0] if alike else "; ".join(cells)
    return f"| `{key}` | {', '.join(map(shown, KEYS[key]))} | {said.replace(str(folder), '…')} |\n"


def test_the_table_of_all_keys_is_what_happens(request, tiles):
    table = "| key there | values | here |\n|---|---|---|\n" + "".join(row(key, tiles) for key in KEYS)
    assert_part(request, DOCUMENT, (BEGIN, END), table, ACCEPT)


def test_every_key_of_its_configurations_is_in_the_table():
    assert {key for document in CONFIGURATIONS.values() for key in flatten(document)} <= KEYS.keys()


def test_missing_keys_have_opensr_srgans_defaults(tiles):
    found, _ = read(tiles)
    expected = {
        "Data.train_batch_size": 8, "Data.val_batch_size": 8, "Training.pretrain_g_only": False,
        "Training.g_pretrain_steps": 0, "Training.adv_loss_ramp_steps": 10_000, "Training.label_smoothing": False,
        "Training.Losses.sam_weight": 0.05, "Training.Losses.perceptual_weight": 0.1,
        "Training.Losses.adv_loss_schedule": "cosine", "Generator.model_type": "srresnet",
        "Generator.block_type": "standard", "Generator.n_blocks": 16, "Generator.use_icnr": True,
        "Generator.bicubic_skip": False, "Generator.inner_residual": False, "Discriminator.n_blocks": 8,
        "Discriminator.norm": True, "Discriminator.per_patch": True, "Discriminator.input_range": None,
        "Optimizers.optim_d_lr": 5e-5, "Schedulers.g_warmup_type": "none", "Schedulers.patience_g": 5,
        "Schedulers.patience_d": 5, "Schedulers.threshold": 1e-3, "Schedulers.min_lr": 1e-7,
    }  # fmt: skip
    assert {key: found[key] for key in expected} == expected


@pytest.mark.parametrize(("said", "key", "value"), [
    ({"Generator.model_type": "esrgan"}, "Generator.n_blocks", 23),
    ({"Generator.model_type": "RRDBNet", "Generator.n_blocks": 4}, "Generator.n_blocks", 4),
    ({"Discriminator.model_type": "PatchGAN"}, "Discriminator.n_blocks", 3),
    ({"Optimizers.optim_g_lr": 1e-3}, "Optimizers.optim_d_lr", 5e-4),
    ({"Optimizers.optim_g_lr": 1e-7}, "Optimizers.optim_d_lr", 1e-6),
    ({"Schedulers.patience_g": 50}, "Schedulers.patience_d", 50),
    ({"Schedulers.factor_g": 0.1}, "Schedulers.factor_d", 0.1),
    ({"Schedulers.metric": "val_metrics/l1"}, "Schedulers.metric_d", "val_metrics/l1"),
    ({"Schedulers.metric": "val_metrics/l1", "Schedulers.metric_g": "val_metrics/sam"},
     "Schedulers.metric_g", "val_metrics/sam"),
])  # fmt: skip
def test_defaults_that_depend_on_other_keys(tiles, said, key, value):
    assert read(tiles, **said)[0][key] == value


def test_another_name_without_a_value_says_nothing(tiles):
    assert read(tiles, **{"Schedulers.metric": None})[0] == read(tiles)[0]


def test_lengths_are_steps(tiles):
    lengths = {"Data.dataset_type": "LRHRFolderDataset", "Data.root_dir": "tiles", "Data.train_batch_size": 4}
    found, said = read(tiles, **lengths, **{"Training.val_check_interval": 0.25, "Training.max_epochs": 50})
    assert (found["Training.max_steps"], found["Training.validate_every"]) == (50 * 23, 5)
    assert "Training.max_epochs: 50 of 23 batches (90 tiles) are 1150 steps (Training.max_steps)." in said
    assert "Training.val_check_interval: 0.25 of 23 batches (90 tiles) are 5 steps (Training.validate_every)." in said


def test_a_file_that_states_no_epochs_is_in_steps(tiles):
    document = {"Training": {"adv_loss_ramp_steps": 2500, "max_epochs": None}}
    assert build_configuration(document, "ours.yaml", tiles).Training.adv_loss_ramp_steps == 2500
    assert said_of(document, "ours.yaml", tiles) == []


def test_what_counts_double_in_the_game_is_halved_from_there_on(tiles):
    ema = {"Training.EMA.update_after_step": 1300, "Training.pretrain_g_only": True, "Training.g_pretrain_steps": 1000}
    assert read(tiles, **ema)[0]["Training.EMA.update_after_step"] == 1150
    assert read(tiles, **ema | {"Training.EMA.update_after_step": 900})[0]["Training.EMA.update_after_step"] == 900


@pytest.mark.parametrize(("text", "value"), [
    ("${Generator.n_channels}", 48), ("${.n_channels}", 48), ("${ Generator.growth_channels }", 48),
])  # fmt: skip
def test_what_is_interpolated_is_put_in(tiles, text, value):
    document = {"Generator.n_channels": 48, "Generator.growth_channels": "${Generator.n_channels}"}
    assert (
        read(tiles, **document, **{"Discriminator.base_channels": text.replace("${.", "${Generator.")})[0][
            "Discriminator.base_channels"
        ]
        == value
    )


@pytest.mark.parametrize(
    "text", ["${Generator.n_chanels}", "${Generator.res_scale}x${", "${Discriminator.base_channels}"]
)
def test_what_names_no_value_is_refused_with_the_nearest_key(tiles, text):
    with pytest.raises(InvalidInput) as caught:
        read(tiles, **{"Generator.n_channels": 48, "Discriminator.base_channels": text})
    assert caught.value.problems[0].key == "Discriminator.base_channels"


def test_files_of_this_project_from_before_its_networks_had_names_are_refused(tiles):
    with pytest.raises(InvalidInput, match="Discriminator.norm: found nothing beside input_range.*block_type: plain"):
        build_configuration({"Discriminator": {"input_range": 2.0}}, "old.yaml", tiles)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_its_configurations_are_read_as_they_are(tiles, name):
    document = copy.deepcopy(CONFIGURATIONS[name])
    document["Data"] = {key: value for key, value in document["Data"].items() if key != "dataset_type"}
    found = flatten(build_configuration(document, name, tiles).model_dump())
    for key, value in flatten(document).items():
        if key.startswith("Training.") and key.rpartition(".")[2] in {
            "max_epochs",
            "val_check_interval",
            "limit_val_batches",
        }:
            continue
        if key == "Training.adv_loss_ramp_steps":
            value = value // 2
        if isinstance(value, str):
            assert str(found[key]).lower() == value.lower() or key == "Training.device", key
        else:
            assert found[key] == value, key
