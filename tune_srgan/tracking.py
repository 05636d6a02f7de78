"""The tracker: readings to Weights & Biases. The only module that knows wandb.

The record comes first: whatever goes wrong here is said once and never reaches the training.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainables.configuration import flatten
from tune_srgan.records import TrialFolder, write_atomically
from tune_srgan.study import Study, WandbMode, WandbTracking


class Tracker:
    """Does nothing: tracking is off, or wandb is not there."""

    def log(self, reading: Mapping[str, float]) -> None:
        """Pass on one reading."""

    def finish(self, outcome: Mapping[str, Any], samples: Path) -> None:
        """Pass on how it ended, with sample images, and close the run."""


def open_tracker(trial: TrialFolder, study: Study) -> Tracker:
    """The tracker of a trial; one that does nothing where none is wanted or none can be had."""
    settings = study.tracking.wandb
    if settings.mode == "disabled":
        return Tracker()
    try:
        return WandbTracker(trial, study, settings)
    except Exception as error:  # a tracker that is down or misconfigured never stops a training
        _say(trial, error)
        return Tracker()


def tracking_mode(settings: WandbTracking) -> tuple[WandbMode, str]:
    """The mode that will be used, and a sentence where it is not the one asked for."""
    if settings.mode == "online" and not (os.environ.get("WANDB_API_KEY") or (Path.home() / ".netrc").exists()):
        return (
            "offline",
            "Weights & Biases: not logged in, so runs are kept offline; `wandb login` first, or sync them later.",
        )
    return settings.mode, ""


class WandbTracker(Tracker):
    """One run a trial, grouped by study; the run's step is the generator's step."""

    def __init__(self, trial: TrialFolder, study: Study, settings: WandbTracking) -> None:
        import wandb

        self._trial = trial
        self._wandb = wandb
        folder = trial.path / "tracker"
        folder.mkdir(exist_ok=True)
        self._marker = folder / "last_step"
        self._last_step = int(self._marker.read_text()) if self._marker.exists() else 0
        self._run = wandb.init(
            id=f"{study.study}-{trial.path.name}-{int(trial.header()['created'])}",
            name=f"{study.study}-{trial.path.name}",
            group=study.study,
            job_type="confirm" if trial.confirms else "search",
            project=settings.project,
            entity=settings.entity,
            mode=tracking_mode(settings)[0],
            dir=str(folder),
            config=flatten(trial.configuration().model_dump())
            | {"trial": trial.number, "proposed_by": trial.header()["proposed_by"]},
            resume="allow",
            settings=wandb.Settings(silent=True, console="off", disable_git=True, disable_code=True),
        )
        for reading in trial.readings():  # what was recorded and not sent before a kill
            self.log(reading)

    def log(self, reading: Mapping[str, float]) -> None:
        """Send one reading; a step that was sent before is left out."""
        step = int(reading["step"])
        if step <= self._last_step:
            return
        self._last_step = step
        try:
            write_atomically(self._marker, str(step))  # before sending: no step twice
            self._run.log({key: value for key, value in reading.items() if key != "step"}, step=step)
        except Exception as error:
            _say(self._trial, error)

    def finish(self, outcome: Mapping[str, Any], samples: Path) -> None:
        """Summary, tags, images; then the run is closed."""
        try:
            summary = {key: value for key, value in outcome.items() if value is not None}
            summary["outcome"] = summary.pop("end")
            if not outcome["censored"]:
                summary["steps_to_nash"] = outcome["steps"]
            if samples.exists():
                self._run.log({"Val SR": self._wandb.Image(str(samples))}, step=self._last_step)
            self._run.summary.update(summary)
            self._run.tags = (
                *(self._run.tags or ()),
                str(outcome["end"]),
                *(["censored"] if outcome["censored"] else []),
            )
            self._run.finish(exit_code=int(outcome["end"] == "failed"))
            self._wandb.teardown()  # a reused worker would join this run again
        except Exception as error:
            _say(self._trial, error)


def _say(trial: TrialFolder, error: Exception) -> None:
    """Once a trial, in its folder: the driver shows it at the end."""
    if not any(line.startswith("Weights & Biases") for line in trial.complaints()):
        trial.complain(f"Weights & Biases: {type(error).__name__}: {' '.join(str(error).split())}")
