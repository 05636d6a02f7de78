"""What the driver spends on a trial and on a report: a study of stub trainings on a local Ray with 16 logical CPUs.

    python benchmarks/driver_cost.py [--trials 500] [--reports 20] [--out driver_cost.json]

A stub writes the record of a training and reports it, and computes nothing. Everything else is the service's own: Ray
Tune, Optuna's TPE with its database, capping, best first, sharing's order of starts, the records. Counted are the
driver's processor seconds and its memory, per hundred trials that ended, and that no trial is lost or there twice. What
a trial costs once (its proposal, its start and end in the feed) is counted apart from what is left for a report. The
same again with a budget of steps, hours and GPU hours that is never used up: it is asked at every proposal.
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
# ruff: noqa: E402
from tests.support.studies import open_study, reading, small
from trainables.outcome import End, Outcome
from tune_srgan.run import runner, worker
from tune_srgan.run.budget import Budget
from tune_srgan.run.ledger import Ledger
from tune_srgan.store.records import TrialRecord, read_records
from tune_srgan.store.study_folder import StudyFolder
from tune_srgan.store.trial_folder import TrialFolder
from tune_srgan.study.loading import load_study
from tune_srgan.study.settings import Study

CASES = {"plain": {}, "budget": {"steps": 10**9, "hours": 1000.0, "gpu_hours": 1000.0}}
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
    trial.end(Outcome(End.EXHAUSTED, 4 * reports, True, 0.5 + trial.number % 7 / 10, 4 * reports))


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

    def on_end(self, record: TrialRecord) -> None:
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
    records = read_records(study, folder.every_trial()).search
    assert [record.number for record in records] == list(range(trials))
    assert all(record.end is End.EXHAUSTED for record in records)
    assert all([r["step"] for r in trial.readings()] == list(range(4, 4 * reports + 1, 4)) for trial in folder.trials())
    kept = optuna.load_study(study_name=study.study, storage=folder.optuna_url).trials
    assert [trial.number for trial in kept] == list(range(trials))
    assert all(trial.state.is_finished() for trial in kept)


def measure(case: str, trials: int, reports: int, profiled: bool) -> list[dict[str, float]]:
    """One study to its end; what the driver had spent at each mark."""
    document = small() | {"study": case, "confirm": {"top": 0}, "resources": {"concurrent": 16}}
    document["search"] = {"trials": trials, "startup": 32, "budget": CASES[case]}
    document["tracking"] = {"wandb": {"mode": "disabled"}}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
        (Path(place) / "stub.yaml").write_text(json.dumps(document))
        study, _ = load_study(Path(place) / "stub.yaml")
        folder = StudyFolder(Path(place) / case)
        open_study(folder, study)
        watch, profile = Watch(), cProfile.Profile()
        whole = {name: getattr(runner.TrialFeed, name) for name in ("suggest", "on_trial_complete")}
        for name, method in whole.items():
            setattr(runner.TrialFeed, name, watch.counted(method))
        ledger = Ledger(study, folder)
        if profiled:
            profile.enable()
        runner.run_study(ledger, Budget(ledger), watch)
        if profiled:
            profile.disable()
            pstats.Stats(profile).sort_stats("cumulative").print_stats(45)
        for name, method in whole.items():
            setattr(runner.TrialFeed, name, method)
        checked(folder, study, trials, reports)
        print(f"{case}: {trials} trials, {watch.reports} reports, none lost, none twice")
        grown = watch.marks[-1]["mb"] - watch.marks[1]["mb"]
        print(f"{case}: from the first hundred trials to the last: {grown:+.0f} MB")
        return watch.marks


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=500)
    parser.add_argument("--reports", type=int, default=20)
    parser.add_argument("--profile", action="store_true", help="also what the driver's main thread spends, by function")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    os.environ["STUB_REPORTS"] = str(chosen.reports)
    worker.run_trial = stub
    runner.ray.init(address="local", num_cpus=16, include_dashboard=False, log_to_driver=False)
    marks = {case: measure(case, chosen.trials, chosen.reports, chosen.profile) for case in CASES}
    if chosen.out:
        result = {"date": time.strftime("%Y-%m-%d"), "reports": chosen.reports, "marks": marks}
        chosen.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
