"""Capping ends what cannot win, and nothing else."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.balance import BALANCED, EVERY, GAME_ON, OFF, RULER, marks, ruler, run
from tests.support.studies import VALUES, finish, loaded, open_study, small, start
from tests.support.tiny import tiny
from trainables.balance import Ruler, earliest_possible, judge, lost
from trainables.errors import InvalidInput
from tune_srgan.search.board import Answer, Board
from tune_srgan.search.capping import Incumbent, cost_in, incumbent_of, why_end
from tune_srgan.store.study_folder import StudyFolder
from tune_srgan.study.settings import Capping

EXACT = Capping(slack=1, lost_after=10**6)


@pytest.mark.parametrize(("readings", "expected"), [
    ([], GAME_ON), ("", GAME_ON), (".", GAME_ON + EVERY), ("..", GAME_ON + 2 * EVERY),
    ("#", GAME_ON), (".#", GAME_ON + EVERY), ("##.", GAME_ON), ("#..", GAME_ON + 3 * EVERY),
    ("#.#.", GAME_ON + 2 * EVERY),
    ("##########", GAME_ON), ("#.########", GAME_ON),
    ("#.#######.", GAME_ON + 2 * EVERY),  # the window that began first has failed, at its end
], ids=str)  # fmt: skip
def test_the_earliest_balance_still_possible(readings, expected):
    assert earliest_possible(marks(readings) if readings else [], RULER) == expected


def test_before_the_game_its_first_reading_is_the_earliest():
    before = [BALANCED | {"step": step} for step in (2, 4)]
    assert earliest_possible(before, RULER) == GAME_ON
    assert earliest_possible(before, Ruler.of(tiny(**{"Training.g_pretrain_steps": 5}))) == 10  # 9 has no reading


@pytest.mark.parametrize("max_steps", [100, 101, 103])
def test_a_window_that_cannot_be_filled_by_the_last_step_is_none(max_steps):
    """The last reading that may begin a window is the first of the training's last ten."""
    found = Ruler.of(tiny(**{"Training.max_steps": max_steps}))
    steps = [min(step, max_steps) for step in range(EVERY, max_steps + EVERY, EVERY)]
    latest = steps[-10]
    readings = [BALANCED | OFF | {"step": step} for step in steps if step < latest]
    assert earliest_possible(readings, found) == latest
    assert earliest_possible([*readings, BALANCED | OFF | {"step": latest}], found) == math.inf
    opened = [*readings, BALANCED | {"step": latest}]
    assert earliest_possible(opened, found) == latest
    closing = [BALANCED | {"step": step} for step in steps if step > latest]
    assert judge([*opened, *closing], found).steps_to_nash == latest


def test_without_an_adversarial_weight_there_is_none():
    assert earliest_possible([], Ruler.of(tiny(**{"Training.Losses.adv_loss_beta": 0.0}))) == math.inf


def test_a_game_is_lost_when_the_discriminator_orders_every_pair_for_long():
    ahead = {"nash/rank": 0.9995}
    assert lost(run({}, ahead, ahead, ahead), RULER, 3)
    assert not lost(run({}, ahead, {}, ahead), RULER, 3)
    assert not lost(run(ahead, ahead), RULER, 3)
    assert not lost(run({"nash/rank": 0.998}, ahead, ahead), RULER, 3)
    ramp = [BALANCED | ahead | {"step": step} for step in (4, 6, 8)]
    assert not lost(ramp, RULER, 3)  # the ramp's readings do not count


def test_why_a_trial_ends():
    assert why_end(marks("...."), RULER, 1, None, EXACT) is None
    assert why_end(marks("...."), RULER, 1, Incumbent(GAME_ON + 4 * EVERY, 0), EXACT)[0] == "capped"  # a tie, and later
    assert why_end(marks("...."), RULER, 0, Incumbent(GAME_ON + 4 * EVERY, 1), EXACT) is None  # a tie, and earlier
    assert why_end(marks("...#"), RULER, 1, Incumbent(GAME_ON + 4 * EVERY, 0), EXACT) is None  # an open window may win
    assert why_end(marks("...#"), RULER, 1, Incumbent(GAME_ON + 3 * EVERY, 0), EXACT)[0] == "capped"
    assert why_end(marks("...."), RULER, 1, Incumbent(GAME_ON + 3 * EVERY, 0), Capping(slack=1.25)) is None
    collapsed = run(*({"nash/rank": 1.0} for _ in range(20)))
    assert why_end(collapsed, RULER, 1, None, Capping())[0] == "collapsed"
    assert why_end(collapsed[:19], RULER, 1, None, Capping()) is None
    late = [reading | {"step": reading["step"] + 80} for reading in marks("..")]
    assert why_end(late, RULER, 1, None, EXACT)[0] == "exhausted"


def test_a_configuration_that_is_too_long_to_win_never_starts():
    found = Ruler.of(tiny(**{"Training.g_pretrain_steps": 40}))
    assert why_end([], found, 3, Incumbent(30, 0), EXACT)[0] == "capped"
    assert why_end([], found, 3, Incumbent(44, 0), EXACT)[0] == "capped"
    assert why_end([], found, 3, Incumbent(45, 0), EXACT) is None


CURVES = st.lists(
    st.tuples(st.integers(0, 6), st.lists(st.booleans(), min_size=47, max_size=47)), min_size=2, max_size=8
)


def studied(curves, order, ends):
    """Winner of a study whose trainings advance a reading at a time in a random order; `ends` says when one ends."""
    nash = ruler(window=4, required=3)
    rulers = [Ruler(**vars(nash) | {"game_on": GAME_ON + EVERY * later}) for later, _ in curves]
    readings = [
        [
            (BALANCED if good else BALANCED | OFF) | {"step": (index + 1) * EVERY}
            for index, good in enumerate([True] * (GAME_ON // EVERY - 1) + balanced)
        ]
        for _, balanced in curves
    ]
    at = [0] * len(curves)
    running = set(range(len(curves)))
    best = None
    while running:
        number = order.choice(sorted(running))
        so_far, found = readings[number][: at[number]], rulers[number]
        verdict = judge(so_far, found)
        if verdict.reached:
            board = Board()
            board.offer(best)
            board.offer(Incumbent(verdict.steps_to_nash, number))
            best = board.answer(-math.inf).incumbent
        if verdict.reached or at[number] == len(readings[number]) or ends(so_far, found, number, best):
            running.discard(number)
        at[number] += 1
    return best


@settings(max_examples=300)
@given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 4), st.integers(100, 140))
def test_the_first_certificate_and_the_earliest_balance_are_one_rule(pretraining, ramp, every, longest):
    """With all readings to come balanced, the balance is certified when the configuration says it can be at once."""
    lengths = {"Training.g_pretrain_steps": pretraining, "Training.adv_loss_ramp_steps": ramp}
    lengths |= {"Training.validate_every": every, "Training.max_steps": longest, "Nash.window": 4, "Nash.required": 3}
    try:
        ruled = Ruler.of(tiny(**lengths))
    except InvalidInput:
        return
    steps = [*range(every, longest + 1, every), *([longest] if longest % every else [])]
    played = dict(BALANCED)
    alone = {key: value for key, value in played.items() if not key.startswith("nash/p_")}
    readings = [(played if step > pretraining else alone) | {"step": step} for step in steps]
    verdict = judge(readings, ruled)
    assert verdict.steps_to_nash == earliest_possible([], ruled) == ruled.first_reading
    assert verdict.certified_at == ruled.first_certificate


@settings(max_examples=400)
@given(CURVES, st.integers(0, 10**6))
def test_capping_at_slack_1_never_changes_the_winner(curves, seed):
    """Random curves, ties and open windows included, in any order of readings."""
    alone = studied(curves, random.Random(seed), lambda *_: False)

    def ends(readings, found, number, best):
        return why_end(readings, found, number, best, EXACT) is not None

    assert studied(curves, random.Random(seed + 1), ends) == alone


def test_capping_at_the_bound_alone_would_change_the_winner():
    """The property above has teeth: without the open window, it fails."""

    def at_the_bound(readings, found, number, best):
        return best is not None and bool(readings) and readings[-1]["step"] >= best.cost

    late = [False] * 3 + [True] * 4 + [False] * 40
    later_still = [False] * 4 + [True] * 4 + [False] * 39

    class First(random.Random):
        def choice(self, options):
            return options[0]

    alone = studied([(0, later_still), (0, late)], First(), lambda *_: False)
    assert alone.number == 1
    assert studied([(0, later_still), (0, late)], First(), lambda *found: why_end(*found, EXACT) is not None) == alone
    assert studied([(0, later_still), (0, late)], First(), at_the_bound) != alone


def test_the_board_keeps_the_best_and_the_earlier_of_two_alike():
    board = Board()
    board.offer(None)
    for cost, number in ((300, 4), (400, 1), (300, 2), (300, 3)):
        board.offer(Incumbent(cost, number))
    assert board.answer(math.inf) == Answer(Incumbent(300, 2), pauses=False)  # nobody waits


def test_one_start_pauses_one_trial():
    board = Board(1.25)
    board.wait([200, 100])
    assert [board.answer(earliest).pauses for earliest in (-math.inf, 125, 126, 126, 250, 251, 1000)] == [
        False, False, True, False, False, True, False
    ]  # fmt: skip
    board.wait([300])
    assert board.answer(math.inf).pauses


def test_the_incumbent_is_the_studys_best_and_never_a_censored_trial(tmp_path):
    study = loaded(tmp_path)
    folder = StudyFolder(tmp_path / "runs" / study.study)
    open_study(folder, study)
    records = []
    for number, (end, since) in enumerate((("balanced", 100), ("capped", 0), ("balanced", 60), ("collapsed", 0))):
        start(folder, study, number, VALUES)
        records.append(finish(folder, study, number, end, since))
    assert incumbent_of(records) == Incumbent(60, 2)
    assert incumbent_of(records[1:2]) is None
    assert [record.censored for record in records] == [False, True, False, True]


def test_seconds_are_capped_at_what_a_trials_own_steps_cost(tmp_path):
    document = small()
    document["objective"]["metric"] = "seconds_to_nash"
    study = loaded(tmp_path, document)
    readings = [BALANCED | OFF | {"step": step, "time/train_s": 0.4 if step <= 20 else 0.8} for step in range(4, 61, 4)]
    cost_of = cost_in(study, readings, 20)
    assert cost_of(64) == pytest.approx(20 * 0.1 + 44 * 0.2)
    assert cost_in(loaded(tmp_path), readings, 20)(64) == 64


def test_the_first_steps_of_the_game_do_not_cap_by_the_seconds_they_take(tmp_path):
    document = small()
    document["objective"]["metric"] = "seconds_to_nash"
    study = loaded(tmp_path, document)
    readings = [BALANCED | OFF | {"step": step, "time/train_s": 0.4} for step in range(4, 21, 4)]
    readings.append(BALANCED | OFF | {"step": 24, "time/train_s": 30.0})  # kernels are built, the step is recorded
    assert cost_in(study, readings, 20)(64) == pytest.approx(64 * 0.1)


def test_a_game_is_not_lost_while_a_window_is_open():
    lenient = ruler(rank_tolerance=0.5)
    readings = run(*({"nash/rank": 1.0} for _ in range(5)))
    assert lost(readings, lenient, 3)
    assert why_end(readings, lenient, 1, None, Capping(lost_after=3)) is None
    assert judge(run(*({"nash/rank": 1.0} for _ in range(10))), lenient).reached
