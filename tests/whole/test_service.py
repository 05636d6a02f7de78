"""Real studies on tiny networks: a local Ray, sqlite, offline Weights & Biases; killed drivers and workers."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import optuna
import pytest
import yaml

from tests.support.service import (
    LAX,
    STUDY,
    assert_every_trial_ended_once,
    command,
    finish,
    readings,
    tracked,
    trials,
    untimed,
    wait_for,
    workers_of,
    write_sharing_study,
    write_study,
)


@pytest.fixture(scope="module")
def study(finished) -> tuple[Path, str]:
    """A finished study and what it printed."""
    return finished("plain")


@pytest.mark.ray
def test_trials_that_pause_for_one_another_end_as_they_would_alone(tmp_path):
    """One worker and the smallest margin: it goes from trial to trial at nearly every reading."""
    found = {}
    for name, enabled in (("first", True), ("alone", False)):
        (tmp_path / name).mkdir()
        search = {"trials": 3, "startup": 3, "best_first": {"enabled": enabled, "margin": 1.0}}
        study = STUDY | {"search": STUDY["search"] | search, "resources": {"concurrent": 1}}
        (tmp_path / name / "tiny.yaml").write_text(yaml.safe_dump(study))
        finish(command("run", "tiny.yaml", cwd=tmp_path / name))
        assert_every_trial_ended_once(tmp_path / name, 3)
        left = [(trial / "attempts.jsonl").read_text().count("paused") for trial in trials(tmp_path / name)]
        assert (sum(left) > 5) == enabled
        found[name] = [
            [
                {key: value for key, value in reading.items() if not key.startswith("time/")}
                for reading in readings(trial)
            ]
            for trial in trials(tmp_path / name)
        ]
    assert found["first"] == found["alone"]


def test_a_study_runs_to_its_end(study: tuple[Path, str]) -> None:
    folder, printed = study
    assert_every_trial_ended_once(folder, 4)
    attributes = [
        trial.user_attrs["proposed_by"]
        for trial in optuna.load_study(study_name="tiny", storage=f"sqlite:///{folder}/runs/tiny/optuna.db").trials
    ]
    assert attributes[0] == "try_first"
    assert attributes[1] == "startup"
    assert attributes[3] == "wait"
    assert "No trial has kept the balance." in printed  # 100 steps of such networks: the discriminator is not alive
    assert "miss the condition “the discriminator is alive" in " ".join(printed.split())
    assert "4 trials: 4 exhausted" in printed
    assert not (folder / "runs/tiny/best.yaml").exists()


def test_runs_are_tracked_under_the_guides_keys(study: tuple[Path, str]) -> None:
    folder, _ = study
    trial = trials(folder)[0]
    history, summary, config, tags = tracked(trial)
    metrics = [item for item in history if "val_metrics/psnr" in item]
    recorded = readings(trial)
    assert [item["_step"] for item in metrics] == [reading["step"] for reading in recorded]
    for item, reading in zip(metrics, recorded, strict=True):
        for key, value in reading.items():
            if key != "step":
                assert item[key] == pytest.approx(value), key
    assert metrics[0]["training/pretrain_phase"] == 1
    assert "discriminator/D(y)_prob" not in metrics[0]  # nobody plays yet: absent, not 0
    assert 0 < metrics[-1]["discriminator/D(y)_prob"] < 1  # type: ignore[operator]
    assert config["Training.Losses.adv_loss_beta"] == 0.1
    assert config["Training.g_pretrain_steps"] == 8
    assert summary["outcome"] == "exhausted"
    assert summary["censored"] is True
    assert "steps_to_nash" not in summary
    assert set(tags) == {"exhausted", "censored"}
    assert summary["Val SR._type"] == "image-file"


def test_running_again_starts_nothing(study: tuple[Path, str]) -> None:
    folder, _ = study
    before = [(trial / "readings.jsonl").stat().st_mtime_ns for trial in trials(folder)]
    printed = finish(command("run", "tiny.yaml", cwd=folder))
    assert "All trials of 'tiny' have ended" in printed
    assert [(trial / "readings.jsonl").stat().st_mtime_ns for trial in trials(folder)] == before


def test_status_and_clean(study: tuple[Path, str]) -> None:
    folder, _ = study
    assert "4 of 4 trials ended; best so far: none." in finish(command("status", "tiny", cwd=folder))
    assert (trials(folder)[0] / "checkpoint.pt").exists()
    finish(command("clean", "tiny", cwd=folder))
    assert not list(folder.rglob("checkpoint.pt"))
    assert_every_trial_ended_once(folder, 4)


@pytest.mark.ray
def test_a_killed_driver_and_a_lost_database_lose_nothing(tmp_path: Path) -> None:
    write_study(tmp_path)
    driver = command("run", "tiny.yaml", cwd=tmp_path)
    wait_for(lambda: len(trials(tmp_path)) >= 3 and len(readings(trials(tmp_path)[2])) >= 5, 90)
    os.kill(driver.pid, signal.SIGKILL)
    driver.communicate()
    wait_for(lambda: not workers_of(tmp_path), 90)
    before = {trial.name: (trial / "readings.jsonl").read_text() for trial in trials(tmp_path) if readings(trial)}
    (tmp_path / "runs/tiny/optuna.db").unlink()  # it can be rebuilt from the trial records
    finish(command("resume", "tiny", cwd=tmp_path))
    assert_every_trial_ended_once(tmp_path, 4)
    for trial in trials(tmp_path):
        whole_lines = before.get(trial.name, "").rpartition("\n")[0]
        assert (trial / "readings.jsonl").read_text().startswith(whole_lines)
        steps = [item["_step"] for item in tracked(trial)[0] if "val_metrics/psnr" in item]
        assert steps == sorted(set(steps))  # no step is tracked twice


@pytest.mark.ray
def test_a_killed_worker_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    write_study(tmp_path, trials=1, capping={"enabled": False})
    driver = command("run", "tiny.yaml", cwd=tmp_path)
    wait_for(lambda: bool(trials(tmp_path)) and len(readings(trials(tmp_path)[0])) >= 10, 90)
    killed = workers_of(tmp_path)
    for process in killed:
        process.kill()
    assert killed, "no worker was found"
    finish(driver)
    assert_every_trial_ended_once(tmp_path, 1)
    alone = finish(command("train", str(trials(tmp_path)[0] / "configuration.yaml"), "--out", "alone", cwd=tmp_path))
    assert "Balance not kept" in alone
    undisturbed = readings(tmp_path / "alone")
    for one, other in zip(readings(trials(tmp_path)[0]), undisturbed, strict=True):
        assert untimed(one) == untimed(other)  # the same figures, to the digit, as without the kill


@pytest.mark.ray
def test_ctrl_c_keeps_everything_and_says_how_to_resume(tmp_path: Path) -> None:
    write_study(tmp_path)
    driver = command("run", "tiny.yaml", cwd=tmp_path)
    wait_for(lambda: bool(trials(tmp_path)) and len(readings(trials(tmp_path)[0])) >= 3, 90)
    os.kill(driver.pid, signal.SIGINT)
    out, err = driver.communicate(timeout=60)
    assert "Traceback" not in err
    assert driver.returncode == 130
    assert "python tune.py resume" in out
    finish(command("resume", "tiny", cwd=tmp_path))
    assert_every_trial_ended_once(tmp_path, 4)


@pytest.mark.ray
def test_one_driver_at_a_time_and_imagery_that_is_gone(tmp_path: Path) -> None:
    file = write_study(tmp_path, trials=100)
    scene = tmp_path / "scene.npy"
    np.save(scene, np.random.default_rng(0).random((3, 128, 256)).astype(np.float32))
    study = yaml.safe_load(file.read_text())
    study["training"]["Data"]["path"] = "scene.npy"
    file.write_text(yaml.safe_dump(study))
    driver = command("run", "tiny.yaml", cwd=tmp_path)
    wait_for(lambda: bool(trials(tmp_path)) and len(readings(trials(tmp_path)[0])) >= 3, 90)
    second = command("resume", "tiny", cwd=tmp_path)
    _, err = second.communicate(timeout=60)
    assert second.returncode == 2
    assert f"a study that process {driver.pid} of" in err
    os.kill(driver.pid, signal.SIGINT)
    driver.communicate(timeout=60)
    ended = sorted(tmp_path.rglob("outcome.json"))
    scene.rename(tmp_path / "away.npy")
    without = command("resume", "tiny", cwd=tmp_path)
    _, err = without.communicate(timeout=60)
    assert without.returncode == 2
    assert "Data.path" in err
    assert sorted(tmp_path.rglob("outcome.json")) == ended  # nothing failed by it


@pytest.mark.ray
def test_trials_that_end_before_their_first_reading_do_not_end_the_study(tmp_path: Path) -> None:
    file = write_study(tmp_path, trials=3)
    study = yaml.safe_load(file.read_text())
    study["training"]["Training"]["Losses"] |= {"l1_weight": 1e39}  # more than float32 holds: not finite at once
    file.write_text(yaml.safe_dump(study))
    printed = finish(command("run", "tiny.yaml", cwd=tmp_path), code=1)
    assert "3 trials: 3 diverged" in printed
    assert all(not readings(trial) for trial in trials(tmp_path))


@pytest.mark.ray
def test_a_trial_whose_attempts_are_used_up_has_failed_and_the_study_goes_on(tmp_path: Path) -> None:
    file = write_study(tmp_path, trials=2)
    study = yaml.safe_load(file.read_text())
    study["resources"] |= {"max_failures": 1, "concurrent": 1}
    file.write_text(yaml.safe_dump(study))
    driver = command("run", "tiny.yaml", cwd=tmp_path)
    first, killed = tmp_path / "runs/tiny/trials/00000", 0

    def kill_at_each_attempt() -> bool:
        nonlocal killed
        begun = (first / "attempts.jsonl").read_text().count("\n") if (first / "attempts.jsonl").exists() else 0
        if begun > killed:
            killed = begun
            for process in workers_of(tmp_path):
                process.kill()
        return (first / "outcome.json").exists()

    wait_for(kill_at_each_attempt, 120)
    finish(driver)
    ends = [json.loads((trial / "outcome.json").read_text()) for trial in trials(tmp_path)]
    assert [end["end"] for end in ends] == ["failed", "exhausted"]
    assert "died without a word" in ends[0]["cause"]
    assert len((first / "attempts.jsonl").read_text().splitlines()) == 2  # the first and one more


@pytest.mark.ray
def test_a_study_shares_caps_and_confirms(tmp_path: Path) -> None:
    """What one trial pretrained no other need, and the best comes again."""
    write_sharing_study(tmp_path)
    printed = finish(command("run", "tiny.yaml", cwd=tmp_path))
    ends = [json.loads((trial / "outcome.json").read_text()) for trial in trials(tmp_path)]
    assert ends[0]["end"] == "balanced"
    shared = [[r["step"] for r in readings(trial) if "training/shared" in r] for trial in trials(tmp_path)]
    assert shared == [[], [2.0, 4.0], [2.0, 4.0, 6.0, 8.0]]  # what the file names starts in its order
    known = optuna.load_study(study_name="tiny", storage=f"sqlite:///{tmp_path}/runs/tiny/optuna.db")
    assert known.user_attrs["steps_sharing"] == 12
    assert known.user_attrs["steps_executed"] == sum(end["trained_steps"] for end in ends) - 12
    left = (tmp_path / "runs/tiny/pretraining").rglob("0*")
    assert not [path for path in left if path.is_file()]  # nobody needs them any more
    told = finish(command("status", "runs/tiny", "--json", cwd=tmp_path))
    winner = json.loads(told)["best"]["trial"]
    confirmations = sorted((tmp_path / "runs/tiny/confirm").glob("0*"))
    assert {f"{winner:05d}-1", f"{winner:05d}-2"} <= {trial.name for trial in confirmations}  # others raced
    for trial in confirmations:
        assert readings(trial)[-1]["step"] == 100.0
        seed = yaml.safe_load((trial / "configuration.yaml").read_text())["Training"]["seed"]
        assert seed == int(trial.name.partition("-")[2])
        history, summary, _, _ = tracked(trial)
        assert sum("val_metrics/psnr" in item for item in history) == 50
        assert "steps/executed" in summary
    assert "Confirmed on 2 further seed(s)" in printed
    assert f"Winner: trial {winner}" in printed
    again = finish(command("resume", "tiny", cwd=tmp_path))
    assert "All trials of 'tiny' have ended" in again


@pytest.mark.ray
def test_a_search_that_sees_nothing_better_left_stops_itself_and_confirms(tmp_path: Path) -> None:
    """Only the length of pretraining is searched: once the shortest is the best, more of it is known."""
    search = {"trials": 40, "startup": 3, "race": 0, "stop": "auto", "try_first": []}
    space = {"Training.g_pretrain_steps": {"int": [4, 43]}}
    study = STUDY | {"space": space, "search": STUDY["search"] | search, "confirm": {"top": 1, "seeds": 2}}
    study["objective"] = STUDY["objective"] | {"nash": LAX | {"required": 1, "kept": 0.1, "last_required": 1}}
    study["resources"] = STUDY["resources"] | {"concurrent": 1}  # two at once end in another order each time
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(study))
    printed = " ".join(finish(command("run", "tiny.yaml", cwd=tmp_path)).split())
    assert "The search stopped itself after" in printed
    assert "of 40 trials: by its model, one of the others costs 10% less than trial" in printed
    count = len(trials(tmp_path))
    assert 3 <= count < 40
    assert_every_trial_ended_once(tmp_path, count)
    assert len(list((tmp_path / "runs/tiny/confirm").iterdir())) >= 2
    assert f"{count} of {count} trials ended" in (stands := finish(command("status", "tiny", cwd=tmp_path)))
    assert "the search stopped itself after" in " ".join(stands.split())
    assert "have ended" in finish(command("resume", "tiny", cwd=tmp_path))


@pytest.mark.ray
def test_a_search_of_all_there_is_ends_and_confirms(tmp_path: Path) -> None:
    search = {"trials": 8, "startup": 2, "race": 0, "try_first": [], "sampler": "random"}
    space = {"Training.Losses.adv_loss_beta": {"choice": [0.01, 0.1]}, "Schedulers.patience_g": {"int": [3, 4]}}
    study = STUDY | {"space": space, "search": STUDY["search"] | search, "confirm": {"top": 1, "seeds": 1}}
    study["objective"] = STUDY["objective"] | {"nash": LAX | {"required": 1, "kept": 0.1, "last_required": 1}}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(study))
    printed = " ".join(finish(command("run", "tiny.yaml", cwd=tmp_path)).split())
    assert "The search is over after 4 of 8 trials: the space has no other configurations." in printed
    assert_every_trial_ended_once(tmp_path, 4)
    values = [json.loads((trial / "trial.json").read_text())["values"] for trial in trials(tmp_path)]
    assert len({tuple(each.items()) for each in values}) == 4
    assert (tmp_path / "runs/tiny/best.yaml").exists()
    assert "4 of 4 trials ended" in finish(command("status", "tiny", cwd=tmp_path))
    assert "have ended" in finish(command("resume", "tiny", cwd=tmp_path))


@pytest.mark.ray
def test_imagery_that_changed_between_run_and_resume_is_named(tmp_path: Path) -> None:
    draw = np.random.default_rng(0).random((3, 256, 256)).astype(np.float32)
    np.save(tmp_path / "scene.npy", draw)
    study = STUDY | {"search": STUDY["search"] | {"trials": 1, "startup": 1}}
    study["training"] = STUDY["training"] | {"Data": STUDY["training"]["Data"] | {"path": str(tmp_path / "scene.npy")}}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(study))
    finish(command("run", "tiny.yaml", cwd=tmp_path))
    np.save(tmp_path / "scene.npy", draw + 0.1)
    for again in (("resume", "tiny"), ("run", "tiny.yaml", "--trials", "2")):
        refused = command(*again, cwd=tmp_path)
        said = refused.communicate(timeout=120)[1]
        assert refused.returncode == 2
        assert f"{tmp_path / 'scene.npy'}: Data.path: found other content" in " ".join(said.split())
    assert len(trials(tmp_path)) == 1
    printed = finish(command("run", "tiny.yaml", "--trials", "2", "--accept-imagery", cwd=tmp_path))
    assert "From trial 1 on the imagery is another (scene.npy)" in " ".join(printed.split())
    assert len(trials(tmp_path)) == 2
    assert "From trial 1 on the imagery is another" in (tmp_path / "runs/tiny/report.html").read_text()
