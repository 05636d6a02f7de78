"""The balance meter refuses each fake balance of its definition, for its own reason."""

import math
from dataclasses import replace
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.balance import BALANCED, EVERY, GAME_ON, OFF, RAW, RULER, marks, ruler, run
from tests.support.tiny import tiny
from trainables.balance import (
    CONDITIONS,
    Ruler,
    Verdict,
    earliest_balance,
    excesses,
    is_gone,
    judge,
    nash_cost,
    pace_of,
    reading_gap,
    ruin_of,
    stood_still,
)
from trainables.outcome import End, outcome_of


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
def test_it_is_balanced_first_with_9_of_10_and_the_first_balanced(text, nth):
    verdict = judge(marks(text), RULER)
    assert verdict.first == (None if nth is None else GAME_ON + EVERY * (nth - 1))
    assert (verdict.gap == 0) == (nth is not None)
    assert not verdict.over
    assert verdict.steps_to_nash is None


def lines(*parts):
    """A training's readings of the game: `(mark, how many)`; the last part fills it."""
    text = "".join(mark * many for mark, many in parts[:-1])
    return text + parts[-1][0] * (WHOLE - len(text))


WHOLE = 47  # readings of the game, by step 100


@pytest.mark.parametrize(("text", "nth", "share"), [
    (lines(("#", 0)), 1, 1.0),
    (lines((".", 29), ("#", 0)), 30, 1.0),  # step 66: two thirds
    (lines((".", 30), ("#", 0)), None, None),  # later than two thirds
    (lines(("#", 10), (".", 9), ("#", 0)), 1, 38 / 47),
    (lines(("#", 10), (".", 10), ("#", 0)), 21, 1.0),  # 37 of 47 is not enough
    (lines(("#", 30), (".", 8), ("#", 0)), 1, 39 / 47),
    (lines(("#", 44), (".", 0)), None, 44 / 47),  # the last ten: seven
    (lines(("#", 45), (".", 0)), 1, 45 / 47),
    (lines((".", 0)), None, None),
], ids=str)  # fmt: skip
def test_the_balance_is_kept_by_four_fifths_to_the_end_and_for_a_third_of_it(text, nth, share):
    verdict = judge(marks(text), RULER)
    assert verdict.over
    assert verdict.kept == (nth is not None)
    assert verdict.steps_to_nash == (None if nth is None else GAME_ON + EVERY * (nth - 1))
    if share is not None:
        assert verdict.share == pytest.approx(share)


@pytest.mark.parametrize(("text", "nth"), [
    ("", 1), (".", 2), ("..", 3), ("#", 1), (".#", 2), ("##.", 1), ("#..", 4), ("#.#.", 3),
    ("##########", 1), ("#.#######.", 3),  # the window that began first has failed, at its end
    ("##########" + "." * 9, 1), ("##########" + "." * 10, 21),
    ("." * 29, 30), ("." * 30, None),
])  # fmt: skip
def test_the_earliest_step_from_which_it_may_still_be_kept(text, nth):
    verdict = judge(marks(text), RULER) if text else judge([], RULER)
    assert verdict.earliest == (math.inf if nth is None else GAME_ON + EVERY * (nth - 1))


def test_before_the_game_its_first_reading_is_the_earliest():
    before = [BALANCED | {"step": step} for step in (2, 4)]
    assert judge(before, RULER).earliest == earliest_balance(RULER) == GAME_ON
    assert judge(before, Ruler.of(tiny(**{"Training.g_pretrain_steps": 5}))).earliest == 10  # 9 has no reading


@given(every=st.integers(1, 7), length=st.integers(1, 400), game_on=st.integers(0, 400), window=st.integers(1, 12))
def test_the_earliest_balance_is_what_judging_no_reading_says(every, length, game_on, window):
    nash = RULER.nash.model_copy(update={"window": window, "required": window, "last": 1, "last_required": 1})
    ruler = replace(RULER, validate_every=every, max_steps=length, game_on=game_on, nash=nash)
    assert earliest_balance(ruler) == judge([], ruler).earliest


def test_without_an_adversarial_weight_there_is_none():
    idle = Ruler.of(tiny(**{"Training.Losses.adv_loss_beta": 0.0}))
    assert judge([], idle).earliest == math.inf
    assert earliest_balance(idle) == GAME_ON  # the length is not at fault


def test_the_pace_of_a_game_is_what_is_left_of_the_slower_networks_rate():
    both = run({"lr_discriminator": 1e-3 / 4, "lr_generator": 1e-3 / 2}, {})
    assert pace_of(both, RULER) == pytest.approx((1 / 4 + 1) / 2)
    frozen = run({"lr_discriminator": 1e-3, "lr_generator": 1e-3 / 2**10})
    assert pace_of(frozen, RULER) == pytest.approx(2**-10)
    assert pace_of([], RULER) is None


def test_a_balance_that_only_stood_still_says_so():
    readings = [r | {"lr_discriminator": 1e-5, "lr_generator": 1e-5} for r in marks("#" * 47)]
    asked = replace(RULER, nash=RULER.nash.model_copy(update={"pace": 0.1}))
    assert judge(readings, RULER).kept
    assert stood_still(judge(readings, RULER), readings, RULER) == ""
    said = "the rates are cut to 1% of theirs, too far for a game of a pace of 10%"
    for seen in (readings, readings[:-5]):
        assert stood_still(judge(seen, asked), seen, asked) == said


def test_both_rates_cut_together_are_a_game_still():
    cut = {"lr_discriminator": 1e-3 / 16}
    assert reading_gap(run(cut)[0], RULER) == pytest.approx(2)
    assert reading_gap(run(cut | {"lr_generator": 1e-3 / 16})[0], RULER) == 0
    assert reading_gap(run(cut | {"lr_generator": 1e-3 / 4})[0], RULER) == 0
    assert reading_gap(run(cut | {"lr_generator": 1e-3 / 2})[0], RULER) == pytest.approx(1)


@pytest.mark.parametrize(("changes", "said"), [
    ({}, None), ({"nash/psnr": 26.0}, None),
    ({"nash/psnr": 20.0}, "10.0 dB below bicubic; a smaller adversarial weight"),
    ({"nash/psnr": 20.0, "lr_discriminator": 1e-3 / 8},
     "10.0 dB below bicubic with D at 0.12 of its rate and G at 1; a longer patience of D"),
])  # fmt: skip
def test_an_image_that_is_ruined_says_by_what(changes, said):
    ruin = ruin_of(run(changes)[0], RULER)
    assert (ruin is None) == (said is None)
    assert said is None or said in ruin.cause


@pytest.mark.parametrize(("psnr", "bicubic", "gone"), [
    (-101.0, 30.0, True), (-21.0, 30.0, True), (-math.inf, 30.0, True), (math.nan, 30.0, True),
    (-8.8, 30.0, False),  # the worst image that a training was measured to go on from
    (8.0, 60.0, False), (8.0, math.inf, False),  # an untrained network's, of imagery that bicubic gets right
    (-50.0, -40.0, False),  # values that go beyond the range: 0 to 10000 as they are
])  # fmt: skip
def test_no_image_is_left_where_it_is_off_by_ten_times_the_range_and_a_hundred_times_what_bicubic_is(
    psnr, bicubic, gone
):
    assert is_gone({"step": 2, "nash/psnr": psnr, "nash/psnr_bicubic": bicubic}) == gone


@pytest.mark.parametrize("ended", [None, *(end for end in End if end.has_cost)])
def test_whatever_ends_a_training_without_an_image_it_is_ruined_and_what_recovers_is_not(ended):
    gone, configuration = {"nash/psnr": -101.0}, tiny()
    assert outcome_of(run(*[{}] * 46, gone), configuration, 100, ended).end is End.RUINED
    assert outcome_of(run(gone, *[{}] * 46), configuration, 100, ended).end is (ended or End.BALANCED)
    assert outcome_of(run(gone), configuration, 100, End.DIVERGED).end is End.DIVERGED


def test_a_ruin_of_pretraining_has_a_cause_too():
    (reading,) = run({"nash/psnr": -101.0, "step": 2})
    found = outcome_of([reading], tiny(), 2)
    assert (found.end, found.cause) == (End.RUINED, "no image is left; a smaller rate of G is gentler")


def test_the_gap_of_a_window_is_the_larger_of_its_first_and_its_ninth_best():
    def gap(*controls):
        return judge(run(*({"nash/control": control} for control in controls)), RULER).gap

    assert gap(0.8, *[0.9] * 9) == pytest.approx(1)
    assert gap(0.9, 0.7, 0.8, *[0.9] * 7) == pytest.approx(1)
    assert gap(0.9, 0.7, 0.6, *[0.9] * 7) == pytest.approx(2)
    assert gap(0.5, *[0.8] * 10) == pytest.approx(1)  # the second window
    assert gap(*[0.9] * 9) == math.inf


def test_the_same_readings_judged_with_other_numbers():
    readings = run(*[{"nash/rank": 0.7, "nash/control": 0.85, "nash/p_g": 0.53}] * WHOLE)
    assert not judge(readings, RULER).kept
    assert judge(readings, ruler(control_auc=0.8)).kept
    assert not judge(readings, ruler(control_auc=0.8, rank_tolerance=0.1)).kept
    assert not judge(readings, ruler(control_auc=0.8, probability_tolerance=0.05)).kept
    assert judge(marks("#.##"), ruler(window=4, required=3)).first == GAME_ON
    fading = marks(lines(("#", 10), (".", 10), ("#", 0)))
    assert judge(fading, ruler(kept=0.7)).steps_to_nash == GAME_ON
    assert judge(fading, ruler(latest=0.4)).steps_to_nash is None


@pytest.mark.parametrize(("found", "kept"), [(0.7, True), (0.8, True), (0.9, False), (None, False), (math.nan, False)])
def test_a_study_may_refuse_a_balance_that_a_best_response_breaks(found, kept):
    readings = marks(lines(("#", 0)))
    if found is not None:
        readings[-1]["nash/exploitability"] = found
    assert judge(readings, RULER).kept
    verdict = judge(readings, ruler(exploitability=0.8))
    assert (verdict.kept, verdict.first) == (kept, GAME_ON)


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
        and reading["lr_discriminator"] >= nash.d_lr_floor * measured.d_rate * reading["lr_generator"] / measured.g_rate
        and reading["nash/psnr_bicubic"] - reading["nash/psnr"] <= nash.psnr_slack_db
    )


def first_and_kept(readings, measured):
    """Where the first window begins, and from where the balance is kept; of a whole training."""
    nash, fine = measured.nash, [is_balanced(reading, measured) for reading in readings]
    first = kept = None
    for start in range(len(fine) - nash.window + 1):
        if not fine[start] or sum(fine[start : start + nash.window]) < nash.required:
            continue
        step = readings[start]["step"]
        first = step if first is None else first
        holds = sum(fine[start:]) >= nash.kept * len(fine[start:]) - 1e-9
        if kept is None and holds and sum(fine[-nash.last :]) >= nash.last_required:
            kept = step if step <= nash.latest * measured.max_steps else None
    return first, kept


def share(*edges):
    return st.floats(0, 1) | st.sampled_from(edges)


ANY = st.fixed_dictionaries({
    "nash/p_y": share(0.35, 0.45, 0.55), "nash/p_g": share(0.35, 0.45, 0.55), "nash/rank": share(0.25, 0.75),
    "nash/control": share(0.9), "nash/psnr": st.floats(20, 40) | st.just(28.0),
    "lr_discriminator": st.sampled_from([1e-3, 2.5e-4, 2.4e-4, 0.0]), "lr_generator": st.sampled_from([1e-3, 5e-4]),
})  # fmt: skip
GAMES = st.lists(st.sampled_from([{}] * 9 + [OFF]), min_size=50, max_size=50) | st.lists(
    st.sampled_from([{}] * 4 + [OFF]) | ANY, min_size=50, max_size=50
)
WINDOWS = st.sampled_from([(10, 9), (10, 10), (4, 3), (2, 2)])
KEPT = st.sampled_from([(0.8, 2 / 3, 10, 8), (0.5, 1.0, 3, 2), (1.0, 0.5, 1, 1), (0.2, 0.9, 10, 0)])


def measured_by(window, kept, game_on=0, weight=0.01):
    values = {"Nash.window": window[0], "Nash.required": window[1], "Training.adv_loss_ramp_steps": game_on}
    values |= dict(zip(("Nash.kept", "Nash.latest", "Nash.last", "Nash.last_required"), kept, strict=True))
    values |= {"Training.g_pretrain_steps": 0, "Training.Losses.adv_loss_beta": weight}
    return Ruler.of(tiny(**values))


def training(changes):
    """All readings of a training, from the first step to the last."""
    return [BALANCED | {"step": step} | change for step, change in zip(count(2, EVERY), changes, strict=False)]


@settings(max_examples=300)
@given(GAMES, WINDOWS, KEPT, st.sampled_from([0, 8, 20]), st.sampled_from([0.01] * 4 + [0.0]))
def test_the_meter_says_what_the_definition_says(changes, window, kept, game_on, weight):
    measured, readings = measured_by(window, kept, game_on, weight), training(changes)
    verdict = judge(readings, measured)
    assert (verdict.first, verdict.steps_to_nash) == first_and_kept(readings, measured)
    assert verdict.over
    assert (verdict.gap == 0) == (verdict.first is not None)
    assert all((reading_gap(reading, measured) == 0) == is_balanced(reading, measured) for reading in readings)


@settings(max_examples=300)
@given(GAMES, WINDOWS, KEPT, st.integers(0, 50))
def test_what_may_still_be_is_what_balanced_readings_from_now_on_would_make_of_it(changes, window, kept, seen):
    """The bound is exact: it is reached by that future, and by none sooner, so it never moves back."""
    measured, readings = measured_by(window, kept, 8), training(changes)
    now = judge(readings[:seen], measured)
    best = judge(readings[:seen] + training([{}] * 50)[seen:], measured)
    assert now.earliest == (math.inf if best.steps_to_nash is None else best.steps_to_nash)
    assert now.earliest <= judge(readings[: seen + 1], measured).earliest <= judge(readings, measured).earliest
    assert now.over == (seen == 50)


def annealed(readings, cuts):
    """The same training, both rates halved at each of these readings."""
    left = [2.0 ** -sum(cut <= at for cut in cuts) for at in range(len(readings))]
    return [
        r | dict.fromkeys(("lr_discriminator", "lr_generator"), 0.001 * f) for r, f in zip(readings, left, strict=True)
    ]


@given(GAMES, st.lists(st.integers(0, 49), max_size=12), st.sampled_from([0.0, 0.1, 0.5, 1.0]), st.integers(0, 49))
def test_a_game_that_stands_still_is_refused_where_a_pace_is_asked_for(changes, cuts, pace, seen):
    """From no step on with a smaller mean rate; the bound takes the rates for what they are from now on."""
    nash = RULER.nash.model_copy(update={"pace": pace})
    asked, lax = replace(RULER, nash=nash), RULER
    readings = annealed(training(changes), cuts)
    now, whole = judge(readings[:seen], asked), judge(readings, asked)
    as_now = annealed(training([{}] * 50), [cut for cut in cuts if cut < seen])[seen:]
    best = judge(readings[:seen] + as_now, asked)
    assert now.earliest == (math.inf if best.steps_to_nash is None else best.steps_to_nash)
    assert now.earliest <= judge(readings[: seen + 1], asked).earliest <= whole.earliest
    assert judge(readings, lax).earliest <= whole.earliest
    if whole.kept:
        assert pace_of([r for r in readings if r["step"] >= whole.earliest], asked) >= pace - 1e-9


@settings(max_examples=300)
@given(GAMES, WINDOWS, KEPT, st.integers(0, 49))
def test_one_more_balanced_reading_never_makes_the_step_later(changes, window, kept, better):
    measured, readings = measured_by(window, kept), training(changes)
    improved = [*readings[:better], readings[better] | BALANCED, *readings[better + 1 :]]
    one, other = judge(readings, measured), judge(improved, measured)
    assert other.earliest <= one.earliest
    assert nash_cost(other, 100) <= nash_cost(one, 100) * (1 + 1e-12)


def test_the_cost_is_the_steps_or_what_is_missing():
    assert nash_cost(judge(marks(lines((".", 1), ("#", 0))), RULER), 100) == GAME_ON + EVERY
    late = lines(("#", 10), (".", 20), ("#", 10), (".", 0))
    assert nash_cost(judge(marks(late), RULER), 100) == pytest.approx(150 - 50 * 20 / 47)
    assert nash_cost(judge(run(*[{"nash/control": 0.8}] * 10), RULER), 100) == pytest.approx(175)
    assert nash_cost(judge([], RULER), 100) == 200
    assert nash_cost(judge([{"step": step} for step in range(2, 101, 2)], RULER), 100) == 200


@given(st.floats(0, math.inf), st.floats(0, math.inf), st.integers(1, 10**6))
def test_the_cost_is_finite_and_grows_with_the_gap(one, other, max_steps):
    def cost(share, gap):
        return nash_cost(Verdict(None, math.inf, True, share, gap), max_steps)

    near, far = (cost(None, gap) for gap in sorted([one, other]))
    assert 1.5 * max_steps <= near <= far * (1 + 1e-12) and far <= 2 * max_steps
    assert max_steps <= cost(1.0, 0.0) <= cost(0.3, 0.0) <= cost(0.0, 0.0) <= near
    assert nash_cost(Verdict(max_steps, max_steps, True, 1.0, 0.0), max_steps) <= near


@pytest.mark.parametrize("end", End)
def test_every_end_says_whether_it_is_censored_and_has_a_cost(end):
    assert isinstance(end.is_censored, bool)
    assert isinstance(end.has_cost, bool)
    assert end.has_cost or not end.is_censored  # a bound is a number
