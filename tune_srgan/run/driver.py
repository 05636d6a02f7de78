"""The driver: holds a study's lease, runs it, keeps why it stopped, and hands out its winner and its report."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from tune_srgan.report import files
from tune_srgan.report.best import write_best
from tune_srgan.report.data import report_data
from tune_srgan.report.files import Format
from tune_srgan.report.live import StudyView
from tune_srgan.report.terminal import print_report
from tune_srgan.run.budget import Budget
from tune_srgan.run.holding import driving, storage_errors
from tune_srgan.run.ledger import Ledger
from tune_srgan.search.confirmation import left_to_do, winner
from tune_srgan.search.importance import importances
from tune_srgan.store.ending import Ending, StudyEnd
from tune_srgan.store.fingerprint import hold_imagery
from tune_srgan.store.records import StudyRecords
from tune_srgan.store.studies import keep_study, refuse_another_search
from tune_srgan.store.study_folder import StudyFolder
from tune_srgan.study.settings import Study
from tune_srgan.tracking import sweep
from tune_srgan.tracking.marks import tracking_mode

if TYPE_CHECKING:
    from trainables.imagery import Imagery
    from tune_srgan.cluster.connection import Connection

END_S = 60.0  # that a study's end waits for its store
TRACKERS_S, TRACKERS_SHARE = 2.0, 0.01  # that its end waits for what is still being sent, and of the study's time


@dataclass(frozen=True)
class Driven:
    """What came of driving a study: why the driver stopped, and the records as they are then."""

    ending: Ending
    records: StudyRecords

    def why_failed(self) -> str:
        """Say why the study has failed: what stopped it, or that no trial trained to an end; empty where it has not."""
        if self.ending.why is StudyEnd.FAULT:
            return self.ending.text
        ended = [record for record in self.records.search if record.end is not None]
        if not ended or any(record.end.has_cost and record.trained_steps for record in ended if record.end is not None):
            return ""
        causes = [record.cause for record in ended if record.cause]
        most = f"; most said: {max(set(causes), key=causes.count)}" if causes else ""
        return f"No trial trained to an end: {len(ended)} of {len(self.records.search)} ended in an error{most}"


class Driver:
    """Drives one study from this process, and prints what a person should see."""

    def __init__(self, study: Study, folder: StudyFolder, out: Console, err: Console) -> None:
        self._study, self._folder, self._out, self._err = study, folder, out, err

    def drive(
        self,
        imagery: Imagery,
        address: str | None,
        connected: Connection | None = None,
        take_over: bool = False,
        accept_imagery: bool = False,
    ) -> Driven:
        """Run the study to its end, or go on with it, then report it; InvalidInput where its imagery is another."""
        mode_note = tracking_mode(self._study.tracking.wandb)[1]
        if mode_note:
            self._err.print(mode_note, style="yellow")
        self._folder.check_writable()
        refuse_another_search(self._study, self._folder)
        with driving(self._folder, self._err, take_over) as taken:
            self._folder.fetch()  # what another driver left until now
            ledger = Ledger(self._study, self._folder)
            known = len(ledger.records().search)
            if note := hold_imagery(self._folder, imagery.key, imagery.files(), known, accept_imagery):
                self._err.print(Text(note, style="yellow"), soft_wrap=True)
            keep_study(self._study, self._folder)
            ending = Ending(StudyEnd.COMPLETE)
            if left_to_do(self._study, ledger.records()):
                ending = self._run(ledger, address, connected, taken)
            else:
                self._say(f"All trials of '{self._study.study}' have ended; more with `run … --trials N`.")
            records = ledger.records()
            if taken.is_set():  # what is kept is another driver's now
                return Driven(ending, records)
            with storage_errors(self._folder):
                ending.keep(self._folder)
                if ending.why is not StudyEnd.INTERRUPTED:
                    write_best(self._study, self._folder, records)
                self._folder.send(patience=END_S)
        if ending.why is not StudyEnd.INTERRUPTED:
            self._report(records)
        return Driven(ending, records)

    def _report(self, records: StudyRecords) -> None:
        data = report_data(self._study, self._folder, records, importances)
        self._out.print()
        print_report(data, self._folder, self._out)
        with storage_errors(self._folder):
            self._out.print(Text(f"Report: {files.write(data, self._folder.path, Format.HTML)}"), soft_wrap=True)
            self._folder.send(patience=END_S)

    def _run(self, ledger: Ledger, address: str | None, connected: Connection | None, taken: threading.Event) -> Ending:
        """Start Ray or join it, run all that is left, and let the trackers end; returns why it stopped."""
        from tune_srgan.cluster import connection  # with Ray, which a study that is complete does without
        from tune_srgan.cluster.look import look_around

        study, folder = self._study, self._folder
        folder.forget_ending()
        sweep.open_sweep(study, folder)  # beside the start of Ray: it costs no time
        where = connected or connection.connect(address)
        self._say(f"Study '{study.study}' in {folder.address}; {where.describe()}.")
        for seen in look_around(study, folder.address):
            self._say(f"Node {seen}")
        if note := sweep.sweep_note(folder, 1.0):
            self._err.print(Text(note, style="yellow"), soft_wrap=True)
        budget = Budget(ledger)
        ending, enough = self._watched(ledger, budget, taken), ""
        if ending is not None and ending.why is StudyEnd.ENOUGH:  # from here on the study is one of so many trials
            enough = ending.text
            self._say(f"{enough[0].upper()}{enough[1:]}.")
            study = ledger.study = self._study = study.changed(len(ledger.records().search), None, None)
            keep_study(study, folder)
            ending = self._watched(ledger, budget, taken)
        for trial in list(budget.running):  # an interruption stopped them
            budget.end(trial)
            ledger.read(trial)
        ending = ending or self._why_over(ledger, budget, enough)
        if not taken.is_set():
            best = winner(study, ledger.records())
            patience = 0.0 if ending.why is StudyEnd.INTERRUPTED else TRACKERS_SHARE * budget.elapsed_s()
            seconds = max(TRACKERS_S, patience)
            complete = not left_to_do(study, ledger.records())
            sweep.close_sweep(study, folder, best.number if best else None, complete, seconds)
        if ending.text and ending.why not in {StudyEnd.FAULT, StudyEnd.COMPLETE}:
            self._out.print(Text(f"Stopped early: {ending.text}.", style="yellow"), soft_wrap=True)
        return ending

    def _watched(self, ledger: Ledger, budget: Budget, taken: threading.Event) -> Ending | None:
        """Run what is left under the live view; returns why it stopped early, or None."""
        from tune_srgan.run.runner import run_study

        ending = None
        with (
            StudyView(ledger.study, ledger.records(), self._out, budget.elapsed_s) as view,
            storage_errors(self._folder),
        ):
            try:
                ending = run_study(ledger, budget, view)
            except KeyboardInterrupt:
                ending = Ending(StudyEnd.INTERRUPTED)
        return Ending(StudyEnd.INTERRUPTED) if taken.is_set() else ending

    def _why_over(self, ledger: Ledger, budget: Budget, enough: str) -> Ending:
        """Why nothing more is started though nobody stopped it: all is done, or what is left is no time for a trial."""
        if not left_to_do(self._study, ledger.records()):
            return Ending(StudyEnd.COMPLETE, enough)
        reason = budget.why_not_another() or "what is left is less than a confirmation takes"
        return Ending(StudyEnd.BUDGET, f"the study's budget is used up ({reason})")

    def _say(self, text: str) -> None:
        self._out.print(Text(text), soft_wrap=True)
