"""The balance meter refuses each fake balance of its definition, for its own reason."""

import math
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.balance import BALANCED, EVERY, GAME_ON, OFF, RAW, RULER, marks, ruler, run
from tests.support.tiny import tiny
from trainables.balance import CONDITIONS, Ruler, Verdict, excesses, judge, nash_cost, reading_gap
from trainables.outcome import End


@pytest.mark.parametrize("raw", [{}, RAW], ids=["plain", "ema"])
def test_a_reading_that_meets_every_condition_is_balanced(raw):
    (reading,) = run(raw)
    assert excesses(reading, RULER) == dict.fromkeys(CONDITIONS, 0.0)
    assert reading_gap(reading, RULER) == 0


@pytest.mark.parametrize(("condition", "excess", "changes"), [
    ("probability", 1, {"nash/p_y": 0.65}), ("probability", 1, {"nash/p_y": 0.25}),
    ("probability", 2, {"nash/p_g": 0.75}), ("probability", 2, {"nash/p_g": 0.15}),
    ("rank", 1, {"nash/rank": 1.0}), ("rank", 1, {"nash/rank": 0.0}), ("control", 2, {"nash/control": 0.7}),
    ("d_rate", 2, {"lr_discriminator": 1e-3 / 16}), ("d_rate", math.inf, {"lr_discriminator": 0.0}),
    ("psnr", 1, {"nash/psnr": 26.0}),
    # with EMA on, the averaged and the raw generator must both pass
    *((name, 1, RAW | {f"nash/{whose}{key}": value}) for whose in ("", "raw/") for name, key, value in
      (("probability", "p_g", 0.65), ("rank", "rank", 1.0), ("psnr", "psnr", 26.0))),
])  # fmt: skip
def test_each_condition_is_refused_for_its_own_reason(condition, excess, changes):
    (reading,) = run(changes)
    assert excesses(reading, RULER) == pytest.approx(dict.fromkeys(CONDITIONS, 0.0) | {condition: excess})
    assert reading_gap(reading, RULER) == pytest.approx(excess)


def test_nothing_can_be_said_before_the_ramp_ends_or_of_a_generator_that_does_not_play():
    (reading,) = run({})
    nothing = dict.fromkeys(CONDITIONS, math.inf)
    assert excesses(reading | {"step": GAME_ON - 1}, RULER) == nothing
    assert excesses(reading, Ruler.of(tiny(**{"Training.Losses.adv_loss_beta": 0.0}))) == nothing
    assert excesses({"step": GAME_ON, "nash/psnr": 30.0, "nash/psnr_bicubic": 30.0}, RULER) == nothing


@pytest.mark.parametrize("key", [*BALANCED, *RAW])
def test_a_figure_that_is_not_a_number_is_never_balanced(key):
    assert reading_gap(run(RAW | {key: math.nan})[0], RULER) == math.inf


@pytest.mark.parametrize(("smoothing", "point"), [(True, 0.45), (False, 0.5), (0.8, 0.4)])
def test_label_smoothing_moves_the_balance_point(smoothing, point):
    measured = Ruler.of(tiny(**{"Training.label_smoothing": smoothing}))
    for p, balanced in ((point + 0.09, True), (point - 0.09, True), (point + 0.11, False), (point - 0.11, False)):
        assert (reading_gap(run({"nash/p_y": p, "nash/p_g": p})[0], measured) == 0) == balanced


@pytest.mark.parametrize(("text", "nth"), [
    ("##########", 1), ("#.########", 1), ("#########.", 1), ("##########..........", 1),
    (".##########", 2), ("....#####.####", 5), ("#.#.########", 3),
    ("#.#.#######", None),  # 8 of 10, and the second window begins unbalanced
    (".#########", None), ("###...###...###...", None),
    ("#########", None), ("", None),  # the window is not full
])  # fmt: skip
def test_nash_is_reached_with_9_of_10_and_the_first_balanced(text, nth):
    verdict = judge(marks(text), RULER)
    assert verdict.reached == (nth is not None)
    assert (verdict.gap == 0) == verdict.reached
    if nth is not None:
        first = GAME_ON + EVERY * (nth - 1)
        assert verdict == Verdict(first, first + 9 * EVERY, first, 0.0)


@pytest.mark.parametrize(
    ("text", "nth"),
    [("#", 1), ("..##", 3), ("#.", 1), ("#..", 3), ("#..#", 4), ("#..#.##", 4), ("#..#.##.", 6), ("...", 3)],
)
def test_open_since_is_the_earliest_start_that_may_still_be_certified(text, nth):
    assert judge(marks(text), RULER).open_since == GAME_ON + EVERY * (nth - 1)


def test_the_gap_of_a_window_is_the_larger_of_its_first_and_its_ninth_best():
    def gap(*controls):
        return judge(run(*({"nash/control": control} for control in controls)), RULER).gap

    assert gap(0.8, *[0.9] * 9) == pytest.approx(1)
    assert gap(0.9, 0.7, 0.8, *[0.9] * 7) == pytest.approx(1)
    assert gap(0.9, 0.7, 0.6, *[0.9] * 7) == pytest.approx(2)
    assert gap(0.5, *[0.8] * 10) == pytest.approx(1)  # the second window
    assert gap(*[0.9] * 9) == math.inf


def test_the_same_readings_judged_with_other_tolerances():
    readings = run(*[{"nash/rank": 0.7, "nash/control": 0.85, "nash/p_g": 0.53}] * 12)
    assert not judge(readings, RULER).reached
    assert judge(readings, ruler(control_auc=0.8)).reached
    assert not judge(readings, ruler(control_auc=0.8, rank_tolerance=0.1)).reached
    assert not judge(readings, ruler(control_auc=0.8, probability_tolerance=0.05)).reached
    assert judge(marks("#.##"), ruler(window=4, required=3)).steps_to_nash == GAME_ON


@pytest.mark.parametrize(
    ("found", "gap"), [(0.7, 0.0), (0.8, 0.0), (0.9, 0.125), (1.0, 0.25), (None, math.inf), (math.nan, math.inf)]
)
def test_a_study_may_refuse_a_balance_that_a_best_response_breaks(found, gap):
    readings = marks("##########")
    if found is not None:
        readings[-1]["nash/exploitability"] = found
    assert judge(readings, RULER).reached
    verdict = judge(readings, ruler(exploitability=0.8))
    assert verdict.reached == (gap == 0)
    assert verdict.gap == pytest.approx(gap)
    assert verdict.open_since == (GAME_ON if verdict.reached else GAME_ON + EVERY)  # a refused window is closed


def test_a_later_window_may_pass_the_best_response_that_an_earlier_one_did_not():
    readings = marks("###########")
    readings[9]["nash/exploitability"], readings[10]["nash/exploitability"] = 0.9, 0.7
    assert judge(readings, ruler(exploitability=0.8)).steps_to_nash == GAME_ON + EVERY


# NASH.md's definition, said again as plainly as possible.
def is_balanced(reading, measured):
    nash, c = measured.nash, measured.balance_point
    return (
        reading["step"] >= measured.game_on
        and measured.weight > 0
        and abs(reading["nash/p_y"] - c) <= nash.probability_tolerance
        and abs(reading["nash/p_g"] - c) <= nash.probability_tolerance
        and abs(reading["nash/rank"] - 0.5) <= nash.rank_tolerance
        and 1 - reading["nash/control"] <= 1 - nash.control_auc
        and reading["lr_discriminator"] >= nash.d_lr_floor * measured.d_rate
        and reading["nash/psnr_bicubic"] - reading["nash/psnr"] <= nash.psnr_slack_db
    )


def first_of_ten(readings, measured):
    fine = [is_balanced(reading, measured) for reading in readings]
    window, required = measured.nash.window, measured.nash.required
    for start in range(len(fine) - window + 1):
        if fine[start] and sum(fine[start : start + window]) >= required:
            return readings[start]["step"]
    return None


def share(*edges):
    return st.floats(0, 1) | st.sampled_from(edges)


ANY = st.fixed_dictionaries({
    "nash/p_y": share(0.35, 0.45, 0.55), "nash/p_g": share(0.35, 0.45, 0.55), "nash/rank": share(0.25, 0.75),
    "nash/control": share(0.9), "nash/psnr": st.floats(20, 40) | st.just(28.0),
    "lr_discriminator": st.sampled_from([1e-3, 2.5e-4, 2.4e-4, 0.0]),
})  # fmt: skip
READINGS = st.lists(st.sampled_from([{}] * 4 + [OFF]) | ANY, max_size=30) | st.lists(
    st.sampled_from([{}] * 9 + [OFF]), min_size=10, max_size=40
)


WINDOWS = st.sampled_from([(10, 9), (10, 10), (4, 3), (2, 2)])


@settings(max_examples=300)
@given(READINGS, WINDOWS, st.sampled_from([0, 8, 20]), st.sampled_from([0.01] * 4 + [0.0]))
def test_the_meter_says_what_the_definition_says(changes, window, game_on, weight):
    values = {"Nash.window": window[0], "Nash.required": window[1], "Training.adv_loss_ramp_steps": game_on}
    values |= {"Training.g_pretrain_steps": 0, "Training.Losses.adv_loss_beta": weight}
    measured = Ruler.of(tiny(**values))
    readings = [BALANCED | {"step": step} | change for step, change in zip(count(2, EVERY), changes, strict=False)]
    expected = first_of_ten(readings, measured)
    verdict = judge(readings, measured)
    assert verdict.steps_to_nash == expected
    assert (verdict.gap == 0) == verdict.reached == (expected is not None)
    assert all((reading_gap(reading, measured) == 0) == is_balanced(reading, measured) for reading in readings)
    # what is still open is what perfect readings from now on would certify
    last = readings[-1]["step"] if readings else 0
    ahead = [BALANCED | {"step": step} for step in range(last + EVERY, last + 60, EVERY)]
    certified = first_of_ten(readings + ahead, measured)
    assert verdict.open_since == (last if certified is None else min(certified, last))


def test_the_cost_is_the_steps_or_what_is_missing():
    assert nash_cost(judge(marks(".##########"), RULER), 100) == GAME_ON + EVERY
    assert nash_cost(judge(run(*[{"nash/control": 0.8}] * 10), RULER), 100) == pytest.approx(150)
    assert nash_cost(judge([], RULER), 100) == 200
    assert nash_cost(judge([{"step": step} for step in range(2, 101, 2)], RULER), 100) == 200


@given(st.floats(0, math.inf), st.floats(0, math.inf), st.integers(1, 10**6))
def test_the_cost_is_finite_and_grows_with_the_gap(one, other, max_steps):
    near, far = (nash_cost(Verdict(None, None, 0, gap), max_steps) for gap in sorted([one, other]))
    assert max_steps <= near <= far * (1 + 1e-12) and far <= 2 * max_steps
    assert nash_cost(Verdict(max_steps, max_steps, max_steps, 0.0), max_steps) <= near


@pytest.mark.parametrize("end", End)
def test_every_end_says_whether_it_is_censored_and_has_a_cost(end):
    assert isinstance(end.is_censored, bool)
    assert isinstance(end.has_cost, bool)
    assert end.has_cost or not end.is_censored  # a bound is a number
