"""The replayed studies account for what they spend: made-up curves, whose right figures can be counted by hand."""

import importlib.util
import json
import math
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from tests.support.service import ROOT
from tune_srgan.store.curves import metadata_of, read_curves
from tune_srgan.study.settings import Study

pytest.importorskip("ray")
BENCHMARKS = ROOT / "benchmarks"
PRETRAIN, WARMUP = "Training.g_pretrain_steps", "Schedulers.g_warmup_steps"
WEIGHT = "Training.Losses.adv_loss_beta"


def benchmark(name):
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    found = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


recorded, curves = benchmark("recorded"), benchmark("record_curves")
efficiency = benchmark("search_efficiency")
STUDY = """
study: made-up
training:
  Training: {pretrain_g_only: true, adv_loss_ramp_steps: 20, label_smoothing: true}
  Schedulers: {g_warmup_type: cosine}
  Optimizers: {optim_d_lr: 1.0e-4}
space:
  Training.g_pretrain_steps: {int: [20, 80], step: 20}
  Schedulers.g_warmup_steps: {int: [0, 20], step: 10}
  Training.Losses.adv_loss_beta: {float: [1.0e-3, 3.0e-1], log: true}
objective: {max_steps: 400, validate_every: 4, nash: {validation_pairs: 64}}
"""


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Two hypercubes of 12, on two seeds: those of a weight above 0.01 are balanced 40 steps after the ramp."""
    file = tmp_path_factory.mktemp("curves") / "curves.parquet"
    study = Study.model_validate(yaml.safe_load(STUDY))
    configurations = curves.configurations(study, 12) | curves.configurations(study, 12, cube=1)
    rows = {name: [] for name in ("number", "seed", "step", *curves.COLUMNS)}
    trainings = []
    for number, values in configurations.items():
        for seed in (0, 1):
            trainings.append(
                {"pretraining_step_s": 1.0, "game_step_s": 2.0, "number": number, "seed": seed, "merits": {}}
            )
            for step in range(4, 401, 4):
                balanced = values[WEIGHT] > 0.01 and step >= values[PRETRAIN] + 60 + 4 * seed
                figures = {"p_y": 0.45, "p_g": 0.45, "rank": 0.5 if balanced else 0.9, "control": 1.0}
                figures |= {"rate_d": 0.25, "rate_g": 1.0}
                figures |= {"psnr": 30.0, "psnr_bicubic": 30.0}
                if step <= values[PRETRAIN]:
                    figures = {"psnr": 30.0, "psnr_bicubic": 30.0}
                for name in rows:
                    rows[name].append({"number": number, "seed": seed, "step": step}.get(name, figures.get(name)))
    made = {"study": STUDY, "points": 12, "configurations": configurations, "trainings": trainings}
    made |= {"machine": {"device": "none"}}
    pq.write_table(pa.table(rows).replace_schema_metadata({"curves": json.dumps(made)}), file)
    return file


def test_a_hypercube_has_every_length_alike_and_no_other_value_twice():
    study = Study.model_validate(yaml.safe_load(STUDY))
    found = list(curves.configurations(study, 24).values())
    assert [sum(values[PRETRAIN] == steps for values in found) for steps in (20, 40, 60, 80)] == [6] * 4
    assert len({values[WEIGHT] for values in found}) == 24
    assert [sum(values[WARMUP] == steps for values in found) for steps in (0, 10, 20)] == [8] * 3
    assert found == list(curves.configurations(study, 24).values())
    another = curves.configurations(study, 24, cube=1)
    assert list(another) == list(range(24, 48))
    assert not {values[WEIGHT] for values in found} & {values[WEIGHT] for values in another.values()}


def test_what_shares_pretraining_is_one_workers_and_all_of_them_have_work():
    study = Study.model_validate(yaml.safe_load(STUDY))
    jobs = curves.shared_out(curves.configurations(study, 24), seeds=2, workers=12)
    assert len(jobs) == 12
    assert all(len({values[WARMUP] for _, values in wanted}) == 1 for _, wanted in jobs)
    trained = sorted((number, seed) for seed, wanted in jobs for number, _ in wanted)
    assert trained == [(number, seed) for number in range(24) for seed in (0, 1)]


def test_curves_are_judged_as_a_study_would(table):
    loaded = recorded.load(table, "all")
    assert loaded.step_s == (1.0, 2.0)
    best = [number for number, values in loaded.configurations.items() if values[WEIGHT] > 0.01]
    for number in best:
        first = loaded.configurations[number][PRETRAIN] + 60
        assert [loaded.curves[number, seed].steps_to_nash for seed in (0, 1)] == [first, first + 4]
        assert loaded.median(number) == first + 2
        curve = loaded.curves[number, 0]
        assert curve.cost(len(curve.steps)) == first
        assert 400 <= curve.cost(len(curve.steps) - 1) <= 600  # a reading before, it is not known
        assert curve.verdicts[0].earliest == loaded.configurations[number][PRETRAIN] + 20
        assert curve.verdicts[first // 4].earliest == first
    soonest = min(loaded.configurations[number][PRETRAIN] for number in best)
    assert loaded.good == {number for number in best if loaded.configurations[number][PRETRAIN] == soonest}
    others = set(loaded.configurations) - set(best)
    assert others
    assert all(math.isinf(loaded.median(number)) for number in others)


def test_the_parts_are_the_two_hypercubes(table):
    chosen, reported = (list(recorded.load(table, part).configurations) for part in ("choose", "report"))
    assert (chosen, reported) == (list(range(12)), list(range(12, 24)))
    assert list(recorded.load(table, "all").configurations) == list(range(24))


def test_a_table_grows_by_what_a_folder_holds_and_it_lacks(tmp_path):
    out, file, study = tmp_path / "table.parquet", tmp_path / "study.yaml", Study.model_validate(yaml.safe_load(STUDY))
    file.write_text(STUDY)
    drawn = curves.configurations(study, 12) | curves.configurations(study, 12, cube=1)
    for machine, psnr, numbers in (("one", 30.0, (0, 3)), ("another", 31.0, (3, 12)), ("another", 32.0, (3, 12))):
        folder = tmp_path / f"{machine} {psnr}"
        folder.mkdir()
        (folder / "machine.json").write_text(json.dumps({"device": machine}))
        for number in numbers:
            readings = [{"step": step, "psnr": psnr, "psnr_bicubic": psnr} for step in range(4, 401, 4)]
            training = {"number": number, "seed": 0, "values": drawn[number], "readings": readings}
            (folder / f"{number:04d}-0.json").write_text(json.dumps(training))
        curves.write_table(file, folder, 12, out)
    found = {one.number: one for one in read_curves(out)}
    assert {number: one.readings[0]["nash/psnr"] for number, one in found.items()} == {0: 30, 3: 30, 12: 31}
    assert all(one.values == drawn[number] for number, one in found.items())
    assert all([int(reading["step"]) for reading in one.readings] == list(range(4, 401, 4)) for one in found.values())
    assert metadata_of(out)["machine"] == {"device": "one, another"}


SEARCHES = [name for name, arm in efficiency.ARMS.items() if isinstance(arm, efficiency.Arm)]


@pytest.mark.parametrize("name", SEARCHES)
def test_every_arm_finds_what_is_there_and_pays_for_it(table, name):
    loaded = recorded.load(table, "all")
    spent = efficiency.replay(efficiency.ARMS[name], loaded, 0)
    assert spent.held
    assert 400 - 80 <= spent.steps <= 24 * 400
    assert spent.steps <= spent.seconds <= 2 * spent.steps
    assert spent == efficiency.replay(efficiency.ARMS[name], loaded, 0)


def test_what_is_switched_on_saves_and_never_costs(table):
    """Random proposals do not depend on outcomes: the same configurations, fewer steps."""
    loaded, sums = recorded.load(table, "all"), {}
    for name, arm in {
        "plain": efficiency.Arm(efficiency.RANDOM),
        "capping": efficiency.Arm(efficiency.RANDOM, capping=1.0),
        "both": efficiency.Arm(efficiency.RANDOM, capping=1.0, sharing=True),
    }.items():
        sums[name] = sum(efficiency.replay(arm, loaded, repetition).steps for repetition in range(20))
    assert sums["plain"] > sums["capping"] > sums["both"]


def test_rivals_pay_for_whole_trainings_and_for_what_they_go_on_with_once(table):
    loaded = recorded.load(table, "all")
    assert efficiency.oracle(loaded, 0).steps == 400
    assert efficiency.the_guide(loaded, 0).steps == 400
    found = efficiency.i_epoch(loaded, 0)
    rounds = math.ceil(found.trials / efficiency.WORKERS)
    assert found.steps == found.trials * 200 + rounds * 200
    bill = efficiency.Bill(loaded)
    for upto in (200, 200, 400, 100):
        bill.train(0, 0, upto)
    pretraining = loaded.configurations[0][PRETRAIN]
    assert (bill.spent.steps, bill.spent.trials) == (400, 1)
    assert bill.spent.seconds == pretraining + 2 * (400 - pretraining)


def test_the_bound_of_an_oracle_holds(table):
    loaded = recorded.load(table, "all")
    for name in SEARCHES:
        assert efficiency.replay(efficiency.ARMS[name], loaded, 1).steps >= 400 - 80


def test_a_study_that_never_holds_a_good_one_has_tried_everything(table, monkeypatch):
    loaded = recorded.load(table, "all")
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
