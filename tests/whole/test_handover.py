"""A study's winner in opensr-srgan and back: trained there by its own command, from the file as we wrote it."""

import contextlib
import io
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

from tests.support.opensr import CONFIGURATIONS
from tests.support.peer import averaged, train_there
from tests.support.perceptual import write_published
from tests.support.service import LAX, command, finish
from tests.support.studies import records_in
from trainables.configuration import build_configuration, load_configuration
from trainables.dotted import flatten, with_values
from trainables.schedules import watch_plateaus
from trainables.state import State
from trainables.step import _schedule
from tune_srgan.search.confirmation import winner
from tune_srgan.store.studies import study_in
from tune_srgan.store.study_folder import StudyFolder
from tune_srgan.store.trial_folder import TrialFolder

pytestmark = [pytest.mark.peer, pytest.mark.long]
pytest.importorskip("pytorch_lightning")
pytest.importorskip("opensr_srgan.model.SRGAN", exc_type=ImportError)
CPU = torch.device("cpu")
TILES, HELD_OUT, EPOCH = 20, 20, 10
STEPS, EVERY, PRETRAINING, RAMP = 100, 2, 12, 16  # the ramp counts two steps a batch there
# What is otherwise than in config_training_example as it is shipped: a CPU instead of a GPU, which it asks for, smaller
# networks and lengths, fewer validation batches and no figures of them; and an average, which it has not.
SMALLER = {
    "Training.device": "cpu",
    "Training.seed": 1,
    "Training.g_pretrain_steps": PRETRAINING,
    "Training.adv_loss_ramp_steps": RAMP,
    "Training.limit_val_batches": 2,
    "Training.EMA.enabled": True,
    "Training.EMA.decay": 0.9,
    "TruncatedVGG.i": 1,
    "TruncatedVGG.j": 1,
    "Generator.n_channels": 8,
    "Generator.n_blocks": 1,
    "Schedulers.patience_g": 3,
    "Logging.num_val_images": 0,
}
STUDY = {
    "study": "handover",
    "training": "config_training_example.yaml",
    "space": {
        "Training.g_pretrain_steps": {"int": [10, 14], "step": 2},
        "Training.Losses.adv_loss_beta": {"float": [1e-3, 3e-1], "log": True},
        "Optimizers.optim_d_lr": {"float": [5e-7, 5e-6], "log": True},
    },
    "objective": {"max_steps": STEPS, "validate_every": EVERY, "nash": LAX | {"psnr_slack_db": 30.0}},
    "search": {"trials": 2, "startup": 1, "race": 0},
    "confirm": {"top": 0},
    "resources": {"concurrent": 1},
}
WRITTEN = "handover-opensr-srgan"


def write_examples(folder):
    """opensr-srgan's example set: hr_*.npz, (height, width, bands), reflectances times 10000."""
    folder.mkdir()
    draw = np.random.default_rng(0)
    for number in range(TILES + HELD_OUT):
        image = draw.random((32, 32, 4))
        for _ in range(2):
            image = (image + np.roll(image, 1, 0) + np.roll(image, 1, 1)) / 3
        np.savez(folder / f"hr_{number:04d}.npz", (6000 * image + 500).astype(np.uint16))


@pytest.fixture(scope="module")
def handed(tmp_path_factory):
    """A study, its winner written for opensr-srgan, and what came of training that there."""
    folder = tmp_path_factory.mktemp("handover")
    home, there = folder / "torch", folder / "there"
    write_published(home / "hub" / "checkpoints")
    write_examples(folder / "example_dataset")
    shipped = with_values(CONFIGURATIONS["config_training_example"], SMALLER)
    (folder / "config_training_example.yaml").write_text(yaml.safe_dump(shipped, sort_keys=False))
    (folder / "study.yaml").write_text(yaml.safe_dump(STUDY))
    environment = {"TORCH_HOME": str(home)}
    finish(command("run", "study.yaml", cwd=folder, env=environment))
    finish(command("best", "handover", "--for", "opensr-srgan", cwd=folder, env=environment))
    there.mkdir()
    (there / "example_dataset").symlink_to(folder / "example_dataset")
    file = there / f"{WRITTEN}.yaml"
    file.write_bytes((folder / file.name).read_bytes())
    logged, last = train_there(file, home)
    kept = StudyFolder(folder / "runs" / "handover")
    study = study_in(kept)
    return SimpleNamespace(
        folder=folder,
        home=home,
        shipped=shipped,
        file=file,
        checkpoint=folder / f"{WRITTEN}.ckpt",
        best=winner(study, records_in(study, kept)),
        generator=kept.best_generator,
        logged=logged,
        last=last,
    )


@pytest.fixture(autouse=True)
def weights(handed, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(handed.home))


def made_there(file, checkpoint):
    """The model that opensr-srgan makes of a file and a checkpoint, which fits it to the last tensor."""
    import omegaconf
    import opensr_srgan
    from opensr_srgan.model.SRGAN import SRGAN_model

    with contextlib.redirect_stdout(io.StringIO()):
        empty = SRGAN_model(omegaconf.OmegaConf.load(file))
        empty.load_state_dict(torch.load(checkpoint, weights_only=True)["state_dict"], strict=True)
        return opensr_srgan.load_from_config(file, checkpoint)


@torch.no_grad()
def far(ours, theirs):
    """The greatest difference of what two generators make of an image."""
    lr = torch.rand(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return float((ours.eval()(lr) - theirs.eval()(lr)).abs().max())


def test_the_file_is_the_shipped_one_but_for_what_the_winner_has_otherwise(handed):
    assert yaml.safe_load(handed.file.read_text()) == with_values(handed.shipped, handed.best.values)


def test_the_checkpoint_loads_strictly_and_makes_the_same_images(handed):
    theirs = made_there(handed.file, handed.checkpoint)
    configuration = handed.best.trial.configuration()
    ours = State.load(handed.best.trial.checkpoint, configuration, CPU)
    assert ours.step == STEPS and far(ours.generator, ours.averaged) > 1e-5
    assert far(ours.generator, theirs.generator) <= 1e-6
    assert far(ours.averaged, averaged(theirs)) <= 1e-6
    flat = flatten(configuration.model_dump()) | {"Model.load_checkpoint": str(handed.generator)}
    handed_out = State(build_configuration(with_values({}, flat), "best.pt", Path()), CPU)
    assert far(handed_out.generator, averaged(theirs)) <= 1e-6


def steps_logged(handed):
    """What was logged of each batch, and what of each validation by the batches before it."""
    batches = {int(line["step"]) + 1: line for line in handed.logged if "training/adv_loss_weight" in line}
    validations = {int(line["step"]) + 1: line for line in handed.logged if "val_metrics/l1" in line}
    assert list(batches) == list(range(1, STEPS + 1))
    assert list(validations) == list(range(EVERY, STEPS + 1, EVERY))
    return batches, validations


def schedules(handed, watch):
    """By step: both rates after it, its adversarial weight and phase, as ours are with the validations logged there."""
    configuration = load_configuration(handed.file)
    state = State(configuration, CPU)
    _, validations = steps_logged(handed)
    found = {}
    for step in range(1, STEPS + 1):
        (rate_g, rate_d), weight = _schedule(state, step + 1)[:2], _schedule(state, step)[2]
        found[step] = (rate_g, rate_d, weight, float(step <= configuration.Training.pretrain_steps))
        if step in validations:
            watch(state, {**validations[step], "step": float(step)})
    return found


def watched_as_there(state, reading):
    """Every validation counts, those of pretraining too."""
    for plateau in (state.plateau_g, state.plateau_d):
        plateau.watch(reading[plateau.metric])


def watched_as_here(state, reading):
    watch_plateaus(state.plateau_g, state.plateau_d, reading, state.configuration)


NAMES = ("lr_generator_step", "lr_discriminator_step", "training/adv_loss_weight", "training/pretrain_phase")


def test_the_schedules_logged_there_are_ours_step_for_step(handed):
    batches, _ = steps_logged(handed)
    logged = {step: tuple(line[name] for name in NAMES) for step, line in batches.items()}
    ours = schedules(handed, watched_as_there)
    assert {step: values == pytest.approx(logged[step], rel=1e-6) for step, values in ours.items()} == dict.fromkeys(
        ours, True
    )
    assert len({values[2] for values in logged.values()}) == RAMP // 2 + 2  # none, the ramp's, the whole


def test_they_differ_by_the_validations_of_pretraining_alone(handed):
    """Of them its D's scheduler is fed zeros: nothing is ever better, and it cuts every patience + 1 validations.

    The validation after the last step of pretraining is one of the game's there, and measures D.
    """
    batches, validations = steps_logged(handed)
    pretraining = load_configuration(handed.file).Training.pretrain_steps
    fed = [line["validation/DISC_adversarial_loss"] for step, line in validations.items() if step <= pretraining]
    assert not any(fed[:-1]) and fed[-1] > 0
    ours, patience = schedules(handed, watched_as_here), handed.shipped["Schedulers"]["patience_d"]
    cut = EVERY * (patience + 2)  # the first validation is the best one, and after so many more
    full = batches[1]["lr_discriminator_step"]
    rates = [batches[step]["lr_discriminator_step"] / full for step in batches]
    assert rates[:cut] == pytest.approx([1.0] * cut)
    assert rates[cut:][: EVERY * (patience + 1)] == pytest.approx([0.5] * EVERY * (patience + 1))
    for step in range(1, cut + 1):
        assert ours[step] == pytest.approx([batches[step][name] for name in NAMES], rel=1e-6)
    assert all(values[1] == pytest.approx(full) for step, values in ours.items() if step <= 2 * cut)
    for step, values in ours.items():  # weight and phase know nothing of it
        assert values[2:] == pytest.approx([batches[step][name] for name in NAMES[2:]], rel=1e-6)


def test_the_winners_own_readings_say_the_same(handed):
    batches, _ = steps_logged(handed)
    readings = [reading for reading in handed.best.trial.readings() if reading["step"] <= STEPS]
    uncut = EVERY * (handed.shipped["Schedulers"]["patience_d"] + 2)  # of either rate there, and here
    for reading in readings:
        line, names = batches[int(reading["step"])], {"training/adv_loss_weight", "training/pretrain_phase"}
        if reading["step"] <= uncut:
            names |= {"lr_generator_step"}
        assert {name: reading[name] for name in names} == pytest.approx({name: line[name] for name in names}, rel=1e-6)
        if "lr_discriminator" in reading and reading["step"] <= uncut:
            assert reading["lr_discriminator"] == pytest.approx(line["lr_discriminator_step"], rel=1e-6)
    assert len(readings) == STEPS // EVERY


@pytest.mark.parametrize("key", ["continue_training", "load_checkpoint"])
def test_its_last_checkpoint_is_begun_from_here(handed, tmp_path, key):
    longer, readings = 14, 2 * EPOCH  # epochs; every so many steps
    changes = {f"Model.{key}": str(handed.last), "Training.max_epochs": longer, "Training.val_check_interval": readings}
    changes |= {"Data.root_dir": str(handed.folder / "example_dataset"), "Nash.validation_pairs": 64}
    document = with_values(yaml.safe_load(handed.file.read_text()), changes)
    (tmp_path / "on.yaml").write_text(yaml.safe_dump(document))
    theirs = made_there(handed.file, handed.last)
    begun = State(load_configuration(tmp_path / "on.yaml"), CPU)
    goes_on = key == "continue_training"
    assert begun.step == (STEPS if goes_on else 0)
    assert far(begun.averaged, averaged(theirs)) <= 1e-6
    assert far(begun.generator, theirs.generator if goes_on else averaged(theirs)) <= 1e-6
    finish(command("train", "on.yaml", "--out", "out", cwd=tmp_path, env={"TORCH_HOME": str(handed.home)}))
    found = TrialFolder(tmp_path / "out").readings()
    assert [reading["step"] for reading in found] == [*range(begun.step + readings, longer * EPOCH + 1, readings)]
    if goes_on:  # the rates are what the schedulers there had left
        batches, _ = steps_logged(handed)
        left = batches[STEPS]["lr_generator_step"]
        assert found[0]["lr_generator"] == pytest.approx(left, rel=1e-6)
    assert found[-1]["val_metrics/l1"] < found[0]["val_metrics/l1"] * 1.05
