"""The stretch before the game, shared: which keys leave it as it is; what starts from a snapshot ends alike."""

import itertools

import pytest
import torch

from tests.support.tiny import begun, everything, same, saved, textured, tiny
from trainables.dotted import flatten
from trainables.imagery import Imagery, load_imagery
from trainables.pretraining import fingerprint, pack, unpack
from trainables.schema import Configuration, acts_later, roles_of
from trainables.sections import UNREAD
from trainables.trainer import outcome, train

CPU = torch.device("cpu")
PRETRAIN, WEIGHT = "Training.g_pretrain_steps", "Training.Losses.adv_loss_beta"
EMA = {"Training.EMA.enabled": True, "Training.EMA.update_after_step": 1, "Schedulers.g_warmup_steps": 3}
OTHERWISE = {  # of every key that acts later, another value than the tiny training's
    "Training.checkpoint_every": 3,
    "Training.g_pretrain_steps": 14,
    "Training.adv_loss_ramp_steps": 9,
    "Training.label_smoothing": False,
    "Training.Losses.adv_loss_beta": 0.2,
    "Training.Losses.adv_loss_type": "wasserstein",
    "Training.Losses.relativistic_average_d": True,
    "Training.Losses.r1_gamma": 1.0,
    "Training.Losses.adv_loss_schedule": "linear",
    "Training.max_steps": 120,
    "Discriminator.base_channels": 8,
    "Discriminator.input_range": 2.0,
    "Optimizers.optim_d_lr": 5e-4,
    "Optimizers.weight_decay_d": 0.1,
    "Schedulers.metric_g": "val_metrics/l1",
    "Schedulers.metric_d": "val_metrics/l1",
    "Schedulers.patience_g": 1,
    "Schedulers.patience_d": 1,
    "Schedulers.factor_g": 0.1,
    "Schedulers.factor_d": 0.1,
    "Schedulers.threshold": 0.5,
    "Schedulers.cooldown": 2,
    "Schedulers.min_lr": 1e-6,
    "Schedulers.armed": "game",
    "Schedulers.cut": "both",
    "Logging.num_val_images": 2,
}


def timeless(readings):
    return [{k: v for k, v in reading.items() if not k.startswith("time/")} for reading in readings]


def test_every_key_that_acts_later_is_tried():
    known = flatten(Configuration().model_dump())
    elsewhere = (
        "Data.",
        "Training.pretrain_g_only",
        "Discriminator.",
        "Logging.",
    )  # where it lies; no game, no networks
    later = {key for key in known if acts_later(key) and UNREAD not in roles_of(key)}
    assert {key for key in later if not key.startswith(elsewhere)} <= OTHERWISE.keys()


@pytest.mark.parametrize("key", OTHERWISE)
def test_a_key_that_acts_later_leaves_pretraining_as_it_is(key):
    base = {PRETRAIN: 12, **EMA}
    (one, imagery), (other, _) = begun(**base), begun(**base | {key: OTHERWISE[key]})
    assert one.configuration != other.configuration
    readings = [list(itertools.islice(train(state, imagery), 6)) for state in (one, other)]
    assert timeless(readings[0]) == timeless(readings[1])
    for part in ("generator", "optimizer_g", "averaged"):
        assert same(everything(one), everything(other), part + ".")
    assert fingerprint(one.configuration, imagery, CPU) == fingerprint(other.configuration, imagery, CPU)


@pytest.mark.parametrize("changes", [
    {"Training.seed": 1}, {"Schedulers.g_warmup_steps": 4}, {"Optimizers.optim_g_lr": 2e-3},
    {"Training.EMA.enabled": False}, {"Training.validate_every": 1}, {"Training.precision": "bf16"},
    {"Training.Losses.tv_weight": 0.1}, {"Generator.n_channels": 8}, {"Nash.validation_pairs": 65},
], ids=lambda changes: next(iter(changes)))  # fmt: skip
def test_what_acts_from_the_start_has_a_fingerprint_of_its_own(changes):
    imagery = load_imagery(tiny(), CPU)
    assert fingerprint(tiny(**EMA), imagery, CPU) != fingerprint(tiny(**EMA | changes), imagery, CPU)


def test_other_imagery_other_threads_and_other_code_have_fingerprints_of_their_own(tmp_path, monkeypatch):
    scene = tmp_path / "scene.npy"
    found = []
    for seed in (0, 0, 1):
        configuration = tiny(**{"Data.path": saved(scene, textured(3, 96, 256, seed))})
        found.append(fingerprint(configuration, Imagery(configuration, CPU), CPU))
    assert found[0] == found[1] != found[2]
    imagery = Imagery(configuration, CPU)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    assert fingerprint(configuration, imagery, CPU) != found[2]
    monkeypatch.undo()
    monkeypatch.setattr("trainables.pretraining._code", lambda: "other")
    assert fingerprint(configuration, imagery, CPU) != found[2]


@pytest.mark.parametrize("at", [2, 6, 12])
def test_what_starts_from_a_snapshot_ends_alike_to_the_bit(at):
    lender, imagery = begun(**EMA, **{PRETRAIN: 16, WEIGHT: 0.3, "Schedulers.patience_g": 9})
    list(itertools.islice(train(lender, imagery), at // 2))
    dotted = {**EMA, PRETRAIN: 12, WEIGHT: 0.01, "Schedulers.patience_g": 1, "Schedulers.patience_d": 1}
    dotted |= {"Schedulers.threshold": 2.0}
    whole, _ = begun(**dotted)
    list(train(whole, imagery))
    borrower = unpack(pack(lender), whole.configuration, CPU)
    assert borrower.step == at
    list(train(borrower, imagery))
    assert same(everything(whole), everything(borrower))
    assert timeless(whole.readings) == timeless(borrower.readings)
    assert outcome(whole) == outcome(borrower)
    assert whole.plateau_g.cuts > 0  # schedulers of its own, not the lender's
