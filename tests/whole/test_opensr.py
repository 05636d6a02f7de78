"""opensr-srgan's eight configurations, whole: checked, trained and searched with this project's commands."""

import copy
import functools
import json
import math

import pytest
from typer.testing import CliRunner

from tests.support.data_sets import write_examples, write_taco, write_tiles
from tests.support.opensr import CONFIGURATIONS
from tests.support.perceptual import write_published
from tests.support.service import LAX, command, finish
from tests.support.studies import write
from trainables.configuration import build_configuration
from trainables.dotted import flatten, value_at, with_values
from trainables.kinds import HELD_OUT_EXAMPLES
from trainables.perceptual import VGG
from tune_srgan.commands import app
from tune_srgan.store.trial_folder import TrialFolder
from tune_srgan.study.loading import load_study

SEARCHED = {  # the guide's, about each file's own values
    "Schedulers.g_warmup_steps": {"int": [0, 2500], "step": 10},
    "Training.g_pretrain_steps": {"int": [0, 15000], "step": 10},
    "Training.Losses.adv_loss_beta": {"float": [1.0e-3, 3.0e-1], "log": True},
    "Schedulers.patience_g": {"int": [2, 64], "log": True},
    "Schedulers.patience_d": {"int": [2, 64], "log": True},
}
LONG = {"max_steps": 60000, "validate_every": 500}  # for all of them
# the same networks, few and narrow, on few images: what a CPU trains for 30 steps in seconds
SMALL = {
    **{"Generator.n_channels": 16, "Generator.n_blocks": 1, "Generator.growth_channels": 4},
    **{"Discriminator.base_channels": 8, "Discriminator.linear_size": 32, "Discriminator.n_blocks": 2},
    **{"Data.train_batch_size": 2, "Data.val_batch_size": 64, "Nash.validation_pairs": 64, "Training.threads": 1},
    **{"TruncatedVGG.i": 2, "TruncatedVGG.j": 1},
}
LENGTHS = {"Training.max_steps": 30, "Training.validate_every": 15}
SOON = {"Training.g_pretrain_steps": 10, "Training.adv_loss_ramp_steps": 10}  # the game is on from step 15


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """What torch's home is to be: VGG19's weights in it, drawn at random."""
    home = tmp_path_factory.mktemp("torch")
    write_published(home / "hub" / "checkpoints")
    return home


@pytest.fixture(scope="session")
def data_sets(tmp_path_factory):
    """A folder of data sets in opensr-srgan's forms: examples, tiles of six bands at ×8, a .taco of pairs."""
    folder = tmp_path_factory.mktemp("data")
    write_examples(folder / "example_dataset")
    write_tiles(folder / "tiles")
    write_taco(folder / "sen2naip.taco")
    return folder


@pytest.fixture
def folder(tmp_path, weights, data_sets, monkeypatch):
    """A fresh folder beside its data sets, in which a person works."""
    monkeypatch.setenv("TORCH_HOME", str(weights))
    monkeypatch.chdir(tmp_path)
    for place in data_sets.iterdir():
        (tmp_path / place.name).symlink_to(place)
    return tmp_path


def with_own_data(name):
    """A shipped file with its data set: S2_6b, which is nowhere, is tiles, and SEN2NAIP's file is named."""
    document = copy.deepcopy(CONFIGURATIONS[name])
    kind = document["Data"]["dataset_type"]
    if kind == "SEN2NAIP":
        pytest.importorskip("tacoreader")
        document["Data"]["sen2naip_taco_file"] = "sen2naip.taco"
    elif kind == "S2_6b":
        document["Data"] |= {"dataset_type": "LRHRFolderDataset", "root_dir": "tiles"}
    return document


def on_the_sample(name):
    """A shipped file without its data set, for the three bands of the built-in sample."""
    document = copy.deepcopy(CONFIGURATIONS[name])
    del document["Data"]["dataset_type"]
    document["Model"]["in_bands"] = 3
    return document


SOURCES = {"sample": on_the_sample, "own": with_own_data}
OTHERS = {"config_10m": "hydra_10m", "config_20m": "hydra_20m", "config_training_example": "hydra_example"}  # alike
each_of_both = functools.partial(pytest.mark.parametrize, ("name", "source"))(
    [(name, source) for name in CONFIGURATIONS for source in SOURCES]
)
TILES = {"10m": 54, "20m": 30, "playgound": 6, "training_example": 6, "example": 6, "default": 6}  # to train on
TILES = {name: TILES[name.partition("_")[2]] for name in CONFIGURATIONS}


def expected_of(name, source):
    """What `check` says beside its result of a shipped file, a warning an item."""
    document = SOURCES[source](name)
    flat, tiles = flatten(document), TILES[name]
    batches = math.ceil(tiles / flat["Data.train_batch_size"])
    epochs, interval = flat["Training.max_epochs"], flat["Training.val_check_interval"]
    told = {"Training.adv_loss_ramp_steps": "there, where each batch of the game counts two, are {} steps here"}
    told = {key: text.format(flat[key] // 2) for key, text in told.items()}
    told |= {
        "Training.limit_val_batches": "does nothing here: Nash.validation_pairs says how many images are judged",
        "Data.num_workers": "does nothing here: imagery is in memory, and no process of its own cuts batches",
        "Training.gpus": "does nothing here: a training is of one GPU",
    }
    if flat["Training.device"] == "cuda":
        told["Training.device"] = "takes a GPU where there is one, and the CPU elsewhere"
    for key, target, steps, default in (
        ("Training.max_epochs", "Training.max_steps", epochs * batches, 100000),
        ("Training.val_check_interval", "Training.validate_every", max(1, int(interval * batches)), 500),
    ):
        told[key] = f"of {batches} batches ({tiles} tiles) are {steps} steps ({target})"
        if source == "sample":
            told[key] = (
                f"says nothing here, since crops are cut from scenes at random: set {target}, or it is {default}"
            )
    if source == "sample" and "Training.Losses.fixed_idx" in flat:
        told["Training.Losses.fixed_idx"] = "does nothing while Model.in_bands is 3"
    if flat["Generator.model_type"] == "esrgan" and flat["Generator.block_type"] != "standard":
        told["Generator.block_type"] = "does nothing while Generator.model_type is esrgan"
    d = flat["Discriminator.model_type"]
    idle = "use_spectral_norm" if d == "esrgan" else "base_channels"
    if d == "esrgan" or flat["Discriminator.base_channels"] != 64:
        told[f"Discriminator.{idle}"] = (
            f"does nothing while Discriminator.model_type is {d} and Discriminator.norm is true"
        )
    return sorted(f"{key}: {'false' if flat[key] is False else flat[key]} {text}." for key, text in told.items())


@each_of_both
def test_its_files_are_valid_and_all_that_is_said_of_them_is_so(folder, name, source):
    file = write(folder, SOURCES[source](name), f"{name}.yaml")
    said = invoke("check", file)
    assert said.exit_code == 0, said.output
    assert f"{name}.yaml is a valid training." in " ".join(said.stdout.split())  # however long the folder's name
    warnings = [line.removeprefix("warning ") for line in said.stderr.splitlines()]
    unkept = [line for line in warnings if line.startswith("No balance can be kept")]
    assert sorted(line for line in warnings if line not in unkept) == expected_of(name, source)
    assert len(unkept) == (source == "own" and "10m" not in name)  # so few tiles are few steps


def test_as_many_examples_are_trained_on_as_the_table_says(data_sets):
    assert len(list((data_sets / "example_dataset").iterdir())) - HELD_OUT_EXAMPLES == TILES["config_playgound"]


def test_what_hydra_composes_is_what_is_shipped_but_for_its_default():
    assert all(CONFIGURATIONS[shipped] == CONFIGURATIONS[composed] for shipped, composed in OTHERS.items())
    assert CONFIGURATIONS.keys() - OTHERS.keys() - set(OTHERS.values()) == {"config_playgound", "hydra_default"}


@pytest.mark.long
@pytest.mark.parametrize("game", [False, True], ids=["as it is", "game"])
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("name", sorted(CONFIGURATIONS.keys() - OTHERS.values()))
def test_30_steps_of_its_files_are_trained(folder, name, source, game):
    values = SMALL | LENGTHS | (SOON if game else {})
    document = with_values(SOURCES[source](name), values | ({"Data.crop_size": 48} if source == "sample" else {}))
    said = invoke("train", write(folder, document, f"{name}.yaml"), "--out", folder / "out")
    assert said.exit_code == 0, (said.output, said.exception)
    trial = TrialFolder(folder / "out")
    readings, configuration = trial.readings(), trial.configuration()
    assert [reading["step"] for reading in readings] == [15, 30]
    assert trial.outcome()["trained_steps"] == 30
    last, training = readings[-1], configuration.Training
    content = last["val_metrics/l1"] * training.Losses.l1_weight
    content += last["val_metrics/sam"] * training.Losses.sam_weight
    content += last["val_metrics/perceptual"] * training.Losses.perceptual_weight
    assert last["val_metrics/perceptual"] > 0
    assert last["validation/content_loss"] == pytest.approx(content, rel=1e-6)
    playing = training.pretrain_steps < 30
    assert last["training/pretrain_phase"] == float(not playing)
    assert playing == (game or name in ("config_playgound", "hydra_default"))
    assert ("discriminator/adversarial_loss" in last) == ("nash/rank" in last) == playing
    if game:
        assert last["training/adv_loss_weight"] == document["Training"]["Losses"]["adv_loss_beta"]  # the ramp is over
    assert all(math.isfinite(value) for reading in readings for value in reading.values())
    assert (trial.path / "best.pt").exists()


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_each_file_as_it_is_is_a_studys_training_and_starts_first(folder, name):
    document = with_own_data(name)
    write(folder, document, f"{name}.yaml")
    study = {"study": name, "training": f"{name}.yaml", "space": SEARCHED}
    study["objective"] = LONG
    file = write(folder, study)
    said = invoke("check", file)
    assert said.exit_code == 0, said.output
    flat = flatten(document)
    own = {key: flat[key] for key in SEARCHED if key in flat}
    if not flat["Training.pretrain_g_only"]:
        own["Training.g_pretrain_steps"] = 0
        assert (
            said.stderr.count("Training.pretrain_g_only is true here, since Training.g_pretrain_steps is searched") == 1
        )
    for key, value in own.items():
        assert said.stderr.count(f"warning {key} is searched; the file's {value} starts first.\n") == 1
    assert said.stderr.count("starts first") == len(own) == len(SEARCHED)
    for key, here in (("max_epochs", "max_steps is 60000"), ("val_check_interval", "validate_every is 500")):
        assert (
            f"Training.{key}: {value_at(document, f'Training.{key}')} does nothing, since objective.{here}.\n"
            in said.stderr
        )
    on_cuda = "Training.device: cuda does nothing, since resources.gpus is 0: trials are on CPUs" in said.stderr
    assert on_cuda == (flat["Training.device"] == "cuda")
    loaded, _ = load_study(file)
    assert loaded.search.try_first == [own]
    first = loaded.configuration(loaded.search.try_first[0])
    told = build_configuration(document, name, folder).Training
    assert (first.Training.pretrain_steps, first.Training.Losses) == (told.pretrain_steps, told.Losses)


def test_a_study_without_lengths_has_those_of_the_files_epochs(folder):
    write(folder, with_own_data("config_20m"), "config_20m.yaml")
    document = {"study": "epochs", "training": "config_20m.yaml", "space": SEARCHED | {
        "Training.g_pretrain_steps": {"int": [0, 5000], "step": 10}}}  # fmt: skip
    loaded, warnings = load_study(write(folder, document))
    assert (loaded.max_steps, loaded.lowest().Training.validate_every) == (9999 * 2, 2)
    assert "Training.g_pretrain_steps is searched; the file's 15000 is none of 0 to 5000 by 10." in warnings
    write(folder, with_own_data("config_training_example"), "config_20m.yaml")
    said = invoke("check", folder / "study.yaml")
    assert said.exit_code == 2
    told = "objective.max_steps: found nothing, so the 30 that the training file's epochs are; expected about "
    assert told in said.stderr  # 10 epochs of 3 batches


def test_without_weights_there_is_one_error_with_the_command_to_get_them(folder, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(folder / "nothing"))
    write(folder, with_own_data("config_training_example"), "theirs.yaml")
    study = {
        "study": "a",
        "training": "theirs.yaml",
        "space": SEARCHED,
        "objective": {"max_steps": 60000, "validate_every": 500},
    }
    for file in (folder / "theirs.yaml", write(folder, study)):
        said = invoke("check", file)
        assert (said.exit_code, said.stderr.count("error "), said.stderr.count("\n")) == (2, 1, 1)
        assert (
            f"found vgg, and no {VGG} in {folder}/nothing/hub/checkpoints; expected the published weights"
            in said.stderr
        )
        assert "python -c \"import torchvision; torchvision.models.vgg19(weights='DEFAULT')\"` gets" in said.stderr


@pytest.mark.parametrize(("name", "told"), [
    ("config_10m", "Data.sen2naip_taco_file: found None; expected the .taco file of SEN2NAIP"),
    ("config_20m", "Data.dataset_type: found 'S2_6b'; expected one of scenes, LRHRFolderDataset"),
    ("config_training_example", "Data.root_dir: found no such folder; expected more than 20 hr_*.npz"),
])  # fmt: skip
def test_a_file_without_its_data_is_one_error(tmp_path, weights, monkeypatch, name, told):
    monkeypatch.setenv("TORCH_HOME", str(weights))
    monkeypatch.chdir(tmp_path)
    said = invoke("check", write(tmp_path, CONFIGURATIONS[name], f"{name}.yaml"))
    assert (said.exit_code, said.stderr.count("\n")) == (2, 1)
    assert said.stderr.startswith("error ") and told in said.stderr


STUDIED = {  # a file of each family, short enough for a study of trials here
    "config_playgound": {"Training.adv_loss_ramp_steps": 8},
    "config_training_example": {"Training.g_pretrain_steps": 20, "Training.adv_loss_ramp_steps": 8},
}


@pytest.mark.ray
@pytest.mark.parametrize("name", STUDIED)
def test_a_study_over_its_file_runs_and_begins_with_the_files_own_values(folder, weights, name):
    small = {key: value for key, value in SMALL.items() if not key.startswith("Nash.")} | {"Data.crop_size": 32}
    document = with_values(with_own_data(name), small | STUDIED[name])
    write(folder, document, f"{name}.yaml")
    study = {"study": "own", "training": f"{name}.yaml"}
    study["space"] = SEARCHED | {"Training.g_pretrain_steps": {"int": [0, 20], "step": 10}}
    study["objective"] = {"max_steps": 100, "validate_every": 2, "nash": LAX}
    study["search"] = {"trials": 2, "startup": 2, "sharing": {"enabled": False}}
    study["confirm"] = {"top": 0}
    write(folder, study)
    finish(command("run", "study.yaml", cwd=folder, env={"TORCH_HOME": str(weights)}))
    trials = [TrialFolder(folder / "runs" / "own" / "trials" / f"{number:05d}") for number in range(2)]
    own = {key: value for key, value in flatten(document).items() if key in SEARCHED}
    if not document["Training"]["pretrain_g_only"]:
        own["Training.g_pretrain_steps"] = 0
    assert json.loads((trials[0].path / "trial.json").read_text())["values"] == own
    for trial in trials:
        assert trial.outcome()["end"] in {"balanced", "lost", "exhausted", "capped"}
        assert trial.readings()[-1]["val_metrics/perceptual"] > 0
