"""optuna-dashboard over a study: each trial's page with its outcome, its images and where its record is.

A view: it is served from a database of its own, made from the records and brought up to date while it is looked at;
the study's own database is its driver's alone.
"""

from __future__ import annotations

import contextlib
import socket
import tempfile
import threading
import time
from pathlib import Path

import optuna
from optuna.artifacts import FileSystemArtifactStore, upload_artifact

from trainables.errors import InvalidInput, Problem
from tune_srgan.console import ending
from tune_srgan.search.optuna_copy import DATABASE_ERRORS, OptunaCopy, open_database, told_of
from tune_srgan.store.records import TrialRecord, record_of
from tune_srgan.store.study_folder import StudyFolder
from tune_srgan.study.settings import Study
from tune_srgan.tracking.marks import address_of

REFRESH_S = 10.0


def serve(study: Study, folder: StudyFolder, port: int) -> None:
    """Serve on loopback until interrupted."""
    from optuna_dashboard import run_server

    with tempfile.TemporaryDirectory(prefix="tune-srgan-dashboard-") as place:
        view = View(study, folder, Path(place))
        view.refresh()
        threading.Thread(target=view.follow, daemon=True).start()
        run_server(view.url, host="127.0.0.1", port=port, artifact_store=view.images)


def check(port: int) -> None:
    """Refuse where the library is missing or the port is taken."""
    try:
        import optuna_dashboard  # noqa: F401
    except ImportError:
        fix = "Install it: pip install optuna-dashboard."
        raise InvalidInput([Problem("dashboard", "", "no optuna-dashboard", "the library", fix)]) from None
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            found = f"port {port}, which cannot be used ({error.strerror})"
            raise InvalidInput([Problem("--port", "", found, "a free port", "Name another with --port.")]) from None


class View:
    """A copy of a study for the dashboard, in a folder of its own."""

    def __init__(self, study: Study, folder: StudyFolder, place: Path) -> None:
        self.url = f"sqlite:///{place / 'view.db'}"
        self._study, self._folder, self._shown_below = study, folder, place / "shown"
        self._shown_below.mkdir()
        self.images = FileSystemArtifactStore(str(self._shown_below))
        self._copy = OptunaCopy(study, open_database(self.url, study.study, study))
        self._ended: dict[int, TrialRecord] = {}

    def follow(self) -> None:
        """Refresh as long as this process lives."""
        while True:
            time.sleep(REFRESH_S)
            # a store that is away, a database in use: what is shown stays
            with contextlib.suppress(OSError, *DATABASE_ERRORS):
                self.refresh()

    def refresh(self) -> None:
        """Bring it up to date with the records; a trial that has ended is read once."""
        self._folder.fetch()
        trials = self._folder.trials()
        records = [self._ended.get(trial.number) or record_of(trial, self._study) for trial in trials]
        self._copy.reconcile(records)
        for record in records:
            if record.end is not None and record.number not in self._ended:
                self._copy.tell(record, told_of(record, self._study))
                self._note(record)
                self._ended[record.number] = record

    def _note(self, record: TrialRecord) -> None:
        """Write an ended trial's note and image."""
        from optuna_dashboard import save_note

        kept, trial = self._copy.kept, record.trial
        lines = [f"**{ending(record)}**", "", f"Proposed by {record.proposed_by}. Record: `{trial.path}`."]
        if run := address_of(trial):
            lines.append(f"Weights & Biases: [{run}]({run})")
        if trial.samples.exists():  # a trial that has ended takes no files; its study does
            image = upload_artifact(artifact_store=self.images, file_path=str(trial.samples), study_or_trial=kept)
            lines += ["", f"![samples](/artifacts/{kept._study_id}/{image})"]
        seen = kept.trials[record.number]
        save_note(optuna.trial.Trial(kept, seen._trial_id), "\n".join(lines))
