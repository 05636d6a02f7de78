"""The replayed studies account for what they spend: made-up curves, whose right figures can be counted by hand."""

import importlib.util
import json
import math
import sys
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.service import ROOT

pytest.importorskip("ray")
BENCHMARKS = ROOT / "benchmarks"
PRETRAIN, WARMUP = "Training.g_pretrain_steps", "Schedulers.g_warmup_steps"
WEIGHT = "Training.Losses.adv_loss_beta"


def benchmark(name):
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    found = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


efficiency, curves = benchmark("search_efficiency"), benchmark("record_curves")
STUDY = """
study: made-up
training:
  Training: {adv_loss_ramp_steps: 20, label_smoothing: true}
  Optimizers: {optim_d_lr: 1.0e-4}
space:
  Training.g_pretrain_steps: {int: [20, 80], step: 20}
  Schedulers.g_warmup_steps: {int: [0, 20], step: 10}
  Training.Losses.adv_loss_beta: {float: [1.0e-3, 3.0e-1], log: true}
objective: {max_steps: 400, validate_every: 4, nash: {validation_pairs: 64}}
"""


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """24 configurations on two seeds: those of a weight above 0.01 are balanced from 40 steps after the ramp on."""
    file = tmp_path_factory.mktemp("curves") / "curves.parquet"
    study = efficiency.Study.model_validate(efficiency.yaml.safe_load(STUDY))
    configurations = curves.configurations(study, 6)
    rows = {name: [] for name in ("number", "seed", "step", *curves.COLUMNS)}
    trainings = []
    for number, values in enumerate(configurations):
        for seed in (0, 1):
            trainings.append({"pretraining_step_s": 1.0, "game_step_s": 2.0, "number": number, "seed": seed})
            for step in range(4, 401, 4):
                balanced = values[WEIGHT] > 0.01 and step >= values[PRETRAIN] + 60 + 4 * seed
                figures = {"p_y": 0.45, "p_g": 0.45, "rank": 0.5 if balanced else 0.9, "control": 1.0, "rate_d": 0.25}
                figures |= {"psnr": 30.0, "psnr_bicubic": 30.0}
                if step <= values[PRETRAIN]:
                    figures = {"psnr": 30.0, "psnr_bicubic": 30.0}
                for name in rows:
                    rows[name].append({"number": number, "seed": seed, "step": step}.get(name, figures.get(name)))
    made = {"study": STUDY, "configurations": dict(enumerate(configurations)), "trainings": trainings}
    made |= {"machine": {"device": "none"}}
    pq.write_table(pa.table(rows).replace_schema_metadata({"curves": json.dumps(made)}), file)
    return file


def test_a_point_of_the_hypercube_has_every_length_and_no_other_key_twice():
    study = efficiency.Study.model_validate(efficiency.yaml.safe_load(STUDY))
    found = curves.configurations(study, 6)
    assert len(found) == 24
    assert {values[PRETRAIN] for values in found} == {20, 40, 60, 80}
    assert len({values[WEIGHT] for values in found}) == 6
    assert sorted(values[WARMUP] for values in found[::4]) == [0, 0, 10, 10, 20, 20]
    assert found == curves.configurations(study, 6)


def test_curves_are_judged_as_a_study_would(table):
    loaded = efficiency.load(table, "all")
    assert loaded.step_s == (1.0, 2.0)
    best = [number for number, values in loaded.configurations.items() if values[WEIGHT] > 0.01]
    for number in best:
        first = loaded.configurations[number][PRETRAIN] + 60
        assert [loaded.curves[number, seed].steps_to_nash for seed in (0, 1)] == [first, first + 4]
        assert loaded.median(number) == first + 2
        curve = loaded.curves[number, 0]
        assert curve.certified_at == first + 36
        assert curve.cost(len(curve.steps), 400) == first
        assert 400 < curve.cost((first + 32) // 4, 400) <= 800  # a reading before, it is not known
        assert curve.earliest[0] == loaded.configurations[number][PRETRAIN] + 20
        assert curve.earliest[first // 4] == first
    assert loaded.good == {number for number in best if loaded.configurations[number][PRETRAIN] == 20}
    others = set(loaded.configurations) - set(best)
    assert all(math.isinf(loaded.median(number)) for number in others)


def test_the_parts_are_disjoint_bands_and_all_there_is(table):
    parts = [efficiency.load(table, part) for part in ("choose", "report")]
    weights = [{values[WEIGHT] for values in part.configurations.values()} for part in parts]
    assert not weights[0] & weights[1]
    assert len(parts[0].configurations) + len(parts[1].configurations) == 24


@pytest.mark.parametrize("name", efficiency.ARMS)
def test_every_arm_finds_what_is_there_and_pays_for_it(table, name):
    loaded = efficiency.load(table, "all")
    spent = efficiency.replay(efficiency.ARMS[name], loaded, 0)
    assert spent.held
    assert 20 + 60 + 36 <= spent.steps <= 24 * 400
    assert spent.steps <= spent.seconds <= 2 * spent.steps
    assert spent == efficiency.replay(efficiency.ARMS[name], loaded, 0)


def test_what_is_switched_on_saves_and_never_costs(table):
    """Random proposals do not depend on outcomes: the same configurations, fewer steps."""
    loaded = efficiency.load(table, "all")
    plain = efficiency.Arm(efficiency.RANDOM)
    sums = {}
    for name, arm in {
        "plain": plain,
        "stop": efficiency.Arm(efficiency.RANDOM, stops_at_balance=True),
        "capping": efficiency.Arm(efficiency.RANDOM, stops_at_balance=True, capping=1.0),
        "both": efficiency.Arm(efficiency.RANDOM, stops_at_balance=True, capping=1.0, sharing=True),
    }.items():
        sums[name] = sum(efficiency.replay(arm, loaded, repetition).steps for repetition in range(20))
    assert sums["plain"] > sums["stop"] > sums["capping"] > sums["both"]


@pytest.mark.long
def test_a_bad_bet_costs_less_where_trials_make_way(table):
    """In the harder world the soonest never balance: each would be trained to its last step."""
    harder = efficiency.load(table, "all", never_until=40)
    assert harder.good == {number for number in harder.good if harder.configurations[number][PRETRAIN] == 60}
    alone = replace(efficiency.OURS, margin=math.inf)
    found = {name: [efficiency.replay(arm, harder, r) for r in range(10)] for name, arm in (
        ("makes way", efficiency.OURS), ("nobody does", alone)
    )}  # fmt: skip
    assert all(spent.held for arm in found.values() for spent in arm)
    assert all(spent.pauses == 0 for spent in found["nobody does"])
    assert all(spent.pauses > 0 for spent in found["makes way"])
    steps = {name: sum(spent.steps for spent in arm) for name, arm in found.items()}
    assert steps["makes way"] < 0.7 * steps["nobody does"]


def test_a_study_that_never_holds_a_good_one_has_tried_everything(table, monkeypatch):
    loaded = efficiency.load(table, "all")
    hopeless = next(number for number, values in loaded.configurations.items() if values[WEIGHT] <= 0.01)
    monkeypatch.setattr(efficiency.Table, "good", {hopeless})
    spent = efficiency.replay(efficiency.ARMS["random"], loaded, 0)
    assert (spent.held, spent.trials, spent.steps) == (False, 24, 24 * 400)
    found = efficiency.summary([spent] * 4, loaded)
    assert found["never"] == 1
    assert math.isinf(found["steps"]["median"])


def test_intervals_hold_the_median_and_widen_with_seeds_that_disagree():
    values = [10.0, 11.0, 12.0] * 4
    low, high = efficiency.interval(values, [0, 1, 2] * 4)
    assert low <= 11 <= high
    assert efficiency.interval([10.0] * 9, [0, 1, 2] * 3) == (10, 10)
