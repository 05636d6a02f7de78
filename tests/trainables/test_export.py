"""A training goes back to opensr-srgan in its own words and units, and reads the same again."""

import copy
from pathlib import Path

import pytest

from tests.support.opensr import CONFIGURATIONS
from tests.support.tiny import tiny
from trainables.configuration import build_configuration
from trainables.dotted import flatten, value_at, with_values
from trainables.export import inexpressible, written

SEARCHED = {
    "Training.g_pretrain_steps": 77,
    "Training.Losses.adv_loss_beta": 0.02,
    "Training.adv_loss_ramp_steps": 31,
    "Schedulers.patience_g": 9,
    "Optimizers.optim_d_lr": 3e-6,
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_what_is_written_reads_as_the_winner_and_keeps_the_originals_words(name):
    original = copy.deepcopy(CONFIGURATIONS[name])
    del original["Data"]["dataset_type"]
    winner = build_configuration(original, name, Path())
    flat = flatten(winner.model_dump()) | SEARCHED
    winner = build_configuration(with_values({}, flat), name, Path())
    document = written(winner, original, epoch=None)
    again = flatten(build_configuration(document, name, Path()).model_dump())
    lengths = {"Training.max_steps", "Training.validate_every", "Training.pretrain_g_only"}
    assert {key: again[key] for key in flat.keys() - lengths} == {key: flat[key] for key in flat.keys() - lengths}
    assert value_at(document, "Training.adv_loss_ramp_steps") == 62  # two a batch
    untouched = [key for key in flatten(original) if key not in SEARCHED]
    assert {key: value_at(document, key) for key in untouched} == {key: value_at(original, key) for key in untouched}


def test_lengths_are_epochs_and_batches():
    configuration = tiny(**{"Training.max_steps": 230, "Training.validate_every": 4})
    document = written(configuration, None, epoch=23)
    assert value_at(document, "Training.max_epochs") == 10
    assert value_at(document, "Training.val_check_interval") == 4


def test_a_test_scene_of_ones_own_is_no_key_there():
    assert value_at(written(tiny(**{"Data.test_path": "/elsewhere/b.tif"}), None, epoch=None), "Data.test_path") is None


def test_what_cannot_be_said_there_is_a_sentence_each():
    said = inexpressible(tiny())
    keys = {sentence.partition(":")[0] for sentence in said}
    assert keys == {
        *("Generator.bicubic_skip", "Generator.block_type", "Discriminator.norm", "Discriminator.per_patch"),
        *("Discriminator.input_range", "Data.dataset_type", "Data.normalization", "Schedulers.metric_g", "Schedulers"),
    }
