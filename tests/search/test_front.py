"""Steps and images: which trials no other beats in both, and which are good enough to win."""

import itertools
import math
from dataclasses import replace

import optuna
import pytest
from optuna.trial import TrialState
from rich.console import Console

from tests.support.perceptual import write_published
from tests.support.quality import write_dists
from tests.support.studies import (
    PATIENCE,
    VALUES,
    WEIGHT,
    confirm,
    finish,
    loaded,
    open_study,
    records_in,
    small,
    start,
)
from trainables.errors import InvalidInput
from trainables.merits import BICUBIC, END
from tune_srgan.check import check_parts
from tune_srgan.console import ending
from tune_srgan.report.live import StudyView
from tune_srgan.search.confirmation import candidates, winner
from tune_srgan.search.front import front_of
from tune_srgan.search.optuna_copy import told_of
from tune_srgan.search.race import due, incumbent_of, next_seed, ranked
from tune_srgan.search.samplers import check_sampler
from tune_srgan.search.searcher import Searcher
from tune_srgan.search.wait_sampler import FLOORS
from tune_srgan.store.study_folder import StudyFolder

ALSO, FLOOR = {"also": "quality/spectrum"}, {"at_least": {"quality/psnr": "bicubic"}}
# trial by trial: the step from which it kept the balance, dB of the power that the truth has, PSNR over bicubic
KNOWN = [(60, -4.0, 0.5), (80, 1.0, -0.1), (100, -2.0, 0.2), (100, -0.5, 0.1), (140, -3.0, 0.4), (None, 0.0, 0.9)]


def study_with(tmp_path, objective=None, known=KNOWN, **search):
    document = small()
    document["objective"] |= objective or {}
    document["search"] |= search
    study = loaded(tmp_path, document)
    folder = StudyFolder(tmp_path / "runs" / study.study)
    open_study(folder, study)
    for number, (since, spectrum, psnr) in enumerate(known):
        start(folder, study, number, VALUES | {PATIENCE: 2 + number})
        end = "balanced" if since else "exhausted"
        finish(folder, study, number, end, since or 0, quality_of(spectrum, psnr))
    return study, folder


def quality_of(spectrum, psnr):
    return {BICUBIC: {"spectrum": -6.0, "psnr": 30.0}, END: {"spectrum": spectrum, "psnr": 30.0 + psnr}}


def numbers(records):
    return [record.number for record in records]


def test_the_front_is_what_no_other_kept_trial_beats_in_both(tmp_path):
    study, folder = study_with(tmp_path)
    search = records_in(study, folder).search
    kept = [(since, abs(spectrum), number) for number, (since, spectrum, _) in enumerate(KNOWN) if since]
    beaten = {b[2] for a, b in itertools.permutations(kept, 2) if a[0] <= b[0] and a[1] <= b[1] and a[:2] != b[:2]}
    assert numbers(front_of(study, search)) == sorted({one[2] for one in kept} - beaten) == [0, 1, 3]


def test_a_trial_whose_images_were_not_measured_is_on_no_front(tmp_path):
    study, folder = study_with(tmp_path, known=[(60, math.nan, 0.0), (100, -1.0, 0.0)])
    assert numbers(front_of(study, records_in(study, folder).search)) == [1]


def test_a_search_for_a_front_has_no_incumbent_nobody_races_and_all_of_the_front_is_confirmed(tmp_path):
    study, folder = study_with(tmp_path, ALSO, race=2)
    records = records_in(study, folder)
    assert incumbent_of(study, records) is None
    assert [due(study, record, records, None) for record in records.search] == [None] * len(KNOWN)
    assert not study.search.best_first.enabled
    assert numbers(candidates(study, records)) == [0, 1, 3]
    assert winner(study, records).number == 0


def test_optuna_is_told_both_numbers_and_its_front_is_ours(tmp_path):
    study, folder = study_with(tmp_path, ALSO)
    search = records_in(study, folder).search
    for _ in range(2):  # made, and found again
        searcher = Searcher(study, search, folder.optuna_url)
        kept = optuna.load_study(study_name="small", storage=folder.optuna_url)
        assert [trial.values for trial in kept.trials[:3]] == [[60, 4.0], [80, 1.0], [100, 2.0]]
        balanced = [trial for trial in kept.best_trials if trial.user_attrs["outcome"] == "balanced"]
        assert numbers(balanced) == numbers(front_of(study, search))
    assert searcher.propose().proposed_by == "tpe"
    assert kept.trials[3].user_attrs["quality/spectrum"] == -0.5
    penalty = search[5].cost / study.max_steps  # what kept no balance misses it, with and without images
    assert [trial.system_attrs[FLOORS] for trial in kept.trials] == [[0.0]] * 5 + [[penalty]]
    start(folder, study, 6, VALUES)
    unmeasured = finish(folder, study, 6, "capped")
    assert told_of(unmeasured, study) == (TrialState.COMPLETE, (unmeasured.cost, math.inf))
    assert told_of(replace(search[0], quality={}), study) == (TrialState.FAIL, ())  # kept, and not measured


@pytest.mark.parametrize("sampler", ["tpe", "gp", "nsgaii", "random"])
def test_every_sampler_for_a_front_proposes(tmp_path, sampler):
    study, folder = study_with(tmp_path, ALSO | FLOOR, sampler=sampler)
    check_sampler(study, "study.yaml")
    values = Searcher(study, records_in(study, folder).search).propose().values
    assert set(values) == set(study.space)


REFUSED = {
    "one number": (ALSO, {"sampler": "wait"}, "search.sampler", "which can minimise two numbers"),
    "evolution of one": (ALSO, {"sampler": "cmaes"}, "search.sampler", "which can minimise two numbers"),
    "a stop by a model of one": (ALSO, {"stop": "auto"}, "search.stop", "the sampler wait"),
    "earlier steps": (ALSO, {"learn_from": ["earlier"]}, "search.learn_from", "none beside objective.also"),
    "floors it does not know": (FLOOR, {"sampler": "cmaes"}, "search.sampler", "knows of floors"),
}


@pytest.mark.parametrize(("objective", "search", "key", "expected"), REFUSED.values(), ids=REFUSED)
def test_a_sampler_that_cannot_is_refused(tmp_path, objective, search, key, expected):
    study, _ = study_with(tmp_path, objective, known=[], **search)
    with pytest.raises(InvalidInput) as caught:
        check_sampler(study, "study.yaml")
    [problem] = caught.value.problems
    assert problem.key == key and expected in problem.expected


@pytest.mark.parametrize("objective", [{"also": "quality/sharpness"}, {"at_least": {"psnr": 30.0}}], ids=str)
def test_a_figure_that_is_none_is_refused(tmp_path, objective):
    with pytest.raises(InvalidInput) as caught:
        study_with(tmp_path, objective, known=[])
    [problem] = caught.value.problems
    assert problem.key.startswith("objective.") and "quality/psnr" in problem.expected


@pytest.mark.parametrize(
    ("floor", "accepted"),
    [
        ({"quality/psnr": "bicubic"}, [0, 2, 3, 4]),
        ({"quality/psnr": 30.3}, [0, 4]),
        ({"quality/spectrum": -2.0}, [1, 2, 3]),  # of a figure that is best at 0: as near to it
        ({"quality/spectrum": 2.0, "quality/psnr": "bicubic"}, [2, 3]),
        ({"quality/spectrum": "bicubic"}, [0, 1, 2, 3, 4]),
    ],
    ids=str,
)
def test_what_lies_below_a_floor_does_not_win(tmp_path, floor, accepted):
    study, folder = study_with(tmp_path, {"at_least": floor}, race=0)
    records = records_in(study, folder)
    assert [record.number for record in records.search if record.accepted] == accepted
    assert incumbent_of(study, records).number == accepted[0]
    assert numbers(candidates(study, records)) == accepted[:4]
    assert {record.number for record in records.search if record.label == "below floor"} == {*range(5)} - {*accepted}


def test_a_floor_that_was_not_measured_is_not_reached(tmp_path):
    study, folder = study_with(tmp_path, FLOOR, known=[(60, -1.0, math.nan)])
    assert not any(record.accepted for record in records_in(study, folder).search)


def test_a_further_seed_below_the_floor_counts_as_one_that_lost_the_balance(tmp_path):
    study, folder = study_with(tmp_path, FLOOR, race=1)
    records = records_in(study, folder)
    next_seed(study, folder, records.search[0], records, None)
    confirm(folder, 0, 1, 60)  # measures no image
    records = records_in(study, folder)
    assert incumbent_of(study, records) is None
    assert [due(study, record, records, None) for record in records.search] == [None, None, 1, 1, 1, None]


def test_optuna_knows_the_floors_as_constraints(tmp_path):
    study, folder = study_with(tmp_path, FLOOR, sampler="tpe")
    Searcher(study, records_in(study, folder).search, folder.optuna_url)
    kept = optuna.load_study(study_name="small", storage=folder.optuna_url)
    told = [trial.system_attrs[FLOORS] for trial in kept.trials]
    assert told == [pytest.approx([short]) for short in (-0.5, 0.1, -0.2, -0.1, -0.4, 0.0)]
    assert all(trial.state is TrialState.COMPLETE for trial in kept.trials)


@pytest.mark.parametrize("sampler", ["wait", "tpe", "gp"])
def test_a_model_keeps_away_from_where_images_are_below_the_floor(tmp_path, sampler):
    """The larger the weight the sooner, and above 0.03 the image is worse than bicubic's."""

    def proposals(name, floor):
        (tmp_path / name).mkdir()
        study, folder = study_with(tmp_path / name, floor, known=[], sampler=sampler, trials=40)
        weights = [0.001 * 300 ** (step / 15) for step in range(16)]
        for number, weight in enumerate(weights):
            start(folder, study, number, VALUES | {WEIGHT: weight})
            finish(
                folder, study, number, "balanced", 120 - 4 * number, quality_of(-1.0, 1.0 if weight < 0.03 else -3.0)
            )
        searcher = Searcher(study, records_in(study, folder).search)
        return [searcher.propose().values[WEIGHT] for _ in range(6)]

    free, held = proposals("free", {}), proposals("held", FLOOR)
    assert sum(weight < 0.03 for weight in held) > sum(weight < 0.03 for weight in free) + 1, (free, held)


def test_a_search_for_a_figure_that_no_training_measures_is_refused(tmp_path):
    document = small()
    document["objective"] |= {"also": "quality/dists", "at_least": {"quality/lpips": "bicubic"}}
    with pytest.raises(InvalidInput) as caught:
        check_parts(loaded(tmp_path, document), "study.yaml", str(tmp_path))
    assert {problem.key for problem in caught.value.problems} == {"objective.also", "objective.at_least.quality/lpips"}
    assert all("Logging.metric_weights" in problem.fix for problem in caught.value.problems)
    folder = write_dists(write_published(tmp_path / "published"))
    document["training"] |= {"Logging": {"metric_weights": str(folder)}}
    check_parts(loaded(tmp_path, document), "study.yaml", str(tmp_path))


def test_what_lies_below_its_floor_says_so(tmp_path):
    study, folder = study_with(tmp_path, {"at_least": {"quality/psnr": 30.3}})
    above, below = records_in(study, folder).search[:2]
    assert "floor" not in ending(above)
    assert ending(below).endswith("; below its floor: quality/psnr by 0.4")


def test_the_live_view_says_what_the_best_trials_image_is_worth(tmp_path):
    study, folder = study_with(tmp_path)
    console = Console(width=140, record=True)
    console.print(StudyView(study, records_in(study, folder), console, lambda: 60.0).__rich__())
    [line] = [line for line in console.export_text().splitlines() if "bicubic" in line]
    assert line.strip() == "Its images (in brackets: bicubic's): psnr 30.5 dB (30); spectrum -4.00 dB (-6.00)."


def test_of_trials_as_soon_as_one_another_the_better_image_wins(tmp_path):
    study, folder = study_with(tmp_path, ALSO, known=[(80, 3.0, 0.0), (80, -1.0, 0.0), (100, 0.0, 0.0)])
    assert winner(study, records_in(study, folder)).number == 1


def test_of_trials_as_soon_as_one_another_one_whose_images_were_not_measured_gives_way(tmp_path):
    known = [(80, math.nan, 0.0), (80, 3.0, 0.0), (80, math.nan, 0.0), (80, -1.0, 0.0), (80, 2.0, 0.0)]
    study, folder = study_with(tmp_path, ALSO, known=known)
    assert numbers(ranked(study, records_in(study, folder))) == [3, 4, 1, 0, 2]
