"""Capping ends what cannot win, and nothing else."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.balance import BALANCED, EVERY, GAME_ON, OFF, RULER, marks, ruler
from tests.support.studies import loaded, small
from tests.support.tiny import tiny
from trainables.balance import Ruler, judge
from tune_srgan.search.board import Answer, Board
from tune_srgan.search.capping import Incumbent, cost_in, why_end
from tune_srgan.study.settings import Capping

EXACT = Capping(slack=1)


def why(text, *rest):
    """Why a game that went so ends."""
    return why_end(judge(marks(text), RULER), *rest)


def test_why_a_trial_ends():
    assert why("....", 1, None, EXACT) is None
    assert why("....", 1, Incumbent(GAME_ON + 4 * EVERY, 0), EXACT)[0] == "capped"  # a tie, and later
    assert why("....", 0, Incumbent(GAME_ON + 4 * EVERY, 1), EXACT) is None  # a tie, and earlier
    assert why("...#", 1, Incumbent(GAME_ON + 4 * EVERY, 0), EXACT) is None  # an open window may win
    assert why("...#", 1, Incumbent(GAME_ON + 3 * EVERY, 0), EXACT)[0] == "capped"
    assert why("....", 1, Incumbent(GAME_ON + 3 * EVERY, 0), Capping(slack=1.25)) is None
    assert why("." * 29, 1, None, EXACT) is None
    assert why("." * 30, 1, None, EXACT)[0] == "exhausted"
    once = "#" * 10 + "." * 20
    assert why(once, 1, None, EXACT)[0] == "lost"
    assert why(once[:-1], 1, None, EXACT) is None


def test_a_configuration_that_is_too_long_to_win_never_starts():
    found = Ruler.of(tiny(**{"Training.g_pretrain_steps": 40}))
    assert why_end(judge([], found), 3, Incumbent(30, 0), EXACT)[0] == "capped"
    assert why_end(judge([], found), 3, Incumbent(44, 0), EXACT)[0] == "capped"
    assert why_end(judge([], found), 3, Incumbent(45, 0), EXACT) is None


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
        if verdict.kept:
            board = Board()
            board.offer(best)
            board.offer(Incumbent(verdict.steps_to_nash, number))
            best = board.answer(-math.inf).incumbent
        if verdict.over or ends(so_far, found, number, best):
            running.discard(number)
        at[number] += 1
    return best


def capped(readings, found, number, best):
    """Whether capping ends a training, at slack 1."""
    return why_end(judge(readings, found), number, best, EXACT) is not None


@settings(max_examples=400)
@given(CURVES, st.integers(0, 10**6))
def test_capping_at_slack_1_never_changes_the_winner(curves, seed):
    """Random curves, ties and open windows included, in any order of readings."""
    alone = studied(curves, random.Random(seed), lambda *_: False)
    assert studied(curves, random.Random(seed + 1), capped) == alone


def test_capping_at_the_bound_alone_would_change_the_winner():
    """The property above has teeth: without what may still be kept, it fails."""

    def at_the_bound(readings, found, number, best):
        return best is not None and bool(readings) and readings[-1]["step"] >= best.cost

    late = [False] * 3 + [True] * 44
    later_still = [False] * 4 + [True] * 43

    class First(random.Random):
        def choice(self, options):
            return options[0]

    alone = studied([(0, later_still), (0, late)], First(), lambda *_: False)
    assert alone.number == 1
    assert studied([(0, later_still), (0, late)], First(), capped) == alone
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
