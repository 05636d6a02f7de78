"""The searcher and its database agree with the trial records, whatever was lost in between."""

import shutil
import sys
from dataclasses import replace

import optuna
import pytest
from optuna.trial import TrialState

from tests.support.studies import (
    PATIENCE,
    PRETRAIN,
    VALUES,
    WEIGHT,
    finish,
    loaded,
    never_begun,
    open_study,
    reading,
    records_in,
    small,
    start,
)
from trainables.balance import Ruler, judge
from trainables.errors import InvalidInput
from tune_srgan.search.samplers import check_sampler
from tune_srgan.search.searcher import Searcher, learnt_from
from tune_srgan.store.studies import study_in
from tune_srgan.store.study_folder import StudyFolder

SECOND = VALUES | {PATIENCE: 8}
COMPLETE, FAIL, RUNNING = TrialState.COMPLETE, TrialState.FAIL, TrialState.RUNNING


class Driver:
    """What the runner does, without training: proposes, records, ends, and is started again."""

    def __init__(self, path, **search):
        document = small()
        document["space"]["Schedulers.g_warmup_type"] = {"choice": ["linear", "cosine"]}
        document["training"]["Schedulers"] = {"g_warmup_steps": 10}
        document["search"] |= search
        self.study = loaded(path, document)
        self.folder = StudyFolder(path / "runs" / "small")
        open_study(self.folder, self.study)
        self.start()

    def start(self):
        self.searcher = Searcher(self.study, records_in(self.study, self.folder).search, self.folder.optuna_url)

    def lose_database(self):
        (self.folder.path / "optuna.db").unlink()

    def propose(self):
        proposal = self.searcher.propose()
        start(self.folder, self.study, proposal.number, proposal.values, proposal.proposed_by)
        self.searcher.keep(proposal)
        return proposal

    def end(self, number, end="balanced", since=100):
        record = finish(self.folder, self.study, number, end, since)
        self.searcher.tell(record)
        return record

    def trials(self):
        return optuna.load_study(study_name="small", storage=self.folder.optuna_url).trials

    def states(self):
        return [trial.state for trial in self.trials()]


def test_try_first_is_asked_first_in_its_order_and_once(tmp_path):
    driver = Driver(tmp_path, try_first=[VALUES, {PATIENCE: 8}])  # the second leaves the rest to the sampler
    found = [driver.propose() for _ in range(3)]
    assert [proposal.proposed_by for proposal in found] == ["try_first", "try_first", "startup"]
    assert [proposal.number for proposal in found] == [0, 1, 2]
    assert found[0].values.items() >= VALUES.items()
    assert found[1].values[PATIENCE] == 8
    assert set(found[1].values) == set(driver.study.space)


@pytest.mark.parametrize(("before", "lost"), [(0, False), (1, False), (1, True), (2, True)])
def test_try_first_is_asked_once_over_restarts(tmp_path, before, lost):
    driver = Driver(tmp_path, try_first=[VALUES, SECOND])
    for _ in range(before):
        driver.end(driver.propose().number)
    if lost:
        driver.lose_database()
    driver.start()
    while len(driver.folder.trials()) < 3:
        driver.propose()
    records = records_in(driver.study, driver.folder).search
    assert [record.proposed_by for record in records] == ["try_first", "try_first", "startup"]
    assert [record.values[PATIENCE] for record in records[:2]] == [4, 8]


def test_a_first_try_that_was_asked_and_never_started_is_asked_again(tmp_path):
    driver = Driver(tmp_path, try_first=[VALUES, SECOND])
    driver.searcher.propose()  # and killed
    driver.start()
    found = [driver.propose() for _ in range(3)]
    assert [proposal.proposed_by for proposal in found] == ["try_first", "try_first", "startup"]
    assert sorted(proposal.values[PATIENCE] for proposal in found[:2]) == [4, 8]


def test_a_model_proposes_once_startup_trials_have_ended(tmp_path):
    driver = Driver(tmp_path, sampler="tpe", try_first=[VALUES])
    waiting = [driver.propose() for _ in range(4)]
    assert [proposal.proposed_by for proposal in waiting] == ["try_first", "startup", "startup", "startup"]
    driver.end(0)
    driver.end(1, "failed")  # says nothing about the space
    driver.end(2, "exhausted")
    assert driver.propose().proposed_by == "startup"
    driver.end(3)
    assert driver.propose().proposed_by == "tpe"
    driver.start()
    assert driver.propose().proposed_by == "tpe"


def test_our_own_model_proposes_after_startup_proposals_once_two_games_were_seen(tmp_path):
    driver = Driver(tmp_path, sampler="wait", startup=3)
    for _ in range(4):
        assert driver.propose().proposed_by == "startup"  # the fourth: nothing was seen yet
    driver.end(0)
    driver.end(1, "failed")  # says nothing about the space
    assert driver.propose().proposed_by == "startup"
    ruler = Ruler.of(driver.study.lowest())
    driver.searcher.see(2, judge([], ruler))  # it waits, and has shown nothing
    assert driver.propose().proposed_by == "startup"
    driver.searcher.see(2, judge([reading(step, 0.875) for step in range(4, 101, 4)], ruler))
    assert driver.propose().proposed_by == "wait"
    driver.end(3)
    driver.start()
    assert driver.propose().proposed_by == "wait"


def test_what_was_never_played_is_no_example_for_tpe(tmp_path):
    """Else three good trials among many that capping ended at once draw proposals to wherever those lie."""
    driver = Driver(tmp_path, sampler="tpe", startup=3, trials=60)
    weights = []
    for number in range(36):
        values = VALUES | {"Schedulers.g_warmup_type": "linear"}
        good = number in {9, 20, 30}
        values |= {PRETRAIN: 20, WEIGHT: 0.1} if good else {PRETRAIN: 60, WEIGHT: 1.1e-3}
        start(driver.folder, driver.study, number, values)
        finish(driver.folder, driver.study, number) if good else never_begun(driver.folder, driver.study, number)
    driver.start()
    for _ in range(20):
        proposal = driver.propose()
        assert proposal.proposed_by == "tpe"
        weights.append(proposal.values[WEIGHT])
    assert sum(weight > 0.01 for weight in weights) >= 15


def test_every_end_is_told_in_its_state(tmp_path):
    driver = Driver(tmp_path)
    ends = ["balanced", "exhausted", "capped", "failed", "diverged"]
    records = [driver.end(driver.propose().number, end) for end in ends]
    found = driver.trials()
    assert [trial.state for trial in found] == [COMPLETE, COMPLETE, COMPLETE, FAIL, FAIL]
    assert [trial.value for trial in found] == [record.cost for record in records]
    assert found[0].value == 100.0
    assert [trial.user_attrs["censored"] for trial in found] == [False, True, True, True, True]
    assert [trial.user_attrs["outcome"] for trial in found] == ends
    assert found[0].user_attrs["proposed_by"] == "startup"
    assert found[0].user_attrs["steps"] == 100


def test_telling_twice_is_harmless(tmp_path):
    driver = Driver(tmp_path)
    record = driver.end(driver.propose().number)
    failed = driver.end(driver.propose().number, "failed")
    before = driver.trials()
    driver.searcher.tell(record)
    driver.searcher.tell(failed)
    assert driver.trials() == before


def agreed(trials):
    """What Optuna and the records must agree on."""
    return [(t.number, t.state, t.value, t.params, t.distributions, t.user_attrs.get("proposed_by")) for t in trials]


def test_a_lost_database_is_rebuilt_from_the_records(tmp_path):
    driver = Driver(tmp_path, try_first=[VALUES])
    for end in ("balanced", "exhausted", "failed", "balanced"):
        driver.end(driver.propose().number, end, since=60)
    running = driver.propose().number
    before = agreed(driver.trials())
    driver.lose_database()
    driver.start()
    assert agreed(driver.trials()) == before
    assert driver.states() == [COMPLETE, COMPLETE, FAIL, COMPLETE, RUNNING]
    driver.end(running)
    assert driver.trials()[running].state == COMPLETE
    assert driver.propose().number == running + 1


@pytest.mark.parametrize("try_first", [[], [VALUES, SECOND]], ids=["plain", "with one waiting"])
def test_a_database_that_is_behind_catches_up(tmp_path, try_first):
    driver = Driver(tmp_path, try_first=try_first)
    driver.propose()
    database = driver.folder.path / "optuna.db"
    shutil.copy(database, tmp_path / "old.db")
    driver.end(0)
    for end in ("exhausted", "failed"):
        driver.end(driver.propose().number, end)
    before = agreed(driver.trials())
    shutil.copy(tmp_path / "old.db", database)
    driver.start()
    assert agreed(driver.trials()) == before
    following = driver.propose()
    assert (following.number, following.proposed_by) == (3, "startup")


def test_a_driver_that_dies_between_a_proposal_and_its_record_leaves_no_gap(tmp_path):
    driver = Driver(tmp_path)
    driver.propose()
    driver.searcher.propose()  # and killed
    driver.start()
    assert driver.states() == [RUNNING]
    assert driver.propose().number == 1
    proposal = driver.searcher.propose()
    start(driver.folder, driver.study, proposal.number, proposal.values)  # and killed
    driver.start()
    assert driver.states() == [RUNNING] * 3
    assert driver.propose().number == 3


def test_what_runs_in_the_database_alone_fails(tmp_path):
    driver = Driver(tmp_path)
    driver.propose()
    driver.propose()
    shutil.rmtree(driver.folder.trial(0).path)
    driver.start()
    assert driver.states() == [FAIL, RUNNING]
    assert driver.propose().number == 2


def test_a_gap_in_the_numbers_stays_a_gap(tmp_path):
    driver = Driver(tmp_path)
    for _ in range(4):
        driver.end(driver.propose().number)
    for number in (0, 2):
        shutil.rmtree(driver.folder.trial(number).path)
    driver.lose_database()
    driver.start()
    assert driver.states() == [FAIL, COMPLETE, FAIL, COMPLETE]
    assert driver.propose().number == 4


def test_an_end_that_was_recorded_and_not_told_is_told_at_start(tmp_path):
    driver = Driver(tmp_path)
    costs = [finish(driver.folder, driver.study, driver.propose().number, end).cost for end in ("balanced", "failed")]
    assert driver.states() == [RUNNING, RUNNING]
    driver.start()
    assert driver.states() == [COMPLETE, FAIL]
    assert [trial.value for trial in driver.trials()] == costs
    assert driver.trials()[0].user_attrs["outcome"] == "balanced"


@pytest.mark.parametrize("sampler", ["wait", "tpe", "random"])
def test_a_restart_draws_other_points(tmp_path, sampler):
    driver = Driver(tmp_path, sampler=sampler, startup=8)
    weights = []
    for _ in range(3):
        weights.append(driver.propose().values[WEIGHT])
        driver.start()
    assert len(set(weights)) == 3


def test_the_same_seed_draws_the_same_points(tmp_path):
    found = []
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        (tmp_path / name).mkdir()
        found.append(Driver(tmp_path / name, seed=seed).propose().values)
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("sampler", ["wait", "tpe", "gp", "nsgaii", "random"])
def test_every_sampler_stays_in_the_space(tmp_path, sampler):
    driver = Driver(tmp_path, sampler=sampler, startup=3)
    found = []
    for index in range(6):
        found.append(driver.propose())
        driver.end(found[-1].number, "balanced" if index % 2 else "exhausted", since=60 + 4 * index)
    for proposal in found:
        values = proposal.values
        assert set(values) == set(driver.study.space)
        assert values[PRETRAIN] in {20, 40, 60}
        assert type(values[PRETRAIN]) is type(values[PATIENCE]) is int
        assert values[PATIENCE] in range(2, 13)
        assert 1e-3 <= values[WEIGHT] <= 0.3
        assert values["Schedulers.g_warmup_type"] in {"linear", "cosine"}
    startup = sampler if sampler == "random" else "startup"
    assert [proposal.proposed_by for proposal in found] == [startup] * 3 + [sampler] * 3


def test_a_sampler_without_its_library_is_one_problem(tmp_path, monkeypatch):
    document = small()
    document["search"]["sampler"] = "cmaes"
    monkeypatch.setitem(sys.modules, "cmaes", None)  # as where it is not installed
    with pytest.raises(InvalidInput) as raised:
        check_sampler(loaded(tmp_path, document), "study.yaml")
    (problem,) = raised.value.problems
    assert (problem.file, problem.key, problem.found) == ("study.yaml", "search.sampler", "cmaes")
    assert "pip install cmaes" in problem.fix


def test_a_startup_that_is_too_short_for_its_sampler_is_one_problem(tmp_path):
    document = small()
    document["search"] |= {"sampler": "nsgaii", "startup": 1}  # nothing to cross
    with pytest.raises(InvalidInput, match=r"study.yaml: search\.startup"):
        check_sampler(loaded(tmp_path, document), "study.yaml")


def earlier(path, name, trials, **changes):
    """A study that has ended: its folder, and the study."""
    document = small() | {"study": name} | changes
    (path / name).mkdir()
    study = loaded(path / name, document)
    folder = StudyFolder(path / "runs" / name)
    open_study(folder, study)
    for number, (values, since) in enumerate(trials):
        start(folder, study, number, values)
        finish(folder, study, number, *(("balanced", since) if since else ("exhausted",)))
    return folder, study


def known(folder):
    """What is kept of an earlier study."""
    study = study_in(folder)
    return study, records_in(study, folder)


def test_what_an_earlier_study_knows_of_this_space_is_learnt(tmp_path):
    folder, _ = earlier(tmp_path, "old", [(VALUES, 60), (VALUES | {WEIGHT: 0.25}, 80), (SECOND, None)])
    document = small()
    document["space"][WEIGHT] = {"float": [1e-3, 1e-1], "log": True}  # 0.25 is not in it
    document["objective"]["max_steps"] = 400
    study = loaded(tmp_path, document)
    found = learnt_from(study, [known(folder)])
    assert [one.values for one in found] == [VALUES, SECOND]
    assert found[0].cost == found[0].attributes["steps"] == 60
    assert 400 < found[1].cost <= 800
    searcher = Searcher(study, learnt=found + found)
    proposal = searcher.propose()
    assert (proposal.number, proposal.proposed_by) == (0, "wait")  # no random start: four trials are known


def test_a_key_that_was_fixed_in_an_earlier_study_has_its_value(tmp_path):
    training = small()["training"]
    training["Schedulers"] = {"patience_g": 7}
    space = {key: value for key, value in small()["space"].items() if key != PATIENCE}
    values = {key: value for key, value in VALUES.items() if key != PATIENCE}
    folder, _ = earlier(tmp_path, "old", [(values, 60)], training=training, space=space)
    [found] = learnt_from(loaded(tmp_path), [known(folder)])
    assert (found.values, found.cost) == (VALUES | {PATIENCE: 7}, 60.0)


def test_an_earlier_study_with_another_metric_says_nothing(tmp_path):
    objective = small()["objective"] | {"metric": "seconds_to_nash"}
    folder, _ = earlier(tmp_path, "old", [(VALUES, 60)], objective=objective)
    assert learnt_from(loaded(tmp_path), [known(folder)]) == []


def test_what_was_learnt_does_not_stand_in_this_studys_database(tmp_path):
    folder, _ = earlier(tmp_path, "old", [(VALUES, 60), (SECOND, 80)])
    driver = Driver(tmp_path)
    learnt = [
        replace(one, values=one.values | {"Schedulers.g_warmup_type": "cosine"})
        for one in learnt_from(loaded(tmp_path), [known(folder)])
    ]
    driver.searcher = Searcher(driver.study, [], driver.folder.optuna_url, None, learnt)
    driver.end(driver.propose().number)
    assert driver.states() == [COMPLETE]
    records = records_in(driver.study, driver.folder).search
    driver.searcher = Searcher(driver.study, records, driver.folder.optuna_url, None, learnt)
    assert driver.propose().number == 1
    assert driver.states() == [COMPLETE, RUNNING]


@pytest.mark.parametrize(("censored", "value", "state"), [
    ("cost", 250.0, COMPLETE), ("clipped", 200.0, COMPLETE), ("pruned", 250.0, TrialState.PRUNED),
])  # fmt: skip
def test_how_a_sampler_may_see_a_censored_trial(tmp_path, censored, value, state):
    study = loaded(tmp_path)
    folder = StudyFolder(tmp_path / "runs" / "small")
    open_study(folder, study)
    searcher = Searcher(study, censored=censored)
    proposal = searcher.propose()
    start(folder, study, proposal.number, proposal.values)
    searcher.tell(replace(finish(folder, study, proposal.number, "capped"), cost=250.0))
    (seen,) = searcher._sampled.kept.trials
    assert (seen.value, seen.state) == (value, state)


def test_an_evolution_goes_on_after_a_restart(tmp_path):
    driver = Driver(tmp_path, sampler="nsgaii", startup=3)
    for index in range(6):
        driver.end(driver.propose().number, since=60 + 4 * index)
    driver.start()
    assert driver.propose().proposed_by == "nsgaii"


def test_a_sampler_that_cannot_learn_from_others_is_not_asked_to(tmp_path):
    document = small()
    document["search"] |= {"sampler": "nsgaii", "startup": 4, "learn_from": ["old"]}
    with pytest.raises(InvalidInput, match=r"search\.learn_from: found sampler nsgaii; expected one of gp, tpe, wait"):
        check_sampler(loaded(tmp_path, document), "study.yaml")


def test_a_search_that_stops_itself_takes_the_model_that_says_what_is_left(tmp_path):
    study = Driver(tmp_path, sampler="tpe", stop="auto").study
    with pytest.raises(InvalidInput) as error:
        check_sampler(study, "study.yaml")
    [problem] = error.value.problems
    assert (problem.key, problem.found) == ("search.stop", "auto with the sampler tpe")
