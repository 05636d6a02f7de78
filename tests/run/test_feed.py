"""In which order trials start: nobody waits idly, and nobody computes what another is computing if it can be helped."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from tests.support.studies import (
    PRETRAIN,
    VALUES,
    WEIGHT,
    confirm,
    finish,
    loaded,
    open_study,
    reading,
    records_in,
    small,
)
from tune_srgan.run.budget import Budget
from tune_srgan.run.feed import TrialFeed
from tune_srgan.run.ledger import Ledger
from tune_srgan.search.capping import Incumbent
from tune_srgan.search.searcher import Searcher
from tune_srgan.store.study_folder import StudyFolder

pytest.importorskip("ray")
WARMUP = "Schedulers.g_warmup_steps"
FINISHED, NOT_NOW = "FINISHED", None  # one that runs may still make way


class Watching:
    def __init__(self):
        self.ended = []

    def on_end(self, record):
        self.ended.append(record.number)


class Board:
    """Stands for the actor's handle."""

    def __init__(self):
        self.offered, self.waits = [], []
        self.offer = SimpleNamespace(remote=self.offered.append)
        self.wait = SimpleNamespace(remote=self.waits.append)


class Study:
    """A feed, its study, and what has become of its trials: these, as if the sampler had proposed all but `first`."""

    def __init__(self, path, tried, slots=2, trials=None, first=0, **search):
        self.first = first
        document = small()
        document["space"][WARMUP] = {"int": [0, 20], "step": 10}
        document["search"] |= {"trials": trials or len(tried), "try_first": tried, "race": 0} | search
        self.study = loaded(path, document)
        self.folder = StudyFolder(path / "runs" / "small")
        open_study(self.folder, self.study)
        self.slots = slots
        self.begin()

    def begin(self):
        self.watching, self.board = Watching(), Board()
        self.searcher = searcher = Searcher(
            self.study, records_in(self.study, self.folder).search, self.folder.optuna_url
        )
        propose = searcher.propose

        def proposed():
            proposal = propose()
            return proposal if proposal.number < self.first else replace(proposal, proposed_by="startup")

        searcher.propose = proposed
        ledger = Ledger(self.study, self.folder)
        self.feed = TrialFeed(ledger, Budget(ledger, self.slots), self.watching, searcher, self.board)

    def named(self, name):
        found = self.feed.suggest(name)
        return found if found in (None, FINISHED) else int(found["trial"][-5:])

    def reach(self, number, step, rank=0.5):
        trial = self.folder.trial(number)
        for at in range(trial.last_step() + 4, step + 1, 4):
            trial.append(reading(at, rank))

    def end(self, name, number, **how):
        self.folder.trial(number).readings_file.unlink(missing_ok=True)
        finish(self.folder, self.study, number, **how)
        self.feed.on_trial_complete(name)


def values(warmup, pretraining, weight=0.01):
    return VALUES | {WARMUP: warmup, PRETRAIN: pretraining, WEIGHT: weight}


def test_trials_that_share_a_missing_stretch_do_not_start_at_once(tmp_path):
    study = Study(tmp_path, [values(10, 40), values(10, 60), values(0, 40), values(0, 60)])
    assert study.named("a") == 0
    assert study.named("b") == 2  # 1 would compute 0's pretraining beside it
    study.reach(0, 36)
    study.end("b", 2)
    assert study.named("c") == 3  # 0 is not there yet; 2's path is
    study.reach(0, 40)
    assert study.named("d") == 1
    assert study.named("e") == NOT_NOW
    for name, number in (("a", 0), ("c", 3), ("d", 1)):
        study.end(name, number)
    assert study.named("e") == FINISHED


def test_no_worker_idles_for_it(tmp_path):
    study = Study(tmp_path, [values(10, 40), values(10, 60), values(10, 20)])
    assert [study.named(name) for name in "abc"] == [2, 0, 1]


def test_what_waited_counts_once_and_survives_a_restart(tmp_path):
    study = Study(tmp_path, [values(10, 40), values(10, 60), values(0, 40)], trials=3)
    assert [study.named("a"), study.named("b")] == [0, 2]
    assert [record.end for record in records_in(study.study, study.folder).search] == [None] * 3
    study.begin()  # the driver was killed
    assert study.feed.left == 3
    assert sorted(study.named(name) for name in "abc") == [0, 1, 2]
    assert study.named("d") == NOT_NOW


def test_what_may_reach_the_balance_soonest_starts_first(tmp_path):
    """Of what is proposed blindly, so that the longer ones need not start once it has."""
    tried = [values(10, 60), values(20, 40), values(0, 20), values(20, 20)]
    study = Study(tmp_path, tried, trials=4, startup=3, capping={"slack": 1.0}, sharing={"enabled": False})
    assert study.named("a") == 2
    assert [record.end for record in records_in(study.study, study.folder).search] == [None] * 3
    study.end("a", 2, since=44)
    assert study.named("b") == 3  # 0 and 1 come too late; the fourth is asked for when it is needed
    assert [trial.outcome() and trial.outcome()["end"] for trial in study.folder.trials()] == [
        "capped", "capped", "balanced", None
    ]  # fmt: skip


def test_what_the_study_file_names_starts_before_what_may_come_sooner(tmp_path):
    study = Study(tmp_path, [values(10, 60), values(20, 60), values(0, 40), values(0, 20)], first=2, startup=4)
    assert [study.named(name) for name in "abcd"] == [0, 1, 3, 2]
    (tmp_path / "shared").mkdir()
    shared = Study(tmp_path / "shared", [values(10, 60), values(10, 40), values(0, 20)], first=2, startup=3)
    assert [shared.named(name) for name in "abc"] == [0, 2, 1]  # what 1 would compute 0 is computing


def test_a_trial_that_falls_behind_pauses_and_goes_on_when_it_is_the_soonest_again(tmp_path):
    study = Study(tmp_path, [values(10, 20), values(0, 40), values(0, 60)], startup=3, sharing={"enabled": False})
    assert study.named("a") == 0
    assert study.board.waits[-1] == [60, 80]  # pretraining and ramp of the other two
    study.reach(0, 64, rank=0.875)  # and no reading of its game was balanced
    assert study.feed.left == 2
    study.feed.on_trial_complete("a")  # its attempt is over, the trial is not
    assert (study.feed.left, study.folder.trial(0).outcome()) == (3, None)
    assert study.board.waits[-1] == [60, 80, 68]  # its next reading may be the first that holds
    assert study.named("b") == 1
    study.reach(1, 80, rank=0.875)
    study.feed.on_trial_complete("b")
    assert study.named("c") == 0


@pytest.mark.parametrize(("proposed", "goes_first"), [((0, 20), True), ((20, 60), False)])
def test_before_a_trial_that_made_way_goes_on_another_is_proposed(tmp_path, proposed, goes_first):
    tried = [values(10, 20), values(0, 40), values(20, 60), values(*proposed)]
    study = Study(tmp_path, tried, startup=3, sharing={"enabled": False})
    assert [study.named(name) for name in "ab"] == [0, 1]
    study.reach(0, 48, rank=0.875)
    for name, number, step in (("a", 0, 88), ("b", 1, 100)):
        study.reach(number, step)
        study.feed.on_trial_complete(name)
    assert study.folder.trial(3).exists() is False
    assert study.named("c") == (3 if goes_first else 0)
    assert study.folder.trial(3).exists()


def test_nothing_is_proposed_ahead_by_a_sampler_that_knows_nothing_yet(tmp_path):
    study = Study(tmp_path, [values(10, 20), values(0, 40), values(0, 20)], startup=2)
    study.named("a")
    study.named("b")
    study.reach(0, 80, rank=0.875)
    study.feed.on_trial_complete("a")
    assert study.named("c") == 0  # of two games one was seen
    assert study.folder.trial(2).exists() is False


def test_the_next_proposal_knows_what_a_trial_that_waits_has_shown(tmp_path):
    study = Study(tmp_path, [values(10, 20), values(0, 40), values(0, 60)], startup=3)
    study.named("a")
    study.reach(0, 80, rank=0.875)
    study.feed.on_trial_complete("a")

    def shown():
        return study.searcher._sampled.kept.get_trials()[0].user_attrs

    assert (shown()["steps"], shown()["gap"] > 0) == (84, True)
    study.begin()
    assert (shown()["steps"], shown()["gap"] > 0) == (84, True)


def test_a_trial_that_paused_and_cannot_win_any_more_never_goes_on(tmp_path):
    study = Study(tmp_path, [values(10, 20), values(0, 40)], capping={"slack": 1.0}, startup=2)
    study.named("a")
    study.reach(0, 100, rank=0.875)
    study.feed.on_trial_complete("a")
    assert study.named("b") == 1
    study.end("b", 1, since=60)
    assert study.named("c") == FINISHED
    outcome = study.folder.trial(0).outcome()
    assert (outcome["end"], outcome["trained_steps"], outcome["censored"]) == ("capped", 100, True)
    assert outcome["gap"] is None or outcome["gap"] > 0
    assert study.watching.ended == [0]


def test_a_balance_that_was_reached_before_the_driver_was_killed_is_not_capped(tmp_path):
    study = Study(tmp_path, [values(10, 20), values(0, 20)], capping={"slack": 1.0}, startup=2)
    study.named("a")
    study.named("b")
    finish(study.folder, study.study, 1, since=80)
    (study.folder.trial(1).path / "outcome.json").unlink()  # killed after its last reading
    study.end("a", 0, since=60)
    study.begin()
    assert study.named("c") == 1


@pytest.mark.parametrize("off", ["best_first", "capping"])
def test_nobody_pauses_where_that_is_switched_off(tmp_path, off):
    study = Study(tmp_path, [values(10, 60), values(0, 20)], startup=2, **{off: {"enabled": False}})
    assert study.named("a") == 0
    assert study.board.waits == []
    assert study.named("b") == 1
    assert study.named("c") == FINISHED


def test_without_capping_and_sharing_the_order_is_the_searchers(tmp_path):
    off = {"enabled": False}
    study = Study(tmp_path, [values(10, 60), values(10, 40), values(0, 40)], sharing=off, capping=off)
    assert [study.named(name) for name in "abc"] == [0, 1, 2]


def test_a_configuration_that_is_too_long_to_win_is_ended_without_a_start(tmp_path):
    study = Study(tmp_path, [values(10, 20), values(0, 60), values(0, 20)], capping={"slack": 1.0})
    assert study.named("a") == 0
    study.end("a", 0, since=60)
    assert study.board.offered == [None, Incumbent(60, 0)]
    assert study.named("b") == 2  # 1 pretrains to 60 and ramps to 80
    capped = study.folder.trial(1).outcome()
    assert (capped["end"], capped["trained_steps"], capped["censored"]) == ("capped", 0, True)
    assert study.watching.ended == [1]
    assert study.named("c") == NOT_NOW


def test_a_trial_that_has_more_to_do_than_the_budget_leaves_waits(tmp_path):
    study = Study(tmp_path, [values(10, 20), values(0, 60)], trials=2)
    trials = [study.folder.trial(number) for number in range(2)]
    study.feed.budget.why_not_another = lambda candidate=None: "steps: all used" if candidate == trials[0] else ""
    assert study.named("a") == FINISHED  # nobody runs who might leave some
    assert study.feed.stopped.text == "the study's budget is used up (steps: all used)"
    assert trials[0].outcome() is None


def test_a_balanced_trial_races_on_a_further_seed_before_it_caps_others(tmp_path):
    study = Study(tmp_path, [values(10, 20), values(0, 60)], slots=1, race=1, capping={"slack": 1.0})
    assert study.named("a") == 0
    study.end("a", 0, since=60)
    assert study.board.offered == [None]  # one seed is an anecdote
    assert study.feed.suggest("b")["trial"] == "confirm/00000-1"
    confirm(study.folder, 0, 1, 60)
    study.feed.on_trial_complete("b")
    assert study.board.offered == [None, Incumbent(60, 0)]
    assert study.named("c") == FINISHED
    assert study.folder.trial(1).outcome()["end"] == "capped"  # it pretrains to 60 and ramps to 80


def test_a_trial_that_ray_gives_up_has_tries_left(tmp_path):
    study = Study(tmp_path, [values(10, 20)])
    tries = 1 + study.study.resources.max_failures
    for attempt in range(tries):
        assert study.named(f"a{attempt}") == 0
        assert study.folder.trial(0).outcome() is None
        study.feed.on_trial_complete(f"a{attempt}", error=True)
    assert study.folder.trial(0).outcome()["end"] == "failed"
    assert study.named("b") == FINISHED


def test_the_incumbent_is_known_after_a_restart(tmp_path):
    study = Study(tmp_path, [values(10, 20), values(0, 60)], capping={"slack": 1.0})
    study.named("a")
    study.end("a", 0, since=60)
    study.begin()
    assert study.board.offered == [Incumbent(60, 0)]
    assert study.named("b") == FINISHED
    assert study.folder.trial(1).outcome()["end"] == "capped"


def test_capping_that_is_switched_off_starts_everything(tmp_path):
    study = Study(tmp_path, [values(10, 20), values(0, 60)], capping={"enabled": False})
    study.named("a")
    study.end("a", 0, since=60)
    assert study.named("b") == 1


@pytest.mark.parametrize(("chance", "stops"), [(0.04, True), (0.06, False)])
def test_a_search_that_sees_nothing_better_left_proposes_no_more(tmp_path, chance, stops):
    study = Study(tmp_path, [values(10, 20), values(0, 20)], trials=6, startup=2, stop="auto")
    asked = []
    study.searcher.chance = lambda *question: asked.append(question) or chance
    study.named("a")
    study.named("b")
    assert asked == []  # there is no incumbent
    study.end("a", 0, since=60)
    found = study.named("c")
    assert asked[0] == (4, 0, 0.9)
    assert (found in (FINISHED, NOT_NOW), study.folder.trial(2).exists()) == (stops, not stops)
    study.end("b", 1, since=80)
    assert (study.named("d") == FINISHED) == stops
    assert (study.feed.enough is not None) == stops
    if stops:
        assert study.feed.enough.text == (
            "the search stopped itself after 2 of 6 trials: by its model, one of the others costs 10% less than "
            "trial 0 with a chance of 4.0%"
        )
