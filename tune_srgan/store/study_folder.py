"""A study's files, below `<storage>/<study>/`: in a folder, or in an object store with a working copy here."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from trainables.errors import InvalidInput, Problem
from trainables.places import is_url
from tune_srgan.store import lease
from tune_srgan.store.layout import StudyFiles
from tune_srgan.store.mirror import mirror_of, working_copy
from tune_srgan.store.objects import Storage, storage_at
from tune_srgan.store.patience import patiently
from tune_srgan.store.trial_folder import TrialFolder

OPTUNA_URL = "TUNE_SRGAN_OPTUNA"  # postgresql://…: with its password, so no setting in a file


@dataclass(frozen=True)
class StudyFolder:
    """A study's files, below `<storage>/<study>/`."""

    path: Path

    @property
    def address(self) -> str:
        """Where it is kept: this folder, or the URL of which this is a working copy."""
        mirror = mirror_of(self.path)
        return str(self.path) if mirror is None else mirror.url

    @property
    def beside(self) -> str:
        """Where it is kept beside other studies."""
        return self.address.rpartition("/")[0]

    def storage(self, below: str = "") -> Storage:
        """Return the objects that are kept below a name."""
        return storage_at(f"{self.address}/{below}".rstrip("/"))

    def fetch(self, place: str = "", heavy: bool = False, patience: float = 0.0) -> None:
        """Bring a working copy up to date with its store; `heavy`: checkpoints too."""
        mirror = mirror_of(self.path)
        if mirror is not None:
            patiently(lambda: mirror.fetch(place, heavy), patience)

    def replace(self, place: str, patience: float = 0.0) -> None:
        """Let the store have, below a name, what a working copy has."""
        mirror = mirror_of(self.path)
        if mirror is not None:
            patiently(lambda: mirror.replace(place), patience)

    def fetch_file(self, name: str) -> None:
        """Bring one of the study's own files up to date in a working copy."""
        mirror = mirror_of(self.path)
        if mirror is not None:
            mirror.fetch_file(name)

    def send(self, place: str = "", patience: float = 0.0) -> None:
        """Send to the store what a working copy has that is new: of a trial, or of the study's own files."""
        mirror = mirror_of(self.path)
        if mirror is not None:
            patiently(lambda: mirror.send(place) if place else mirror.send_top(), patience)

    def forget_ending(self) -> None:
        """Delete why the last driver stopped: another one is at work."""
        self.ending_file.unlink(missing_ok=True)
        self.replace(StudyFiles.ENDING.name)

    @property
    def study_file(self) -> Path:
        """The resolved study."""
        return self.path / StudyFiles.STUDY.name

    @property
    def imagery_file(self) -> Path:
        """Which imagery its trials were measured on."""
        return self.path / StudyFiles.IMAGERY.name

    @property
    def optuna_url(self) -> str:
        """Optuna's database: a file of the study's, or the one that the environment names for all studies."""
        return os.environ.get(OPTUNA_URL) or f"sqlite:///{self.path / StudyFiles.OPTUNA.name}"

    @property
    def optuna_name(self) -> str:
        """The study's name there."""
        return self.address if os.environ.get(OPTUNA_URL) else self.path.name

    @property
    def ray_folder(self) -> Path:
        """Ray's own experiment state."""
        return self.path / StudyFiles.RAY.name

    @property
    def best_configuration(self) -> Path:
        """The winner's complete training configuration."""
        return self.path / StudyFiles.BEST_CONFIGURATION.name

    @property
    def best_generator(self) -> Path:
        """The winner's generator."""
        return self.path / StudyFiles.BEST_GENERATOR.name

    @property
    def versions_file(self) -> Path:
        """What the study ran on."""
        return self.path / StudyFiles.VERSIONS.name

    @property
    def clock_file(self) -> Path:
        """Seconds the study has run, over all its drivers."""
        return self.path / StudyFiles.CLOCK.name

    @property
    def pretraining(self) -> Storage:
        """Snapshots of pretraining that trials share."""
        return self.storage(StudyFiles.PRETRAINING.name)

    def trial(self, number: int) -> TrialFolder:
        """Return the folder of a trial."""
        return self.named(f"{StudyFiles.TRIALS.name}/{number:05d}")

    def confirmation(self, number: int, further: int) -> TrialFolder:
        """Return the folder of a trial's confirmation on its `further`-th seed."""
        return self.named(f"{StudyFiles.CONFIRM.name}/{number:05d}-{further}")

    def named(self, place: str) -> TrialFolder:
        """Return the folder at a trial's `place`."""
        return TrialFolder(self.path / place)

    def trials(self) -> list[TrialFolder]:
        """Return the trials of the search that exist, by number."""
        return self._existing(StudyFiles.TRIALS.name)

    def confirmations(self) -> list[TrialFolder]:
        """Return the confirmations that exist, by number and further seed."""
        return self._existing(StudyFiles.CONFIRM.name)

    def _existing(self, of: str) -> list[TrialFolder]:
        trials = map(TrialFolder, sorted((self.path / of).glob("[0-9]*")))
        return sorted(filter(TrialFolder.exists, trials), key=lambda trial: (trial.number, trial.confirms))

    @property
    def ending_file(self) -> Path:
        """Why its last driver stopped."""
        return self.path / StudyFiles.ENDING.name

    def check_writable(self) -> None:
        """Make the study's place, and write and delete something there; one clear error where that fails."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            storage = self.storage()
            storage.write(StudyFiles.WRITABLE.name, b"")
            storage.delete(StudyFiles.WRITABLE.name)
            self.fetch()
        except OSError as error:
            kind = "URL" if is_url(self.address) else "folder"
            found = f"a {kind} that cannot be written ({error.strerror or str(error)[:160]})"
            raise InvalidInput(
                [Problem(self.address, "storage", found, f"a writable {kind}", "Name another with --storage.")]
            ) from None

    def is_driven(self) -> bool:
        """Tell whether a driver is at work on it now, as far as this machine can see."""
        return lease.driver_lives(self.storage())

    def every_trial(self) -> list[TrialFolder]:
        """Return all trials that exist: those of the search, then the confirmations."""
        return [*self.trials(), *self.confirmations()]


def study_at(address: str) -> StudyFolder:
    """Return the study that is, or will be, in a folder or at a URL; of a URL, its working copy."""
    return StudyFolder(working_copy(address) if is_url(address) else Path(address).expanduser().resolve())
