"""A study's budget: kept in steps and in time, over restarts."""

from pathlib import Path

import pytest

from tune_srgan.records import StudyFolder
from tune_srgan.runner import Budget
from tune_srgan.storage import write_atomically
from tune_srgan.study import Study, load_study

QUICKSTART = Path(__file__).resolve().parent.parent / "search_spaces" / "quickstart.yaml"


def budget(folder: Path, running: int = 0, slots: int = 1, gpus: float = 0, **limits: float) -> Budget:
    study, _ = load_study(QUICKSTART)
    search = study.search.model_dump() | {"budget": limits}
    resources = {"gpus": gpus}
    study = Study.model_validate(study.model_dump(by_alias=True) | {"search": search, "resources": resources})
    (folder / "trials").mkdir(exist_ok=True)
    found = Budget(study, StudyFolder(folder))
    found.running = set(range(running))
    found.slots = slots
    return found


def end_a_trial(folder: Path, number: int, steps: int, seconds: float) -> None:
    study, _ = load_study(QUICKSTART)
    trial = StudyFolder(folder).trial(number)
    values = {key: parameter.ends()[0] for key, parameter in study.space.items()}
    trial.create(values, "startup", study.configuration(values))
    trial.append({"step": steps, "time/train_s": seconds, "time/validate_s": 0.0})
    trial.end({"end": "exhausted", "steps": steps, "censored": True, "gap": None, "trained_steps": steps})


def test_steps_are_reserved_in_full_for_running_trials(tmp_path: Path) -> None:
    end_a_trial(tmp_path, 0, steps=640, seconds=10)
    assert budget(tmp_path, steps=1440).why_not_another() == ""  # 640 + 800
    assert budget(tmp_path, steps=1439).why_not_another().startswith("steps: 640 of 1439 used")
    running = budget(tmp_path, running=3, steps=640 + 4 * 800 - 1)
    running.running = {StudyFolder(tmp_path).trial(number) for number in (1, 2, 3)}
    assert running.why_not_another()


def test_an_unfinished_trial_that_goes_on_is_counted_once(tmp_path: Path) -> None:
    end_a_trial(tmp_path, 0, steps=400, seconds=10)
    assert budget(tmp_path, steps=1000).why_not_another()
    assert budget(tmp_path, steps=1000).why_not_another(candidate=StudyFolder(tmp_path).trial(0)) == ""


def test_hours_count_over_all_drivers(tmp_path: Path) -> None:
    end_a_trial(tmp_path, 0, steps=800, seconds=60)
    assert budget(tmp_path, hours=1).why_not_another() == ""
    write_atomically(tmp_path / "clock.json", '{"seconds": 3500}')
    spent = budget(tmp_path, hours=1)
    assert spent.seconds_for_a_trial() == pytest.approx(100, abs=5)
    assert spent.why_not_another() == ""  # one takes about 60 s
    write_atomically(tmp_path / "clock.json", '{"seconds": 3560}')
    assert "one takes about 60 s" in budget(tmp_path, hours=1).why_not_another()


def test_the_clock_is_written_down(tmp_path: Path) -> None:
    write_atomically(tmp_path / "clock.json", '{"seconds": 100}')
    budget(tmp_path).keep_time()
    assert 100 <= budget(tmp_path).before_s < 110


def test_gpu_hours_are_shared_by_the_trials_that_run_at_once(tmp_path: Path) -> None:
    end_a_trial(tmp_path, 0, steps=800, seconds=1800)
    half_left = budget(tmp_path, gpus=1, slots=2, gpu_hours=1.5)
    assert half_left.seconds_for_a_trial() == pytest.approx(1800)
    assert budget(tmp_path, gpus=0.5, slots=2, gpu_hours=0.5).seconds_for_a_trial() == pytest.approx(900)
    assert budget(tmp_path, gpus=1, slots=2, gpu_hours=0.6).why_not_another()


def test_no_limit_no_end(tmp_path: Path) -> None:
    assert budget(tmp_path).seconds_for_a_trial() is None
    assert budget(tmp_path, running=5).why_not_another() == ""
