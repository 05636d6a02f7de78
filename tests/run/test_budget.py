"""A study's budget: kept in steps and in time, over restarts."""

from pathlib import Path

import pytest

from tests.support.service import ROOT
from tests.support.studies import ended
from trainables.outcome import End
from tune_srgan.run.budget import Budget
from tune_srgan.run.ledger import Ledger
from tune_srgan.store.objects import write_atomically
from tune_srgan.store.study_folder import StudyFolder
from tune_srgan.study.loading import load_study
from tune_srgan.study.settings import Study

QUICKSTART = ROOT / "search_spaces" / "quickstart.yaml"


def budget(folder: Path, slots: int = 1, gpus: float = 0, **limits: float) -> Budget:
    study, _ = load_study(QUICKSTART)
    search = study.search.model_dump() | {"budget": limits}
    resources = {"gpus": gpus}
    study = Study.model_validate(study.model_dump(by_alias=True) | {"search": search, "resources": resources})
    (folder / "trials").mkdir(exist_ok=True)
    return Budget(Ledger(study, StudyFolder(folder)), slots)


def end_a_trial(folder: Path, number: int, steps: int, seconds: float) -> None:
    study, _ = load_study(QUICKSTART)
    trial = StudyFolder(folder).trial(number)
    values = {key: parameter.ends()[0] for key, parameter in study.space.items()}
    trial.create(values, "startup", study.configuration(values))
    trial.append({"step": steps, "time/train_s": seconds, "time/validate_s": 0.0})
    trial.end(ended(End.EXHAUSTED, steps, None))


def test_steps_are_reserved_in_full_for_running_trials(tmp_path: Path) -> None:
    end_a_trial(tmp_path, 0, steps=640, seconds=10)
    assert budget(tmp_path, steps=1440).why_not_another() == ""  # 640 + 800
    assert budget(tmp_path, steps=1439).why_not_another().startswith("steps: 640 of 1439 used")
    running = budget(tmp_path, steps=640 + 4 * 800 - 1)
    for number in (1, 2, 3):
        running.begin(StudyFolder(tmp_path).trial(number))
    assert running.why_not_another()
    running.end(StudyFolder(tmp_path).trial(3))
    assert running.why_not_another() == ""


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
    assert 100 <= budget(tmp_path).elapsed_s() < 110


def test_gpu_hours_are_shared_by_the_trials_that_run_at_once(tmp_path: Path) -> None:
    end_a_trial(tmp_path, 0, steps=800, seconds=1800)
    half_left = budget(tmp_path, gpus=1, slots=2, gpu_hours=1.5)
    assert half_left.seconds_for_a_trial() == pytest.approx(1800)
    assert budget(tmp_path, gpus=0.5, slots=2, gpu_hours=0.5).seconds_for_a_trial() == pytest.approx(900)
    assert budget(tmp_path, gpus=1, slots=2, gpu_hours=0.6).why_not_another()


def test_gpu_hours_of_a_running_trial_count_from_its_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("tune_srgan.run.budget.time.monotonic", lambda: now[0])
    end_a_trial(tmp_path, 0, steps=800, seconds=1800)
    limited = budget(tmp_path, gpus=1, gpu_hours=1.0)
    assert limited.begin(StudyFolder(tmp_path).trial(1)) == pytest.approx(1800)
    now[0] += 600
    assert limited.seconds_for_a_trial() == pytest.approx(1200)
    limited.end(StudyFolder(tmp_path).trial(1))  # what it took is in its record now
    assert limited.seconds_for_a_trial() == pytest.approx(1800)


def test_a_proposal_reads_no_record_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        end_a_trial(tmp_path, number, steps=100, seconds=10)
    limited = budget(tmp_path, steps=100_000, hours=10, gpu_hours=10, gpus=1)
    monkeypatch.setattr(Path, "open", lambda *_, **__: pytest.fail("a file was opened"))
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: pytest.fail("a file was read"))
    assert limited.why_not_another() == ""
    assert limited.begin(StudyFolder(tmp_path).trial(7)) is not None


def test_no_limit_no_end(tmp_path: Path) -> None:
    assert budget(tmp_path).seconds_for_a_trial() is None
    unlimited = budget(tmp_path)
    for number in range(5):
        unlimited.begin(StudyFolder(tmp_path).trial(number))
    assert unlimited.why_not_another() == ""
