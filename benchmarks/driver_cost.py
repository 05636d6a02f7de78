"""What the driver spends on a trial and on a report: a study of stub trainings on a local Ray with 16 logical CPUs.

    python benchmarks/driver_cost.py [--trials 500] [--reports 20] [--out driver_cost.json]

A stub writes the record of a training and reports it, and computes nothing. Everything else is the service's own: Ray
Tune, Optuna's TPE with its database, capping, best first, sharing's order of starts, the records. Counted are the
driver's processor seconds and its memory, per hundred trials that ended, and that no trial is lost or there twice. What
a trial costs once (its proposal, its start and end in the feed) is counted apart from what is left for a report.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import pstats
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ["PYTHONPATH"] = str(ROOT)
from tests.studies import reading, small  # noqa: E402
from tune_srgan import runner  # noqa: E402
from tune_srgan.records import StudyFolder, TrialFolder  # noqa: E402
from tune_srgan.study import Study, load_study  # noqa: E402

PAUSE_S = 0.05  # between a stub's reports: it stands for a training that takes its time


def stub(config: dict[str, Any]) -> None:
    """What a worker runs in place of a training: so many readings, each recorded and reported."""
    from ray import tune

    trial = StudyFolder(Path(config["folder"])).named(config["trial"])
    trial.begin_attempt(config["run"])
    reports = int(os.environ["STUB_REPORTS"])
    for number in range(1, reports + 1):
        found = reading(4 * number, rank=0.875)
        trial.append(found)
        tune.report({**found, "phase": "game"})
        time.sleep(PAUSE_S)
    end = {"end": "collapsed", "steps": 4 * reports, "censored": True, "gap": 0.5 + trial.number % 7 / 10}
    trial.end(end | {"trained_steps": 4 * reports})


class Watch:
    """Sees the trials as a person does, and what the driver has spent at every hundredth end."""

    def __init__(self) -> None:
        self.reports, self.ends, self.once_s = 0, 0, 0.0
        self.marks = [self._now()]

    def counted(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """The feed's method, its processor time counted as what a trial costs once."""

        def called(*arguments: Any, **options: Any) -> Any:
            began = time.thread_time()
            try:
                return method(*arguments, **options)
            finally:
                self.once_s += time.thread_time() - began

        return called

    def on_start(self, trial: TrialFolder) -> None:
        """Nothing."""

    def on_reading(self, trial: TrialFolder, found: dict[str, Any]) -> None:
        """Count it."""
        self.reports += 1

    def on_end(self, trial: TrialFolder) -> None:
        """Count it; at each hundredth look at the clock and the memory."""
        self.ends += 1
        if self.ends % 100 == 0:
            self.marks.append(self._now())
            first, last = self.marks[-2:]
            print(line(first, last), flush=True)

    def on_wait(self, seconds: float) -> None:
        """Nothing."""

    def _now(self) -> dict[str, float]:
        memory = psutil.Process().memory_info().rss / 1e6
        counted = {"trials": self.ends, "reports": self.reports, "once_s": self.once_s}
        return counted | {"cpu_s": time.process_time(), "s": time.time(), "mb": memory}


def line(first: dict[str, float], last: dict[str, float]) -> str:
    """One stretch between two marks."""
    trials, reports = last["trials"] - first["trials"], last["reports"] - first["reports"]
    cpu, once = (1e3 * (last[key] - first[key]) for key in ("cpu_s", "once_s"))
    return (
        f"trials {first['trials']:.0f}–{last['trials']:.0f}: {reports:.0f} reports in {last['s'] - first['s']:4.0f} s; "
        f"processor time {(cpu - once) / max(reports, 1):.2f} ms a report, {once / trials:.1f} ms once a trial; "
        f"{last['mb']:.0f} MB"
    )


def checked(folder: StudyFolder, study: Study, trials: int, reports: int) -> None:
    """Every trial once, in the records, in Optuna; every reading once."""
    records = folder.records(study)
    assert [record.number for record in records] == list(range(trials))
    assert all(record.end == "collapsed" for record in records)
    assert all([r["step"] for r in trial.readings()] == list(range(4, 4 * reports + 1, 4)) for trial in folder.trials())
    kept = optuna.load_study(study_name=study.study, storage=folder.optuna_url).trials
    assert [trial.number for trial in kept] == list(range(trials))
    assert all(trial.state.is_finished() for trial in kept)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=500)
    parser.add_argument("--reports", type=int, default=20)
    parser.add_argument("--profile", action="store_true", help="also what the driver's main thread spends, by function")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    os.environ["STUB_REPORTS"] = str(chosen.reports)
    document = small() | {"study": "stub", "confirm": {"top": 0}, "resources": {"concurrent": 16}}
    document["search"] = {"trials": chosen.trials, "startup": 32}
    document["tracking"] = {"wandb": {"mode": "disabled"}}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
        (Path(place) / "stub.yaml").write_text(json.dumps(document))
        study, _ = load_study(Path(place) / "stub.yaml")
        folder = StudyFolder(Path(place) / "stub")
        folder.open(study)
        runner.run_trial = stub
        runner.ray.init(address="local", num_cpus=16, include_dashboard=False, log_to_driver=False)
        watch, profile = Watch(), cProfile.Profile()
        for name in ("suggest", "on_trial_complete"):
            setattr(runner.TrialFeed, name, watch.counted(getattr(runner.TrialFeed, name)))
        if chosen.profile:
            profile.enable()
        runner.run_study(study, folder, runner.Budget(study, folder), watch)
        if chosen.profile:
            profile.disable()
            pstats.Stats(profile).sort_stats("cumulative").print_stats(45)
        checked(folder, study, chosen.trials, chosen.reports)
        print(f"{chosen.trials} trials, {watch.reports} reports, none lost, none twice")
        grown = watch.marks[-1]["mb"] - watch.marks[1]["mb"]
        print(f"from the first hundred trials to the last: {grown:+.0f} MB")
        if chosen.out:
            result = {"date": time.strftime("%Y-%m-%d"), "reports": chosen.reports, "marks": watch.marks}
            chosen.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
