"""Behaviour of a whole training on tiny networks: who moves when, what is read, how it goes on and how it ends."""

import math
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch

from tests.support.tiny import begun, everything, same, saved, textured, tiny
from trainables.balance import CONDITIONS, Ruler, excesses
from trainables.configuration import METRICS
from trainables.imagery import load_imagery
from trainables.rehearsal import rehearse
from trainables.responses import best_response, probes
from trainables.state import State
from trainables.trainer import Diverged, outcome, train
from trainables.validation import auc

PRETRAIN, RAMP = "Training.g_pretrain_steps", "Training.adv_loss_ramp_steps"
EAGER = {f"Schedulers.{key}": value for key, value in {"patience_g": 0, "patience_d": 0, "threshold": 2.0}.items()}
LAX = {"Nash.probability_tolerance": 1.0, "Nash.rank_tolerance": 0.5, "Nash.control_auc": 0.500001}
EMA = {"Training.EMA.enabled": True, "Training.EMA.update_after_step": 1}


def played(readings, **dotted):
    """A training after that many readings, its imagery, and the readings."""
    state, imagery = begun(**dotted)
    return state, imagery, list(islice(train(state, imagery), readings))


@pytest.fixture(scope="module")
def whole():
    return played(None, **{"Training.max_steps": 103, "Optimizers.optim_d_lr": 5e-3})


def test_in_pretraining_the_generator_moves_alone_and_in_the_game_both_do():
    state, imagery = begun()
    training = train(state, imagery)
    for playing in (False, False, True, True):
        before = everything(state)
        reading = next(training)
        after = everything(state)
        assert not any(np.array_equal(before[name], after[name]) for name in after if name.startswith("generator"))
        assert (state.discriminator is not None) == playing
        assert reading["training/pretrain_phase"] == (not playing)
        if "discriminator.body.0.conv.bias" in before:
            weights = [name for name, _ in state.discriminator.named_parameters(prefix="discriminator")]
            assert not any(np.array_equal(before[name], after[name]) for name in weights)
            assert same(before, after, "pretrained.")  # a control, not a player


def test_a_step_is_one_update_of_the_generator():
    state, _, _ = played(5)
    for optimizer, updates in ((state.optimizer_g, 10), (state.optimizer_d, 10 - 4)):
        assert {int(entry["step"]) for entry in optimizer.state.values()} == {updates}
    assert state.step == 10


def test_readings_come_every_validate_every_steps_with_the_guides_keys_and_without_what_does_not_exist(whole):
    state, _, readings = whole
    assert [reading["step"] for reading in readings] == [*range(2, 103, 2), 103]
    assert state.readings == readings
    of_the_game = {"discriminator/D(y)_prob", "discriminator/D(G(x))_prob", "discriminator/adversarial_loss"}
    of_the_game |= {"generator/adversarial_loss", "validation/DISC_adversarial_loss", "nash/p_y", "lr_discriminator"}
    always = {"training/adv_loss_weight", "lr_generator", "nash/psnr", "nash/psnr_bicubic", "nash/balanced"}
    always |= {metric for metric in METRICS if metric.startswith(("val_metrics/", "train_metrics/"))}
    for reading in readings:
        assert always <= reading.keys()
        assert all(isinstance(value, float) and math.isfinite(value) for value in reading.values())
        if reading["step"] <= 4:
            assert not of_the_game & reading.keys()
            assert reading["training/adv_loss_weight"] == 0
        else:
            assert of_the_game | set(METRICS) <= reading.keys()
            assert 0 < reading["discriminator/D(y)_prob"] < 1
        assert {f"nash/excess_{name}" in reading for name in CONDITIONS} == {reading["step"] >= 8}


def epochs(tmp_path, every, stop=None):
    """The readings up to step 32 of a training whose epochs are of 5 steps; saved and loaded at `stop`."""
    placed = {"Data.path": saved(tmp_path / "scene.npy", textured()), "Data.train_batch_size": 16}
    placed |= {"Training.validate_every": every, "Training.max_steps": 400}
    placed |= {"Schedulers.patience_g": 1000, "Schedulers.patience_d": 1000}
    state, imagery = begun(**placed, **{PRETRAIN: 8})
    assert imagery.epoch_steps == 5  # 66 crops
    readings = []
    while state.step < 32:
        for reading in train(state, imagery):
            readings.append(reading)
            if state.step in {stop, 32}:
                break
        if state.step == stop:
            state.save(tmp_path / "checkpoint.pt")
            state = State.load(tmp_path / "checkpoint.pt", state.configuration, state.device)
    return {int(reading["step"]): reading for reading in readings}


def test_an_epochs_means_are_over_all_its_steps_wherever_readings_fall(tmp_path):
    names = ("lr_generator_epoch", "lr_discriminator_epoch", "discriminator/adversarial_loss_epoch")
    each = epochs(tmp_path, 1)
    for end in range(5, 33, 5):
        within = [each[step] for step in range(end - 4, end + 1) if step > 8]
        losses = [reading["discriminator/adversarial_loss_step"] for reading in within]
        assert (names[2] in each[end]) is bool(losses)
        if losses:
            assert each[end][names[2]] == pytest.approx(np.mean(losses))
            assert each[end][names[1]] == pytest.approx(1e-3)
        assert each[end][names[0]] == pytest.approx(1e-3)
    assert all(reading["epoch"] == (step - 1) // 5 for step, reading in each.items())
    for every, stop in ((2, None), (8, None), (4, 8), (1, 12)):
        for step, reading in epochs(tmp_path, every, stop).items():
            ended = step // 5 * 5
            expected = (
                {name: each[ended][name] for name in names if name in each[ended]} if ended > step - every else {}
            )
            assert {name: reading[name] for name in names if name in reading} == pytest.approx(expected)


def test_rank_and_control_are_over_the_detailed_pairs_and_probabilities_over_all():
    state, imagery, readings = played(5)
    pairs, d = imagery.pairs, state.discriminator.eval()
    with torch.no_grad():
        real, fake, bicubic = d(pairs.hr), d(state.generator(pairs.lr)), d(pairs.bicubic)
        pretrained = d(state.pretrained(pairs.lr))
    assert readings[-1]["nash/p_y"] == pytest.approx(float(real.sigmoid().mean()), abs=1e-5)
    assert readings[-1]["nash/p_g"] == pytest.approx(float(fake.sigmoid().mean()), abs=1e-5)

    def ordered(others):
        return np.mean([float(a > b) for a in real[pairs.detailed] for b in others[pairs.detailed]])

    assert readings[-1]["nash/rank"] == pytest.approx(ordered(fake), abs=1e-3)
    assert readings[-1]["nash/control"] == pytest.approx(min(ordered(bicubic), ordered(pretrained)), abs=1e-3)


def test_auc_by_hand():
    real, fake = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.0, 2.0, 5.0])
    found, (low, high) = auc(real, fake)
    assert found == pytest.approx((1 + 1.5 + 2) / 9)
    assert low < found < high
    assert auc(real, real)[0] == 0.5
    assert auc(real + 9, fake) == (1.0, (1.0, 1.0))
    assert math.isnan(auc(real, torch.tensor([0.0, math.nan, 1.0]))[0])


@pytest.mark.parametrize("ema", [{}, EMA], ids=["plain", "ema"])
@pytest.mark.parametrize(
    ("pretrain", "ramp"),
    [(9, 9), (5, 4), (4, 4), (2, 0), (0, 4)],
    ids=["pretraining", "across the switch", "at the switch", "in the game", "no pretraining"],
)
def test_a_resumed_training_equals_an_uninterrupted_one_to_the_bit(tmp_path, ema, pretrain, ramp):
    values = EAGER | ema | {PRETRAIN: pretrain, RAMP: ramp, "Schedulers.g_warmup_steps": 5}
    once, imagery, _ = played(4, **values)
    interrupted, _, _ = played(2, **values)
    interrupted.save(tmp_path / "checkpoint.pt")
    resumed = State.load(tmp_path / "checkpoint.pt", interrupted.configuration, interrupted.device)
    assert same(everything(interrupted), everything(resumed))
    list(islice(train(resumed, imagery), 2))
    assert resumed.step == once.step == 8
    assert same(everything(once), everything(resumed))
    assert not same(everything(interrupted), everything(resumed), "generator")
    for one, other in zip(once.readings, resumed.readings, strict=True):
        assert {k: v for k, v in one.items() if k[:5] != "time/"} == {
            k: v for k, v in other.items() if k[:5] != "time/"
        }
    assert ("averaged.head.conv.weight" in everything(resumed)) == bool(ema)
    assert (once.plateau_d.cuts > 0) == (pretrain + ramp <= 8)


def test_a_failed_save_leaves_the_old_checkpoint_readable(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.pt"
    state, imagery, _ = played(3)
    state.save(path)
    assert list(tmp_path.iterdir()) == [path]
    before = everything(state)
    next(train(state, imagery))

    def full_disk(_, file):
        file.write_bytes(b"half a checkpoint")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="no space left"):
        state.save(path)
    loaded = State.load(path, state.configuration, state.device)
    assert loaded.step == 6
    assert same(before, everything(loaded))


@pytest.mark.parametrize(
    ("network", "readings", "step", "loss"),
    [("generator", 1, 3, "generator/content"), ("discriminator", 3, 7, "adversarial")],
)
def test_a_loss_that_is_not_finite_ends_the_training_at_once(network, readings, step, loss):
    state, imagery, _ = played(readings)
    with torch.no_grad():
        next(getattr(state, network).parameters()).fill_(math.nan)
    with pytest.raises(Diverged, match=f"{loss}_loss is not finite at step {step}") as caught:
        next(train(state, imagery))
    assert caught.value.step == step


def test_the_discriminators_first_weights_depend_on_the_seed_alone():
    def first(**values):
        state, _, _ = played(4, **values, **{"Optimizers.optim_d_lr": 1e-30})  # it plays and stays where it began
        return {k: v for k, v in everything(state).items() if k.endswith((".original", ".bias")) and "discr" in k}

    short, long = first(**{PRETRAIN: 2}), first(**{PRETRAIN: 6, "Training.EMA.enabled": True})
    assert same(short, long)
    assert not same(short, first(**{PRETRAIN: 2, "Training.seed": 1}), "discriminator.body.0.")


def test_the_average_by_hand():
    state, _ = begun(**{"Training.EMA.enabled": True, "Training.EMA.decay": 0.9, "Training.EMA.update_after_step": 2})
    mean, now = (next(network.parameters()).data for network in (state.averaged, state.generator))
    for step, decay in ((1, 0), (2, 0), (3, 2 / 11), (4, 3 / 12), (200, 0.9)):
        mean.fill_(1.0)
        now.fill_(3.0)
        state.average(torch.tensor(state.averaging(step)))
        assert torch.allclose(mean, torch.tensor(3.0 - 2 * decay))


def test_with_ema_both_generators_are_measured(whole):
    *_, readings = played(4, **EMA)
    assert {"nash/raw/p_g", "nash/raw/rank"} <= readings[-1].keys()
    assert readings[-1]["nash/raw/psnr"] != readings[-1]["nash/psnr"]
    assert not any(key.startswith("nash/raw/") for key in whole[2][-1])


def test_a_discriminator_that_hardly_learns_is_refused_by_control(whole):
    *_, readings = played(10, **{"Optimizers.optim_d_lr": 1e-12})
    judged = [reading for reading in readings if reading["step"] >= 8]
    assert all(reading["nash/excess_control"] > 1 for reading in judged)
    assert all(reading["nash/excess_probability"] == reading["nash/excess_rank"] == 0 for reading in judged)
    assert not any(reading["nash/balanced"] for reading in judged)
    # it stays blind, a live one learns to see
    assert max(reading["nash/control"] for reading in judged) < 0.6
    assert max(reading.get("nash/control", 0) for reading in whole[2]) > 0.7


def test_an_adversarial_weight_of_0_is_refused_by_the_ramp():
    state, _, readings = played(6, **LAX, **{"Training.Losses.adv_loss_beta": 0.0})
    assert excesses(readings[-1], Ruler.of(state.configuration))["ramp"] == math.inf
    assert readings[-1]["nash/balanced"] == 0
    assert "nash/gap" not in readings[-1]


def test_an_idle_discriminator_before_the_ramps_end_is_refused_by_the_ramp():
    state, _, readings = played(3)
    ruler = Ruler.of(state.configuration)
    assert excesses(readings[-1], ruler)["ramp"] == math.inf
    assert readings[-1]["nash/balanced"] == 0
    over = excesses(readings[-1], replace(ruler, game_on=6))
    assert over["ramp"] == over["probability"] == over["rank"] == 0  # flat answers look like a balance


def test_a_ruined_generator_is_refused_by_psnr():
    state, imagery, readings = played(6)
    assert readings[-1]["nash/excess_psnr"] == 0
    with torch.no_grad():
        for weight in state.generator.parameters():
            weight.normal_(generator=torch.Generator().manual_seed(0))
    reading = next(train(state, imagery))
    assert reading["nash/excess_psnr"] > 1
    assert reading["nash/balanced"] == 0


def test_a_best_response_changes_nothing_and_repeats_itself():
    state, imagery, readings = played(6, **EMA)
    before = everything(state)
    found = best_response(state, imagery)
    assert same(before, everything(state))
    assert 0 <= found <= 1
    assert found != readings[-1]["nash/rank"]
    assert best_response(state, imagery) == found
    next(train(state, imagery))
    assert same(everything(played(7, **EMA)[0]), everything(state))  # the training goes on as if it had not been asked


def test_a_balance_that_is_kept_is_answered_at_the_end_of_the_training():
    state, _, readings = played(None, **LAX, **{"Optimizers.optim_d_lr": 5e-3})
    ended = outcome(state)
    assert (ended.end, ended.censored, ended.gap, ended.trained_steps) == ("balanced", False, 0.0, state.step)
    assert state.step == 100
    assert 8 <= ended.first <= ended.steps <= 66
    assert ended.share >= 0.8
    assert ended.exploitability == readings[-1]["nash/exploitability"]
    assert not any("nash/exploitability" in reading for reading in readings[:-1])


def test_a_training_without_balance_is_exhausted(whole):
    ended = outcome(whole[0])
    assert (ended.end, ended.censored, ended.trained_steps) == ("exhausted", True, 103)
    assert ended.gap > 0
    assert ended.exploitability is None


def test_a_training_that_explodes_without_a_nan_is_ruined():
    state, _, readings = played(None, **{"Optimizers.optim_g_lr": 1.0, "Schedulers.g_warmup_type": "none"})
    assert all(math.isfinite(reading["generator/content_loss"]) for reading in readings)
    assert readings[-1]["nash/psnr"] < -100
    ended = outcome(state)
    assert (ended.end, ended.end.has_cost, ended.censored) == ("ruined", False, True)
    assert "dB below bicubic" in ended.cause


def test_the_slope_of_pretraining_is_in_the_first_reading_of_the_game():
    _, _, readings = played(22, **{PRETRAIN: 40})
    switch = readings[20]
    assert [reading["step"] for reading in readings if "training/pretrain_slope" in reading] == [42]
    steps, losses = np.array([(r["step"], r["validation/content_loss"]) for r in readings if 30 <= r["step"] <= 40]).T
    steps -= steps.mean()
    slope = (steps * losses).sum() / (steps**2).sum()
    assert switch["training/pretrain_slope"] == pytest.approx(slope * 10 / losses.mean())
    assert switch["training/pretrain_settled"] == (abs(switch["training/pretrain_slope"]) <= 0.02)


@pytest.mark.parametrize("pretrain", [12, 13])
def test_a_short_pretraining_has_a_slope_too(pretrain):
    *_, readings = played(7, **{PRETRAIN: pretrain})
    assert {"training/pretrain_slope", "training/pretrain_settled"} <= readings[6].keys()


def test_scenes_that_are_not_resident_give_the_same_training():
    values = {"Training.max_steps": 100}
    resident, _, _ = played(4, **values)
    fed, imagery, _ = played(4, **values, **{"Data.resident": False})
    assert not imagery.resident
    assert same(everything(resident), everything(fed))


def test_gradients_are_clipped_to_the_configured_norm():
    state, _, _ = played(3, **{"Optimizers.gradient_clip_val": 1e-3})
    for network in (state.generator, state.discriminator):
        norm = torch.stack([part.grad.norm() for part in network.parameters()]).norm()
        assert norm <= 1.001e-3
    free, _, _ = played(3)
    assert torch.stack([part.grad.norm() for part in free.generator.parameters()]).norm() > 2e-3


def test_a_rehearsal_makes_both_kinds_of_steps():
    configuration = tiny()
    found = rehearse(configuration, load_imagery(configuration, torch.device("cpu")), torch.device("cpu"))
    assert 0 < found.pretraining_step_s < found.game_step_s
    assert found.validation_s > 0
    assert found.peak_bytes is None


def test_moments_of_another_memory_layout_are_laid_out_anew(tmp_path):
    state, imagery, _ = played(4)
    path = tmp_path / "checkpoint.pt"
    state.save(path)
    saved = torch.load(path, weights_only=True)
    moments = [m for m in saved["optimizer_d"]["state"].values() if m["exp_avg"].dim() == 4]
    assert moments
    for moment in moments:  # as a GPU keeps those of normalised weights
        for name in ("exp_avg", "exp_avg_sq"):
            moment[name] = moment[name].contiguous()
    torch.save(saved, path)
    resumed = State.load(path, state.configuration, state.device)
    for one in (state, resumed):
        next(train(one, imagery))
    assert same(everything(state), everything(resumed))


def test_a_recording_that_failed_midway_leaves_no_discriminator_frozen():
    state, imagery, _ = played(4)
    state.discriminator.eval().requires_grad_(False)
    before = everything(state)
    next(train(state, imagery))
    assert not same(before, everything(state), "discriminator.")


@pytest.mark.long
def test_a_balance_that_is_kept_is_probed_where_that_is_wanted_and_nothing_else_changes():
    dotted = {**LAX, **EMA, "Optimizers.optim_d_lr": 5e-3, "Training.max_steps": 103}
    _, _, readings = played(None, **dotted)
    state, imagery = begun(**dotted)
    probed = list(train(state, imagery, probed=True))
    timeless = [{k: v for k, v in r.items() if not k.startswith(("time/", "nash/probe/"))} for r in probed]
    assert timeless == [{k: v for k, v in r.items() if not k.startswith("time/")} for r in readings]
    assert [i for i, reading in enumerate(probed) if "nash/probe/fresh_300" in reading] == [len(probed) - 1]
    found = probed[-1]
    assert found["nash/probe/warm_100"] == found["nash/exploitability"] == outcome(state).exploitability
    assert sum(name.startswith("nash/probe/") for name in found) == 16


@pytest.mark.long
def test_probes_tell_bicubic_from_real_and_cannot_tell_real_from_real():
    state, imagery, _ = played(8, **{"Optimizers.optim_d_lr": 2e-3, "Discriminator.base_channels": 16})
    found = probes(state, imagery)
    assert found["nash/probe/fresh_300_bicubic"] > 0.9
    assert found["nash/probe/warm_300_bicubic"] > 0.9
    assert all(abs(found[f"nash/probe/{name}_real"] - 0.5) < 0.2 for name in ("warm_100", "warm_300", "fresh_300"))
